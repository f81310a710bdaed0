"""One small model whose next token is neither uniform nor certain, and proposers of known quality."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from positronic import models
from positronic.generation import GREEDY, Draft, Exact, Mode, Stop, TokenOutput, decode, prefill
from positronic.lm import LM
from positronic.mixers.attention import AttentionConfig
from positronic.mixers.swiglu import SwiGLUConfig
from positronic.models.transformer import TransformerConfig

VOCABULARY = 384
"""That of the byte tokenizer."""
EOT = 256
PROMPT = [72, 101, 108, 108, 111]


def small(seed: int = 0, **changes: Any) -> LM:
    """Two layers of width 64, louder than at the start of training: margins exist, and every branch matters."""
    config = TransformerConfig(
        vocab_size=VOCABULARY,
        d_model=64,
        context=128,
        max_positions=1024,
        n_layers=2,
        attention=AttentionConfig(n_heads=4, n_kv_heads=2, head_dim=16, rank=32, rope_dims=8),
        channel=SwiGLUConfig(hidden=96),
    ).replace(**changes)
    model = models.build(config, seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():  # type: ignore[attr-defined]
            if weight.dim() == 2:
                weight.mul_(6.0 if name.startswith("embed") else 16.0)
            if name == "head.scale":
                weight.fill_(1.5)
    return model


def run(model: LM, prompt: Sequence[int] = PROMPT, n: int = 100, *, exact: Exact | None = None, **how: Any):
    """All emissions of `n` tokens after a prompt, the stop tokens in `ends` aside."""
    ends = how.pop("ends", {})
    state, hidden = prefill(model, model.init_state(1, capacity=exact.room if exact else 0), [prompt[:-1]], Mode(exact))
    how = {"sampler": GREEDY, "stop": Stop(tokens=ends, max_new_tokens=n)} | how
    return list(decode(model, state, prompt[-1], history=prompt, hidden=hidden, exact=exact, **how))


def ids(emissions: Sequence[TokenOutput]) -> list[int]:
    return [emission.token for emission in emissions]


class Oracle:
    """Knows the text: proposes its true continuation, wrong from draft token `wrong_from` on."""

    def __init__(self, text: Sequence[int], prompt: int = len(PROMPT), k: int = 4, wrong_from: int | None = None):
        self.text, self.prompt, self.k, self.wrong_from = list(text), prompt, k, wrong_from

    def propose(self, hidden: Tensor | None, history: Sequence[int], room: int) -> Draft:
        said = len(history) - self.prompt
        draft = self.text[said : said + min(self.k, room)]
        wrong = len(draft) if self.wrong_from is None else self.wrong_from
        return Draft(tuple(draft[:wrong] + [(token + 1) % VOCABULARY for token in draft[wrong:]]))


class Blind:
    """Proposes tokens drawn blindly, of blindly drawn number."""

    def __init__(self, k: int = 4, seed: int = 0):
        self.k, self.generator = k, torch.Generator().manual_seed(seed)

    def propose(self, hidden: Tensor | None, history: Sequence[int], room: int) -> Draft:
        n = min(room, int(torch.randint(0, self.k + 1, (), generator=self.generator)))
        return Draft(tuple(torch.randint(VOCABULARY, (n,), generator=self.generator).tolist()))


class Wavering:
    """The oracle, wrong from a blindly drawn place on: every pattern of acceptance occurs."""

    def __init__(self, text: Sequence[int], k: int = 4, seed: int = 0):
        self.oracle, self.generator = Oracle(text, k=k), torch.Generator().manual_seed(seed)

    def propose(self, hidden: Tensor | None, history: Sequence[int], room: int) -> Draft:
        self.oracle.wrong_from = int(torch.randint(0, self.oracle.k + 2, (), generator=self.generator))
        return self.oracle.propose(hidden, history, room)
