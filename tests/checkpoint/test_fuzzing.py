"""A thousand harmed configs, manifests, checkpoints, overrides and kept conversations, digests made to fit again.

Each ends in a sentence or in something that can be used, within the CPU time and memory of `bounded`. A seed names its
harm for good: run `pytest -k "kept and 17"` to see one again. `make test-slow` runs all of them, `make test` the first.
"""

import json
import random
import shutil
import struct

import pytest
import torch
from checkpoint_example import logits, parts, put_parts
from mutations import CONFIG, WEIGHTS, rehash
from mutations_of_json import harmed, nested

from bounded import bounded
from config_walk import WHOLE
from positronic.checkpoint import conversation_state, load, load_conversation, read_config, save, save_conversation
from positronic.checkpoint.manifest import json_digest
from positronic.checkpoint.tensors import digest
from positronic.cli.parts.named_models import find_model_config
from positronic.config import ModelConfig, override
from positronic.generation import generate
from positronic.models import build
from positronic.observe import describe
from positronic.text import byte_tokenizer


def seeds(n: int, quick: int):
    """The first few always, all of them in `make test-slow`."""
    return [pytest.param(seed, id=f"seed-{seed}", marks=[] if seed < quick else pytest.mark.slow) for seed in range(n)]


def usable(config: ModelConfig) -> None:
    """A config that was taken describes a model that can be counted, and one that is small can be run."""
    if describe(config).total < 1e6:
        model, tokens = build(config), torch.arange(6)[None] % config.vocab_size
        model.logits(model(tokens).hidden)


@pytest.mark.parametrize("family", WHOLE)
@pytest.mark.parametrize("seed", seeds(60, 3))
def test_a_harmed_config_is_refused_or_a_model(family, seed, tmp_path):
    draw = random.Random(f"config {family} {seed}")
    data = harmed(WHOLE[family].to_json(), draw)
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"core": data} if draw.random() < 0.5 else data), "utf-8")
    found = bounded(lambda: find_model_config(str(file)))
    if isinstance(found, ModelConfig):
        bounded(lambda: usable(found))


@pytest.mark.parametrize("family", WHOLE)
@pytest.mark.parametrize("seed", seeds(30, 2))
def test_a_harmed_override_is_refused_or_a_model(family, seed):
    draw = random.Random(f"override {family} {seed}")
    tree = WHOLE[family].to_json()
    changed = harmed(tree, draw)
    differ = [key for key in tree if changed.get(key) != tree[key]] if isinstance(changed, dict) else []
    settings = [f"{key}={json.dumps(changed.get(key))}" for key in differ] or [f"n_layers={json.dumps(changed)}"]
    settings += draw.sample(["context=", "=3", "attention..rank=1", "n_layers=1e9", "d_model=\x00", "n_layers.0=1"], 1)
    for some in (settings, settings[:-1]):
        found = bounded(lambda some=some: override(WHOLE[family], some))
        if isinstance(found, ModelConfig):
            bounded(lambda found=found: describe(found))


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """A checkpoint of every family, and its logits."""
    tokenizer, made = byte_tokenizer(), {}
    for family, config in WHOLE.items():
        model = build(config.fitted(tokenizer.vocab_size, tokenizer.eot_id), 1).eval()
        made[family] = save(tmp_path_factory.mktemp(family) / "whole", model, tokenizer), logits(model)
    return made


def refit(folder) -> None:
    """Make every digest of the manifest fit, those of the content too."""
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    config = json.loads((folder / CONFIG).read_text("utf-8"))
    if isinstance(config, dict):
        manifest["content"]["config"] = json_digest(config.get("core"))
    (folder / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    rehash(folder)


@pytest.mark.parametrize("family", WHOLE)
@pytest.mark.parametrize("seed", seeds(40, 2))
def test_a_checkpoint_with_another_config_is_refused_or_the_same_model(family, seed, checkpoints, tmp_path):
    """Whoever made its digests fit: the tensors that lie beside it are looked at before a model is."""
    whole, its_logits = checkpoints[family]
    folder, draw = shutil.copytree(whole, tmp_path / "harmed"), random.Random(f"checkpoint {family} {seed}")
    data = json.loads((folder / CONFIG).read_text("utf-8"))
    if draw.random() < 0.8:
        data["core"] = harmed(data["core"], draw)
        if isinstance(data["core"], dict):
            data["vocab_size"] = data["core"].get("vocab_size")
    else:
        data = harmed(data, draw)
    (folder / CONFIG).write_text(json.dumps(data), "utf-8")
    bounded(lambda: refit(folder))
    bounded(lambda: read_config(folder))
    found = bounded(lambda: load(folder))
    if not isinstance(found, str):
        assert bounded(lambda: logits(found[0])).shape == its_logits.shape


@pytest.mark.parametrize("seed", seeds(150, 5))
def test_a_harmed_manifest_is_refused_or_says_the_same(seed, checkpoints, tmp_path):
    draw = random.Random(f"manifest {seed}")
    whole, its_logits = checkpoints[draw.choice(sorted(checkpoints))]
    folder = shutil.copytree(whole, tmp_path / "harmed")
    path = folder / "manifest.json"
    path.write_text(json.dumps(harmed(json.loads(path.read_text("utf-8")), draw)), "utf-8")
    found = bounded(lambda: load(folder))
    assert isinstance(found, str) or torch.equal(logits(found[0]), its_logits)


@pytest.mark.parametrize("seed", seeds(150, 5))
def test_a_harmed_header_of_tensors_is_refused_or_says_the_same(seed, checkpoints, tmp_path):
    draw = random.Random(f"header {seed}")
    whole, its_logits = checkpoints[draw.choice(sorted(checkpoints))]
    folder = shutil.copytree(whole, tmp_path / "harmed")
    header, data = parts(folder / WEIGHTS)
    put_parts(folder / WEIGHTS, harmed(header, draw), data)
    rehash(folder)
    found = bounded(lambda: load(folder))
    assert isinstance(found, str) or torch.equal(logits(found[0]), its_logits)


@pytest.fixture(scope="module", params=WHOLE)
def kept(request, tmp_path_factory):
    """A model of a family, a conversation of it in a file, and the file's body."""
    tokenizer = byte_tokenizer()
    config = WHOLE[request.param].replace(vocab_size=tokenizer.vocab_size, boundary_id=tokenizer.eot_id)
    model = build(config, 1).eval()
    said = list(generate(model, tokenizer, "The lamp is lit", max_new_tokens=6))[-1].result.state
    file = save_conversation(tmp_path_factory.mktemp("kept") / "kept.safetensors", said, model, tokenizer)
    return request.param, model, tokenizer, file


TYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.long, torch.int32, torch.bool, torch.uint8]


def harmed_tensors(tensors: dict[str, torch.Tensor], draw: random.Random) -> dict[str, torch.Tensor]:
    """Another type, another shape, other values, another name."""
    tensors = dict(tensors)
    for _ in range(draw.choice([1, 1, 2, 3])):
        name = draw.choice(sorted(tensors))
        tensor = tensors[name].clone()
        what = draw.randrange(7)
        if what == 0:
            tensor = tensor.to(draw.choice(TYPES))
        elif what == 1:
            extent = draw.randrange(tensor.dim()) if tensor.dim() else 0
            tensor = torch.cat([tensor] * draw.choice([2, 3]), extent) if tensor.dim() else tensor[None]
        elif what == 2:
            tensor = tensor[:0] if tensor.dim() else tensor[None, None]
        elif what == 3:
            tensor = tensor.flatten() if draw.random() < 0.5 else tensor[None]
        elif what == 4 and tensor.numel():
            wrong = [float("nan"), float("inf"), 1e30] if tensor.is_floating_point() else [-7, 10**6, 2**62]
            tensor.view(-1)[draw.randrange(tensor.numel())] = draw.choice(wrong if tensor.dtype != torch.bool else [0])
        elif what == 5:
            tensor = tensors[draw.choice(sorted(tensors))].clone()
        else:
            del tensors[name]
            name = draw.choice(["tokens", "hidden", "state", "state.layers", name + ".0", name.rpartition(".")[0], ""])
        tensors[name] = tensor
        if not tensors:
            break
    return tensors


@pytest.mark.parametrize("seed", seeds(60, 4))
def test_a_harmed_kept_conversation_is_refused_or_goes_on(seed, kept, tmp_path):
    """Its digests fit: whoever can write a file can hash it."""
    family, model, tokenizer, file = kept
    draw = random.Random(f"kept {family} {seed}")
    with conversation_state.safe_open(file, framework="pt") as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        body = json.loads(opened.metadata()["conversation"])
    del body["digest"]
    if draw.random() < 0.6:
        tensors = harmed_tensors(tensors, draw)
        body["tensors"] = {name: digest(name, tensor) for name, tensor in tensors.items()}
    else:
        place = draw.choice(["exact", "writes", "tensors", None])
        body = harmed(body, draw) if place is None else body | {place: harmed(body[place], draw)}
    if draw.random() < 0.2:
        body["exact"] = {"width": draw.choice([5, 8, 10**9]), "threads": draw.choice([1, 10**9]), "room": 10**9}
    if isinstance(body, dict):
        body = body | {"digest": conversation_state.json_digest(body)}
    harmed_file = tmp_path / "kept.safetensors"
    harmed_file.write_bytes(conversation_state.to_safetensors(tensors, {"conversation": json.dumps(body)}))

    found = bounded(lambda: load_conversation(harmed_file, model, tokenizer))
    if not isinstance(found, str):
        bounded(lambda: list(generate(model, tokenizer, " and", state=found, max_new_tokens=3)))


@pytest.mark.parametrize("levels", [65, 500, 100_000])
@pytest.mark.parametrize("name", [CONFIG, "manifest.json", "train/state.json", "generation_config.json"])
def test_json_without_end_is_a_sentence_wherever_it_stands(levels, name, checkpoints, tmp_path):
    folder = shutil.copytree(checkpoints["transformer"][0], tmp_path / "harmed")
    (folder / "train").mkdir()
    for text in ("[" * levels + "]" * levels, '{"a":' * levels + "1" + "}" * levels, "[" * levels):
        (folder / name).write_text(text)
        if name != "manifest.json":
            rehash(folder)
        found = bounded(lambda: load(folder))
        assert isinstance(found, str) == (name in (CONFIG, "manifest.json"))
        assert isinstance(bounded(lambda: find_model_config(str(folder / CONFIG))), str) == (name == CONFIG)


@pytest.mark.parametrize("levels", [65, 500, 100_000])
def test_a_header_or_a_conversation_without_end_is_a_sentence(levels, kept, tmp_path):
    _, model, tokenizer, _ = kept
    harmed_file = tmp_path / "kept.safetensors"
    for text in ('{"a":' * levels + "1" + "}" * levels, json.dumps(nested(min(levels, 400), random.Random(levels)))):
        harmed_file.write_bytes(
            conversation_state.to_safetensors({"tokens": torch.zeros(1).long()}, {"conversation": text})
        )
        assert isinstance(bounded(lambda: load_conversation(harmed_file, model, tokenizer)), str)
        harmed_file.write_bytes(struct.pack("<Q", len(text)) + text.encode())
        assert isinstance(bounded(lambda: load_conversation(harmed_file, model, tokenizer)), str)
