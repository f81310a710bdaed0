"""The command line as a stranger uses it: results on stdout, one clear sentence and code 2 for what he can mend."""

import gzip
import json
import os
import pickle
import subprocess
import sys

import pytest

from positronic.cli import COMMANDS, main
from positronic.cli.flags.run_flags import UNLIMITED, Training
from positronic.recipes import read_run

SMALL = ["d_model=32", "n_layers=1", "attention.n_heads=2", "attention.n_kv_heads=1", "attention.head_dim=16"]
SMALL += ["attention.rank=none", "attention.rope_dims=8", "channel.hidden=32", "context=32", "max_positions=64"]
TEXT = "The lamp on the desk was lit, and nobody had lit it.\n\nSomebody must have been here before us.\n\n" * 40


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with text, a byte tokenizer, and a run of a few steps."""
    folder = tmp_path_factory.mktemp("cli")
    os.environ["POSITRONIC_CACHE"] = str(folder / "cache")
    (folder / "text.txt").write_text(TEXT, "utf-8")
    assert main(["tokenizer", "train", "--kind", "bytes", "--out", str(folder / "tok")]) == 0
    assert main(train_words(folder, "run", "--steps", "4")) == 0
    yield folder
    del os.environ["POSITRONIC_CACHE"]


def train_words(folder, run, *more, data="text.txt", tokenizer="tok"):
    words = ["train", "--model", "tinygpt-tiny", "--data", str(folder / data), "--tokenizer", str(folder / tokenizer)]
    settings = [*SMALL, "valid_bytes=200"]
    return [*words, "--out", str(folder / run), "--batch-tokens", "128", "--device", "cpu", *more, "--set", *settings]


def complaint(capsys, *words) -> str:
    capsys.readouterr()
    assert main([str(word) for word in words]) == 2
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    assert not out
    return err


def answer(capsys, *words) -> dict:
    capsys.readouterr()
    assert main([str(word) for word in words]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself_with_examples(name, capsys):
    with pytest.raises(SystemExit) as ended:
        main([*name.split(), "--help"])
    assert ended.value.code == 0
    assert f"positronic {name}" in capsys.readouterr().out.partition("Examples:")[2]


def test_a_flag_of_several_values_is_given_once(place, capsys):
    """argparse would keep the last and train on, or build, something else."""
    settings = ["--set", "n_layers=2", "--lr", "1e-3", "--lr", "2e-3", "--set", "context=64"]
    assert "--set is given twice" in complaint(capsys, "train", "--model", "tinygpt-tiny", *settings)
    assert "--data is given twice" in complaint(capsys, "eval", place, "--data", "a.txt", "--data", "b.txt")


def test_a_run_that_is_refused_changes_nothing(place, capsys):
    begun = (place / "run" / "run.json").read_bytes()
    assert "already holds a run" in complaint(capsys, *train_words(place, "run", "--steps", "9"))
    assert (place / "run" / "run.json").read_bytes() == begun
    assert "model has 64 positions" in complaint(capsys, *train_words(place, "long", "--seq-len", "65"))
    assert not (place / "long").exists()


def test_a_tokenizer_is_never_written_over_another(place, capsys):
    for folder in (place / "tok", place / "run" / "last"):
        words = ["tokenizer", "train", "--kind", "bytes", "--out", folder]
        assert "holds a tokenizer already" in complaint(capsys, *words)


@pytest.mark.parametrize("command", ["train", "tokenizer"])
def test_a_place_that_cannot_be_written_is_named(command, place, capsys):
    words = train_words(place, "text.txt", "--steps", "1")
    if command == "tokenizer":
        words = ["tokenizer", "train", "--kind", "bytes", "--out", place / "text.txt" / "tok"]
    assert "text.txt" in complaint(capsys, *words)


@pytest.mark.parametrize("command", ["sft", "dpo"])
def test_tuning_wants_a_checkpoint_and_more_than_no_epochs(command, place, capsys):
    words = [command, "--data", place / "text.txt", "--out", place / "tuned", "--model"]
    assert "There is no checkpoint at" in complaint(capsys, *words, place / "nowhere")
    assert "epochs is 0" in complaint(capsys, *words, place / "run" / "last", "--epochs", "0")


def test_flags_that_would_be_ignored_are_refused(place, capsys):
    run = ["train", "--resume", "--out", place / "run"]
    assert "leave one of them out" in complaint(capsys, *run, "--chunk", "1", "--ask", "The", "--json")
    assert "has its own tokenizer" in complaint(capsys, *run, "--tokenizer", place / "tok")
    assert "nothing to compare" in complaint(capsys, "tokenizer", "compare", "--input", place / "text.txt")
    words = ["tokenizer", "train", "--kind", "bytes", "--input", place / "text.txt", "--out", place / "new"]
    assert "learn nothing" in complaint(capsys, *words)
    assert "plain text, which has none" in complaint(
        capsys, "eval", place / "run" / "last", "--data", f"{place}/text.txt#a"
    )
    words = ["generate", place / "run" / "last", "--prompt", "x", "--keep-memory", place]
    assert "is a folder" in complaint(capsys, *words)


def test_a_text_that_changed_since_is_named(place, capsys):
    (place / "changing.txt").write_text(TEXT, "utf-8")
    assert main(train_words(place, "changed", "--steps", "4", "--chunk", "2", data="changing.txt")) == 0
    (place / "changing.txt").write_text(TEXT.replace("lamp", "lump"), "utf-8")
    said = complaint(capsys, "train", "--resume", "--out", place / "changed", "--device", "cpu")
    assert "changing.txt holds another text, or is read in another way" in said


def test_the_clock_alone_ends_a_timed_run(place):
    run = read_run(place / "run")
    assert Training(minutes=1.0).applied(run).train.steps == UNLIMITED
    assert Training(minutes=1.0, steps=7).applied(run).train.steps == 7


def test_describe_prints_what_scripts_read(capsys):
    found = answer(capsys, "describe", "tinygpt-15m", "--json")
    assert found["parameters"]["total"] == sum(found["parameters"]["groups"].values()) == 14_899_969
    assert found["parameters"]["active"] == found["parameters"]["total"]
    assert found["flops_per_token"] > 2 * 8e6
    assert set(found["state_bytes"]) == {"fixed", "per_token"}


def test_a_folder_and_its_config_file_describe_alike(place, capsys):
    folder = answer(capsys, "describe", place / "run" / "last", "--json")
    file = answer(capsys, "describe", place / "run" / "last" / "config.json", "--json")
    assert folder == file
    assert folder["config"]["d_model"] == 32


def test_eval_reports_every_source_and_their_sum(place, capsys):
    (place / "b.txt.gz").write_bytes(gzip.compress(b"Another text, packed."))
    found = answer(capsys, "eval", place / "run" / "last", "--data", place / "text.txt", place / "b.txt.gz", "--json")
    assert found["bytes"] == len(TEXT) + 21
    assert found["bytes"] == sum(s["bytes"] for s in found["sources"].values())
    assert {"bits_per_byte", "nats_per_token", "tokens"} <= set(found)


def test_generate_prints_one_object_and_drafts_change_no_token(place, capsys):
    words = ["generate", place / "run" / "last", "--prompt", "The lamp", "--max-new-tokens", "20", "--json"]
    plain = answer(capsys, *words, "--temperature", "0", "--exact")
    drafted = answer(capsys, *words, "--temperature", "0", "--exact", "--speculative")
    assert plain["tokens"] == drafted["tokens"]
    assert (plain["prompt_tokens"], len(plain["tokens"]), plain["stop_reason"]) == (8, 20, "length")
    assert set(plain["draft"]) == {"proposed", "accepted"}
    assert answer(capsys, *words, "--seed", "3")["tokens"] == answer(capsys, *words, "--seed", "3")["tokens"]
    assert answer(capsys, *words, "--temperature", "0", "--no-cache")["text"] == plain["text"]


def test_chat_and_interactive_answer_lines_until_the_input_ends(place, capsys, monkeypatch):
    lines = iter(["Hello", "/reset", "Again", "/quit"])
    monkeypatch.setattr("builtins.input", lambda _="": next(lines))
    assert main(["chat", str(place / "run" / "last"), "--max-new-tokens", "5"]) == 0
    assert capsys.readouterr().out.count("bot > ") == 2
    lines = iter(["The lamp", ""])
    assert main(["generate", str(place / "run" / "last"), "--interactive", "--max-new-tokens", "5"]) == 0


def test_a_run_goes_on_where_it_stood_and_init_starts_anew(place, capsys):
    assert main(train_words(place, "resumed", "--steps", "3")) == 0
    before = (place / "resumed" / "last" / "model.safetensors").read_bytes()
    assert main(["train", "--resume", "--out", str(place / "resumed"), "--device", "cpu"]) == 0
    assert (place / "resumed" / "last" / "model.safetensors").read_bytes() == before
    start = ["train", "--init", place / "run" / "last", "--data", place / "text.txt", "--out", place / "second"]
    found = answer(capsys, *start, "--steps", "2", "--batch-tokens", "128", "--set", "valid_bytes=200", "--json")
    assert (found["step"], found["stopped"]) == (2, "finished")


def test_sft_learns_the_assistants_words_and_shows_which(place, capsys):
    chats = [
        {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": f"Hello {i}"}]}
        for i in range(120)
    ]
    (place / "chats.jsonl").write_text("\n".join(map(json.dumps, chats)), "utf-8")
    base = ["sft", "--model", place / "run" / "last", "--data", place / "chats.jsonl"]
    mask = answer(capsys, *base, "--show-mask", "--json")["tokens"]
    assert "".join(t["text"] for t in mask if t["loss"]) == "Hello 0<|im_end|>"
    found = answer(capsys, *base, "--out", place / "tuned", "--steps", "2", "--batch-tokens", "128", "--json")
    assert found["step"] == 2


def test_wrong_settings_are_named(place, capsys):
    assert "tinygpt-15m" in complaint(capsys, "describe", "tinygpt-51m")
    assert "attention" in complaint(capsys, "describe", "tinygpt-15m", "--set", "atention.n_heads=2")
    words = train_words(place, "never", "--steps", "1")
    assert "nothing is called 'learning'" in complaint(capsys, *words, "learning=3")
    assert "--device" in complaint(capsys, *[w if w != "cpu" else "cuda:7" for w in words])
    assert not (place / "never").exists()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("empty.txt", b"", "empty"),
        ("short.txt", b"Too short.", "short"),
        ("latin.txt", "caf\u00e9".encode("latin-1") * 50, "UTF-8"),
        ("broken.jsonl", b'{"text": "fine"}\n{"text": \n', "broken.jsonl:2"),
        ("other.jsonl", b'{"body": "no text here"}\n', "body"),
        ("table.xlsx", b"PK", "xlsx"),
    ],
)
def test_unreadable_text_is_refused_by_its_place(place, capsys, name, content, said):
    (place / name).write_bytes(content)
    assert said in complaint(capsys, *train_words(place, "never", "--steps", "1", data=name))
    assert not (place / "never" / "last").exists()


def test_resuming_nothing_or_something_else_is_refused(place, capsys):
    assert "nothing to resume" in complaint(capsys, "train", "--resume", "--out", place / "nowhere")
    said = complaint(capsys, "train", "--resume", "--out", place / "run", "--lr", "0.5")
    assert "train.optimizer.lr" in said
    assert "already holds a run" in complaint(capsys, *train_words(place, "run", "--steps", "9"))


def test_a_pickle_and_a_damaged_checkpoint_are_refused(place, capsys, tmp_path):
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "pytorch_model.bin").write_bytes(pickle.dumps({"w": 1}))
    complaint(capsys, "generate", foreign, "--prompt", "x")
    import shutil

    shutil.copytree(place / "run" / "last", tmp_path / "damaged", symlinks=False)
    weights = tmp_path / "damaged" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "model.safetensors" in complaint(capsys, "generate", tmp_path / "damaged", "--prompt", "x")
    weights.write_bytes(pickle.dumps([1, 2, 3]))
    assert "pickle" in complaint(capsys, "eval", tmp_path / "damaged", "--data", place / "text.txt")


def test_a_tokenizer_of_another_vocabulary_is_refused(place, capsys):
    words = [
        "tokenizer",
        "train",
        "--kind",
        "bpe",
        "--vocab-size",
        "400",
        "--input",
        place / "text.txt",
        "--out",
        place / "bpe",
    ]
    assert main([str(w) for w in words]) == 0
    import shutil

    shutil.copytree(place / "run" / "last", place / "mixed")
    shutil.copy(place / "bpe" / "tokenizer.json", place / "mixed" / "tokenizer.json")
    assert "tokenizer.json" in complaint(capsys, "generate", place / "mixed", "--prompt", "x")


def test_a_prompt_beyond_the_context_is_refused_with_numbers(place, capsys):
    assert "64" in complaint(capsys, "generate", place / "run" / "last", "--prompt", "x" * 100)
    assert "temperature" in complaint(capsys, "generate", place / "run" / "last", "--prompt", "x", "--temperature", "9")
    assert "--chat" in complaint(capsys, "generate", place / "run" / "last", "--prompt", "x", "--think")


def test_a_vocabulary_larger_than_the_text_supports_names_the_largest(place, capsys):
    words = ["tokenizer", "train", "--input", place / "text.txt", "--vocab-size", "16512", "--out", place / "big"]
    assert "at most 404 entries" in complaint(capsys, *words)


def test_unknown_commands_name_their_neighbours(capsys):
    assert "describe" in complaint(capsys, "descrbe")
    assert "tokenizer train" in complaint(capsys, "tokenizer", "trian")


def test_a_reader_that_leaves_early_is_no_error():
    command = [sys.executable, "-m", "positronic", "describe", "tinygpt-tiny", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        complaint = process.stderr.read()
        assert process.wait() == 141, complaint
    assert complaint == ""
