import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "viz"))  # small models with open gates stand beside the pages' tests


@pytest.fixture(scope="session")
def model():
    from drafting import small

    return small()
