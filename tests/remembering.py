"""The smallest mixer with a test-time memory, and a small model with it: for tests of what requests leave behind."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from positronic import models, tree
from positronic.lm import MixerOutput
from positronic.mixers.attention import AttentionConfig
from positronic.mixers.swiglu import SwiGLUConfig
from positronic.models.language_model import LanguageModel
from positronic.models.transformer import TransformerConfig
from positronic.nn.stack import Residual
from positronic.state import DecodeState, Memory, State, Step


@dataclass(frozen=True)
class Page(Memory):
    memory: Tensor
    """(B, D)"""
    rollback: tuple[Tensor] | None = None
    """(B, T+1, D) before the last call and after each of its tokens."""


@dataclass(frozen=True)
class LedgerState(State):
    pages: tuple[Page, ...]
    label: str | None = None

    @property
    def memory(self) -> Tensor:
        return self.pages[0].memory


class Ledger(nn.Module):
    """m_t = (m_{t-1} + tanh x_t) / 2, read before it is written, empty at the beginning of a document."""

    def __init__(self, d_model: int):
        super().__init__()
        self.config = None
        self.scale = nn.Parameter(torch.full((d_model,), 4.0))

    def init_state(self, batch: int, capacity: int = 0) -> LedgerState:
        return LedgerState((Page(self.scale.new_zeros(batch, len(self.scale))),))

    def forward(self, x: Tensor, step: Step, state: LedgerState | None = None) -> MixerOutput:
        before = self.init_state(len(x)) if state is None else state
        m, read = before.memory, []
        rollback, fresh = [m], step.fresh
        valid = torch.ones_like(step.tokens, dtype=torch.bool) if step.valid is None else step.valid
        for t in range(x.shape[1]):
            m = m.masked_fill(fresh[:, t, None], 0.0)
            read.append(m)
            if step.write_memory:
                m = torch.where(valid[:, t, None], 0.5 * (m + torch.tanh(x[:, t])), m)
            rollback.append(m)
        y = self.scale * torch.stack(read, 1)
        after = LedgerState((Page(m, (torch.stack(rollback, 1),) if step.keep_rollback else None),), before.label)
        return MixerOutput(y, None if state is None else after)


def remembering(seed: int = 0, vocab_size: int = 384, **changes: Any) -> LanguageModel:
    """Attention, SwiGLU and a ledger: 384 entries are the byte tokenizer's. Loud, so that every branch matters."""
    config = TransformerConfig(
        vocab_size=vocab_size,
        d_model=32,
        context=64,
        max_positions=512,
        n_layers=1,
        attention=AttentionConfig(n_heads=2, n_kv_heads=1, head_dim=16, rank=None, rope_dims=8),
        channel=SwiGLUConfig(hidden=48),
    ).replace(**changes)
    model = models.build(config, seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(8.0 if weight.dim() == 2 else 1.0)
    model.trunk.append(Residual(Ledger(config.d_model)))
    return model.eval()


def ledger_of(conversation: Any) -> Tensor:
    """What the ledger of a conversation holds, (B, D)."""
    return conversation.state.layers[-1].memory


def tensors_of(state: State) -> list[Tensor]:
    """Every tensor of a state, in order, without room."""
    read = tree.extended(state, state.length) if isinstance(state, DecodeState) else state
    return [tensor for _, tensor, _ in tree.tensors(read)]


def equal_bits(a: State, b: State) -> bool:
    """Whether two states hold the same tensors."""
    one, other = tensors_of(a), tensors_of(b)
    return len(one) == len(other) > 0 and all(torch.equal(x, y) for x, y in zip(one, other, strict=True))
