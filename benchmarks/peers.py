"""Peers in plain PyTorch: what a training loop costs when nothing is shared, named or checked."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["PlainGPT", "SameLayers", "plain_step"]


class PlainBlock(nn.Module):
    """Pre-norm attention and GELU MLP, no biases: the block of GPT-2 as small training repositories write it."""

    def __init__(self, d: int, heads: int, hidden: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(d, bias=False), nn.LayerNorm(d, bias=False)
        self.qkv, self.out = nn.Linear(d, 3 * d, bias=False), nn.Linear(d, d, bias=False)
        self.up, self.down = nn.Linear(d, hidden, bias=False), nn.Linear(hidden, d, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        rows, tokens, d = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(rows, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        o = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(o.transpose(1, 2).reshape(rows, tokens, d))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class PlainGPT(nn.Module):
    """GPT-2's layout with tied embeddings; loss of next tokens in one call."""

    def __init__(self, vocab_size: int, d: int, layers: int, heads: int, context: int, hidden: int):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocab_size, d), nn.Embedding(context, d)
        self.blocks = nn.ModuleList(PlainBlock(d, heads, hidden) for _ in range(layers))
        self.norm = nn.LayerNorm(d, bias=False)
        for p in self.parameters():
            if p.dim() > 1:
                nn.init.normal_(p, std=0.02)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        h = self.tokens(x) + self.positions(torch.arange(x.shape[1], device=x.device))
        for block in self.blocks:
            h = block(h)
        logits = F.linear(self.norm(h), self.tokens.weight)
        return F.cross_entropy(logits.flatten(0, 1), y.flatten())


class SameLayers(nn.Module):
    """A model of ours as a plain loop sees it: tokens and targets in, mean cross entropy out, all logits at once."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        logits = self.model.logits(self.model(x).hidden)  # type: ignore[operator]
        return F.cross_entropy(logits.flatten(0, 1), y.flatten())


def plain_step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor, bfloat16: bool) -> None:
    """One training step: forward, backward, clip, update, and the loss read back."""
    with torch.autocast(x.device.type, torch.bfloat16, enabled=bfloat16):
        loss = model(x, y)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    loss.item()
