"""Training of byte-level BPE through `tokenizers`, in our layout: bytes, merged pieces, control tokens.

Words longer than 256 bytes are counted in parts, as for length-max. A merge costs as much as the words that it changes
are long, so that text without spaces would cost the square of its length.

Source   Sennrich et al. 2016 (merges); Radford et al. 2019, GPT-2 (bytes, words split before merging).
"""

import json
from collections.abc import Callable, Iterable, Iterator

import tokenizers
from tokenizers import Regex, models, pre_tokenizers, trainers

from positronic.errors import TokenizerError
from positronic.text.definition import from_alphabet, merged
from positronic.text.special import LONGEST_WORD, N_CONTROL, without_control_names
from positronic.text.tokenizer import Tokenizer

__all__ = ["train_bpe"]


def train_bpe(
    texts: Iterable[str | bytes], vocab_size: int = 16_512, *, progress: Callable[[int, int], None] | None = None
) -> Tokenizer:
    """A byte-level BPE of `vocab_size` entries: 256 bytes, merges, 128 control tokens.

    Bytes that are not UTF-8 are left out of training. `progress(entries, vocab_size)` is called when the text is read
    and when all is learned; in between the library draws its own bars on a terminal. Raises `TokenizerError` where the
    text has no use for so many.
    """
    if vocab_size <= 256 + N_CONTROL:
        raise TokenizerError(f"vocab_size is {vocab_size}; BPE needs more than {256 + N_CONTROL} entries.")
    learner = tokenizers.Tokenizer(models.BPE())
    parts_of_words = pre_tokenizers.Split(Regex(f".{{1,{LONGEST_WORD}}}"), "isolated")
    learner.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.ByteLevel(add_prefix_space=False), parts_of_words])
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - N_CONTROL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=progress is not None,
    )

    def parts() -> Iterator[str]:
        for text in texts:
            yield from (part.decode(errors="ignore") for part in without_control_names(text))
        if progress is not None:
            progress(256 + N_CONTROL, vocab_size)

    learner.train_from_iterator(parts(), trainer)
    merges = json.loads(learner.to_str())["model"]["merges"]
    definition = merged([(from_alphabet(left), from_alphabet(right)) for left, right in merges])
    if not merges:
        raise TokenizerError("There is no text to train a tokenizer on; give at least one text of two bytes or more.")
    if definition.vocab_size < vocab_size:
        raise TokenizerError(
            f"The text has use for at most {definition.vocab_size} entries, and {vocab_size} were asked for; "
            f"give more text, or ask for {definition.vocab_size}."
        )
    if progress is not None:
        progress(vocab_size, vocab_size)
    return Tokenizer(definition)
