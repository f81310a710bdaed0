"""What the course can do from a command line; every script also runs as `positronic course NAME`."""

__all__ = ["SCRIPTS"]

SCRIPTS = {
    "train_bpe": "learn a vocabulary, and compare it with characters and words",
    "train_simple": "train a small model on the stories, or on your text",
    "generate_text": "let a trained model continue a text",
    "visualize_attention": "show what each token of a text reads from",
    "gradient_check": "check every gradient against finite differences",
    "benchmark": "how fast training and generation are here",
}
"""Modules of this folder that are run, and what each does."""
