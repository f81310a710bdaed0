"""Generating, once: for every family, every draft and every way of sampling."""

from positronic.generation.decoding.engine import Engine, decode
from positronic.generation.decoding.exact import Exact, find_exact
from positronic.generation.decoding.forward import Mode, prefill
from positronic.generation.decoding.propose import Draft, Heads, NGram, Nothing, Proposer
from positronic.generation.decoding.row import Row, TokenOutput
from positronic.generation.decoding.uncached import Uncached
from positronic.generation.decoding.writer import Constraint, Free, Stop, Writer
from positronic.generation.requests.batch import generate_batch, generate_choices
from positronic.generation.requests.conversation import Conversation, memories_alone
from positronic.generation.requests.generate import TextChunk, generate
from positronic.generation.requests.result import Result
from positronic.generation.sampling.params import GREEDY, SamplingParams

__all__ = [
    "GREEDY",
    "Constraint",
    "Conversation",
    "Draft",
    "Engine",
    "Exact",
    "Free",
    "Heads",
    "Mode",
    "NGram",
    "Nothing",
    "Proposer",
    "Result",
    "Row",
    "SamplingParams",
    "Stop",
    "TextChunk",
    "TokenOutput",
    "Uncached",
    "Writer",
    "decode",
    "find_exact",
    "generate",
    "generate_batch",
    "generate_choices",
    "memories_alone",
    "prefill",
]
