import pytest
import torch

from positronic.state import DecodeState, ForwardOptions, Step

END = 5


def test_the_end_of_a_document_stands_alone_and_padding_belongs_to_none():
    tokens = torch.tensor([[0, 0, 1, END, 2, 3, END]])
    valid = torch.tensor([[False, False, True, True, True, True, True]])
    step = Step.of(tokens, None, ForwardOptions(valid=valid), END)
    assert step.segments.tolist() == [[-1, -1, 0, 1, 2, 2, 3]]
    assert step.positions.tolist() == [[0, 0, 0, 1, 2, 3, 4]]


def test_given_segments_add_boundaries_and_remove_none():
    tokens = torch.tensor([[1, END, 2, 3, 4]])
    given = torch.tensor([[0, 0, 0, 0, 1]])
    step = Step.of(tokens, None, ForwardOptions(segments=given), END)
    assert step.segments.tolist() == [[0, 1, 2, 2, 3]]


def test_counting_goes_on_from_the_state_and_ends_carry_over():
    state = DecodeState.new([], 1, torch.device("cpu"))
    first = torch.tensor([[1, 2, END]])
    state = Step.of(first, state, None, END).next_state(state, [], END)
    assert (state.position.tolist(), state.segment.tolist()) == ([3], [2])
    step = Step.of(torch.tensor([[7, 8]]), state, None, END)
    assert (step.positions.tolist(), step.segments.tolist()) == ([[3, 4]], [[2, 2]])


def test_ends_are_cut_alike_in_one_call_and_in_two():
    tokens = torch.tensor([[END, 1, END, END, 2, 3, END]])
    whole = Step.of(tokens, None, None, END).segments.tolist()
    assert whole == [[1, 2, 3, 5, 6, 6, 7]]
    for cut in range(1, 7):
        state = DecodeState.new([], 1, torch.device("cpu"))
        first = Step.of(tokens[:, :cut], state, None, END)
        second = Step.of(tokens[:, cut:], first.next_state(state, [], END), None, END)
        assert torch.cat([first.segments, second.segments], 1).tolist() == whole, f"cut behind {cut}"


@pytest.mark.parametrize("boundary", [None, END])
@pytest.mark.parametrize("rollback", [False, True])
def test_one_token_stands_where_the_sums_over_a_call_say(boundary, rollback):
    """A call that says that its token is real takes no short way."""
    tokens = torch.tensor([[1, END, END, 2, 3, END, 4], [END, 1, 2, 3, 4, 1, END]])
    short = long = DecodeState.new([], 2, torch.device("cpu"))
    for token in tokens.split(1, 1):
        here = Step.of(token, short, ForwardOptions(keep_rollback=rollback), boundary)
        there = Step.of(token, long, ForwardOptions(valid=torch.ones_like(token, dtype=torch.bool)), boundary)
        for name in ("positions", "segments", "began", "place", "fresh"):
            assert getattr(here, name).tolist() == getattr(there, name).tolist(), name
        short, long = here.next_state(short, [], boundary), there.next_state(long, [], boundary)
        for name in ("position", "began", "segment"):
            assert getattr(short, name).tolist() == getattr(long, name).tolist(), name


def test_trailing_padding_moves_neither_position_nor_document():
    state = DecodeState.new([], 1, torch.device("cpu"))
    tokens = torch.tensor([[1, END, 0]])
    step = Step.of(tokens, state, ForwardOptions(valid=torch.tensor([[True, True, False]])), END)
    after = step.next_state(state, [], END)
    assert (after.position.tolist(), after.segment.tolist()) == ([2], [2])


def test_where_real_fills_padding_only():
    tokens = torch.zeros(1, 2, dtype=torch.long)
    step = Step(tokens, tokens, options=ForwardOptions(valid=torch.tensor([[True, False]])))
    assert step.where_real(torch.tensor([2.0, 3.0]), 1.0).tolist() == [[[2, 3], [1, 1]]]
    assert step.where_real(torch.full((1, 2, 1), 2.0), 0.0).tolist() == [[[2], [0]]]
