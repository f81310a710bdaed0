"""Generating, once: for every family, every draft and every way of sampling."""

from positronic.generation.decode import Emission, decode
from positronic.generation.exact import Exact, find_exact
from positronic.generation.prefill import prefill
from positronic.generation.propose import Draft, NGram, Nothing, Proposer
from positronic.generation.sampling import GREEDY, Sampler
from positronic.generation.writer import Constraint, Free, Stop

__all__ = [
    "GREEDY",
    "Constraint",
    "Draft",
    "Emission",
    "Exact",
    "Free",
    "NGram",
    "Nothing",
    "Proposer",
    "Sampler",
    "Stop",
    "decode",
    "find_exact",
    "prefill",
]
