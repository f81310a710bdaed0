"""The metric family: sizes to the integer, a plain model when new, the same in lower precision, seen and silenced."""

import pytest
import torch
from family_example import BYTES, EOT, METRIC, logits_of, tokens_of
from torch import Tensor, nn

from positronic.checkpoint import load_conversation, load_model, save, save_conversation
from positronic.config import override
from positronic.data import TokenBatch
from positronic.errors import ConfigError
from positronic.generation import generate
from positronic.kernels.metric import Documents
from positronic.mixers.metric_attention import MetricAttention, MetricAttentionConfig
from positronic.mixers.metric_scores import CosineConfig, DotConfig, L2Config
from positronic.models import PRESETS, build, preset
from positronic.models.metric import moa_metric_150m, moa_tiny, scored_by
from positronic.nn.parts import PartsState
from positronic.observe import describe
from positronic.observe.ablate import organs_of
from positronic.observe.describe import parameter_groups
from positronic.observe.health import health
from positronic.probe import Probe, capture
from positronic.state import ForwardOptions, Step
from positronic.text import byte_tokenizer
from positronic.train import AdamWConfig, NextTokenConfig
from positronic.tree import n_bytes
from remembering import equal_bits

LAYER = {
    "two norms": 1_536,
    "local conv": 1_183_488,
    "mha q, k": 1_032_192,
    "mha v, o": 1_179_648,
    "mha metric": 1_044,
    "mha projector": 589_825,
    "mha rotary": 397,
    "channel mix": 1_179_648,
    "mqa": 1_198_080,
    "mqa metric": 109,
    "mqa rotary": 34,
    "router": 98_820,
    "feature gates": 48,
    "swiglu": 4_423_680,
    "separable conv": 593_664,
    "low rank": 49_152,
    "ffn router": 2_304,
}
"""Of the published model, part by part."""
GROUPS = {
    "mixture": 768 + 98_820 + 48,
    "local_conv": 1_183_488,
    "metric_mha": 1_032_192 + 1_179_648 + 12,
    "maha_diag": 12 * (28 + 1) + 28 + 12,
    "ball": 12 * (56 + 1) + 56 + 1,
    "value_projector": 589_825,
    "black_hole_rope": 397 + 34,
    "channel_mix": 1_179_648,
    "metric_mqa": 1_198_080 + 12,
    "hyper_ffn": 768 + 4_423_680 + 593_664 + 49_152 + 2_304,
}
"""The same by mechanism, as `describe` says it: sinks belong to the heads."""


def sizes_of_a_layer(model) -> dict[str, int]:
    mixture, ffn = model.trunk[0].mixer, model.trunk[1].mixer
    conv, mha, mix, mqa = mixture.heads

    def size(*parts) -> int:
        return sum(p.numel() for part in parts for p in ([part] if isinstance(part, Tensor) else part.parameters()))

    q_k = sum(mha.widths[:2]) * 768
    return {
        "two norms": size(mixture.norm, ffn.norm),
        "local conv": size(conv),
        "mha q, k": q_k,
        "mha v, o": size(mha.qkv, mha.out) - q_k,
        "mha metric": size(mha.score, mha.ball, mha.sink),
        "mha projector": size(mha.projector),
        "mha rotary": size(mha.rope),
        "channel mix": size(mix),
        "mqa": size(mqa.qkv, mqa.out),
        "mqa metric": size(mqa.score, mqa.ball, mqa.sink),
        "mqa rotary": size(mqa.rope),
        "router": size(mixture.router, mixture.choose, mixture.bias),
        "feature gates": size(mixture.gates),
        "swiglu": size(ffn.gate, ffn.up, ffn.down),
        "separable conv": size(ffn.conv, ffn.mix),
        "low rank": size(ffn.narrow, ffn.widen),
        "ffn router": size(ffn.router),
    }


def test_the_published_model_has_every_parameter_of_its_table():
    assert sizes_of_a_layer(build(moa_metric_150m(), device="meta")) == LAYER
    assert sum(LAYER.values()) == 11_533_669
    found = describe(moa_metric_150m())
    expected = {"embed": 12_681_216, **{kind: 12 * size for kind, size in GROUPS.items()}, "head": 769}
    assert {k: v for k, v in found.groups.items() if v} == expected
    assert found.total == 12 * 11_533_669 + 12_681_216 + 768 + 1 == 151_086_013


def test_the_cache_of_the_published_model_has_the_layout_of_its_table():
    """1,664 values a token and layer."""
    found = describe(moa_metric_150m())
    assert found.state_per_token == 12 * 1664 * 4
    model = build(moa_metric_150m(), device="meta")
    state = model.init_state(1)
    tails = [state.layers[0].parts[0].rows, state.layers[1].rows]
    assert [tuple(tail.shape) for tail in tails] == [(1, 4, 768)] * 2
    for attention in (state.layers[0].parts[i] for i in (1, 3)):
        assert tuple(attention.previous.rows.shape) == (1, 1, 768)
    assert isinstance(state.layers[0], PartsState)


def sizes(config) -> dict[str, int]:
    """Parameters by mechanism."""
    return parameter_groups(build(config, device="meta"))


def test_presets_have_the_sizes_they_are_named_for():
    totals = {name: sum(sizes(preset(name)).values()) for name in PRESETS if name.startswith("moa")}
    assert totals["moa-dot-150m"] == 151_086_013 - 12 * (12 + 1) * 28
    assert totals["moa-400m"] == 397_813_960
    assert abs(totals["moa-20m"] / 20e6 - 1) < 0.03
    assert 2e6 < totals["moa-tiny"] < 4e6
    assert (preset("moa-400m").d_model, preset("moa-400m").n_layers) == (1024, 19)
    assert (preset("moa-20m").vocab_size, moa_tiny().vocab_size) == (16_512, 2048)


def test_the_twin_differs_in_its_scores_alone():
    ours, twin = preset("moa-metric-150m"), preset("moa-dot-150m")
    heads = [head.score.kind for head in twin.mixture.heads if isinstance(head, MetricAttentionConfig)]
    assert heads == ["dot", "dot"]
    assert scored_by(twin, ours.mixture.heads[1].score).replace(mixture=ours.mixture) == ours
    assert {k for k, v in sizes(ours).items() if sizes(twin).get(k) != v} == {"maha_diag"}


def pruned_by_nothing(config):
    heads = tuple(h.replace(prune=None) if isinstance(h, MetricAttentionConfig) else h for h in config.mixture.heads)
    return config.replace(mixture=config.mixture.replace(heads=heads))


@torch.no_grad()
@pytest.mark.parametrize("length", [1, 17])
def test_a_new_model_is_plain_distances_rotation_and_a_uniform_mixture(length):
    """The diagonal metric, bends and energy, projector and gates change no bit; nor does the triangle loss."""
    config = pruned_by_nothing(METRIC.small())
    model, tokens = build(config), tokens_of(2, length)
    heads = tuple(
        head.replace(score=L2Config(), projector=None, triangles=0) if isinstance(head, MetricAttentionConfig) else head
        for head in config.mixture.heads
    )
    plain = build(config.replace(mixture=config.mixture.replace(heads=heads)))
    assert torch.equal(logits_of(model, tokens), logits_of(plain, tokens))

    class Deaf(nn.Module):
        def forward(self, n, step, state=None):
            return torch.ones(*n.shape[:2], 1), None

    for module in plain.modules():
        if isinstance(module, MetricAttention):
            module.rope.energy = Deaf()
    for block in list(plain.trunk)[::2]:
        block.mixer.gates.data.fill_(0.0)
        block.mixer.bias = None
    assert torch.equal(logits_of(model, tokens), logits_of(plain, tokens))


@torch.no_grad()
def test_a_new_ball_says_no_more_than_its_sink_takes():
    """At r = 8 nothing is pruned; a sink at e^-8 takes some thousandths of what a token reads."""
    whole, tokens = preset("moa-tiny").replace(n_layers=2), tokens_of(2, 17)
    logits, without = logits_of(build(whole), tokens), logits_of(build(pruned_by_nothing(whole)), tokens)
    assert 0 < (logits - without).abs().max() < 3e-3 * without.abs().max()


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_lower_precision_says_nearly_the_same_cached_or_not(dtype):
    model, tokens = METRIC.opened(build(METRIC.small())), tokens_of(2, 24)
    truth = logits_of(model, tokens)
    model = model.to(dtype)
    logits = logits_of(model, tokens).float()
    assert logits.isfinite().all()
    assert (logits - truth).norm() < 3e-2 * truth.norm()
    state, read = model.init_state(2), []
    for piece in tokens.split([15, 1, 8], 1):
        out = model(piece, state)
        state, read = out.state, [*read, model.logits(out.hidden).float()]
    assert (torch.cat(read, 1) - truth).norm() < 3e-2 * truth.norm()


@torch.no_grad()
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("score", [None, L2Config(), CosineConfig(), DotConfig()])
def test_however_a_model_is_opened_it_streams_what_it_says_at_once(score, seed):
    """Random coefficients, radius 3, projector half open; pieces of 1 to 6 tokens, around the kernel's width."""
    config = METRIC.small() if score is None else scored_by(METRIC.small(), score)
    model, generator = build(config, seed), torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        if ".rope." in name or "log_" in name or ".gates" in name or ".bias" in name or ".sink" in name:
            p.add_(0.5 * torch.randn(p.shape, generator=generator))
        elif name.endswith("ball.radius"):
            p.fill_(3.0)
        elif name.endswith("ball.origin") or ".choose." in name or "router" in name:
            p.add_(0.3 * torch.randn(p.shape, generator=generator))
        elif name.endswith("projector.gate.g"):
            p.fill_(0.55)
        elif p.dim() == 2 and not name.startswith("embed"):
            p.mul_(4.0)
    tokens = tokens_of(2, 33).index_fill(1, torch.tensor([13]), 7)
    truth = logits_of(model, tokens)
    state, read, at = model.init_state(2), [], 0
    while at < 33:
        size = int(torch.randint(1, 7, (), generator=generator))
        out = model(tokens[:, at : at + size], state)
        state, at, read = out.state, at + size, [*read, model.logits(out.hidden)]
    assert (torch.cat(read, 1) - truth).abs().max() < 1e-4


@torch.no_grad()
def test_heads_lose_nothing_when_only_keys_within_reach_are_seen_by_pairs():
    """The threshold form streams and drafts like the others, through the key-bias form."""
    settings = [f"mixture.heads.{i}.prune={{'kind':'pair','radius':2.0}}".replace("'", '"') for i in (1, 3)]
    model = METRIC.loud(METRIC.opened(build(override(METRIC.small(), settings))))
    tokens = tokens_of(2, 25)
    state, read = model.init_state(2), []
    for piece in tokens.split([9, 1, 15], 1):
        out = model(piece, state)
        state, read = out.state, [*read, model.logits(out.hidden)]
    assert (torch.cat(read, 1) - logits_of(model, tokens)).abs().max() < 1e-4


def test_settings_of_the_command_line_that_cannot_be_are_refused():
    for setting, said in (
        ("mixture.heads.1.prune.radius=0", "radius above 0"),
        ('mixture.heads.3.prune={"kind":"pair","radius":-2}', "radius above 0"),
        ('mixture.heads.1.score={"kind":"dot"}', "0 where"),
        ('mixture.heads.1.score={"kind":"hamming"}', "this build knows"),
        ("mixture.groups=5", "does not divide"),
        ("n_layers=0", "1 or more"),
    ):
        with pytest.raises(ConfigError, match=said):
            build(override(moa_tiny(), [setting]), device="meta")
    both = ["mixture.heads.1.fused=true", 'mixture.heads.1.prune={"kind":"pair","radius":2}']
    with pytest.raises(ConfigError, match="fused kernels do not show"):
        override(moa_tiny(), both)


@torch.no_grad()
def test_every_organ_can_be_silenced_and_is_missed():
    model, tokens = METRIC.loud(METRIC.opened(build(METRIC.small()))), tokens_of(2, 17)
    organs = organs_of(model)
    assert set(organs) == {
        "ball",
        "black_hole_rope",
        "channel_mix",
        "hyper_ffn",
        "local_conv",
        "metric_mha",
        "metric_mqa",
        "mixture",
        "value_projector",
    }
    for organ, verbs in organs.items():
        without = logits_of(model, tokens, probe=Probe(model, verbs))
        assert (without - logits_of(model, tokens)).abs().max() > 1e-4, organ


@torch.no_grad()
def test_health_reads_the_router_the_metric_and_the_energy():
    model = METRIC.opened(build(METRIC.small()))
    lines = health(model, tokens_of(2, 40), steps=0).lines
    found = {(line.organ, line.reading): line.values for line in lines if line.layer == 2}
    for organ, reading, n in (
        ("mixture", "share of each head", 4),
        ("mixture", "evenness of the mixture", 1),
        ("hyper_ffn", "share of each branch", 3),
        ("metric_mha", "sharpness", 3),
        ("metric_mqa", "sharpness", 3),
        ("metric_mha", "sink", 3),
        ("metric_mqa", "length of keys", 3),
        ("metric_mha", "radius", 3),
        ("metric_mqa", "radius", 1),
        ("metric_mha", "share of pruned keys", 1),
        ("metric_mha", "energy", 3),
        ("metric_mqa", "energy", 1),
        ("metric_mqa", "broken triangles", 1),
    ):
        assert len(found[organ, reading]) == n, (organ, reading)
    assert found["mixture", "share of each head"] == pytest.approx([0.25] * 4, abs=0.2)
    low, middle, high = found["metric_mqa", "length of keys"]
    assert 0 < low < middle < high
    assert found["metric_mha", "radius"] == pytest.approx([3.0] * 3)


def test_a_ball_in_which_all_keys_lie_is_well_and_one_that_holds_none_is_not():
    model = build(preset("moa-tiny").replace(n_layers=1))
    lines = health(model, tokens_of(2, 40), steps=100).lines
    assert {line.verdict for line in lines if line.organ == "ball"} == {"ok"}
    assert any(line.finding == "silent matrix" for line in lines), "the router is new, and steps are said to be 100"
    with torch.no_grad():
        model.trunk[0].mixer.heads[1].ball.origin.fill_(9.0)
    found = health(model, tokens_of(2, 40), steps=100).findings()
    assert [line.organ for line in found["narrow ball"]] == ["metric_mha"]


def test_a_router_that_hears_one_head_alone_is_found():
    model = METRIC.opened(build(METRIC.small()))
    with torch.no_grad():
        model.trunk[0].mixer.bias[2] = 50.0
    found = health(model, tokens_of(2, 40), steps=100).findings()
    assert {line.reading for line in found["collapsed mixture"]} == {"evenness of the mixture"}


def test_a_checkpoint_gives_back_every_bit(tmp_path):
    model = METRIC.opened(build(METRIC.small().fitted(BYTES, EOT), seed=1))
    folder = save(tmp_path / "metric", model, byte_tokenizer())
    loaded, tokens = load_model(folder).eval(), tokens_of(2, 17)
    with torch.no_grad():
        assert torch.equal(logits_of(loaded, tokens), logits_of(model, tokens))


def losses(model, batch: TokenBatch, counts) -> tuple[Tensor, list[Tensor]]:
    model.zero_grad()
    total = NextTokenConfig().build()(model, batch, counts).total
    total.backward()
    return total, [p.grad.clone() for p in model.parameters()]


def test_the_loss_of_a_batch_is_that_of_its_rows_triangles_included():
    model = build(METRIC.small(vocab_size=BYTES, boundary_id=EOT))
    with torch.no_grad():
        for block in list(model.trunk)[::2]:
            mha = block.mixer.heads[1]
            q, k, _ = mha.qkv.weight.split(mha.widths)
            k.copy_(-q)  # triangles break
            mha.qkv.weight.mul_(20)
    windows = tokens_of(4, 25)
    real = torch.arange(25) < torch.tensor([25, 25, 9, 17])[:, None]
    objective = NextTokenConfig().build()
    batch = TokenBatch.of(windows, real=real, boundary_id=EOT)
    counts = objective.counts(batch)
    assert objective(model, batch, counts).terms["metric.triangle"] > 0
    whole, gradients = losses(model, batch, counts)
    parts = [
        losses(model, TokenBatch.of(windows[i : i + 2], real=real[i : i + 2], boundary_id=EOT), counts) for i in (0, 2)
    ]
    assert abs(whole - parts[0][0] - parts[1][0]) < 1e-5 * abs(whole)
    for a, b, c in zip(gradients, parts[0][1], parts[1][1], strict=True):
        assert (a - b - c).abs().max() < 1e-4 * a.abs().max() + 1e-8


@pytest.mark.parametrize("block", [0, 1])
def test_a_compiled_block_is_one_graph_and_equals_eager(block):
    model = METRIC.opened(build(METRIC.small()))
    mixer, x, tokens = (
        model.trunk[block].mixer,
        3 * torch.randn(2, 40, 48, generator=torch.Generator().manual_seed(0)),
        tokens_of(2, 40).index_fill(1, torch.tensor([11]), 7),
    )
    step = Step.of(tokens, boundary_id=7)
    step.shared["documents"] = Documents.of(step.segments)

    def loss(run) -> list[Tensor]:
        mixer.zero_grad()
        out = run(x, step)
        (out.y.square().sum() + sum(loss.mean() for loss in out.aux.values())).backward()
        return [out.y.detach(), *(p.grad.clone() for p in mixer.parameters())]

    eager = loss(mixer)
    compiled = loss(torch.compile(mixer, fullgraph=True, dynamic=False, backend="aot_eager"))
    for a, b in zip(compiled, eager, strict=True):
        assert (a - b).abs().max() <= 1e-4 * b.abs().max()


def test_under_autocast_metrics_stay_in_single_precision():
    model, tokens = METRIC.opened(build(METRIC.small())), tokens_of(2, 40)
    probe = Probe(model, {"*": capture})
    with torch.autocast("cpu", torch.bfloat16):
        out = model(tokens, options=ForwardOptions(probe=probe))
        loss = model.logits(out.hidden).float().square().mean() + out.aux["metric.triangle"].mean()
    loss.backward()
    seen = {name.removeprefix("trunk.0.mixer"): x[0] for name, x in probe.seen.items()}
    for tap in (":weights", ".heads.1:penalty", ".heads.1:energy", ".heads.1:excess"):
        assert seen[tap].dtype == torch.float32, tap
    assert seen[".heads.1:heads"].dtype == torch.bfloat16
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@torch.no_grad()
def test_what_a_hyper_ffn_remembers_is_four_vectors():
    model = build(METRIC.small())
    state = model(tokens_of(1, 9), model.init_state(1)).state
    fixed = n_bytes(state.layers[1::2])
    assert fixed == 2 * 4 * 48 * 4


def test_weight_decay_falls_on_matrices_and_on_nothing_that_makes_a_metric():
    optimizers = AdamWConfig().build(build(METRIC.small()))
    decayed, free = optimizers.parts["adamw"].param_groups
    assert decayed["weight_decay"] > 0 == free["weight_decay"]
    free = {optimizers.names[p].rpartition(".")[2] for p in free["params"]}
    assert {"log_alpha", "log_m", "origin", "radius", "sink", "bend", "level", "waves", "surprise", "gates"} <= free
    assert {"now", "past", "bias", "g", "scale"} <= free
    assert {optimizers.names[p].rpartition(".")[2] for p in decayed["params"]} == {"weight"}


def test_a_kept_conversation_goes_on_in_another_process_as_in_this(tmp_path):
    tokens, model = byte_tokenizer(), METRIC.speaking()

    def ask(prompt: str, state=None):
        return list(generate(model, tokens, prompt, max_new_tokens=70, temperature=0.8, state=state))[-1].result

    said = ask("The lamp is lit").state
    kept = save_conversation(tmp_path / "kept", said, model, tokens)
    loaded = load_conversation(kept, model, tokens)
    assert equal_bits(loaded.state, said.state)
    assert ask(" and", loaded).tokens == ask(" and", said).tokens
