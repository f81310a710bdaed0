"""One thread a test."""

from one_thread import one_thread  # noqa: F401  (autouse here)
