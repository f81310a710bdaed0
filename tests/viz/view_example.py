"""Small models with open gates, one a family, and a recording of each: what pages are made of in these tests."""

import torch

from positronic.generation import SamplingParams
from positronic.mixers.attention import AttentionConfig
from positronic.mixers.swiglu import SwiGLUConfig
from positronic.models import build
from positronic.models.mycel import mycel_tiny
from positronic.models.quazimoto import positronic_tiny
from positronic.models.transformer import TransformerConfig
from positronic.text import byte_tokenizer

TOKENIZER = byte_tokenizer()
PROMPT = "A lamp </script><b>"
SAMPLER = SamplingParams(temperature=0.8, seed=3)


def opened(model, tanh: float = 0.5):
    """Gates open, values that start at zero filled, matrices large enough that every part says something."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.rpartition(".")[2] == "g":
                p.fill_(torch.atanh(torch.tensor(tanh)))
            elif not p.any():
                p.normal_(0.0, 0.2, generator=generator)
            elif p.dim() == 2 and not name.endswith(("coupling", "centres")):
                p.mul_(6.0 if name.startswith("embed") else 3.0)
    return model.eval()


def oscillators():
    """positronic-tiny, smaller still."""
    return smaller(positronic_tiny())


def smaller(config):
    """Two layers of a family, with the organs that it has."""
    config = config.replace(d_model=48, context=64, max_positions=256, n_layers=2)
    attention = config.attention.replace(head_dim=16, rank=24, rope_dims=8)
    fitted = config.replace(attention=attention).fitted(TOKENIZER.vocab_size, TOKENIZER.eot_id)
    return opened(build(fitted, 1, tokenizer=TOKENIZER))


def colony():
    """mycel-tiny, smaller still."""
    return smaller(mycel_tiny())


def transformer():
    config = TransformerConfig(
        vocab_size=TOKENIZER.vocab_size,
        d_model=24,
        context=32,
        max_positions=96,
        n_layers=2,
        attention=AttentionConfig(n_heads=2, n_kv_heads=1, head_dim=8, rank=None, rope_dims=4),
        channel=SwiGLUConfig(hidden=32),
    )
    return opened(build(config, 1))
