"""A sixth family costs its mixer and ten lines: laws, decoding, files, Transformers, health and ablation follow."""

import inspect
import sys
from pathlib import Path

import pytest
import torch
from toy import LoopingConfig, ToyConfig

sys.path.append(str(Path(__file__).parents[1]))

import laws
import positronic
from positronic.checkpoint import save
from positronic.generation import generate
from positronic.models import build
from positronic.observe import ablate, describe, health
from positronic.observe.ablate import mixers_of
from positronic.state import ForwardOptions
from positronic.text import byte_tokenizer

TOKENIZER = byte_tokenizer()
CONFIG = ToyConfig(vocab_size=384, d_model=48, context=64, max_positions=256, boundary_id=TOKENIZER.eot_id)


def spoken(model, **how):
    return list(generate(model, TOKENIZER, "A lamp", temperature=0, max_new_tokens=20, **how))[-1].result.tokens


@pytest.fixture(scope="module")
def toy():
    return laws.enliven(build(CONFIG, 1))


def test_the_family_is_ten_lines():
    assert len(inspect.getsource(ToyConfig).splitlines()) <= 10


def test_its_mixer_obeys_the_laws(toy):
    mixer = laws.enliven(CONFIG.fading.build(laws.D))
    for cut in laws.CUTS:
        laws.test_feeding_in_parts_equals_feeding_at_once(mixer, cut, 0)
    for kept in range(6):
        laws.test_committing_a_part_equals_never_having_fed_the_rest(mixer, kept, 0)
    for law in (
        laws.test_the_future_cannot_change_the_past,
        laws.test_padding_changes_nothing,
        laws.test_rows_at_different_places_go_on_as_each_alone,
        laws.test_packed_documents_do_not_see_each_other,
        laws.test_select_branches_without_sharing,
        laws.test_rows_do_not_talk_to_each_other,
        laws.test_every_parameter_gets_gradient,
    ):
        law(mixer)


def test_it_is_decoded_counted_and_kept(toy, tmp_path):
    assert spoken(toy) == spoken(toy, cache=False) == spoken(toy, speculative=True)
    assert describe(CONFIG).total == sum(p.numel() for p in toy.parameters())
    loaded, _ = positronic.load(save(tmp_path / "toy", toy, TOKENIZER))
    assert spoken(loaded) == spoken(toy)


def test_transformers_reads_it(toy, tmp_path):
    transformers = pytest.importorskip("transformers")
    import positronic.adapters.hf  # noqa: F401  (registers)

    folder = save(tmp_path / "toy", toy, TOKENIZER)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder)
    tokens = torch.tensor([TOKENIZER.encode("A lamp")])
    text = theirs.generate(tokens, max_new_tokens=20, do_sample=False, eos_token_id=None)[0, tokens.shape[1] :]
    assert text[: len(spoken(toy))].tolist() == list(spoken(toy))


def test_its_parts_are_looked_at_and_switched_off(toy):
    rows = torch.randint(0, 256, (2, 32), generator=torch.Generator().manual_seed(0))
    found = health(toy, rows)
    assert {line.layer for line in found.lines if line.layer is not None} == {1, 2}
    with torch.no_grad():
        whole = toy.logits(toy(rows).hidden)
        for probe in mixers_of(toy).values():
            moved = toy.logits(toy(rows, options=ForwardOptions(probe=probe)).hidden)
            assert not torch.equal(moved, whole)
    with pytest.raises(positronic.errors.PositronicError, match="organ"):
        ablate(toy, ["stations"])


def test_a_trunk_that_is_walked_otherwise_is_the_same_family_base():
    """Layers twice, the last once: another walk, and nothing else."""
    straight = laws.enliven(build(CONFIG, 1))
    looping = laws.enliven(build(LoopingConfig(**{f: getattr(CONFIG, f) for f in laws.SIZES}), 1))
    assert straight.state_dict().keys() == looping.state_dict().keys()
    tokens = laws.tokens_of(2, 17, end=True)
    said = laws.logits_of(looping, tokens)
    assert (said - laws.logits_of(straight, tokens)).abs().max() > 1e-3
    for cut in laws.CUTS:
        assert (laws.stream(looping, tokens, cut)[0] - said).abs().max() < 1e-4
    assert spoken(looping) == spoken(looping, cache=False) == spoken(looping, speculative=True)
