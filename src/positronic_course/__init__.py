"""Build a language model by hand, in NumPy alone.

Fourteen chapters, read from top to bottom: each derives what it needs, writes it down in a few lines of NumPy and
lets you try it. Nothing is used before it is defined, every gradient is derived by hand and checked by finite
differences, and the model that stands at the end learns the words of small stories in seconds, on one core.

One letter means one thing everywhere:

    B  rows of a batch         D  width of the stream         W  size of the vocabulary
    T  tokens in a row         H  heads                       F  width inside the feed-forward part
    S  tokens seen so far      K  width of a head             N, R  oscillators, and the rings they stand on
    L  the loss, one number

Read `chNN_*.py`, run it (`python -m positronic_course.ch05_attention`), then solve `exercises/exNN_*.py`.
"""

import os

__all__ = ["CHAPTERS", "CourseError"]

# Matrices of this size are multiplied before a second thread has woken up: one is faster. NumPy asks at its import.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

CHAPTERS = {
    "ch01_tokenizers": "Bytes and tokenizers",
    "ch02_embeddings": "Embeddings and positions",
    "ch03_linear_and_norms": "Linear maps and norms",
    "ch04_activations": "Activations",
    "ch05_attention": "Attention",
    "ch06_block": "The block and the residual stream",
    "ch07_loss": "Loss, and the whole model",
    "ch08_initialisation": "Initialisation",
    "ch09_optimisers": "Adam, AdamW and the learning rate",
    "ch10_training": "Training, validation, checkpoints",
    "ch11_generation": "Generation",
    "ch12_looking": "Looking at attention",
    "ch13_oscillators": "From attention to oscillators",
    "ch14_hardware": "Towards hardware",
}
"""Modules in reading order, and their titles."""


class CourseError(Exception):
    """Something the reader can mend; the sentence says how."""
