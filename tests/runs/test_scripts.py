"""From raw text to a chat by the shell scripts: offline, in chunks, killed and run again, with every family."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from warmed import MODEL, script, warmed

from positronic.data.sources.embedded import topics
from positronic.models import preset
from positronic.recipes.tiny import MIXERS

RUNS = Path(__file__).parents[2] / "runs"
SCRIPTS = sorted(RUNS.glob("*.sh"))
TEXT_BYTES = 40_000
STEPS, CHUNK = 8, 3


@dataclass
class Ended:
    """A script that came to its end, or was killed."""

    code: int
    out: str
    said: str
    """On stderr."""
    seconds: float


class Stranger:
    """A folder with a text and a small model's config, in which scripts are run without a network."""

    def __init__(self, folder: Path, command: Path):
        self.folder, self.command = folder, command
        (folder / "text.txt").write_text("\n\n".join(topics())[:TEXT_BYTES], "utf-8")
        (folder / "model.json").write_text(json.dumps(MODEL.to_json()), "utf-8")

    def runs(
        self, script: str, *words: str, typed: str = "", kill_after: float | None = None, code: int = 0, **settings: str
    ) -> Ended:
        """Run a script; its exit code is `code`, unless it is killed, with all it has started, after some seconds."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith("POSITRONIC")}
        own = {"POSITRONIC": str(self.command), "HOME": str(self.folder), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        began = time.monotonic()
        with subprocess.Popen(
            ["sh", str(RUNS / script), *words],
            cwd=self.folder,
            env=kept | own | {"DEVICE": "cpu"} | settings,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as process:
            try:
                out, said = process.communicate(typed, timeout=kill_after)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                out, said = process.communicate()
        ended = Ended(process.returncode, out, said, time.monotonic() - began)
        assert ended.code == code or (kill_after is not None and ended.code == -signal.SIGKILL), ended.said
        return ended

    def small(self, run: str, **more: str) -> dict[str, str]:
        """Settings of a run that takes a second."""
        return {"RUN": run, "PRESET": "model.json", "DATA": "text.txt", "VOCAB": "512", "STEPS": str(STEPS), **more}

    def weights(self, run: str) -> bytes:
        """Of the newest checkpoint."""
        return (self.folder / run / "last" / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def warm():
    """The command without its start."""
    with warmed() as command:
        yield command


@pytest.fixture(scope="module")
def stranger(warm, tmp_path_factory):
    return Stranger(tmp_path_factory.mktemp("scripts"), warm)


@pytest.fixture(scope="module")
def whole(stranger, tmp_path_factory):
    """What bootstrap_tiny_llm.sh said in one piece, with the command as users have it; its run is `whole`."""
    command = script(tmp_path_factory.mktemp("command") / "positronic", sys.executable, "-m", "positronic")
    plain = Stranger(stranger.folder, command)
    return plain.runs("bootstrap_tiny_llm.sh", **plain.small("whole"))


@pytest.fixture(scope="module")
def tuned(stranger, whole):
    """What sft_quickstart.sh said; the tuned model is `whole/tuned`."""
    return stranger.runs("sft_quickstart.sh", RUN="whole", EPOCHS="2", QUESTION="What is rain?")


def test_bootstrap_explains_the_machine_trains_and_says_what_is_next(stranger, whole):
    for what in ("system", "device", "precision", "tokens an update", "rows at once", "memory"):
        assert any(line.startswith(what) for line in whole.said.splitlines())
    assert f"step {STEPS}  held-out" in whole.said
    doctor, _, sample = whole.out.partition("\n")
    assert "Too early" in doctor
    assert sample.strip()
    assert "RUN=whole" in whole.said.rpartition("Next")[2]
    assert "sft_quickstart.sh" in whole.said.rpartition("Next")[2]
    assert (stranger.folder / "whole" / "tokenizer" / "tokenizer.json").exists()


def test_bootstrap_again_prepares_and_trains_nothing(stranger, whole):
    before, made = stranger.weights("whole"), (stranger.folder / "whole" / "tokenizer").stat().st_mtime_ns
    again = stranger.runs("bootstrap_tiny_llm.sh", **stranger.small("whole"))
    assert "nothing to prepare" in again.said
    assert again.out == whole.out
    assert stranger.weights("whole") == before
    assert (stranger.folder / "whole" / "tokenizer").stat().st_mtime_ns == made


def test_chunks_are_the_whole_run_bit_for_bit_and_each_is_asked_for(stranger, whole):
    settings = stranger.small("chunked")
    first = stranger.runs("train_incremental.sh", str(CHUNK), typed="n\n", **settings)
    assert first.out.count("Continue? [Y/n]") == 1
    assert "step-00000003: Once upon a time|" in first.out
    (stranger.folder / "chunked" / "last").unlink()  # the newest is found by its number
    rest = stranger.runs("train_incremental.sh", str(CHUNK), typed="\n", **settings)
    assert re.findall(r"^step-\d+", rest.out, re.MULTILINE) == ["step-00000006", "step-00000008"]
    assert rest.out.count("Continue? [Y/n]") == 1, "nothing is left to go on with"
    assert stranger.weights("chunked") == stranger.weights("whole")


def test_tuning_shows_an_answer_before_and_after_and_both_losses(stranger, tuned):
    assert tuned.said.index("== Before: What is rain?") < tuned.said.index("== After: What is rain?")
    assert "Training loss" in tuned.said
    assert "dev loss" in tuned.said
    assert len(tuned.out) > 20
    assert (stranger.folder / "whole" / "tuned" / "best").exists()


def test_a_question_is_answered_by_the_tuned_model_alike_each_time(stranger, tuned):
    once, twice = (stranger.runs("ask_model.sh", "What is the sun?", RUN="whole") for _ in range(2))
    assert once.out == twice.out
    assert once.out.strip()
    assert "no tuned model" not in once.said


def test_settings_change_the_conversation_while_it_goes_on(stranger, tuned):
    lines = ["settings max_tokens=7", "Hello", "settings temperature=warm", "settings", "quit", "never read"]
    talk = stranger.runs("ask_model.sh", typed="\n".join(lines), RUN="whole")
    assert talk.out.count("bot > ") == 1
    assert talk.said.count("max_new_tokens=7") == 3
    assert "temperature is 'warm'; give a number." in talk.said


def test_without_a_model_the_script_to_begin_with_is_named(stranger):
    for name in ("ask_model.sh", "sft_quickstart.sh"):
        said = stranger.runs(name, RUN="nowhere", code=2).said
        assert "There is no model in nowhere yet" in said
        assert "bootstrap_tiny_llm.sh" in said


def test_a_file_of_instructions_with_a_field_missing_is_refused_by_its_line(stranger, whole):
    rows = [{"instruction": "Say hello.", "output": "Hello!"}, {"instruction": "Say more."}]
    (stranger.folder / "gaps.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    said = stranger.runs("sft_quickstart.sh", "gaps.jsonl", RUN="whole-again", code=2).said
    assert "There is no model" in said, "tuning belongs to a model"
    shutil.copytree(stranger.folder / "whole", stranger.folder / "gaps", symlinks=True, ignore=lambda *_: {"tuned"})
    said = stranger.runs("sft_quickstart.sh", "gaps.jsonl", RUN="gaps", code=2).said
    assert "gaps.jsonl:2" in said
    assert "output" in said


def test_without_network_and_data_the_three_ways_are_said_and_pythons_own_text_serves(stranger):
    ended = stranger.runs("train_incremental.sh", "1", **(stranger.small("embedded", STEPS="1") | {"DATA": ""}))
    for way in ("pip install datasets", "DATA=my-text/", "DATA=embedded"):
        assert way in ended.said
    assert (stranger.folder / "embedded" / "text" / "embedded" / "english.jsonl").exists()


@pytest.mark.parametrize("mixer", MIXERS)
def test_every_family_goes_from_text_to_a_sample(stranger, mixer):
    settings = {"MIXER": mixer, "SIZE": "tiny", "DATA": "text.txt", "VOCAB": "512", "STEPS": "1"}
    ended = stranger.runs("bootstrap_tiny_llm.sh", **settings)
    assert ended.out.strip()
    config = json.loads((stranger.folder / f"tiny-llm-{mixer}-tiny" / "run.json").read_text("utf-8"))
    assert config["model"]["kind"] == preset(MIXERS[mixer]["tiny"]).kind


CHAIN = {"bootstrap_tiny_llm.sh": (), "train_incremental.sh": (str(CHUNK),), "sft_quickstart.sh": ()}
"""Scripts that make something, with their words."""


@pytest.mark.parametrize("kills", [3, pytest.param(30, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", CHAIN)
def test_killed_anywhere_and_run_again_a_script_ends_with_the_same_bytes(stranger, tuned, name, kills):
    tuning, killed = name == "sft_quickstart.sh", 0
    instants = np.random.Generator(np.random.Philox(kills)).uniform(0, tuned.seconds, kills)
    while not killed:
        run = f"{name}-{kills}-{instants[0]:.6f}"
        if tuning:
            whole = stranger.folder / "whole"
            shutil.copytree(whole, stranger.folder / run, symlinks=True, ignore=lambda *_: {"tuned"})
        how = {"typed": "\n" * 9} | stranger.small(run, EPOCHS="2", QUESTION="What is rain?")
        for seconds in instants:
            killed += stranger.runs(name, *CHAIN[name], kill_after=float(seconds), **how).code != 0
        instants = instants / 2  # the machine was busier when it was measured: every kill came behind the end
    stranger.runs(name, *CHAIN[name], **how)
    last = "tuned/last" if tuning else "last"
    for file in ("model.safetensors", "config.json", "tokenizer.json"):
        found, wanted = (stranger.folder / kept / last / file for kept in (run, "whole"))
        assert found.read_bytes() == wanted.read_bytes()


@pytest.mark.parametrize("shell", ["sh", "dash", "bash"])
@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_read_by_every_shell(path, shell):
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell} here")
    subprocess.run([shell, "-n", path], check=True)


def test_shellcheck_finds_nothing():
    if shutil.which("shellcheck") is None:
        pytest.skip("there is no shellcheck here")
    found = subprocess.run(["shellcheck", "-x", *SCRIPTS, RUNS.parent / "positronic.sh"], cwd=RUNS, capture_output=True)
    assert found.returncode == 0, found.stdout.decode()
