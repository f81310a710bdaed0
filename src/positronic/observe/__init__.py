"""Looking at models from outside: sizes, costs, memory, what each organ does."""

from positronic.observe.ablate import (
    Change,
    Moved,
    ablate,
    changes,
    check_documents,
    mixers_of,
    moved,
    organs_of,
    verdict,
)
from positronic.observe.describe import Description, describe
from positronic.observe.health import Health, health, sample_rows
from positronic.observe.verify import Verified, verify

__all__ = [
    "Change",
    "Description",
    "Health",
    "Moved",
    "Verified",
    "ablate",
    "changes",
    "check_documents",
    "describe",
    "health",
    "mixers_of",
    "moved",
    "organs_of",
    "sample_rows",
    "verdict",
    "verify",
]
