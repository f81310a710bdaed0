"""The course needs no torch; its tests compare with it, on one thread."""

from one_thread import one_thread  # noqa: F401  (autouse here)
