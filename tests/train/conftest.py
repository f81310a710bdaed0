import sys
from pathlib import Path

from one_thread import one_thread  # noqa: F401  (autouse here)

sys.path.append(str(Path(__file__).parents[1] / "models"))  # the oscillator family's example stands beside its tests
