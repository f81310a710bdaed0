"""A Chimera of four layers with every kind of mixer in its loop, as small as it goes."""

from positronic.mixers.deep_memory import DeepMemoryConfig
from positronic.mixers.experts import ExpertsConfig
from positronic.mixers.gated_delta import GatedDeltaConfig
from positronic.mixers.mlstm import MLSTMConfig
from positronic.mixers.span_knot import SpanKnotConfig
from positronic.mixers.swiglu import SwiGLUConfig
from positronic.mixers.titans import TitansConfig
from positronic.models.chimera import ChimeraConfig
from positronic.nn.loop import LoopConfig


def small_chimera(**changes) -> ChimeraConfig:
    """Chunks of the deep memory hold four tokens, so that a few tokens write."""
    delta = {"n_heads": 2, "head_dim": 16, "gate_rank": 8}
    config = ChimeraConfig(
        vocab_size=64,
        d_model=32,
        context=64,
        max_positions=256,
        boundary_id=7,
        n_layers=4,
        prelude=0,
        coda=0,
        pattern=("GD", "XM", "TM", "SK"),
        gated_delta=GatedDeltaConfig(**delta),
        mlstm=MLSTMConfig(**delta, input_bias=-3.0),
        titans=TitansConfig(n_kv_heads=1, head_dim=16, window=8, slots=4, memory=DeepMemoryConfig(chunk=4)),
        span_knot=SpanKnotConfig(**delta),
        channel=SwiGLUConfig(hidden=48, inner_norm=True),
        experts=ExpertsConfig(experts=4, hidden=16),
        experts_every=2,
        looping=LoopConfig(),
    )
    return config.replace(**changes)
