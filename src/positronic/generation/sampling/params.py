"""From logits to a token: every operation on logits, in one place and in one order.

raw -> hard mask -> repetition penalty -> biases -> temperature -> top-k -> top-p -> min-p -> noise, or argmax

    penalty      x > 0: x / r, else x r, at every token that occurs in the prompt or the output so far
    top-k        the k best                                              order: probability down, then id up
    top-p        the smallest beginning of that order whose mass is at least p, never empty
    min-p        probability at least min_p times the best one's
    noise        argmax over the kept of (x - max x) / T + gumbel(seed, stream, position, token)

Temperature 0 is greedy: argmax after the biases, ties to the lowest id. Since the noise belongs to the position and the
token, a draft can only be followed or not: what is drawn of equal logits is the same with drafts and without.

Shapes   logits (W,) float32 on the host, one row at a time; ids are kept ascending, so that argmax breaks ties.
Source   top-p: Holtzman et al. 2020, arXiv 1904.09751; min-p: Nguyen et al. 2024, arXiv 2407.01082; penalty: Keskar et
         al. 2019, arXiv 1909.05858, with the sign rule that keeps it a penalty.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from positronic.errors import GenerationError
from positronic.generation.sampling.noise import gumbel

__all__ = ["GREEDY", "SamplingParams", "not_finite"]

LARGEST_BIAS = 1e30
"""More than decides between any two logits, and too little to overflow with one."""


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How tokens are drawn, and how many."""

    temperature: float = 0.7
    """0 to 5; 0 takes the best token and ignores top_k, top_p, min_p and the seed."""
    top_k: int = 0
    """Keep this many tokens; 0 keeps all."""
    top_p: float = 0.92
    """Keep the best tokens of this mass, above 0 to 1; 1 keeps all."""
    min_p: float = 0.0
    """Keep tokens at least this fraction as probable as the best, 0 to 1; 0 keeps all."""
    repetition_penalty: float = 1.0
    """1 to 2: divides positive and multiplies negative logits of tokens that occurred; 1 is none."""
    seed: int = 0
    """Of all noise, 0 to 2^64 - 1."""
    stream: int = 0
    """Rows of one seed draw from streams of their own."""
    biases: Mapping[int, float] = field(default_factory=dict)
    """What is added to the logits of some tokens, by id."""
    max_new_tokens: int = 256
    """At most this many tokens; then the reason is "length", or "context" where the model holds no more."""
    stop: str | Sequence[str] = ()
    """Strings that end the text and are no part of it."""

    def __post_init__(self) -> None:
        _within("temperature", self.temperature, 0, 5)
        _within("top_k", self.top_k, 0, 2**31)
        _within("min_p", self.min_p, 0, 1)
        _within("repetition_penalty", self.repetition_penalty, 1, 2)
        _within("seed", self.seed, 0, 2**64 - 1)
        _within("stream", self.stream, 0, 2**64 - 1)
        _within("max_new_tokens", self.max_new_tokens, 1, 2**20)
        if not 0 < self.top_p <= 1:
            raise GenerationError(f"top_p is {self.top_p}; use a number above 0 and up to 1 (1 keeps every token).")
        for token, bias in self.biases.items():
            if token < 0 or not abs(bias) <= LARGEST_BIAS:
                raise GenerationError(
                    f"biases hold {token}: {bias}; use ids, and numbers from {-LARGEST_BIAS:g} to {LARGEST_BIAS:g}."
                )

    @property
    def alone(self) -> bool:
        """Whether a token follows from its logits alone, without what was said before."""
        return self.repetition_penalty == 1 and not self.biases

    @property
    def bare(self) -> bool:
        """Whether a token is plainly the argmax of its raw logits, so that many rows can be read at once."""
        return self.temperature == 0 and self.repetition_penalty == 1 and not self.biases

    def pick(
        self,
        logits: NDArray[np.float32],
        position: int,
        history: NDArray[np.int64],
        allowed: NDArray[np.bool_] | None = None,
    ) -> int:
        """The token at `position` after the tokens `history`, given its raw logits (W,) and a hard mask (W,)."""
        x = self.processed(logits, history, allowed)
        if self.temperature == 0:
            return int(np.argmax(x))
        warm = (x.astype(np.float64) - np.max(x)) / self.temperature
        kept = self.kept(warm)
        scores = warm[kept] + gumbel(self.seed, self.stream, position, kept)
        return int(kept[scores.argmax()])

    def processed(
        self, logits: NDArray[np.float32], history: NDArray[np.int64], allowed: NDArray[np.bool_] | None
    ) -> NDArray[np.float32]:
        """Logits (W,) after mask, penalty and biases; a mask that leaves nothing and NaN raise `GenerationError`."""
        if allowed is not None and not allowed.any():
            raise GenerationError("The constraint allows no token at all here; loosen it or shorten what came before.")
        x = logits if allowed is None else np.where(allowed, logits, np.float32(-np.inf))
        if self.repetition_penalty != 1 and len(history):
            x = x.copy() if x is logits else x
            there = x[history]
            r = np.float32(self.repetition_penalty)
            x[history] = np.where(there > 0, there / r, there * r)
        if self.biases:
            x = x.copy() if x is logits else x
            _check_ids(self.biases, len(x))
            x[list(self.biases)] += np.fromiter(self.biases.values(), np.float32)
        if not np.isfinite(np.max(x)):
            raise not_finite()
        return x

    def kept(self, x: NDArray[np.float64]) -> NDArray[np.int64]:
        """Ids, ascending, that top-k, top-p and min-p leave of logits x (W,), already divided by the temperature."""
        ids = np.flatnonzero(x > -np.inf)
        if 0 < self.top_k < len(ids):
            ids = _best(x, ids[x[ids] >= np.partition(x[ids], -self.top_k)[-self.top_k]])
            ids = np.sort(ids[: self.top_k])
        if self.top_p < 1:
            p = np.exp(x[ids] - np.max(x[ids]))
            wanted = self.top_p * p.sum()
            # All tokens below (mass - wanted) / n together weigh less than what may be left out: no need to sort them.
            ids = _best(x, ids[p >= 0.5 * (p.sum() - wanted) / len(ids)])
            mass = np.exp(x[ids] - x[ids[0]]).cumsum()
            ids = np.sort(ids[: np.searchsorted(mass, wanted) + 1])
        if self.min_p > 0:
            ids = ids[x[ids] >= np.max(x[ids]) + math.log(self.min_p)]
        return ids


def not_finite() -> GenerationError:
    """What to say of a model whose best logit is NaN or infinite."""
    return GenerationError("The model's logits are not finite; its weights are damaged. Load another checkpoint.")


def _best(x: NDArray[np.float64], ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """`ids`, ascending, by logit down and then by id up."""
    return ids[np.argsort(-x[ids], kind="stable")]


def _within(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise GenerationError(f"{name} is {value}; use a number from {low} to {high}.")


def _check_ids(biases: Mapping[int, float], vocabulary: int) -> None:
    if max(biases) >= vocabulary:
        raise GenerationError(f"biases name token {max(biases)}; the vocabulary ends at {vocabulary - 1}. Remove it.")


GREEDY = SamplingParams(temperature=0)
"""The best token at every step."""
