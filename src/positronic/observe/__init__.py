"""Looking at models from outside: sizes, costs, memory, what each organ does."""

from positronic.observe.ablate import (
    Change,
    ablate,
    changes,
    check_documents,
    mixers_of,
    organs_of,
    verdict,
)
from positronic.observe.describe import Description, describe, state_bytes
from positronic.observe.health import Health, health, sample_rows

__all__ = [
    "Change",
    "Description",
    "Health",
    "ablate",
    "changes",
    "check_documents",
    "describe",
    "health",
    "mixers_of",
    "organs_of",
    "sample_rows",
    "state_bytes",
    "verdict",
]
