import sys
from pathlib import Path

import pytest

for beside in ("viz", "models"):  # small models with open gates stand beside the tests of pages and of families
    sys.path.append(str(Path(__file__).parents[1] / beside))


@pytest.fixture(scope="session")
def model():
    from drafting import small

    return small()
