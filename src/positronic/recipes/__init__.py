"""Whole runs as values: what to train, on what, for how long. The command line and scripts on a GPU call these."""

from positronic.recipes.blends import BLENDS, Blend, blend, blended
from positronic.recipes.config import RunConfig
from positronic.recipes.run import fit_to, read_run, train_run

__all__ = ["BLENDS", "Blend", "RunConfig", "blend", "blended", "fit_to", "read_run", "train_run"]
