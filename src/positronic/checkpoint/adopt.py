"""Making a checkpoint of a folder that another program wrote in our form: Transformers' `save_pretrained`, above all.

The folder holds our config, weights under our names (perhaps behind "model.") and our tokenizer, which that program may
still spell anew. So the manifest answers for config and weights byte by byte, and for the tokenizer by what it says.
"""

import os
from pathlib import Path

import torch

from positronic.checkpoint.form import core_of
from positronic.checkpoint.manifest import Content, json_digest, seal
from positronic.checkpoint.open_checkpoint import CONFIG
from positronic.checkpoint.provenance import written_by
from positronic.checkpoint.reading import parse_json, read_json_bytes
from positronic.checkpoint.tensors import digests
from positronic.checkpoint.weights import INDEX, SHARD, WEIGHTS
from positronic.errors import CheckpointError
from positronic.text import Tokenizer

__all__ = ["adopt"]


def adopt(folder: str | os.PathLike[str]) -> None:
    """Write the manifest of `folder`; whether its weights fit its config, loading says."""
    path = Path(folder)
    core = core_of(parse_json(read_json_bytes(path / CONFIG), path / CONFIG), str(path / CONFIG))
    tokenizer = Tokenizer.load(path)
    weights = sorted(file.name for file in path.iterdir() if file.name == WEIGHTS or SHARD.fullmatch(file.name))
    if not weights:
        raise CheckpointError(
            f"{path} has no {WEIGHTS} and no shards of it. Give the folder that a model was saved to."
        )
    found = {name: digest for file in weights for name, digest in digests(path / file).items()}
    names = {name for name in (CONFIG, INDEX, *weights) if (path / name).is_file()}
    content = Content(json_digest(core), tokenizer.sha256, found, None)
    seal(path, content, written_by(torch.device("cpu"), None), names)
