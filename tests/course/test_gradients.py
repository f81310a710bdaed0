"""Every gradient of the course, three ways: finite differences, autograd, and a planted mistake that must be seen."""

import ast
import importlib
import inspect
import json
from collections.abc import Iterator
from types import ModuleType

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from positronic.kernels.kuramoto import RingField, integrate_reference
from positronic_course import CHAPTERS
from positronic_course.checking import check_gradients, named, numeric_gradient, relative_error
from positronic_course.scripts import gradient_check
from positronic_course.scripts.gradient_check import TINY, TOLERANCE, Case, D, H, cases

CASES = cases()
IDS = [f"{case.chapter} {case.operation}" for case in CASES]


# The same operations, as PyTorch has them.


def turned(x, cos, sin):
    """Pairs (i, i + K/2) as complex numbers, times exp(i angle)."""
    a, b = x.chunk(2, dim=-1)
    y = torch.complex(a, b) * torch.complex(cos, sin)
    return torch.cat([y.real, y.imag], dim=-1)


def attention(q, k, v):
    T, S = q.shape[-2], k.shape[-2]
    allowed = torch.arange(S) <= torch.arange(S - T, S)[:, None]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)


def multi_head(x, n_heads, turn, past=None, **p):
    q, k, v = ((x @ p[name]).unflatten(-1, (n_heads, -1)).transpose(1, 2) for name in ("query", "key", "value"))
    if turn is not None:
        q, k = turned(q, *turn), turned(k, *turn)
    if past is not None:
        k, v = torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)
    return attention(q, k, v).transpose(1, 2).flatten(2) @ p["out"]


def activate(x, name):
    return {"relu": F.relu, "swish": F.silu, "gelu": lambda x: F.gelu(x, approximate="tanh")}[name](x)


def feed_forward(x, activation, **p):
    if "gate" in p:
        return (activate(x @ p["gate"], activation) * (x @ p["up"])) @ p["down"]
    return activate(x @ p["up"], activation) @ p["down"]


def norm(x, gain, bias=None):
    if bias is None:
        return F.rms_norm(x, gain.shape, gain, 1e-6)
    return F.layer_norm(x, gain.shape, gain, bias, 1e-5)


def below(p, prefix):
    return {name.removeprefix(prefix): value for name, value in p.items() if name.startswith(prefix)}


def block(x, config, turn, **p):
    x = x + multi_head(norm(x, **below(p, "attention_norm.")), config.n_heads, turn, **below(p, "attention."))
    return x + feed_forward(norm(x, **below(p, "feed_norm.")), config.activation, **below(p, "feed."))


def model(ids, config, **p):
    x, T, D = F.embedding(ids, p["embedding"]), ids.shape[1], config.d_model
    turn = None
    if config.positions == "learned":
        x = x + p["positions"][:T]
    else:
        K = D if config.positions == "sinusoidal" else D // config.n_heads
        theta = torch.arange(T).double()[:, None] * 10_000.0 ** (-torch.arange(0, K, 2).double() / K)
        turn = theta.cos(), theta.sin()
    if config.positions == "sinusoidal":
        x, turn = x + torch.cat([theta.sin(), theta.cos()], dim=-1), None
    for layer in range(config.n_layers):
        x = block(x, config, turn, **below(p, f"blocks.{layer}."))
    return norm(x, **below(p, "final.")) @ p["embedding"].T


def integrate(theta, omega, coupling, lag, steps=4, dt=0.5):
    """The main package's definition, pair by pair, without the centre that the course leaves out."""
    R, n = theta.shape[-2:]
    none = torch.zeros((), dtype=theta.dtype)
    field = RingField(coupling, lag, none.expand(R), none, none)
    end = integrate_reference(theta.flatten(-2), omega.flatten(-2), None, field, (n,) * R, steps, dt)
    return end.view(theta.shape)


def oscillators(x, bank, coupling, lag, out):
    theta, a = (half.unflatten(-1, (len(lag), -1)) for half in (x @ bank).chunk(2, dim=-1))
    end = integrate(theta, a.tanh(), coupling, lag).flatten(-2)
    return torch.cat([end.cos(), end.sin()], dim=-1) @ out


def oscillator_block(x, turn, **p):
    x = x + multi_head(norm(x, **below(p, "attention_norm.")), H, turn, **below(p, "attention."))
    return x + oscillators(norm(x, **below(p, "feed_norm.")), **below(p, "feed."))


def cross_entropy(logits, targets, weights):
    losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    return losses.mean() if weights is None else (losses * weights.flatten()).sum() / weights.sum()


def pool(x, weights):
    return (x * weights[..., None]).sum(1) / weights.sum(1, keepdim=True)


def final(ids, **p):
    """The model's vectors before its head: as many as there are columns, read with an identity in place of E."""
    x, theta = F.embedding(ids, p["embedding"]), torch.arange(ids.shape[1]).double()[:, None]
    theta = theta * 10_000.0 ** (-torch.arange(0, D // H, 2).double() / (D // H))
    for layer in range(TINY.n_layers):
        x = block(x, TINY, (theta.cos(), theta.sin()), **below(p, f"blocks.{layer}."))
    return norm(x, **below(p, "final."))


def classify(ids, weights, **p):
    return F.linear(pool(final(ids, **p), weights), p["class.w"].T, p["class.bias"])


def answer_loss(logits, targets, weights):
    losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(weights.shape)
    return ((losses * weights).sum(1) / weights.sum(1)).mean()


def log_probability(logits, targets, weights):
    return (logits.log_softmax(-1).gather(-1, targets[..., None])[..., 0] * weights).sum(1)


def preference(chosen, rejected, reference, beta):
    return -F.logsigmoid(beta * (chosen - rejected - (reference[0] - reference[1]))).mean()


def low_rank(x, shrink, grow, w, scale):
    return F.linear(x, (w + scale * shrink @ grow).T)


def adapted(ids, model, scale, **own):
    changed = {
        name: value + scale * own[f"{name}.shrink"] @ own[f"{name}.grow"] if f"{name}.grow" in own else value
        for name, value in model.items()
    }
    return final(ids, **changed) @ model["embedding"].T


IN_TORCH = {
    "pool": pool,
    "classify": classify,
    "answer_loss": answer_loss,
    "log_probability": log_probability,
    "preference": preference,
    "low_rank": low_rank,
    "adapted": adapted,
    "embed": lambda table, ids: F.embedding(ids, table),
    "learned_positions": lambda x, table, start: x + table[start : start + x.shape[1]],
    "rotate": turned,
    "linear": lambda x, w, bias: F.linear(x, w.T, bias),
    "layer_norm": norm,
    "rms_norm": norm,
    "relu": lambda x: activate(x, "relu"),
    "gelu": lambda x: activate(x, "gelu"),
    "swish": lambda x: activate(x, "swish"),
    "softmax": lambda z: z.softmax(-1),
    "attention": attention,
    "multi_head": multi_head,
    "feed_forward": feed_forward,
    "block": block,
    "cross_entropy": cross_entropy,
    "model": model,
    "integrate": integrate,
    "oscillators": oscillators,
    "oscillator_block": oscillator_block,
}
"""By the operation's name up to the first comma."""


def as_torch(value):
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    if isinstance(value, dict):
        return {name: as_torch(inside) for name, inside in value.items()}
    return tuple(map(as_torch, value)) if isinstance(value, tuple) else value


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_every_gradient_is_the_slope_that_finite_differences_measure(case):
    errors = case.errors()
    assert errors.keys() == case.inputs.keys()
    assert max(errors.values()) < TOLERANCE, errors


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_every_result_and_gradient_is_what_autograd_finds(case):
    y, saved = case.f(**case.inputs, **case.constants)
    r = np.random.default_rng(1).normal(size=y.shape)
    gradients = named(case.f_backward(r, saved), case.inputs)
    leaves = {name: as_torch(value).requires_grad_() for name, value in case.inputs.items()}
    constants = {name: as_torch(value) for name, value in case.constants.items()}
    expected = IN_TORCH[case.operation.split(",")[0]](**leaves, **constants)
    assert relative_error(np.asarray(y), expected.detach().numpy()) < TOLERANCE
    expected.backward(torch.as_tensor(r))
    for name, leaf in leaves.items():
        assert relative_error(gradients[name], leaf.grad.numpy()) < TOLERANCE, name


# float64 stays away.


def cast(value, dtype):
    if isinstance(value, np.ndarray) and value.dtype.kind == "f":
        return value.astype(dtype)
    if isinstance(value, dict):
        return {name: cast(inside, dtype) for name, inside in value.items()}
    return tuple(cast(inside, dtype) for inside in value) if isinstance(value, tuple) else value


def floats(value) -> Iterator[np.dtype]:
    """The dtypes of all floating-point arrays and scalars inside."""
    if isinstance(value, (np.ndarray, np.generic)):
        if value.dtype.kind == "f":
            yield value.dtype
    elif isinstance(value, (tuple, list)):
        for inside in value:
            yield from floats(inside)
    elif isinstance(value, dict):
        yield from floats(list(value.values()))


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_float32_goes_in_and_nothing_else_comes_out(case):
    y, saved = case.f(**cast(case.inputs, np.float32), **cast(case.constants, np.float32))
    gradients = case.f_backward(np.ones_like(y), saved)
    found = list(floats([y, saved, gradients]))
    assert found
    assert set(found) == {np.dtype(np.float32)}


# A mistake is seen.

MISTAKES = [
    ("ch02_embeddings", "rotate_backward", "-sin", "sin"),
    ("ch02_embeddings", "embed_backward", "dx.shape[-1])[order]", "dx.shape[-1])"),
    ("ch02_embeddings", "learned_positions_backward", "dtable[start : start + dy.shape[1]]", "dtable[: dy.shape[1]]"),
    ("ch03_linear_and_norms", "linear_backward", "dy_flat.sum(axis=0)", "dy_flat.mean(axis=0)"),
    ("ch03_linear_and_norms", "layer_norm_backward", "dx -= mean", "dx += mean"),
    ("ch03_linear_and_norms", "layer_norm_backward", "dx -= h * along", "pass"),
    ("ch03_linear_and_norms", "rms_norm_backward", "dx -= h *", "dx += h *"),
    ("ch04_activations", "relu_backward", "(y > 0)", "(y >= 0)"),
    ("ch04_activations", "gelu_backward", "1 - tanh * tanh", "1 + tanh * tanh"),
    ("ch04_activations", "gelu_backward", "3 * 0.044715", "0.044715"),
    ("ch04_activations", "swish_backward", "slope = 1 - c", "slope = 1 + c"),
    ("ch05_attention", "softmax_backward", "dz = dp -", "dz = dp +"),
    ("ch05_attention", "attention_backward", "dz *= q.shape[-1] ** -0.5", "pass"),
    ("ch05_attention", "attention_backward", "dz.swapaxes(-1, -2) @ q, dv", "-dz.swapaxes(-1, -2) @ q, dv"),
    ("ch05_attention", "multi_head_backward", "dx += dx_v", "dx -= dx_v"),
    ("ch05_attention", "multi_head_backward", '"key": dkey, "value": dvalue', '"key": dvalue, "value": dkey'),
    ("ch06_block", "feed_forward_backward", "dhidden *= acted", "dhidden *= up"),
    ("ch06_block", "feed_forward_backward", "dx += dx_gate", "pass"),
    ("ch06_block", "block_backward", "dread += dy", "dread -= dy"),
    ("ch06_block", "block_backward", "dx += dread", "pass"),
    ("ch07_loss", "cross_entropy_backward", "dlogits[at] -= share", "dlogits[at] += share"),
    ("ch07_loss", "cross_entropy_backward", "p * share[:, None]", "p / len(p)"),
    ("ch07_loss", "backward", 'gradients["embedding"] += dlogits', 'gradients["embedding"] -= dlogits'),
    ("ch07_loss", "trunk_backward", "dx, inside = block_backward", "_, inside = block_backward"),
    ("ch13_oscillators", "integrate_backward", "-dt * (dtheta * sin)", "dt * (dtheta * sin)"),
    ("ch13_oscillators", "integrate_backward", "dPx * Py - dPy * Px", "dPx * Py + dPy * Px"),
    ("ch13_oscillators", "integrate_backward", "sin(lag) * dPx + np.cos", "sin(lag) * dPx - np.cos"),
    ("ch13_oscillators", "integrate_backward", "dGx @ coupling", "dGx @ coupling.T"),
    ("ch13_oscillators", "integrate_backward", "domega += dt * dtheta", "domega += dtheta"),
    ("ch13_oscillators", "integrate_backward", "dtheta - through_own_pull", "dtheta + through_own_pull"),
    ("ch13_oscillators", "integrate_backward", "* sin) / n", "* sin)"),
    ("ch13_oscillators", "integrate_backward", "reversed(before)", "before"),
    ("ch13_oscillators", "oscillators_backward", "dsin * cos - dcos * sin", "dcos * sin - dsin * cos"),
    ("ch13_oscillators", "oscillators_backward", "1 - omega * omega", "1 + omega * omega"),
    ("ch13_oscillators", "block_backward", "dread += dy", "pass"),
    ("ch15_classification", "pool_backward", "share[:, :, None] * dpooled", "dpooled"),
    ("ch15_classification", "classify_backward", '"class.w": dw', '"class.w": -dw'),
    ("ch17_preference", "log_probability_backward", "-p * share", "p * share"),
    ("ch17_preference", "log_probability_backward", "weights * dy[:, None]", "weights"),
    ("ch17_preference", "preference_backward", "sigmoid(-margin)", "sigmoid(margin)"),
    ("ch17_preference", "preference_backward", " / len(margin)", ""),
    ("ch18_low_rank", "low_rank_backward", "dc = scale * (dy @ grow.T)", "dc = dy @ grow.T"),
    ("ch18_low_rank", "low_rank_backward", "dgrow = scale * (", "dgrow = ("),
    ("ch18_low_rank", "low_rank_backward", " + dc @ shrink.T", ""),
    ("ch18_low_rank", "projected", '{matrix}.shrink"].T @ dw', '{matrix}.shrink"].T @ -dw'),
]
"""Chapter, function, part of a line, and what a tired hand might have written: signs, forgotten terms, mix-ups."""


def is_caught(monkeypatch: pytest.MonkeyPatch, module: ModuleType, function: str, mistaken: ast.AST) -> bool:
    """Whether the check of the chapter sees that the function has been replaced."""
    names = dict(vars(module))
    exec(compile(mistaken, module.__name__, "exec"), names)
    with monkeypatch.context() as patch:
        patch.setattr(module, function, names[function])
        chapter = module.__name__.removeprefix("positronic_course.")
        try:
            return any(max(case.errors().values()) > TOLERANCE for case in cases() if chapter.startswith(case.chapter))
        except (ValueError, IndexError):  # shapes that no longer fit
            return True


@pytest.mark.parametrize(("chapter", "function", "right", "wrong"), MISTAKES)
def test_a_planted_mistake_is_caught(monkeypatch, chapter, function, right, wrong):
    module = importlib.import_module(f"positronic_course.{chapter}")
    source = inspect.getsource(getattr(module, function))
    assert source.count(right) == 1, f"{function} no longer says {right!r} once; plant the mistake elsewhere"
    assert is_caught(monkeypatch, module, function, ast.parse(source.replace(right, wrong)))


BACKWARDS = [
    (module, name)
    for module in (
        importlib.import_module(f"positronic_course.{chapter}")
        for chapter in [*list(CHAPTERS)[1:7], "ch13_oscillators", *list(CHAPTERS)[14:]]
    )
    for name, value in vars(module).items()
    if name.endswith("backward") and getattr(value, "__module__", "") == module.__name__
]


def signs(tree: ast.AST) -> list:
    """Every + and - between two numbers or before one, and every += and -=; the -1 of a last axis is none."""
    between = [node for node in ast.walk(tree) if isinstance(node, (ast.BinOp, ast.AugAssign))]
    before = [node for node in ast.walk(tree) if isinstance(node, ast.UnaryOp) and isinstance(node.operand, ast.Name)]
    return [node for node in between + before if isinstance(node.op, (ast.Add, ast.Sub, ast.USub))]


@pytest.mark.parametrize(("module", "function"), BACKWARDS, ids=[name for _, name in BACKWARDS])
def test_no_sign_in_any_backward_can_be_turned_unseen(monkeypatch, module, function):
    source = inspect.getsource(getattr(module, function))
    for number in range(len(signs(ast.parse(source)))):
        mistaken = ast.parse(source)
        sign = signs(mistaken)[number]
        sign.op = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.USub: ast.UAdd}[type(sign.op)]()
        assert is_caught(monkeypatch, module, function, mistaken), ast.unparse(sign)


# The instrument itself.


def test_a_numeric_gradient_leaves_its_array_as_it_was():
    x = np.array([[1.0, -2.0]])
    assert numeric_gradient(lambda: float((x**2).sum()), x) == pytest.approx(2 * x)
    assert x.tolist() == [[1.0, -2.0]]


def test_a_gradient_of_another_shape_or_a_missing_one_is_no_small_error():
    with pytest.raises(ValueError, match=r"shape \(2,\)"):
        relative_error(np.ones(2), np.ones((2, 1)))
    with pytest.raises(ValueError, match="no gradient for b"):
        check_gradients(lambda a, b: (a * b, None), lambda dy, saved: dy, {"a": np.ones(2), "b": np.ones(2)})


def test_the_script_prints_every_array_and_says_when_one_is_wrong(capsys, monkeypatch):
    assert gradient_check.main(["--chapter", "ch03"]) == 0
    assert "ch03  rms_norm" in capsys.readouterr().out
    good = cases()[3]
    assert good.operation == "linear"

    def forgets_the_bias(dy, saved):
        dx, dw, dbias = good.f_backward(dy, saved)
        return dx, dw, 0 * dbias

    wrong = Case(good.chapter, good.operation, good.f, forgets_the_bias, good.inputs)
    monkeypatch.setattr(gradient_check, "cases", lambda seed: [wrong])
    assert gradient_check.main(["--json"]) == 1
    records = json.loads(capsys.readouterr().out)
    assert [record["array"] for record in records if record["error"] >= TOLERANCE] == ["bias"]


def test_the_script_names_the_chapters_when_asked_for_another(capsys):
    with pytest.raises(SystemExit):
        gradient_check.main(["--chapter", "ch99"])
    assert "ch02, ch03, ch04, ch05, ch06, ch07" in capsys.readouterr().err
