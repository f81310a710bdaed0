"""How a line of the page of the cards is run: by what it looks like. One that looks like nothing known fails.

positronic ...            the command line, in this process, with tiny presets, few steps and few tokens
runs/*.sh ...             the script, with settings of a run that takes seconds (in front: settings of its own)
pip install 'positronic[EXTRA]'    pyproject.toml offers the extra
make TARGET               the Makefile has the target
a/path.ext, folder/       is there, in the project or in the folder where everything runs
anything else             Python, in the section's own names; it must do something
"""

import ast
import io
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from card_page import Line, commands

from positronic.cli import main

__all__ = ["ROOT", "Runner"]

ROOT = Path(__file__).parents[2]
TINY = {"positronic-144m": "positronic-tiny", "mycel-79m": "mycel-tiny", "moa-400m": "moa-tiny"}
MOST = {"steps": 2, "batch-tokens": 128, "seq-len": 128, "max-new-tokens": 8, "tokens": 8, "vocab-size": 512}
"""At most so much of each flag."""
DRAWS = {"generate": "max-new-tokens", "chat": "max-new-tokens", "verify": "tokens"}
"""Commands that draw many tokens unless told how many, and the flag that tells."""
TYPED = "settings temperature=0.9 top_p=0.8 max_tokens=4\nHello\n\nquit\n"
SETTING = re.compile(r"[A-Z]+=\S*")
EXTRAS = re.compile(r"pip install 'positronic\[([\w,]+)\]'")
PATH = re.compile(r"[\w.-]+/[\w./-]*|[\w-]+\.(html|npy|toml|txt)|LICENSE")
APART = "import sys; sys.modules['positronic'] = None; exec(compile(open('apart.py').read(), 'apart.py', 'exec'))"


@dataclass
class Runner:
    """Runs lines one after another in the current folder, with one set of Python names."""

    script_settings: dict[str, str]
    names: dict[str, Any] = field(default_factory=dict)

    def run(self, line: Line) -> None:
        if line.form == "python":
            exec(compile(few_tokens(line.text), "block", "exec"), self.names)
        elif line.form == "python apart":
            self._apart(line.text)
        elif line.form == "sh":
            for command in commands(line.text):
                self._code(command)
        else:
            self._code(line.text, refused=line.refused)

    def _code(self, text: str, refused: bool = False) -> None:
        words = shlex.split(text) if text.startswith(("positronic ", "make ")) or "runs/" in text else []
        if words and words[0] == "positronic":
            self._command(words[1:], refused)
            return
        assert not refused, f"only commands refuse: {text}"
        if words and words[0] == "make":
            assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE), words[1]
        elif words and any(os.access(ROOT / word, os.X_OK) for word in words):
            self._script(words)
        elif found := EXTRAS.fullmatch(text):
            offered = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
            assert set(found[1].split(",")) <= set(offered), f"{text}: there is {', '.join(offered)}"
        elif PATH.fullmatch(text):
            assert Path(text).exists() or (ROOT / text).exists(), f"there is no {text}"
        else:
            self._python(text)

    def _command(self, words: list[str], refused: bool) -> None:
        lacks = "--tokenizer sentencepiece" in " ".join(words) and find_spec("sentencepiece") is None
        out, said, typed, before = io.StringIO(), io.StringIO(), sys.stdin, sys.argv
        sys.stdin = io.StringIO(TYPED)
        try:
            with redirect_stdout(out), redirect_stderr(said):
                code = main(shortened(words))
        except SystemExit as ended:
            code = ended.code
        finally:
            sys.stdin, sys.argv = typed, before
        assert code == (2 if refused or lacks else 0), f"ended with {code}: {said.getvalue()[-800:]}"
        if lacks:
            assert "positronic[sentencepiece]" in said.getvalue()

    def _script(self, words: list[str]) -> None:
        own = {}
        while SETTING.fullmatch(words[0]):
            name, _, own[name] = words.pop(0).partition("=")
        kept = {key: value for key, value in os.environ.items() if not key.startswith("POSITRONIC")}
        run = subprocess.run(
            ["sh", str(ROOT / words[0]), *words[1:]],
            env=kept | self.script_settings | own,
            input=TYPED.replace("Hello", "y"),
            capture_output=True,
            text=True,
        )
        assert run.returncode == 0, run.stderr[-800:]

    def _python(self, text: str) -> None:
        [statement] = ast.parse(few_tokens(text)).body
        if not isinstance(statement, ast.Expr):
            assert isinstance(statement, ast.Import | ast.ImportFrom | ast.Assert), f"it does nothing: {text}"
            exec(few_tokens(text), self.names)
            return
        assert isinstance(statement.value, ast.Call | ast.Attribute | ast.Subscript), f"it does nothing: {text}"
        value = eval(few_tokens(text), self.names)
        if isinstance(value, Iterator):
            value = list(value)
        assert value is not None, f"it is nothing: {text}"
        assert not isinstance(value, list | tuple) or len(value), f"it is empty: {text}"

    def _apart(self, text: str) -> None:
        Path("apart.py").write_text(few_tokens(text), "utf-8")
        run = subprocess.run(
            [sys.executable, "-c", APART],
            env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(Path("hub").absolute()), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        assert run.returncode == 0, run.stderr[-1600:]


def shortened(words: list[str]) -> list[str]:
    """The same command on a small scale."""
    words = list(words)
    learns = words[:2] == ["tokenizer", "train"]
    trains = words[0] in ("train", "sft", "dpo")
    for i, flag in enumerate(words[:-1]):
        name = flag.removeprefix("--").replace("_", "-")
        if flag.startswith("--") and name in MOST and (name != "vocab-size" or learns):
            words[i + 1] = str(min(int(words[i + 1]), MOST[name]))
        elif flag == "--model" and trains:
            words[i + 1] = TINY.get(words[i + 1], words[i + 1])
        elif flag == "--device":
            words[i + 1] = "cpu"
    if trains and not {"--batch-tokens", "--resume", "--show-mask", "--help"} & set(words):
        words[1:1] = ["--batch-tokens", str(MOST["batch-tokens"]), "--seq-len", str(MOST["seq-len"])]
    draws = DRAWS.get(words[0])
    if draws is not None and not any(word.replace("_", "-") == f"--{draws}" for word in words):
        words += [f"--{draws}", str(MOST[draws])]
    return words


def few_tokens(code: str) -> str:
    """The same Python, drawing few tokens and reading short rows."""
    code = re.sub(r"(?<=max_new_tokens=)\d+", lambda n: str(min(int(n[0]), MOST["max-new-tokens"])), code)
    return re.sub(r"(?<=max_length=)\d+", lambda n: str(min(int(n[0]), MOST["seq-len"])), code)
