"""Ring oscillators: a channel mixer that lets coupled phases run for a few Euler steps, and reads them out.

    n      = RMSNorm(x)
    theta  = n W_theta + gate(seed of the token)        omega = tanh(n W_omega)
    u      = soft_clamp(sum of the injections' currents, 4), by ring times the controller's drive
    theta += dt (omega + u + Im(e^{-i theta} H_r))      `steps` times; H_r: ring r's field (kernels.kuramoto)
    y      = soft_clamp(gate(GELU([cos theta; sin theta] W_1) W_2), 10)

Rings lie one after another in N, smallest first. Injections read n and the first phases; a controller reads the rings'
order before they run and modulates coupling, lag, centre and current (`Modulation`). Both finish before integration.

Shapes   x, y (B, T, D); theta, omega, u (B, T, N), float32 whatever x is; K (R, R); lag and centre gain (R,).
State    that of the organs; without organs none: each token is mixed alone.
Cost     2 D 2N + 2 (2N F + F D) operations a token, F = 2N readout; about 30 N a step for the dynamics.
Init     W_theta N(0, 0.065^2): phases of 1.8 rad, rings a fifth in step; W_omega N(0, 0.02^2); K 1 on its diagonal and
         0.25 beside it; lag 0; centre 0.1, turning 0.5 rad a unit of time; output gate open, seed's gate closed.
Source   Kuramoto 1975; phase lag: Sakaguchi and Kuramoto 1986; order parameters: Acebron et al. 2005. Gains by block of
         rings and the rotating centre are ours.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Protocol, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from positronic.config import AtMost, MixerConfig, OrganConfig, shared_by
from positronic.errors import ConfigError
from positronic.kernels.kuramoto import Modulation, RingField, integrate, spread
from positronic.kernels.soft_clamp import soft_clamp
from positronic.lm import MixerOutput
from positronic.nn import init
from positronic.nn.gate import OPEN, Gate
from positronic.nn.linear import linear, residual_std
from positronic.nn.norm import RMSNorm
from positronic.nn.parts import PartsState, prepared_by
from positronic.probe import Tap
from positronic.state import State, Step

__all__ = ["Controller", "Kuramoto", "KuramotoConfig"]

PHASE_STD, FREQUENCY_STD = 0.065, 0.02
CURRENT_BOUND, OUTPUT_BOUND = 4.0, 10.0


@dataclass(frozen=True, kw_only=True)
class KuramotoConfig(MixerConfig, kind="kuramoto"):
    rings: Annotated[tuple[int, ...], AtMost(16_384)] = (4, 8, 16, 32, 64, 128, 256)
    """Oscillators on each ring, innermost first."""
    steps: Annotated[int, AtMost(64)] = 4
    """Euler steps a token; steps * dt is how far a phase travels at unit frequency, in radians."""
    dt: float = 0.5
    """Time of one step."""
    readout: Annotated[int, AtMost(256)] = 3
    """Width of the readout's hidden layer over the 2N cosines and sines."""
    phase_seed: OrganConfig | None = None
    """Where phases of token ids come from. None: phases start from the stream alone."""
    controller: OrganConfig | None = None
    """What modulates the rings. None: nothing."""
    injections: tuple[OrganConfig, ...] = ()
    """Organs that inject currents, summed. Absent means not built."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.rings or min(self.rings) < 1:
            raise ConfigError(f"kuramoto.rings are {list(self.rings)}; give one ring or more, each of 1 or more.")
        if self.steps < 1 or not self.dt > 0 or self.readout < 1:
            raise ConfigError(
                f"kuramoto has steps {self.steps}, dt {self.dt} and readout {self.readout}, with which no phase moves "
                f"or none is read. Use 1 step or more (4 is usual), a positive dt (0.5) and a readout of 1 or more (3)."
            )

    @property
    def n_oscillators(self) -> int:
        return sum(self.rings)

    def build(self, d_model: int, n_branches: int = 1) -> "Kuramoto":
        """The module; n_branches residual branches in the trunk set the scale of its output at the start."""
        return Kuramoto(self, d_model, n_branches)

    def fitted(self, vocab_size: int) -> "KuramotoConfig":
        """The same with a seed for this vocabulary."""
        seed = self.phase_seed
        return self if seed is None else self.replace(phase_seed=seed.fitted(vocab_size, self.rings))

    def without_organs(self) -> Self:
        return self.replace(phase_seed=None, controller=None, injections=())

    def shared_parts(self, vocab_size: int) -> dict[str, Any]:
        """What all layers' organs read."""
        return shared_by((self.phase_seed, self.controller, *self.injections), vocab_size, self.rings)


class Controller(Protocol):
    """Watches the rings of an oscillator bank before they are integrated, and modulates them."""

    def init_state(self, batch: int, capacity: int = 0) -> State | None: ...

    def __call__(
        self, phases: Tensor, frequencies: Tensor, step: Step, state: State | None = None
    ) -> tuple[Modulation, State | None]:
        """phases, frequencies (B, T, N)."""
        ...


class Kuramoto(nn.Module):
    taps: ClassVar[Mapping[str, Tap]] = {
        "phase_seed": Tap("phases of token ids, (B, T, N)", torch.zeros_like, "fractal_phase"),
        "frequency": Tap("own frequencies, (B, T, N)"),
        "drive": Tap("bounded sum of the currents, (B, T, N)"),
        "first_phase": Tap("phases before the rings run, (B, T, N)"),
        "phase": Tap("and after, (B, T, N)"),
    }

    def __init__(self, config: KuramotoConfig, d_model: int, n_branches: int = 1):
        super().__init__()
        self.config = config
        n, rings = config.n_oscillators, len(config.rings)
        self.norm = RMSNorm(d_model)
        self.bank = linear(d_model, 2 * n, (PHASE_STD, FREQUENCY_STD))
        self.coupling = nn.Parameter(torch.empty(rings, rings))
        self.lag = nn.Parameter(torch.empty(rings))
        self.centre = nn.Parameter(torch.empty(rings))
        self.centre_phase = nn.Parameter(torch.empty(()))
        self.centre_speed = nn.Parameter(torch.empty(()))
        self.seed_gate = None if config.phase_seed is None else Gate(leak=0)
        self.injections = nn.ModuleList(organ.build(d_model, config.rings) for organ in config.injections)
        watching = config.controller
        self.controller: Controller | None = None if watching is None else watching.build(d_model, config.rings)
        self.up = linear(2 * n, 2 * n * config.readout)
        self.down = linear(2 * n * config.readout, d_model, residual_std(n_branches))
        self.gate = Gate(OPEN, leak=0)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        beside = torch.full((len(self.lag) - 1,), 0.25)
        init.copy_(self.coupling, torch.eye(len(self.lag)) + beside.diag(1) + beside.diag(-1))
        init.zeros_(self.lag)
        init.constant_(self.centre, 0.1)
        init.zeros_(self.centre_phase)
        init.constant_(self.centre_speed, 0.5)

    def init_state(self, batch: int, capacity: int = 0) -> PartsState | None:
        organs = [*self.injections] + ([] if self.controller is None else [self.controller])
        return PartsState(tuple(organ.init_state(batch, capacity) for organ in organs)) if organs else None

    def prepare(self, step: Step) -> dict[str, Any]:
        """What its organs want computed once a call."""
        return prepared_by((*self.injections, self.controller), step)

    def forward(self, x: Tensor, step: Step, state: PartsState | None = None) -> MixerOutput:
        n, before = self.norm(x), iter(() if state is None else state.parts)
        phases, frequencies = self.bank(n).float().chunk(2, -1)  # (B, T, N) each
        if self.config.phase_seed is not None and self.seed_gate is not None:
            seed = self.seed_gate(step.shared[self.config.phase_seed.kind])
            phases = phases + step.tap(self, "phase_seed", seed)
        frequencies = step.tap(self, "frequency", torch.tanh(frequencies))
        current, after = self._current(n, phases, step, before)
        field = RingField(
            self.coupling.float(), self.lag.float(), self.centre.float(), self.centre_phase, self.centre_speed
        )
        if self.controller is not None:
            modulation, memory = self.controller(phases, frequencies, step, next(before, None))
            after.append(memory)
            field = field.modulated(modulation)
            current = None if current is None else current * spread(modulation.drive, self.config.rings)
        current = None if current is None else step.tap(self, "drive", current)
        c = self.config
        theta = integrate(step.tap(self, "first_phase", phases), frequencies, current, field, c.rings, c.steps, c.dt)
        theta = step.tap(self, "phase", theta)
        features = torch.cat([theta.cos(), theta.sin()], -1).to(n.dtype)  # (B, T, 2N)
        y = self.gate(self.down(F.gelu(self.up(features))))
        return MixerOutput(soft_clamp(y, OUTPUT_BOUND), None if state is None else PartsState(tuple(after)))

    def _current(
        self, n: Tensor, phases: Tensor, step: Step, before: Iterator[State | None]
    ) -> tuple[Tensor | None, list[State | None]]:
        """The bounded sum of the injections' currents (B, T, N), and what they remember after the call."""
        current, after = None, []
        for organ in self.injections:
            y, memory, _ = organ(n, phases, step, next(before, None))
            current = y if current is None else current + y
            after.append(memory)
        return None if current is None else soft_clamp(current, CURRENT_BOUND), after
