"""The chat template says what the renderer says: text, tokens and loss."""

import random

import pytest
from chat_examples import random_chat
from jinja2 import TemplateError

from positronic.errors import DataError
from positronic.text import Message, ToolCall, render

transformers = pytest.importorskip("transformers")

TOOLS = [
    {"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": {"type": "object"}}},
    {"name": "naïve", "parameters": {"required": ["x"], "note": "<>&'"}},
]


@pytest.fixture(scope="session")
def theirs(tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp(tokenizer.kind)
    tokenizer.save(folder)
    return transformers.AutoTokenizer.from_pretrained(folder)


def test_the_template_writes_what_the_renderer_writes(tokenizer, theirs):
    draw = random.Random(5)
    for _ in range(300):
        chat = random_chat(draw)
        tools = TOOLS[: draw.randrange(3)]
        generate = draw.random() < 0.5
        think = generate and draw.random() < 0.5
        ours = render(tokenizer, chat, tools=tools, generate=generate, think=think)
        written = theirs.apply_chat_template(
            [message.to_dict() for message in chat],
            tools=tools or None,
            add_generation_prompt=generate,
            think=think,
            tokenize=False,
        )
        assert written == tokenizer.decode(ours.ids, special=True)


def test_dicts_in_openais_form_are_written_alike(tokenizer, theirs):
    call = {"id": "1", "type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": "é"}}}
    others = {"name": "now"}, {"function": {"name": "add", "arguments": '{"a": 1}'}}
    chat = [
        {"role": "user", "content": [{"type": "text", "text": "add"}, {"type": "text", "text": ", please"}]},
        {"role": "assistant", "content": None, "tool_calls": [call, *others], "reasoning_content": "hm"},
        {"role": "tool_response", "content": "2", "tool_call_id": "1"},
    ]
    ours = render(tokenizer, [Message.from_dict(message) for message in chat])
    assert theirs.apply_chat_template(chat, tokenize=False) == tokenizer.decode(ours.ids, special=True)


@pytest.mark.parametrize(
    "chat",
    [
        [{"role": "developer", "content": "Help."}],
        [{"role": "user", "content": "Hi"}, {"role": "system", "content": "Help."}],
        [{"role": "user", "content": [{"type": "image", "image": "x"}]}],
    ],
)
def test_what_the_renderer_refuses_the_template_refuses(chat, tokenizer, theirs):
    with pytest.raises(DataError):
        render(tokenizer, [Message.from_dict(message) for message in chat])
    with pytest.raises(TemplateError):
        theirs.apply_chat_template(chat, tokenize=False)


def test_the_template_gives_the_tokens_and_the_loss_of_the_renderer(tokenizer, theirs):
    chat = [
        Message("system", "You help."),
        Message("user", "What is 2 + 2,\n  naïvely?"),
        Message("assistant", "It is four: 四.", think="Two and two.\n\nFour.", solution="4"),
        Message("user", "Sure? 🙂"),
        Message("assistant", "", tool_calls=(ToolCall("add", {"a": 2, "b": 2}),)),
        Message("tool", "4"),
        Message("assistant", "Five.", think="Not to be learned.", loss=False),
        Message("user", "Really?"),
        Message("assistant", "Yes.\n"),
    ]
    ours = render(tokenizer, chat, tools=TOOLS)
    found = theirs.apply_chat_template(
        [message.to_dict() for message in chat],
        tools=TOOLS,
        tokenize=True,
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    assert found["input_ids"] == ours.ids
    assert [bool(loss) for loss in found["assistant_masks"]] == ours.loss_mask
