"""For all tests: waiting threads must not spin, or two processes on two cores slow each other down many times."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
