"""What is said not to be learned from is masked, or refused by the name of the field that says so; never learned."""

import json

import pytest

from positronic.data import chat_mixture, open_chats, open_pairs
from positronic.data.chat.loss_flags import FLAGS
from positronic.errors import DataError
from positronic.text import byte_tokenizer

NOTHING = {"masked": (1, 1.0, True)}
"""Values that mean: not learned; 0, 0.0 and false for all others."""


def no(name):
    return NOTHING.get(name, (0, 0.0, False))


def yes(name):
    return [type(value)(not value) for value in no(name)]


def messages(wrong, *, text="wrong"):
    turns = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": text, **wrong}]
    return {"messages": [*turns, {"role": "user", "content": "Sure?"}, {"role": "assistant", "content": "Four."}]}


def shared(wrong, *, text="wrong"):
    turns = [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": text, **wrong}]
    return {"conversations": [*turns, {"from": "human", "value": "Sure?"}, {"from": "gpt", "value": "Four."}]}


def role_content(wrong, *, text="wrong"):
    return {"conversations": messages(wrong, text=text)["messages"]}


def completion(wrong, *, text="wrong"):
    first, *others = messages(wrong, text=text)["messages"]
    return {"prompt": [first], "completion": others}


def topical(wrong, *, text="wrong"):
    said = [("1", "2+2?", {}), ("2", text, wrong), ("1", "Sure?", {}), ("2", "Four.", {})]
    return {"content": [{"agent": agent, "message": message, **flags} for agent, message, flags in said]}


def schema_guided(wrong, *, text="wrong"):
    said = [("USER", "2+2?", {}), ("SYSTEM", text, wrong), ("USER", "Sure?", {}), ("SYSTEM", "Four.", {})]
    return {"turns": [{"speaker": who, "utterance": what, "frames": [], **flags} for who, what, flags in said]}


SHAPES = (messages, shared, role_content, completion, topical, schema_guided)


def learned(put, tmp_path, record):
    """The texts that carry loss."""
    path = put("c.jsonl", json.dumps(record) + "\n" + json.dumps({"prompt": "Q", "completion": "Other."}) + "\n")
    tokenizer = byte_tokenizer()
    mixture = chat_mixture([str(path)], tokenizer, seq_len=96, one_in=None, cache=tmp_path / "cache")
    batch = mixture.next(mixture.sources[0].n_rows)
    return sorted(tokenizer.decode(batch.targets[batch.loss_mask].tolist(), special=True).split("<|im_end|>")[:-1])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", FLAGS)
def test_a_turn_is_learned_as_its_flag_says_in_every_shape(put, tmp_path, shape, name):
    for value in no(name):
        assert learned(put, tmp_path, shape({name: value})) == ["Four.", "Other."]
    for value in (*yes(name), None):
        assert learned(put, tmp_path, shape({name: value})) == ["Four.", "Other.", "wrong"]


@pytest.mark.parametrize("name", [*FLAGS, "label"])
def test_a_record_is_learned_as_its_flag_says(put, tmp_path, name):
    for record in (
        messages({}),
        shared({}),
        {"instruction": "I", "output": "wrong"},
        {"question": "Q", "answer": "wrong"},
    ):
        assert learned(put, tmp_path, record | {name: no(name)[2]}) == ["Other."]
        assert "wrong" in learned(put, tmp_path, record | {name: yes(name)[2]})


def test_flags_that_agree_are_one(put, tmp_path):
    assert learned(put, tmp_path, shared({"loss": False, "loss_weight": 0, "masked": 1})) == ["Four.", "Other."]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "flags",
    [
        {"weight": 0.5},
        {"weight": -1},
        {"loss": "false"},
        {"train": "no"},
        {"loss_mask": [0, 0, 1]},
        {"weight": {"value": 0}},
        {"weight": float("nan")},
        {"loss": True, "weight": 0},
        {"masked": False, "train": False},
        {"mask": True},
        {"loss_scale": 0.0},
        {"sampleWeight": 0},
        {"train_detail": [{"begin_offset": 0, "end_offset": 2, "train": False}]},
        {"no_loss": True},
        {"compute_loss": False},
        {"do_not_train": True},
    ],
)
def test_what_nobody_can_read_is_refused_by_its_name(put, shape, flags):
    path = put("c.jsonl", json.dumps(messages({})) + "\n" + json.dumps(shape(flags)) + "\n")
    with pytest.raises(DataError, match=r"c.jsonl:2 is no conversation") as refused:
        list(open_chats(path))
    assert all(name in str(refused.value) for name in flags)


@pytest.mark.parametrize("shape", [messages, shared, role_content, completion])
@pytest.mark.parametrize(
    "flags", [{"ignore": True}, {"skip": 1}, {"supervised": False}, {"target": 0}, {"enabled": False}]
)
def test_a_field_of_a_turn_that_is_not_known_is_refused_even_if_it_is_false_or_0(put, shape, flags):
    with pytest.raises(DataError, match=next(iter(flags))):
        list(open_chats(put("c.jsonl", json.dumps(shape(flags)))))


@pytest.mark.parametrize(
    "flags",
    [{"mask": "User"}, {"loss_scale": "last_round"}, {"roles_to_train": ["user"]}, {"sample_weight": 0}, {"weight": 2}],
)
def test_what_a_record_says_and_nobody_can_read_is_refused_too(put, flags):
    for opened, record in ((open_chats, messages({})), (open_pairs, {"prompt": "p", "chosen": "a", "rejected": "b"})):
        with pytest.raises(DataError, match=rf"c.jsonl:1 is no .*{next(iter(flags))}"):
            list(opened(put("c.jsonl", json.dumps(record | flags))))


def test_the_user_is_never_learned_from_and_asking_for_it_is_refused(put, tmp_path):
    asked = [{"role": "user", "content": "Q", "weight": 0}, {"role": "assistant", "content": "A", "weight": 1}]
    assert learned(put, tmp_path, {"messages": asked}) == ["A", "Other."]
    with pytest.raises(DataError, match="message of the user has weight 1; only an assistant's"):
        list(open_chats(put("c.jsonl", json.dumps({"messages": [{**asked[0], "weight": 1}, asked[1]]}))))


def test_what_says_when_and_by_whom_a_turn_was_made_is_passed_over(put, tmp_path):
    noted = {"id": "7", "timestamp": 1.5e9, "model": "m", "language": "en"}
    assert (
        learned(put, tmp_path, shared(noted)) == learned(put, tmp_path, messages(noted)) == ["Four.", "Other.", "wrong"]
    )


def test_pairs_that_are_not_to_be_learned_are_passed_over_or_refused(put):
    pair = {"prompt": [{"role": "user", "content": "p"}], "chosen": "good", "rejected": "bad"}
    path = put("p.jsonl", json.dumps(pair | {"weight": 0}) + "\n" + json.dumps(pair | {"weight": 1}) + "\n")
    (found,) = open_pairs(path)
    assert found.name == "p.jsonl:2"
    answers = {"chosen": [{"role": "assistant", "content": "good", "weight": 0}], "rejected": "bad"}
    with pytest.raises(DataError, match=r"p.jsonl:1 is no pair of answers: an answer is not to be learned from"):
        list(open_pairs(put("p.jsonl", json.dumps(pair | answers))))
