"""Colonies on view: by token and layer where tips grew, how dense it was there, which stations they reached.

The mixer taps how tips start and where they end; steps between are grown again from what it tapped, and what a tip
senses at each of them follows from the positions, by the mixer's own field. The last step is the tapped one itself.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from positronic.kernels.colony import ColonyField, grow
from positronic.mixers.colony import Colony
from positronic.observe.record import Recording
from positronic.traits.stations import Stations
from positronic.viz.numbers import digits, memories

__all__ = ["Colonies", "positions_by_step", "sensed"]


class Colonies:
    """The scene of some colonies, by their path in the model."""

    script = "colony"

    def __init__(self, colonies: Mapping[str, Colony]):
        self.colonies = dict(colonies)
        taps = (
            ":first_positions",
            ":first_growth",
            ":positions",
            ".stations:engagement",
            ".stations:memory",
            ".stations:choice",
        )
        self.patterns = tuple(f"{path}{tap}" for path in colonies for tap in taps)

    def fixed(self) -> list[dict[str, Any]]:
        """By layer, what is the same for all tokens."""
        return [_fixed(colony) for colony in self.colonies.values()]

    def frames(self, recording: Recording) -> list[list[dict[str, Any]]]:
        """By moment and layer, what the page draws."""
        layers = [_frames(path, colony, recording) for path, colony in self.colonies.items()]
        return [list(frame) for frame in zip(*layers, strict=True)]


def positions_by_step(colony: Colony, path: str, recording: Recording) -> Tensor:
    """(M, steps + 1, N, 3): tips before the first growth step and after each."""
    c, field = colony.config, _field(colony)
    first, growth = recording.tapped(f"{path}:first_positions"), recording.tapped(f"{path}:first_growth")
    last = recording.tapped(f"{path}:positions")
    assert first is not None, "the mixer taps where tips start"
    assert growth is not None, "and where they are heading"
    assert last is not None, "and where they end"
    return torch.stack([*(grow(first, growth, field, steps, c.dt).position for steps in range(c.steps)), last], 1)


def sensed(positions: Tensor, field: ColonyField) -> tuple[Tensor, Tensor]:
    """Tips (..., N, 3) -> density rho (..., N), and the mass m (..., F) that they put on each centre.

    kap_if = exp(-|c_f - p_i|^2 / 2 s_f^2), m_f = mean over i of kap_if, rho_i = sum_f m_f kap_if.
    """
    square = (field.centres - positions[..., None, :]).square().sum(-1)  # (..., N, F)
    kap = torch.exp(-square / (2 * field.width**2))
    mass = kap.mean(-2)
    return (kap * mass[..., None, :]).sum(-1), mass


def _field(colony: Colony) -> ColonyField:
    return ColonyField(*(x.detach().cpu() for x in colony.field()))


@torch.no_grad()
def _fixed(colony: Colony) -> dict[str, Any]:
    field = _field(colony)
    fixed = {name: digits(x) for name, x in field._asdict().items()}
    if isinstance(colony.stations, Stations):
        fixed |= {"anchors": digits(colony.stations.anchors), "reach": digits(colony.stations.reach.exp())}
    return fixed


def _frames(path: str, colony: Colony, recording: Recording) -> list[dict[str, Any]]:
    """One layer, moment by moment."""
    positions = positions_by_step(colony, path, recording)
    density, mass = sensed(positions, _field(colony))  # (M, steps + 1, N) and (M, steps + 1, F)
    stations = f"{path}.stations"
    tapped = {
        "position": positions.flatten(-2),
        "density": density,
        "mass": mass,
        "engagement": recording.tapped(f"{stations}:engagement"),
        **memories(recording.tapped(f"{stations}:memory"), recording.tapped(f"{stations}:choice")),
    }
    columns = {name: digits(x) for name, x in tapped.items() if x is not None}
    return [{name: values[m] for name, values in columns.items()} for m in range(len(recording.moments))]
