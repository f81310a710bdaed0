import math

import pytest
import torch
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from positronic.errors import ConfigError, StateError
from positronic.kernels import attention as kernels
from positronic.kernels import registry
from positronic.kernels.attention import Documents, attention_reference, causal_attention, fused, masked_attention
from positronic.kernels.registry import forms_of
from positronic.kernels.soft_clamp import soft_clamp
from positronic.mixers import attention
from positronic.mixers.attention import AttentionConfig, without_own
from positronic.state import DecodeState, ForwardOptions, Step
from positronic.tree import n_bytes


def begun(mixer, capacity=0):
    return DecodeState.new([mixer.init_state(1, capacity)], 1, torch.device("cpu"), capacity)


def feed(mixer, state, length, **wishes):
    x, tokens = torch.randn(1, length, 32), torch.zeros(1, length, dtype=torch.long)
    step = Step.of(tokens, state, ForwardOptions(**wishes))
    with torch.no_grad():
        return step.next_state(state, [mixer(x, step, state.layers[0]).state])


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
    old = feed(m, begun(m), 5)
    overtaken = feed(m, old, 3)
    feed(m, old, 2)
    with pytest.raises(StateError, match="select"):
        feed(m, overtaken, 1)
    with pytest.raises(StateError, match="select"):
        overtaken.select(torch.tensor([0]))


def test_what_was_committed_is_overtaken_by_what_takes_more_of_the_same_call_back():
    m = mixer()
    call = feed(m, feed(m, begun(m), 5), 3, keep_rollback=True)
    two, one = call.commit([0, 1]), call.commit([0])
    assert feed(m, two, 1).length == 8
    feed(m, one, 1)
    with pytest.raises(StateError, match="select"):
        feed(m, two, 1)
    assert feed(m, call.commit([]), 1).length == 6


def test_a_preallocated_buffer_grows_when_its_room_is_spent():
    m = mixer()
    state = begun(m, capacity=4)
    for _ in range(3):
        state = feed(m, state, 3)
    assert state.length == 9


def test_the_cache_holds_two_numbers_a_group_dimension_and_token():
    state = feed(mixer(), begun(mixer(), capacity=5), 5)
    assert n_bytes(state.layers) == 5 * 2 * 2 * 16 * 4


def heads(groups=2, tokens=12, width=16, scale=1.0):
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, h, tokens, width) for h in (4, groups, groups))
    return q * scale, k, v


SEGMENTS = torch.tensor([[0] * 5 + [1] * 7, [0] * 12])


def test_what_an_exclusive_head_says_is_orthogonal_to_the_tokens_own_value():
    q, k, v = heads()
    z = without_own(causal_attention(q, k, v, None), v)
    own = v.repeat_interleave(2, 1)
    assert ((z * own).sum(-1) / own.norm(dim=-1)).abs().max() < 1e-5
    assert z[:, :, 1:].norm(dim=-1).min() > 1e-2, "what is not the token's own must stay"


def test_the_first_token_of_a_document_has_nothing_exclusive_to_say():
    q, k, v = heads()
    z = without_own(causal_attention(q, k, v, Documents.of(SEGMENTS)), v)
    assert z[:, :, 0].abs().max() < 1e-5
    assert z[0, :, 5].abs().max() < 1e-5
    assert z[1, :, 5].abs().max() > 1e-2


def test_a_value_of_no_length_is_not_divided_by():
    o = torch.randn(1, 1, 1, 4)
    assert torch.equal(without_own(o, torch.zeros(1, 1, 1, 4)), o)


def test_an_exclusive_head_by_hand():
    o, v = torch.tensor([3.0, 4.0])[None, None, None], torch.tensor([2.0, 0.0])[None, None, None]
    assert without_own(o, v).flatten().tolist() == [0.0, 4.0]


def test_options_that_are_off_never_run(monkeypatch):
    def refuse(*_):
        raise AssertionError("an option ran that nobody asked for")

    monkeypatch.setattr(attention, "without_own", refuse)
    for module in (fused, kernels.reference):
        monkeypatch.setattr(module, "soft_clamp", refuse)
    for kernel in ("causal_attention", "masked_attention"):
        fast = tuple(form for form in forms_of(kernel) if form.kind != "reference")
        monkeypatch.setitem(registry._FORMS, kernel, fast)
    m = mixer()
    feed(m, feed(m, begun(m), 5), 3)
    tokens = torch.zeros(1, 5, dtype=torch.long)
    m(torch.randn(1, 5, 32), Step.of(tokens))


@pytest.mark.parametrize("option", [{"exclusive": True}, {"score_cap": 0.5}])
def test_an_option_that_is_on_is_heard_and_adds_no_parameter(option):
    tokens = torch.zeros(1, 5, dtype=torch.long)
    plain, with_option = mixer(), mixer(**option)
    with_option.load_state_dict(plain.state_dict())
    x = torch.randn(1, 5, 32)
    a, b = plain(x, Step.of(tokens)).y, with_option(x, Step.of(tokens)).y
    assert (a - b).abs().max() > 1e-3 * a.abs().max()


def test_capped_scores_are_bounded_odd_and_straight_through_zero():
    scores = torch.linspace(-40, 40, 801, dtype=torch.float64, requires_grad=True)
    capped = soft_clamp(scores, 3.0)
    (slope,) = torch.autograd.grad(capped.sum(), scores)
    assert capped.abs().max() <= 3.0
    assert (capped + capped.flip(0)).abs().max() < 1e-12
    assert slope[400].item() == pytest.approx(1.0)
    assert (slope >= 0).all()
    assert soft_clamp(torch.tensor(2.0), 3.0).item() == pytest.approx(3 * math.erf(math.sqrt(math.pi) / 3), rel=1e-6)


@pytest.mark.parametrize("documents", [None, Documents.of(SEGMENTS)])
def test_a_high_cap_is_no_cap(documents):
    q, k, v = heads()
    plain, capped = (causal_attention(q, k, v, documents, cap) for cap in (None, 1e4))
    assert (plain - capped).abs().max() < 1e-5


def test_no_token_weighs_more_than_the_cap_allows():
    q, k, _ = heads(scale=100.0)
    weights = causal_attention(q, k, torch.eye(12).expand(2, 2, 12, 12), None, 1.5)  # values that spell out weights
    ratio = weights[:, :, -1].amax(-1) / weights[:, :, -1].amin(-1)
    assert ratio.max() < 20.09  # exp(2 * 1.5)
    assert ratio.max() > 10, "scores must reach the cap, or nothing was tested"


def test_capped_cached_rows_equal_capped_whole_rows():
    q, k, v = heads(scale=3.0)
    layout = Documents.of(SEGMENTS)
    cached = masked_attention(q[:, :, 7:], k, v, layout.allowed[:, :, 7:], 2.0)
    assert (cached - causal_attention(q, k, v, layout, 2.0)[:, :, 7:]).abs().max() < 1e-5


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("width", [8, 16])
@pytest.mark.parametrize("cap", [None, 2.0])
def test_the_block_sparse_form_equals_the_definition(cap, width, monkeypatch):
    def takes(q, *rest, **options):
        assert q.shape[3] >= 16, "the kernel on CUDA takes no narrower heads"
        return flex_attention(q, *rest, **options)

    monkeypatch.setattr(fused, "_compiled_flex", lambda: takes)
    q, k, v = heads(tokens=128, width=width, scale=3.0)
    segments = torch.tensor([[0] * 50 + [1] * 78, [0] * 128])
    blocks = create_block_mask(
        lambda b, h, t, s: (t >= s) & (segments[b, t] == segments[b, s]), 2, None, 128, 128, device="cpu"
    )
    definition = attention_reference(q, k, v, Documents.of(segments).allowed, cap)
    assert (causal_attention(q, k, v, Documents(blocks=blocks), cap) - definition).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("cap", "said"),
    [(0.0, "30 is usual"), (-1.0, "30 is usual"), (float("inf"), "finite number"), (float("nan"), "finite number")],
)
def test_a_cap_that_bounds_nothing_is_refused(cap, said):
    with pytest.raises(ConfigError, match=rf"score_cap is .*{said}"):
        AttentionConfig(score_cap=cap)


@pytest.mark.parametrize("wrong", [{"n_heads": 3, "n_kv_heads": 2}, {"rope_dims": 3}, {"rope_dims": 66}, {"rank": 0}])
def test_impossible_heads_are_refused(wrong):
    with pytest.raises(ConfigError):
        AttentionConfig(**wrong)
