"""Devices and precisions: what is not there is refused in one clear sentence."""

import pytest
import torch
from torch import nn
from train_example import small_config, trainer

from positronic.errors import ConfigError, DeviceError
from positronic.models import build
from positronic.train import device as module
from positronic.train import pick_device
from positronic.train.device import compile_blocks, recompute_blocks


def test_the_cpu_computes_in_float32_unless_asked():
    assert not pick_device("cpu").bfloat16
    assert pick_device("cpu").describe()["threads"] == torch.get_num_threads()


@pytest.mark.parametrize("name", ["cuda", "cuda:7", "mps", "tpu"])
def test_a_device_that_is_not_there_is_refused(monkeypatch, name):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(DeviceError, match=rf"--device {name} .*this machine has cpu"):
        pick_device(name)


@pytest.mark.parametrize("new", [True, False])
def test_mps_computes_in_bfloat16_where_its_system_has_it(monkeypatch, new):
    asked = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.mps, "is_macos_or_newer", lambda *version: asked.append(version) or new)
    place = pick_device()
    assert (place.torch_device.type, place.bfloat16) == ("mps", new)
    assert asked == [(14, 0)]
    assert not pick_device("mps", "float32").bfloat16
    if not new:
        with pytest.raises(DeviceError, match="mps device has no bfloat16"):
            pick_device("mps", "bfloat16")


def test_emulated_bfloat16_is_refused(monkeypatch):
    monkeypatch.setattr(module, "_cpu_supports", lambda feature: False)
    with pytest.raises(DeviceError, match="--precision float32"):
        pick_device("cpu", "bfloat16")


def test_native_bfloat16_is_used_when_asked(monkeypatch):
    monkeypatch.setattr(module, "_cpu_supports", lambda feature: True)
    place = pick_device("cpu", "bfloat16")
    with place.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16


def test_unknown_precisions_are_refused():
    with pytest.raises(ConfigError, match="float16"):
        pick_device("cpu", "float16")


def test_a_model_without_blocks_cannot_be_compiled_by_block():
    with pytest.raises(ConfigError, match="trunk"):
        compile_blocks(nn.Linear(2, 2))
    model = build(small_config())
    recompute_blocks(model)
    assert model.trunk.recompute


@pytest.mark.slow
@pytest.mark.parametrize("blocks_at_once", [12, 1])
def test_a_compiled_trunk_keeps_its_names_and_computes_the_same(monkeypatch, blocks_at_once):
    monkeypatch.setattr(module, "WHOLE_BLOCKS", blocks_at_once)
    plain, _ = trainer(steps=4)
    plain.run()
    model = build(small_config(), seed=1)
    names = list(model.state_dict())
    compile_blocks(model)
    compiled, _ = trainer(steps=4, model=model)
    compiled.run()
    assert list(model.state_dict()) == names
    for name, values in plain.model.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], values, rtol=1e-4, atol=1e-6, msg=name)
