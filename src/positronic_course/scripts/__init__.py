"""What the course can do from a command line; every script also runs as `positronic course NAME`."""

__all__ = ["SCRIPTS"]

SCRIPTS = {
    "train_bpe": "learn a vocabulary, compare it with characters and words, and train a model on it",
    "train_simple": "train a small model on the stories, or on your text",
    "generate_text": "let a trained model continue a text",
    "generate_bpe": "the same with the model of train_bpe",
    "visualize_attention": "show what each token of a text reads from",
    "gradient_check": "check every gradient against finite differences",
    "benchmark": "how fast training and generation are here",
}
"""Modules of this folder that are run, and what each does."""
