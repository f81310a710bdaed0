"""The oscillator family on the command line: its sizes, its own drafts, its memory, and what does not fit together."""

import json

import pytest
import torch

from positronic import generation
from positronic.checkpoint import load, load_conversation, save
from positronic.cli import main
from positronic.cli.parts.demo_drafts import with_and_without_drafts
from positronic.models import build, preset
from positronic.models.transformer import tinygpt_tiny
from positronic.nn.memory_slots import SlotsState
from positronic.nn.parts import PartsState
from positronic.text import byte_tokenizer

TOKENS = byte_tokenizer()
GREEDY = ["--max-new-tokens", "24", "--temperature", "0", "--device", "cpu", "--prompt", "The lamp"]


def oscillators(seed=0):
    """positronic-tiny, smaller still, with much to say and every gate open."""
    config = preset("positronic-tiny").replace(d_model=32, context=32, max_positions=128, n_layers=1)
    config = config.replace(attention=config.attention.replace(head_dim=16, rank=16, rope_dims=8))
    model = build(config.fitted(TOKENS.vocab_size, TOKENS.eot_id), seed, tokenizer=TOKENS)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() == 2 and not name.endswith("coupling"):
                p.mul_(6.0 if name.startswith("embed") else 4.0)
            if name.endswith(".g"):
                p.fill_(0.5)
        model.head.scale.fill_(1.5)
    return model.eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save(tmp_path_factory.mktemp("oscillators") / "model", oscillators(), TOKENS)


@pytest.fixture(scope="module")
def headless(tmp_path_factory):
    """A model without draft heads."""
    config = tinygpt_tiny().replace(d_model=32, context=32, max_positions=128, n_layers=1)
    model = build(config.fitted(TOKENS.vocab_size, TOKENS.eot_id))
    return save(tmp_path_factory.mktemp("headless") / "model", model, TOKENS)


def answer(capsys, *words):
    capsys.readouterr()
    assert main([str(word) for word in words]) == 0
    return json.loads(capsys.readouterr().out)


def complaint(capsys, *words) -> str:
    """What is said of bad input: one sentence or two on one line, code 2, nothing on stdout."""
    capsys.readouterr()
    assert main([str(word) for word in words]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.count("\n") == 1, err
    return err


def test_describe_counts_the_published_model_by_organ(capsys):
    found = answer(capsys, "describe", "positronic-144m", "--json")["parameters"]
    assert found["total"] == sum(found["groups"].values()) == 143_836_940
    organs = {"fractal_phase", "ring_controller", "phase_attention", "engram", "specialists", "hrm", "moe"}
    assert organs - {"fractal_phase"} <= set(found["groups"]), "an organ with parameters is missing"
    assert found["total"] - found["active"] == found["groups"]["mtp"] + found["groups"]["jepa"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["oscillators.rings=[]"], "give one ring or more"),
        (["oscillators.rings=[4,0,8,16]"], "each of 1 or more"),
        (["oscillators.rings=4,8"], "must be a list"),
        (["oscillators.rings=[4,8]"], "engram.slots names slot 2"),
        (["oscillators.rings=[4]", "oscillators.injections.1.slots=[0]"], "or add rings"),
        (["oscillators.injections.0.slots=[3]"], "phase_attention.slots is"),
        (["oscillators.injections.1.slots=[0,5]"], "4 rings there are 3 slots"),
        (["oscillators.injections.1.slots=[]"], "name each slot once"),
        (["oscillators.phase_seed.sha256=ab"], "64 lower-case hex digits"),
        (["oscillators.phase_seed.levels=7"], "use 1 to 4"),
        (["drafts.heads=300"], "at most 255 heads"),
        (["drafts.heads=0"], "1 or more"),
        (["latents.ahead=256"], "at most 255"),
    ],
)
def test_organs_that_do_not_fit_are_refused_in_one_sentence(capsys, settings, said):
    assert said in complaint(capsys, "describe", "positronic-tiny", "--set", *settings)


def test_training_refuses_what_does_not_fit_before_a_run_is_begun(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("POSITRONIC_CACHE", str(tmp_path / "cache"))
    (tmp_path / "text.txt").write_text("The lamp on the desk was lit, and nobody had lit it.\n\n" * 40, "utf-8")
    words = ["train", "--model", "positronic-tiny", "--data", tmp_path / "text.txt", "--tokenizer", folder]
    words += ["--out", tmp_path / "run", "--steps", "1", "--device", "cpu", "--set"]
    assert "engram.slots" in complaint(capsys, *words, "oscillators.rings=[4,8]")
    assert "at most 255 heads" in complaint(capsys, *words, "drafts.heads=300")
    assert not (tmp_path / "run").exists()


def test_the_models_own_drafts_change_no_token_and_save_forwards(folder, capsys):
    words = ["generate", folder, *GREEDY, "--exact", "--json"]
    plain = answer(capsys, *words)
    heads = answer(capsys, *words, "--speculative")
    lookup = answer(capsys, *words, "--speculative", "--drafts", "lookup")
    assert heads["tokens"] == lookup["tokens"] == plain["tokens"]
    assert heads == answer(capsys, *words, "--speculative", "--drafts", "heads") | {"seconds": heads["seconds"]}
    assert heads["draft"]["proposed"] > 24, "heads draft in every forward"
    assert heads["draft"] != lookup["draft"]
    assert len(heads["tokens"]) == heads["forwards"] + heads["draft"]["accepted"]


def test_drafts_of_heads_that_are_not_there_are_refused_and_lookup_is_named(headless, capsys):
    words = ["generate", headless, *GREEDY]
    assert "--drafts lookup" in complaint(capsys, *words, "--speculative", "--drafts", "heads")
    assert "add --speculative" in complaint(capsys, *words, "--drafts", "lookup")
    assert "--drafts lookup" in complaint(capsys, "chat", headless, "--speculative", "--drafts", "heads")
    assert main([str(word) for word in [*words, "--speculative"]]) == 0
    assert "looked up in the text" in capsys.readouterr().err
    assert main([str(word) for word in [*words, "--speculative", "--drafts", "lookup"]]) == 0
    assert "looked up in the text" not in capsys.readouterr().err


def test_a_kept_conversation_goes_on_and_belongs_to_one_model(folder, tmp_path, capsys):
    file, words = tmp_path / "talk.safetensors", ["generate", folder, *GREEDY, "--exact", "--json"]
    first = answer(capsys, *words, "--keep-memory", file)
    second = answer(capsys, *words, "--keep-memory", file)
    assert second["prompt_tokens"] == 2 * first["prompt_tokens"] + len(first["tokens"])
    assert second["tokens"] != first["tokens"], "the second answer does not know of the first"
    other = save(tmp_path / "other", oscillators(seed=1), TOKENS)
    said = complaint(capsys, "generate", other, *GREEDY, "--keep-memory", file)
    assert f"--keep-memory {file} belongs to another model" in said


def test_frozen_memories_stay_empty(folder, tmp_path, capsys):
    words, model = ["generate", folder, *GREEDY, "--json", "--keep-memory"], load(folder)[0]
    answer(capsys, *words, tmp_path / "written")
    answer(capsys, *words, tmp_path / "frozen", "--freeze-memory")
    written, frozen = (load_conversation(tmp_path / name, model).state for name in ("written", "frozen"))
    assert _stores(written).abs().max() > 0.01
    assert _stores(frozen).abs().max() == 0


def _stores(state):
    """What all specialists keep."""
    organs = [organ for layer in state.layers if isinstance(layer, PartsState) for organ in layer.parts]
    return torch.cat([organ.stores for organ in organs if isinstance(organ, SlotsState)])


def test_a_table_that_this_build_makes_otherwise_is_refused_wherever_it_is_read(folder, tmp_path, capsys, monkeypatch):
    (found,) = answer(capsys, "fractal", "verify", folder, "--json")["tables"]
    assert found["pinned"]
    assert found["columns"] == 60
    assert found["sha256"] == load(folder)[0].config.oscillators.phase_seed.sha256
    (tmp_path / "text.txt").write_text("The lamp.", "utf-8")
    monkeypatch.setattr("positronic.traits.fractal_phase.ANGLE_STEPS", 2**12)
    assert f"its config asks for {found['sha256']}" in complaint(capsys, "fractal", "verify", folder)
    for words in (["generate", folder, *GREEDY], ["chat", folder], ["eval", folder, "--data", tmp_path / "text.txt"]):
        said = complaint(capsys, *words)
        assert f"fractal_phase.sha256 asks for {found['sha256']}" in said
        assert "trained with" in said


def test_the_demo_compares_drafts(folder):
    model, _ = load(folder)
    drafted = with_and_without_drafts(model, TOKENS, "The lamp", 24)
    assert drafted.plain.tokens == drafted.drafted.tokens
    table = drafted.table()
    assert [row[1] for row in table.rows] == ["24", str(drafted.drafted.forwards)]
    assert f"of which {drafted.drafted.draft.accepted} were kept" in table.note


def test_the_demo_notices_drafts_that_change_the_text(folder, monkeypatch):
    straight = generation.generate

    def crooked(model, tokenizer, prompt, **settings):
        return straight(model, tokenizer, prompt + "s" * bool(settings["speculative"]), **settings)

    model, _ = load(folder)
    monkeypatch.setattr(generation, "generate", crooked)
    with pytest.raises(AssertionError, match="drafts changed the text"):
        with_and_without_drafts(model, TOKENS, "The lamp", 24)
