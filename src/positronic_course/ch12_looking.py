"""Looking at attention.

In every layer each head gives every token t weights p[t, s] over the tokens s up to itself: what it read from. They
are in memory after any forward pass, because backward needs them (chapter 5). To look at them, keep them: nothing is
recomputed, nothing estimated, nothing drawn from anywhere else.

    attention_of(parameters, config, ids (T,)) -> for each layer p (H, T, T); rows sum to 1, the future has 0

What to look for
----------------
*reach*   how far back a head reads on average:    mean over t of sum_s p[t, s] (t - s)      in tokens
          0: it looks at the token itself. 1: perhaps at the one before. A head with all weights equal has (T - 1) / 4.
*spread*  among how many tokens it divides its attention:    exp(mean over t of -sum_s p[t, s] log p[t, s])
          1: a single token. The exponent is an entropy, in nats.

*By numbers*: the third token, t = 2, has the weights 0.5, 0.3, 0.2. Its reach is 0.5 * 2 + 0.3 * 1 + 0.2 * 0 = 1.3
tokens. Its entropy is 0.347 + 0.361 + 0.322 = 1.030 nats, so its spread is exp(1.030) = 2.80 of three tokens.

What not to conclude
--------------------
A large weight says that a value was read, not that it mattered: the value may be small, `out` may turn it away, and
the stream passes on beside it (chapter 6). The first token often gets large weights from tokens that need nothing:
weights must sum to 1, so a head that has nothing to read must put them somewhere. And a token in layer 2 is no longer
the token alone, it holds what it has read in layer 1.

What a head is worth is seen by taking it away, and a model that others have trained has more to show. The package
beside this course does both: `positronic convert gpt2/ --out known` makes a checkpoint of a GPT-2 or Llama folder, and
`positronic health known`, `positronic ablate known --prompt "The lamp on the hill"` and `positronic view known --prompt
"The lamp on the hill"` look inside.

Hardware: p holds T^2 numbers a head and layer, each in 4 bytes: 16 kB at T = 64, 4 GB at T = 32,768. Weights below 6e-8
change nothing in a float32 sum near 1; softmax keeps them all the same, and computes with each.
"""

from pathlib import Path

import numpy as np

from positronic_course import CourseError
from positronic_course.ch03_linear_and_norms import Parameters
from positronic_course.ch05_attention import weights
from positronic_course.ch07_loss import ModelConfig, attentions, forward

SHADES = " .:-=+*#%@"
"""From a weight of 0 to the largest of a row."""


def attention_of(parameters: Parameters, config: ModelConfig, ids: np.ndarray) -> list[np.ndarray]:
    """The weights (H, T, T) of each layer for one text, ids (T,)."""
    if not 0 < len(ids) <= config.context:
        raise CourseError(
            f"The text has {len(ids)} tokens, the model looks at 1 to {config.context} at once. "
            f"{'Shorten it' if len(ids) else 'Give a text'}."
        )
    _, saved = forward(parameters, ids[None], config)
    return [weights(of_layer)[0] for of_layer in attentions(saved)]


def reach(p: np.ndarray) -> np.ndarray:
    """How far back each head reads on average, in tokens: p (H, T, T) -> (H,)."""
    t = np.arange(p.shape[-1], dtype=p.dtype)
    return (p * (t[:, None] - t)).sum(axis=-1).mean(axis=-1)


def spread(p: np.ndarray) -> np.ndarray:
    """Among how many tokens each head divides its attention: p (H, T, T) -> (H,). 0 log 0 counts as 0."""
    entropy = -(p * np.log(np.where(p > 0, p, 1))).sum(axis=-1)
    return np.exp(entropy.mean(axis=-1))


def visible(pieces: list[str]) -> list[str]:
    """Pieces as labels: a space and the end of a line are seen."""
    return [piece.replace(" ", "\u2423").replace("\n", "\u21b5") for piece in pieces]


def as_text(p: np.ndarray, pieces: list[str]) -> str:
    """One head, p (T, T), for the terminal: a line for each reader, a shade for each token, then what it read most."""
    labels = visible(pieces)
    width = max(map(len, labels))
    lines = []
    for t, row in enumerate(p):
        seen = row[: t + 1]
        marks = "".join(SHADES[round(float(weight) * (len(SHADES) - 1))] for weight in seen / seen.max())
        best = int(seen.argmax())
        lines.append(f"{labels[t]:>{width}} |{marks:{len(p)}}| {labels[best]} ({t - best} back, {seen[best]:.2f})")
    return "\n".join(lines)


def picture(heads: dict[str, np.ndarray], pieces: list[str], path: Path) -> None:
    """Heads side by side, title to p (T, T), written to an image. Needs matplotlib."""
    from matplotlib.figure import Figure

    labels = visible(pieces)
    columns = min(len(heads), 4)
    rows = -(-len(heads) // columns)
    side = max(3.5, 0.16 * len(labels) + 1)
    figure = Figure(figsize=(side * columns, side * rows), layout="constrained")
    for number, (title, p) in enumerate(heads.items(), start=1):
        axes = figure.add_subplot(rows, columns, number, title=title, xlabel="read", ylabel="reader")
        image = axes.imshow(p, cmap="viridis", vmin=0)
        axes.set_xticks(range(len(labels)), labels, fontsize=7)
        axes.set_yticks(range(len(labels)), labels, fontsize=7)
        figure.colorbar(image, ax=axes, shrink=0.7)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    from positronic_course.ch01_tokenizers import Tokenizer
    from positronic_course.ch08_initialisation import initialise

    # A head made by hand, in which every token reads the one before it.
    pieces = list("the lamp")
    sharp = np.eye(8, k=-1)
    sharp[0, 0] = 1
    print(as_text(sharp, pieces))
    print("reach:", reach(sharp[None]), "spread:", spread(sharp[None]))

    # A new model has not learnt to look anywhere: nearly equal weights, reach (T - 1) / 4.
    tokenizer = Tokenizer([bytes([value]) for value in range(256)])
    config = ModelConfig(vocab_size=256, d_model=32, n_heads=2, n_layers=2, d_hidden=64, context=64)
    ids = tokenizer.encode("The lamp on the hill.")
    for layer, p in enumerate(attention_of(initialise(config, seed=0), config, ids)):
        print(f"layer {layer}: rows sum to {p.sum(axis=-1).min():.6f}, reach {reach(p)}, spread {spread(p)}")
    print("(T - 1) / 4 =", (len(ids) - 1) / 4)
