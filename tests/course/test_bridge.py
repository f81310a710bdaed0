"""A model of the course, its weights carried over into `positronic`, is the same function with the same gradients."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from positronic.mixers import attention
from positronic.mixers.attention import AttentionConfig
from positronic.mixers.swiglu import SwiGLUConfig
from positronic.models.language_model import LanguageModel
from positronic.models.transformer import TransformerConfig
from positronic_course.ch02_embeddings import rotation
from positronic_course.ch07_loss import ModelConfig, forward, loss_and_gradients
from positronic_course.ch08_initialisation import initialise, n_parameters
from positronic_course.checking import relative_error

CONFIGS = {
    "the default": ModelConfig(vocab_size=61),
    "one head": ModelConfig(vocab_size=61, d_model=24, n_heads=1, n_layers=1, d_hidden=40, context=16),
    "narrow heads": ModelConfig(vocab_size=300, d_model=32, n_heads=16, n_layers=3, d_hidden=20, context=24),
}


def config_in_positronic(config: ModelConfig) -> TransformerConfig:
    K = config.d_model // config.n_heads
    return TransformerConfig(
        vocab_size=config.vocab_size,
        d_model=config.d_model,
        context=config.context,
        max_positions=config.context,
        n_layers=config.n_layers,
        attention=AttentionConfig(
            n_heads=config.n_heads, n_kv_heads=config.n_heads, head_dim=K, rank=None, rope_dims=K, qk_norm=False
        ),
        channel=SwiGLUConfig(hidden=config.d_hidden),
    )


def names_in_positronic(p: dict[str, np.ndarray], n_layers: int) -> dict[str, np.ndarray]:
    """The course's arrays, parameters or gradients, by the names and in the shapes of `LanguageModel`."""
    arrays = {"embed.weight": p["embedding"], "head.norm.weight": p["final.gain"]}
    for layer in range(n_layers):
        mine = f"blocks.{layer}."
        mixer, channel = f"trunk.{2 * layer}.mixer.", f"trunk.{2 * layer + 1}.mixer."
        qkv = [p[f"{mine}attention.{name}"] for name in ("query", "key", "value")]
        arrays |= {
            mixer + "norm.weight": p[mine + "attention_norm.gain"],
            mixer + "qkv.weight": np.concatenate(qkv, axis=1).T,
            mixer + "out.weight": p[mine + "attention.out"].T,
            channel + "norm.weight": p[mine + "feed_norm.gain"],
            **{channel + f"{name}.weight": p[f"{mine}feed.{name}"].T for name in ("gate", "up", "down")},
        }
    return arrays


@pytest.fixture
def wide(monkeypatch):
    """Norms and rotations of `positronic` widen to float32 and no further: for a comparison in float64, to float64."""

    def rotation_in_float64(positions, rope_dims, base, stretch):
        assert stretch is None
        assert len(positions) == 1 or (positions == positions[0]).all()
        cos, sin = rotation(positions[0].numpy(), rope_dims, base, np.float64)
        cos, sin = np.concatenate([cos, cos], -1), np.concatenate([-sin, sin], -1)  # both dimensions of each pair
        return torch.from_numpy(cos)[None, None], torch.from_numpy(sin)[None, None]

    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    monkeypatch.setattr(attention, "rotation", rotation_in_float64)


def compare(config: ModelConfig, dtype: type, tolerance: float) -> None:
    rng = np.random.default_rng(3)
    parameters = {
        name: (value + rng.normal(scale=0.1, size=value.shape)).astype(dtype)
        for name, value in initialise(config, 0, dtype).items()
    }
    rows = rng.integers(0, config.vocab_size, size=(2, config.context + 1))
    ids, targets = rows[:, :-1], rows[:, 1:]

    theirs = LanguageModel(config_in_positronic(config)).to(torch.from_numpy(parameters["embedding"]).dtype)
    carried = {name: torch.tensor(v) for name, v in names_in_positronic(parameters, config.n_layers).items()}
    assert sum(v.numel() for v in carried.values()) == n_parameters(parameters)
    carried["head.scale"] = theirs.head.scale.detach()
    theirs.load_state_dict(carried)
    logits = theirs.logits(theirs(torch.from_numpy(ids.copy())).hidden)
    loss = F.cross_entropy(logits.flatten(0, 1), torch.from_numpy(targets.ravel().copy()))
    loss.backward()

    assert relative_error(forward(parameters, ids, config)[0], logits.detach().numpy()) < tolerance
    my_loss, gradients = loss_and_gradients(parameters, ids, targets, config)
    assert my_loss == pytest.approx(loss.item(), rel=tolerance)
    named = dict(theirs.named_parameters())
    for name, gradient in names_in_positronic(gradients, config.n_layers).items():
        assert relative_error(gradient, named[name].grad.numpy()) < tolerance, name


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_logits_and_all_gradients_are_those_of_the_transformer(wide, config):
    compare(config, np.float64, 1e-10)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_in_float32_they_agree_as_far_as_float32_goes(config):
    """Nothing is replaced here: the rotary frequencies are theirs too, computed in float32."""
    compare(config, np.float32, 5e-5)
