"""Rows of several sources in one order, as the batches that a trainer is fed."""
