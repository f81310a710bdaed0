"""Gated stores in chunks of tokens: products of small matrices, 1e-5 relative of the definition in float32.

With c_t[e] = sum_{u<=t} log(1 - w_u[e]), counted from the beginning of a chunk whose first token finds the stores S_0:

S_{t-1}[e] = exp(c_{t-1}) S_0[e] + sum_{s<t} A_ts v_s          A_ts[e] = exp(c_{t-1} - c_s) w_s[e]
q_t . S_in,t-1[e] = exp(c_{t-1}) q_t . S_0[e] + sum_{s<t} A_ts[e] (q_t . v_s)

where what was written before a document begins is left out after it. The stores that the chunks find follow in the same
way from what each chunk leaves behind, with one matrix over pairs of chunks. No exponent is ever positive.

Memory   A is the largest thing, C numbers a token, group and entry; the read is V of them. Autograd would keep both: a
         caller that trains runs this, and what consumes the read, under one `checkpoint`, which keeps the arguments.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from positronic.kernels.chunks import chunks, documents
from positronic.kernels.store.reference import Recall, choose

__all__ = ["CHUNK", "recall_chunked"]

CHUNK = 32
"""Tokens a chunk: on a CPU 32 trains 1.7 times as fast as 64, and holds half of A."""


def recall_chunked(q: Tensor, address: Tensor, w: Tensor, v: Tensor, stores: Tensor, fresh: Tensor, top: int) -> Recall:
    """The same as `recall_reference`, without its rollback."""
    tokens = w.shape[1]
    size = min(CHUNK, tokens)
    begun, still = documents(fresh, size)
    q, v = chunks(q, size), chunks(v, size)  # (B, n, C, G, V), (B, n, C, 2, G, V)
    w = chunks(w, size).permute(0, 1, 3, 4, 2)  # (B, n, G, E, C)
    upto = torch.ones(size, size, dtype=w.dtype, device=w.device).tril()
    c = (torch.log1p(-w)[..., None, :] * upto).sum(-1)  # no product, which TF32 would round; cumsum may change its bits
    before = F.pad(c[..., :-1], (1, 0))

    outlives = w * _decay(c[..., -1:] - c, begun == begun[..., -1:])  # what s wrote, at the end of its chunk
    left = torch.einsum("bngec,bncigv->bnigev", outlives, v)
    found = _stores_between(c[..., -1], begun[..., -1], left, stores)  # (B, n+1, 2, G, E, V)
    s_in, s_out = found[:, :-1].unbind(2)

    since = _decay(before, still)  # what S_0 has become when t reads
    earlier = torch.ones(size, size, dtype=torch.bool, device=w.device).tril(-1)
    seen = earlier & (begun[..., :, None] == begun[..., None, :])  # (B, n, C, C)
    a = _decay(before[..., :, None] - c[..., None, :], seen) * w[..., None, :]  # (B, n, G, E, C, C)
    v_in, v_out = v.unbind(3)
    products = torch.einsum("bntgv,bnsgv->bngts", q, v_in)
    scores = since * torch.einsum("bntgv,bngev->bnget", q, s_in) + (a * products[:, :, :, None]).sum(-1)
    read = since[..., None] * s_out[..., None, :] + torch.einsum("bngets,bnsgv->bngetv", a, v_out)
    scores = scores.permute(0, 1, 4, 2, 3).flatten(1, 2)[:, :tokens]
    read = read.permute(0, 1, 4, 2, 3, 5).flatten(1, 2)[:, :tokens]
    choice = choose((address + scores) / q.shape[-1] ** 0.5, top)
    return Recall(choice, choice[..., None] * read, found[:, -1])


def _stores_between(c: Tensor, begun: Tensor, left: Tensor, stores: Tensor) -> Tensor:
    """What n chunks find, and what the last leaves: (B, n+1, 2, G, E, V).

    c (B, n, G, E) log decay over a chunk; begun (B, n) documents so far at its end; left (B, n, 2, G, E, V) what it
    would leave in empty stores. Log decays are summed from chunk to chunk, not subtracted, as they may be long.
    """
    n = c.shape[1]
    upto = torch.ones(n + 1, n, dtype=c.dtype, device=c.device).tril(-1)
    after = torch.ones(n, n + 1, dtype=c.dtype, device=c.device).tril()
    decay = upto @ (c.movedim(1, -1)[..., None] * after)  # (B, G, E, n+1, n+1) from the end of one to that of another
    begun = F.pad(begun, (1, 0))
    earlier = torch.ones(n + 1, n + 1, dtype=torch.bool, device=c.device).tril()
    kept = earlier & (begun[:, :, None] == begun[:, None, :])
    decay = decay.masked_fill(~kept[:, None, None], -torch.inf).exp()
    return torch.einsum("bgenm,bmigev->bnigev", decay, torch.cat([stores[:, None], left], 1))


def _decay(exponent: Tensor, kept: Tensor) -> Tensor:
    """exp(exponent), (B, n, G, E, ...), and 0 where not kept, (B, n, ...)."""
    return exponent.masked_fill(~kept[:, :, None, None], -torch.inf).exp()
