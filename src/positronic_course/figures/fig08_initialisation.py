"""Variance through maps and through blocks."""

import numpy as np

from positronic_course.ch02_embeddings import embed
from positronic_course.ch03_linear_and_norms import part
from positronic_course.ch06_block import block
from positronic_course.ch07_loss import ModelConfig
from positronic_course.ch08_initialisation import initialise, is_writer
from positronic_course.drawing import Drawing


def figure() -> Drawing:
    """Left: the variance after up to twenty linear maps in a row (a logarithm to base 2): it doubles, stays, or halves.
    Right: the variance of the stream after each of 32 blocks, relative to the first, when the matrices that write into
    it are divided by sqrt(2 n) and when they are as loud as all others."""
    drawing = Drawing(2)
    maps = drawing.panel(0, "Twenty maps", (0, 20), (-22, 22), x="maps", y="log2 of the variance")
    for colour, factor in enumerate((2.0, 1.0, 0.5)):
        rng = np.random.default_rng(0)
        x, found = rng.normal(size=(64, 128)), [0.0]
        for _ in range(20):
            x = x @ rng.normal(scale=(factor / 128) ** 0.5, size=(128, 128))
            found.append(float(np.log2(x.var())))
        maps.line(range(21), found, colour, f"D_in sigma^2 = {factor:g}")
    config = ModelConfig(vocab_size=300, d_model=64, n_heads=2, d_hidden=172, n_layers=32)
    parameters = initialise(config, seed=0, dtype=np.float64)
    stream = drawing.panel(1, "32 blocks", (0, 32), (0, 5), x="blocks", y="variance of the stream")
    for colour, (name, factor) in enumerate((("divided", 1.0), ("as loud", 64**0.5))):
        loud = {key: value * factor if is_writer(key) else value for key, value in parameters.items()}
        x = embed(np.random.default_rng(0).integers(0, 300, size=(2, 32)), loud["embedding"])[0]
        found = [x.var()]
        for layer in range(32):
            x = block(x, part(loud, f"blocks.{layer}."), config)[0]
            found.append(x.var())
        stream.line(range(33), np.array(found) / found[0], colour, name)
    return drawing


if __name__ == "__main__":
    print(figure(), end="")
