"""Text: tokenizers, control tokens and the chat form. No torch."""

from positronic.text.bpe import train_bpe
from positronic.text.special import CONTROL_TOKENS, N_CONTROL
from positronic.text.spike import train_spike
from positronic.text.tokenizer import StreamDecoder, Tokenizer, byte_tokenizer

__all__ = ["CONTROL_TOKENS", "N_CONTROL", "StreamDecoder", "Tokenizer", "byte_tokenizer", "train_bpe", "train_spike"]
