"""The chat form as a Jinja template, for programs that render chats themselves. `text.chat` is the definition."""

__all__ = ["CHAT_TEMPLATE"]

CHAT_TEMPLATE = """\
{%- for message in messages %}
    {%- set role = 'tool_response' if message.role in ('tool', 'tool_response') else message.role %}
    {%- set header = '<tool_response>' if role == 'tool_response' else '<|' ~ role ~ '|>' %}
    {{- '<|im_start|>' ~ header ~ '\\n' }}
    {%- if role == 'assistant' %}
        {%- generation %}
            {%- if message.think is defined and message.think is not none %}
                {{- '<think>\\n' ~ message.think ~ '\\n</think>\\n' }}
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
        {{- '\\n' }}
    {%- else %}
        {{- message.content }}
        {%- if role == 'system' and tools %}
            {{- '\\n\\n' if message.content else '' }}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|><|assistant|>\\n' }}
    {%- if think %}
        {{- '<think>\\n' }}
    {%- endif %}
{%- endif %}
"""
