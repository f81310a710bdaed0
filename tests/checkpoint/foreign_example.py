"""Tiny random models of other programs with vocabularies of their own, as Transformers saves them."""

from pathlib import Path
from typing import Any

import tokenizers
import torch
from tokenizers import Regex, decoders, models, pre_tokenizers, processors, trainers

LLAMA_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
"""Llama 3's expression."""
TEXTS = [
    "The lamp on the hill was lit in 1924, and the ships went by far out at sea. It's late;\n\n  we'll go.",
    "Two naïve lamps 日本 🙂 and 12 ships",
]
MIXED = "The naïve 日本 lamp's 123456 words,\n\n  \n  indented <|endoftext|> and\tfree 🙂🏳️‍🌈.\r\n 12 ships  went \n"
ENTRIES = 340
"""Rows of the models' embeddings; the vocabularies have 20 fewer."""


def gpt2_tokenizer() -> tokenizers.Tokenizer:
    """As the file of GPT-2: the end of a document stands in its vocabulary, here in front."""
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.post_processor = processors.ByteLevel(trim_offsets=False)
    return _trained(made, ["<|endoftext|>"])


def llama_tokenizer() -> tokenizers.Tokenizer:
    """As the file of Llama 3: an expression of its own, whole words, and a token in front of every text."""
    made = tokenizers.Tokenizer(models.BPE(ignore_merges=True))
    words = pre_tokenizers.Split(Regex(LLAMA_WORDS), "isolated")
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    lead = processors.TemplateProcessing(
        single="<|begin_of_text|> $A",
        pair="<|begin_of_text|> $A <|begin_of_text|>:1 $B:1",
        special_tokens=[("<|begin_of_text|>", 0)],
    )
    made.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), lead])
    return _trained(made, ["<|begin_of_text|>", "<|end_of_text|>"])


def _trained(made: tokenizers.Tokenizer, names: list[str]) -> tokenizers.Tokenizer:
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=ENTRIES - 20, initial_alphabet=alphabet, special_tokens=names, show_progress=False
    )
    made.train_from_iterator(TEXTS * 3, trainer)
    assert made.get_vocab_size() == ENTRIES - 20
    return made


def gpt2(**changes: Any) -> Any:
    """A GPT2LMHeadModel with much to say."""
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"vocab_size": ENTRIES, "n_positions": 96, "n_embd": 32, "n_layer": 2, "n_head": 4, "eos_token_id": 0}
    return _loud(GPT2LMHeadModel(GPT2Config(**sizes | {"bos_token_id": 0} | changes)))


def llama(**changes: Any) -> Any:
    """A LlamaForCausalLM with much to say."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {
        "vocab_size": ENTRIES,
        "max_position_embeddings": 96,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    return _loud(LlamaForCausalLM(LlamaConfig(**sizes | changes)))


def _loud(model: Any) -> Any:
    """Matrices larger than at the start, and no vector at its start."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(mean=0.0 if p.dim() > 1 else 0.5, std=0.25, generator=generator)
    return model.eval()


def saved(model: Any, tokenizer: tokenizers.Tokenizer, folder: Path, **how: Any) -> Path:
    """The folder, as Transformers writes it."""
    model.save_pretrained(folder, **how)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder
