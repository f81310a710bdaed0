"""The chat form as a Jinja template, for programs that render chats themselves. `text.chat` is the definition.

It takes what `Message.from_dict` takes, `tools`, `add_generation_prompt` and `think`, and gives the same text, but
leaves arguments that are JSON already as they are written. A program that then encodes the whole lets a name in a
message's text become a control token, and the newline behind a control token part of a longer piece, where a text
begins with white space; `render` does neither.
"""

__all__ = ["CHAT_TEMPLATE"]

CHAT_TEMPLATE = r"""
{%- macro text(content) %}
    {%- if content is string %}
        {{- content }}
    {%- else %}
        {%- for part in content or [] %}
            {{- part.text if part.text is string else raise_exception('A message has parts that are not text.') }}
        {%- endfor %}
    {%- endif %}
{%- endmacro %}
{%- macro answer(message) %}
    {%- set thought = message.think if message.think is defined else message.reasoning_content %}
    {%- if thought is defined and thought is not none %}
        {{- '<think>\n' ~ thought ~ '\n</think>\n' }}
    {%- endif %}
    {{- text(message.content) }}
    {%- if message.solution is defined and message.solution is not none %}
        {{- '<begin_solution>' ~ message.solution ~ '<end_solution>' }}
    {%- endif %}
    {%- for call in message.tool_calls or [] %}
        {%- set call = call.function if call.function is defined else call %}
        {%- set given = call.arguments if call.arguments is defined else {} %}
        {{- '<tool_call>{"name": ' ~ call.name | tojson ~ ', "arguments": ' }}
        {{- (given if given is string else given | tojson) ~ '}' }}
    {%- endfor %}
    {{- '<|im_end|>' }}
{%- endmacro %}
{%- set listed = namespace(tools='') %}
{%- if tools %}
    {%- set listed.tools = 'Tools:' %}
    {%- for tool in tools %}
        {%- set listed.tools = listed.tools ~ '\n' ~ (tool.function if tool.function is defined else tool) | tojson %}
    {%- endfor %}
    {%- if messages[0].role != 'system' %}
        {{- '<|im_start|><|system|>\n' ~ listed.tools ~ '<|im_end|>\n' }}
    {%- endif %}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'assistant' %}
        {{- '<|im_start|><|assistant|>\n' }}
        {%- if message.loss is defined and not message.loss %}
            {{- answer(message) }}
        {%- else %}
            {%- generation %}
                {{- answer(message) }}
            {%- endgeneration %}
        {%- endif %}
        {{- '\n' }}
    {%- elif message.role == 'system' %}
        {%- if not loop.first %}
            {{- raise_exception('A system message comes first, or not at all.') }}
        {%- endif %}
        {{- '<|im_start|><|system|>\n' ~ text(message.content) }}
        {{- '\n\n' if message.content and tools else '' }}
        {{- listed.tools ~ '<|im_end|>\n' }}
    {%- elif message.role == 'user' %}
        {{- '<|im_start|><|user|>\n' ~ text(message.content) ~ '<|im_end|>\n' }}
    {%- elif message.role in ('tool', 'tool_response') %}
        {{- '<|im_start|><tool_response>\n' ~ text(message.content) ~ '<|im_end|>\n' }}
    {%- else %}
        {{- raise_exception('A message has role ' ~ message.role ~ '; use system, user, assistant or tool.') }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|><|assistant|>\n' ~ ('<think>\n' if think else '') }}
{%- endif %}
"""
