"""Generating, once: for every family, every draft and every way of sampling."""

from positronic.generation.batch import generate_batch
from positronic.generation.conversation import Conversation, memories_alone
from positronic.generation.decode import Emission, decode
from positronic.generation.exact import Exact, find_exact
from positronic.generation.generate import Piece, Result, generate
from positronic.generation.prefill import prefill
from positronic.generation.propose import Draft, Heads, NGram, Nothing, Proposer
from positronic.generation.sampling import GREEDY, Sampler
from positronic.generation.uncached import Uncached
from positronic.generation.writer import Constraint, Free, Stop

__all__ = [
    "GREEDY",
    "Constraint",
    "Conversation",
    "Draft",
    "Emission",
    "Exact",
    "Free",
    "Heads",
    "NGram",
    "Nothing",
    "Piece",
    "Proposer",
    "Result",
    "Sampler",
    "Stop",
    "Uncached",
    "decode",
    "find_exact",
    "generate",
    "generate_batch",
    "memories_alone",
    "prefill",
]
