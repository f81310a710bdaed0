"""The next token of every row on the device itself, where it follows from the row's logits alone.

    best      the largest logit                                          rows at temperature 0
    drawn     argmax of logits / temperature + gumbel, over all tokens   no top-k, top-p or min-p in any row
    cut       the same over what top-k, top-p and min-p leave            otherwise

in the order and with the noise of `SamplingParams.pick`, in float64; a near-tie may fall otherwise where the device
rounds a logarithm otherwise.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from positronic.generation.sampling.noise import MULTIPLIERS, ROUNDS, WEYL
from positronic.generation.sampling.params import SamplingParams
from positronic.kernels.graphs import capture

__all__ = ["DeviceSampling", "gumbel_on_device"]

LOW = 0xFFFFFFFF


class DeviceSampling:
    """Chooses from `logits` (B, W) into `tokens` (B, 1); position (B,) is that of the newest token that was read."""

    def __init__(self, logits: Tensor, tokens: Tensor, position: Tensor, pool: object):
        self.logits, self.tokens, self.position, self.pool = logits, tokens, position, pool
        rows, device = len(logits), logits.device
        self._settings = torch.zeros(4, rows, dtype=torch.float64)
        self._words = torch.zeros(4, rows, dtype=torch.long)
        self.settings, self.words = self._settings.to(device), self._words.to(device)
        """(4, B) temperature, top_k, top_p and min_p; seed and stream, the low half of each first."""
        self._params: list[SamplingParams | None] = [None] * rows
        self._changed = False
        self._graphs: dict[str, tuple[Callable[[], None], Tensor]] = {}

    def put(self, row: int, params: SamplingParams | None) -> None:
        """How this row draws from now on; None: nobody asks."""
        self._params[row] = params
        if params is None or params.temperature == 0:
            changed = float(self._settings[0, row]) != 0
            self._settings[0, row] = 0.0
        else:
            changed = True
            cuts = params.temperature, float(params.top_k), params.top_p, params.min_p
            self._settings[:, row] = torch.tensor(cuts, dtype=torch.float64)
            halves = [params.seed & LOW, params.seed >> 32, params.stream & LOW, params.stream >> 32]
            self._words[:, row] = torch.tensor(halves)
        self._changed |= changed

    def choose(self) -> Tensor:
        """(B,) the next tokens, -1 where logits are not finite; `tokens` holds them for the next round."""
        form = self.form()
        self.upload()
        if form.__name__ not in self._graphs:
            self._graphs[form.__name__] = capture(form, self.pool)
        replay, chosen = self._graphs[form.__name__]
        replay()
        return chosen

    def upload(self) -> None:
        """What has changed since the last round."""
        if self._changed:
            self._changed = False
            self.settings.copy_(self._settings)
            self.words.copy_(self._words)

    def form(self) -> Callable[[], Tensor]:
        """The cheapest form that serves every row."""
        drawing = [one for one in self._params if one is not None and one.temperature > 0]
        if any(one.top_k or one.top_p < 1 or one.min_p for one in drawing):
            return self._cut
        return self._drawn if drawing else self._best

    def _best(self) -> Tensor:
        return self._said(self.logits.argmax(-1))

    def _drawn(self) -> Tensor:
        scores = self._warm() + self._noise()
        return self._said(torch.where(self.settings[0] > 0, scores.argmax(-1), self.logits.argmax(-1)))

    def _cut(self) -> Tensor:
        warm, ids = self._warm().sort(stable=True, dim=-1, descending=True)  # equal ones by id up
        rank = torch.arange(warm.shape[-1], device=warm.device)
        _, top_k, top_p, min_p = self.settings[..., None].unbind()
        kept = (rank < top_k) | (top_k == 0)
        mass = torch.where(kept, warm.exp(), 0.0)
        before = mass.cumsum(-1) - mass
        kept &= (top_p >= 1) | (before < top_p * mass.sum(-1, keepdim=True))
        kept &= warm >= min_p.log()
        scores = torch.where(kept, warm + self._noise().gather(-1, ids), -torch.inf)
        drawn = ids.gather(-1, scores.argmax(-1, keepdim=True)).squeeze(-1)
        return self._said(torch.where(self.settings[0] > 0, drawn, self.logits.argmax(-1)))

    def _warm(self) -> Tensor:
        """(B, W) float64: logits over the temperature, the best at 0."""
        x = self.logits.float().double()
        temperature = self.settings[0]
        scale = torch.where(temperature > 0, temperature, 1.0)
        return (x - x.amax(-1, keepdim=True)) / scale[:, None]

    def _noise(self) -> Tensor:
        return gumbel_on_device(self.words, self.position, self.logits.shape[-1])

    def _said(self, chosen: Tensor) -> Tensor:
        self.tokens.copy_(chosen[:, None])
        return torch.where(self.logits.amax(-1).isfinite(), chosen, -1)


def gumbel_on_device(words: Tensor, position: Tensor, tokens: int) -> Tensor:
    """(B, W) float64: `sampling.noise.gumbel` of tokens 0 .. W - 1 for rows of seeds and streams, words (4, B)."""
    a = torch.arange((tokens + 1) // 2, device=words.device).expand(len(position), -1)
    b, c, d = position[:, None] & LOW, words[2, :, None], words[3, :, None]
    k0, k1 = words[0, :, None], words[1, :, None]
    first, second = (int(m) for m in MULTIPLIERS)
    for _ in range(ROUNDS):
        x, y = a * first, c * second  # of 64 bits, as wrapped products have
        a, b, c, d = _high(y) ^ b ^ k0, y & LOW, _high(x) ^ d ^ k1, x & LOW
        k0, k1 = (k0 + WEYL[0]) & LOW, (k1 + WEYL[1]) & LOW
    bits = torch.stack([(a << 20) | (b >> 12), (c << 20) | (d >> 12)], -1).flatten(1)[:, :tokens]
    u = (bits.double() + 0.5) * 2.0**-52
    return -torch.log(-torch.log(u))


def _high(x: Tensor) -> Tensor:
    return (x >> 32) & LOW
