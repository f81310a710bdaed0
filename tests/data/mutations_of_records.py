"""Ways to harm a record: a valid one of every shape of conversations and pairs, and seeded changes to any of them."""

import copy
import json
from random import Random

TURNS = [
    {"role": "system", "content": "S"},
    {"role": "user", "content": [{"type": "text", "text": "U"}]},
    {
        "role": "assistant",
        "content": None,
        "reasoning_content": "R",
        "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": {"x": [1, None]}}}],
    },
    {"role": "tool", "tool_call_id": "1", "content": "7"},
    {"role": "assistant", "content": "A", "weight": 1},
]
SHARED = [
    {"from": "human", "value": "U"},
    {"from": "function_call", "value": '{"name": "f", "arguments": {"x": null}}'},
    {"from": "observation", "value": "7"},
    {"from": "gpt", "value": "A", "loss": True},
]
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"default": None}}}]
CHATS = [
    {"messages": TURNS, "tools": TOOLS},
    {"conversations": SHARED, "system": "S", "tools": json.dumps(TOOLS)},
    {"instruction": "I", "input": "X", "output": "O", "history": [["a", "b"]], "system": "S"},
    {"instruction": "I", "response": "O", "history": TURNS[-1:]},
    {"instruction": "I", "instances": [{"input": "X", "output": "O"}]},
    {"question": "Q", "answer": "3 <<1+2=3>>\n#### 3", "body": "B"},
    {"prompt": "P", "response": "<think>T</think>A"},
    {"prompt": TURNS[:2], "completion": TURNS[2:]},
    {"problem": "P", "solution": "S"},
    {"content": [{"agent": "1", "message": "U"}, {"agent": "2", "message": "A"}]},
    {
        "turns": [
            {"speaker": "USER", "utterance": "U", "frames": []},
            {
                "speaker": "SYSTEM",
                "utterance": "A",
                "frames": [{"service_call": {"method": "f", "parameters": {"x": 1}}, "service_results": [{"y": 1.5}]}],
            },
        ]
    },
]
PAIRS = [
    {"conversations": SHARED[:1], "chosen": SHARED[-1], "rejected": {"from": "gpt", "value": "B"}},
    {"instruction": "I", "input": "X", "chosen": "A", "rejected": "B"},
    {"prompt": "P", "chosen": "A", "rejected": "B", "system": "S"},
    {"prompt": TURNS[:2], "chosen": TURNS[-1:], "rejected": "B", "tools": TOOLS},
    {"chosen": TURNS, "rejected": [*TURNS[:-1], {"role": "assistant", "content": "B"}], "score": 0.5},
    {"chosen": "\n\nHuman: U\n\nAssistant: A", "rejected": "\n\nHuman: U\n\nAssistant: B"},
    {"instruction": "I", "response1": "A", "response2": "B", "annotator1": 1, "annotator2": 2, "annotator3": 1},
]
HALF = "\ud83d"
NAMES = (
    *("role", "from", "content", "value", "weight", "loss", "train", "mask", "label"),
    *("think", "tool_calls", "system", "tools", "history", "messages", "input"),
)


def nested(depth):
    value = "x"
    for level in range(depth):
        value = [value] if level % 2 else {"a": value}
    return value


def strange(random: Random):
    """A value of any kind."""
    numbers = (0, 1, -1, True, False, 1.5, 10**400, -(10**30), float("nan"), float("inf"), 5e-324)
    texts = (
        "",
        " ",
        "x",
        HALF,
        f"a{HALF}b",
        "\0",
        "\ufeff",
        "{",
        "[]",
        "null",
        "{{name}}",
        "<think>",
        "####",
        "assistant",
        "x" * 9999,
    )
    others = (None, [], {}, [[]], [None], {"": None}, {HALF: 1}, ["a", "b"], [1, 2], {"a": {"b": [float("nan")]}})
    return random.choice((*numbers, *texts, *copy.deepcopy(others), nested(random.choice((3, 99, 150, 480)))))


def places(value):
    """(container, key) of everything below a value."""
    for key, inner in list(value.items() if isinstance(value, dict) else enumerate(value)):
        yield value, key
        if isinstance(inner, dict | list):
            yield from places(inner)


def harmed(record, random: Random):
    """The record after one to three changes."""
    record = copy.deepcopy(record)
    for _ in range(random.choice((1, 1, 2, 3))):
        found = list(places(record))
        if not found:
            return strange(random)
        inside, key = random.choice(found)
        change = random.choice((_replaced, _replaced, _lost, _twice, _renamed, _added, _spelled, _swapped))
        change(inside, key, random, found)
    return strange(random) if random.random() < 0.01 else record


def _replaced(inside, key, random, found):
    inside[key] = strange(random)


def _lost(inside, key, random, found):
    del inside[key]


def _twice(inside, key, random, found):
    if isinstance(inside, list):
        inside.append(copy.deepcopy(inside[key]))
    else:
        inside[f"{key}s"] = copy.deepcopy(inside[key])


def _renamed(inside, key, random, found):
    if isinstance(inside, dict):
        inside[random.choice((*NAMES, HALF, "", "x"))] = inside.pop(key)
    else:
        inside.reverse()


def _added(inside, key, random, found):
    if isinstance(inside, dict):
        inside[random.choice(NAMES)] = strange(random)
    else:
        inside.insert(key, strange(random))


def _spelled(inside, key, random, found):
    """Its JSON as text, or its text as a value."""
    inside[key] = [inside[key]] if isinstance(inside[key], str) else json.dumps(inside[key])


def _swapped(inside, key, random, found):
    other, place = random.choice(found)
    inside[key] = copy.deepcopy(other[place]) if other is not inside else strange(random)
