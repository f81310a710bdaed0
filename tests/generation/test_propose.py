"""The n-gram proposer copies what followed the longest suffix that occurred before."""

import numpy as np
import pytest

from positronic.errors import GenerationError
from positronic.generation import NGram, Nothing
from positronic.generation.writer import History


def by_definition(history, longest, shortest, k):
    """The longest suffix with an earlier occurrence, its latest one, copied token by token, onto itself if need be."""
    for n in range(min(longest, len(history) - 1), shortest - 1, -1):
        for end in range(len(history) - 2, n - 2, -1):
            if history[end - n + 1 : end + 1] == history[len(history) - n :]:
                text = list(history)
                for i in range(k):
                    text.append(text[end + 1 + i])
                return tuple(text[len(history) :])
    return ()


@pytest.mark.parametrize(("longest", "shortest"), [(1, 1), (3, 1), (4, 2), (6, 3)])
def test_it_proposes_what_the_definition_says(longest, shortest):
    rng = np.random.default_rng(0)
    for symbols in (2, 4, 30):
        for length in range(40):
            history = rng.integers(0, symbols, length).tolist()
            found = NGram(longest=longest, shortest=shortest, k=5).propose(None, History(history), 9).tokens
            assert found == by_definition(history, longest, shortest, 5), history


def test_a_loop_is_continued_around_its_end():
    assert NGram(k=7).propose(None, [9, 1, 2, 3, 1, 2, 3, 1, 2], 7).tokens == (3, 1, 2, 3, 1, 2, 3)


def test_room_is_kept():
    assert NGram(shortest=1, k=7).propose(None, [1, 2, 3, 1], 2).tokens == (2, 3)
    assert NGram(shortest=1, k=7).propose(None, [1, 2, 3, 1], 0).tokens == ()
    assert Nothing().propose(None, [1, 1, 1], 5).tokens == ()


@pytest.mark.parametrize("settings", [{"k": 0}, {"shortest": 0}, {"shortest": 5, "longest": 4}])
def test_impossible_settings_are_errors(settings):
    with pytest.raises(GenerationError, match="NGram"):
        NGram(**settings)
