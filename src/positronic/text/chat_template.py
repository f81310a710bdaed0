"""The chat form as a Jinja template, for programs that render chats themselves. `text.chat` is the definition.

It takes the plain dicts of `Message.to_dict`, `tools`, `add_generation_prompt` and `think`, and gives the same text.
A program that then encodes the whole lets a name in a message's text become a control token; `render` does not.
"""

__all__ = ["CHAT_TEMPLATE"]

CHAT_TEMPLATE = r"""
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
        {%- generation %}
            {%- set thought = message.think if message.think is defined else message.reasoning_content %}
            {%- if thought is defined and thought is not none %}
                {{- '<think>\n' ~ thought ~ '\n</think>\n' }}
            {%- endif %}
            {{- message.content or '' }}
            {%- if message.solution is defined and message.solution is not none %}
                {{- '<begin_solution>' ~ message.solution ~ '<end_solution>' }}
            {%- endif %}
            {%- for call in message.tool_calls or [] %}
                {%- set call = call.function if call.function is defined else call %}
                {{- '<tool_call>' ~ {'name': call.name, 'arguments': call.arguments} | tojson }}
            {%- endfor %}
            {{- '<|im_end|>' }}
        {%- endgeneration %}
        {{- '\n' }}
    {%- elif message.role == 'system' %}
        {{- '<|im_start|><|system|>\n' ~ (message.content or '') }}
        {{- '\n\n' if message.content and tools else '' }}
        {{- listed.tools ~ '<|im_end|>\n' }}
    {%- elif message.role == 'user' %}
        {{- '<|im_start|><|user|>\n' ~ (message.content or '') ~ '<|im_end|>\n' }}
    {%- else %}
        {{- '<|im_start|><tool_response>\n' ~ (message.content or '') ~ '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|><|assistant|>\n' ~ ('<think>\n' if think else '') }}
{%- endif %}
"""
