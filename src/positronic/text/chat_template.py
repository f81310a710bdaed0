"""The chat form as a Jinja template, for programs that render chats themselves. `text.chat` is the definition.

It takes what `Message.from_dict` takes, the other fields that say what is not learned, `tools`, `add_generation_prompt`
and `think`, and gives the same text, but leaves arguments that are JSON already as they are written. A program that
encodes the whole would let a name in a message's text become a control token, and the newline behind a control token
part of a longer piece, where a text begins with white space. So the template writes marks there (`text.special`), which
our `tokenizer.json` takes out: the ids are those of `render`. Shown as text, such a chat has the marks in it. A
solution stands behind no header's newline: where it begins as if it did, with a newline and the mark for it, that mark
is written twice, and one is taken out.
"""

from positronic.text.special import APART, CONTROL_TOKENS, ITSELF, MARK, NOTHING

__all__ = ["CHAT_TEMPLATE", "FLAGS"]

FLAGS = ("loss", "loss_weight", "weight", "train", "trainable", "training", "learn", "loss_mask", "masked")
"""Fields of a turn that say whether it is learned from, the last of them by its opposite."""

_RESERVED = "<|reserved_"
_NAMES = list(dict.fromkeys(_RESERVED if name.startswith(_RESERVED) else name for name in CONTROL_TOKENS))
"""What the names of control tokens begin with; all but the reserved ones in full."""


def _filled(template: str) -> str:
    """A template with the marks and the names in place of what stands for them."""
    values = {"MARK": MARK, "NOTHING": NOTHING, "ITSELF": ITSELF, "APART": APART, "NAMES": _NAMES, "FLAGS": FLAGS}
    for word, value in values.items():
        template = template.replace(word, ascii(value))
    return template


CHAT_TEMPLATE = _filled(r"""
{%- macro text(content) %}
    {%- if content is string %}
        {{- content }}
    {%- else %}
        {%- for part in content or [] %}
            {{- part.text if part.text is string else raise_exception('A message has parts that are not text.') }}
        {%- endfor %}
    {%- endif %}
{%- endmacro %}
{%- macro plain(said) %}
    {%- set kept = namespace(text=said | replace(MARK, ITSELF)) %}
    {%- if '<' in kept.text %}
        {%- for name in NAMES %}
            {%- set kept.text = kept.text | replace(name, '<' ~ NOTHING ~ name[1:]) %}
        {%- endfor %}
    {%- endif %}
    {{- kept.text }}
{%- endmacro %}
{%- macro apart(said) %}
    {{- APART if said[:1].isspace() or said[:1] == MARK else '' }}
{%- endmacro %}
{%- macro solved(said) %}
    {{- '\n' ~ APART ~ plain(said[1:]) if said[:3] == '\n' ~ APART else plain(said) }}
{%- endmacro %}
{%- macro answer(thought, said, message) %}
    {%- if thought is string %}
        {{- '<think>\n' ~ apart(thought ~ '\n') ~ plain(thought) ~ '\n</think>\n' ~ apart(said) }}
    {%- endif %}
    {{- plain(said) }}
    {%- if message.solution is defined and message.solution is not none %}
        {{- '<begin_solution>' ~ solved(message.solution) ~ '<end_solution>' }}
    {%- endif %}
    {%- for call in message.tool_calls or [] %}
        {%- set call = call.function if call.function is defined else call %}
        {%- set given = call.arguments if call.arguments is defined else {} %}
        {%- set given = given if given is string else given | tojson %}
        {{- '<tool_call>' ~ plain('{"name": ' ~ call.name | tojson ~ ', "arguments": ' ~ given ~ '}') }}
    {%- endfor %}
    {{- '<|im_end|>' }}
{%- endmacro %}
{%- macro turn(header, said) %}
    {{- '<|im_start|>' ~ header ~ '\n' ~ apart(said) ~ plain(said) ~ '<|im_end|>\n' }}
{%- endmacro %}
{%- set listed = namespace(tools='') %}
{%- if tools %}
    {%- set listed.tools = 'Tools:' %}
    {%- for tool in tools %}
        {%- set listed.tools = listed.tools ~ '\n' ~ (tool.function if tool.function is defined else tool) | tojson %}
    {%- endfor %}
    {%- if messages[0].role != 'system' %}
        {{- turn('<|system|>', listed.tools) }}
    {%- endif %}
{%- endif %}
{%- for message in messages %}
    {%- set said = text(message.content) %}
    {%- if message.role == 'assistant' %}
        {%- set thought = message.think if message.think is defined else message.reasoning_content %}
        {%- if thought and thought is not string %}
            {{- raise_exception('The think of a message is not text.') }}
        {%- endif %}
        {{- '<|im_start|><|assistant|>\n' ~ ('' if thought is string else apart(said)) }}
        {%- set kept = namespace(learned=true) %}
        {%- for name in FLAGS if message[name] is defined and message[name] is not none %}
            {%- if message[name] not in (0, 1) %}
                {{- raise_exception('A message has ' ~ name ~ ' ' ~ message[name] ~ '; use true or false.') }}
            {%- elif (message[name] == 0) != (name == 'masked') %}
                {%- set kept.learned = false %}
            {%- endif %}
        {%- endfor %}
        {%- if not kept.learned %}
            {{- answer(thought, said, message) }}
        {%- else %}
            {%- generation %}
                {{- answer(thought, said, message) }}
            {%- endgeneration %}
        {%- endif %}
        {{- '\n' }}
    {%- elif message.role == 'system' %}
        {%- if not loop.first %}
            {{- raise_exception('A system message comes first, or not at all.') }}
        {%- endif %}
        {{- turn('<|system|>', said ~ ('\n\n' if said and tools else '') ~ listed.tools) }}
    {%- elif message.role == 'user' %}
        {{- turn('<|user|>', said) }}
    {%- elif message.role in ('tool', 'tool_response') %}
        {{- turn('<tool_response>', said) }}
    {%- else %}
        {{- raise_exception('A message has role ' ~ message.role ~ '; use system, user, assistant or tool.') }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|><|assistant|>\n' ~ ('<think>\n' if think else '') }}
{%- endif %}
""")
