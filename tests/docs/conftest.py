"""What other rooms know: copies of the published data sets, and the command without its start. One thread a test."""

import sys
from pathlib import Path

from one_thread import one_thread  # noqa: F401  (autouse here)

sys.path.extend(str(Path(__file__).parents[1] / room) for room in ("recipes", "runs"))
