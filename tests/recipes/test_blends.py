"""Blends: their shares hold row by row, and they read copies of their data sets as they read the hub's."""

import json
from fractions import Fraction

import pytest

pytest.importorskip("datasets")

import datasets
from copies import PUBLISHED, copy_all

from positronic.cli import main
from positronic.data import DataSpec, HubSet, chat_mixture, text_mixture
from positronic.errors import ConfigError, DataError
from positronic.recipes import BLENDS, blend, blended
from positronic.text import byte_tokenizer

SMALL = ["d_model=32", "n_layers=1", "attention.n_heads=2", "attention.n_kv_heads=1", "attention.head_dim=16"]
SMALL += ["attention.rank=none", "attention.rope_dims=8", "channel.hidden=32", "context=32", "max_positions=64"]


@pytest.fixture(scope="module")
def copies(tmp_path_factory):
    """The data sets of all blends, as copies of their repositories."""
    root = tmp_path_factory.mktemp("copies")
    copy_all(root)
    return root


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("POSITRONIC_CACHE", str(tmp_path / "cache"))
    datasets.disable_progress_bars()


def mixture(name, data, **more):
    made = chat_mixture if blend(name).conversations else text_mixture
    return made(data, byte_tokenizer(), seq_len=64, one_in=None, **more)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_blend_reads_copies_and_its_shares_hold_after_every_row(name, copies):
    found = blend(name)
    stream = mixture(name, found.data(copies, take=200))
    total = sum(Fraction(str(part.share)) for part in found.parts)
    for rows in range(1, 121):
        stream.next(1)
        for taken, part in zip(stream.position()["taken"], found.parts, strict=True):
            assert abs(taken - rows * Fraction(str(part.share)) / total) < 1
    whole = 100 if name.startswith("published") else 120
    stream.next(2 * whole - 120)
    assert stream.position()["taken"] == [2 * whole * Fraction(str(part.share)) / total for part in found.parts]


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_hub_is_asked_for_the_same_by_its_own_names(name, copies, monkeypatch):
    found = blend(name)
    asked, real = [], datasets.load_dataset_builder

    def hub(wanted, config, **how):
        asked.append(wanted)
        return real(str(copies / wanted), config, **how)

    local = mixture(name, found.data(copies, take=80))
    monkeypatch.setattr(datasets, "load_dataset_builder", hub)
    far = mixture(name, found.data(take=80))
    assert asked == [DataSpec.parse(part.source).path.name for part in found.parts]
    assert far.next(40).tokens.equal(local.next(40).tokens)


def test_the_published_proportions_are_those_of_the_cards():
    assert list(blend("published-pretrain").shares.values()) == [0.35, 0.25, 0.25, 0.15]
    assert list(blend("published-sft").shares.values()) == [0.25] * 4
    assert list(blend("metric-pretrain").shares.values()) == [256, 128, 256, 128]


@pytest.mark.parametrize("name", PUBLISHED)
def test_rows_are_taken_by_share_and_every_source_is_bounded(name):
    found = blend(name)
    for take in (None, 4000):
        specs = [DataSpec.parse(text) for text in found.data(take=take)]
        assert all(isinstance(spec.path, HubSet) for spec in specs)
        assert sum(spec.path.take for spec in specs) - (take or found.take) in range(len(specs))


def test_the_blend_of_files_is_what_runs_were_begun_with(tmp_path):
    data, valid = blended("blend-v1", [str(tmp_path)], None, conversations=False)
    assert data[0] == f"{tmp_path}/novels_train.jsonl.xz:0.6"
    assert valid[3] == f"{tmp_path}/tinystories_valid_a.txt.xz"


@pytest.mark.parametrize(
    ("name", "folders", "take", "conversations", "sentence"),
    [
        ("blend-v2", ["d"], None, False, r"no blend 'blend-v2'. Did you mean blend-v1"),
        ("blend-v1", [], None, False, r"--blend blend-v1 mixes the sources of one folder"),
        ("published-pretrain", ["a", "b"], None, False, r"one folder; give it with --data FOLDER"),
        ("published-sft", [], None, False, r"of conversations; give it to `positronic sft`"),
        ("metric-pretrain", [], None, True, r"of text; give it to `positronic train`"),
        ("published-pretrain", [], 3, False, r"--take 3 does not fit.*it has 4 sources"),
        ("blend-v1", ["d"], 100, False, r"--take 100 does not fit.*read whole"),
    ],
)
def test_what_does_not_fit_a_blend_is_said(name, folders, take, conversations, sentence):
    with pytest.raises(ConfigError, match=sentence):
        blended(name, folders, take, conversations=conversations)


def test_a_copy_that_is_not_there_is_named(copies):
    with pytest.raises(DataError, match=r"openbmb/Ultra-FineWeb-L3 does not exist"):
        mixture("published-pretrain", blend("published-pretrain").data(copies / "mlabonne"))


def test_a_run_that_is_resumed_without_the_data_sets_becomes_the_one_that_never_stopped(
    copies, tmp_path, capsys, monkeypatch
):
    tokenizer, run, whole = (str(tmp_path / name) for name in ("tok", "run", "whole"))
    assert main(["tokenizer", "train", "--kind", "bytes", "--out", tokenizer]) == 0
    how = ["--data", str(copies), "--take", "80", "--device", "cpu", "--batch-tokens", "128"]
    begun = ["train", "--model", "tinygpt-tiny", "--blend", "published-pretrain", *how, "--tokenizer", tokenizer]
    settings = ["--steps", "4", "--set", *SMALL, "valid_bytes=200"]
    assert main([*begun, "--out", whole, *settings]) == 0
    assert main([*begun, "--out", run, "--chunk", "2", *settings]) == 0
    with monkeypatch.context() as patched:
        patched.setattr(datasets, "load_dataset_builder", None)
        assert main(["train", "--resume", "--out", run, "--device", "cpu"]) == 0
    weights = [(tmp_path / name / "last" / "model.safetensors").read_bytes() for name in ("run", "whole")]
    assert weights[0] == weights[1]
    data = json.loads((tmp_path / "run" / "run.json").read_text())["data"]
    assert data[0].startswith(f"hf:{copies}/openbmb/Ultra-FineWeb-L3@")
    assert data[0].endswith("?take=28#content:0.35")
    words = ["sft", "--model", f"{run}/last", "--blend", "published-sft", *how, "--out", str(tmp_path / "tuned")]
    assert main([*words, "--steps", "2"]) == 0
    capsys.readouterr()
    assert main(["sft", "--model", tokenizer, "--blend", "metric-sft", *how[:4], "--show-mask"]) == 0
    assert "Deeply" in "".join(line.split("'")[1] for line in capsys.readouterr().out.splitlines()[1:])
    for words in ([*begun[:3], "--data", "x", "--tokenizer", tokenizer], ["sft", "--model", tokenizer]):
        assert main([*words, "--take", "9", "--out", run]) == 2
        assert "hf:NAME?take=ROWS" in capsys.readouterr().err


def test_the_commands_name_every_blend_and_describe_prints_its_sources(capsys):
    named = {}
    for command in ("train", "sft"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        named[command] = capsys.readouterr().out
    for name, found in BLENDS.items():
        assert name in named["sft" if found.conversations else "train"]
        assert main(["describe", name]) == 0
        printed = capsys.readouterr().out
        assert all(part.source.partition("?")[0].partition("#")[0] in printed for part in found.parts)
    assert main(["describe", "publised-sft"]) == 2
    assert "preset or blend. Did you mean published-sft" in capsys.readouterr().err
    assert main(["describe", "metric-sft", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["parts"][0]["source"].endswith("Deepthink-Reasoning:train")
