"""The chat form: what is rendered, what carries loss, and replies read back."""

import json
import random

import pytest
from chat_examples import random_chat, random_reply

from positronic.errors import DataError
from positronic.text import (
    CONTROL_TOKENS,
    Message,
    ToolCall,
    byte_tokenizer,
    parse_assistant,
    read_reply,
    render,
    render_fim,
    with_tools,
)


def test_a_worked_example():
    tokenizer = byte_tokenizer()
    chat = [
        Message("system", "Be brief."),
        Message("user", "2+2?"),
        Message("assistant", "It is ", think="easy", solution="4", tool_calls=(ToolCall("log", {"n": 4}),)),
        Message("tool", "done"),
        Message("assistant", "Done."),
    ]
    ids, loss_mask = render(tokenizer, chat, tools=[{"name": "log"}])
    assert tokenizer.decode(ids, special=True) == (
        "<|im_start|><|system|>\nBe brief.\n\nTools:\n"
        '{"name": "log"}<|im_end|>\n'
        "<|im_start|><|user|>\n2+2?<|im_end|>\n"
        "<|im_start|><|assistant|>\n<think>\neasy\n</think>\nIt is <begin_solution>4<end_solution>"
        '<tool_call>{"name": "log", "arguments": {"n": 4}}<|im_end|>\n'
        "<|im_start|><tool_response>\ndone<|im_end|>\n"
        "<|im_start|><|assistant|>\nDone.<|im_end|>\n"
    )
    learned = [index for index, loss in zip(ids, loss_mask, strict=True) if loss]
    assert tokenizer.decode(learned, special=True) == (
        "<think>\neasy\n</think>\nIt is <begin_solution>4<end_solution>"
        '<tool_call>{"name": "log", "arguments": {"n": 4}}<|im_end|>'
        "Done.<|im_end|>"
    )


def test_generation_starts_behind_the_assistants_header():
    tokenizer = byte_tokenizer()
    shown = [
        tokenizer.decode(render(tokenizer, [Message("user", "hi")], generate=True, think=think).ids, special=True)
        for think in (False, True)
    ]
    assert shown[0] == "<|im_start|><|user|>\nhi<|im_end|>\n<|im_start|><|assistant|>\n"
    assert shown[1] == shown[0] + "<think>\n"


def test_loss_stands_on_what_an_assistant_says_and_its_end_alone(tokenizer):
    draw = random.Random(0)
    for _ in range(100):
        chat = random_chat(draw)
        ids, loss_mask = render(tokenizer, chat)
        at = 0
        for message in chat:
            alone = render(tokenizer, [message])
            said = len(render(tokenizer, [Message("user", "x")], generate=True).ids) - len(
                render(tokenizer, [Message("user", "x")]).ids
            )
            end = at + len(alone.ids)
            assert ids[at:end] == alone.ids, "a turn is encoded alike wherever it stands"
            spoken = [message.role == "assistant" and said <= k < len(alone.ids) - 1 for k in range(len(alone.ids))]
            assert loss_mask[at:end] == spoken
            at = end
        assert at == len(ids)


def test_a_turn_that_is_not_learned_from_carries_no_loss(tokenizer):
    ids, loss_mask = render(tokenizer, [Message("assistant", "a", think="b", loss=False), Message("assistant", "c")])
    learned = [index for index, loss in zip(ids, loss_mask, strict=True) if loss]
    assert tokenizer.decode(learned, special=True) == "c<|im_end|>"


def test_a_prompt_is_the_beginning_of_the_same_chat_with_its_answer(tokenizer):
    draw = random.Random(1)
    for _ in range(200):
        chat, reply = random_chat(draw), random_reply(draw)
        prompt = render(tokenizer, chat, generate=True).ids
        whole = render(tokenizer, [*chat, reply]).ids
        assert whole[: len(prompt)] == prompt
        if reply.think is not None:
            primed = render(tokenizer, chat, generate=True, think=True).ids
            assert whole[: len(primed)] == primed


def test_a_reply_of_the_form_is_read_back_as_it_was(tokenizer):
    draw = random.Random(2)
    for _ in range(300):
        chat, reply = random_chat(draw), random_reply(draw)
        for think in (False, True)[: 1 + (reply.think is not None)]:
            prompt = len(render(tokenizer, chat, generate=True, think=think).ids)
            assert read_reply(tokenizer, render(tokenizer, [*chat, reply]).ids[prompt:], think=think) == reply


def test_any_tokens_at_all_can_be_read_as_a_reply(tokenizer):
    draw = random.Random(3)
    control = range(tokenizer.eot_id, tokenizer.eot_id + 16)
    for _ in range(500):
        ids = [draw.choice(control) if draw.random() < 0.3 else draw.randrange(tokenizer.vocab_size) for _ in range(20)]
        assert read_reply(tokenizer, ids, think=draw.random() < 0.5).role == "assistant"


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("plain", Message("assistant", "plain")),
        ("<think>\nwhy\n</think>\nso", Message("assistant", "so", think="why")),
        ("<think>why</think>so", Message("assistant", "so", think="why")),
        ("<think>cut off", Message("assistant", "", think="cut off")),
        ("no opening</think>so", Message("assistant", "no openingso")),
        ("<think>a</think>b<think>c</think>d", Message("assistant", "bd", think="a\nc")),
        ("a<begin_solution>4<end_solution>b", Message("assistant", "ab", solution="4")),
        ("<begin_solution>4", Message("assistant", "", solution="4")),
        ('<tool_call>{"name": "f", "arguments": {}}', Message("assistant", tool_calls=(ToolCall("f", {}),))),
        ('a<tool_call>\n{"name": "f"}\nb', Message("assistant", "ab", tool_calls=(ToolCall("f", {}),))),
        ('<tool_call>{"name": "f", "arguments": "{}"}', Message("assistant", tool_calls=(ToolCall("f", {}),))),
        ("<tool_call>{broken", Message("assistant", "<tool_call>{broken")),
        ("<tool_call>", Message("assistant", "<tool_call>")),
        ("<tool_call>[1]", Message("assistant", "<tool_call>[1]")),
        ('<tool_call>{"name": 3}', Message("assistant", '<tool_call>{"name": 3}')),
        ('<tool_call>{"name": "f", "arguments": {"x": NaN}}',) * 2,
        ("<tool_call>" + "[" * 100_000,) * 2,
    ],
)  # fmt: skip
def test_text_with_marks_is_read_as_it_was_meant(written, meant):
    meant = Message("assistant", meant) if isinstance(meant, str) else meant
    assert parse_assistant(written) == meant


def test_no_control_token_comes_from_the_texts_of_a_message(tokenizer):
    spelt = "".join(CONTROL_TOKENS[:16])
    plain, hostile = (
        render(
            tokenizer,
            [
                Message("system", text),
                Message("user", text),
                Message("assistant", text, think=text, solution=text, tool_calls=(ToolCall(text, {text: text}),)),
                Message("tool", text),
            ],
            tools=[{"name": text}],
            generate=True,
            think=True,
        ).ids
        for text in ("x", spelt)
    )
    assert [index for index in hostile if index >= tokenizer.eot_id] == [i for i in plain if i >= tokenizer.eot_id]


def test_tools_stand_in_the_system_turn_one_json_a_line():
    bare = {"name": "f", "parameters": {"type": "object"}}
    wrapped = {"type": "function", "function": bare}
    line = json.dumps(bare)
    assert with_tools([Message("system", "S"), Message("user", "u")], [bare, wrapped]) == [
        Message("system", f"S\n\nTools:\n{line}\n{line}"),
        Message("user", "u"),
    ]
    assert with_tools([Message("user", "u")], [bare])[0] == Message("system", f"Tools:\n{line}")
    assert with_tools([Message("user", "u")], []) == [Message("user", "u")]


def test_fill_in_the_middle_tells_the_middle_last(tokenizer):
    ids = render_fim(tokenizer, "def f(", "x", "): pass <|fim_middle|>")
    shown = "<|fim_prefix|>def f(<|fim_suffix|>): pass <|fim_middle|><|fim_middle|>x"
    assert tokenizer.decode(ids, special=True) == shown
    assert ids.count(tokenizer.special["<|fim_middle|>"]) == 1
    prompt = render_fim(tokenizer, "def f(", "", "): pass <|fim_middle|>")
    assert ids[: len(prompt)] == prompt


def test_a_message_survives_being_a_plain_dict():
    draw = random.Random(4)
    for _ in range(100):
        for message in (*random_chat(draw), Message("assistant", "a", loss=False)):
            data = json.loads(json.dumps(message.to_dict()))
            assert Message.from_dict(data) == message


def test_dicts_of_other_programs_are_understood():
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    assert Message.from_dict(
        {"role": "assistant", "content": None, "tool_calls": [call], "refusal": None, "annotations": []}
    ) == Message("assistant", "", tool_calls=(ToolCall("f", {"a": 1}),))
    assert Message.from_dict({"role": "tool_response", "content": "r", "tool_call_id": "1"}) == Message("tool", "r")
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert Message.from_dict({"role": "user", "content": parts}) == Message("user", "ab")
    thought = {"role": "assistant", "content": "c", "reasoning_content": "r"}
    assert Message.from_dict(thought) == Message("assistant", "c", think="r")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("text", "A message is 'text'"),
        ({"content": "x"}, "A message is"),
        ({"role": "asistant", "content": "x"}, "role 'asistant'. Did you mean assistant"),
        ({"role": None, "content": "x"}, "role None"),
        ({"role": ["user"], "content": "x"}, "role"),
        ({"role": "user", "content": 3}, "content of a message of the user is 3"),
        ({"role": "user", "content": [{"type": "image_url"}]}, "parts that are not text"),
        ({"role": "user", "content": "x", "contents": "y"}, "field 'contents'. Did you mean content"),
        ({"role": "user", "content": "x", "think": "y"}, "message of the user has think"),
        ({"role": "assistant", "content": "x", "think": 3}, "think of a message of the assistant is 3"),
        ({"role": "assistant", "tool_calls": [{"name": "f", "arguments": "{"}]}, "A tool call is"),
        ({"role": "assistant", "tool_calls": [{"arguments": {}}]}, "A tool call is"),
        ({"role": "assistant", "tool_calls": ["f"]}, "A tool call is"),
        ({"role": "assistant", "tool_calls": 3}, "must be a list"),
        ({"role": "assistant", "content": "x", "loss": "no"}, "loss"),
    ],
)
def test_what_is_no_message_is_refused_in_words(data, said):
    with pytest.raises(DataError) as refused:
        Message.from_dict(data)
    assert said in str(refused.value)


def test_chats_that_cannot_be_are_refused_in_words():
    tokenizer = byte_tokenizer()
    with pytest.raises(DataError, match="at least one"):
        render(tokenizer, [])
    with pytest.raises(DataError, match="put it first"):
        render(tokenizer, [Message("user", "a"), Message("system", "b")])
    with pytest.raises(DataError, match="generate"):
        render(tokenizer, [Message("user", "a")], think=True)
    with pytest.raises(DataError, match="cannot be written as JSON"):
        render(tokenizer, [Message("assistant", tool_calls=(ToolCall("f", {"x": float("nan")}),))])
