"""Modules of the package as flat siblings: files of one folder that import each other by `from .sibling import name`.

Transformers finds the files of remote code by such lines, and by no other: a package inside, `from . import x` and
`from ..x import y` are not followed. So every import of ours is led back to the module that defines the name

    from positronic.nn import init         init.normal_(w)     ->  from .nn_init import normal_ as init_normal_
    from positronic.text import Tokenizer                      ->  from .text_tokenizer import Tokenizer

and every module that is reached this way becomes a file. What stands inside `try` is optional: it stays as it is and is
not followed. Nothing is imported, only read. Whoever breaks what this relies on meets an assertion.
"""

import ast
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import NamedTuple

__all__ = ["PROVIDED", "faults", "flatten", "title"]

PACKAGE = "positronic"
PROVIDED = {"numpy", "safetensors", "tokenizers", "torch", "transformers"}
"""What may be imported beside the standard library: who loads a model has these."""
HEADER = "# Written by `positronic export` from {} (Apache-2.0); change that file and export again.\n"
WIDTH = 120


class Origin(NamedTuple):
    """Where something is defined: a name in a module, or, without a name, a module itself."""

    module: str
    name: str | None = None


@dataclass(frozen=True)
class Edit:
    """A span of a file's bytes and what takes its place."""

    start: int
    end: int
    text: str


def flatten(roots: Iterable[str], titles: Mapping[str, str]) -> dict[str, str]:
    """The text of each file by its name, ".py" left out: `roots` and all that they import.

    titles: names for some modules; others are called by their path in the package, nn_stack for positronic.nn.stack.
    """
    pending, reached = list(roots), {}
    while pending:
        module = pending.pop()
        if module not in reached:
            reached[module] = _Source.read(module).rewritten(titles)
            pending += reached[module].needs
    written = {title(module, titles): found.text for module, found in sorted(reached.items())}
    assert len(written) == len(reached), "two modules would have the same file"
    return written


def title(module: str, titles: Mapping[str, str]) -> str:
    """The name of a module's file."""
    return titles.get(module) or module.removeprefix(f"{PACKAGE}.").replace(".", "_")


def faults(written: Mapping[str, str]) -> list[str]:
    """What would keep these files from being imported where the package is not, a line each; none if all is well."""
    found = []
    for file, text in written.items():
        for node in _imports(ast.parse(text, file)):
            if isinstance(node, ast.ImportFrom) and node.level:
                sibling = written.get(node.module or "")
                known = {} if node.level > 1 or sibling is None else _bound(sibling)
                names = {alias.name for alias in node.names} - {"__name__"} - known.keys()
                found += [f"{file}: there is no {name} in {'.' * node.level}{node.module}" for name in sorted(names)]
                continue
            tops = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            strangers = {top.partition(".")[0] for top in tops} - PROVIDED - sys.stdlib_module_names
            found += [f"{file}: {name} need not be installed" for name in sorted(strangers)]
    return found


@dataclass(frozen=True)
class _Rewritten:
    text: str
    needs: list[str]
    """Modules that the text imports, by their names in the package."""


@dataclass(frozen=True)
class _Source:
    module: str
    text: bytes
    tree: ast.Module

    @staticmethod
    def read(module: str) -> "_Source":
        text = _file(module).read_bytes()
        return _Source(module, text, ast.parse(text))

    def rewritten(self, titles: Mapping[str, str]) -> _Rewritten:
        edits: list[Edit] = []
        needs: list[str] = []
        for node in _imports(self.tree):
            if not isinstance(node, ast.ImportFrom) or not _ours(node.module or ""):
                assert isinstance(node, ast.ImportFrom) or not any(_ours(alias.name) for alias in node.names), (
                    f"{self.module} imports the package by `import`; write `from {PACKAGE}.x import y`"
                )
                continue
            wanted: dict[str, dict[str, str]] = {}  # by module, each name and what it is called here
            for alias in node.names:
                origin, local = _resolve(node.module or "", alias.name), alias.asname or alias.name
                if origin.name is not None:
                    wanted.setdefault(origin.module, {})[origin.name] = local
                    continue
                for use in self._uses(local):
                    target, name = _resolve(origin.module, use.attr), f"{local}_{use.attr}"
                    assert target.name is not None, f"{self.module}: {local}.{use.attr} is a module"
                    wanted.setdefault(target.module, {})[target.name] = name
                    edits.append(Edit(self._place(use.lineno, use.col_offset), self._end(use), name))
            lines = [_import_line(title(module, titles), wanted[module], node.col_offset) for module in sorted(wanted)]
            joined = ("\n" + " " * node.col_offset).join(lines)
            edits.append(Edit(self._place(node.lineno, node.col_offset), self._end(node), joined))
            needs += wanted
        return _Rewritten(self._edited(edits), needs)

    def _uses(self, local: str) -> Iterator[ast.Attribute]:
        """Every use of a module's name, which may only be looked into."""
        inside = [node for node in ast.walk(self.tree) if isinstance(node, ast.Attribute)]
        looked = [node for node in inside if isinstance(node.value, ast.Name) and node.value.id == local]
        named: list[ast.AST] = [node for node in ast.walk(self.tree) if isinstance(node, ast.Name) and node.id == local]
        named += [node for node in ast.walk(self.tree) if isinstance(node, ast.arg) and node.arg == local]
        assert len(looked) == len(named), f"{self.module} uses {local} other than as {local}.name"
        yield from looked

    def _place(self, line: int, column: int) -> int:
        return sum(len(part) for part in self.text.splitlines(keepends=True)[: line - 1]) + column

    def _end(self, node: ast.stmt | ast.expr) -> int:
        return self._place(node.end_lineno or 0, node.end_col_offset or 0)

    def _edited(self, edits: list[Edit]) -> str:
        text = self.text
        for edit in sorted(edits, key=lambda edit: -edit.start):
            text = text[: edit.start] + edit.text.encode() + text[edit.end :]
        return HEADER.format(self.module) + text.decode()


def _imports(tree: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """All imports, also of functions and classes, but not those that are tried."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif not isinstance(node, ast.Try):
            yield from _imports(node)


def _resolve(module: str, name: str) -> Origin:
    """Where `from module import name` leads in the end."""
    known = _bound(_file(module).read_text("utf-8"))
    if name not in known:
        assert _is_module(f"{module}.{name}"), f"there is no {name} in {module}"
        return Origin(f"{module}.{name}")
    source = known[name]
    if source is None:
        return Origin(module, name)
    return Origin(f"{module}.{source.name}") if source.module == module else _resolve(source.module, source.name or "")


@cache
def _bound(text: str) -> dict[str, Origin | None]:
    """Names that a module binds at its top, and what of the package they are imported from; None: nothing."""
    found: dict[str, Origin | None] = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.ImportFrom):
            ours = _ours(node.module or "")
            for alias in node.names:
                found[alias.asname or alias.name] = Origin(node.module or "", alias.name) if ours else None
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = None
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [part for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)]
            found |= {part.id: None for part in names}
    return found


def _import_line(file: str, names: Mapping[str, str], indent: int) -> str:
    parts = [name if name == local else f"{name} as {local}" for name, local in sorted(names.items())]
    line = f"from .{file} import {', '.join(parts)}"
    if indent + len(line) <= WIDTH:
        return line
    margin = " " * indent
    return f"from .{file} import (\n" + "".join(f"{margin}    {part},\n" for part in parts) + f"{margin})"


def _ours(module: str) -> bool:
    return module == PACKAGE or module.startswith(f"{PACKAGE}.")


def _is_module(module: str) -> bool:
    try:
        return _file(module).is_file()
    except FileNotFoundError:
        return False


def _file(module: str) -> Traversable:
    """A module's file; its packages are not imported on the way, as they may want what is not installed."""
    place = files(PACKAGE)
    for part in module.split(".")[1:]:
        place = place / part
    return place / "__init__.py" if place.is_dir() else place.parent / f"{place.name}.py"  # type: ignore[attr-defined]
