"""One line of each form, and files of them."""

import json

LINES = {
    "pairs": {"sentence_good": "The dogs bark.", "sentence_bad": "The dogs barks.", "UID": "agreement"},
    "choices": {"query": "Question: What barks?", "choices": ["a dog", "a stone"], "gold": 0},
    "contexts": {"context_options": ["Ann ", "Bob"], "continuation": "was early.", "gold": 1},
    "completion": {"context": "He gave the dog a", "continuation": "bone"},
}


def lines(*records):
    return "".join(json.dumps(record) + "\n" for record in records)


def put(folder, name, *records):
    (folder / name).write_text(lines(*records), "utf-8")
