"""An exported folder is the same model where positronic is not, and still a checkpoint of ours where it is."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hf_example import MODELS, PROMPT, greedy, rows
from safetensors.torch import load_file

pytest.importorskip("transformers")

from transformers import AutoModelForCausalLM, AutoTokenizer

import positronic
from positronic.adapters.export import export_checkpoint, export_remote_code
from positronic.adapters.export.card import held_out_score
from positronic.adapters.export.flatten import faults
from positronic.adapters.export.folder import code_of
from positronic.adapters.hf import PositronicForCausalLM
from positronic.checkpoint import adopt, save
from positronic.errors import CheckpointError, ConfigError
from positronic.mixers.attention import AttentionConfig
from positronic.models import PRESETS
from positronic.text import Message, byte_tokenizer, render

TOKENS = rows(1, 24)
HALF = "mycel"
"""The family that is exported once more, as bfloat16 and in pieces, and fetched from a hub."""
REVISION = 40 * "a"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """For each family NAME the checkpoint NAME-ours and its export NAME."""
    place = tmp_path_factory.mktemp("exports")
    for name, model in MODELS.items():
        save(place / f"{name}-ours", model.speaking(), byte_tokenizer())
        export_remote_code(place / f"{name}-ours", place / name)
    half = place / "hub" / "hub" / "models--someone--half"  # as it lies in the cache once it was fetched
    export_remote_code(place / f"{HALF}-ours", half / "snapshots" / REVISION, dtype="bfloat16", shard_bytes=100_000)
    (half / "refs").mkdir()
    (half / "refs" / "main").write_text(REVISION)
    return place


@pytest.fixture(scope="module")
def told(place):
    """What a process without positronic says of all exports."""
    folders = {name: f"{place / name}" for name in MODELS} | {"half": "someone/half"}
    asked = {"tokens": TOKENS.tolist(), "prompt": PROMPT}
    jobs = {name: asked | {"folder": folder, "again": f"{place / name}-kept"} for name, folder in folders.items()}
    refused = [f"{place / 'metric'}", f"{place / 'metric-ours'}"]
    broken = list(map(str, broken_copies(place)))
    (place / "jobs.json").write_text(json.dumps({"jobs": jobs, "refused": refused, "broken": broken}))
    stranger = Path(__file__).with_name("stranger.py")
    ended = subprocess.run(
        [sys.executable, "-I", str(stranger), str(place / "jobs.json")],
        env={"HF_HOME": f"{place / 'hub'}", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        cwd=place,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr[-4000:]
    return json.loads(ended.stdout)


def broken_copies(place):
    """Exports of which a bit was flipped, a shard was cut, and weights were pickled."""
    flipped = shutil.copytree(place / "control", place / "flipped")
    cut = place / "cut"
    export_remote_code(place / "control-ours", cut, shard_bytes=100_000)
    lost = shutil.copytree(place / "control", place / "lost")
    weights = flipped / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-9] ^= 4
    weights.write_bytes(bytes(data))
    shard = sorted(cut.glob("model-*.safetensors"))[-1]
    shard.write_bytes(shard.read_bytes()[:-8])
    torch.save(load_file(lost / "model.safetensors"), lost / "pytorch_model.bin")
    for name in ("model.safetensors", "manifest.json"):
        (lost / name).unlink()
    return flipped, cut, lost


def logits_of(model) -> torch.Tensor:
    with torch.no_grad():
        return model.logits(model(TOKENS).hidden)


def test_positronic_was_not_there(told, family):
    assert told["ours"] == []
    assert told[family]["classes"] == ["transformers_modules", "transformers_modules"]


def test_logits_are_ours(told, place, family):
    ours = logits_of(positronic.load(place / f"{family}-ours")[0])
    theirs = torch.tensor(told[family]["logits"])
    assert told[family]["dtype"] == "torch.float32"
    assert (theirs - ours).abs().max() < 1e-5 * ours.abs().max(), "roundings: another process has other threads"
    assert told[family]["base_model_agrees"]


def test_greedy_text_is_ours_with_a_cache_and_without(told, place, family):
    text = greedy(positronic.load(place / f"{family}-ours")[0], PROMPT, 16)
    assert told[family]["cached"] == text
    assert told[family]["uncached"] == text


def test_exported_code_reads_no_pickle_and_no_other_weights_than_were_saved(told):
    flipped, cut, lost = told["broken"].values()
    assert "CheckpointError" in flipped
    assert "not the file that was saved" in flipped
    assert "was saved with" in cut
    assert "never unpickles" in lost


def test_what_else_is_asked_of_a_model_is_answered_there_too(told, place, family):
    model, tokenizer = positronic.load(place / f"{family}-ours")
    typed = [Message("user", "<|im_end|>\n<|im_start|>")]
    assert told[family]["drafted"] == told[family]["cached"]
    assert told[family]["stopped"] == told[family]["cached"]
    assert told[family]["hidden"] == model.config.n_layers + 1
    assert told[family]["scored"] == [1, 2]
    assert told[family]["typed"] == render(tokenizer, typed).ids


def test_the_pipeline_answers_strings_and_chats(told, place, family):
    model, tokenizer = positronic.load(place / f"{family}-ours")
    asked = AutoTokenizer.from_pretrained(place / f"{family}-ours")
    chat = asked.apply_chat_template([{"role": "user", "content": "Hello"}], add_generation_prompt=True)["input_ids"]
    expected = [tokenizer.decode(greedy(model, ids, 4)) for ids in (PROMPT, chat)]
    assert told[family]["spoken"] == expected
    assert any(expected)


def test_the_tokenizer_needs_no_code(told, family):
    assert told[family]["tokenizer"] == "TokenizersBackend"
    assert told[family]["prompt"] == PROMPT
    assert told[family]["chat"] == "<|im_start|><|user|>\nHello<|im_end|>\n"


def test_it_trains_on_the_same_loss(told, place, family):
    """With the parts of organs and heads, and every parameter is reached that is reached in the package."""
    model = AutoModelForCausalLM.from_pretrained(place / f"{family}-ours").train()
    loss = model(TOKENS, labels=TOKENS).loss
    loss.backward()
    reached = sum(float(p.grad.abs().sum()) > 0 for p in model.parameters() if p.grad is not None)
    assert told[family]["loss"] == [pytest.approx(loss.item(), rel=1e-6), reached]


def test_what_it_saves_opens_again_and_can_come_home(told, place, family):
    assert told[family]["kept"]
    kept = place / f"{family}-kept"
    with pytest.raises(CheckpointError, match=r"positronic\.checkpoint\.adopt"):
        positronic.load(kept)
    adopt(kept)
    assert torch.equal(logits_of(positronic.load(kept)[0]), logits_of(positronic.load(place / f"{family}-ours")[0]))


def test_half_the_bits_in_pieces_from_a_hub_are_our_own_half(told, place):
    ours = logits_of(positronic.load(place / f"{HALF}-ours", dtype=torch.bfloat16)[0])
    theirs = torch.tensor(told["half"]["logits"])
    assert told["half"]["dtype"] == "torch.bfloat16"
    assert len(list((place / "hub").rglob("snapshots/*/model-*.safetensors"))) > 2
    assert (theirs - ours.float()).abs().max() < 1e-2 * ours.abs().max()
    assert told["half"]["cached"] == told["half"]["uncached"]


def test_without_trust_transformers_asks_for_it_and_the_card_names_the_other_way(told, place):
    exported, plain = told["refused"].values()
    assert "trust_remote_code=True" in exported
    assert str(place / "metric") in exported  # where the card lies
    card = (place / "metric" / "README.md").read_text()
    assert "import positronic.adapters.hf" in card
    assert "trust_remote_code=True" in card
    assert "`positronic`" in plain  # the model type, in Transformers' own words; the card repeats them
    assert "the model type `positronic`" in card


def test_where_the_package_is_imported_its_own_code_runs(place, tmp_path, family):
    model = AutoModelForCausalLM.from_pretrained(place / family, trust_remote_code=True)
    assert type(model) is PositronicForCausalLM
    model.save_pretrained(tmp_path / "again")
    assert "auto_map" not in json.loads((tmp_path / "again" / "config.json").read_text())
    assert torch.equal(logits_of(positronic.load(tmp_path / "again")[0]), logits_of(model.lm))


def test_an_export_is_a_checkpoint_whose_card_and_code_are_free(place, family):
    card, code = place / family / "README.md", place / family / "errors.py"
    for file in (card, code):
        file.write_text(file.read_text() + "\n")
    assert torch.equal(
        logits_of(positronic.load(place / family)[0]), logits_of(positronic.load(place / f"{family}-ours")[0])
    )
    assert {oct(file.stat().st_mode & 0o777) for file in (place / family).iterdir()} == {"0o644"}


def test_an_export_brings_the_code_of_one_family(family):
    others = {
        "quazimoto": "mixers_kuramoto",
        "mycel": "mixers_colony",
        "metric": "mixers_metric_attention",
        "chimera": "mixers_titans",
    }
    code = code_of(MODELS[family].config)
    assert {name for name in others.values() if name in code} == {others[name] for name in [family] if name in others}
    rooms = {name.partition("_")[0] for name in code}
    assert rooms.isdisjoint({"cli", "recipes", "serve", "viz", "observe", "eval"})
    assert not any("triton" in name for name in code)


@pytest.mark.parametrize(
    "name", ["tinygpt-tiny", "positronic-144m", "mycel-79m", "moa-400m", "moa-dot-150m", "chimera-35m"]
)
def test_every_import_and_every_name_of_an_export_leads_somewhere(name, tmp_path):
    code = code_of(PRESETS[name]())
    assert faults(code) == []
    for file, text in code.items():
        (tmp_path / f"{file}.py").write_text(text)
    ruff = [sys.executable, "-m", "ruff", "check", "--isolated", "--no-cache", "--select", "E9,F63,F7,F82"]
    found = subprocess.run([*ruff, str(tmp_path)], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout


def test_code_from_elsewhere_cannot_be_exported():
    stray = type("Stray", (AttentionConfig,), {})()
    assert not type(stray).__module__.startswith("positronic.")
    with pytest.raises(ConfigError, match="Export it as safetensors"):
        code_of(MODELS["control"].config.replace(attention=stray))


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("from .nn_stack import Nothing", "a: there is no Nothing in .nn_stack"),
        ("from .absent import Stack", "a: there is no Stack in .absent"),
        ("from . import nn_stack", "a: there is no nn_stack in .None"),
        ("from ..nn_stack import Stack", "a: there is no Stack in ..nn_stack"),
        ("def f():\n    import einops.layers", "a: einops need not be installed"),
        ("from positronic.nn.stack import Stack", "a: positronic need not be installed"),
    ],
)
def test_an_import_that_leads_nowhere_is_found(line, fault):
    good = {"nn_stack": "import torch\nclass Stack: ...\n", "b": "from .nn_stack import Stack as S\n"}
    good["c"] = "try:\n    import einops\nexcept ImportError:\n    einops = None\n"
    assert faults(good) == []
    assert faults(good | {"a": line}) == [fault]


def test_types_are_kept_unless_another_is_asked_for(place, tmp_path):
    source = place / "control-ours"
    half = export_checkpoint(source, tmp_path / "half", dtype="float16")
    kept = export_checkpoint(half.folder, tmp_path / "kept")
    assert (half.dtype, kept.dtype) == ("float16", "float16")
    weights = [(folder / "model.safetensors").read_bytes() for folder in (half.folder, kept.folder)]
    assert weights[0] == weights[1]
    model = positronic.load(source)[0]
    rounded = positronic.load(half.folder)[0]
    assert next(rounded.parameters()).dtype == torch.float32
    assert all(torch.equal(b, a.half().float()) for a, b in zip(model.parameters(), rounded.parameters(), strict=True))
    assert torch.allclose(logits_of(rounded), logits_of(model), atol=0.05)


def test_nothing_is_written_over(place, tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "diary.txt").write_text("mine")
    for taken in (tmp_path / "taken", tmp_path / "taken" / "diary.txt", place / "control"):
        with pytest.raises(CheckpointError, match="Give the export a new name"):
            export_remote_code(place / "control-ours", taken)
    assert (tmp_path / "taken" / "diary.txt").read_text() == "mine"


def test_the_card_says_what_the_run_measured(tmp_path):
    events = [("evaluation", 10, 2.5), ("evaluation", 20, 2.25), ("step", 20, 9.0)]
    lines = [json.dumps({"event": kind, "step": step, "bits_per_byte": score}) for kind, step, score in events]
    (tmp_path / "metrics.jsonl").write_text("\n".join([*lines, '{"event": "evalua']))
    assert held_out_score(tmp_path / "step-00000020") == 2.25
    assert held_out_score(tmp_path / "step-00000030") is None
    save(tmp_path / "step-00000010", MODELS["control"].speaking(), byte_tokenizer())
    export_remote_code(tmp_path / "step-00000010", tmp_path / "out")
    assert "2.5000 bits per byte" in (tmp_path / "out" / "README.md").read_text()
