"""Optimizers by config: which parameter is moved by which rule, and their memory as plain tensors.

    AdamW    m = b1 m + (1 - b1) g     v = b2 v + (1 - b2) g^2     w <- (1 - lr wd) w - lr m^ / (sqrt(v^) + eps)
    Muon     m = 0.95 m + g            w <- (1 - lr wd) w - lr 0.2 sqrt(max(n, k)) orthogonal(g + 0.95 m)
    balance  b <- b - 0.001 sign(g)

Muon moves the matrices of the trunk; embedding, head, norms, gates, scalars and biases stay with AdamW. Its update has
the size of AdamW's (0.2 rms), so both share one rate. Weight decay falls on matrices and the embedding alone. Biases
that choose experts (`nn.load_bias`) have a rule of their own, which knows no rate, and no part in a gradient's norm.

Source   Loshchilov and Hutter 2019, arXiv 1711.05101; Jordan 2024, "Muon"; Liu et al. 2025, arXiv 2502.16982 (scale).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, cast

import torch
from torch import Tensor, nn

from positronic.config import AtMost, Config
from positronic.errors import CheckpointError, ConfigError
from positronic.nn.linear import Matrices, Matrix
from positronic.nn.load_bias import LoadBias
from positronic.train.balance import Balance
from positronic.train.muon import Muon

__all__ = ["AdamWConfig", "MuonConfig", "OptimizerConfig", "Optimizers"]


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig(Config):
    """What every optimizer has."""

    lr: Annotated[float, AtMost(3e38)] = 1e-3
    """Peak learning rate. Of 5e-4 to 8e-3, 1e-3 was best for 3 M parameters, 2e-3 (by 1 %) for 15 M."""
    weight_decay: float = 0.1
    """Decoupled decay of matrices and of the embedding, times the rate."""
    betas: tuple[float, ...] = (0.9, 0.95)
    """AdamW: what gradient and squared gradient keep from step to step."""
    eps: float = 1e-8
    """AdamW: added to the root of the squared gradient."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.lr > 0 or self.weight_decay < 0 or not self.eps > 0:
            raise ConfigError(
                f"{self.kind} has lr {self.lr}, weight_decay {self.weight_decay} and eps {self.eps}; use a positive lr "
                f"(1e-3 is usual for small models) and eps, and a weight_decay of 0 or more."
            )
        if len(self.betas) != 2 or not all(0 <= b < 1 for b in self.betas):
            raise ConfigError(f"{self.kind}.betas are {self.betas}; give two numbers in [0, 1), as (0.9, 0.95).")

    def build(self, model: nn.Module) -> "Optimizers":
        return Optimizers(self, model)


@dataclass(frozen=True, kw_only=True)
class AdamWConfig(OptimizerConfig, kind="adamw"):
    """AdamW for everything."""


@dataclass(frozen=True, kw_only=True)
class MuonConfig(OptimizerConfig, kind="muon"):
    """Muon for the trunk's matrices, AdamW for the rest."""

    momentum: float = 0.95
    """What Muon's momentum keeps from step to step."""


class Optimizers:
    """One optimizer or several over all parameters of a model, stepped together at one rate."""

    def __init__(self, config: OptimizerConfig, model: nn.Module):
        self.config = config
        self.names = {p: path for path, p in model.named_parameters() if p.requires_grad}
        balanced = {module.bias for module in model.modules() if isinstance(module, LoadBias)} & self.names.keys()
        self.clipped = {p: path for p, path in self.names.items() if p not in balanced}
        """Those with a part in the gradient's norm."""
        decayed, muon = _decayed(model), set()
        if isinstance(config, MuonConfig):
            muon = {p for p in decayed if p.dim() > 1 and self.names[p].split(".")[0] == "trunk"}
        rest = [p for p in self.clipped if p not in muon]
        groups = [
            {"params": [p for p in rest if p in decayed], "weight_decay": config.weight_decay},
            {"params": [p for p in rest if p not in decayed], "weight_decay": 0.0},
        ]
        b1, b2 = config.betas
        self.parts: dict[str, torch.optim.Optimizer] = {
            "adamw": torch.optim.AdamW(
                [g for g in groups if g["params"]], lr=config.lr, betas=(b1, b2), eps=config.eps, fused=True
            )
        }
        if muon:
            assert isinstance(config, MuonConfig)
            self.parts["muon"] = Muon(
                [p for p in self.names if p in muon], config.lr, config.weight_decay, config.momentum
            )
        if balanced:
            self.parts["balance"] = Balance(p for p in self.names if p in balanced)
        for group in self.parts["adamw"].param_groups:
            for p in group["params"]:
                self.parts["adamw"].state[p] = _fresh(p)

    @property
    def parameters(self) -> list[nn.Parameter]:
        return list(self.names)

    def step(self, scale: float, skip: Tensor | None = None) -> None:
        """Move the weights along their gradients at `scale` times the peak rate, or change nothing where `skip`.

        skip: a scalar on the device, 1 to change nothing, which is read there.
        """
        for part in self.parts.values():
            part.found_inf = skip  # type: ignore[attr-defined]  # the protocol between gradient scalers and optimizers
            for group in part.param_groups:
                group["lr"] = self.config.lr * scale
            part.step()

    def zero_grad(self) -> None:
        for part in self.parts.values():
            part.zero_grad(set_to_none=True)

    def state_tensors(self) -> dict[str, Tensor]:
        """All memory, as `part/parameter/buffer`: the live tensors, not copies."""
        return {
            f"{name}/{self.names[p]}/{key}": value
            for name, part in self.parts.items()
            for p, state in cast(dict[nn.Parameter, dict[str, Tensor]], part.state).items()
            for key, value in sorted(state.items())
        }

    def load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `state_tensors` gave, which must be exactly what this optimizer keeps."""
        ours = self.state_tensors()
        for path, buffer in ours.items():
            found = tensors.get(path)
            if found is None or found.shape != buffer.shape or found.dtype != buffer.dtype:
                raise CheckpointError(
                    f"The checkpoint's optimizer holds {_described(found)} as {path}, where {_described(buffer)} "
                    f"belongs. Resume with the same model and --optimizer, or start anew with --init FOLDER."
                )
        strange = tensors.keys() - ours.keys()
        if strange:
            raise CheckpointError(
                f"The checkpoint's optimizer holds {min(strange)}, which --optimizer {self.config.kind} does not "
                f"know. Resume with the same optimizer, or start anew with --init FOLDER."
            )
        for path, buffer in ours.items():
            buffer.copy_(tensors[path])


def _fresh(p: Tensor) -> dict[str, Tensor]:
    """What AdamW remembers of a parameter before its first step: made here, so that it is complete from the start."""
    zero = torch.zeros((), dtype=torch.float32, device=p.device)
    return {"step": zero, "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}


def _decayed(model: nn.Module) -> set[nn.Parameter]:
    """Weights of linear maps and of embeddings: what decay is good for."""
    return {
        cast(nn.Parameter, module.weight)
        for module in model.modules()
        if isinstance(module, nn.Linear | nn.Embedding | Matrix | Matrices) and module.weight.requires_grad
    }


def _described(tensor: Any) -> str:
    return "nothing" if tensor is None else f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
