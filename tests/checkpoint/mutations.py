"""Ways to harm a checkpoint folder. Each takes the folder and a seeded `random.Random` and changes the files in place.

`MUTATIONS[name] = (change, harmless)`: harmless changes touch nothing that matters, so after the file hashes have been
made to fit again the folder must load with equal logits; all others must be refused, hashed again or not.
"""

import json
import random
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

from checkpoint_example import parts

WEIGHTS, CONFIG, TOKENIZER = "model.safetensors", "config.json", "tokenizer.json"
MUTATIONS: dict[str, tuple[Callable[[Path, random.Random], None], bool]] = {}
MANIFEST_MUTATIONS: dict[str, Callable[[Path, random.Random], None]] = {}
SHARD_MUTATIONS: dict[str, Callable[[Path, random.Random], None]] = {}


def harms(change):
    MUTATIONS[change.__name__] = (change, False)
    return change


def spares(change):
    MUTATIONS[change.__name__] = (change, True)
    return change


def in_manifest(change):
    MANIFEST_MUTATIONS[change.__name__] = change
    return change


def in_shards(change):
    SHARD_MUTATIONS[change.__name__] = change
    return change


def rehash(folder: Path) -> None:
    """Make sizes and file hashes in the manifest fit what lies in the folder; its `content` stays as it was."""
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    manifest["files"] = {
        path.relative_to(folder).as_posix(): {
            "bytes": path.stat().st_size,
            "sha256": sha256(path.read_bytes()).hexdigest(),
        }
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "manifest.json"
    }
    (folder / "manifest.json").write_text(json.dumps(manifest), "utf-8")


def edit(path: Path, change: Callable[[dict], None]) -> None:
    data = json.loads(path.read_text("utf-8"))
    change(data)
    path.write_text(json.dumps(data), "utf-8")


def two(names, random: random.Random) -> list[str]:
    return random.sample(sorted(names), 2)


def tensors(folder: Path) -> tuple[dict, dict, bytes]:
    """Header with and without its metadata, and the data."""
    header, data = parts(folder / WEIGHTS)
    return header, {name: entry for name, entry in header.items() if name != "__metadata__"}, data


def leaves(data, path=()):
    if isinstance(data, dict):
        for key, value in data.items():
            yield from leaves(value, (*path, key))
    else:
        yield path, data


def at(data, path):
    for key in path:
        data = data[key]
    return data
