"""Families at their smallest stand beside the tests of models."""

import sys
from pathlib import Path

from one_thread import one_thread  # noqa: F401  (autouse here)

sys.path.append(str(Path(__file__).parents[1] / "models"))
