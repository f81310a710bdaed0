"""Looking at models from outside: sizes, costs, memory, what each organ does."""

from positronic.observe.ablate import Ablation, Change, ablate, ablation_table, changes, mixers_of, organs_of, verdict
from positronic.observe.describe import Description, describe, state_bytes

__all__ = [
    "Ablation",
    "Change",
    "Description",
    "ablate",
    "ablation_table",
    "changes",
    "describe",
    "mixers_of",
    "organs_of",
    "state_bytes",
    "verdict",
]
