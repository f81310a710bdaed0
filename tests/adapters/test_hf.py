"""Every family loads, answers and generates in Transformers as it does in our own house.

What a process that has only the folder finds is in `test_families`, what may be asked of `generate` in
`test_hf_generate`.
"""

import copy

import pytest
import torch
from drafting import Oracle
from family_example import EOT
from hf_example import PROMPT, rows, said
from torch.nn import functional as F

pytest.importorskip("transformers")

from transformers import AutoModel, AutoModelForCausalLM, StoppingCriteriaList

from positronic.adapters.hf import StateCache, speculative
from positronic.data.batches.batch import TokenBatch
from positronic.errors import GenerationError, StateError
from positronic.generation.decoding.propose import NGram
from positronic.probe import Probe, capture
from positronic.state import ForwardOptions, Step
from positronic.train import NextTokenConfig


def test_no_weight_is_missing_or_too_many(folder):
    _, found = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(found.values()), found


def test_the_base_model_gives_what_the_embedding_is_multiplied_by(theirs, folder):
    tokens = rows(2, 12)
    with torch.no_grad():
        hidden = AutoModel.from_pretrained(folder)(tokens).last_hidden_state
        assert torch.equal(theirs.base_model(tokens).last_hidden_state, hidden)
        assert torch.equal(theirs.get_output_embeddings()(hidden), theirs(tokens).logits)


def test_reading_a_prompt_in_pieces_changes_no_token(theirs):
    prompt = rows(1, 33)[0].tolist()
    assert said(theirs, prompt, 16, prefill_chunk_size=7) == said(theirs, prompt, 16)


def test_a_state_of_fixed_room_changes_no_token(theirs):
    assert said(theirs, PROMPT, 24, cache_implementation="static") == said(theirs, PROMPT, 24)


def test_beams_go_on_from_where_they_came(theirs, monkeypatch):
    """Beams exchange rows in this text: without the exchange the cached text is another than the uncached one."""
    how = {"num_beams": 4, "length_penalty": 0.0}
    uncached = said(theirs, PROMPT, 16, use_cache=False, **how)
    assert said(theirs, PROMPT, 16, **how) == uncached
    monkeypatch.setattr(StateCache, "reorder_cache", lambda cache, beams: None)
    assert said(theirs, PROMPT, 16, **how) != uncached


def test_two_samples_of_a_prompt_are_rows_of_their_own(theirs):
    how = {"max_new_tokens": 12, "do_sample": True, "eos_token_id": None, "num_return_sequences": 2}
    torch.manual_seed(3)
    cached = theirs.generate(torch.tensor([PROMPT]), **how)
    torch.manual_seed(3)
    assert torch.equal(cached, theirs.generate(torch.tensor([PROMPT]), use_cache=False, **how))
    assert cached[0].tolist() != cached[1].tolist()


@pytest.mark.parametrize("sample", [False, True])
def test_speculation_says_what_generate_says(theirs, sample):
    how = {"do_sample": sample, "temperature": 0.5, "repetition_penalty": 1.2} if sample else {}
    found = []
    for loop in (None, speculative):
        torch.manual_seed(5)
        found.append(said(theirs, PROMPT, 40, custom_generate=loop, **how))
    assert found[0] == found[1]


def test_right_drafts_save_forwards(theirs, monkeypatch):
    text = said(theirs, PROMPT, 40)
    forward, calls = theirs.model.forward, []
    monkeypatch.setattr(theirs.model, "forward", lambda *a, **k: calls.append(1) or forward(*a, **k))
    assert said(theirs, PROMPT, 40, custom_generate=speculative, proposer=Oracle(text)) == text
    assert len(calls) == 1 + 8  # the prompt; then rounds of four right drafts and one token more


class Watcher(NGram):
    """Drafts like its parent, and keeps what each draft was made from."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def propose(self, hidden, past, room):
        self.seen.append((hidden, len(past)))
        return super().propose(hidden, past, room)


def test_drafts_are_made_from_what_the_last_token_was_read_off(theirs):
    watcher = Watcher()
    text = said(theirs, PROMPT, 24, custom_generate=speculative, proposer=watcher)
    with torch.no_grad():
        whole = theirs.model(torch.tensor([[*PROMPT, *text]])).hidden
    assert len({length for _, length in watcher.seen}) > 4
    for hidden, length in watcher.seen[1:]:  # the first is read off the prompt but its last token
        assert (hidden - whole[:, length - 2]).abs().max() < 1e-3 * whole.abs().max()


def test_what_ends_a_text_is_asked_of_the_newest_scores(theirs):
    heard = []

    def ends(ids, scores, **_):
        heard.append(int(scores[0].argmax()) == int(ids[0, -1]))
        return torch.zeros(len(ids), dtype=torch.bool)

    how = {"output_scores": True, "return_dict_in_generate": True, "do_sample": False, "eos_token_id": None}
    criteria = StoppingCriteriaList([ends])
    prompt = torch.tensor([PROMPT])
    theirs.generate(prompt, max_new_tokens=12, custom_generate=speculative, stopping_criteria=criteria, **how)
    assert heard == [True] * 12


def test_positions_may_be_given_from_any_call_on(theirs):
    tokens = rows(2, 12)
    with torch.no_grad():
        plain = theirs(tokens).logits[:, 8:]
        cache = theirs(tokens[:, :8]).past_key_values
        places = torch.arange(8, 12).expand(2, -1)
        found = theirs(tokens[:, 8:], past_key_values=cache, position_ids=places).logits
    assert (found - plain).abs().max() < 1e-4 * plain.abs().max()
    assert cache.get_max_length() == -1, "no length at which Transformers should stop"


def test_a_snapshot_is_gone_on_from_twice(theirs):
    tokens = rows(1, 20)
    with torch.no_grad():
        cache = theirs(tokens[:, :8]).past_key_values
        before = cache.snapshot()
        first = theirs(tokens[:, 8:], past_key_values=cache).logits
        cache.restore(before)
        theirs(rows(1, 5, seed=1), past_key_values=cache)
        cache.restore(before)
        again = theirs(tokens[:, 8:], past_key_values=cache).logits
        copied = copy.deepcopy(before)
        cache.restore(copied)
        third = theirs(tokens[:, 8:], past_key_values=cache).logits
    assert torch.equal(first, again)
    assert torch.equal(first, third)
    assert cache.get_seq_length() == 20


def test_requests_remember_nothing_of_each_other(theirs):
    tokens = rows(1, 12)
    with torch.no_grad():
        first = theirs(tokens).logits
        theirs.generate(rows(1, 30, seed=9), max_new_tokens=4, do_sample=False)
        assert torch.equal(theirs(tokens).logits, first)


def test_documents_of_a_row_do_not_see_each_other(theirs):
    """Positions that begin again at 0 begin a document, with a cache and without."""
    parts = [rows(1, n, seed=n) for n in (5, 9, 7)]
    places = torch.cat([torch.arange(p.shape[1]) for p in parts])[None]
    with torch.no_grad():
        alone = torch.cat([theirs(p).logits for p in parts], 1)
        for use_cache in (False, True):
            packed = theirs(torch.cat(parts, 1), position_ids=places, use_cache=use_cache).logits
            assert (packed - alone).abs().max() < 1e-4 * alone.abs().max()
        leaking = theirs(torch.cat(parts, 1)).logits
    assert (leaking - alone).abs().max() > 1e-2 * alone.abs().max()


def test_a_row_may_begin_in_the_middle_of_a_document(theirs):
    """And may be read in pieces, each of which begins one document at most."""
    parts = [rows(1, n, seed=n) for n in (10, 14)]
    tokens, places = torch.cat(parts, 1), torch.cat([torch.arange(5, 15), torch.arange(14)])[None]
    with torch.no_grad():
        alone = theirs(parts[1]).logits
        packed = theirs(tokens, position_ids=places).logits[:, 10:]
        first = theirs(tokens[:, :4], position_ids=places[:, :4], use_cache=True)
        second = theirs(tokens[:, 4:], position_ids=places[:, 4:], past_key_values=first.past_key_values)
        for found in (packed, second.logits[:, 6:]):
            assert (found - alone).abs().max() < 1e-4 * alone.abs().max()
        with pytest.raises(GenerationError, match="goes on from past_key_values"):
            theirs(parts[1], position_ids=torch.arange(14)[None], past_key_values=second.past_key_values)


def test_documents_that_positions_do_not_tell_are_refused(theirs):
    tokens = rows(1, 9)
    lengths = torch.tensor([0, 4, 9], dtype=torch.int32)
    for cut in ({"cu_seq_lens_q": lengths}, {"seq_idx": torch.zeros(1, 9, dtype=torch.int32)}):
        with pytest.raises(GenerationError, match="without position_ids"):
            theirs(tokens, **cut)
        theirs(tokens, position_ids=torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4]]), **cut)


def test_a_cache_that_is_asked_for_takes_no_part_of_the_loss(theirs):
    tokens = rows(2, 12)
    theirs.train()
    try:
        losses = [theirs(tokens, labels=tokens, use_cache=use_cache).loss for use_cache in (None, False, True)]
    finally:
        theirs.eval()
    assert torch.equal(losses[0], losses[1])
    assert torch.equal(losses[0], losses[2])


def test_a_packed_row_may_be_longer_than_any_document(theirs):
    """TRL lays all rows of a batch into one; what has no room is a document, not a row."""
    held = theirs.config.max_position_embeddings
    tokens, places = rows(1, held + 16), torch.arange(held + 16)[None]
    with torch.no_grad():
        theirs(tokens, position_ids=places % 64)
        with pytest.raises(GenerationError, match=f"the model holds {held}"):
            theirs(tokens, position_ids=places % (held + 8))


def test_only_the_logits_asked_for_are_made(theirs):
    tokens = rows(2, 9)
    with torch.no_grad():
        every = theirs(tokens).logits
        assert (theirs(tokens, logits_to_keep=2).logits - every[:, -2:]).abs().max() < 1e-4
        places = torch.tensor([0, 4, 7])
        assert (theirs(tokens, logits_to_keep=places).logits - every[:, places]).abs().max() < 1e-4


def trained(theirs, *given, **asked):
    theirs.train()
    try:
        return theirs(*given, **asked).loss
    finally:
        theirs.eval()


def labelled():
    """Tokens, and labels of which a part carries no loss."""
    tokens = rows(3, 20)
    labels = tokens.clone()
    labels[0, :7], labels[1, 12:] = -100, -100
    return tokens, labels


def batch_of(tokens, labels):
    """The same in the words of our own trainer, whose batches are cut from rows one token longer."""
    targets = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=-100)
    counted = targets != -100
    segments = Step.of(tokens, boundary_id=EOT).segments
    return TokenBatch(tokens, targets.clamp(min=0), counted, segments, None)


def test_the_loss_in_training_is_that_of_our_objective(theirs, ours):
    """Cross entropy, z-loss, and the parts of organs and heads; and so is every gradient."""
    tokens, labels = labelled()
    objective, batch = NextTokenConfig().build(), batch_of(tokens, labels)
    wanted = objective(ours.train(), batch, objective.counts(batch)).total
    wanted.backward()
    found = trained(theirs, tokens, labels=labels)
    found.backward()
    gradients = dict(theirs.model.named_parameters())
    try:
        assert found.item() == pytest.approx(wanted.item(), rel=1e-6)
        for name, p in ours.named_parameters():
            if p.grad is not None:
                scale = p.grad.abs().max()
                assert (gradients[name].grad - p.grad).abs().max() <= 1e-4 * scale + 1e-7, name
    finally:
        ours.eval().zero_grad()
        theirs.zero_grad()


def test_what_is_added_to_the_cross_entropy_follows_from_the_definition(theirs):
    """z: 1e-4 of the mean of lse^2; the balance of experts 0.01, metric triangles 0.01, routers 0.001, draft
    heads 0.3 of their mean cross entropy, the JEPA head 0.1 of its mean distance."""
    tokens, labels = labelled()
    found = trained(theirs, tokens, labels=labels)
    counted = labels[:, 1:] != -100
    core = theirs.model.train()
    with torch.no_grad():
        out = core(tokens)
        logits = core.logits(out.hidden).float()
        added = 1e-4 * logits[:, :-1].logsumexp(-1)[counted].square().mean()
        for name, value in out.aux.items():  # (B,) of rows of equal length
            weight = {"moe.balance": 0.01, "metric.triangle": 0.01, "mixture.entropy": 1e-3}[name]
            added = added + weight * value.mean()
        for k in range(len(core.drafts or ())):
            far = core.logits(core.drafts[k](out.hidden))[:, : -(k + 2)]
            costs = F.cross_entropy(far.transpose(1, 2), labels[:, k + 2 :], ignore_index=-100, reduction="none")
            added = added + 0.3 / len(core.drafts) * costs.sum() / (labels[:, k + 2 :] != -100).sum()
        if core.latents is not None:
            ahead = core.latents.ahead
            guess, truth = core.latents(out.hidden)[:, :-ahead], out.hidden[:, ahead:]
            added = added + 0.1 * (1 - F.cosine_similarity(guess, truth, dim=-1)).mean()
        cross = F.cross_entropy(logits[:, :-1][counted], labels[:, 1:][counted])
    theirs.eval()
    assert found.item() == pytest.approx((cross + added).item(), rel=1e-5)
    assert added > 1e-4 * cross


def test_parts_of_a_step_add_up_to_its_z_loss(theirs):
    """A step in two calls of unequal size, by the count of the whole."""
    tokens, labels = labelled()
    count = int((labels[:, 1:] != -100).sum())
    calls = [slice(0, 1), slice(1, 3)]
    parts = [trained(theirs, tokens[rows], labels=labels[rows], num_items_in_batch=count).item() for rows in calls]
    with torch.no_grad():
        logits = theirs(tokens).logits[:, :-1][labels[:, 1:] != -100]
        plain = F.cross_entropy(logits, labels[:, 1:][labels[:, 1:] != -100])
        z = 1e-4 * logits.logsumexp(-1).square().mean()
    if theirs.config.core["kind"] == "transformer":
        assert sum(parts) == pytest.approx((plain + z).item(), rel=1e-6)
    else:
        assert sum(parts) > (plain + z).item()


def test_without_training_the_loss_is_the_cross_entropy_alone(theirs):
    tokens, labels = labelled()
    with torch.no_grad():
        out = theirs(tokens, labels=labels)
    counted = labels[:, 1:] != -100
    plain = F.cross_entropy(out.logits[:, :-1][counted], labels[:, 1:][counted])
    assert out.loss.item() == pytest.approx(plain.item(), rel=1e-6)


def after_layers(theirs, tokens):
    """The stream behind each layer at its last pass: what the trunk gives, but for what was added after."""
    probe = Probe(theirs.model, {"trunk.*:branch": capture})
    hidden = theirs.model(tokens, options=ForwardOptions(probe=probe)).hidden
    last = [probe.seen[f"trunk.{i}:branch"][-1] for i in range(len(theirs.model.trunk))]
    return [hidden - sum(last[end:]) for end in range(2, 2 * theirs.config.num_hidden_layers, 2)]


def test_hidden_states_are_those_between_the_layers(theirs, folder):
    tokens, layers = rows(2, 9), theirs.config.num_hidden_layers
    with torch.no_grad():
        out = theirs(tokens, output_hidden_states=True)
        base = AutoModel.from_pretrained(folder)(tokens, output_hidden_states=True)
        assert len(out.hidden_states) == layers + 1
        assert torch.equal(out.hidden_states[0], theirs.get_input_embeddings()(tokens))
        assert torch.equal(out.hidden_states[-1], base.last_hidden_state)
        assert all(torch.equal(a, b) for a, b in zip(out.hidden_states, base.hidden_states, strict=True))
        assert len({float(x.sum()) for x in out.hidden_states}) == layers + 1
        for a, b in zip(out.hidden_states[1:], after_layers(theirs, tokens), strict=False):
            assert (a - b).abs().max() < 1e-5 * b.abs().max()
        cached = theirs(tokens[:, :5], output_hidden_states=True)
        later = theirs(tokens[:, 5:], past_key_values=cached.past_key_values, output_hidden_states=True)
        for a, b, whole in zip(cached.hidden_states, later.hidden_states, out.hidden_states, strict=True):
            assert (torch.cat([a, b], 1) - whole).abs().max() < 1e-4 * whole.abs().max()
        assert theirs(tokens).hidden_states is None


def test_hidden_states_may_be_asked_for_once_and_for_all(folder):
    model = AutoModelForCausalLM.from_pretrained(folder, output_hidden_states=True)
    assert len(model(rows(1, 5)).hidden_states) == model.config.num_hidden_layers + 1
    assert model(rows(1, 5), output_hidden_states=False).hidden_states is None
    said = model.generate(
        rows(1, 5), max_new_tokens=3, return_dict_in_generate=True, output_hidden_states=True, eos_token_id=None
    )
    assert [len(step) for step in said.hidden_states] == 3 * [model.config.num_hidden_layers + 1]


def test_attentions_are_what_heads_read_by(theirs, family, ours, folder):
    tokens = rows(2, 9)
    if family in ("metric", "chimera"):
        with pytest.raises(GenerationError, match=f"not answered by the family {family}"):
            theirs(tokens, output_attentions=True)
        return
    first = ours.trunk[0].mixer
    with torch.no_grad():
        out = theirs(tokens, output_attentions=True)
        assert len(out.attentions) == theirs.config.num_hidden_layers
        for weights in out.attentions:
            assert weights.shape == (2, first.config.n_heads, 9, 9)
            assert torch.allclose(weights.sum(-1), torch.ones(()), atol=1e-5)
            assert not weights.triu(1).any()
        step = Step.of(tokens, boundary_id=EOT)
        x = ours.embed(tokens)
        q, k, _ = first.heads(x, step)
        k = k.repeat_interleave(q.shape[1] // k.shape[1], 1)
        scores = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(torch.ones(9, 9).triu(1).bool(), -torch.inf)
        assert (out.attentions[0] - scores.softmax(-1)).abs().max() < 1e-5
        begun = theirs(tokens[:, :5], output_attentions=True)
        later = theirs(tokens[:, 5:], past_key_values=begun.past_key_values, output_attentions=True)
        for whole, part in zip(out.attentions, later.attentions, strict=True):
            assert (whole[:, :, 5:] - part).abs().max() < 1e-4
    eager = AutoModelForCausalLM.from_pretrained(folder, output_attentions=True, attn_implementation="eager")
    assert len(eager(tokens).attentions) == theirs.config.num_hidden_layers


def test_vectors_are_read_in_place_of_tokens_where_nothing_else_reads_these(theirs, family):
    tokens = rows(2, 9)
    vectors = theirs.get_input_embeddings()(tokens)
    if family in ("quazimoto", "mycel"):
        with pytest.raises(GenerationError, match="organs of this model look at the tokens"):
            theirs(inputs_embeds=vectors)
        return
    with torch.no_grad():
        wanted = theirs(tokens).logits
        assert torch.equal(theirs(inputs_embeds=vectors).logits, wanted)
        half = theirs(inputs_embeds=vectors[:, :4], use_cache=True)
        later = theirs(tokens[:, 4:], past_key_values=half.past_key_values).logits
        assert (later - wanted[:, 4:]).abs().max() < 1e-4 * wanted.abs().max()
        how = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None}
        said = theirs.generate(inputs_embeds=vectors, **how)
        assert torch.equal(said[:, -8:], theirs.generate(tokens, **how)[:, -8:])
        with pytest.raises(GenerationError, match="give one of the two"):
            theirs(tokens, inputs_embeds=vectors)


@pytest.mark.parametrize(
    "how", [{"prompt_lookup_num_tokens": 4}, {"assistant": True}, {"assistant": True, "sample": True}]
)
def test_drafts_of_transformers_own_change_no_greedy_text(theirs, folder, how):
    """Drafts that are partly wrong are taken back out of every state."""
    how = dict(how)
    if how.pop("assistant", False):
        helper = AutoModelForCausalLM.from_pretrained(folder)
        with torch.no_grad():
            helper.get_input_embeddings().weight.add_(0.3 * torch.randn(384, helper.config.hidden_size))
        how["assistant_model"] = helper
    sample = how.pop("sample", False)
    prompt = [*PROMPT, *PROMPT, *PROMPT]
    found = said(theirs, prompt, 30, do_sample=sample, **how)
    assert len(found) == 30
    assert sample or found == said(theirs, prompt, 30)


def test_a_cache_gives_back_what_it_took_since_it_was_told_to_record(theirs):
    tokens = rows(2, 24)
    with torch.no_grad():
        cache = theirs(tokens[:, :6], use_cache=True).past_key_values
        cache.activate_past_recording()
        for first, end in ((6, 11), (11, 12), (12, 20)):
            theirs(rows(2, 24, seed=first)[:, first:end], past_key_values=cache)
        cache.crop(-14)
        assert cache.get_seq_length() == 6
        theirs(tokens[:, 6:11], past_key_values=cache)
        theirs(tokens[:, 11:16], past_key_values=cache)
        cache.crop(-7)
        assert cache.get_seq_length() == 9
        found = theirs(tokens[:, 9:], past_key_values=cache).logits
        wanted = theirs(tokens).logits[:, 9:]
        assert (found - wanted).abs().max() < 1e-4 * wanted.abs().max()
        cache.crop(0)
        with pytest.raises(StateError, match="cannot be taken back"):
            cache.crop(-1)


@pytest.mark.parametrize(
    "places",
    [[0, 1, 2, 9, 10, 11], [0, 1, 2, 2, 3, 4], [0, 1, 2, 1, 2, 3], [5, 4, 3, 2, 1, 0], [3, 3, 3, 3, 3, 3]],
)
def test_positions_that_neither_go_on_nor_begin_again_are_refused(theirs, places):
    with pytest.raises(GenerationError, match="position_ids jump to"):
        theirs(rows(1, 6), position_ids=torch.tensor([places]))


def test_positions_go_on_where_the_cache_stands(theirs):
    tokens = rows(1, 12)
    with torch.no_grad():
        for start in (0, 40):
            places = torch.arange(start, start + 12)[None]
            cache = theirs(tokens[:, :5], position_ids=places[:, :5], use_cache=True).past_key_values
            with pytest.raises(GenerationError, match="position_ids jump"):
                theirs(tokens[:, 5:8], position_ids=places[:, 7:10], past_key_values=cache)
            theirs(tokens[:, 5:8], position_ids=places[:, 5:8], past_key_values=cache)
            found = theirs(tokens[:, 8:], position_ids=places[:, 8:], past_key_values=cache).logits
            wanted = theirs(tokens).logits[:, 8:]
            assert (found - wanted).abs().max() < 1e-4 * wanted.abs().max()


def test_padding_may_have_any_position(theirs):
    tokens, mask = rows(2, 9), torch.ones(2, 9, dtype=torch.long)
    mask[0, :3] = 0
    places = (mask.cumsum(1) - 1).masked_fill(mask == 0, 1)
    with torch.no_grad():
        found = theirs(tokens, attention_mask=mask, position_ids=places).logits[0, 3:]
        alone = theirs(tokens[:1, 3:]).logits[0]
    assert (found - alone).abs().max() < 1e-4 * alone.abs().max()
