"""Ring controllers: each ring predicts what it will look like at the next token, and its surprise steers the ring.

    x_t  = [ sqrt(|Z|^2 + 1e-12), Re Z, Im Z, mean omega, 1 ]          Z the ring's order parameter, before integration
    e_t  = x_t[:4] - W_{t-1} x_{t-1}                                   the error of what was predicted a token ago
    W_t  = W_{t-1} + eta e_t x_{t-1}^T / (1e-6 + |x_{t-1}|^2)
    d_t  = [ x_t; W_t x_t; e_t ] D                                     D of the ring, the only thing that is trained
    gain = 1 + tanh(d0) / 2   lag = tanh(d1) / 2   centre = 1 + tanh(d2) / 2   drive = 1 + tanh(d3) / 2

Before a document's first token there is neither an observation nor a prediction: x_{-1} = 0 and W = 0, so that the
error there is x_t[:4] itself and W stays 0. Observations are detached: no gradient runs through the dynamics, W follows
its rule alone. The phase enters as Re Z and Im Z, since the angle has no value at Z = 0 and jumps at pi.

The decoder belongs to the whole model (`RingDecoder`), the fast weights to a layer and a ring (`RingController`).

Shapes   phases, frequencies (B, T, N); x (B, T, R, 5); e, W x (B, T, R, 4); D (R, 13, 4); modulation (B, T, R) each.
State    W and the last observation of a real token, 25 numbers a ring (175 a layer for 7 rings), and their document.
         Padding moves neither. Frozen (`write_memory=False`), W keeps its value inside its document and a new document
         still starts from 0; the last observation moves on all the same: it is what a prediction is made from.
Cost     some 200 operations a ring and token beside the order parameters.
Init     D = 0: the modulation is exactly (1, 0, 1, 1).
Source   ours; W follows normalised least mean squares (`kernels.predictor`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from positronic.config import OrganConfig
from positronic.errors import ConfigError
from positronic.kernels.kuramoto import Modulation, ring_means
from positronic.kernels.predictor import predict, predict_reference
from positronic.nn import init
from positronic.probe import Tap
from positronic.state import Memory, Step

__all__ = ["ControllerState", "RingController", "RingControllerConfig", "RingDecoder"]

OBSERVED = 5
"""Numbers that a controller sees of its ring; the last is 1 and need not be predicted."""
FEATURES = OBSERVED + 2 * (OBSERVED - 1)
NEUTRAL = (1.0, 0.0, 1.0, 1.0)
"""Gain, lag, centre and drive that change nothing."""
SWING = 0.5
"""How far each of them may move, either way."""


@dataclass(frozen=True, kw_only=True)
class RingControllerConfig(OrganConfig, kind="ring_controller"):
    eta: float = 0.25
    """Share of the prediction error that one token's update removes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.eta < 2:
            raise ConfigError(
                f"ring_controller.eta is {self.eta}, and predictions settle only between 0 and 2; use 0.25, "
                f"or build no controller."
            )

    def build(self, d_model: int, rings: tuple[int, ...]) -> "RingController":
        """The part of one layer, for rings of these sizes."""
        return RingController(self, rings)

    def build_shared(self, vocab_size: int, rings: tuple[int, ...]) -> "RingDecoder":
        """The part of the model, whose value the layers read as `step.shared["ring_controller"]`."""
        return RingDecoder(self, rings)


@dataclass(frozen=True)
class ControllerState(Memory):
    """What the controllers of one layer expect, and of what."""

    weight: Tensor
    """(B, R, 4, 5) W, float32."""
    last: Tensor
    """(B, R, 5) the last real token's observation, float32."""
    rollback: tuple[Tensor, Tensor] | None = None
    """(B, T+1, ...) each: both before the last call and after each of its tokens."""

    def carried(self) -> "ControllerState":
        return ControllerState(self.weight, torch.zeros_like(self.last))


class RingDecoder(nn.Module):
    """D (R, 13, 4), what all layers read surprise with: a `Shared` part without state."""

    def __init__(self, config: RingControllerConfig, rings: tuple[int, ...]):
        super().__init__()
        self.config = config
        self.decoder = nn.Parameter(torch.empty(len(rings), FEATURES, len(NEUTRAL)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        init.zeros_(self.decoder)

    def init_state(self, batch: int, capacity: int = 0) -> None:
        return None

    def forward(self, step: Step, state: None = None) -> tuple[Tensor, None]:
        return self.decoder, None


def _neutral(modulation: Tensor) -> Tensor:
    """(..., 4): what changes nothing."""
    return modulation.new_tensor(NEUTRAL).expand_as(modulation)


class RingController(nn.Module):
    """The controllers of one layer: a `Controller` without parameters."""

    taps: ClassVar[Mapping[str, Tap]] = {
        "modulation": Tap("gain, lag, centre and drive of each ring, (B, T, R, 4)", _neutral),
        "error": Tap("errors of the predictions, (B, T, R, 4)"),
    }

    neutral: Tensor

    def __init__(self, config: RingControllerConfig, rings: tuple[int, ...]):
        super().__init__()
        self.config, self.rings = config, rings
        self.register_buffer("neutral", torch.empty(len(NEUTRAL), dtype=torch.float32), persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        init.copy_(self.neutral, torch.tensor(NEUTRAL))

    def init_state(self, batch: int, capacity: int = 0) -> ControllerState:
        def zeros(*shape: int) -> Tensor:
            return self.neutral.new_zeros(batch, *shape, dtype=torch.float32)

        n = len(self.rings)
        return ControllerState(zeros(n, OBSERVED - 1, OBSERVED), zeros(n, OBSERVED))

    def prepare(self, step: Step) -> dict[str, Any]:
        """Which tokens begin a document."""
        return step.prepare_fresh()

    def forward(
        self, phases: Tensor, frequencies: Tensor, step: Step, state: ControllerState | None = None
    ) -> tuple[Modulation, ControllerState | None]:
        with torch.no_grad():
            features, after = self._learn(observe(phases.float(), frequencies.float(), self.rings), step, state)
        d = (features[..., None] * step.shared["ring_controller"].float()).sum(-2)  # (B, T, R, 4)
        modulation = step.tap(self, "modulation", torch.add(self.neutral.float(), torch.tanh(d), alpha=SWING))
        return Modulation(*modulation.unbind(-1)), after

    def _learn(self, x: Tensor, step: Step, state: ControllerState | None) -> tuple[Tensor, ControllerState | None]:
        """Observations x (B, T, R, 5) -> features (B, T, R, 13) and the state after them."""
        before = self.init_state(len(x)) if state is None else state
        seen = _seen(x, step.valid, before.last)  # (B, T+1, R, 5)
        key = seen[:, :-1].masked_fill(step.fresh[..., None, None], 0.0)
        rate = step.where_real(x.new_full((), self.config.eta if step.write_memory else 0.0), padding=0.0)  # (B, T)
        form = predict_reference if step.keep_rollback else predict  # what may be committed has the definition's bits
        ahead, error, weight, rollback = form(x, key, rate, ~step.fresh, before.weight)
        features = torch.cat([x, ahead, step.tap(self, "error", error)], -1)
        if state is None:
            return features, None
        kept = None if rollback is None or not step.keep_rollback else (rollback, seen)
        return features, ControllerState(weight, seen[:, -1], kept)


def observe(theta: Tensor, omega: Tensor, rings: tuple[int, ...]) -> Tensor:
    """(..., N) -> (..., R, 5): |Z|, Re Z, Im Z and the mean frequency of each ring, and 1."""
    re, im, mean = ring_means(torch.stack((theta.cos(), theta.sin(), omega)), rings).unbind()
    return torch.stack([(re.square() + im.square() + 1e-12).sqrt(), re, im, mean, torch.ones_like(re)], -1)


def _seen(x: Tensor, valid: Tensor | None, last: Tensor) -> Tensor:
    """x (B, T, ...) -> (B, T+1, ...): the last real observation before each token, at first `last`, and after all."""
    seen = torch.cat([last[:, None], x], 1)
    if valid is None:
        return seen
    place = torch.arange(1, seen.shape[1], device=x.device) * valid
    newest = nn.functional.pad(place, (1, 0)).cummax(1).values  # (B, T+1)
    return torch.take_along_dim(seen, newest[:, :, None, None], 1)
