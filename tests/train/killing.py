"""Commands that are killed: a process that has imported everything forks once for each, and strikes where it is told.

    python killing.py          reads one JSON object a line, {"words": [...], "call": n, "after_s": s}, answers one

Killed is the fork: at its n-th call that changes names on the disk, just before it or just after, or when it has run
for some seconds. Each run counts its calls, so that a whole one says where others can be struck.
"""

import importlib
import json
import os
import random
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

PRELOADED = ("torch._dynamo", "matplotlib.pyplot", "positronic.recipes", "positronic.viz", "positronic.generation")
PRELOADED += tuple(f"positronic.cli.commands.{name}" for name in ("train", "sft", "dpo"))
OPTIONAL = ("positronic.adapters.lora", "positronic.cli.commands.lora", "tensorboard.summary.writer.record_writer")
NAMING = ("rename", "replace", "symlink", "unlink", "remove", "rmdir", "mkdir")
CLOCKED = ("seconds", "tokens_per_s", "left_s")


class Server:
    """The process that forks, and the folder where its runs lie."""

    def __init__(self, cache: Path):
        here = Path(__file__).parent
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(here), *sys.path]), "OMP_NUM_THREADS": "1"}
        environment["POSITRONIC_CACHE"] = str(cache)
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
        )

    def run(self, words: list[str], call: int = 0, after: bool = False, after_s: float = 0.0) -> dict[str, Any]:
        """Run one command and strike as told; what became of it: killed, code, calls, seconds, err."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        wish = {"words": words, "call": call, "after": after, "after_s": after_s}
        self._process.stdin.write(json.dumps(wish) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def kill_to_the_end(server: Server, begin: list[str], out: Path, kills: int, whole: dict[str, Any], seed: int) -> int:
    """Run `begin` into `out`, killed and gone on with until `kills` have struck, then to its end; how many struck."""
    drawn, struck = random.Random(seed), 0
    for left in range(kills, -1, -1):
        words = [begin[0], "--resume", "--out", str(out), "--device", "cpu"] if _begun(out) else begin
        strike: dict[str, Any] = {}
        if left:
            by_call = {"call": drawn.randrange(1, whole["calls"] + 1), "after": drawn.random() < 0.5}
            strike = by_call if drawn.random() < 0.7 else {"after_s": drawn.uniform(0, whole["seconds"])}
        found = server.run(words, **strike)
        assert found["killed"] or found["code"] == 0, (seed, words, strike, found["err"])
        struck += found["killed"]
    return struck


def _begun(out: Path) -> bool:
    return any(out.glob("step-*")) or any(out.glob("checkpoint-*"))


def told(run: Path) -> dict[str, Any]:
    """All that a run's folder says, by path: links, bytes, and values without what a clock said."""
    return {
        str(path.relative_to(run)): _told(path) for path in sorted(run.rglob("*")) if path.name != "training_args.bin"
    }


def _told(path: Path) -> Any:
    if path.is_symlink():
        return os.readlink(path)
    if path.is_dir():
        return "folder"
    if path.name == "metrics.jsonl":
        events = [json.loads(line) for line in path.read_text().splitlines()]
        return [{k: Path(v).name if k == "folder" else v for k, v in e.items() if k not in CLOCKED} for e in events]
    if path.name == "state.json" and path.parent.name == "train":
        state = json.loads(path.read_text())
        state["counters"].pop("seconds")
        return state
    if path.name == "manifest.json":
        manifest = json.loads(path.read_text())
        del manifest["files"]["train/state.json"], manifest["content"]["training"]["meta"]
        return manifest
    if "tfevents" in path.name:
        return _scalars(path.read_bytes())
    return path.read_bytes()


def _scalars(data: bytes) -> list[tuple[int, str, float]]:
    """Step, name and value of all that a file of TensorBoard holds, without what a clock said."""
    from tensorboard.compat.proto.event_pb2 import Event

    found, at = [], 0
    while at < len(data):
        length = int.from_bytes(data[at : at + 8], "little")
        event = Event.FromString(data[at + 12 : at + 12 + length])
        found += [
            (event.step, v.tag, v.simple_value) for v in event.summary.value if v.tag.split("/")[1] not in CLOCKED
        ]
        at += length + 16
    assert at == len(data)
    return found


def _serve() -> None:
    for name in PRELOADED:
        importlib.import_module(name)
    for name in OPTIONAL:
        try:
            importlib.import_module(name)
        except ImportError:
            continue
    importlib.import_module("torch").set_num_threads(1)
    for line in sys.stdin:
        print(json.dumps(_one(json.loads(line))), flush=True)


def _one(wish: dict[str, Any]) -> dict[str, Any]:
    reading, writing = os.pipe()
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _become(wish, writing)
    os.close(writing)
    said = b""
    ends = began + wish["after_s"] if wish["after_s"] else None
    while True:
        left = None if ends is None else max(0.0, ends - time.monotonic())
        if not select.select([reading], [], [], left)[0]:
            os.kill(child, signal.SIGKILL)
            ends = None
        elif part := os.read(reading, 1 << 16):
            said += part
        else:
            break
    os.close(reading)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    text, _, calls = said.decode(errors="replace").partition("\0")  # who is killed counts nothing
    return {
        "killed": code == -signal.SIGKILL,
        "code": code,
        "calls": int(calls or 0),
        "seconds": time.monotonic() - began,
        "err": text[-3000:],
    }


def _become(wish: dict[str, Any], pipe: int) -> None:
    """In the fork: run the command, with every call that changes names counted."""
    calls, code = 0, 1
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for stream in (1, 2):
        os.dup2(pipe, stream)

    def counted(call: Any) -> Any:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            here = calls == wish["call"]
            if here and not wish["after"]:
                os.kill(os.getpid(), signal.SIGKILL)
            try:
                return call(*args, **kwargs)
            finally:  # one that fails changes nothing, and is followed by an instant too
                if here:
                    os.kill(os.getpid(), signal.SIGKILL)

        return wrapped

    for name in NAMING:
        setattr(os, name, counted(getattr(os, name)))
    try:
        from positronic.cli import main

        code = main(wish["words"])
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os.write(pipe, f"\0{calls}".encode())
        os._exit(code)


if __name__ == "__main__":
    _serve()
