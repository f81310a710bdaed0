"""`verify` says of a checkpoint what its card would, and fails where that is not so; `ablate` knows one prompt."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

from positronic.checkpoint import load, save
from positronic.cli import main
from positronic.generation import Conversation
from positronic.generation.requests.conversation import resume
from positronic.generation.requests.prompt import prompt_ids
from positronic.observe import ablate, mixers_of, moved, organs_of, verify

sys.path.append(str(Path(__file__).parents[1] / "viz"))
from view_example import TOKENIZER, colony, oscillators, transformer

MAKE = {"rings": oscillators, "colony": colony, "plain": transformer}
PROMPT, OTHER = TOKENIZER.encode("A lamp on the hill"), TOKENIZER.encode("Nobody lit it")


@pytest.fixture(scope="module")
def models():
    return {name: make() for name, make in MAKE.items()}


@pytest.fixture(scope="module")
def folders(models, tmp_path_factory):
    place = tmp_path_factory.mktemp("verify")
    return {name: save(place / name, model, TOKENIZER) for name, model in models.items()}


def told(capsys, *words, code=0):
    capsys.readouterr()
    assert main([*map(str, words), "--device", "cpu", "--json"]) == code
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("name", MAKE)
def test_a_sound_checkpoint_is_verified(name, models, folders, capsys):
    found = told(capsys, "verify", folders[name])
    assert found["ok"]
    assert found["load"] == {
        "ok": True,
        "family": models[name].config.kind,
        "parameters": sum(p.numel() for p in models[name].parameters()),
    }
    assert found["cache"]["ok"]
    assert found["cache"]["tokens"] == min(40, models[name].config.max_positions - len("The value of the expression"))
    assert found["cache"]["same"] == found["cache"]["tokens"] or found["cache"]["margin"] < 1e-3
    assert found["memory"]["change"] == 0
    assert (found["memory"]["carried"] is not None) == (name != "plain")
    assert main(["verify", str(folders[name]), "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "verified" in out
    assert "FAILED" not in out


def test_organs_stand_there_with_their_gates_and_what_is_lost_without_them(models, folders, capsys):
    found = {organ["name"]: organ for organ in told(capsys, "verify", folders["rings"])["organs"]}
    model = models["rings"]
    assert set(organs_of(model)) <= set(found)
    assert {"mtp", "jepa"} <= set(found)
    for name, organ in found.items():
        assert all(gate == pytest.approx(0.5, abs=1e-3) for gate in organ["gates"])
        if name in organs_of(model):
            [wanted] = moved(model, prompt_ids(TOKENIZER, "The value of the expression"), [ablate(model, [name])])
            assert organ["without"] == pytest.approx(wanted._asdict(), rel=1e-4)
    assert found["quazimoto" if "quazimoto" in found else "kuramoto"]["without"]["largest_change"] > 0


def test_a_damaged_checkpoint_fails(folders, tmp_path, capsys):
    damaged = tmp_path / "damaged"
    shutil.copytree(folders["plain"], damaged)
    weights = damaged / "model.safetensors"
    raw = bytearray(weights.read_bytes())
    raw[-1] ^= 1
    weights.write_bytes(raw)
    found = told(capsys, "verify", damaged, code=1)
    assert (found["ok"], found["load"]["ok"]) == (False, False)
    assert "model.safetensors" in found["load"]["said"]
    assert main(["verify", str(damaged)]) == 1
    assert "FAILED" in capsys.readouterr().out
    assert told(capsys, "verify", tmp_path / "nowhere", code=1)["load"]["ok"] is False


def test_weights_that_are_not_finite_fail():
    model = transformer()
    with torch.no_grad():
        model.trunk[1].mixer.down.weight[0, 0] = torch.nan
    found = verify(model, PROMPT, OTHER)
    assert not found.ok
    assert any("down" in name for name in found.not_finite)


def test_a_cache_that_forgets_fails(monkeypatch):
    """The last key of every call is lost: the text is another."""
    model = transformer()
    real = model.forward

    def forgetful(tokens, state=None, options=None):
        out = real(tokens, state, options)
        if state is not None and tokens.shape[1] == 1:
            out.hidden.add_(torch.randn(out.hidden.shape, generator=torch.Generator().manual_seed(0)) * 50)
        return out

    monkeypatch.setattr(model, "forward", forgetful)
    found = verify(model, PROMPT, OTHER, 20)
    assert not found.cache.ok
    assert not found.ok


def test_a_memory_that_stays_in_the_module_fails(monkeypatch):
    """As the published code keeps its stores: one request is heard by the next."""
    model = oscillators()
    real, left = model.forward, []

    def leaking(tokens, state=None, options=None):
        out = real(tokens, state, options)
        out.hidden.add_(0.01 * len(left))
        if tokens.shape[1] > 1:
            left.append(tokens)
        return out

    monkeypatch.setattr(model, "forward", leaking)
    found = verify(model, PROMPT, OTHER)
    assert found.memory.change > 0
    assert not found.ok


def test_what_memories_would_change_is_measured(models):
    model = models["rings"]
    found = verify(model, PROMPT, OTHER)
    between = resume(model, Conversation(), OTHER)
    assert found.memory.memories > 0
    assert between.state is not None
    assert found.memory.carried.largest_change > 0


def test_one_prompt_is_enough_for_ablation(models, folders, capsys):
    found = told(capsys, "ablate", folders["rings"], "--prompt", "A lamp")
    assert found["tokens"] == 6
    model, rows = load(folders["rings"])[0], found["without"]
    assert len(rows) == len(organs_of(model)) + len(mixers_of(model))
    ids = TOKENIZER.encode("A lamp")
    row = next(row for row in rows if row["organ"] == "moe" and row["layer"] is None)
    [wanted] = moved(model, ids, [ablate(model, ["moe"])])
    assert row["largest_change_of_a_logit"] == pytest.approx(wanted.largest_change, rel=1e-5)
    assert (row["flips"], row["next_token_flips"]) == (wanted.flips, wanted.next_flips)
    chat = told(capsys, "ablate", folders["rings"], "--prompt", "A lamp", "--chat", "--organs", "moe")
    assert chat["tokens"] > 6
    assert [row["organ"] for row in chat["without"]] == ["moe"]
    assert main(["ablate", str(folders["plain"]), "--prompt", "x"]) == 0
    assert "next token" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["ablate", "{}"], "--prompt"),
        (["ablate", "{}", "--prompt", "x", "--data", "y"], "--prompt"),
        (["ablate", "{}", "--data", "y", "--chat"], "--chat"),
        (["ablate", "{}", "--prompt", "x", "--max-bytes", "9"], "--max-bytes"),
        (["ablate", "{}", "--prompt", "x" * 900], "holds"),
        (["verify", "{}", "--tokens", "0"], "--tokens"),
        (["verify", "{}", "--prompt", "x" * 900], "holds"),
    ],
)
def test_what_cannot_be_asked_is_said(folders, capsys, words, named):
    assert main([word.replace("{}", str(folders["plain"])) for word in words]) == 2
    assert named in capsys.readouterr().err


def test_health_says_the_perplexity_too(folders, tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text("A lamp on the hill. " * 20, "utf-8")
    lines = {
        line["reading"]: line["values"] for line in told(capsys, "health", folders["plain"], "--data", text)["lines"]
    }
    bits = told(capsys, "eval", folders["plain"], "--data", text)
    assert lines["bits per byte"][0] == pytest.approx(bits["bits_per_byte"], rel=1e-5)
    assert lines["perplexity of a token"][0] == pytest.approx(2.718281828 ** bits["nats_per_token"], rel=1e-4)
    assert main(["health", str(folders["plain"]), "--data", str(text)]) == 0
    assert "perplexity" in capsys.readouterr().out
