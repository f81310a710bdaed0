"""One small model whose next token is neither uniform nor certain, and proposers of known quality."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from positronic import models
from positronic.generation import Draft
from positronic.lm import LM
from positronic.mixers.attention import AttentionConfig
from positronic.mixers.swiglu import SwiGLUConfig
from positronic.models.transformer import TransformerConfig

VOCABULARY = 384  # that of the byte tokenizer


def small(seed: int = 0, **changes: object) -> LM:
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


@pytest.fixture(scope="session")
def model() -> LM:
    return small()


class Oracle:
    """Knows the text: proposes its true continuation, wrong from draft token `wrong_from` on."""

    def __init__(self, text: Sequence[int], prompt: int, k: int = 4, wrong_from: int | None = None):
        self.text, self.prompt, self.k, self.wrong_from = list(text), prompt, k, wrong_from

    def propose(self, hidden: Tensor | None, history: Sequence[int], room: int) -> Draft:
        said = len(history) - self.prompt
        draft = self.text[said : said + min(self.k, room)]
        wrong = len(draft) if self.wrong_from is None else self.wrong_from
        return Draft(tuple(draft[:wrong] + [(token + 1) % VOCABULARY for token in draft[wrong:]]))


class Noise:
    """Proposes tokens drawn blindly, of blindly drawn number."""

    def __init__(self, k: int = 4, seed: int = 0):
        self.k, self.generator = k, torch.Generator().manual_seed(seed)

    def propose(self, hidden: Tensor | None, history: Sequence[int], room: int) -> Draft:
        n = min(room, int(torch.randint(1, self.k + 1, (), generator=self.generator)))
        return Draft(tuple(torch.randint(VOCABULARY, (n,), generator=self.generator).tolist()))
