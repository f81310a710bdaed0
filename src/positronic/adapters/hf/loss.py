"""What our objective adds to the cross entropy when another program trains the model: z-loss, organs and heads.

    added = z_loss * sum of lse^2 over the targets / targets of the whole step
          + sum over rows and names of weight * loss of the row * targets of the row / targets of the whole step

A caller that accumulates gradients says how many targets the step has (`num_items_in_batch`) and nothing else of it, so
that rows weigh as their targets do, however they are dealt out to calls. Without that number a call is the whole step,
and rows weigh as they do in our own training, which knows their tokens.
"""

from torch import Tensor
from torch.nn import functional as F

from positronic.data.batches.batch import TokenBatch
from positronic.lm import LM, LMOutput
from positronic.state import ForwardOptions, Step
from positronic.train.objectives.next_token import NextToken, NextTokenConfig

__all__ = ["IGNORED", "auxiliary_loss"]

IGNORED = -100
"""The label of a token that carries no loss."""


def auxiliary_loss(
    lm: LM,
    output: LMOutput,
    logits: Tensor,
    tokens: Tensor,
    options: ForwardOptions,
    labels: Tensor,
    num_items_in_batch: Tensor | int | None,
) -> Tensor | float:
    """To be added to the cross entropy of logits (B, T, W) and labels (B, T), which are the tokens (B, T) themselves
    or IGNORED."""
    targets = F.pad(labels[:, 1:], (0, 1), value=IGNORED)  # (B, T)
    counted = targets != IGNORED
    here = int(counted.sum())
    if here == 0:
        return 0.0
    settings = NextTokenConfig()
    squares = logits[counted].float().logsumexp(-1).square().sum()
    z = settings.z_loss * squares / (here if num_items_in_batch is None else num_items_in_batch)
    if not (output.aux or lm.drafts or lm.latents):
        return z
    segments = Step.of(tokens, None, options, lm.config.boundary_id).segments
    batch = TokenBatch(tokens, targets.clamp(min=0), counted, segments, options.valid)
    objective = settings.build()
    counts = objective.counts(batch) if num_items_in_batch is None else _by_row(objective, batch, num_items_in_batch)
    return z + objective.auxiliary(lm, output, batch, counts)[0]


def _by_row(objective: NextToken, batch: TokenBatch, in_step: Tensor | int) -> dict[str, Tensor]:
    """What each row's sums are divided by, so that its means count as its share of the targets `in_step`."""
    rows = [batch.rows(slice(i, i + 1)) for i in range(len(batch))]
    counts = [objective.counts(row) if row.n_targets else {} for row in rows]
    names = {name for each in counts for name in each}
    share = batch.loss_mask.sum(1) / in_step  # (B,)
    return {name: share.new_tensor([max(1, each.get(name, 1)) for each in counts]) / share for name in names}
