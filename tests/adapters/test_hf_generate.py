"""What may be asked of `generate` and of the pipeline: every public argument is served, or refused in words.

A text made with a cache is that without one, whatever was asked for. The tables name every setting of Transformers'
`GenerationConfig` and every argument of the two calls, so that a new one is seen.
"""

import inspect

import pytest
import torch
from hf_example import PROMPT, rows

pytest.importorskip("transformers")

from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    GenerationMixin,
    LogitsProcessorList,
    StoppingCriteriaList,
    TextGenerationPipeline,
    TextStreamer,
    WatermarkingConfig,
    pipeline,
)
from transformers.generation import MaxTimeCriteria, TemperatureLogitsWarper
from transformers.pipelines.text_generation import ReturnType

import positronic.adapters.hf  # noqa: F401  (registers)
from positronic.errors import GenerationError
from positronic.generation import generate as our_generate
from positronic.text import byte_tokenizer

SERVED = {
    "max_length": [12],
    "max_new_tokens": [5],
    "min_length": [8],
    "min_new_tokens": [3],
    "early_stopping": [(True, {"num_beams": 2})],
    "max_time": [100.0],
    "stop_strings": [["e", "q"], "zz"],
    "do_sample": [True],
    "num_beams": [3],
    "use_cache": [True],
    "cache_implementation": ["dynamic", "static"],
    "max_cache_len": [(64, {"cache_implementation": "static"})],
    "temperature": [(0.5, {"do_sample": True})],
    "top_k": [(3, {"do_sample": True})],
    "top_p": [(0.8, {"do_sample": True})],
    "min_p": [(0.1, {"do_sample": True})],
    "top_h": [(0.4, {"do_sample": True})],
    "typical_p": [(0.8, {"do_sample": True})],
    "epsilon_cutoff": [(0.01, {"do_sample": True})],
    "eta_cutoff": [(0.01, {"do_sample": True})],
    "repetition_penalty": [1.3],
    "encoder_repetition_penalty": [1.2],
    "length_penalty": [(0.5, {"num_beams": 2})],
    "no_repeat_ngram_size": [2],
    "bad_words_ids": [[[101], [32, 97]]],
    "renormalize_logits": [True],
    "forced_bos_token_id": [65],
    "forced_eos_token_id": [10],
    "remove_invalid_values": [True],
    "exponential_decay_length_penalty": [((3, 1.1), {"eos_token_id": 10})],
    "suppress_tokens": [[101, 32]],
    "begin_suppress_tokens": [[101]],
    "sequence_bias": [[[[101], -5.0]]],
    "token_healing": [True],
    "guidance_scale": [1.5],
    "watermarking_config": [WatermarkingConfig()],
    "num_return_sequences": [(2, {"do_sample": True})],
    "output_hidden_states": [(True, {"return_dict_in_generate": True})],
    "output_scores": [(True, {"return_dict_in_generate": True})],
    "output_logits": [(True, {"return_dict_in_generate": True})],
    "return_dict_in_generate": [True],
    "pad_token_id": [0],
    "bos_token_id": [256],
    "eos_token_id": [[10, 101]],
    "prefill_chunk_size": [2],
    "prompt_lookup_num_tokens": [3],
    "max_matching_ngram_size": [(1, {"prompt_lookup_num_tokens": 3})],
    "disable_compile": [True],
    "low_memory": [False],
}
"""Each with values, or a value and what it needs beside it."""
REFUSED_BY_US = {
    "cache_implementation": ["offloaded", "quantized", "paged"],
    "assistant_early_exit": [1],
}
REFUSED_BY_TRANSFORMERS = {
    "penalty_alpha": [(0.6, {"top_k": 4})],
    "dola_layers": ["low"],
    "num_beam_groups": [(2, {"num_beams": 4, "diversity_penalty": 0.5})],
    "constraints": [([], {"num_beams": 2})],
    "force_words_ids": [([[101]], {"num_beams": 2})],
    "use_mtp": [True],
}
"""They run code from a hub, or need layers of models that have them."""
ELSEWHERE = {
    "output_attentions": "test_hf",
    "is_assistant": "test_hf: set where a model drafts for another",
    "num_assistant_tokens": "test_hf: read where a model drafts for another",
    "num_assistant_tokens_schedule": "read there too",
    "assistant_confidence_threshold": "read there too",
    "assistant_ensemble_weight": "read there too",
    "assistant_lookbehind": "of an assistant with another vocabulary",
    "target_lookbehind": "of an assistant with another vocabulary",
    "speculation_type": "of assistants that are made for one model",
    "cache_config": "of caches that are refused",
    "compile_config": "of caches that can be compiled; ours says that it cannot",
    "continuous_batching_config": "of paged caches, which are refused",
    "encoder_no_repeat_ngram_size": "of encoders",
    "decoder_start_token_id": "of encoders",
    "diversity_penalty": "with num_beam_groups above",
}
PARTLY = {
    "prefill_chunk_size",
    "prompt_lookup_num_tokens",
    "max_matching_ngram_size",
    "cache_implementation",
    "max_cache_len",
}
"""They need a cache."""


def cases(table):
    for name, values in table.items():
        for value in values:
            value, beside = value if isinstance(value, tuple) and isinstance(value[-1], dict) else (value, {})
            yield pytest.param(name, value, beside, id=f"{name}={value!r:.20}")


def asked(name, value, beside, tokenizer):
    how = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, name: value} | beside
    if name == "max_length":
        how.pop("max_new_tokens")
    return how | ({"tokenizer": tokenizer} if name in ("stop_strings", "token_healing") else {})


def written(model, prompt, **how):
    torch.manual_seed(3)
    found = model.generate(prompt, **how)
    return found if isinstance(found, torch.Tensor) else found.sequences


def test_every_setting_of_transformers_is_named_here():
    known = {name for name in vars(GenerationConfig()) if not name.startswith("_")} - {"transformers_version"}
    tables = (SERVED, REFUSED_BY_US, REFUSED_BY_TRANSFORMERS, ELSEWHERE)
    assert known == {name for table in tables for name in table}


@pytest.mark.parametrize(("name", "value", "beside"), cases(SERVED))
def test_what_is_asked_for_gives_the_same_text_with_a_cache_and_without(name, value, beside, theirs, tokenizer):
    how, prompt = asked(name, value, beside, tokenizer), torch.tensor([PROMPT])
    found = written(theirs, prompt, **how)
    assert found.shape[1] > len(PROMPT)
    if name == "use_cache" or name in PARTLY:
        plain = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None}
        assert torch.equal(found, written(theirs, prompt, **plain, use_cache=False))
    else:
        assert torch.equal(found, written(theirs, prompt, **how, use_cache=False))


@pytest.mark.parametrize(("name", "value", "beside"), cases(REFUSED_BY_US))
def test_what_cannot_be_is_refused_in_words(name, value, beside, theirs, tokenizer):
    with pytest.raises(GenerationError, match=name):
        written(theirs, torch.tensor([PROMPT]), **asked(name, value, beside, tokenizer))


@pytest.mark.parametrize(("name", "value", "beside"), cases(REFUSED_BY_TRANSFORMERS))
def test_what_transformers_has_given_up_it_refuses_itself(name, value, beside, theirs, tokenizer):
    with pytest.raises((ValueError, AttributeError, NotImplementedError)):
        written(theirs, torch.tensor([PROMPT]), **asked(name, value, beside, tokenizer))


def test_the_arguments_of_the_call_itself(theirs, tokenizer, capsys):
    """Each of them, one after another; a misspelt one is refused."""
    prompt, how = torch.tensor([PROMPT]), {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None}
    plain = theirs.generate(prompt, **how)
    other = rows(1, 4)
    calls = {
        "inputs": {"inputs": prompt},
        "generation_config": {"inputs": prompt, "generation_config": GenerationConfig(**how)},
        "logits_processor": {"logits_processor": LogitsProcessorList([TemperatureLogitsWarper(0.5)])},
        "stopping_criteria": {"stopping_criteria": StoppingCriteriaList([MaxTimeCriteria(100.0)])},
        "prefix_allowed_tokens_fn": {"prefix_allowed_tokens_fn": lambda row, ids: list(range(384))},
        "synced_gpus": {"synced_gpus": False},
        "assistant_model": {"assistant_model": theirs},
        "streamer": {"streamer": TextStreamer(tokenizer)},
        "negative_prompt_ids": {"negative_prompt_ids": other, "guidance_scale": 1.0},
        "negative_prompt_attention_mask": {
            "negative_prompt_ids": other,
            "negative_prompt_attention_mask": torch.ones_like(other),
        },
        "custom_generate": {"custom_generate": None},
    }
    assert calls.keys() == inspect.signature(GenerationMixin.generate).parameters.keys() - {"self", "kwargs"}
    for name, call in calls.items():
        given = {} if "inputs" in call else {"input_ids": prompt}
        assert torch.equal(theirs.generate(**given, **(call if name == "generation_config" else how | call)), plain), (
            name
        )
    assert tokenizer.decode(plain[0, len(PROMPT) :]).strip()[:1] in capsys.readouterr().out
    with pytest.raises(ValueError, match="not_an_argument"):
        theirs.generate(prompt, not_an_argument=1, **how)
    with pytest.raises(TypeError, match="not_an_argument"):
        theirs(prompt, not_an_argument=1)


PIPELINE = {
    "return_full_text": False,
    "return_tensors": True,
    "return_text": True,
    "return_type": ReturnType.NEW_TEXT,
    "clean_up_tokenization_spaces": False,
    "prefix": "Once",
    "handle_long_generation": "hole",
    "stop_sequence": "e",
    "truncation": True,
    "max_length": 20,
    "continue_final_message": False,
    "skip_special_tokens": False,
    "tokenizer_encode_kwargs": {"padding": False},
    "tools": [{"name": "add", "parameters": {"type": "object"}}],
    "documents": [{"title": "a", "text": "b"}],
    "stop_strings": ["e"],
    "num_return_sequences": 1,
    "token_healing": True,
}


@pytest.mark.parametrize("name", PIPELINE)
def test_the_pipeline_takes_what_pipelines_take(name, theirs, tokenizer):
    speaker = pipeline("text-generation", model=theirs, tokenizer=tokenizer)
    how = {name: PIPELINE[name]} | ({} if name == "max_length" else {"max_new_tokens": 8})
    if name in ("stop_strings", "token_healing"):
        how["tokenizer"] = tokenizer
    chat = [{"role": "user", "content": "Hi"}]
    for asked_for in ("Hello", chat):
        found = speaker(asked_for, do_sample=False, **how)[0]
        assert found["generated_token_ids" if name == "return_tensors" else "generated_text"]


def test_every_argument_of_the_pipeline_is_named_here():
    known = inspect.signature(TextGenerationPipeline._sanitize_parameters).parameters.keys()
    assert known - {"self", "generate_kwargs"} <= PIPELINE.keys()


def test_a_text_ends_where_a_stop_string_does(theirs, tokenizer):
    """With the first token that completes it, which may say more."""
    prompt, how = torch.tensor([PROMPT]), {"do_sample": False, "eos_token_id": None, "max_new_tokens": 30}
    free = theirs.generate(prompt, **how)[0, len(PROMPT) :]
    stop = next(c for c in tokenizer.decode(free)[3:] if c.isascii() and c.isprintable())
    found = theirs.generate(prompt, **how, stop_strings=[stop], tokenizer=tokenizer)[0, len(PROMPT) :]
    lengths = (n for n in range(1, len(free)) if stop in tokenizer.decode(free[:n]))
    assert found.tolist() == free[: next(lengths)].tolist()


def near_the_end(theirs, left):
    held = theirs.config.max_position_embeddings
    return rows(1, held - left, seed=2)


@pytest.mark.parametrize("how", [{}, {"use_cache": False}, {"prompt_lookup_num_tokens": 4}, {"num_beams": 2}])
@pytest.mark.parametrize("limit", [{"max_new_tokens": 50}, {"max_length": 5000}])
def test_a_text_ends_with_the_models_last_position(how, limit, folder):
    """What was written is there; nothing is raised."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    prompt = near_the_end(model, 6)
    found = model.generate(prompt, do_sample=False, eos_token_id=None, **limit, **how)
    assert found.shape[1] == model.config.max_position_embeddings
    few = model.generate(prompt, do_sample=False, eos_token_id=None, max_new_tokens=6, **how)
    assert torch.equal(found, few)


def test_a_length_that_the_model_holds_is_kept_near_its_end(theirs):
    prompt = near_the_end(theirs, 9)
    longest = theirs.config.max_position_embeddings - 4
    assert theirs.generate(prompt, do_sample=False, eos_token_id=None, max_length=longest).shape[1] == longest


def test_the_end_counts_tokens_and_no_padding(theirs):
    prompt = near_the_end(theirs, 6)
    padded = torch.cat([prompt.new_zeros(1, 9), prompt], 1)
    mask = torch.cat([prompt.new_zeros(1, 9), torch.ones_like(prompt)], 1)
    how = {"do_sample": False, "eos_token_id": None, "max_new_tokens": 50}
    alone, found = theirs.generate(prompt, **how), theirs.generate(padded, attention_mask=mask, **how)
    assert torch.equal(found[:, 9:], alone)


def test_our_own_decoder_ends_there_and_says_so(ours):
    tokenizer, held = byte_tokenizer(), ours.config.max_positions
    for left in (5, 1, 0):
        prompt = tokenizer.decode(rows(1, held, seed=2)[0, : held - left].remainder(128).tolist())
        for how in ({}, {"speculative": True}, {"cache": False} if left else {}):
            result = list(our_generate(ours, tokenizer, prompt, temperature=0, max_new_tokens=40, **how))[-1].result
            assert result.stop_reason == "context"
            assert len(result.tokens) == left
