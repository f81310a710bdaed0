"""Looking at models from outside: sizes, costs, memory, what each organ does."""

from positronic.observe.ablate import Ablation, ablate, ablation_table, organs_of
from positronic.observe.describe import Description, describe, state_bytes

__all__ = ["Ablation", "Description", "ablate", "ablation_table", "describe", "organs_of", "state_bytes"]
