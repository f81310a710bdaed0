import os

import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # where torch is not loaded yet: threads that spin hold busy cores


@pytest.fixture(scope="session")
def model():
    from drafting import small

    return small()
