"""Quantised models: tools replace linear maps, and whatever stands there is called and never read."""

import copy

import pytest
import torch
from hf_example import rows
from torch import nn
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

import positronic.adapters.hf  # noqa: F401  (registers)


class Packed(nn.Module):
    """A linear map as a quantiser leaves it: integers and scales, and nothing that is called a weight."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.scale = linear.weight.detach().abs().amax(1, keepdim=True).clamp(min=1e-8) / 127
        self.packed = (linear.weight.detach() / self.scale).round().to(torch.int8)

    @property
    def unpacked(self):
        return self.packed * self.scale

    def forward(self, x):
        return F.linear(x, self.unpacked.to(x.dtype))


def linear_maps(model):
    return {path: module for path, module in model.named_modules() if type(module) is nn.Linear}


def packed(model):
    """A copy in which every linear map is replaced."""
    made = copy.deepcopy(model)
    for path, module in linear_maps(made).items():
        made.set_submodule(path, Packed(module))
    return made


def whole_and_cached(model, tokens):
    """Logits of a whole call, and of the same tokens in two pieces and one by one."""
    with torch.no_grad():
        whole, pieces, state = model(tokens).logits, [], None
        for piece in tokens.split([11, 6, 1, 1, 1], 1):
            out = model(piece, past_key_values=state, use_cache=True)
            pieces.append(out.logits)
            state = out.past_key_values
    return whole, torch.cat(pieces, 1)


def relative(found, wanted):
    return ((found - wanted).abs().max() / wanted.abs().max()).item()


def distance(found, wanted):
    return ((found - wanted).square().mean() / wanted.square().mean()).sqrt().item()


def test_every_linear_map_is_pytorchs_own(family, theirs):
    """By exactly this class bitsandbytes and `quantize_dynamic` know what to replace."""
    assert len(linear_maps(theirs)) > 8
    assert not [
        path
        for path, module in theirs.named_modules()
        if isinstance(module, nn.Linear) and path not in linear_maps(theirs)
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_maps_say_what_their_rounded_weights_say(family, folder, dtype):
    """Whole, cached and one by one: no layer and no state looks for a weight."""
    model, tokens = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype), rows(2, 20)
    rounded = copy.deepcopy(model)
    with torch.no_grad():
        for module in linear_maps(rounded).values():
            module.weight.copy_(Packed(module).unpacked)
    found, wanted = whole_and_cached(packed(model), tokens), whole_and_cached(rounded, tokens)
    small = 1e-5 if dtype is torch.float32 else 0.05
    assert relative(found[0], wanted[0]) < small
    assert relative(found[1], wanted[1]) < small
    for kept in tensors(packed(model).lm.init_state(2)):
        assert kept.dtype in (dtype, torch.float32, torch.long, torch.bool)


def tensors(state):
    """All tensors of a state."""
    if isinstance(state, torch.Tensor):
        yield state
    elif isinstance(state, tuple | list):
        for part in state:
            yield from tensors(part)
    elif hasattr(state, "__dataclass_fields__"):
        yield from tensors([getattr(state, name) for name in state.__dataclass_fields__])


def test_packed_maps_generate_and_train_what_stands_beside_them(family, folder):
    model = packed(AutoModelForCausalLM.from_pretrained(folder))
    text = model.generate(rows(2, 7), max_new_tokens=6, do_sample=False)
    assert text.shape[1] > 7
    model.train()(rows(2, 20), labels=rows(2, 20)).loss.backward()
    assert model.lm.embed.weight.grad.any()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_dynamic_quantisation_of_pytorch_replaces_every_map(family, folder):
    quantised = pytest.importorskip("torch.ao.nn.quantized.dynamic")
    plain, tokens = AutoModelForCausalLM.from_pretrained(folder), rows(2, 20)
    n = len(linear_maps(plain))
    model = torch.ao.quantization.quantize_dynamic(plain, {nn.Linear}, dtype=torch.qint8)
    assert sum(isinstance(module, quantised.Linear) for module in model.modules()) == n
    whole, cached = whole_and_cached(model, tokens)
    assert distance(whole, plain(tokens).logits) < 0.3  # activations are rounded too, a call at a time
    assert distance(cached, whole) < 0.3
    assert model.generate(rows(1, 7), max_new_tokens=6, do_sample=False).shape[1] > 7


@pytest.mark.parametrize("kind", ["Int8WeightOnlyConfig", "Int8DynamicActivationInt8WeightConfig"])
def test_torchao_through_transformers_is_heard_and_generates(family, folder, kind):
    torchao = pytest.importorskip("torchao.quantization")
    from transformers import TorchAoConfig

    how = TorchAoConfig(getattr(torchao, kind)())
    model = AutoModelForCausalLM.from_pretrained(folder, quantization_config=how, dtype=torch.float32)
    converted = [module for module in linear_maps(model).values() if type(module.weight.data) is not torch.Tensor]
    assert len(converted) == len(linear_maps(model))
    close_and_speaking(model, folder)


@pytest.mark.parametrize("bits", [8, 4])
def test_bitsandbytes_through_transformers_is_heard_and_generates(family, folder, bits):
    bnb = pytest.importorskip("bitsandbytes")
    from transformers import BitsAndBytesConfig

    how = BitsAndBytesConfig(load_in_8bit=bits == 8, load_in_4bit=bits == 4)
    plain = AutoModelForCausalLM.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, quantization_config=how, dtype=torch.float32)
    kind = bnb.nn.Linear8bitLt if bits == 8 else bnb.nn.Linear4bit
    assert sum(isinstance(module, kind) for module in model.modules()) == len(linear_maps(plain))
    close_and_speaking(model, folder)


def close_and_speaking(model, folder):
    plain, tokens = AutoModelForCausalLM.from_pretrained(folder), rows(2, 20)
    whole, cached = whole_and_cached(model, tokens)
    assert relative(whole, plain(tokens).logits) < 0.5
    assert relative(cached, whole) < 0.2
    assert model.generate(rows(1, 7), max_new_tokens=6, do_sample=False).shape[1] > 7
