"""Noise is a pure function with the published words of Philox, and it is Gumbel noise."""

import numpy as np
import pytest

from positronic.generation.sampling.noise import gumbel, philox


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_published_words(counter, key, words):
    found = philox(tuple(np.asarray([word], np.uint64) for word in counter), key)
    assert tuple(int(word[0]) for word in found) == words


def test_noise_of_a_token_does_not_depend_on_which_others_are_asked_for():
    everything = gumbel(7, 3, 100, np.arange(1001))
    for kept in ([5], [0], [1000, 2], [3, 4, 5, 900], list(range(0, 1001, 7)), list(range(600))):
        assert gumbel(7, 3, 100, np.array(kept)).tolist() == everything[kept].tolist(), kept


@pytest.mark.parametrize("changed", [(8, 3, 100), (7, 4, 100), (7, 3, 101), (7 + 2**32, 3, 100), (7, 3 + 2**32, 100)])
def test_seed_stream_and_position_all_matter(changed):
    ids = np.arange(64)
    assert not np.isin(gumbel(*changed, ids), gumbel(7, 3, 100, ids)).any()


def test_noise_has_the_moments_of_a_gumbel_variable():
    g = gumbel(1, 0, 0, np.arange(200_000))
    assert np.isfinite(g).all()
    assert abs(g.mean() - 0.577216) < 4 * 1.2825 / 200_000**0.5
    assert abs(g.var() - np.pi**2 / 6) < 0.03
    assert abs(np.corrcoef(g[::2], g[1::2])[0, 1]) < 4 / 100_000**0.5
