"""The command `positronic` without its start: a server that has imported everything forks once for every command.

    python warm.py SOCKET                    the server
    POSITRONIC=.../a script that runs        python -I -S warm.py SOCKET WORD ...          the command

The command hands over its words, folder, environment and the three standard streams, and waits for the exit code. When
it is killed its end of the socket closes, and the server kills the fork at once, so that a kill of the command's
process group is a kill of the work. One command runs at a time; the next waits until the last has no process left.
"""

import importlib
import json
import os
import select
import signal
import socket
import sys

POLL_S = 0.005
PRELOADED = ("matplotlib.pyplot", "torch._dynamo", "torch.utils.tensorboard", "positronic.generation", "positronic.viz")
PRELOADED += ("positronic.recipes.memory_estimate", "positronic.recipes.tiny")
PRELOADED += tuple(
    f"positronic.cli.commands.{name}" for name in ("bootstrap", "chat", "doctor", "generate", "sft", "train")
)


def ask(address: str, words: list[str]) -> int:
    """Have the server run one command; its exit code."""
    with socket.socket(socket.AF_UNIX) as link:
        link.connect(address)
        told = json.dumps({"words": words, "folder": os.getcwd(), "environment": dict(os.environ)}).encode()
        socket.send_fds(link, [len(told).to_bytes(4, "big")], [0, 1, 2])
        link.sendall(told)
        return link.recv(1)[0]


def serve(address: str) -> None:
    """Take commands until killed."""
    for name in PRELOADED:
        importlib.import_module(name)
    importlib.import_module("torch").set_num_threads(1)
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(address)
        door.listen()
        while True:
            link, _ = door.accept()
            with link:
                _serve_one(link)


def _serve_one(link: socket.socket) -> None:
    head, streams, _, _ = socket.recv_fds(link, 4, 3)
    told = b""
    while head and len(told) < int.from_bytes(head, "big") and (part := link.recv(1 << 16)):
        told += part
    if not head or len(told) < int.from_bytes(head, "big"):
        return  # killed before it had said what it wanted
    child = os.fork()
    if child == 0:
        _run(json.loads(told), streams)
    for stream in streams:
        os.close(stream)
    while True:
        ready, _, _ = select.select([link], [], [], POLL_S)
        if ready:  # nothing more is ever sent: the command is gone
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            link.sendall(bytes([os.waitstatus_to_exitcode(status) & 255]))
            return


def _run(told: dict, streams: list[int]) -> None:
    """In the fork: become the command."""
    code = 1
    try:
        for target, stream in enumerate(streams):
            os.dup2(stream, target)
        os.chdir(told["folder"])
        os.environ.clear()
        os.environ.update(told["environment"])
        from positronic.cli import main

        code = main(told["words"])
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    if len(sys.argv) > 2:
        sys.exit(ask(sys.argv[1], sys.argv[2:]))
    serve(sys.argv[1])
