import pytest
import torch

from positronic.errors import ConfigError, StateError
from positronic.kernels.attention import attention_reference, causal_attention, fused
from positronic.mixers.attention import AttentionConfig
from positronic.state import DecodeState, Step


def feed(mixer, state, length):
    x, tokens = torch.randn(1, length, 32), torch.zeros(1, length, dtype=torch.long)
    conversation = DecodeState.new([state], 1, torch.device("cpu"))
    with torch.no_grad():
        return mixer(x, Step.of(tokens, conversation), state).state


def mixer(**changes):
    return AttentionConfig(n_heads=4, n_kv_heads=2, head_dim=16, rank=8, rope_dims=8, **changes).build(32)


@pytest.mark.parametrize("documents", [False, True])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_the_fused_form_equals_the_definition_with_gradients(groups, documents):
    def run(attend):
        torch.manual_seed(0)
        q, k, v = (torch.randn(2, h, 12, 16, requires_grad=True) for h in (4, groups, groups))
        o = attend(q, k, v)
        o.square().sum().backward()
        return [o, q.grad, k.grad, v.grad]

    segments = torch.tensor([[0] * 5 + [1] * 7, [-1] * 2 + [0] * 10]) if documents else None
    layout = fused.Documents.of(segments)
    allowed = torch.ones(12, 12, dtype=torch.bool).tril()[None, None] if layout is None else layout.allowed
    fast = run(lambda q, k, v: causal_attention(q, k, v, layout))
    definition = run(lambda q, k, v: attention_reference(q, k, v, allowed))
    for a, b in zip(fast, definition, strict=True):
        assert (a - b).abs().max() < 1e-4 * b.abs().max()


def test_grouped_heads_equal_full_heads_with_repeated_keys():
    q, k, v = torch.randn(1, 4, 6, 8), torch.randn(1, 2, 6, 8), torch.randn(1, 2, 6, 8)
    allowed = torch.ones(1, 1, 6, 6, dtype=torch.bool).tril()
    grouped = attention_reference(q, k, v, allowed)
    assert torch.equal(grouped, attention_reference(q, k.repeat_interleave(2, 1), v.repeat_interleave(2, 1), allowed))


def test_a_row_that_may_see_nothing_is_zero_not_nan():
    q = torch.randn(1, 1, 2, 4)
    allowed = torch.tensor([[[[False, False], [True, True]]]])
    assert attention_reference(q, q, q, allowed)[0, 0, 0].tolist() == [0, 0, 0, 0]


def test_the_overtaken_state_says_how_to_branch():
    m = mixer()
    old = feed(m, m.init_state(1), 5)
    overtaken = feed(m, old, 3)
    feed(m, old, 2)
    with pytest.raises(StateError, match="select"):
        feed(m, overtaken, 1)
    with pytest.raises(StateError, match="select"):
        overtaken.select(torch.tensor([0]))


def test_committing_nothing_leaves_the_rows_before_intact():
    m = mixer()
    old = feed(m, m.init_state(1), 5)
    none_kept = feed(m, old, 3).commit([])
    assert (none_kept.length, none_kept.stamp) == (5, old.stamp)


def test_a_preallocated_buffer_grows_when_its_room_is_spent():
    m = mixer()
    state = m.init_state(1, room=4)
    for _ in range(3):
        state = feed(m, state, 3)
    assert state.length == 9


def test_the_cache_holds_two_numbers_a_group_dimension_and_token():
    state = feed(mixer(), mixer().init_state(1), 5)
    assert state.buffer.keys[:, :, :5].numel() + state.buffer.values[:, :, :5].numel() == 5 * 2 * 2 * 16


@pytest.mark.parametrize("wrong", [{"n_heads": 3, "n_kv_heads": 2}, {"rope_dims": 3}, {"rope_dims": 66}, {"rank": 0}])
def test_impossible_heads_are_refused(wrong):
    with pytest.raises(ConfigError):
        AttentionConfig(**wrong)
