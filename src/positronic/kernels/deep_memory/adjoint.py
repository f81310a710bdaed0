"""The chunked form in reused buffers, and its analytic adjoint in place of autograd's tape.

Forward keeps W and S after each chunk; backward finds a chunk's tokens again and walks from the last chunk to the
first. Per head, X' for dL/dX, with M_c and S_0 before a chunk, W and S after it, N before the cap, S_1 before the trust
region, u = W_2^T e, s = silu'(z) and sigma = sigmoid(z):

N'  = m W' - [m < 1] m <W', W> W / most^2                     m = min(1, most / |N|), of each matrix
c'  = <N', dM> + <S', S> / c                                  c = min(1, reach / |dM|), dM = (W / m - r_0 M_c) / c
dM' = c N' - [c < 1] c' c^3 dM / reach^2       S_1' = c S'
M_c' = r_0 N' + ..                             S_0' = g_0 dM' + h_0 S_1'
r_0' = <N', M_c>                               g_0' = <dM', S_0>        h_0' = <S_1', S_0>

and of the tokens, with Q' = (dM', S_1') side by side, p and x for k and e weighed both ways:

d' = p Q_1'^T      p' = d Q_1'       a' = x Q_2'^T + e' W_2       x' = a Q_2'
u' = d' s          e' = weighs x' + u' W_2^T                      z' = a' s + d' u silu''(z)
W_1' += z'^T k     W_2'^T += u'^T e + a^T e'
k' = weighs p' + z' W_1           v' = -e'                        weighs' = <p', k> + <x', e>

1e-10 of the definition's gradients in float64. dM matters where the trust region cut it; it is |M_c| / (trust |M_0|)
roundings from exact there.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from positronic.kernels.autocast import without_autocast
from positronic.kernels.deep_memory.chunked import Weighed, both_ways, in_turn, surprised, weigh
from positronic.kernels.deep_memory.reference import EPSILON, Learned, Limits, by_head
from positronic.kernels.graphs import Recorded
from positronic.kernels.registry import operator

__all__ = ["learn_adjoint"]


def learn_adjoint(
    k: Tensor,
    v: Tensor,
    gates: Tensor,
    anew: Tensor | None,
    weights: Tensor,
    momentum: Tensor,
    start: Tensor,
    trust: float,
    cap: float,
) -> Learned:
    """Shapes as in the definition. No gradient passes through `share`.

    Two rows of 1,024 tokens, 6 heads, K = 64, F = 128, forward and backward on one CPU thread: 0.13 s, and 35 MB are
    kept. On autograd's tape 0.18 s and 131 MB; the definition takes 14 s. One operator each way for a compiler, whose
    graph would grow with the chunks. On CUDA what is learned from is replayed as CUDA graphs: the host needs longer to
    ask for so many kernels than a GPU to run them.
    """
    limits = Limits.of(start, trust, cap)
    learning = torch.is_grad_enabled()
    versions, last, share, _, _ = _walk(*weigh(k, v, gates, anew), weights, momentum, start, *limits, learning)
    return Learned(versions, last, share)


class _Walked(NamedTuple):
    """What n chunks have made of a memory."""

    weights: Tensor
    """(B, n+1, H, 2, F, K) before the first and after each."""
    momentum: Tensor
    """(B, n+1, H, 2, F, K)"""
    share: Tensor
    """(B, n, H) c."""
    shrink: Tensor
    """(B, n, H, 2) m."""


@torch.library.custom_op(operator("deep_memory", __name__), mutates_args=())
def _walk(
    k: Tensor,
    v: Tensor,
    weighs: Tensor,
    remains: Tensor,
    carries: Tensor,
    written: Tensor,
    anew: Tensor | None,
    weights: Tensor,
    momentum: Tensor,
    start: Tensor,
    reach: Tensor,
    most: Tensor,
    learning: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The fields of `Weighed`, a memory and `Limits` -> W before and after each chunk, S after the last, c; and for the
    way back S before and after each chunk, and m."""
    walk = _recorded_walk if learning else _flat_walk
    with without_autocast(k.device.type):
        versions, momenta, share, shrink = walk(
            k, v, weighs, remains, carries, written, anew, weights, momentum, start, reach, most
        )
    return versions, momenta[:, -1].clone(), share, momenta, shrink


def _flat_walk(*given: Any) -> _Walked:
    """`_walked` of the operator's tensors."""
    *chunks, weights, momentum, start, reach, most = given
    return _walked(Weighed(*chunks), weights, momentum, start, Limits(reach, most))


_recorded_walk = Recorded(_flat_walk)


def _walked(chunks: Weighed, weights: Tensor, momentum: Tensor, start: Tensor, limits: Limits) -> _Walked:
    steps, bounds = in_turn(chunks), []
    versions, momenta = (x.new_empty(len(x), len(steps) + 1, *x.shape[1:]) for x in (weights, momentum))
    versions[:, 0], momenta[:, 0] = weights, momentum
    moved, scratch = torch.empty_like(momentum), torch.empty_like(momentum)
    for chunk, after, pulled in zip(steps, versions[:, 1:].unbind(1), momenta[:, 1:].unbind(1), strict=True):
        if chunk.anew is not None:
            weights = torch.where(by_head(chunk.anew[:, None]), start, weights)
        found, (g, h) = surprised(weights, chunk.k, chunk.v), chunk.carries[..., None, None].unbind(2)
        for i, (left, right) in enumerate(((found.d, chunk.k), (found.a, found.e))):
            push, pull = (left.mT @ both_ways(right, chunk.weighs)).chunk(2, -1)
            torch.addcmul(push, g, momentum[:, :, i], out=moved[:, :, i])
            torch.addcmul(pull, h, momentum[:, :, i], out=pulled[:, :, i])
        share = (limits.reach * (_dot(moved, moved, scratch).sum(-1) + EPSILON).rsqrt()).clamp(max=1.0)
        torch.mul(weights, by_head(chunk.remains), out=after).addcmul_(by_head(share), moved)
        shrink = (limits.most * (_dot(after, after, scratch) + EPSILON).rsqrt()).clamp(max=1.0)
        shrink = torch.where(chunk.written[..., None], shrink, 1.0)
        weights, momentum = after.mul_(shrink[..., None, None]), pulled.mul_(by_head(share))
        bounds.append((share, shrink))
    return _Walked(versions, momenta, *(torch.stack(each, 1) for each in zip(*bounds, strict=True)))


class _Passed(NamedTuple):
    """A memory (B, H, 2, F, K) before a chunk and after it, and its bounds."""

    base: Tensor
    before: Tensor
    """S_0."""
    weights: Tensor
    momentum: Tensor
    share: Tensor
    shrink: Tensor

    @staticmethod
    def all(walked: _Walked) -> "list[_Passed]":
        weights, momentum, *bounds = (x.unbind(1) for x in walked)
        return [_Passed(*x) for x in zip(weights[:-1], momentum[:-1], weights[1:], momentum[1:], *bounds, strict=True)]


@torch.library.custom_op(operator("deep_memory_back", __name__), mutates_args=())
def _walk_back(
    k: Tensor,
    v: Tensor,
    weighs: Tensor,
    remains: Tensor,
    carries: Tensor,
    written: Tensor,
    anew: Tensor | None,
    start: Tensor,
    reach: Tensor,
    most: Tensor,
    versions: Tensor,
    momenta: Tensor,
    share: Tensor,
    shrink: Tensor,
    of_versions: Tensor,
    of_last: Tensor,
) -> list[Tensor]:
    """Gradients of k, v, weighs, remains, carries, weights, momentum, start, reach and most."""
    chunks = k, v, weighs, remains, carries, written, anew
    with without_autocast(k.device.type):
        found = _recorded_walk_back(*chunks, start, reach, most, versions, momenta, share, shrink, of_versions, of_last)
    return list(found)


def _flat_walk_back(*given: Any) -> list[Tensor]:
    """`_walked_back` of the operator's tensors."""
    (*chunks, start, reach, most), walked, (of_versions, of_last) = given[:10], given[10:14], given[14:]
    return _walked_back(Weighed(*chunks), start, Limits(reach, most), _Walked(*walked), of_versions, of_last)


_recorded_walk_back = Recorded(_flat_walk_back)


def _walked_back(
    chunks: Weighed, start: Tensor, limits: Limits, walked: _Walked, of_versions: Tensor, of_momentum: Tensor
) -> list[Tensor]:
    of_momentum = of_momentum.clone(memory_format=torch.contiguous_format)
    of_weights, of_start = torch.zeros_like(of_momentum), start.new_zeros(start.shape)
    scratch, found = torch.empty_like(of_weights), []
    moves = of_weights.new_empty(*of_weights.shape[:-1], 2 * of_weights.shape[-1])
    first, *of_after = of_versions.unbind(1)
    for chunk, passed, of_version in reversed(list(zip(in_turn(chunks), _Passed.all(walked), of_after, strict=True))):
        if chunk.anew is not None:
            passed = passed._replace(base=torch.where(by_head(chunk.anew[:, None]), start, passed.base))
        of_bounds = _bounds_back(chunk, passed, limits, of_weights.add_(of_version), of_momentum, moves, scratch)
        of_carries = [_dot(half, passed.before, scratch).sum(-1) for half in moves.chunk(2, -1)]
        _momentum_back(chunk, moves, of_momentum)
        of_remain = _dot(of_weights, passed.base, scratch).sum(-1)
        of_tokens = _tokens_back(chunk, passed.base, moves, of_weights.mul_(by_head(chunk.remains)))
        if chunk.anew is not None:
            new = by_head(chunk.anew[:, None])
            of_start += (of_weights * new).sum_to_size(of_start.shape)
            of_weights.masked_fill_(new, 0.0)
        found.append((*of_tokens, of_remain, torch.stack(of_carries, -1), *of_bounds))
    *of_chunks, reach, most = (torch.stack(each[::-1], 1) for each in zip(*found, strict=True))
    of_limits = reach.sum(1).sum_to_size(limits.reach.shape), most.sum(1).sum_to_size(limits.most.shape)
    return [*of_chunks, of_weights.add_(first), of_momentum, of_start, *of_limits]


@_walk.register_fake
def _(k: Tensor, *others: Any) -> tuple[Tensor, ...]:
    momentum, (rows, n, heads) = others[7], k.shape[:3]
    versions = momentum.new_empty(rows, n + 1, *momentum.shape[1:])
    share, shrink = momentum.new_empty(rows, n, heads), momentum.new_empty(rows, n, heads, 2)
    return versions, momentum.new_empty(momentum.shape), share, torch.empty_like(versions), shrink


@_walk_back.register_fake
def _(k: Tensor, v: Tensor, weighs: Tensor, remains: Tensor, carries: Tensor, *others: Any) -> list[Tensor]:
    start, reach, most, of_last = *others[2:5], others[-1]
    likes = (k, v, weighs, remains, carries, of_last, of_last, start, reach, most)
    return [like.new_empty(like.shape) for like in likes]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    versions, _, share, momenta, shrink = output
    ctx.set_materialize_grads(False)  # `momenta` is large, and nobody's loss
    ctx.save_for_backward(*inputs[:7], *inputs[9:12], versions, momenta, share, shrink)


def _gradients(ctx: Any, of_versions: Tensor | None, of_last: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    kept = ctx.saved_tensors
    versions = kept[-4]
    of_versions = torch.zeros_like(versions) if of_versions is None else of_versions
    of_last = torch.zeros_like(versions[:, 0]) if of_last is None else of_last
    found = _walk_back(*kept, of_versions, of_last)
    return *found[:5], None, None, *found[5:], None


_walk.register_autograd(_gradients, setup_context=_keep)


def _bounds_back(
    chunk: Weighed,
    passed: _Passed,
    limits: Limits,
    of_weights: Tensor,
    of_momentum: Tensor,
    moves: Tensor,
    scratch: Tensor,
) -> tuple[Tensor, Tensor]:
    """W' becomes N', and `moves` dM' and S_1'; gradients of how far things may go, (B, H) and (B, H, 2)."""
    base, _, weights, momentum, share, shrink = passed
    of_reach, of_most = torch.zeros_like(share), torch.zeros_like(shrink)
    if _anywhere(shrink < 1):
        of_most = (shrink < 1).to(shrink.dtype) * _dot(of_weights, weights, scratch) / limits.most
        of_weights.mul_(shrink[..., None, None])
        of_weights.addcmul_((-of_most * shrink / limits.most)[..., None, None], weights)
    push, pull = moves.chunk(2, -1)
    torch.mul(of_weights, by_head(share), out=push)
    torch.mul(of_momentum, by_head(share), out=pull)
    if _anywhere(share < 1):
        moved = (weights / shrink[..., None, None]).addcmul_(by_head(-chunk.remains), base).div_(by_head(share))
        of_share = _dot(of_weights, moved, scratch).sum(-1) + _dot(of_momentum, momentum, scratch).sum(-1) / share
        of_reach = (share < 1).to(share.dtype) * of_share * share / limits.reach
        push.addcmul_(by_head(-of_reach * share.square() / limits.reach), moved)
    return of_reach, of_most


def _momentum_back(chunk: Weighed, moves: Tensor, of_momentum: Tensor) -> None:
    """S' becomes S_0'."""
    (push, pull), (g, h) = moves.chunk(2, -1), chunk.carries.unbind(-1)
    torch.mul(push, by_head(g), out=of_momentum).addcmul_(by_head(h), pull)


def _tokens_back(chunk: Weighed, base: Tensor, of_moves: Tensor, of_base: Tensor) -> tuple[Tensor, ...]:
    """Gradients of k, v and weighs; those of M_c are added to `of_base`."""
    t = surprised(base, chunk.k, chunk.v)
    (first, second), (of_first, of_second) = base.unbind(2), of_moves.unbind(2)
    of_d, of_a = both_ways(chunk.k, chunk.weighs) @ of_first.mT, both_ways(t.e, chunk.weighs) @ of_second.mT
    of_k, of_weighs = _both_ways_back(t.d @ of_first, chunk.k, chunk.weighs)
    of_e, of_weighs_too = _both_ways_back(t.a @ of_second, t.e, chunk.weighs)
    of_back = of_d * t.slope
    of_e.add_(of_back @ second)
    bend = torch.addcmul(t.slope, t.sigmoid, 1 - t.a).mul_(1 - t.sigmoid)
    of_z = of_a.add_(of_e @ second.mT).mul_(t.slope).addcmul_(of_d.mul_(t.back), bend)
    of_base[:, :, 0].add_(of_z.mT @ chunk.k)
    of_base[:, :, 1].add_(of_back.mT @ t.e).add_(t.a.mT @ of_e)
    return of_k.add_(of_z @ first), of_e.neg_(), of_weighs.add_(of_weighs_too)


def _both_ways_back(of_both: Tensor, x: Tensor, weighs: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of x (B, H, C, K) and of its two weights (B, H, C, 2), from that of both side by side."""
    one, other = of_both.chunk(2, -1)
    of_x = (one * weighs[..., :1]).addcmul_(other, weighs[..., 1:])
    return of_x, torch.stack([(one * x).sum(-1), (other * x).sum(-1)], -1)


def _anywhere(mask: Tensor) -> bool:
    """Whether it may hold somewhere: on the CPU, where looking costs nothing, whether it does."""
    return mask.device.type != "cpu" or bool(mask.any())


def _dot(x: Tensor, y: Tensor, scratch: Tensor) -> Tensor:
    """(B, H, 2, F, K) twice -> (B, H, 2)."""
    return torch.mul(x, y, out=scratch).sum((-2, -1))
