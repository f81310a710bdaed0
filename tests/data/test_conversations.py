"""Every published shape of a conversation becomes messages; what fits none is named with its fields."""

import json
from dataclasses import replace

import pytest

from positronic.data import NAMES, ChatSplit, chat_mixture, heldout_conversations, open_chats
from positronic.data.chat.conversations import Conversation
from positronic.errors import DataError
from positronic.text import Message, ToolCall, byte_tokenizer, render


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


CARD = "<h1>{{name}}</h1><p>{{author}}</p>"


@pytest.mark.parametrize(
    "record",
    [
        {"instruction": "A Vue greeting", "input": "", "output": CARD},
        {"messages": [{"role": "user", "content": "A card, please."}, {"role": "assistant", "content": CARD}]},
        {"conversations": [{"from": "human", "value": "A card, please."}, {"from": "gpt", "value": CARD}]},
        {"prompt": "A card with {{name}}", "completion": CARD},
    ],
)
def test_braces_are_learned_as_they_are_written(read, record):
    assert read(record)[0][-1] == assistant(CARD)


def test_names_are_filled_in_where_it_is_asked_for_and_can_be_chosen(put):
    path = put("c.json", json.dumps([{"instruction": "hi", "output": "{{name}} by {{author}}, not {{ name }}."}]))

    def said(*names):
        return next(iter(open_chats(path, *names))).messages[-1].content

    assert said() == "{{name}} by {{author}}, not {{ name }}."
    assert said(NAMES) == "Positron by the positronic authors, not {{ name }}."
    assert said({"name": "Bo"}) == "Bo by {{author}}, not {{ name }}."
    prints = {open_chats(path, *names).fingerprint for names in ((), (NAMES,), ({"name": "Bo"},))}
    assert len(prints) == 3


def test_alpaca_reads_a_history_of_turns_and_of_pairs(read):
    record = {"instruction": "And now?", "input": "", "output": "Done."}
    said = [user("Begin"), assistant("Begun"), user("And now?"), assistant("Done.")]
    roles = [{"role": "user", "content": "Begin"}, {"role": "assistant", "content": "Begun"}]
    shared = [{"from": "human", "value": "Begin"}, {"from": "gpt", "value": "Begun"}]
    masked = [roles[0], {**roles[1], "weight": 0}]
    for history in (roles, shared, [["Begin", "Begun"]]):
        assert read({**record, "history": history}) == [said]
    assert read({**record, "history": masked}) == [[said[0], replace(said[1], loss=False), *said[2:]]]
    assert read({**record, "history": []}) == read({**record, "history": None}) == [said[2:]]


@pytest.mark.parametrize(
    "history",
    [
        ["Hi", "Yo"],
        ["你好", "再见"],
        ["Begin now", "Begun"],
        [["Begin", "Begun", "Beginning"]],
        [["Begin", None]],
        [["Begin", "Begun"], {"role": "user", "content": "x"}],
        [{"Begin": "Begun"}],
        {"role": "user", "content": "x"},
        "Begin",
        7,
        [[1, 2]],
    ],
)
def test_a_history_of_another_form_is_refused_by_its_place(read, history):
    with pytest.raises(DataError, match=r"c.jsonl:2 is no conversation.*('history'|a turn has)"):
        read({"instruction": "I", "output": "O"}, {"instruction": "I", "output": "O", "history": history})


def test_turns_of_role_and_content_stand_under_conversations_too(read, put):
    turns = [{"role": "user", "content": "一"}, *2 * [{"role": "assistant", "content": "二"}]]
    said = [user("一"), assistant("二"), assistant("二")]
    assert read({"conversations": turns}, {"conversation": turns}, {"messages": turns}) == [said] * 3
    crossed = [{"role": "human", "value": "U"}, {"from": "assistant", "content": "A"}]
    assert read({"conversations": crossed}) == [[user("U"), assistant("A")]]
    lines = "".join(json.dumps({"conversations": turns}) + "\n" for _ in range(3))
    assert [list(c.messages) for c in open_chats(put("lines.json", lines))] == [said] * 3


def test_prompt_and_completion_may_be_turns_and_only_the_completion_is_learned(read):
    asked = [{"role": r, "content": c} for r, c in (("user", "Hi"), ("assistant", "Hello"), ("user", "U"))]
    answered = [{"role": "assistant", "content": "A"}]
    said = [user("Hi"), Message("assistant", "Hello", loss=False), user("U"), assistant("A")]
    for field in ("completion", "response"):
        assert read({"prompt": asked, field: answered}, {"prompt": asked, field: "A"}) == [said] * 2
    assert read({"prompt": "U", "completion": answered}) == [said[2:]]


def test_the_systems_words_beside_the_turns_are_not_lost_and_not_said_twice(read):
    turns = [{"role": "user", "content": "U"}, {"role": "assistant", "content": "A"}]
    within = {"messages": [{"role": "system", "content": "S"}, *turns], "system": "S"}
    said = [Message("system", "S"), user("U"), assistant("A")]
    assert (
        read({"messages": turns, "system": "S"}, within, {"prompt": "U", "completion": "A", "system": "S"})
        == [said] * 3
    )
    with pytest.raises(DataError, match="stands behind others"):
        read({**within, "system": "Another"})


NULLS = {"to": None, "n": 1, "deep": {"a": [None, {"b": None}]}}
TOOL = {"name": "f", "parameters": {"type": "object", "properties": {"to": {"type": "string", "default": None}}}}


@pytest.mark.parametrize("shape", ["messages", "sharegpt", "parts"])
def test_nulls_in_calls_and_tools_are_data_in_either_spelling(read, shape):
    call = {"name": "f", "arguments": NULLS}
    spelled = {"name": "f", "arguments": json.dumps(NULLS)}

    def record(call, tools):
        if shape == "sharegpt":
            turn = {"from": "function_call", "value": json.dumps(call)}
            turns = [{"from": "human", "value": "q"}, turn, {"from": "observation", "value": "r"}]
            return {"conversations": [*turns, {"from": "gpt", "value": "ok"}], "tools": tools}
        made = {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"type": "function", "function": call, "id": None}],
        }
        if shape == "parts":
            made = {"role": "assistant", "content": [{"type": "tool_call", "value": json.dumps(call)}]}
        turns = [{"role": "user", "content": "q"}, made, {"role": "tool", "content": None}]
        return {"messages": [*turns, {"role": "assistant", "content": "ok"}], "tools": tools}

    first, second = read(record(call, [{"type": "function", "function": TOOL}]), record(spelled, json.dumps([TOOL])))
    assert first == second
    assert first[0] == Message("system", "Tools:\n" + json.dumps(TOOL))
    assert first[2] == Message("assistant", tool_calls=(ToolCall("f", NULLS),))
    tokenizer = byte_tokenizer()
    assert '"arguments": {"to": null, "n": 1, ' in tokenizer.decode(render(tokenizer, first).ids)


def test_an_assistant_whose_content_is_null_says_nothing_that_could_be_learned(read):
    turns = [("user", "U"), ("assistant", None), ("user", "V"), ("assistant", "A")]
    (said,) = read({"messages": [{"role": role, "content": content} for role, content in turns]})
    assert said[1] == Message("assistant", "", loss=False)
    assert said[3] == assistant("A")


@pytest.mark.parametrize(
    ("record", "sentence"),
    [
        ({"id": 1, "grid": []}, r"c.jsonl:1 is no conversation.*its fields are id, grid.*sharegpt \(conversations\)"),
        ([1], r"c.jsonl:1 .* it is no JSON object\. Bring it"),
        (
            {"messages": [{"role": "user", "content": "x", "thinking": "y"}]},
            r"'thinking'\. Did you mean think\? Bring it",
        ),
        ({"messages": [{"role": "wizard", "content": "x"}]}, r"c.jsonl:1 .*'role' is 'wizard'"),
        ({"messages": [{"role": "user", "content": "x", "loss_weight": 1}]}, r"message of the user has loss_weight 1"),
        ({"messages": [{"role": "assistant", "content": "x", "loss_weight": 0.5}]}, r"loss_weight 0.5"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "value": ""}]}]}, r"part of type 'image'"),
        ({"messages": "x"}, r"'messages' is no list of objects"),
        ({"messages": [{"role": "user", "content": "x", "mood": "y"}]}, r"field 'mood'"),
        ({"messages": [{"role": r, "content": "x"} for r in ("user", "system", "assistant")]}, r"stands behind others"),
        ({"conversations": [{"from": "cat", "value": "x"}]}, r"'from' is 'cat'"),
        (
            {"conversations": [{"from": "gpt", "role": "user", "value": "x"}]},
            r"a turn has the fields from, role, value",
        ),
        ({"conversations": [{"value": "x"}]}, r"a turn has the fields value; it has role and content"),
        ({"conversations": [{"from": ["gpt"], "value": "x"}]}, r"'from' is list, and not text"),
        ({"conversations": [{"from": "gpt", "value": "x", "mood": "y"}]}, r"field 'mood'"),
        ({"conversations": [{"from": "gpt", "value": {"x": 1}}]}, r"'value' is dict, and not text"),
        ({"conversations": [{"from": "gpt", "value": "x"}], "system": 5}, r"'system' is int, and not text"),
        ({"instruction": "move", "input": {"x": 1, "y": 1.5}, "output": "ok"}, r"'input' is dict, and not text"),
        ({"instruction": "double", "input": 5, "output": "10"}, r"'input' is int, and not text"),
        ({"instruction": "x", "output": "y", "system": ["z"]}, r"'system' is list, and not text"),
        ({"question": "q", "answer": "a", "body": ["p1", "p2"]}, r"'body' is list, and not text"),
        ({"prompt": 1, "completion": "x"}, r"'prompt' is int, and neither text nor turns"),
        ({"prompt": "x", "completion": ["y"]}, r"'completion' is no list of objects"),
        ({"problem": "x", "solution": False}, r"'solution' is bool, and not text"),
        ({"content": [{"agent": {}, "message": "x"}]}, r"'agent' is dict, and not text"),
        ({"turns": [{"speaker": "A", "utterance": "x", "frames": [{"service_call": 3}]}]}, r"'service_call' is int"),
        (
            {"messages": [{"role": "user", "content": "x"}], "tools": [{"function": "f"}]},
            r"whose function is no object",
        ),
        ({"messages": [{"role": "user", "content": "x"}], "tools": {"f": 1}}, r"'tools' is no list of objects"),
        ({"messages": [{"role": "user", "content": [{"text": "x", "weight": 0}]}]}, r"part of a message.*'weight'"),
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
