"""One folder a family, as `positronic.checkpoint.save` writes it, and what Transformers makes of it."""

import sys
from pathlib import Path

import pytest

from one_thread import one_thread  # noqa: F401  (autouse here)

sys.path.extend(str(Path(__file__).parents[1] / room) for room in ("models", "generation", "../examples"))

transformers = pytest.importorskip("transformers")
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()


def pytest_generate_tests(metafunc):
    from hf_example import MODELS

    if "family" in metafunc.fixturenames:
        metafunc.parametrize("family", list(MODELS), scope="session")


@pytest.fixture(scope="session")
def ours(family):
    """A model that has much to say."""
    from hf_example import MODELS

    return MODELS[family].speaking()


@pytest.fixture(scope="session")
def folder(family, ours, tmp_path_factory):
    from positronic.checkpoint import save
    from positronic.text import byte_tokenizer

    return save(tmp_path_factory.mktemp(family) / "model", ours, byte_tokenizer())


@pytest.fixture(scope="session")
def theirs(folder):
    """The same model from its folder, through `AutoModelForCausalLM`."""
    import positronic.adapters.hf  # noqa: F401  (registers)

    return transformers.AutoModelForCausalLM.from_pretrained(folder)


@pytest.fixture(scope="session")
def tokenizer(folder):
    return transformers.AutoTokenizer.from_pretrained(folder)
