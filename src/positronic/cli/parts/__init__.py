"""Pieces of work that commands share, or that a long one consists of."""
