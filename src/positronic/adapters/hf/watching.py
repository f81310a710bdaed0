"""What passes between the layers, for callers that ask: hidden_states and attentions, in Transformers' form.

hidden_states   the embedding, the stream after each layer (a token mixer and a channel mixer), and in place of the
                last of these what the embedding is multiplied by: L + 1 of (B, T, D)
attentions      softmax weights of each attention layer, (B, H, T, S): L of them, from the definition
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import FloatTensor, Tensor, nn

from positronic.errors import GenerationError
from positronic.kernels.attention import attention_reference, visible
from positronic.lm import LM, MixerOutput
from positronic.mixers.attention import Attention
from positronic.nn.documents import documents_of
from positronic.nn.kv import seen

__all__ = ["Watched", "watching"]


@dataclass
class Watched:
    """What one call lets through; nothing where it was not asked for."""

    stream: list[Tensor] = field(default_factory=list)
    weights: list[Tensor] = field(default_factory=list)

    def hidden_states(self, last: Tensor, layers: int) -> tuple[FloatTensor, ...] | None:
        """last (B, T, D): what the embedding is multiplied by."""
        seen = (*self.stream[: 2 * layers : 2], last)
        return cast(tuple[FloatTensor, ...], seen) if self.stream else None

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
        handles += [
            block.register_forward_pre_hook(lambda _, given: seen.stream.append(given[0])) for block in core.trunk
        ]
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
