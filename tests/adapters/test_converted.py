"""GPT-2 and Llama as models of ours, back in Transformers: through the adapter, exported, tuned, resized, merged."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hf_example import said
from torch.nn import functional as F

sys.path.append(str(Path(__file__).parents[1] / "checkpoint"))
from foreign_example import ENTRIES, gpt2, gpt2_tokenizer, llama, llama_tokenizer, saved
from transformers import AutoModel, AutoModelForCausalLM

import positronic
import positronic.adapters.hf
from positronic.adapters.export import export_remote_code
from positronic.adapters.vllm import unservable
from positronic.checkpoint import convert
from positronic.errors import ConfigError

MAKE = {
    "gpt2": lambda: (gpt2(), gpt2_tokenizer()),
    "gpt2-untied": lambda: (gpt2(tie_word_embeddings=False), gpt2_tokenizer()),
    "llama": lambda: (llama(attention_bias=True), llama_tokenizer()),
}
PAD = 1
"""In no text here: `generate` takes it out of prompts."""
TOKENS = torch.randint(2, ENTRIES, (2, 24), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module", params=MAKE)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def place(name, tmp_path_factory):
    """The folder that holds "theirs" and "ours"."""
    place = tmp_path_factory.mktemp(name)
    convert(saved(*MAKE[name](), place / "theirs"), place / "ours")
    return place


@pytest.fixture(scope="module")
def theirs(place):
    return AutoModelForCausalLM.from_pretrained(place / "theirs").eval()


@pytest.fixture
def ours(place):
    return AutoModelForCausalLM.from_pretrained(place / "ours").eval()


@torch.no_grad()
def logits_of(model, tokens=TOKENS):
    return model(tokens).logits[..., :ENTRIES]


def close(a, b):
    return (a - b).abs().max() < 1e-5 * b.abs().max()


@torch.no_grad()
def test_the_adapter_says_what_the_original_says(name, theirs, ours, place):
    assert ours.config.tie_word_embeddings == (name == "gpt2")
    assert close(logits_of(ours), logits_of(theirs))
    prompt = TOKENS[0, :7].tolist()
    assert said(ours, prompt, 30) == said(theirs, prompt, 30, pad_token_id=PAD)
    assert said(ours, prompt, 30, use_cache=False) == said(ours, prompt, 30)
    mask = torch.ones_like(TOKENS)
    mask[0, :5] = 0
    apart = logits_of(ours, TOKENS[:1, 5:])
    assert close(ours(TOKENS, attention_mask=mask).logits[:1, 5:, :ENTRIES], apart)
    hidden = AutoModel.from_pretrained(place / "ours")(TOKENS).last_hidden_state
    assert close(F.linear(hidden, ours.get_output_embeddings().weight), ours(TOKENS).logits)
    seen = [model(TOKENS, output_hidden_states=True).hidden_states for model in (ours, theirs)]
    assert all(close(a, b) for a, b in zip(*seen, strict=True))


def test_vectors_in_place_of_tokens_have_places_too(theirs, ours):
    with torch.no_grad():
        vectors = theirs.get_input_embeddings()(TOKENS)
        assert close(ours(inputs_embeds=vectors).logits[..., :ENTRIES], logits_of(theirs))


def test_what_is_saved_is_a_checkpoint_again(ours, tmp_path):
    ours.save_pretrained(tmp_path)
    model, tokenizer = positronic.load(tmp_path)
    assert tokenizer.vocab_size == ENTRIES + 127
    with torch.no_grad():
        assert torch.equal(model.logits(model(TOKENS).hidden), ours(TOKENS).logits)


def test_other_sizes_and_matrices_fit_both_ends(ours, tmp_path):
    before, tied = logits_of(ours), ours.config.tie_word_embeddings
    ours.resize_token_embeddings(ENTRIES + 200)
    assert close(logits_of(ours), before)
    head = ours.get_output_embeddings()
    assert head.weight.shape == (ENTRIES + 200, 32)
    assert (head.weight is ours.get_input_embeddings().weight) == tied
    ours.save_pretrained(tmp_path)
    assert torch.equal(logits_of(AutoModelForCausalLM.from_pretrained(tmp_path)), logits_of(ours))
    other = torch.nn.Linear(32, ENTRIES + 200, bias=False)
    if tied:
        with pytest.raises(ConfigError, match="set_input_embeddings"):
            ours.set_output_embeddings(other)
        return
    ours.set_output_embeddings(other)
    assert ours.get_output_embeddings() is other
    assert not close(logits_of(ours), before)
    with pytest.raises(ConfigError, match="A head of 5 x 32 does not fit"):
        ours.set_output_embeddings(torch.nn.Linear(32, 5))


def test_thin_matrices_train_and_merge(ours, tmp_path):
    peft = pytest.importorskip("peft")
    before = logits_of(ours)
    targets = ["qkv", "embed"] if not ours.config.tie_word_embeddings else ["qkv"]
    tuned = peft.get_peft_model(ours, peft.LoraConfig(r=4, target_modules=targets, task_type="CAUSAL_LM"))
    optimizer = torch.optim.SGD([p for p in tuned.parameters() if p.requires_grad], lr=1.0)
    for _ in range(2):
        optimizer.zero_grad()
        tuned(input_ids=TOKENS, labels=TOKENS).loss.backward()
        optimizer.step()
    tuned.eval()
    changed = logits_of(tuned)
    assert not close(changed, before)
    merged = tuned.merge_and_unload()
    assert close(logits_of(merged), changed)


def test_an_export_says_it_where_positronic_is_not(name, place, theirs):
    export_remote_code(place / "ours", place / "export")
    prompt = TOKENS[0, :7].tolist()
    job = {"folder": str(place / "export"), "again": str(place / "again"), "tokens": TOKENS.tolist(), "prompt": prompt}
    (place / "jobs.json").write_text(json.dumps({"jobs": {name: job}, "refused": [], "broken": []}))
    ended = subprocess.run(
        [sys.executable, "-I", str(Path(__file__).with_name("stranger.py")), str(place / "jobs.json")],
        env={"HF_HOME": str(place / "hub"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        cwd=place,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr[-4000:]
    told = json.loads(ended.stdout)
    found = told.get("jobs", told)[name]
    assert close(torch.tensor(found["logits"])[..., :ENTRIES], logits_of(theirs))
    assert found["base_model_agrees"]
    assert found["cached"] == found["uncached"] == said(theirs, prompt, 16, pad_token_id=PAD)


def test_an_engine_of_pages_may_serve_it(place):
    model, _ = positronic.load(place / "ours")
    assert unservable(model, frozen=False) is None
