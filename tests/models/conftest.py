"""Proposers of known quality stand beside the tests of generation."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "generation"))
