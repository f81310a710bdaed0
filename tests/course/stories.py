"""A small text, and a model that reads it in a moment."""

from positronic_course.ch07_loss import ModelConfig
from positronic_course.ch10_training import Corpus, Trainer, TrainingConfig

TEXT = "The lamp is on the hill.\nThe boat is on the sea, and the sea is dark.\n" * 12


def small_trainer(text: str = TEXT, epochs: int = 4, **sizes: object) -> Trainer:
    corpus = Corpus.of(text)
    sizes = {"d_model": 16, "n_heads": 2, "n_layers": 2, "d_hidden": 24, "context": 16} | sizes
    config = ModelConfig(vocab_size=len(corpus.tokenizer), **sizes)
    return Trainer(config, TrainingConfig(epochs=epochs), corpus)
