"""A trunk that is passed more than once, in Transformers: as often as usual, as drawn in training, or as asked."""

import pytest
import torch
from drafting import ids
from family_example import CHIMERA
from hf_example import MODELS, PROMPT, rows, said
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

from positronic.adapters.hf import speculative
from positronic.checkpoint import save
from positronic.data import TokenBatch
from positronic.errors import ConfigError, GenerationError
from positronic.generation import GREEDY, Mode, Stop, decode, prefill
from positronic.nn.loop import LoopConfig
from positronic.state import ForwardOptions
from positronic.text import byte_tokenizer
from positronic.train import NextTokenConfig

LAYERS = CHIMERA.small().n_layers


@pytest.fixture(scope="module")
def ours():
    return CHIMERA.speaking()


@pytest.fixture(scope="module")
def folder(ours, tmp_path_factory):
    return save(tmp_path_factory.mktemp("loops") / "model", ours, byte_tokenizer())


@pytest.fixture
def theirs(folder):
    return AutoModelForCausalLM.from_pretrained(folder)


def drawn(seed, loss, model):
    """The loss in training at depths of this seed, and its gradients."""
    model.train().zero_grad()
    torch.manual_seed(seed)
    value = loss()
    value.backward()
    return value.item(), {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


def by_labels(theirs, tokens):
    return lambda: theirs(tokens, labels=tokens).loss


def test_depths_in_training_are_drawn_as_in_our_own(theirs, ours):
    """One draw a call, whatever heads and z-loss add: the loss and its gradients are those of our objective."""
    tokens = rows(4, 20)
    targets, objective = F.pad(tokens[:, 1:], (0, 1)), NextTokenConfig().build()
    batch = TokenBatch(tokens, targets, (torch.arange(20) < 19).expand(4, -1))
    wanted, of_ours = drawn(1, lambda: objective(ours, batch, objective.counts(batch)).total, ours)
    ours.eval().zero_grad()
    found, of_theirs = drawn(1, by_labels(theirs, tokens), theirs)
    assert found == pytest.approx(wanted, rel=1e-6)
    for name, gradient in of_theirs.items():
        wanted = of_ours[name.removeprefix("model.")]
        assert (gradient - wanted).abs().max() <= 1e-4 * wanted.abs().max() + 1e-7, name
    assert len({drawn(seed, by_labels(theirs, tokens), theirs)[0] for seed in range(4)}) > 1


def test_recomputing_blocks_leaves_every_gradient_of_drawn_depths(theirs):
    tokens = rows(6, 20)
    value, plain = drawn(3, by_labels(theirs, tokens), theirs)
    theirs.activation_checkpointing_enable()
    again, recomputed = drawn(3, by_labels(theirs, tokens), theirs)
    assert again == value
    assert all(torch.equal(recomputed[name], gradient) for name, gradient in plain.items())


def test_a_call_may_say_how_often(theirs, ours):
    tokens = rows(2, 20)
    with torch.no_grad():
        usual = theirs(tokens).logits
        assert torch.equal(theirs(tokens, loops=2).logits, usual)
        for loops in (1, 4, "auto"):
            wanted = ours.logits(ours(tokens, options=ForwardOptions(loops=loops)).hidden)
            assert torch.equal(theirs(tokens, loops=loops, use_cache=False).logits, wanted)
            assert (wanted - usual).abs().max() > 1e-3 * usual.abs().max()
        hidden = theirs.base_model(tokens, loops=4).last_hidden_state
        assert torch.equal(theirs.get_output_embeddings()(hidden), theirs(tokens, loops=4).logits)


@pytest.mark.parametrize("loops", [None, 4, "auto"])
def test_text_of_a_depth_is_ours_with_drafts_and_without(theirs, ours, loops):
    mode = Mode(loops=loops)
    state, hidden = prefill(ours, ours.init_state(1), [PROMPT[:-1]], mode)
    stop = Stop(tokens={}, max_new_tokens=16)
    how = {"history": PROMPT, "hidden": hidden, "sampler": GREEDY, "stop": stop, "loops": loops}
    text = ids(list(decode(ours, state, PROMPT[-1], **how)))
    asked = {} if loops is None else {"loops": loops}
    for more in ({}, {"use_cache": False}, {"custom_generate": speculative}, {"prompt_lookup_num_tokens": 3}):
        assert said(theirs, PROMPT, 16, **asked, **more) == text
    assert loops is None or text != said(theirs, PROMPT, 16)


def test_a_depth_may_be_said_once_and_for_all(theirs, folder, tmp_path):
    """Also for programs that pass nothing on: in TRL's DPO policy and reference then have one depth."""
    model, tokens = AutoModelForCausalLM.from_pretrained(folder, loops=4), rows(2, 20)
    assert torch.equal(model(tokens).logits, theirs(tokens, loops=4).logits)
    assert torch.equal(model(tokens, loops=1).logits, theirs(tokens, loops=1).logits)
    text = said(theirs, PROMPT, 16, loops=4)
    assert said(model, PROMPT, 16) == said(model, PROMPT, 16, custom_generate=speculative) == text
    assert len({drawn(seed, by_labels(model, tokens), model)[0] for seed in range(4)}) == 1
    model.save_pretrained(tmp_path)
    assert AutoModelForCausalLM.from_pretrained(tmp_path).config.loops == 4


@pytest.mark.parametrize("loops", [0, 7, "often"])
def test_a_depth_that_the_model_does_not_know_is_refused(theirs, loops):
    with pytest.raises(ConfigError, match=rf"--loops is {loops}; use 1 to 6, .* or auto"):
        theirs(rows(1, 5), loops=loops)
    with pytest.raises(ConfigError, match="use 1 to 6"):
        theirs.generate(rows(1, 5), max_new_tokens=2, loops=loops)


def test_a_depth_is_refused_where_there_is_no_loop(tmp_path):
    folder = save(tmp_path / "model", MODELS["control"].speaking(), byte_tokenizer())
    with pytest.raises(ConfigError, match="has no loop; leave it out"):
        AutoModelForCausalLM.from_pretrained(folder)(rows(1, 5), loops=2)


def test_hidden_states_are_of_the_last_pass_or_refused_where_none_is_common(theirs):
    tokens = rows(3, 9)
    how = {"output_hidden_states": True, "use_cache": False}
    shown = [theirs(tokens, loops=loops, **how).hidden_states for loops in (1, 3)]
    assert [len(states) for states in shown] == 2 * [LAYERS + 1]
    assert torch.equal(shown[0][0], shown[1][0])
    assert not any(torch.equal(*pair) for pair in zip(shown[0][1:], shown[1][1:], strict=True))
    with pytest.raises(GenerationError, match="output_hidden_states is not answered"):
        theirs(tokens, loops="auto", **how)
    theirs.train()
    with pytest.raises(GenerationError, match="output_hidden_states is not answered"):
        theirs(tokens, **how)
    trained = theirs(tokens, loops=3, **how).hidden_states
    assert all(torch.equal(*pair) for pair in zip(trained, shown[1], strict=True))


def test_memories_of_each_iteration_are_served_at_their_one_depth(tmp_path):
    ours = CHIMERA.speaking(looping=LoopConfig(memory="per_iteration"))
    theirs = AutoModelForCausalLM.from_pretrained(save(tmp_path / "model", ours, byte_tokenizer()))
    tokens = rows(2, 20)
    with torch.no_grad():
        wanted = ours.logits(ours(tokens).hidden)
        assert torch.equal(theirs(tokens, use_cache=False).logits, wanted)
    assert said(theirs, PROMPT, 12) == said(theirs, PROMPT, 12, use_cache=False)
    assert len(theirs.train()(tokens, output_hidden_states=True).hidden_states) == LAYERS + 1
    with pytest.raises(ConfigError, match="its depth is always 2"):
        theirs(tokens, loops=3)
