"""PEFT's tuners on every family: each is heard wherever it stands, or refused in a sentence.

A layer that read a matrix past what PEFT put beside it would say one thing before merging and another after.
"""

import copy

import pytest
import torch
from hf_example import rows
from torch import nn
from torch.nn import functional as F

pytest.importorskip("peft")

import peft
from transformers import AutoModelForCausalLM

import positronic.adapters.hf  # noqa: F401  (registers)
from positronic.errors import ConfigError, GenerationError
from positronic.nn.linear import Matrices
from positronic.nn.stack import SharedParts

ALL = {"target_modules": "all-linear", "task_type": "CAUSAL_LM"}
TUNERS = {
    "lora": lambda: peft.LoraConfig(r=4, **ALL),
    "gaussian": lambda: peft.LoraConfig(r=4, init_lora_weights="gaussian", **ALL),
    "loud": lambda: peft.LoraConfig(r=4, init_lora_weights=False, **ALL),
    "rslora": lambda: peft.LoraConfig(r=4, use_rslora=True, **ALL),
    "dora": lambda: peft.LoraConfig(r=4, use_dora=True, **ALL),
    "pissa": lambda: peft.LoraConfig(r=4, init_lora_weights="pissa", **ALL),
    "olora": lambda: peft.LoraConfig(r=4, init_lora_weights="olora", **ALL),
    "adalora": lambda: peft.AdaLoraConfig(init_r=6, target_r=4, total_step=10, **ALL),
    "ia3": lambda: peft.IA3Config(feedforward_modules=[], **ALL),
    "loha": lambda: peft.LoHaConfig(r=4, **ALL),
    "lokr": lambda: peft.LoKrConfig(r=4, **ALL),
    "vera": lambda: peft.VeraConfig(r=4, **ALL),
    "hra": lambda: peft.HRAConfig(r=4, **ALL),
    "fourierft": lambda: peft.FourierFTConfig(n_frequency=20, **ALL),
    "norms": lambda: peft.LNTuningConfig(target_modules=r".*norm", task_type="CAUSAL_LM"),
}
SILENT = set(TUNERS) - {"loud", "fourierft"}
"""What begins as the model itself, up to rounding."""


def tuned(folder, config):
    return peft.get_peft_model(AutoModelForCausalLM.from_pretrained(folder), config)


@pytest.fixture
def down(theirs):
    """Linear maps that every family has; in experts the name is that of matrices which PEFT does not know."""
    return [path for path, module in theirs.named_modules() if path.endswith(".down") and type(module) is nn.Linear]


def learned(model):
    """The model after its trainable parameters were moved a little, each by its own noise."""
    with torch.no_grad():
        for i, p in enumerate(p for p in model.parameters() if p.requires_grad):
            noise = torch.randn(p.shape, generator=torch.Generator().manual_seed(i))
            p.add_(noise * 0.1 * p.std().nan_to_num().clamp(min=0.3))
    return model


def relative(found, wanted):
    return ((found - wanted).abs().max() / wanted.abs().max()).item()


@pytest.mark.parametrize("tuner", list(TUNERS))
def test_a_tuner_is_heard_alike_before_and_after_merging(family, folder, theirs, tuner, tmp_path):
    tokens = rows(2, 40)
    model = tuned(folder, TUNERS[tuner]())
    with torch.no_grad():
        if tuner in SILENT:
            assert relative(model.eval()(tokens).logits, theirs(tokens).logits) < 1e-3
        model = learned(model)
        before = model(tokens).logits
        assert relative(before, theirs(tokens).logits) > 1e-3
        cached = model.base_model.model(tokens[:, :25])
        rest = model.base_model.model(tokens[:, 25:], past_key_values=cached.past_key_values)
        assert relative(torch.cat([cached.logits, rest.logits], 1), before) < 1e-4
        model.save_pretrained(str(tmp_path))
        merged = model.merge_and_unload()
        assert relative(merged(tokens).logits, before) < 1e-3
        if tuner not in {"pissa", "olora"}:  # which change the base they stand on
            again = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder), tmp_path)
            assert relative(again.eval()(tokens).logits, before) < 1e-5


@pytest.mark.parametrize("tuner", list(TUNERS))
def test_every_part_of_a_tuner_learns(family, folder, tuner):
    """By the loss that Transformers trains with, heads that only draft included."""
    model = learned(tuned(folder, TUNERS[tuner]())).train()
    tokens = rows(2, 40)
    loss = model(tokens, labels=tokens).loss
    loss.backward()
    unheard = [name for name, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert not unheard, unheard[:3]


@pytest.mark.parametrize("name", ["router", "decoders", "choose", "norm", "inject", "out", "up"])
def test_a_module_trained_whole_is_the_one_that_is_heard(family, folder, theirs, down, name):
    """What `modules_to_save` copies takes part, whichever part of a family it is."""
    named = [module for path, module in theirs.named_modules() if path.endswith(f".{name}")]
    if not named or any(isinstance(module, nn.ModuleList) for module in named):
        pytest.skip(f"{family} has no {name}, or a list, which PEFT does not copy")
    config = peft.LoraConfig(r=4, target_modules=down, modules_to_save=[f".{name}"], task_type="CAUSAL_LM")
    model, tokens = learned(tuned(folder, config)).train(), rows(2, 40)
    model(tokens, labels=tokens).loss.backward()
    saved = {path: p for path, p in model.named_parameters() if "modules_to_save" in path}
    assert saved
    assert all(p.grad is not None and p.grad.any() for p in saved.values())
    with torch.no_grad():
        before = model.eval()(tokens).logits
        assert relative(model.merge_and_unload()(tokens).logits, before) < 1e-4


EMBEDDING = {
    "whole": {"modules_to_save": ["embed"]},
    "whole, by its path": {"modules_to_save": ["model.embed"]},
    "rows": {"trainable_token_indices": [72, 101, 260]},
    "rows, by name": {"trainable_token_indices": {"embed": [72, 101, 260]}},
}


@pytest.mark.parametrize("way", list(EMBEDDING))
def test_both_sides_of_the_embedding_stay_one_matrix(family, folder, theirs, down, way, tmp_path):
    """Where tokens are read, where they are said, and where a trainer multiplies by the head's weight itself."""
    tokens, asked = rows(2, 40).index_fill(1, torch.tensor([3, 7]), 72), EMBEDDING[way]
    config = peft.LoraConfig(r=4, target_modules=down, task_type="CAUSAL_LM", **asked)
    model = learned(tuned(folder, config))
    core = model.base_model.model
    with torch.no_grad():
        logits = model(tokens).logits
        assert relative(logits, theirs(tokens).logits) > 1e-3
        hidden = core.base_model(tokens).last_hidden_state
        assert relative(F.linear(hidden, model.get_output_embeddings().weight), logits) < 1e-5
        changed = (core.get_output_embeddings().weight != theirs.get_output_embeddings().weight).any(1)
        assert changed.nonzero()[:, 0].tolist() == [72, 101, 260] if "rows" in way else changed.all()
        model.save_pretrained(str(tmp_path))
        again = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder), tmp_path)
        assert relative(again.eval()(tokens).logits, logits) < 1e-5
        with model.disable_adapter():
            assert relative(model(tokens).logits, theirs(tokens).logits) < 1e-6
        twin = copy.deepcopy(core)
        twin.get_input_embeddings().weight.mul_(1.0)
        assert relative(twin(tokens).logits, logits) < 1e-6
        merged = model.merge_and_unload()
        assert relative(merged(tokens).logits, logits) < 1e-4
        assert merged.get_output_embeddings().weight is merged.get_input_embeddings().weight


@pytest.mark.parametrize(
    "asked",
    [
        lambda down: peft.LoraConfig(r=4, target_modules=["embed"], task_type="CAUSAL_LM"),
        lambda down: peft.LoraConfig(r=4, target_modules=[*down, "embed"], task_type="CAUSAL_LM"),
        lambda down: peft.TrainableTokensConfig(target_modules=["embed"], token_indices=[1, 2]),
        lambda down: peft.LoraConfig(r=4, target_modules=down, modules_to_save=["lm_head"], task_type="CAUSAL_LM"),
        lambda down: peft.LoraConfig(
            r=4, target_modules=down, trainable_token_indices={"lm_head": [1]}, task_type="CAUSAL_LM"
        ),
    ],
    ids=["lora", "lora beside another", "rows of one side", "head", "rows of the head"],
)
def test_one_side_of_the_embedding_alone_is_refused(family, folder, down, asked):
    tokens = rows(1, 8)
    with pytest.raises(ConfigError, match=r"modules_to_save=\['embed'\]"):
        tuned(folder, asked(down))(tokens)


@pytest.mark.parametrize("name", ["router", "decoders", "choose", "gates", "down"])
def test_a_matrix_that_is_applied_in_a_way_of_its_own_takes_no_adapter(family, folder, theirs, name):
    named = {path: module for path, module in theirs.named_modules() if path.rpartition(".")[2] == name}
    paths = [path for path, module in named.items() if type(module) is not nn.Linear]
    if not paths:
        pytest.skip(f"{family} has no {name}")
    with pytest.raises(ValueError, match="is not supported"):
        tuned(folder, peft.LoraConfig(r=4, target_modules=paths, task_type="CAUSAL_LM"))
    everywhere = tuned(folder, TUNERS["lora"]())
    assert not any(f"{path}.lora_A" in dict(everywhere.named_modules()) for path in paths)


@pytest.mark.parametrize("name", ["gate", "up", "down"])
def test_an_adapter_beside_matrices_of_experts_is_refused(theirs, folder, name):
    """PEFT puts itself beside any parameter; these are read past it."""
    paths = [path for path, module in theirs.named_modules() if path.endswith(name) and isinstance(module, Matrices)]
    if not paths:
        pytest.skip("no experts whose matrices lie on one another")
    asked = {"target_modules": [], "target_parameters": [f"{path}.weight" for path in paths]}
    with pytest.raises(ConfigError, match="Leave them out of target_parameters"):
        tuned(folder, peft.LoraConfig(r=4, task_type="CAUSAL_LM", **asked))(rows(1, 8))


VIRTUAL = {
    "prompt": peft.PromptTuningConfig,
    "p-tuning": lambda **asked: peft.PromptEncoderConfig(encoder_hidden_size=16, **asked),
    "prefix": peft.PrefixTuningConfig,
}


def with_virtual_tokens(way, theirs, folder):
    sizes = {"token_dim": theirs.config.hidden_size, "num_attention_heads": 4, "num_layers": 3}
    config = VIRTUAL[way](num_virtual_tokens=4, task_type="CAUSAL_LM", num_transformer_submodules=1, **sizes)
    return tuned(folder, config)


@pytest.mark.parametrize("way", ["prompt", "p-tuning"])
def test_virtual_tokens_learn_or_are_refused_where_organs_read_tokens(family, folder, theirs, way):
    model, tokens = with_virtual_tokens(way, theirs, folder), rows(2, 12)
    if any(isinstance(part, SharedParts) and len(part) for part in theirs.modules()):
        with pytest.raises(GenerationError, match="Give input_ids"):
            model(tokens)
        return
    model.train()(tokens, labels=tokens).loss.backward()
    learning = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert learning
    assert all(grad is not None and grad.any() for grad in learning.values())
    assert model.eval().generate(input_ids=tokens[:1], max_new_tokens=4, do_sample=False).shape[1] > 12


def test_a_prefix_of_keys_is_refused(family, folder, theirs):
    with pytest.raises(GenerationError, match="Leave it out"):
        with_virtual_tokens("prefix", theirs, folder)(rows(1, 8))
