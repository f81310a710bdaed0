"""What others say reaches a terminal as text and a pipe as it is; a stream that fails is said in a sentence."""

import io
import json
import os
import pty
import re
import subprocess
import sys
import threading
import tty
from itertools import zip_longest
from pathlib import Path

import pytest

import positronic.generation
from positronic.checkpoint import save
from positronic.cli import COMMANDS, main
from positronic.cli.terminal import UNSAFE, visible
from positronic.models import build
from positronic.text import byte_tokenizer
from remembering import remembering

TOKENS = byte_tokenizer()
HOSTILE = (
    "\x1b[2Jcleared",  # ESC, CSI
    "\x1b]0;title\x07",  # OSC, BEL
    "\x9b31mred\x9d",  # C1: CSI and OSC in one character
    "safe\rforged",
    "gone\b\b\b\b",
    "\u202etxt.exe\u2066",
    "\x7f\x00\x0b\u2028",
)
SPELT = (
    r"\x1b[2Jcleared",
    r"\x1b]0;title\x07",
    r"\x9b31mred\x9d",
    r"safe\rforged",
    r"gone\x08\x08\x08\x08",
    r"\u202etxt.exe\u2066",
    r"\x7f\x00\x0b\u2028",
)
HARMLESS = "tab\t, line\n, naïve, 語, 👩\u200d🔬, नमस्\u200dते"
WORDS = ["--max-new-tokens", "8", "--temperature", "0", "--device", "cpu"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save(tmp_path_factory.mktemp("terminal") / "model", build(remembering().config, 0), TOKENS)


class Terminal:
    """A pseudo-terminal in the place of the three streams; what is written to it is read by a thread."""

    def __init__(self):
        self.ours, theirs = pty.openpty()
        tty.setraw(theirs)
        self.streams = [open(os.dup(theirs), mode, encoding="utf-8", newline="") for mode in "rww"]  # noqa: SIM115
        os.close(theirs)
        self.seen = b""
        self.thread = threading.Thread(target=self._read)
        self.thread.start()

    def _read(self):
        try:
            while part := os.read(self.ours, 1 << 16):
                self.seen += part
        except OSError:
            return  # the other end was closed

    def type(self, data: bytes) -> None:
        os.write(self.ours, data)

    def close(self) -> str:
        for stream in self.streams:
            stream.close()
        self.thread.join()
        os.close(self.ours)
        return self.seen.decode("utf-8", "surrogateescape")


@pytest.fixture
def on_terminal(monkeypatch):
    """Runs a command on a terminal; its exit code and all that the terminal has heard."""

    def run(*words, typed=b""):
        terminal = Terminal()
        terminal.type(typed)
        with monkeypatch.context() as patched:
            for name, stream in zip(("stdin", "stdout", "stderr"), terminal.streams, strict=True):
                patched.setattr(sys, name, stream)
            try:
                code = main([str(word) for word in words])
            except SystemExit as ended:
                code = ended.code
        return code, terminal.close()

    return run


@pytest.fixture
def says(monkeypatch):
    """Has the model say a text, a character a piece."""
    real = positronic.generation.generate

    def saying(text):
        def generate(*args, **how):
            pieces = list(real(*args, **how))
            for piece, character in zip_longest(pieces[:-1], text):
                yield (piece or pieces[0])._replace(text=character or "")
            yield pieces[-1]._replace(text="")

        monkeypatch.setattr(positronic.generation, "generate", generate)

    return saying


@pytest.mark.parametrize(("text", "spelt"), zip(HOSTILE, SPELT, strict=True))
def test_control_characters_are_spelt_out(text, spelt):
    assert visible(text) == spelt
    assert visible(HARMLESS + text) == HARMLESS + spelt


def test_every_control_character_is_known():
    import unicodedata

    controls = [chr(c) for c in range(0x110000) if unicodedata.category(chr(c)) == "Cc" and chr(c) not in "\n\t"]
    bidirectional = [c for c in map(chr, range(0x3000)) if unicodedata.bidirectional(c) in BIDIRECTIONAL]
    assert all(UNSAFE.fullmatch(c) for c in [*controls, *bidirectional])
    assert not UNSAFE.search(HARMLESS)


BIDIRECTIONAL = {"LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI"}


@pytest.mark.parametrize(("text", "spelt"), zip(HOSTILE, SPELT, strict=True))
@pytest.mark.parametrize("command", ["generate", "chat"])
def test_what_a_model_says_is_shown_and_not_obeyed(folder, on_terminal, says, text, spelt, command):
    says(text)
    words = ["--prompt", "x"] if command == "generate" else ["x"]
    code, heard = on_terminal(command, folder, *words, *WORDS)
    assert code == 0
    assert spelt in heard
    assert not UNSAFE.search(heard)


def test_a_model_that_repeats_escapes_is_shown(folder, on_terminal, capsys):
    words = ["generate", folder, "--prompt", "\x1b" * 8, *WORDS]
    assert main([str(word) for word in words]) == 0
    piped = capsys.readouterr().out
    code, heard = on_terminal(*words)
    assert (code, heard) == (0, visible(piped))


def test_a_pipe_gets_what_was_said(folder, says, capsys):
    text = "".join(HOSTILE)
    says(text)
    assert main(["generate", str(folder), "--prompt", "x", *WORDS]) == 0
    assert capsys.readouterr().out == text + "\n"


@pytest.mark.parametrize("name", ["\x1b[31mred", "a\rb", "[/red]", "[bold]x", "\u202ename", "caf\udce9"])
def test_a_name_in_an_error_or_a_table_is_shown_as_it_is(name, folder, tmp_path, on_terminal, capsysbinary):
    place = tmp_path / name
    place.parent.mkdir(parents=True, exist_ok=True)
    code, heard = on_terminal("describe", place)
    assert code == 2
    assert not UNSAFE.search(heard)
    os.symlink(folder, place)
    code, heard = on_terminal("describe", place)
    assert code == 0
    assert visible(name) in re.sub(r"\x1b\[\d*m|\n", "", heard), "however the table breaks its title"
    assert "Traceback" not in heard
    assert main(["describe", str(place)]) == 0
    assert os.fsencode(name).replace(b"\r", b"") in capsysbinary.readouterr().out.replace(b"\n", b"")


def test_flags_that_are_repeated_in_a_complaint_are_shown(on_terminal):
    code, heard = on_terminal("generate", "--no\x1b]0;x\x07pe", "\x9b2J")
    assert code == 2
    assert not UNSAFE.search(heard)
    assert "positronic generate --help" in heard


def test_help_has_its_colours_on_a_terminal(on_terminal):
    code, heard = on_terminal("verify", "--help")
    assert code == 0
    assert r"\x1b" not in heard


def test_tables_and_bars_have_their_own_colours_on_a_terminal(folder, on_terminal, tmp_path, monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    assert "\x1b[1m" in on_terminal("describe", folder)[1]
    text = tmp_path / "text.txt"
    text.write_text("Nobody had lit the lamp.\n\n" * 200, "utf-8")
    words = ["train", "--init", folder, "--data", text, "--out", tmp_path / "run", "--steps", "2"]
    code, heard = on_terminal(*words, "--batch-tokens", "64", "--set", "valid_bytes=200", "--device", "cpu")
    assert code == 0
    assert "\x1b[2K" in heard
    assert r"\x1b" not in heard


def test_rich_is_asked_in_two_places_only():
    """Both of which give it our own words alone, or such as were made visible."""
    package = Path(positronic.__file__).parent
    asked = {path.relative_to(package).as_posix() for path in package.rglob("*.py") if "from rich" in path.read_text()}
    assert asked == {"cli/console.py", "train/progress.py"}


def test_show_mask_spells_tokens_and_names(folder, tmp_path, on_terminal):
    chats = tmp_path / "chats\x1b[2J.jsonl"
    turns = [{"role": "user", "content": "a\x1bb"}, {"role": "assistant", "content": "\x9b\u202e"}]
    chats.write_text(json.dumps({"messages": turns}) + "\n", "utf-8")
    code, heard = on_terminal("sft", "--model", folder, "--data", chats, "--show-mask")
    assert code == 0
    assert not UNSAFE.search(heard.replace("\x1b[1;32m", "").replace("\x1b[0m", ""))
    assert "\x1b[1;32mlearn" in heard


def test_json_escapes_what_a_terminal_might_obey(folder, on_terminal, capsys):
    words = ["generate", folder, "--prompt", "\x1b\x9b\u202e", "--json", *WORDS]
    code, heard = on_terminal(*words)
    assert code == 0
    assert not UNSAFE.search(heard)
    capsys.readouterr()
    assert main([str(word) for word in words]) == 0
    piped = capsys.readouterr().out
    assert not UNSAFE.search(piped)
    assert json.loads(piped)["text"] == json.loads(heard)["text"]


LINES = [
    b"h\xc3\nhello\nquit\n",  # half a character
    b"\xff\xfe\x80\nhello\nquit\n",  # bytes that begin none
    b"\xed\xa0\x80\nhello\nquit\n",  # half of a surrogate pair, encoded
    b"a\x00b\nhello\nquit\n",  # NUL is a character like any other
    b"\x00\nhello\nquit\n",
    b"x" * 3000 + b"\nhello\nquit\n",  # longer than the model's context
]


@pytest.mark.parametrize("typed", LINES, ids=lambda typed: repr(typed[:8]))
def test_a_conversation_outlives_a_line_that_is_no_text(folder, on_terminal, typed):
    code, heard = on_terminal("chat", folder, *WORDS, typed=typed)
    assert code == 0
    assert heard.count("you > ") == 3, "it asks again, answers, and leaves when asked"
    assert heard.count("bot > ") == 2
    assert "Traceback" not in heard
    told = "UTF-8" in heard or "holds" in heard
    assert told == (b"\x00" not in typed)


@pytest.mark.parametrize("typed", LINES, ids=lambda typed: repr(typed[:8]))
def test_lines_in_a_pipe_go_on_after_one_that_is_no_text(folder, monkeypatch, capsys, typed):
    stream = io.TextIOWrapper(io.FileIO(_file(typed), "r"), encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", stream)
    assert main(["generate", str(folder), "--interactive", *WORDS]) == 0
    out, err = capsys.readouterr()
    assert out.count("> ") >= 4
    assert ("UTF-8" in err or "holds" in err) == (b"\x00" not in typed)


def _file(data: bytes) -> int:
    """A pipe with this in it."""
    reading, writing = os.pipe()
    os.write(writing, data)
    os.close(writing)
    return reading


@pytest.mark.parametrize("data", [b"h\xc3", b"\xff\xfe", b"good, then \xe2\x82\nmore"])
def test_a_prompt_that_is_no_text_is_a_sentence(folder, monkeypatch, capsys, data):
    stream = io.TextIOWrapper(io.FileIO(_file(data), "r"), encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", stream)
    assert main(["generate", str(folder), "--prompt", "-", *WORDS]) == 2
    assert "UTF-8" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["generate", "{}", "--prompt", "\udcff"],
        ["generate", "{}", "--prompt", "a\ud83d"],
        ["generate", "{}", "--prompt", "a", "--stop", "\udcff"],
        ["generate", "{}", "--prompt", "a", "--chat", "--system", "\udcff"],
        ["chat", "{}", "\udcff"],
        ["view", "{}", "--prompt", "\udcff"],
        ["ablate", "{}", "--prompt", "\udcff"],
        ["verify", "{}", "--prompt", "\udcff"],
    ],
    ids=lambda words: " ".join(words).encode(errors="backslashreplace").decode(),
)
def test_an_argument_that_is_no_text_is_a_sentence(folder, tmp_path, monkeypatch, capsys, words):
    monkeypatch.chdir(tmp_path)
    assert main([word.replace("{}", str(folder)) for word in words]) == 2
    assert "UTF-8" in capsys.readouterr().err


def test_a_line_that_the_terminal_has_cut_is_asked_for_again(folder, on_terminal, monkeypatch):
    monkeypatch.setattr("positronic.cli.console.LONGEST_LINE", 100)
    code, heard = on_terminal("chat", folder, *WORDS, typed=b"y" * 100 + b"\nhello\nquit\n")
    assert code == 0
    assert "100 bytes" in heard
    assert heard.count("bot > ") == 1


class Failing(io.TextIOBase):
    """A stream on a full disk."""

    def __init__(self, number):
        self.error = OSError(number, os.strerror(number))

    def write(self, text):
        raise self.error


def prints(folder: Path, data: Path) -> dict[str, list[str]]:
    """A line for each command that prints to standard output, all of them small."""
    run = str(folder)
    return {
        "describe": ["describe", "tinygpt-tiny"],
        "describe --json": ["describe", "tinygpt-tiny", "--json"],
        "describe a blend": ["describe", "published-pretrain"],
        "generate": ["generate", run, "--prompt", "x", *WORDS],
        "generate --json": ["generate", run, "--prompt", "x", "--json", *WORDS],
        "chat": ["chat", run, "x", *WORDS],
        "eval": ["eval", run, "--data", str(data)],
        "health": ["health", run, "--data", str(data)],
        "ablate": ["ablate", run, "--prompt", "x"],
        "verify": ["verify", run, "--tokens", "2"],
        "verify --json": ["verify", run, "--tokens", "2", "--json"],
        "tokenizer compare": ["tokenizer", "compare", run, "--input", str(data)],
        "course": ["course"],
        "help": ["generate", "--help"],
        "usage": ["--help"],
        "version": ["--version"],
    }


@pytest.mark.parametrize(("number", "code"), [(28, 2), (5, 2), (32, 141)], ids=["ENOSPC", "EIO", "EPIPE"])
@pytest.mark.parametrize("name", prints(Path(), Path()))
def test_output_that_cannot_be_written_is_said(folder, tmp_path, monkeypatch, capsys, name, number, code):
    data = tmp_path / "text.txt"
    data.write_text("Nobody had lit the lamp on the hill. " * 30, "utf-8")
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", Failing(number))
        assert main(prints(folder, data)[name]) == code
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert said.count("standard output cannot be") == (code == 2)


@pytest.mark.parametrize(
    ("redirected", "code"), [(">/dev/full", 2), (">&-", 2), ("2>&-", 0), ("2>/dev/full", 0), ("<&-", 0), ("|:", 141)]
)
def test_streams_of_a_shell_that_are_full_or_closed(redirected, code):
    command = f"set -o pipefail; {sys.executable} -m positronic describe tinygpt-tiny --json {redirected}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr
    if code == 0:
        assert json.loads(done.stdout)["parameters"]


def test_a_closed_stream_gives_its_number_to_no_file(tmp_path):
    """Or what is printed would land in the next file that is opened."""
    out = tmp_path / "tok"
    words = f"{sys.executable} -m positronic tokenizer train --kind bytes --out {out}"
    assert subprocess.run(["bash", "-c", f"{words} >&- 2>&- <&-"], check=False).returncode == 0
    assert json.loads((out / "tokenizer.json").read_text("utf-8"))


@pytest.mark.parametrize("words", [["train", "--init", "{}", "--data", "x", "--out"], ["export", "{}", "--out"]])
def test_nul_in_a_path_is_a_sentence(folder, capsys, words):
    assert main([*(word.replace("{}", str(folder)) for word in words), "a\0b"]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_deeply_nested_json_is_a_sentence(tmp_path, capsys):
    deep = tmp_path / "deep.json"
    for text in ("[" * 100_000, '{"a":' * 50_000, "[" * 500 + "]" * 500):
        deep.write_text(text, "utf-8")
        assert main(["describe", str(deep)]) == 2
        assert main(["doctor", str(tmp_path), "--reference", str(deep)]) == 2
    assert main(["describe", "tinygpt-tiny", "--set", "n_layers=" + "[" * 100_000]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_every_command_is_in_the_usage(capsys):
    assert main([]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in COMMANDS)


@pytest.mark.parametrize(
    "flags", [["--temperature", "9"], ["--top-p", "nan"], ["--max-new-tokens", "0"], ["--top-k", "-1"]]
)
@pytest.mark.parametrize("command", [["generate", "--interactive"], ["chat"]])
def test_numbers_out_of_range_are_refused_before_the_first_line(folder, capsys, command, flags):
    assert main([command[0], str(folder), *command[1:], *flags]) == 2
    assert flags[0].removeprefix("--").replace("-", "_") in capsys.readouterr().err


@pytest.mark.parametrize("value", ["1e-310", "5e-324", "1e-45"])
@pytest.mark.parametrize("name", ["--temperature", "--top-p", "--min-p"])
def test_the_smallest_numbers_draw_a_text(folder, capsys, name, value):
    words = ["generate", str(folder), "--prompt", "x", "--max-new-tokens", "4", "--device", "cpu", "--json"]
    assert main([*words, name, value]) == 0
    assert len(json.loads(capsys.readouterr().out)["tokens"]) > 0
