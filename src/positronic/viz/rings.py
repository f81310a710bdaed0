"""Oscillators on view: by token and layer their phases at every Euler step, what drives them, what is remembered.

The mixer taps where phases start and where they end; the steps between are integrated again from what it tapped: first
phases, frequencies, the driving current and the controller's modulation. The last step is the tapped phase itself.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from positronic.kernels.kuramoto import Modulation, RingField, integrate, order_parameters
from positronic.mixers.kuramoto import Kuramoto
from positronic.observe.record import Recording
from positronic.traits.engram import Engram
from positronic.traits.specialists import Specialists
from positronic.viz.numbers import angles, digits, memories

__all__ = ["Rings", "phases_by_step"]


class Rings:
    """The scene of some oscillator banks, by their path in the model."""

    script = "rings"

    def __init__(self, banks: Mapping[str, Kuramoto]):
        self.banks = dict(banks)
        self.patterns = tuple(
            f"{path}{tap}"
            for path in banks
            for tap in (":first_phase", ":frequency", ":drive", ":phase", ".controller:*", ".injections.*:*")
        )

    def fixed(self) -> list[dict[str, Any]]:
        """By layer, what is the same for all tokens."""
        return [_fixed(bank) for bank in self.banks.values()]

    def frames(self, recording: Recording) -> list[list[dict[str, Any]]]:
        """By moment and layer, what the page draws."""
        layers = [_frames(path, bank, recording) for path, bank in self.banks.items()]
        return [list(frame) for frame in zip(*layers, strict=True)]


def phases_by_step(bank: Kuramoto, path: str, recording: Recording) -> Tensor:
    """(M, steps + 1, N): phases before the first Euler step and after each."""
    c = bank.config
    first, last = recording.tapped(f"{path}:first_phase"), recording.tapped(f"{path}:phase")
    frequency, drive = recording.tapped(f"{path}:frequency"), recording.tapped(f"{path}:drive")
    modulation = recording.tapped(f"{path}.controller:modulation")
    field = RingField(*(x.detach().float().cpu() for x in _field(bank)))
    if modulation is not None:
        field = field.modulated(Modulation(*modulation.unbind(-1)))
    assert first is not None, "the mixer taps where phases start"
    assert last is not None, "and where they end"
    assert frequency is not None, "and how fast they go alone"
    between = [integrate(first, frequency, drive, field, c.rings, steps, c.dt) for steps in range(1, c.steps)]
    return torch.stack([first, *between, last], 1)


def _field(bank: Kuramoto) -> tuple[Tensor, ...]:
    return bank.coupling, bank.lag, bank.centre, bank.centre_phase, bank.centre_speed


def _fixed(bank: Kuramoto) -> dict[str, Any]:
    c = bank.config
    clock = bank.centre_phase + bank.centre_speed * c.dt * torch.arange(c.steps + 1, device=bank.centre.device)
    slots = [organ.config.slots for organ in bank.injections if isinstance(organ, Engram)]
    return {
        "rings": list(c.rings),
        "dt": c.dt,
        "clock": angles(clock),
        "centre": digits(bank.centre),
        "coupling": digits(bank.coupling),
        "slots": [slot for part in slots for slot in part],
    }


def _frames(path: str, bank: Kuramoto, recording: Recording) -> list[dict[str, Any]]:
    """One layer, moment by moment."""
    rings = bank.config.rings
    phases = phases_by_step(bank, path, recording)
    re, im = order_parameters(phases, rings)
    tapped = {
        "frequency": recording.tapped(f"{path}:frequency"),
        "modulation": recording.tapped(f"{path}.controller:modulation"),
    }
    error, drive = recording.tapped(f"{path}.controller:error"), recording.tapped(f"{path}:drive")
    tapped["surprise"] = None if error is None else error.norm(dim=-1)
    tapped["drive"] = None if drive is None else _by_ring(drive, rings)
    currents: dict[str, list[Any]] = {}
    for number, organ in enumerate(bank.injections):
        here = f"{path}.injections.{number}"
        current = recording.tapped(f"{here}:current")
        if current is not None:
            currents[bank.config.injections[number].kind] = digits(_by_ring(current, rings))
        if isinstance(organ, Engram):
            tapped["gate"] = recording.tapped(f"{here}:gate")
        if isinstance(organ, Specialists):
            tapped |= memories(recording.tapped(f"{here}:memory"), recording.tapped(f"{here}:choice"))
    columns = {"phase": angles(phases), "order": digits(torch.hypot(re, im)), "mean": angles(torch.atan2(im, re))}
    columns |= {name: digits(x) for name, x in tapped.items() if x is not None}
    return [
        {name: values[m] for name, values in columns.items()}
        | {"currents": {kind: values[m] for kind, values in currents.items()}}
        for m in range(len(recording.moments))
    ]


def _by_ring(current: Tensor, rings: tuple[int, ...]) -> Tensor:
    """(M, N) -> (M, R): root mean square over each ring."""
    return torch.stack([ring.square().mean(-1).sqrt() for ring in current.split(rings, -1)], -1)
