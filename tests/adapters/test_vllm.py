"""What an engine that pages keys and values can hold, and in which words the rest is refused."""

import pytest

from positronic.adapters.vllm import unservable
from positronic.models import build, preset


def layers(name):
    return build(preset(name)).init_state(1).layers


@pytest.mark.parametrize("name", ["control-tiny", "mycel-tiny-mixer-only", "positronic-tiny-mixer-only"])
def test_what_remembers_keys_and_values_alone_is_served(name):
    assert unservable(layers(name), frozen=False) is None


def test_stores_are_served_frozen_and_on_request():
    kept = layers("mycel-tiny")
    assert unservable(kept, frozen=True) is None
    assert "freeze_memory" in unservable(kept, frozen=False)


@pytest.mark.parametrize(
    ("name", "says"), [("positronic-tiny", "n-gram"), ("positronic-tiny", "controllers"), ("moa-tiny", "convolution")]
)
@pytest.mark.parametrize("frozen", [False, True])
def test_other_memory_is_named_and_refused(name, says, frozen):
    assert says in unservable(layers(name), frozen)
