"""What passes between the layers, for callers that ask: hidden_states and attentions, in Transformers' form.

hidden_states   the embedding, the stream after each layer (a token mixer and a channel mixer), and in place of the
                last of these what the embedding is multiplied by: L + 1 of (B, T, D). Before a layer that is passed
                more than once, what its last pass was given
attentions      softmax weights of each attention layer, (B, H, T, S): L of them, from the definition
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import torch
from torch import FloatTensor, Tensor, nn

from positronic.errors import GenerationError
from positronic.kernels.attention import attention_reference, visible
from positronic.lm import LM, MixerOutput
from positronic.mixers.attention import Attention
from positronic.nn.documents import documents_of
from positronic.nn.kv import seen
from positronic.nn.loop import Looped

__all__ = ["Watched", "watching"]


@dataclass
class Watched:
    """What one call lets through; nothing where it was not asked for."""

    stream: dict[int, Tensor] = field(default_factory=dict)
    """By layer what it was given, at its last pass; by 0 the embedding."""
    weights: list[Tensor] = field(default_factory=list)

    def hidden_states(self, last: Tensor) -> tuple[FloatTensor, ...] | None:
        """last (B, T, D): what the embedding is multiplied by."""
        seen = (*self.stream.values(), last)
        return cast(tuple[FloatTensor, ...], seen) if self.stream else None

    def begins(self, walk: Looped, given: tuple[Any, ...]) -> None:
        """With what a trunk with a loop is given, if all tokens pass it as often."""
        _, x, step, states = given
        if walk.draws(step, states) or not isinstance(step.loops, int | None):
            raise GenerationError(
                "output_hidden_states is not answered where each row or token passes the loop as often as was drawn or "
                "as it needs, so that none has a last pass in common. Say how often with loops, or call eval() first."
            )
        self.stream[0] = x

    def passes(self, layer: int, norm: nn.Module, given: tuple[Any, ...]) -> None:
        """What a layer's first norm is given, which is the stream."""
        if layer or not self.stream:
            self.stream[layer] = given[0]

    def attentions(self) -> tuple[FloatTensor, ...] | None:
        return cast(tuple[FloatTensor, ...], tuple(self.weights)) or None


@contextmanager
def watching(lm: LM, hidden: bool, attentions: bool) -> Iterator[Watched]:
    """Watch the calls made inside."""
    seen, handles = Watched(), []
    core: Any = lm
    heads = [module for module in cast(nn.Module, core).modules() if isinstance(module, Attention)]
    if attentions and len(heads) != core.config.n_layers:
        raise GenerationError(
            f"output_attentions is not answered by the family {core.config.kind}, whose heads are not attention alone; "
            f"watch them with positronic.probe.Probe. Leave it out."
        )
    if hidden:
        for layer, block in enumerate(list(core.trunk)[: 2 * core.config.n_layers : 2]):
            handles.append(block.mixer.norm.register_forward_pre_hook(partial(seen.passes, layer)))
        if isinstance(core.walk, Looped):
            handles.append(core.walk.register_forward_pre_hook(seen.begins))
    if attentions:
        handles += [head.register_forward_hook(lambda *call: seen.weights.append(_weights(*call))) for head in heads]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _weights(head: Attention, given: tuple[Any, ...], output: MixerOutput) -> Tensor:
    """(B, H, T, S): how much of each token so far a head reads at each of this call; identities as values say."""
    x, step, state = given
    q, k, _ = head.heads(x, step)
    if state is None:
        allowed = visible(q, documents_of(step))
    else:
        after: Any = output.state
        k, allowed = after.keys[:, :, : step.reach].to(q.dtype), seen(step)
    values = torch.eye(k.shape[2], dtype=q.dtype, device=q.device).expand(*k.shape[:2], -1, -1)
    return attention_reference(q, k, values, allowed, head.config.score_cap)
