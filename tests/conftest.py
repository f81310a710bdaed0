"""For all tests: threads that wait must not spin, or two test processes on two cores slow each other down many times."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
