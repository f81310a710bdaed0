"""The families at their smallest with the whole anatomy; organs opened, one or all; models with much to say."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from positronic.config import ModelConfig
from positronic.mixers.deep_memory import DeepMemoryState
from positronic.mixers.gated_delta import DeltaState
from positronic.mixers.metric_attention import MetricState
from positronic.mixers.mlstm import MLSTMState
from positronic.models import PRESETS, build
from positronic.models.metric import moa_tiny
from positronic.models.mycel import mycel_tiny
from positronic.models.quazimoto import positronic_tiny
from positronic.nn.causal_window import WindowState
from positronic.nn.loop import LoopState
from positronic.nn.memory_slots import SlotsState
from positronic.nn.ring import RingState
from positronic.state import ForwardOptions
from positronic.traits.engram import EngramWindow
from positronic.traits.mtp import MTPConfig
from positronic.traits.ring_controller import ControllerState
from positronic.tree import nodes

BYTES, EOT = 384, 256
"""Vocabulary of the byte tokenizer, and its end of a document."""


def narrow_attention(config: Any) -> dict[str, Any]:
    """Heads as narrow as they go."""
    return {"attention": config.attention.replace(head_dim=16, rank=24, rope_dims=8)}


def narrow_mixture(config: Any) -> dict[str, Any]:
    """The same for metric heads, with a ball that prunes, and heads that draft."""
    conv, mha, mix, mqa = config.mixture.heads
    ball = mha.prune.replace(radius=3.0, beta=0.1)
    mha = mha.replace(n_heads=3, n_kv_heads=3, head_dim=16, prune=ball, projector=mha.projector.replace(hidden=16))
    heads = (conv, mha, mix.replace(hidden=48), mqa.replace(n_heads=3, head_dim=16, prune=ball))
    return {
        "mixture": config.mixture.replace(heads=heads, hidden=16, groups=3),
        "channel": config.channel.replace(hidden=96, rank=8),
        "drafts": MTPConfig(hidden=48),
    }


def narrow_hybrid(config: Any) -> dict[str, Any]:
    """Every kind of mixer once, in the loop; chunks of the deep memory that many texts fill; and heads that draft."""
    delta = {"n_heads": 3, "head_dim": 16, "gate_rank": 16}
    return {
        "n_layers": 4,
        "prelude": 0,
        "coda": 0,
        "pattern": ("GD", "XM", "TM", "SK"),
        "gated_delta": config.gated_delta.replace(**delta),
        "mlstm": config.mlstm.replace(**delta),
        "titans": config.titans.replace(
            n_kv_heads=1, head_dim=16, window=24, slots=4, memory=config.titans.memory.replace(chunk=8)
        ),
        "span_knot": config.span_knot.replace(**delta),
        "channel": config.channel.replace(hidden=96),
        "experts": config.experts.replace(hidden=32),
        "experts_every": 2,
        "drafts": MTPConfig(hidden=192),
    }


@dataclass(frozen=True)
class Family:
    tiny: Callable[[], Any]
    """Its preset that is made smaller still."""
    opening: dict[str, str]
    """By organ, what the names of the parameters that open it in `small` have in common."""
    states: set[type]
    """Kinds of what its organs remember."""
    n_tensors: int
    """Of the state of `small`."""
    fine: str | tuple[str, ...]
    """How the name of a matrix ends that `loud` leaves alone."""
    seed: int
    loudness: tuple[float, float]
    """Factors of the embedding and of all other matrices. With these and the seed, texts do not repeat themselves."""
    narrow: Callable[[Any], dict[str, Any]] = narrow_attention
    """What `small` changes of the tiny preset's parts."""
    memorises: bool = True
    """Whether it writes memories at test time that `freeze_memory` keeps it from."""

    def small(self, **changes: Any) -> ModelConfig:
        config = self.tiny()
        smaller = config.replace(
            vocab_size=300,
            d_model=48,
            context=64,
            max_positions=512,
            boundary_id=7,
            **{"n_layers": 2, **self.narrow(config)},
        )
        return smaller.replace(**changes)

    def opened(self, model, tanh: float = 0.5, organ: str = "all"):
        """The gates of an organ at tanh g = 0.5 and its zero-started values filled, so that it is not silent."""
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for name, p in model.named_parameters():
                if self.opening[organ] not in name:
                    continue
                if name.rpartition(".")[2] == "g":
                    p.fill_(torch.atanh(torch.tensor(tanh)))
                elif not p.any():
                    p.normal_(0.0, 0.2, generator=generator)
        return model.eval()

    def loud(self, model):
        """Matrices, and norms before them, larger than at the start: margins exist and every branch matters, as after
        training."""
        embedding, others = self.loudness
        with torch.no_grad():
            for name, p in model.named_parameters():
                if p.dim() == 2 and not name.endswith(self.fine):
                    p.mul_(embedding if name.startswith("embed") else others)
                elif name.endswith(("inner_norm.weight", "out_norm.weight")):
                    p.fill_(1.0)
            model.head.scale.fill_(1.5)
        return model

    def speaking(self, organ: str = "all", **changes: Any):
        """A model whose texts do not repeat themselves, with an organ open, or all."""
        config = self.small(vocab_size=BYTES, boundary_id=EOT, **changes)
        return self.loud(self.opened(build(config, self.seed), organ=organ))


REFINERS = {"hrm": "trunk.4.", "moe": "trunk.5.", "all": "", "none": "no parameter's name"}
QUAZIMOTO = Family(
    positronic_tiny,
    {
        "phase_seed": "seed_gate.",
        "controller": "shared.ring_controller.",
        "phase_attention": "injections.0.",
        "engram": "injections.1.",
        "specialists": "injections.2.",
        **REFINERS,
    },
    {SlotsState, ControllerState, EngramWindow},
    n_tensors=2 * 2 + 2 * (2 + 1 + 2) + 1 + 3,
    fine="coupling",  # four times as strong, rings amplify a rounding a hundredfold
    seed=1,
    loudness=(6.0, 4.0),
)
MYCEL = Family(
    mycel_tiny,
    {"phase_seed": "seed_gate.", "stations": "stations.", **REFINERS},
    {SlotsState},
    n_tensors=2 * 2 + 2 * 1 + 3,
    fine="centres",
    seed=5,
    loudness=(4.0, 5.0),
)
METRIC = Family(
    moa_tiny,
    {
        "energy and bend": "rope.",
        "metric": "log_m",
        "projector": "projector.",
        "router": "choose.",
        "all": "",
        "none": "no parameter's name",
    },
    {WindowState, MetricState},
    n_tensors=2 * (1 + 3 + 3 + 1) + 3,
    fine="bend",
    seed=5,
    loudness=(1.0, 6.0),
    narrow=narrow_mixture,
    memorises=False,
)
CHIMERA = Family(
    PRESETS["chimera-tiny"],
    {"recalled": "mixer.gate", "bias": "balance.bias", "loop": "walk.", "all": "", "none": "no parameter's name"},
    {WindowState, DeltaState, MLSTMState, RingState, DeepMemoryState, LoopState},
    n_tensors=2 * 2 + 3 + (1 + 3) + 1 + 3,
    fine=(
        "gate_bias",
        "conv.past",
        "query.weight",
        "kv.weight",
        "key_value.weight",
        "keys_values.weight",
        "gates.weight",
        "router.weight",
    ),
    seed=163,
    loudness=(1.0, 60.0),
    narrow=narrow_hybrid,
)
FAMILIES = {"quazimoto": QUAZIMOTO, "mycel": MYCEL, "metric": METRIC, "chimera": CHIMERA}


def tokens_of(batch: int, length: int, seed: int = 0) -> Tensor:
    return torch.randint(8, 300, (batch, length), generator=torch.Generator().manual_seed(seed))


def logits_of(model, tokens: Tensor, **wishes) -> Tensor:
    return model.logits(model(tokens, options=ForwardOptions(**wishes)).hidden)


def memories(conversation: Any) -> list[Tensor]:
    """Stores and fast weights of all layers."""
    states = list(nodes(conversation.state))
    stores = [state.stores for state in states if isinstance(state, SlotsState)]
    fast = [state.weight for state in states if isinstance(state, ControllerState)]
    return stores + fast + [state.momentum for state in states if isinstance(state, DeepMemoryState)]
