"""Every published shape of a conversation becomes messages; what fits none is named with its fields."""

import json

import pytest

from positronic.data import ChatSplit, chat_mixture, heldout_conversations, open_chats
from positronic.data.chat import Conversation
from positronic.errors import DataError
from positronic.text import Message, ToolCall, byte_tokenizer


@pytest.fixture
def read(put):
    """The messages of all records, written as jsonl."""

    def messages(*records):
        path = put("c.jsonl", "".join(json.dumps(record) + "\n" for record in records))
        return [list(conversation.messages) for conversation in open_chats(path)]

    return messages


def user(text):
    return Message("user", text)


def assistant(text):
    return Message("assistant", text)


def test_messages_with_plain_content_are_read_as_they_stand(read):
    record = {"messages": [{"role": r, "content": c} for r, c in (("system", "S"), ("user", "U"), ("assistant", "A"))]}
    assert read(record) == [[Message("system", "S"), user("U"), assistant("A")]]


def test_messages_with_typed_parts_give_thinking_text_and_calls(read):
    call = '{"name": "f", "arguments": {"x": 1}}'
    parts = [
        ("user", [("text", "U")], {"loss_weight": 0.0}),
        ("assistant", [("reasoning", "R"), ("text", "A"), ("text", "B"), ("tool_call", call)], {"loss_weight": 1.0}),
        ("tool", [("text", "7")], {}),
        ("assistant", [("text", "C")], {"loss_weight": 0}),
    ]
    content = [
        {"role": role, "content": [{"type": kind, "value": value} for kind, value in pieces], **rest}
        for role, pieces, rest in parts
    ]
    assert read({"messages": content, "tools": json.dumps([{"name": "f"}])}) == [
        [
            Message("system", 'Tools:\n{"name": "f"}'),
            user("U"),
            Message("assistant", "AB", think="R", tool_calls=(ToolCall("f", {"x": 1}),)),
            Message("tool", "7"),
            Message("assistant", "C", loss=False),
        ]
    ]


def test_messages_in_the_form_of_openai_are_understood(read):
    function = {"name": "f", "arguments": '{"x": 1}'}
    messages = [
        {"role": "developer", "content": "S"},
        {"role": "user", "content": [{"type": "text", "text": "U"}]},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function", "function": function}]},
        {"role": "tool", "tool_call_id": "1", "content": "7"},
        {"role": "assistant", "content": "A", "reasoning_content": "R"},
    ]
    assert read({"messages": messages}) == [
        [
            Message("system", "S"),
            user("U"),
            Message("assistant", tool_calls=(ToolCall("f", {"x": 1}),)),
            Message("tool", "7"),
            Message("assistant", "A", think="R"),
        ]
    ]


def test_sharegpt_turns_calls_and_observations(read):
    turns = [
        ("human", "U"),
        ("function_call", '{"name": "f", "arguments": {"x": [1]}}'),
        ("observation", "7"),
        ("gpt", "A"),
        ("human", "left without an answer"),
    ]
    record = {"conversations": [{"from": a, "value": b} for a, b in turns], "system": "S", "tools": "[]"}
    assert read(record) == [
        [
            Message("system", "S"),
            user("U"),
            Message("assistant", tool_calls=(ToolCall("f", {"x": [1]}),)),
            Message("tool", "7"),
            assistant("A"),
        ]
    ]


def test_alpaca_joins_instruction_and_input(read):
    assert read(
        {"instruction": "I", "input": "", "output": "O"},
        {"instruction": "I", "input": "X", "response": "O"},
        {"instruction": "I", "output": "O", "system": "S", "history": [["a", "b"]]},
        {"instruction": "I", "instances": [{"input": "X", "output": "O"}, {"input": "Y", "output": "P"}]},
    ) == [
        [user("I"), assistant("O")],
        [user("I\n\nX"), assistant("O")],
        [Message("system", "S"), user("a"), assistant("b"), user("I"), assistant("O")],
        [user("I\n\nX"), assistant("O")],
    ]


def test_questions_think_before_the_mark_and_solve_behind_it(read):
    answer = "Half of 6 is 6/2 = <<6/2=3>>3.\nSo three.\n#### 3"
    assert read({"question": "Q", "answer": answer}, {"body": "B", "question": "Q", "answer": "9 (apples)"}) == [
        [user("Q"), Message("assistant", think="Half of 6 is 6/2 = 3.\nSo three.", solution="3")],
        [user("B\n\nQ"), assistant("9 (apples)")],
    ]


def test_columns_are_question_answer_and_rationale(put):
    path = put("c.tsv", "Why?\\n- a\\n- b\\n\ta\tBecause.\\nIt is.\r\n\nQ\tA\t\n")
    assert [list(c.messages) for c in open_chats(path)] == [
        [user("Why?\n- a\n- b"), Message("assistant", think="Because.\nIt is.", solution="a")],
        [user("Q"), Message("assistant", solution="A")],
    ]


def test_topical_chat_is_an_object_of_dialogues_by_id(put):
    said = [{"message": m, "agent": a, "sentiment": "x"} for m, a in (("1", "agent_2"), ("2", "agent_1"))]
    path = put("c.json.gz", json.dumps({"t_1": {"article_url": "u", "content": said}, "t_2": {"content": said[:1]}}))
    assert list(open_chats(path)) == [Conversation((user("1"), assistant("2")), "c.json.gz[t_1]")]


def test_schema_guided_dialogues_call_and_are_answered(read):
    call = {"method": "Find", "parameters": {"city": "X"}}
    turns = [
        {"speaker": "USER", "utterance": "U", "frames": [{"service": "S"}]},
        {
            "speaker": "SYSTEM",
            "utterance": "A",
            "frames": [{"service": "S", "service_call": call, "service_results": [{"name": "Ö"}]}],
        },
    ]
    assert read({"dialogue_id": "1", "turns": turns}) == [
        [
            user("U"),
            Message("assistant", tool_calls=(ToolCall("Find", {"city": "X"}),)),
            Message("tool", '[{"name": "Ö"}]'),
            assistant("A"),
        ]
    ]


def test_names_are_filled_in_and_can_be_chosen(put):
    path = put("c.json", json.dumps([{"instruction": "hi", "output": "{{name}} by {{author}}, not {{ name }}."}]))

    def said(*names):
        return next(iter(open_chats(path, *names))).messages[-1].content

    assert said() == "Positron by the positronic authors, not {{ name }}."
    assert said({"name": "Bo"}) == "Bo by {{author}}, not {{ name }}."
    assert open_chats(path).fingerprint != open_chats(path, {"name": "Bo"}).fingerprint


@pytest.mark.parametrize(
    ("record", "sentence"),
    [
        ({"id": 1, "grid": []}, r"c.jsonl:1 is no conversation.*its fields are id, grid.*sharegpt \(conversations\)"),
        ([1], r"c.jsonl:1 .* it is no JSON object\. Bring it"),
        (
            {"messages": [{"role": "user", "content": "x", "thinking": "y"}]},
            r"'thinking'\. Did you mean think\? Bring it",
        ),
        ({"messages": [{"role": "wizard", "content": "x"}]}, r"c.jsonl:1 .*role 'wizard'"),
        ({"messages": [{"role": "user", "content": "x", "loss_weight": 1}]}, r"message of the user has loss_weight 1"),
        ({"messages": [{"role": "assistant", "content": "x", "loss_weight": 0.5}]}, r"loss_weight 0.5"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "value": ""}]}]}, r"part of type 'image'"),
        ({"messages": "x"}, r"'messages' is no list of objects"),
        ({"messages": [{"role": "user", "content": "x", "mood": "y"}]}, r"field 'mood'"),
        ({"messages": [{"role": r, "content": "x"} for r in ("user", "system", "assistant")]}, r"stands behind others"),
        ({"conversations": [{"from": "cat", "value": "x"}]}, r"'from' is 'cat'"),
        ({"conversations": [{"from": "gpt"}]}, r"'value' is missing, and not text"),
        ({"conversations": [{"from": "function_call", "value": "f(x)"}]}, r"'f\(x\)' is no JSON"),
        ({"conversations": [], "tools": "{"}, r"'\{' is no JSON"),
        ({"instruction": 7, "output": "x"}, r"'instruction' is int, and not text"),
        ({"turns": [{"speaker": "SYSTEM", "utterance": "x"}]}, r"'frames' is no list of objects"),
        ({"messages": [{"role": "user", "content": "x"}]}, r"c.jsonl is empty: no assistant says anything in it"),
        ({"messages": []}, r"c.jsonl is empty"),
    ],
)
def test_what_is_no_conversation_gets_one_sentence_with_its_place(read, record, sentence):
    with pytest.raises(DataError, match=sentence):
        read(record)


def test_files_that_hold_no_chats_are_named(put):
    with pytest.raises(DataError, match=r"c.tsv:2 .*it has 1 columns"):
        list(open_chats(put("c.tsv", "a\tb\tc\nd\n")))
    with pytest.raises(DataError, match=r"conversations are read from .jsonl, .json, .tsv"):
        open_chats(put("c.txt", "x"))
    with pytest.raises(DataError, match=r"leave it out"):
        open_chats(f"{put('c.jsonl', '')}#field")


@pytest.fixture
def alpaca(put):
    def write(n, name="a.json"):
        return put(name, json.dumps([{"instruction": f"Q {i}?", "output": f"A {i % 7}."} for i in range(n)]))

    return write


@pytest.mark.parametrize("n", [1, 2, 5, 100, 1000])
def test_held_out_conversations_are_never_trained_on(alpaca, n):
    split = ChatSplit(open_chats(alpaca(n)), 50)
    train, held_out = list(split.train), list(split.held_out)
    assert len(train) + len(held_out) == n
    assert train
    assert len(held_out) == 0 if n == 1 else 1 <= len(held_out) < max(2, n / 25)
    assert not {c.messages for c in train} & {c.messages for c in held_out}


def test_a_stream_of_chats_counts_what_the_assistant_says(alpaca, tmp_path):
    tokenizer = byte_tokenizer()
    mixture = chat_mixture([str(alpaca(40))], tokenizer, seq_len=64, one_in=None, cache=tmp_path / "c")
    batch = mixture.next(mixture.sources[0].n_rows)
    said = tokenizer.decode(batch.targets[batch.loss_mask].tolist(), special=True)
    assert sorted(said.split("<|im_end|>")[:-1]) == sorted(f"A {i % 7}." for i in range(40))
    assert batch.n_bytes == 40 * len("A 0.")
    assert batch.n_targets == 40 * len("A 0.") + 40


def test_replayed_text_has_its_share_beside_chats(alpaca, put, tmp_path):
    text = put("t.txt", "once upon a time " * 400)
    data = [f"{alpaca(40)}:3", f"{alpaca(60, 'b.json')}:1"]
    mixture = chat_mixture(
        data, byte_tokenizer(), seq_len=64, replay=[str(text)], replay_share=0.2, cache=tmp_path / "c"
    )
    mixture.next(100)
    assert mixture.position()["taken"] == [60, 20, 20]
    assert [round(source["share"], 9) for source in mixture.describe()["sources"]] == [0.6, 0.2, 0.2]
    with pytest.raises(DataError, match="between 0 and 1"):
        chat_mixture(data, byte_tokenizer(), seq_len=64, replay=[str(text)], replay_share=1.0, cache=tmp_path / "c")


def test_held_out_conversations_come_from_all_files(alpaca):
    found = heldout_conversations([str(alpaca(300)), str(alpaca(10, "b.json"))])
    assert {conversation.name[0] for conversation in found} == {"a", "b"}
