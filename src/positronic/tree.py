"""States as trees: what can be done to a memory follows from a description of its fields.

A node is a frozen dataclass below `Node`, and each of its fields is one of

    a tensor                 batch first: what is remembered now
    a tensor, `grows(axis)`  one entry a token along that axis, behind `lead` entries that stand in front of all tokens;
                             what lies behind the tokens read so far is room and means nothing
    `rollback`               None, or for each tensor that does not grow, in order, (B, T+1, ...): the same before the
                             last call and after each of its tokens
    nodes                    one, or a tuple of nodes and of None
    anything else            the same for all rows

so that committing, selecting, joining, counting, writing and reading are said once, here.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import field, fields, replace
from typing import Any, Self, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from positronic.errors import StateError

__all__ = [
    "Node",
    "Replayed",
    "exchanged",
    "extended",
    "filled",
    "grows",
    "joined",
    "mapped",
    "n_bytes",
    "nodes",
    "tensors",
]

ROLLBACK = "rollback"
GROWS = "grows"
NO_ROLLBACK = "This state kept no rollback of its last call; make that call with ForwardOptions(keep_rollback=True)."

Change = Callable[[Tensor, int | None], Tensor]
"""What becomes of a tensor; the axis along which it grows, or None."""
T = TypeVar("T")
N = TypeVar("N", bound="Node")


def grows(axis: int) -> Any:
    """A tensor with one entry a token along `axis`."""
    return field(metadata={GROWS: axis})


class Node:
    """What one mechanism remembers: the parent of all states.

    A state that keeps something else than its `rollback` for a commit, what it needs to read a part of the last call
    again, says so in a `commit` of its own.
    """

    lead: int = 0
    """Entries in front of the first token's, in tensors that grow."""

    def commit(self, path: Sequence[int]) -> Self:
        """Keep these tokens of the last call, from its first on, and forget the rest of it (needs `keep_rollback`)."""
        kept, parts = _fields(self), iter(getattr(self, ROLLBACK, None) or ())
        changes: dict[str, Any] = {}
        for name, value, axis in kept:
            if isinstance(value, Tensor):
                changes[name] = value if axis is not None else _kept(next(parts, None), path)
            else:
                changes[name] = _each(value, lambda node: node.commit(path))
        return _rebuilt(self, changes)

    def select(self, rows: Tensor) -> Self:
        """A copy with these rows, (n,) indices into the batch: to fork, to reorder or to leave a batch."""
        return mapped(self, lambda x, _: x[rows])


class Replayed(Node):
    """A state that reads the kept part of its last call again, by the same loop, so that no matrix is kept a token.

    Its `rollback` is what stood before that call and the call's rows (B, T, ...), whatever enters memory.
    """

    rollback: "tuple[Self, tuple[Tensor, ...]] | None"

    def after(self, *rows: Tensor) -> Self:
        """The state after these rows, by the loop over tokens."""
        raise NotImplementedError(f"{type(self).__name__} must say how rows enter it")

    def commit(self, path: Sequence[int]) -> Self:
        if self.rollback is None:
            raise StateError(NO_ROLLBACK)
        before, rows = self.rollback
        with torch.no_grad():
            return before.after(*(row[:, : len(path)] for row in rows)) if len(path) else before


def mapped(node: T, change: Change) -> T:
    """The same tree with every tensor changed and no rollback."""
    if not isinstance(node, Node):
        return _each(node, lambda inside: mapped(inside, change))
    return _rebuilt(
        node,
        {
            name: change(value, axis) if isinstance(value, Tensor) else mapped(value, change)
            for name, value, axis in _fields(node)
        },
    )


def joined(trees: Sequence[T]) -> T:
    """The rows of all as one batch, in order; where tensors grow, all get the room of the longest."""
    first = trees[0]
    if not isinstance(first, Node):
        if not isinstance(first, tuple):
            return first
        return tuple(joined(parts) for parts in zip(*map(_sized, trees), strict=True))  # type: ignore[return-value]
    found = [_fields(tree) for tree in trees if isinstance(tree, Node)]
    changes: dict[str, Any] = {}
    for of_all in zip(*found, strict=True):
        (name, value, axis), values = of_all[0], [one for _, one, _ in of_all]
        changes[name] = _stacked(values, axis) if isinstance(value, Tensor) else joined(values)
    return _rebuilt(first, changes)


def exchanged(node: T, kind: type[N], change: Callable[[N], Node]) -> T:
    """The same with every node of this kind, from the first on, in the place of which `change` puts another."""
    if isinstance(node, kind):
        return change(node)  # type: ignore[return-value]
    if not isinstance(node, Node):
        return _each(node, lambda inside: exchanged(inside, kind, change))
    inside = {name: value for name, value, _ in _fields(node) if not isinstance(value, Tensor)}
    return replace(node, **{name: exchanged(value, kind, change) for name, value in inside.items()})  # type: ignore[type-var]


def extended(node: T, capacity: int) -> T:
    """The same with room for so many tokens, neither more nor less."""
    if not isinstance(node, Node):
        return _each(node, lambda inside: extended(inside, capacity))
    return _rebuilt(
        node,
        {
            name: (value if axis is None else with_room(value, axis, capacity + node.lead))
            if isinstance(value, Tensor)
            else extended(value, capacity)
            for name, value, axis in _fields(node)
        },
    )


def with_room(x: Tensor, axis: int, entries: int) -> Tensor:
    """x with so many entries along `axis`: zeros behind what it had, or its first ones."""
    lacking = entries - x.shape[axis]
    if lacking <= 0:
        return x.narrow(axis, 0, entries)
    return F.pad(x, (0, 0) * (x.dim() - 1 - axis) + (0, lacking))


def nodes(tree: Any) -> Iterator[Node]:
    """All nodes, each before those inside it."""
    if isinstance(tree, Node):
        yield tree
        for _, value, _ in _fields(tree):
            yield from nodes(value)
    elif isinstance(tree, tuple):
        for part in tree:
            yield from nodes(part)


def tensors(tree: Any, path: str = "") -> Iterator[tuple[str, Tensor, int | None]]:
    """Every tensor that is remembered now: its path, itself, and the axis along which it grows."""
    if isinstance(tree, Node):
        for name, value, axis in _fields(tree):
            if isinstance(value, Tensor):
                yield f"{path}{name}", value, axis
            else:
                yield from tensors(value, f"{path}{name}.")
    elif isinstance(tree, tuple):
        for index, part in enumerate(tree):
            yield from tensors(part, f"{path}{index}.")


def filled(like: T, found: Mapping[str, Tensor], path: str = "") -> T:
    """The tree `like` with the tensors found at its paths."""
    if isinstance(like, tuple):
        return tuple(filled(part, found, f"{path}{index}.") for index, part in enumerate(like))  # type: ignore[return-value]
    if not isinstance(like, Node):
        return like
    return _rebuilt(
        like,
        {
            name: found[f"{path}{name}"] if isinstance(value, Tensor) else filled(value, found, f"{path}{name}.")
            for name, value, _ in _fields(like)
        },
    )


def n_bytes(tree: Any) -> int:
    """What the tree holds, its room included."""
    return sum(x.numel() * x.element_size() for _, x, _ in tensors(tree))


def _fields(node: Node) -> list[tuple[str, Any, int | None]]:
    """Name, value and axis of growth of what is remembered now: tensors, nodes and tuples of them."""
    found = ((f.name, getattr(node, f.name), f.metadata.get(GROWS)) for f in fields(node) if f.name != ROLLBACK)  # type: ignore[arg-type]
    return [one for one in found if isinstance(one[1], Tensor | Node | tuple)]


def _rebuilt(node: Any, changes: dict[str, Any]) -> Any:
    """The node with these fields and no rollback."""
    if hasattr(node, ROLLBACK):
        changes = changes | {ROLLBACK: None}
    return replace(node, **changes)


def _each(value: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(value, Node):
        return change(value)
    return tuple(_each(part, change) for part in value) if isinstance(value, tuple) else value


def _kept(rollback: Tensor | None, path: Sequence[int]) -> Tensor:
    if rollback is None:
        raise StateError(NO_ROLLBACK)
    return rollback[:, len(path)]


def _stacked(values: Sequence[Tensor], axis: int | None) -> Tensor:
    if axis is not None:
        longest = max(value.shape[axis] for value in values)
        values = [with_room(value, axis, longest) for value in values]
    return torch.cat(list(values))


def _sized(tree: Any) -> tuple[Any, ...]:
    assert isinstance(tree, tuple), "states that are joined are of one model"
    return tree
