"""Text: tokenizers, control tokens and the chat form. No torch."""

from positronic.text.bpe import train_bpe
from positronic.text.chat import (
    Message,
    Rendered,
    Role,
    ToolCall,
    render,
    render_fim,
    shown,
    with_tools,
)
from positronic.text.chat_template import CHAT_TEMPLATE
from positronic.text.encode_stream import StreamEncoder
from positronic.text.foreign import read_foreign
from positronic.text.length_max import train_length_max
from positronic.text.normalization import normalized_ids
from positronic.text.reply import parse_assistant, read_reply
from positronic.text.sentence_pieces import train_sentencepiece
from positronic.text.special import CONTROL_TOKENS, N_CONTROL
from positronic.text.tokenizer import StreamDecoder, Tokenizer, byte_tokenizer

__all__ = [
    "CHAT_TEMPLATE",
    "CONTROL_TOKENS",
    "N_CONTROL",
    "Message",
    "Rendered",
    "Role",
    "StreamDecoder",
    "StreamEncoder",
    "Tokenizer",
    "ToolCall",
    "byte_tokenizer",
    "normalized_ids",
    "parse_assistant",
    "read_foreign",
    "read_reply",
    "render",
    "render_fim",
    "shown",
    "train_bpe",
    "train_length_max",
    "train_sentencepiece",
    "with_tools",
]
