"""The model that a word of the command line names: a preset, a config file, a checkpoint, a run's newest one."""

from pathlib import Path
from typing import TYPE_CHECKING

from positronic.errors import ConfigError

if TYPE_CHECKING:
    from positronic.adapters.chimera_json import Published
    from positronic.config import ModelConfig
    from positronic.lm import LM
    from positronic.text import Tokenizer

__all__ = ["find_model_config", "find_published", "newest_of", "open_model"]

GIVE = "Give a config file, a folder or a preset."


def open_model(folder: Path, device: str) -> "tuple[LM, Tokenizer]":
    """A checkpoint's model on a device asked for by name, and its tokenizer; of a run's folder, the newest."""
    from positronic.checkpoint import load
    from positronic.train.device import pick_device

    return load(newest_of(folder), device=pick_device(device, "float32").torch_device)


def newest_of(folder: Path) -> Path:
    """The newest checkpoint, by its number, if the folder is a run's; else the folder itself."""
    from positronic.checkpoint import RunFolder

    return RunFolder(folder).newest() or folder


def find_published(name: str) -> "Published | None":
    """The published configuration of Chimera that a JSON file holds; None where the name stands for something else."""
    from positronic.adapters.chimera_json import is_published, read
    from positronic.checkpoint.reading import parse_json, read_json_bytes

    path = Path(name)
    if path.suffix != ".json" or not path.is_file():
        return None
    data = parse_json(read_json_bytes(path), path, GIVE)
    return read(data) if is_published(data) else None


def find_model_config(name: str) -> "ModelConfig":
    """The config that a preset's name, a checkpoint folder or a JSON file stands for."""
    from positronic.adapters.chimera_json import is_published, read
    from positronic.checkpoint import read_config
    from positronic.checkpoint.reading import parse_json, read_json_bytes
    from positronic.config import ModelConfig
    from positronic.models import preset

    path = Path(name)
    if path.is_dir():
        return read_config(path)
    if path.suffix != ".json":
        return preset(name)
    if not path.is_file():
        raise ConfigError(f"There is no file {name}; give a config file, a folder or a preset.")
    data = parse_json(read_json_bytes(path), path, GIVE)
    if is_published(data):
        return read(data).config
    nested = data.get("core") if isinstance(data, dict) else None
    return ModelConfig.from_json(nested or data, name)
