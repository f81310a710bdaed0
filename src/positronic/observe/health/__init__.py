"""Is a model well, organ by organ and layer by layer; `findings` is the table of what can be wrong."""

from positronic.observe.health import chimera, colony, metric, organs  # noqa: F401  (they register readings)
from positronic.observe.health.checkup import Health, Line, health, sample_rows, worst
from positronic.observe.health.findings import BROKEN, FINDINGS, OK, WATCH
from positronic.observe.health.registry import Reading, reads

__all__ = ["BROKEN", "FINDINGS", "OK", "WATCH", "Health", "Line", "Reading", "health", "reads", "sample_rows", "worst"]
