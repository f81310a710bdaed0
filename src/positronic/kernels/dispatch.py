"""What runs here, and why. `POSITRONIC_KERNELS=reference` forces the definitions everywhere."""

import os

__all__ = ["reference_only"]


def reference_only() -> bool:
    """Whether the user asked for the definitions in place of the fast forms."""
    return os.environ.get("POSITRONIC_KERNELS") == "reference"
