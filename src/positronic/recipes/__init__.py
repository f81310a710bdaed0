"""Whole runs as values: what to train, on what, for how long. The command line and scripts on a GPU call these."""

from positronic.recipes.blends import BLENDS, Blend, blend
from positronic.recipes.run import RunConfig, fit_to, read_run, train_run

__all__ = ["BLENDS", "Blend", "RunConfig", "blend", "fit_to", "read_run", "train_run"]
