"""300 harmed checkpoints, half of them hashed again afterwards: a typed error each, or the same model as before."""

import json
import os
import random
import re
import shutil
from itertools import cycle, islice

import mutations_of_files
import mutations_of_manifests
import mutations_of_texts
import mutations_of_weights
import pytest
import torch
from checkpoint_example import logits, training_part
from mutations import MANIFEST_MUTATIONS, MUTATIONS, SHARD_MUTATIONS, at, edit, leaves, rehash

from positronic.checkpoint import load, load_training, read_config
from positronic.errors import PositronicError

HARMS = (mutations_of_weights, mutations_of_files, mutations_of_texts, mutations_of_manifests)
"""Importing them fills the lists."""
CASES = [
    *((name, MUTATIONS, False, seed) for seed, name in enumerate(islice(cycle(MUTATIONS), 96))),
    *((name, MUTATIONS, True, seed) for seed, name in enumerate(islice(cycle(MUTATIONS), 130), 1000)),
    *((name, MANIFEST_MUTATIONS, False, seed) for seed, name in enumerate(islice(cycle(MANIFEST_MUTATIONS), 40))),
    *((name, SHARD_MUTATIONS, False, seed) for seed, name in enumerate(islice(cycle(SHARD_MUTATIONS), 14))),
    *((name, SHARD_MUTATIONS, True, seed) for seed, name in enumerate(islice(cycle(SHARD_MUTATIONS), 20), 1000)),
]


def test_there_are_three_hundred_and_half_of_them_are_hashed_again():
    assert len(CASES) == 300
    assert sum(again for _, _, again, _ in CASES) == 150
    assert {name for name, *_ in CASES} == {*MUTATIONS, *MANIFEST_MUTATIONS, *SHARD_MUTATIONS}


@pytest.mark.parametrize(
    ("name", "kind", "again", "seed"), CASES, ids=[f"{n}-{s}{'-rehashed' * a}" for n, _, a, s in CASES]
)
def test_a_harmed_folder_is_refused_in_words_or_loads_the_same_model(
    name, kind, again, seed, saved, sharded, model, tokenizer, tmp_path
):
    folder = shutil.copytree(sharded if kind is SHARD_MUTATIONS else saved, tmp_path / "checkpoint")
    change, harmless = kind[name] if kind is MUTATIONS else (kind[name], False)
    change(folder, random.Random(seed))
    if again:
        rehash(folder)

    harmless = harmless if again else harmless or name in UNLISTED
    found = refusal_or_result(load, folder)
    if isinstance(found, str):
        assert not harmless or not (again or name in UNREAD), f"nothing that matters changed: {found}"
    else:
        loaded, its_tokenizer = found
        assert harmless, "a harmed checkpoint was loaded"
        assert torch.equal(logits(loaded), logits(model))
        assert its_tokenizer.sha256 == tokenizer.sha256

    config = refusal_or_result(read_config, folder)
    assert isinstance(config, str) or config == model.config
    training = refusal_or_result(load_training, folder)
    if not isinstance(training, str):
        assert training.meta == training_part().meta
        assert all(torch.equal(training.tensors[n], t) for n, t in training_part().tensors.items())


UNREAD = {"training_state_harmed", "a_link_to_the_same_bytes"}
"""Harmless even before the files are hashed again."""
UNLISTED = {"a_whole_file_beside_the_shards"}
"""Harmful only once the manifest lists it."""


def refusal_or_result(ask, folder):
    """What `ask` answers, or the text of its typed error, which must be a few words ending in what to do."""
    try:
        return ask(folder)
    except PositronicError as error:
        text = str(error)
        assert re.search(r"[a-z0-9)'`/][.?]$", text), text
        assert "\n" not in text, text
        assert len(text) < 900, text
        return text


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "manifest.json"])
def test_a_pipe_is_refused_and_not_waited_for(name, copied):
    (copied / name).unlink()
    os.mkfifo(copied / name)
    with pytest.raises(PositronicError, match="plain file"):
        load(copied)


def other(value):
    """Another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return "attention" if value != "attention" else "swiglu"
    return 0 if value is None else value * 2


def test_every_core_field_is_guarded_after_rehashing(saved, model, tmp_path):
    paths = [path for path, _ in leaves(json.loads((saved / "config.json").read_text())["core"])]
    assert len(paths) > 15
    for number, path in enumerate(paths):
        folder = shutil.copytree(saved, tmp_path / str(number))

        def change(config, path=path):
            inside = at(config["core"], path[:-1])
            inside[path[-1]] = other(inside[path[-1]])

        edit(folder / "config.json", change)
        rehash(folder)
        with pytest.raises(PositronicError):
            load(folder)


def test_a_seed_gives_the_same_harm_twice(saved, tmp_path):
    for name in ("a_value_flipped", "a_core_value_changed"):
        one, two = (shutil.copytree(saved, tmp_path / f"{name}{i}") for i in range(2))
        for folder in (one, two):
            MUTATIONS[name][0](folder, random.Random(7))
            rehash(folder)
        assert json.loads((one / "manifest.json").read_text()) == json.loads((two / "manifest.json").read_text())
