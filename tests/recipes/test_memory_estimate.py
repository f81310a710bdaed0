"""What fits a machine: the arithmetic, by hand where the machine is made up."""

import pytest

from positronic.errors import DeviceError
from positronic.models import preset
from positronic.observe import describe
from positronic.recipes.memory_estimate import estimate, estimate_here
from positronic.recipes.tiny import MIXERS, VOCABULARY, tiny_model

MODEL = preset("tinygpt-tiny").replace(context=512)
GB = 10**9


def needs(found):
    return found.weights_bytes + found.rows_at_once * found.row_bytes


def test_sixteen_bytes_a_weight_and_what_is_free_decide_the_rows():
    roomy = estimate(MODEL, "cuda", "bfloat16", 100 * GB)
    assert (roomy.batch_tokens, roomy.rows_at_once, roomy.micro_rows) == (16_384, 32, None)
    assert roomy.weights_bytes == 16 * describe(MODEL).total
    free = int((roomy.weights_bytes + 5.5 * roomy.row_bytes) / 0.6)
    tight = estimate(MODEL, "cuda", "bfloat16", free)
    assert (tight.batch_tokens, tight.rows_at_once, tight.micro_rows) == (16_384, 5, 5)
    assert needs(tight) <= 0.6 * free < needs(tight) + tight.row_bytes


def test_a_row_costs_as_much_as_its_tokens():
    """Twice the tokens keep about twice the bytes; scores of attention add a little."""
    short, long = (estimate(MODEL.replace(context=n), "cpu", "float32", 100 * GB).row_bytes for n in (256, 512))
    assert 2 <= long / short < 3


def test_the_count_does_not_miss_what_training_keeps():
    """At least input, norm, and products of every layer: 10 tensors of (T, D) float32 a layer."""
    assert estimate(MODEL, "cpu", "float32", 100 * GB).row_bytes > 4 * 10 * 512 * 256 * 4


def test_a_machine_too_small_hears_what_is_needed():
    with pytest.raises(DeviceError, match=r"0\.1\d GB for one row of 512 tokens.*SIZE=tiny"):
        estimate(MODEL, "cpu", "float32", GB // 10)


@pytest.mark.parametrize("size", VOCABULARY)
@pytest.mark.parametrize("mixer", MIXERS)
def test_every_family_of_every_size_fits_this_machine_and_says_why(mixer, size):
    found = estimate_here(tiny_model(mixer, size), "cpu")
    assert found.precision == "float32"
    table = found.table()
    assert [what for what, _, _ in table][1:] == ["device", "precision", "tokens an update", "rows at once", "memory"]
    assert all(why for _, _, why in table)


def test_tokens_an_update_may_be_given():
    assert estimate(MODEL, "cpu", "float32", 100 * GB, 4096).batch_tokens == 4096
    assert estimate(MODEL, "cpu", "float32", 100 * GB).batch_tokens == 1024
