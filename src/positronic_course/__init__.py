"""Build a language model by hand, in NumPy alone.

Eighteen chapters, read from top to bottom: each derives what it needs, writes it down in a few lines of NumPy and lets
you try it. Nothing is used before it is defined, every gradient is derived by hand and checked by finite
differences, and the model that stands at the end learns the words of small stories in seconds, on one core.

One letter means one thing everywhere. Capitals are sizes, but for L:

    B  rows of a batch         D  width of the stream         W  size of the vocabulary
    T  tokens in a row         H  heads                       F  width inside the feed-forward part
    S  tokens seen so far      K  width of a head             N, R  oscillators, and the rings they stand on
    L  the loss, one number    C  classes

Small letters are numbers and arrays; dx is dL/dx for every x:

    x, y     what goes into an operation, and what comes out        w     weights of a linear map
    t, s     the place of a token that reads, of one that is read   i, j  places in any row of numbers
    q, k, v  queries, keys, values                                  o     what attention has read
    z, p     scores or logits, and the probabilities softmax makes  u     a random number from 0 to 1
    g, h     a gradient; a normed vector                            f     a function of one number
    r        a ring                                                 m     a whole number that stands for another
    n        how many there are of what the sentence names          a, b, c  any numbers in a rule of arithmetic

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
    "ch15_classification": "Classification",
    "ch16_instructions": "Instruction tuning",
    "ch17_preference": "Preference",
    "ch18_low_rank": "Low-rank adapters",
}
"""Modules in reading order, and their titles."""


class CourseError(Exception):
    """Something the reader can mend; the sentence says how."""
