"""Preference.

Of two answers people can often say which is better, and seldom how good one is. A preference is a row of three: a
question, an answer that was *chosen*, and one that was *rejected*. Direct preference optimisation learns from it with
no model of rewards, no sampling, and one more forward pass.

From rewards to probabilities
-----------------------------
Suppose every answer had a reward, and that the chance of being chosen is a sigmoid of the difference (Bradley, Terry):

    p(chosen over rejected) = sigmoid(reward_chosen - reward_rejected)

Let p be the model's probability of a whole answer and p_ref that of the model before, the *reference*. Ask for the most
reward, but charge beta for moving away: maximise the mean of reward - beta log(p / p_ref). For one question, with the
probabilities summing to 1 (a constant added to the reward changes nothing), the best p is

    p = p_ref exp(reward / beta) / a          a: the same number for all answers of the question, so that p sums to 1

because reward - beta log(p / p_ref) is then beta log a for every answer: no answer is worth more than another, and
nothing can be gained by moving. Turn it round: reward = beta log(p / p_ref) + beta log a. The model itself says what
reward it stands for, and in a difference of two answers to one question the unknown a is gone:

    margin = beta (log(p_chosen / p_ref_chosen) - log(p_rejected / p_ref_rejected))
    loss   = - log sigmoid(margin) = log(1 + exp(-margin))                  the mean over the pairs

*By numbers*: beta = 0.5. The chosen answer has log p = -2 and had -3, the rejected one has -4 and had -4. margin = 0.5
* ((-2 + 3) - (-4 + 4)) = 0.5, and the loss log(1 + exp(-0.5)) = 0.474. A model that has not moved has the margin 0 and
the loss log 2 = 0.693: look for that number first.

Backward
--------
d log(1 + exp(-margin)) / d margin = -exp(-margin) / (1 + exp(-margin)) = -sigmoid(-margin), so, over n pairs,

    dlog p_chosen = -beta sigmoid(-margin) / n          dlog p_rejected = +beta sigmoid(-margin) / n

*By numbers*, the same pair: sigmoid(-0.5) = 0.378, so the two are -0.189 and 0.189. The factor is near 1 for a pair
that the model has wrong and near 0 for one that it has right: it works on what is not done yet.

The log of a whole answer's probability is a sum over its tokens, each log p_target, with the weights of chapter 16:

    log p = sum_t weight[t] (z[t, target] - log sum_j exp(z[t, j]))
    dz[t, j] = dlog p * weight[t] ([j = target] - p[t, j])

Cross-entropy with the sign turned, and not divided by the length: the answer as a whole was chosen.

What to watch
-------------
Only the difference is asked for. Both log p may fall, the rejected one faster, and usually they do: the loss does not
say that the chosen answer becomes likely. So print both. beta says how far the model may go, large keeps it near.

Hardware: a pair is two rows, and the reference doubles the forward passes; it never changes, so its log p are computed
once and kept, two numbers a pair. The log of a sigmoid far below 0 is computed as log(exp(0) + exp(-margin)) with the
larger exponent taken out: exp(-margin) by itself overflows float32 at a margin of -88.8.

Source: Bradley and Terry 1952; Rafailov et al. 2023, "Direct preference optimization".
"""

from collections.abc import Sequence

import numpy as np

from positronic_course.ch03_linear_and_norms import Parameters
from positronic_course.ch04_activations import sigmoid
from positronic_course.ch07_loss import ModelConfig, backward, forward
from positronic_course.ch15_classification import descend, small_model
from positronic_course.ch16_instructions import PAIRS, Rows, answer_loss_and_gradients, reply, rows_of


def log_probability(logits: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, tuple]:
    """logits (B, T, W), targets and weights (B, T) -> log p of each row's answer (B,)."""
    z = logits - logits.max(axis=-1, keepdims=True)
    at = targets[..., None]
    right = np.take_along_axis(z, at, axis=-1)[..., 0]
    np.exp(z, out=z)
    total = z.sum(axis=-1)
    weights = weights.astype(logits.dtype)
    y = ((right - np.log(total)) * weights).sum(axis=-1)
    z /= total[..., None]  # the probabilities, from here on
    return y, (z, at, weights)


def log_probability_backward(dy: np.ndarray, saved: tuple) -> np.ndarray:
    """dlogits (B, T, W) from dlog p (B,)."""
    p, at, weights = saved
    share = (weights * dy[:, None])[..., None]
    dlogits = -p * share
    np.put_along_axis(dlogits, at, np.take_along_axis(dlogits, at, axis=-1) + share, axis=-1)
    return dlogits


def preference(
    chosen: np.ndarray, rejected: np.ndarray, reference: tuple[np.ndarray, np.ndarray], beta: float
) -> tuple[np.floating, tuple]:
    """log p of the answers (n,), and what the reference gave both -> the mean loss."""
    margin = beta * ((chosen - reference[0]) - (rejected - reference[1]))
    return np.logaddexp(0, -margin).mean(), (margin, beta)


def preference_backward(dloss: np.floating, saved: tuple) -> tuple[np.ndarray, np.ndarray]:
    """dlog p of the chosen and of the rejected answers (n,)."""
    margin, beta = saved
    dmargin = -dloss * sigmoid(-margin) / len(margin)
    return beta * dmargin, -beta * dmargin


def two_answers(
    triples: Sequence[tuple[str, str, str]], model: tuple[ModelConfig, Parameters], tokenizer: object
) -> tuple[Rows, tuple[np.ndarray, np.ndarray]]:
    """Questions with a chosen and a rejected answer -> rows, the chosen first, and the log p they have now."""
    pairs = [(question, chosen) for question, chosen, _ in triples] + [(question, bad) for question, _, bad in triples]
    rows = rows_of(pairs, tokenizer)  # type: ignore[arg-type]
    config, parameters = model
    log_p, _ = log_probability(forward(parameters, rows[0], config)[0], *rows[1:])
    return rows, (log_p[: len(triples)], log_p[len(triples) :])


def preference_and_gradients(
    parameters: Parameters, rows: Rows, reference: tuple[np.ndarray, np.ndarray], config: ModelConfig, beta: float
) -> tuple[np.floating, Parameters, np.ndarray]:
    """Loss, gradients of all parameters, and log p (2 n,) of all answers, the chosen ones first."""
    ids, targets, weights = rows
    logits, saved = forward(parameters, ids, config)
    log_p, saved_log_p = log_probability(logits, targets, weights)
    loss, saved_loss = preference(*np.split(log_p, 2), reference, beta)
    dlog_p = np.concatenate(preference_backward(np.ones((), logits.dtype), saved_loss))
    return loss, backward(log_probability_backward(dlog_p, saved_log_p), saved), log_p


POLITE = tuple((question, answer, f"Well, {answer[0].lower()}{answer[1:]}") for question, answer in PAIRS)
"""Question, the answer that is liked, and the same with a word before it."""


def undecided_model(n: int = 80) -> tuple[ModelConfig, Parameters, object]:
    """A small model that has been shown both ways to answer."""
    trainer = small_model()
    both = [pair for question, short, long in POLITE for pair in ((question, short), (question, long))]
    rows = rows_of(both, trainer.corpus.tokenizer)
    config, parameters = trainer.config, trainer.parameters
    for _ in descend(parameters, lambda step: answer_loss_and_gradients(parameters, rows, config), n, 3e-3):
        pass
    return config, parameters, trainer.corpus.tokenizer


if __name__ == "__main__":
    config, parameters, tokenizer = undecided_model()
    rows, reference = two_answers(POLITE, (config, parameters), tokenizer)

    # A model that has not moved: log 2. Then how both answers fare, and what is said in the end.
    loss, _, _ = preference_and_gradients(parameters, rows, reference, config, beta=0.2)
    print(f"before: loss {float(loss):.4f}, log 2 = {np.log(2):.4f}")
    told = []

    def one_step(step: int) -> tuple[np.floating, Parameters]:
        loss, gradients, log_p = preference_and_gradients(parameters, rows, reference, config, beta=0.2)
        told.append([float(loss), *(float(part.mean()) for part in np.split(log_p, 2))])
        return loss, gradients

    for _ in descend(parameters, one_step, 40, 1e-3):
        pass
    for step in (0, 13, 26, 39):
        print("step {:2}: loss {:.3f}, log p of the chosen {:6.2f}, of the rejected {:6.2f}".format(step, *told[step]))
    for question, liked, _ in POLITE[:3]:
        print(f"{question:24} {reply(parameters, config, tokenizer, question)!r:20} liked: {liked!r}")
