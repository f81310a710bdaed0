"""Looking at models from outside: sizes, costs, memory."""

from positronic.observe.describe import Description, describe, state_bytes

__all__ = ["Description", "describe", "state_bytes"]
