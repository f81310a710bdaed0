"""The course that builds a language model by hand, in NumPy alone: its scripts, and its chapters' demonstrations.

Words after NAME are the script's own: `positronic course train_simple --help` explains them.

Examples:
  positronic course
  positronic course ch05
  positronic course train_simple --clean --config small
  positronic course generate_text "Once upon a time" --temperature 0.5
"""

import runpy
import sys
from dataclasses import dataclass
from typing import Annotated

import tyro

from positronic.config import did_you_mean
from positronic.errors import ConfigError


@dataclass(frozen=True)
class Command:
    name: Annotated[tyro.conf.Positional[str | None], tyro.conf.arg(metavar="NAME")] = None
    """A script, or a chapter (ch05); a list of both when not given."""
    words: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="WORD ...")] = ()
    """Flags and arguments of the script."""

    def run(self) -> int:
        from positronic_course import CHAPTERS
        from positronic_course.scripts import SCRIPTS

        scripts = {name: (f"scripts.{name}", about) for name, about in SCRIPTS.items()}
        chapters = {name.partition("_")[0]: (name, title) for name, title in CHAPTERS.items()}
        offered = scripts | chapters
        if self.name is None:
            print("positronic course NAME runs a script, or the demonstration at the end of a chapter.\n")
            for name, (_, about) in offered.items():
                print(f"  {name:20} {about}")
            return 0
        if self.name not in offered:
            raise ConfigError(f"The course has no {self.name!r}. {did_you_mean(self.name, offered)}")
        sys.argv = [self.name, *self.words]
        try:
            runpy.run_module(f"positronic_course.{offered[self.name][0]}", run_name="__main__", alter_sys=True)
        except SystemExit as ended:
            return int(ended.code or 0)
        return 0
