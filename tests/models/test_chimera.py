"""Sizes of the family: presets to the integer, operations by depth, and what experts leave idle."""

import pytest
import torch
from chimera_example import small_chimera
from torch.utils.flop_counter import FlopCounterMode

from positronic.models import build, outline, preset
from positronic.nn.loop import LoopConfig
from positronic.observe import describe
from positronic.state import ForwardOptions

PARAMETERS = {
    "chimera-tiny": (3_449_921, 3_155_009),
    "chimera-10m": (9_876_341, 9_286_517),
    "chimera-35m": (34_657_077, 29_348_661),
    "chimera-150m": (151_244_543, 116_838_143),
    "chimera-700m": (683_595_425, 587_257_505),
    "chimera-2.7b": (2_773_081_169, 2_484_067_409),
    "chimera-seed": (4_001_399_057, 2_700_837_137),
}
"""All, and those that a token meets at depth 1."""


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_preset_has_the_parameters_of_its_name(name):
    found = describe(preset(name))
    assert (found.total, found.active) == PARAMETERS[name]
    assert found.total == sum(p.numel() for p in outline(preset(name)).parameters())
    assert found.state_per_token == 0
    assert list(found.flops_by_depth) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("name", "control"), [("chimera-35m", "control-35m"), ("chimera-tiny", "control-chimera-tiny")]
)
def test_a_control_has_parameters_within_a_hundredth(name, control):
    assert describe(preset(control)).total == pytest.approx(PARAMETERS[name][0], rel=0.01)


@pytest.mark.parametrize("looping", [LoopConfig(most=4), LoopConfig(usual=3, memory="per_iteration")])
def test_operations_by_depth_are_those_of_a_whole_call(looping):
    config = small_chimera(n_layers=6, prelude=1, coda=1, looping=looping)
    model = build(config, device="meta").eval()
    for depth, flops in describe(config).flops_by_depth.items():
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            tokens = torch.zeros(1, config.context, dtype=torch.long, device="meta")
            model.logits(model(tokens, None, ForwardOptions(loops=depth)).hidden)
        assert flops == counter.get_total_flops() // config.context


def test_matrices_of_the_published_preset_start_at_their_own_size():
    narrow, usual = (build(small_chimera(init_std=std), seed=1) for std in (0.006, 0.02))
    ours, theirs = narrow.trunk[0].mixer, usual.trunk[0].mixer
    assert torch.allclose(ours.kv.weight / 0.3, theirs.kv.weight)
    assert torch.equal(ours.a_log, theirs.a_log)
