"""The scripts of the reference runs, and one thread a test."""

import sys
from pathlib import Path

from one_thread import one_thread  # noqa: F401  (autouse here)

sys.path.append(str(Path(__file__).parents[2] / "runs"))
