"""A replay as one page: three.js, our scripts and the numbers in one file, which asks no network for anything.

Modules stand in the page as text and are imported by name from blobs. The page's own policy forbids it every request.
three.js is release 184 as npm's package three 0.184.0 has it, unchanged, with its licence (MIT) beside it.
"""

import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from positronic.errors import DataError

__all__ = ["MAX_BYTES", "page"]

MAX_BYTES = 25_000_000
"""Of a page: what a telephone still opens."""
THREE = {
    "three.core": "three/three.core.min.js",
    "three": "three/three.module.min.js",
    "three.orbit": "three/OrbitControls.js",
}
"""Modules of pages with a scene, by the name they are imported by."""


def page(data: Mapping[str, Any], max_bytes: int = MAX_BYTES) -> str:
    """The page of what `replay` gave; one of more than `max_bytes` is refused."""
    scene = data["scene"]
    modules = {**THREE, "stage": "stage.js", "scene": f"{scene}.js"} if scene else {}
    scripts = [_script(name, file) for name, file in {**modules, "view": "view.js"}.items()]
    numbers = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    parts = {
        "{{licence}}": f"<!--\nthree.js\n{_static('three/LICENSE')}-->" if scene else "",
        "{{style}}": _static("view.css"),
        "{{scripts}}": "\n".join(scripts),
        "{{data}}": numbers.replace("<", "\\u003c"),
    }
    text = _static("view.html")
    for mark, part in parts.items():
        text = text.replace(mark, part, 1)
    size = len(text.encode())
    if size > max_bytes:
        fitting = int(len(data["tokens"]) * max_bytes / size * 0.95)
        one_layer = ", or one layer (--layer 1)" if len(data["layers"]) > 1 else ""
        raise DataError(
            f"The page would take {size / 1e6:.1f} MB, more than the {max_bytes / 1e6:g} MB that any browser opens; "
            f"record fewer tokens (about {fitting}, prompt included, would fit){one_layer}."
        )
    return text


def _script(name: str, file: str) -> str:
    """A module as text. One that comes from no address cannot be imported relative to another: by name, then."""
    code = _static(file).replace('"./three.core.min.js"', '"three.core"')
    return f'<script type="text/plain" data-module="{name}">{code}</script>'


def _static(file: str) -> str:
    return (files("positronic.viz") / "static" / file).read_text("utf-8")
