"""Fine-tuning on chats: next-token prediction where the loss mask counts only what the assistant says.

The arithmetic is `NextToken`'s; what differs is that a batch without any assistant token is a mistake in the data, and
is refused in these words.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from positronic.data import TokenBatch
from positronic.errors import TrainingError
from positronic.lm import LM
from positronic.nn.load_bias import LoadBias
from positronic.train.objectives.next_token import NextTokenConfig
from positronic.train.objectives.objective import UNAIDED, Counts, Loss, ObjectiveConfig

__all__ = ["SFT", "SFTConfig"]


@dataclass(frozen=True, kw_only=True)
class SFTConfig(ObjectiveConfig, kind="sft"):
    rests: ClassVar[tuple[type[nn.Module], ...]] = (LoadBias,)

    prediction: NextTokenConfig = NextTokenConfig()
    """How a target is scored."""

    def build(self, helpers: Mapping[str, LM] = UNAIDED) -> "SFT":
        return SFT(self)


class SFT:
    """Assistant-only loss; `loss` and `bits_per_byte` are those of the assistant's words."""

    def __init__(self, config: SFTConfig):
        self.config = config
        self.prediction = config.prediction.build()

    def counts(self, batch: TokenBatch) -> Counts:
        if not batch.loss_mask.any():
            raise TrainingError(
                f"A batch of {len(batch)} rows holds no assistant token, so there is nothing to learn from it. "
                f"Look at the mask with `positronic sft --show-mask`, shorten the prompts, or raise --seq-len."
            )
        return self.prediction.counts(batch)

    def __call__(self, model: LM, batch: TokenBatch, counts: Counts) -> Loss:
        return self.prediction(model, batch, counts)

    def means(self, sums: Mapping[str, float], counts: Counts) -> dict[str, float]:
        return self.prediction.means(sums, counts) | {"assistant_share": counts["targets"] / counts["tokens"]}
