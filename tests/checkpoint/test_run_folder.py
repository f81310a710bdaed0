"""A run's folder: `last` is the newest complete checkpoint, always; nothing else is deleted than what was asked for."""

import logging
import os
import shutil

import pytest
import torch
from checkpoint_example import logits

from positronic.checkpoint import RunFolder, load_model
from positronic.errors import CheckpointError


@pytest.fixture
def run(saved, tmp_path):
    """A run with checkpoints of steps 10, 20, ... 60."""
    folder = RunFolder(tmp_path / "run")
    for step in range(10, 70, 10):
        shutil.copytree(saved, folder.checkpoint_path(step))
        folder.publish(step)
    return folder


def test_last_is_a_relative_link_to_the_newest(run, model, tmp_path):
    assert os.readlink(run.path / "last") == "step-00000060"
    shutil.move(run.path, tmp_path / "moved")
    assert torch.equal(logits(load_model(tmp_path / "moved" / "last")), logits(model))


def test_the_newest_is_found_whatever_the_link_says(run):
    newest = run.checkpoint_path(60)
    assert run.newest() == newest
    (run.path / "last").unlink()
    assert run.newest() == newest
    (run.path / "last").symlink_to("step-00000010")
    assert run.newest() == newest
    (run.path / "last").unlink()
    (run.path / "last").symlink_to("nowhere")
    assert run.newest() == newest


@pytest.mark.parametrize("harm", ["manifest.json", "model.safetensors", "train/state.json"])
def test_an_incomplete_checkpoint_is_not_the_newest(run, harm):
    (run.checkpoint_path(60) / harm).unlink()
    (run.path / "step-00000099").mkdir()
    (run.path / "step-0000007x").mkdir()
    assert run.newest() == run.checkpoint_path(50)
    with pytest.raises(CheckpointError, match="no complete checkpoint"):
        run.publish(60)


def test_a_run_without_checkpoints_has_no_newest(tmp_path):
    assert RunFolder(tmp_path / "nowhere").newest() is None
    assert RunFolder(tmp_path).newest() is None
    assert RunFolder(tmp_path).best() is None
    assert RunFolder(tmp_path).prune() == []


def test_pruning_keeps_the_newest_the_best_and_those_asked_for(run):
    run.publish_best(20)
    (run.path / "notes.txt").write_text("mine")
    assert run.prune(keep_last=2, keep={10}) == [30, 40]
    assert run.steps() == [10, 20, 50, 60]
    assert run.best() == run.checkpoint_path(20)
    assert sorted(os.listdir(run.path)) == [
        "best", "last", "notes.txt", "step-00000010", "step-00000020", "step-00000050", "step-00000060",
    ]  # fmt: skip


def test_pruning_everything_spares_what_the_links_point_to(run):
    run.publish_best(20)
    assert run.prune(keep_last=0) == [10, 30, 40, 50]
    assert run.newest() == run.checkpoint_path(60)


def test_best_moves_and_goes_with_its_checkpoint(run):
    run.publish_best(20)
    run.publish_best(30)
    assert os.readlink(run.path / "best") == "step-00000030"
    shutil.rmtree(run.checkpoint_path(30))
    assert run.best() is None


def test_what_killed_saves_and_deletions_left_is_cleared_by_the_next_publication(run, model):
    shutil.copytree(run.checkpoint_path(10), run.path / ".step-00000070.new")
    shutil.copytree(run.checkpoint_path(10), run.path / ".step-00000005.gone")
    os.rename(run.checkpoint_path(60), run.path / ".step-00000060.old")  # killed between two renames
    assert run.newest() == run.checkpoint_path(60), "still the newest, and it loads"
    assert torch.equal(logits(load_model(run.path / "last")), logits(model))
    run.publish(60)
    assert run.checkpoint_path(60).is_dir()
    assert [name for name in os.listdir(run.path) if name.startswith(".")] == []


def test_half_made_links_are_cleared_too(run):
    for name in (".last.link", ".best.link"):
        (run.path / name).symlink_to("step-00000010")
    run.clean()
    assert [name for name in os.listdir(run.path) if name.startswith(".")] == []
    assert os.readlink(run.path / "last") == "step-00000060"


def test_a_link_that_is_right_is_not_made_anew(run, monkeypatch):
    monkeypatch.setattr(os, "symlink", lambda *args, **kwargs: pytest.fail("made anew"))
    run.publish(60)


def test_a_killed_deletion_leaves_no_half_checkpoint(run, monkeypatch):
    def killed(path):
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        run.prune(keep_last=1)
    monkeypatch.undo()
    assert run.steps() == [20, 30, 40, 50, 60]
    run.clean()
    assert not (run.path / ".step-00000010.gone").exists()


def test_what_the_disk_will_not_let_go_stays_and_training_goes_on(run, monkeypatch, caplog):
    rename = os.rename

    def stubborn(source, target):
        if "step-00000020" in str(source):
            raise OSError(16, "Device or resource busy")
        rename(source, target)

    monkeypatch.setattr(os, "rename", stubborn)
    assert run.prune(keep_last=3) == [10, 30]
    assert "step-00000020 could not be deleted" in caplog.text
    assert run.steps() == [20, 40, 50, 60]


def test_without_links_the_run_goes_on_and_one_line_says_so(run, monkeypatch, caplog):
    run.publish(50)

    def refused(*args, **kwargs):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "symlink", refused)
    with caplog.at_level(logging.WARNING):
        run.publish(60)
    assert len(caplog.records) == 1
    assert str(run.checkpoint_path(60)) in caplog.text
    assert not (run.path / "last").exists(), "rather none than a stale one"
    assert run.newest() == run.checkpoint_path(60)


def test_a_folder_in_the_place_of_the_link_is_not_touched(run):
    (run.path / "last").unlink()
    (run.path / "last").mkdir()
    with pytest.raises(CheckpointError, match="no link of ours"):
        run.publish(60)
    assert (run.path / "last").is_dir()


def test_a_reader_that_follows_last_is_not_disturbed_when_it_moves(run, model, monkeypatch):
    from positronic.checkpoint import open_checkpoint

    original = open_checkpoint.core_of

    def meanwhile(*args):
        shutil.rmtree(run.checkpoint_path(60) / "train")
        (run.path / "last").unlink()
        (run.path / "last").symlink_to("nowhere")
        return original(*args)

    monkeypatch.setattr(open_checkpoint, "core_of", meanwhile)
    assert torch.equal(logits(load_model(run.path / "last")), logits(model))
