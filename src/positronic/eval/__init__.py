"""Measuring a model on what it has not seen: bits per byte of text, benchmarks, and what simpler things achieve."""

from positronic.eval.baselines import Baselines, baselines
from positronic.eval.benchmarks import Benchmark, benchmark, bits_per_byte_stderr
from positronic.eval.bits_per_byte import Score, bits_per_byte, document_scores
from positronic.eval.compare import Comparison, compare
from positronic.eval.continuations import Likelihood, Request, encode_pairs, likelihoods
from positronic.eval.conversations import assistant_bits_per_byte, scorable
from positronic.eval.tasks import Task, find_task, open_task

__all__ = [
    "Baselines",
    "Benchmark",
    "Comparison",
    "Likelihood",
    "Request",
    "Score",
    "Task",
    "assistant_bits_per_byte",
    "baselines",
    "benchmark",
    "bits_per_byte",
    "bits_per_byte_stderr",
    "compare",
    "document_scores",
    "encode_pairs",
    "find_task",
    "likelihoods",
    "open_task",
    "scorable",
]
