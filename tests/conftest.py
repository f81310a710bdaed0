"""For all tests: waiting threads must not spin, or two processes on two cores slow each other down many times.

NumPy's BLAS cannot be told to wait quietly, so it has one thread.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
