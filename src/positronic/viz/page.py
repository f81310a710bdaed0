"""A replay as one page: three.js, our scripts and the numbers in one file, which asks no network for anything.

Modules stand as text in the one script that the page's policy lets run, which imports them from blobs in this order.
The numbers stand beside it as JSON, which is never run. The policy forbids the page every request.
three.js is release 184 as npm's package three 0.184.0 has it, unchanged, with its licence (MIT) beside it.
"""

import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from positronic.errors import DataError
from positronic.viz.policy import policy

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
    modules = (
        {**THREE, "stage": "stage.js", "view": "view.js", "scene": f"{scene}.js"} if scene else {"view": "view.js"}
    )
    style, script = _static("view.css"), _script(modules)
    parts = {
        "{{policy}}": policy(style, script),
        "{{licence}}": f"<!--\nthree.js\n{_static('three/LICENSE')}-->" if scene else "",
        "{{style}}": style,
        "{{script}}": script,
        "{{data}}": _inert(data),
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


def _script(modules: Mapping[str, str]) -> str:
    """What starts the page, with all modules in it. From no address nothing is imported by a relative one: by name."""
    codes = {name: _static(file).replace('"./three.core.min.js"', '"three.core"') for name, file in modules.items()}
    return _static("load.js").replace("{{modules}}", _inert(codes), 1)


def _inert(data: Mapping[str, Any]) -> str:
    """As JSON that no parser of HTML takes for the end of a script."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c")


def _static(file: str) -> str:
    return (files("positronic.viz") / "static" / file).read_text("utf-8")
