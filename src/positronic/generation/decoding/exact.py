"""Exact decoding: drafted text equals plain text bit for bit, because every forward has the same number of rows.

Matrix products round differently for different numbers of rows. At one fixed number a row's bits depend neither on its
place nor on its neighbours, on most machines, widths and thread counts: not on all. So the width is the first of 5, 8
and 16 that passes a test of the model itself, at the present number of threads, and failing that on one thread.

The test, for tokens x_1 .. x_2T after a short beginning, T the width:

    one by one      2T forwards, x_j in row 0 and token 0 in the others
    T at once       T + 1 forwards, from x_1, x_2, .. on: every token in several rows, the last row T + 1 times

must give the same hidden vectors and logits to the bit. It runs every matrix of the model at its own shape, the head,
and attention over the whole preallocated buffer. The last row is tried most because it is where elementwise functions
of some backends leave their vector code, if a row does not fill whole registers.

Measured on torch 2.13, CPU: on one thread width 5 passes; on two, 5, 6 and 10 fail on nearly every shape and 4, 8, 12
and 16 pass. Batch size is part of the width: the promise holds for one row.
"""

import logging

import numpy as np
import torch

from positronic.errors import GenerationError
from positronic.generation.decoding.forward import Exact, Mode, Verified, prefill, verify
from positronic.lm import LM

__all__ = ["Exact", "find_exact", "rows_agree"]

WIDTHS = 5, 8, 16
BEGINNING = 11
"""Tokens read before the test, so that attention has something to look at."""

log = logging.getLogger(__name__)


def find_exact(model: LM, room: int) -> Exact:
    """The first width that passes at the present number of threads, else on one; none at all is a `GenerationError`.

    room is the number of tokens the sequence may reach; the state is then `model.init_state(1, capacity=exact.room)`.
    """
    present = torch.get_num_threads()
    for threads in dict.fromkeys((present, 1)):
        for width in WIDTHS:
            exact = Exact(width, threads, max(room, BEGINNING + 2 * width) + width)
            if rows_agree(model, exact):
                if threads != present:
                    log.warning("exact decoding runs on one thread: no width of %s passes on %s", WIDTHS, present)
                return exact
    raise GenerationError(
        f"Exact decoding is not possible here: at none of the widths {WIDTHS} do this backend's rows keep their bits, "
        f"not even on one thread. Decode without exact."
    )


@torch.no_grad()
def rows_agree(model: LM, exact: Exact) -> bool:
    """Whether a token's hidden vector and logits have the same bits in every row and beside any other rows."""
    width, mode = exact.width, Mode(exact)
    drawn = np.random.default_rng(0).integers(0, model.config.vocab_size, BEGINNING + 2 * width).tolist()
    tokens = drawn[BEGINNING:]
    with exact.threads_set():
        state, _ = prefill(model, model.init_state(1, capacity=exact.room), [drawn[:BEGINNING]], mode)
        same = torch.zeros(1, dtype=torch.long, device=state.position.device)
        together: list[Verified] = []
        for place, token in enumerate(tokens):
            if place <= width:
                together.append(verify(model, [tokens[place : place + width]], state.select(same), mode))
            alone = verify(model, [[token]], state, mode)
            rows = ((place - first, block) for first, block in enumerate(together))
            if not all(_agree(block, row, alone) for row, block in rows if row < width):
                return False
            state = alone.state.commit([0])
    return True


def _agree(block: Verified, row: int, alone: Verified) -> bool:
    """Whether this row of a block has the bits of the token that was read alone."""
    return torch.equal(block.hidden[row], alone.hidden[0]) and torch.equal(block.logits[row], alone.logits[0])
