import pytest


@pytest.fixture(scope="session")
def model():
    from drafting import small

    return small()
