"""What organs and heads add to the loss that Transformers sees: their weights, and a call's share of a whole step."""

import pytest
import torch
from hf_example import rows

from positronic.train import NextTokenConfig


def losses(model, tokens, n_items=None) -> tuple[float, float]:
    """The loss, and the cross entropy alone, by its definition."""
    with torch.no_grad():
        out = model(tokens, labels=tokens, **({} if n_items is None else {"num_items_in_batch": n_items}))
        said = model(tokens).logits.double().log_softmax(-1)
    rows_, length = tokens.shape
    nats = -sum(float(said[b, t, tokens[b, t + 1]]) for b in range(rows_) for t in range(length - 1))
    return float(out.loss), nats / (n_items or rows_ * (length - 1))


def test_a_call_that_is_half_a_step_adds_half(theirs):
    tokens = rows(2, 20)
    targets = 2 * 19
    theirs.train()
    (whole, entropy), (half, half_entropy) = losses(theirs, tokens), losses(theirs, tokens, 2 * targets)
    theirs.eval()
    assert half_entropy == pytest.approx(entropy / 2)
    assert half == pytest.approx(whole / 2, rel=1e-5)


def test_what_is_added_is_weighed_as_our_own_objective_says(theirs, family):
    """Of balance, drafts, latents and triangles, whichever the family has; the control has none."""
    tokens = rows(2, 20)
    theirs.train()
    whole, entropy = losses(theirs, tokens)
    theirs.eval()
    weights = {w.name: w.weight for w in NextTokenConfig().auxiliary}
    lm = theirs.model
    with torch.no_grad():
        out = lm(tokens)
        added = sum(weights[name] * float(loss.mean()) for name, loss in out.aux.items())
        if lm.drafts is not None:
            for k, head in enumerate(lm.drafts, 1):
                said = lm.logits(head(out.hidden)).double().log_softmax(-1)
                places = [(b, t) for b in range(2) for t in range(20 - 1 - k)]
                nats = -sum(float(said[b, t, tokens[b, t + 1 + k]]) for b, t in places)
                added += weights["mtp"] / len(lm.drafts) * nats / len(places)
        if lm.latents is not None:
            ahead = lm.latents.ahead
            guess, truth = lm.latents(out.hidden)[:, :-ahead].double(), out.hidden[:, ahead:].double()
            added += weights["jepa"] * float((1 - torch.cosine_similarity(guess, truth, dim=-1)).mean())
        partition = float(lm.logits(out.hidden).double()[:, :-1].logsumexp(-1).square().mean())
    beyond = whole - entropy
    z = NextTokenConfig().z_loss * partition
    assert beyond == pytest.approx(added, rel=1e-3, abs=1e-5) or beyond == pytest.approx(added + z, rel=1e-3, abs=1e-5)
    assert family == "control" or added > 1e-3
