"""Imports go down: a package may import from lower floors only, never from its own floor's neighbours, never up."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "positronic"
FLOORS = [
    {"config", "state", "tree", "lm", "probe", "errors"},
    {"kernels", "text"},
    {"nn", "memory"},
    {"mixers", "traits"},
    {"models", "generation", "data"},
    {"checkpoint"},
    {"train", "eval", "observe"},
    {"serve", "adapters", "viz"},
    {"recipes"},
    {"cli"},
]
FLOOR_OF = {name: floor for floor, names in enumerate(FLOORS) for name in names}
GROUND = FLOORS[0]
TOP_LEVEL = {"", "__main__"}
"""The package's own face: `positronic.load` looks down on everything, lazily."""


def room(path: Path) -> str:
    """The package a file belongs to: "mixers" for mixers/attention.py, "config" for config.py."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return "" if parts == ("__init__",) else parts[0]


def imported_rooms(path: Path) -> set[str]:
    return {name.split(".")[1] for name in imported_names(path)} - {"__version__"}


def imported_names(path: Path) -> set[str]:
    """All that a file imports of the package, with dots: modules, and names in modules."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the floor; write positronic.x"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name.startswith("positronic.")}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_down(path):
    here = room(path)
    if here in TOP_LEVEL:
        return
    assert here in FLOOR_OF, f"{here} stands on no floor: add it to FLOORS and to docs/architecture.md"
    for there in imported_rooms(path):
        below = FLOOR_OF[there] < FLOOR_OF[here]
        within_ground = there in GROUND and here in GROUND
        assert there == here or below or within_ground, f"{here} (floor {FLOOR_OF[here]}) imports {there}"


DATA = ("sources", "tokens", "chat", "batches")
"""Rooms of `positronic.data`, each of which may import those before it."""


@pytest.mark.parametrize("path", sorted((PACKAGE / "data").rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_data_flows_one_way(path):
    here = path.relative_to(PACKAGE / "data").parts[0]
    if here == "__init__.py":
        return
    assert here in DATA, f"data/{here} is no room of data: move it into one"
    there = {name.split(".")[2] for name in imported_names(path) if name.startswith("positronic.data.")}
    assert there <= set(DATA[: DATA.index(here) + 1]), f"data/{here} imports {there - {here}}"


COMMANDS = PACKAGE / "cli" / "commands"


@pytest.mark.parametrize("path", sorted((PACKAGE / "cli").rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_command_is_imported(path):
    """What two of them need stands in cli/flags or cli/parts."""
    commands = [name for name in imported_names(path) if name.startswith("positronic.cli.commands")]
    assert not commands, f"{path.name} imports {commands}; move what it needs to cli/flags or cli/parts"


def test_each_file_among_the_commands_is_one():
    from positronic.cli import COMMANDS as NAMES

    assert {path.stem for path in COMMANDS.glob("*.py")} == {name.replace(" ", "_") for name in NAMES} | {"__init__"}


@pytest.mark.parametrize(
    ("room_name", "forbidden"),
    [("text", {"torch"}), ("config", {"torch"}), ("errors", {"torch"}), ("train", {"tyro", "rich", "tensorboard"})],
)
def test_heavy_libraries_stay_out_of_module_level(room_name, forbidden):
    files = [p for p in PACKAGE.rglob("*.py") if room(p) == room_name]
    for path in files:
        for node in ast.parse(path.read_text("utf-8")).body:
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not {name.split(".")[0] for name in names} & forbidden, f"{path} imports {forbidden} at module level"


def test_every_test_file_has_a_name_of_its_own():
    """Two of one name do not collect together."""
    names = [path.name for path in Path(__file__).parent.rglob("*.py") if path.name != "conftest.py"]
    assert sorted(names) == sorted(set(names))


DECODING = PACKAGE / "generation"
WHERE_MODELS_ARE_CALLED = {"decoding/forward.py", "decoding/uncached.py"}
"""The one call of all decoding, and a model that stands in for another."""


def calls_of_models(path: Path) -> list[int]:
    """Lines that call `model(...)`, `lm(...)` or an attribute of that name."""
    found = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in {"model", "lm"}:
                found.append(node.lineno)
    return found


def test_models_are_called_for_decoding_in_one_module():
    others = ["adapters/lm_eval.py", "adapters/hf/speculation.py", "adapters/hf/generating.py", "observe/record.py"]
    paths = [
        *sorted(DECODING.rglob("*.py")),
        *(PACKAGE / name for name in others),
        *(PACKAGE / "cli" / f"{name}.py" for name in ("commands/generate", "commands/chat", "parts/chunks")),
    ]
    calling = {str(path.relative_to(PACKAGE)) for path in paths if calls_of_models(path)}
    assert calling == {f"generation/{name}" for name in WHERE_MODELS_ARE_CALLED}
