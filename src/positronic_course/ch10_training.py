"""Training, validation, checkpoints.

Everything is there: a model with its gradients, a place to begin, an optimiser. Training is a loop around them.

What is read
------------
The text is cut in two before anything looks at it: the first nine tenths are for training, the last tenth is held
out. The training text is a ring of n tokens. An *epoch* turns the ring by a random angle and cuts it into windows of
T tokens, T the context; each window is a row, its targets are the same window one token later, and the rows come in
random order, a few of them a step. So in an epoch every token is a target once, except for the rest that fills no
window (fewer than T tokens, others each time), and each token meets a new beginning of its window.

Few rows a step mean more steps from the same text, with noisier gradients. On a text this small the number of steps
is what is missing, not the precision of each: four rows are enough.

What is measured
----------------
The loss on text that was trained on says how well the model remembers; on text that was held out, what it understood.
As long as both fall, it learns the language. When only the first falls, it learns the text by heart. Both are given
in nats a token, and in bits per byte, which does not depend on how the tokenizer cuts (chapter 1):

    nats a token  = sum of the losses of all targets / number of targets
    bits per byte = sum of the losses of all targets / log 2 / bytes of all targets

*By numbers*: 10 tokens and T = 4 make two windows, 8 targets, and 2 tokens wait for the next epoch's turn. At 1.2 nats
a token and 3 bytes a token a text costs 1.2 / 0.693 / 3 = 0.577 bits per byte.

What is kept
------------
To go on exactly, a run must know four things: the parameters; the optimiser's averages and number of steps; where in
the text it stands; and the random numbers to come. The order of an epoch is drawn by a generator that is made from
(seed, epoch) and from nothing else, so the number of steps alone says both of the last: nothing about the generator
has to be kept.

A process may be killed at any moment, also while it writes. So a checkpoint is written beside, in a folder of its own
that nobody looks for, and is renamed when it is complete: a rename happens or does not happen. Only then the older
one goes.

    model/step-000620/config.json     sizes, settings, the text's fingerprint, the history of both losses
                      tokenizer.json  the pieces
                      parameters.npz  arrays by name
                      optimiser.npz   mean, square, steps, and the loss of every step

Hardware: floating-point addition is not associative, (a + b) + c and a + (b + c) round differently. "Exactly" therefore
means: the same bits on the same machine with the same number of threads. An .npz file keeps each array as it lies in
memory, bit by bit; as decimal text a float32 would need 9 digits to survive, a float64 17.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from math import log
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from positronic_course import CourseError
from positronic_course.ch01_tokenizers import CharTokenizer, Tokenizer, from_json
from positronic_course.ch03_linear_and_norms import Parameters
from positronic_course.ch07_loss import ModelConfig, cross_entropy, forward, loss_and_gradients
from positronic_course.ch08_initialisation import initialise, shapes
from positronic_course.ch09_optimisers import AdamW, clip, warm_up_cosine

BEGIN_AGAIN = "Use --clean to begin again, or --out for another folder."


@dataclass(frozen=True)
class Corpus:
    """A text in two parts, as ids."""

    tokenizer: Tokenizer
    training: np.ndarray
    held_out: np.ndarray
    """The last training token, from which the first is guessed, then the tokens held out."""
    sha256: str
    """Of the whole text."""

    @classmethod
    def of(cls, text: str, tokenizer: Tokenizer | None = None) -> "Corpus":
        """Cut a text and encode both parts; without a tokenizer, one of the training text's characters."""
        lines = [line for line in text.splitlines() if line.strip()]
        if len(lines) < 2:
            raise CourseError(
                f"The text is {'empty' if not lines else 'a single line'}; a model needs something to read, and a last "
                f"tenth to be tested on. Give a file of several lines, some thousand characters in all."
            )
        cut = len(text) * 9 // 10
        tokenizer = tokenizer or CharTokenizer.learn(text[:cut])
        training = tokenizer.encode(text[:cut])
        held_out = np.concatenate([training[-1:], tokenizer.encode(text[cut:])])
        return cls(tokenizer, training, held_out, hashlib.sha256(text.encode("utf-8")).hexdigest())


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How a model is trained."""

    epochs: int = 20
    rows: int = 4  # windows a step
    peak: float = 2e-3  # the largest learning rate
    warm_up: float = 0.05  # share of all steps on the way up to it
    decay: float = 0.1
    limit: float = 1.0  # gradients are clipped to this length
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("rows", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise CourseError(f"{name} is {getattr(self, name)}; use {least} or more.")
        if not self.peak > 0:
            raise CourseError(f"The learning rate is {self.peak}; use more than 0 (0.002 is usual here).")


def batches(ids: np.ndarray, context: int, rows: int, seed: int, epoch: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """One epoch: ids and targets, each (rows, context); the last batch may have fewer rows."""
    rng = np.random.default_rng([seed, epoch])
    ring = np.roll(ids, -rng.integers(len(ids)))
    n = len(ids) // context
    windows, targets = (x[: n * context].reshape(n, context) for x in (ring, np.roll(ring, -1)))
    order = rng.permutation(n)
    for at in range(0, n, rows):
        yield windows[order[at : at + rows]], targets[order[at : at + rows]]


def evaluate(parameters: Parameters, config: ModelConfig, ids: np.ndarray, tokenizer: Tokenizer) -> dict[str, float]:
    """The loss on every token but the first, in windows of the context, as they are in training."""
    T = config.context
    full = (len(ids) - 1) // T * T
    rows = [(ids[:full].reshape(-1, T), ids[1 : full + 1].reshape(-1, T)), (ids[None, full:-1], ids[None, full + 1 :])]
    total = 0.0
    for inputs, targets in rows:
        for at in range(0, len(inputs), 16):
            few = targets[at : at + 16]
            if few.size:
                logits, _ = forward(parameters, inputs[at : at + 16], config)
                total += float(cross_entropy(logits, few)[0]) * few.size
    n_bytes = sum(len(tokenizer.pieces[number]) for number in ids[1:])
    return {"nats_per_token": total / (len(ids) - 1), "bits_per_byte": total / log(2) / n_bytes}


class Trainer:
    """A run: what it is trained on, and everything that changes on the way."""

    def __init__(self, config: ModelConfig, training: TrainingConfig, corpus: Corpus):
        if len(corpus.training) < config.context:
            raise CourseError(
                f"The training part of the text has {len(corpus.training)} tokens, and one window of this model takes "
                f"{config.context}. Give a longer text."
            )
        if len(corpus.tokenizer) != config.vocab_size:
            raise CourseError(
                f"The model is made for a vocabulary of {config.vocab_size}, the tokenizer has {len(corpus.tokenizer)} "
                f"pieces. Set vocab_size to {len(corpus.tokenizer)}."
            )
        self.config, self.training, self.corpus = config, training, corpus
        self.parameters = initialise(config, training.seed)
        self.optimiser = AdamW(self.parameters, training.decay)
        self.losses: list[float] = []  # one a step
        self.history: list[dict[str, float]] = []  # one an epoch, of `measure`
        windows = len(corpus.training) // config.context
        self.tokens_an_epoch = windows * config.context
        self.steps_an_epoch = -(-windows // training.rows)
        self.steps = training.epochs * self.steps_an_epoch

    def run(self) -> Iterator[int]:
        """Train to the end; yields the number of steps after each, when it is safe to stop, save or look."""
        t = self.training
        while len(self.losses) < self.steps:
            epoch, begun = divmod(len(self.losses), self.steps_an_epoch)
            order = batches(self.corpus.training, self.config.context, t.rows, t.seed, epoch)
            for ids, targets in islice(order, begun, None):
                loss, gradients = loss_and_gradients(self.parameters, ids, targets, self.config)
                length = clip(gradients, t.limit)
                if not np.isfinite(length):
                    raise CourseError(
                        f"The gradient of step {len(self.losses)} is {length}: use a rate below {t.peak}."
                    )
                warm_up = round(t.warm_up * self.steps)
                rate = warm_up_cosine(len(self.losses), self.steps, t.peak, warm_up)
                self.optimiser.step(self.parameters, gradients, rate)
                self.losses.append(float(loss))
                if len(self.losses) % self.steps_an_epoch == 0:
                    self.history.append(self.measure())
                yield len(self.losses)

    def measure(self) -> dict[str, float]:
        """The epoch that has just ended: the mean of its losses, and how the held-out text does after it."""
        held_out = evaluate(self.parameters, self.config, self.corpus.held_out, self.corpus.tokenizer)
        return {"training": float(np.mean(self.losses[-self.steps_an_epoch :])), "held_out": held_out["nats_per_token"]}

    def settings(self) -> dict:
        """What a run is; two runs with the same settings give the same bits."""
        return {
            "model": asdict(self.config),
            "training": asdict(self.training),
            "corpus": {"sha256": self.corpus.sha256, "training_tokens": len(self.corpus.training)},
        }

    def save(self, folder: Path) -> None:
        """A checkpoint of this step; older ones of the same folder go when it is complete."""
        done = folder / f"step-{len(self.losses):06}"
        beside = folder / "unfinished"
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        (beside / "config.json").write_text(json.dumps(self.settings() | {"history": self.history}, indent=1), "utf-8")
        (beside / "tokenizer.json").write_text(self.corpus.tokenizer.to_json(), "utf-8")
        np.savez(beside / "parameters.npz", **self.parameters)
        np.savez(beside / "optimiser.npz", losses=np.array(self.losses), **self.optimiser.to_arrays())
        if done.exists():
            shutil.rmtree(beside)  # the same step of the same run holds the same bits
        else:
            beside.rename(done)
        for older in checkpoints(folder)[:-1]:
            shutil.rmtree(older)

    def go_on(self, folder: Path) -> None:
        """Continue from the newest checkpoint of the folder, which must be of this run."""
        saved, tokenizer, parameters = read(folder)
        if tokenizer.pieces != self.corpus.tokenizer.pieces:
            raise CourseError(
                f"The model in {folder} was trained with a vocabulary of {len(tokenizer)} ({tokenizer.kind}), this run "
                f"has another one of {len(self.corpus.tokenizer)} ({self.corpus.tokenizer.kind}). {BEGIN_AGAIN}"
            )
        for group, ours in self.settings().items():
            for name, value in ours.items():
                if (theirs := saved.get(group, {}).get(name)) != value:
                    raise CourseError(
                        f"The run in {folder} was begun with {group}.{name} {theirs}, this one has "
                        f"{value}. {BEGIN_AGAIN}"
                    )
        arrays = read_arrays(checkpoints(folder)[-1] / "optimiser.npz")
        self.losses = [float(loss) for loss in arrays.pop("losses")]
        self.optimiser.from_arrays(arrays)
        self.parameters, self.history = parameters, saved["history"]


def checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints of a run, the newest last."""
    return sorted(folder.glob("step-*"), key=lambda path: int(path.name.removeprefix("step-")))


def read_arrays(path: Path) -> Parameters:
    """Arrays by name; never objects, which could run code."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise CourseError(f"{path} cannot be read ({error}). Train again with --clean.") from error


def read(folder: Path) -> tuple[dict, Tokenizer, Parameters]:
    """Settings, tokenizer and parameters of the newest checkpoint, which must belong together."""
    if not checkpoints(folder):
        raise CourseError(
            f"There is no model in {folder}. Train one first: "
            f"python -m positronic_course.scripts.train_simple --out {folder}"
        )
    newest = checkpoints(folder)[-1]
    try:
        saved = json.loads((newest / "config.json").read_text("utf-8"))
        tokenizer = from_json((newest / "tokenizer.json").read_text("utf-8"))
        config = ModelConfig(**saved["model"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CourseError(f"{newest} is damaged ({error!r}). Train again with --clean.") from error
    parameters = read_arrays(newest / "parameters.npz")
    if len(tokenizer) != config.vocab_size or {n: a.shape for n, a in parameters.items()} != shapes(config):
        raise CourseError(
            f"{newest} holds files of different models: config.json says {config.vocab_size} pieces, tokenizer.json "
            f"has {len(tokenizer)}, the embedding {len(parameters.get('embedding', ()))}. Train again with --clean."
        )
    return saved, tokenizer, parameters


if __name__ == "__main__":
    from importlib.resources import files
    from tempfile import TemporaryDirectory

    # A small model reads the stories three times, in a few seconds.
    corpus = Corpus.of(files("positronic_course").joinpath("corpus.txt").read_text("utf-8"))
    config = ModelConfig(vocab_size=len(corpus.tokenizer), d_model=48, n_heads=4, n_layers=1, d_hidden=128, context=64)
    trainer = Trainer(config, TrainingConfig(epochs=3), corpus)
    with TemporaryDirectory() as name:
        for step in trainer.run():
            if step % trainer.steps_an_epoch == 0:
                print(f"epoch {len(trainer.history)}:", {k: round(v, 3) for k, v in trainer.history[-1].items()})
            if step == 40:
                trainer.save(Path(name))

        # A second run takes up the checkpoint of step 40, and ends with the same bits.
        second = Trainer(config, TrainingConfig(epochs=3), corpus)
        second.go_on(Path(name))
    for _ in second.run():
        pass
    print("equal to the bit:", all((second.parameters[n] == w).all() for n, w in trainer.parameters.items()))
    print("held out:", evaluate(trainer.parameters, config, corpus.held_out, corpus.tokenizer))
