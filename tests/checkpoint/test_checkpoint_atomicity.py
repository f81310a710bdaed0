"""Killed at any instant, or out of disk, a save leaves the checkpoint that stood there before."""

import builtins
import errno
import io
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from checkpoint_example import logits, small_model, training_part

from positronic.checkpoint import load_model, load_training, save
from positronic.errors import CheckpointError

KILLED = 9


class Counted:
    """Stands before every call that reaches the disk; at the chosen one it does what it was told to."""

    def __init__(self, at: int, strike):
        self.at, self.strike, self.calls = at, strike, 0

    def hit(self):
        self.calls += 1
        if self.calls == self.at:
            self.strike()

    def watch(self, patch):
        """Replace the calls that write, force to the disk, rename and delete, through `patch(owner, name, new)`."""
        for owner, name in [
            (os, "fsync"), (os, "rename"), (os, "replace"), (os, "mkdir"), (os, "chmod"), (os, "unlink"), (os, "rmdir"),
        ]:  # fmt: skip
            patch(owner, name, self._before(getattr(os, name)))
        for owner in (io, builtins):
            patch(owner, "open", self._opening(open))

    def _before(self, call):
        def counted(*args, **kwargs):
            self.hit()
            return call(*args, **kwargs)

        return counted

    def _opening(self, original):
        def opened(file, mode="r", *args, **kwargs):
            handle = original(file, mode, *args, **kwargs)
            if "w" in mode:
                self.hit()
                write = handle.write

                def writing(data):
                    written = write(data[: len(data) // 2])  # a kill falls into the middle of a write
                    handle.flush()
                    self.hit()
                    return written + write(data[len(data) // 2 :])

                return _Proxy(handle, writing)
            return handle

        return opened


class _Proxy:
    def __init__(self, handle, writing):
        self._handle, self.write = handle, writing

    def __getattr__(self, name):
        return getattr(self._handle, name)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._handle.close()


def save_in_child(strike_at: int, folder: Path, model, tokenizer) -> tuple[bool, int]:
    """Save in a forked process that is killed at its n-th call. -> (was killed, calls made)."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        counted = Counted(strike_at, lambda: os._exit(KILLED))
        counted.watch(setattr)
        status = 1
        try:
            save(folder, model, tokenizer, training_part())
            os.write(writing, counted.calls.to_bytes(4, "little"))
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    calls = int.from_bytes(os.read(reading, 4), "little")
    os.close(reading)
    assert status in (0, KILLED)
    return status == KILLED, calls


def test_killed_at_any_call_a_save_leaves_the_old_checkpoint_or_the_new_one(model, tokenizer, tmp_path):
    old, new = small_model(tokenizer.vocab_size, seed=2), model
    folder = tmp_path / "step-00000001"
    save(folder, old, tokenizer, training_part())
    _, calls = save_in_child(0, tmp_path / "elsewhere", new, tokenizer)
    was_killed, at, outcomes = True, 0, []
    while was_killed:
        at += 1
        was_killed, _ = save_in_child(at, folder, new, tokenizer)
        found = logits(load_model(folder))
        outcomes.append("old" if torch.equal(found, logits(old)) else "new")
        assert outcomes[-1] == "old" or torch.equal(found, logits(new))
        load_training(folder)
        save(folder, old, tokenizer, training_part())
        assert sorted(os.listdir(tmp_path)) == ["elsewhere", "step-00000001"], "the next save cleans what was left"
    assert at > calls > 50, (at, calls)
    assert outcomes.index("new") > 40
    assert set(outcomes[outcomes.index("new") :]) == {"new"}, "once it is there, it stays"


def test_a_full_disk_at_any_call_leaves_the_old_checkpoint_and_no_litter(saved, model, tokenizer, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "step-00000001")
    other = small_model(tokenizer.vocab_size, seed=2)

    def full():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def save_with_the_disk_full_at(call: int) -> tuple[str, bool]:
        """-> (the error's text or nothing, whether the disk was full at all)"""
        with pytest.MonkeyPatch.context() as patch:
            counted = Counted(call, full)
            counted.watch(patch.setattr)
            try:
                save(folder, other, tokenizer, training_part())
            except CheckpointError as error:
                return str(error), True
            return "", counted.calls >= call

    failures, call, struck = 0, 0, True
    while struck:
        call += 1
        text, struck = save_with_the_disk_full_at(call)
        found = logits(load_model(folder))
        if text:
            failures += 1
            assert "No space left on device" in text
            assert "still stand; free" in text
            assert torch.equal(found, logits(model))
            assert os.listdir(tmp_path) == ["step-00000001"]
        else:  # the new one is in place; at most the deletion of the old one was struck
            assert torch.equal(found, logits(other))
            save(folder, model, tokenizer, training_part())
            assert os.listdir(tmp_path) == ["step-00000001"]
    assert failures > 40


def test_a_file_size_limit_of_the_kernel_is_answered_like_a_full_disk(saved, model, tokenizer, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "step")
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, before[1]))
        with pytest.raises(CheckpointError, match=r"File too large.*still stand"):
            save(folder, small_model(tokenizer.vocab_size, seed=2), tokenizer)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert os.listdir(tmp_path) == ["step"]
    assert torch.equal(logits(load_model(folder)), logits(model))


FULL = """
import sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from checkpoint_example import small_model, training_part
from checkpoint_tokenizer import small_tokenizer
from positronic.checkpoint import load_model, save
from positronic.errors import CheckpointError
disk, tokenizer = Path(sys.argv[1]), small_tokenizer()
model = small_model(tokenizer.vocab_size)
saved = 0
try:
    while saved < 9:
        save(disk / f"step-{saved}", model, tokenizer, training_part())
        saved += 1
except CheckpointError as error:
    print(error)
assert saved
for step in range(saved):
    load_model(disk / f"step-{step}")
print(sorted(path.name for path in disk.iterdir()) == [f"step-{step}" for step in range(saved)])
"""


def test_a_disk_that_is_really_full_leaves_the_earlier_checkpoints(tmp_path):
    unshare = shutil.which("unshare")
    mount = f"mount -t tmpfs -o size=160k none {tmp_path}"
    if not unshare or subprocess.run([unshare, "-Urm", "sh", "-c", mount], capture_output=True, check=False).returncode:
        pytest.skip("this machine lets no ordinary user mount a small disk")
    run = f"{mount} && exec {sys.executable} -c '{FULL.replace(chr(39), chr(34))}' {tmp_path} {Path(__file__).parent}"
    done = subprocess.run([unshare, "-Urm", "sh", "-c", run], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "No space left on device" in done.stdout
    assert done.stdout.endswith("True\n")


def test_every_file_is_on_the_disk_before_the_folder_gets_its_name(model, tokenizer, tmp_path, monkeypatch):
    forced, order = set(), []
    rename = os.rename

    def renamed(source, target):
        names = [Path(source), *Path(source).rglob("*")]
        order.append({path.name for path in names if path.stat().st_ino not in forced})
        rename(source, target)

    monkeypatch.setattr(os, "fsync", lambda handle: forced.add(os.fstat(handle).st_ino))
    monkeypatch.setattr(os, "rename", renamed)
    folder = save(tmp_path / "step", model, tokenizer, training_part(), shard_bytes=4000)
    assert order == [set()], "one rename, and nothing was left to be forced"
    assert tmp_path.stat().st_ino in forced, "and the name itself is on the disk too"
    assert len(forced) == 2 + 1 + len([path for path in folder.rglob("*") if path.is_file()])


def test_an_interrupt_during_a_save_leaves_no_litter(saved, model, tokenizer, tmp_path, monkeypatch):
    folder = shutil.copytree(saved, tmp_path / "step")

    def interrupt():
        raise KeyboardInterrupt

    Counted(20, interrupt).watch(monkeypatch.setattr)
    with pytest.raises(KeyboardInterrupt):
        save(folder, small_model(tokenizer.vocab_size, seed=2), tokenizer)
    monkeypatch.undo()
    assert os.listdir(tmp_path) == ["step"]
    assert torch.equal(logits(load_model(folder)), logits(model))


def test_a_checkpoint_replaces_a_checkpoint_whole(saved, tokenizer, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "step")
    other = small_model(tokenizer.vocab_size, seed=2)
    save(folder, other, tokenizer)
    assert torch.equal(logits(load_model(folder)), logits(other))
    assert not (folder / "train").exists(), "nothing of the old one is left inside"
    assert json.loads((folder / "manifest.json").read_text())["content"]["training"] is None


def test_other_peoples_files_are_never_replaced(model, tokenizer, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.md").write_text("words")
    (tmp_path / "file").write_text("words")
    (tmp_path / "link").symlink_to("thesis")
    (tmp_path / "empty").mkdir()
    for name in ("thesis", "file", "link", "file/below"):
        with pytest.raises(CheckpointError):
            save(tmp_path / name, model, tokenizer)
    assert (tmp_path / "thesis" / "chapter1.md").read_text() == (tmp_path / "file").read_text() == "words"
    save(tmp_path / "empty", model, tokenizer)
    assert sorted(os.listdir(tmp_path)) == ["empty", "file", "link", "thesis"]
