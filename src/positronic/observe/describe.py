"""What a model weighs and costs, counted on a model without memory: no weight is ever allocated."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from positronic.config import Config, ModelConfig
from positronic.models import build
from positronic.state import Step
from positronic.tree import n_bytes

__all__ = ["Description", "describe", "parameter_groups"]


@dataclass(frozen=True)
class Description:
    """Sizes and costs of one model."""

    config: ModelConfig
    total: int
    """Parameters."""
    groups: dict[str, int]
    """Parameters by mechanism: kind of the config that built the module, or the model's own part."""
    active: int
    """Parameters that take part in generating a token: neither heads that only train or draft, nor experts that are not
    chosen."""
    flops_per_token: int
    """Operations in matrix products, forward, a token of a full row; every pair of tokens counted in attention."""
    state_fixed: int
    """Bytes a conversation's state takes before its first token, float32."""
    state_per_token: int
    """Bytes it grows by with each token."""
    flops_by_depth: dict[int, int]
    """`flops_per_token` by how often a loop is passed; empty for a trunk without a loop."""

    def to_json(self) -> dict[str, Any]:
        loops = {str(depth): {"flops_per_token": flops} for depth, flops in self.flops_by_depth.items()}
        return {
            "config": self.config.to_json(),
            "parameters": {"total": self.total, "active": self.active, "groups": self.groups},
            "flops_per_token": self.flops_per_token,
            "state_bytes": {"fixed": self.state_fixed, "per_token": self.state_per_token},
        } | ({"loops": loops} if loops else {})


@torch.no_grad()
def describe(config: ModelConfig) -> Description:
    """Build the model on the meta device and count."""
    model = _without_memory(config)
    groups = parameter_groups(model)
    short, long = (n_bytes(model.init_state(1, room)) for room in (64, 128))
    per_token = (long - short) // 64
    total = sum(groups.values())
    heads = [head for head in (model.drafts, model.latents) if head is not None]
    idle = sum(getattr(module, "idle_parameters", 0) for module in model.modules())
    active = total - idle - sum(p.numel() for head in heads for p in head.parameters())
    usual, by_depth = _flops_by_depth(config)
    return Description(config, total, groups, active, usual, short - 64 * per_token, per_token, by_depth)


def _flops_by_depth(config: ModelConfig) -> tuple[int, dict[int, int]]:
    """Operations a token, and those of each depth of a loop, in which equal mixers are counted once."""
    if not config.loop_depths:
        return _flops(config) // config.context, {}
    model = _without_memory(config)
    trunk, tokens = model.trunk, torch.zeros(1, config.context, dtype=torch.long, device="meta")
    step, x = trunk.prepared(Step.of(tokens, boundary_id=config.boundary_id), whole_rows=True), model.embed(tokens)
    kinds = {block.mixer.config: block for block in trunk}
    of_kind = {kind: _passes(block, x, step) for kind, block in kinds.items()}
    costs = [of_kind[block.mixer.config] for block in trunk]
    once = _count(lambda: model.logits(x)) + sum(first for first, _ in costs)
    again = sum(costs[i][1 if model.walk.reads_again else 0] for i in trunk.sections["loop"])
    by_depth = {depth: (once + (depth - 1) * again) // config.context for depth in config.loop_depths}
    return by_depth[config.usual_depth], by_depth


def _passes(block: Any, x: Tensor, step: Step) -> tuple[int, int]:
    """Operations of a block's first pass, and of any later one."""
    context = block.enter(x, step)[-1]
    return _count(lambda: block.enter(x, step)), _count(lambda: block.again(x, context, step))


def _count(call: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def _without_memory(config: ModelConfig) -> Any:
    return build(config, device="meta").requires_grad_(False).eval()  # type: ignore[attr-defined]


def _flops(config: ModelConfig) -> int:
    """Operations in the matrix products of a full row; of many layers, each costs what the second does."""
    n_layers = getattr(config, "n_layers", 1)
    if n_layers > 2:
        one, two = (_flops(config.replace(n_layers=n)) for n in (1, 2))
        return one + (n_layers - 1) * (two - one)
    model = _without_memory(config)
    tokens = torch.zeros(1, config.context, dtype=torch.long, device="meta")
    return _count(lambda: model.logits(model(tokens).hidden))


def parameter_groups(model: nn.Module) -> dict[str, int]:
    """Parameters by mechanism, in the order of the model."""
    configs = {path: getattr(module, "config", None) for path, module in model.named_modules() if path}
    owner = {path: config.kind for path, config in configs.items() if isinstance(config, Config)}
    groups: dict[str, int] = {}
    for path, parameter in model.named_parameters():
        parts = path.split(".")
        prefixes = [".".join(parts[:n]) for n in range(len(parts), 0, -1)]
        name = next((owner[prefix] for prefix in prefixes if prefix in owner), parts[0])
        groups[name] = groups.get(name, 0) + parameter.numel()
    return groups
