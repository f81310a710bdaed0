"""Byte-pair vocabularies that the library `sentencepiece` learns, read into our layout: bytes, pieces, control tokens.

    words     between spaces, a space in front belonging to its word; split where script or digits change
    learned   merges of characters, the most frequent first; a character that is too rare is spelt in bytes
    read      a character of several bytes is joined byte by byte first, which costs an entry a beginning; then every
              pair of pieces that makes a piece is a merge, in the order of the pieces, as SentencePiece encodes

Nothing is normalised, so that text comes back whole: SentencePiece's own NFKC, added first space and dropped double
spaces are switched off. A piece that our rule for words would cut is never produced by it, and left out.
Source   Kudo and Richardson 2018, "SentencePiece: a simple and language independent subword tokenizer".
"""

import io
from collections.abc import Iterable, Iterator

from tokenizers import pre_tokenizers

from positronic.errors import TokenizerError
from positronic.text.definition import merged
from positronic.text.special import N_CONTROL, without_control_names
from positronic.text.tokenizer import Tokenizer

__all__ = ["train_sentencepiece"]

SPACE = "\u2581"
"""How SentencePiece writes a space."""
LONGEST = 4000
"""Bytes of a line, at most: SentencePiece passes over longer ones, so they are cut."""


def train_sentencepiece(texts: Iterable[str | bytes], vocab_size: int = 16_000) -> Tokenizer:
    """A BPE of `vocab_size` entries (256 bytes, merges, 128 control tokens) learned by `sentencepiece`.

    Raises `TokenizerError` where the library is not installed, or where the text has no use for so many entries.
    """
    try:
        import sentencepiece
    except ImportError:
        raise TokenizerError(
            "SentencePiece is not installed. Install positronic[sentencepiece], or take our own BPE: --tokenizer bpe."
        ) from None
    if vocab_size <= 256 + N_CONTROL:
        raise TokenizerError(f"vocab_size is {vocab_size}; SentencePiece needs more than {256 + N_CONTROL} entries.")
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_lines(texts),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size + 3,  # ours has its 128 control tokens among them, theirs three and the ASCII letters
            hard_vocab_limit=False,
            byte_fallback=True,
            character_coverage=0.9995,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            max_sentence_length=2 * LONGEST,
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise TokenizerError(
            f"SentencePiece could not learn from this text ({error}); give more text, or another vocab_size."
        ) from None
    learned = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    spelt = [
        learned.id_to_piece(number).replace(SPACE, " ")
        for number in range(learned.vocab_size())
        if not (learned.is_byte(number) or learned.is_control(number) or learned.is_unknown(number))
    ]
    merges = _merges(spelt, vocab_size - N_CONTROL)
    definition = merged(merges)
    if definition.vocab_size < vocab_size:
        raise TokenizerError(
            f"The text has use for at most {definition.vocab_size} entries, and {vocab_size} were asked for; "
            f"give more text, or ask for {definition.vocab_size}."
        )
    return Tokenizer(definition)


def _lines(texts: Iterable[str | bytes]) -> Iterator[str]:
    """Lines of the texts without control tokens' names, the long ones in parts; SentencePiece learns no line's end."""
    for text in texts:
        for part in without_control_names(text):
            for line in part.decode(errors="ignore").replace("\0", "\n").replace(SPACE, "\n").splitlines():
                yield from (line[at : at + LONGEST // 4] for at in range(0, len(line), LONGEST // 4))


def _merges(spelt: list[str], entries: int) -> list[tuple[bytes, bytes]]:
    """Merges that make these pieces, characters first, until there are so many entries with the 256 bytes."""
    words = pre_tokenizers.ByteLevel(add_prefix_space=False)
    characters = [piece.encode() for piece in spelt if len(piece) == 1 and len(piece.encode()) > 1]
    whole = [piece.encode() for piece in spelt if len(piece) > 1 and len(words.pre_tokenize_str(piece)) == 1]
    known = {bytes([value]) for value in range(256)}
    merges: list[tuple[bytes, bytes]] = []
    for piece in dict.fromkeys(character[:end] for character in characters for end in range(2, len(character) + 1)):
        if len(known) < entries:
            known.add(piece)
            merges.append((piece[:-1], piece[-1:]))
    kept = [piece for piece in dict.fromkeys(whole) if piece not in known][: entries - len(known)]
    known.update(kept)
    for piece in kept:
        cuts = ((piece[:at], piece[at:]) for at in range(1, len(piece)))
        merges += [(left, right) for left, right in cuts if left in known and right in known]
    return merges
