"""For all tests: waiting threads must not spin, or two processes on two cores slow each other down many times.

NumPy's BLAS cannot be told to wait quietly, so it has one thread. And nothing fails by a clock, which says of a busy
machine that it is busy: tests wait for events, and examples may take as long as they take.
"""

import os

from hypothesis import HealthCheck, settings

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

settings.register_profile("no clock", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("no clock")
