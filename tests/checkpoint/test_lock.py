"""One writer a folder: the kernel's lock ends with its process, and who comes second is told who is there."""

import errno
import fcntl
import logging
import os
import platform
import signal
import threading
import time

import pytest

from positronic.checkpoint import RunFolder, usable
from positronic.errors import CheckpointError, ConfigError


@pytest.fixture
def run(tmp_path):
    return RunFolder(tmp_path / "run")


class Elsewhere:
    """Another process that holds a folder until it is killed."""

    def __init__(self, run):
        reading, writing = os.pipe()
        self.number = os.fork()
        if self.number == 0:
            with run.held():
                os.write(writing, b"!")
                time.sleep(600)
        os.close(writing)
        assert os.read(reading, 1) == b"!"
        os.close(reading)

    def kill(self):
        os.kill(self.number, signal.SIGKILL)
        os.waitpid(self.number, 0)


def test_a_second_process_is_refused_with_the_number_of_the_first(run):
    other = Elsewhere(run)
    try:
        with (
            pytest.raises(CheckpointError, match=rf"Process {other.number} is writing to .*run now\. .*--out"),
            run.held(),
        ):
            pytest.fail("held twice")
    finally:
        other.kill()


def test_a_killed_process_leaves_its_file_and_no_lock(run):
    other = Elsewhere(run)
    other.kill()
    assert (run.path / ".lock").read_text().split()[0] == str(other.number)
    with run.held():
        assert (run.path / ".lock").read_text().split()[0] == str(os.getpid())
        (run.path / "step-1").mkdir()
    assert os.listdir(run.path) == ["step-1"], "the stale file goes too"


def test_who_holds_a_folder_may_hold_it_again_by_any_name(run, tmp_path):
    (tmp_path / "link").symlink_to("run")
    with run.held():
        with RunFolder(tmp_path / "link").held(), RunFolder(f"{run.path}/../run").held():
            pass
        assert (run.path / ".lock").exists(), "the outermost block lets go"


def test_another_thread_of_the_process_is_refused_too(run):
    refused = []

    def second():
        try:
            with run.held():
                pass
        except CheckpointError as error:
            refused.append(str(error))

    with run.held():
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
    assert f"Process {os.getpid()} is writing" in refused[0]


def test_an_error_in_the_block_lets_go_and_leaves_no_empty_folder(run):
    with pytest.raises(ZeroDivisionError), run.held():
        raise ZeroDivisionError
    assert not run.path.exists()
    run.path.mkdir()
    with run.held():
        pass
    assert run.path.is_dir(), "what was there before stays"


def test_of_many_that_come_at_once_one_at_a_time_has_the_folder(run):
    """Each goes through many times, so that files are deleted between two calls of another; a counter would be torn."""
    run.path.mkdir()
    (run.path / "count").write_text("0")
    children = []
    for _ in range(4):
        child = os.fork()
        if child == 0:
            done = 0
            while done < 30:
                try:
                    with run.held():
                        count = int((run.path / "count").read_text())
                        (run.path / "count").write_text(str(count + 1))
                        done += 1
                except CheckpointError:
                    time.sleep(0.001)
            os._exit(0)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 4
    assert (run.path / "count").read_text() == "120"


@pytest.fixture
def no_flock(monkeypatch):
    def unsupported(handle, operation):
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", unsupported)


def test_without_locks_a_living_number_refuses_and_a_dead_one_does_not(run, no_flock, caplog):
    run.path.mkdir()
    lock = run.path / ".lock"
    lock.write_text(f"{os.getppid()} {platform.node()}\n")
    with pytest.raises(CheckpointError, match=f"Process {os.getppid()} is writing"), run.held():
        pytest.fail("held twice")
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    for stale in (f"{child} {platform.node()}\n", f"{os.getppid()} another-machine\n", "", "nonsense"):
        lock.write_text(stale)
        with caplog.at_level(logging.WARNING), run.held():
            assert lock.read_text().split()[0] == str(os.getpid())
    assert len(caplog.records) == 4
    assert "cannot be locked" in caplog.text


@pytest.mark.parametrize("name", ["a\0b", "caf\udce9", "\udcff\udcfe"], ids=["NUL", "latin-1", "UTF-16"])
def test_names_that_are_no_text_are_refused(tmp_path, name):
    with pytest.raises(ConfigError, match=r"cannot be called .*UTF-8 without NUL\. Give another --out"):
        usable(tmp_path / name)
    with pytest.raises(ConfigError), RunFolder(tmp_path / name).held():
        pytest.fail("held")
    assert os.listdir(tmp_path) == []
