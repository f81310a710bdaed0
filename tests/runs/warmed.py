"""For tests that run shell scripts: the command `positronic` without its start (see warm.py), and a small model."""

import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from positronic.mixers.attention import AttentionConfig
from positronic.mixers.swiglu import SwiGLUConfig
from positronic.models.transformer import TransformerConfig

__all__ = ["MODEL", "script", "warmed"]

WARM = Path(__file__).parent / "warm.py"
MODEL = TransformerConfig(
    d_model=32,
    context=512,
    max_positions=512,
    n_layers=1,
    attention=AttentionConfig(n_heads=2, n_kv_heads=1, head_dim=16, rank=None, rope_dims=8),
    channel=SwiGLUConfig(hidden=64),
)


def script(path: Path, *words: object) -> Path:
    """An executable that passes its words on."""
    path.write_text(f'#!/bin/sh\nexec {shlex.join(map(str, words))} "$@"\n', "utf-8")
    path.chmod(0o755)
    return path


@contextmanager
def warmed() -> Iterator[Path]:
    """The command, as long as its server lives."""
    folder = Path(tempfile.mkdtemp(prefix="warm"))  # short: a socket's path has 100 characters
    address = folder / "socket"
    server = subprocess.Popen([sys.executable, str(WARM), str(address)])
    try:
        while not address.exists():
            assert server.poll() is None, "the server ended"
            time.sleep(0.02)
        yield script(folder / "positronic", sys.executable, "-I", "-S", WARM, address)
    finally:
        server.kill()
        server.wait()
        shutil.rmtree(folder)
