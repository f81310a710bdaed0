"""The recipe of the small pipeline: 5,000 steps over rows of 512 tokens, whatever the family.

    rate   3e-4, up over 500 steps (a tenth of a shorter run), then half a cosine to a tenth of it
    AdamW  weight decay 0.1, gradients clipped at 1

What differs between machines is how many tokens an update has (`fit`); what differs between families is nothing.
"""

from collections.abc import Sequence

from positronic.config import ModelConfig, did_you_mean
from positronic.errors import ConfigError
from positronic.models import preset
from positronic.recipes.config import RunConfig
from positronic.train import AdamWConfig, ScheduleConfig, TrainConfig

__all__ = ["CONTEXT", "MIXERS", "SENTENCEPIECE", "STEPS", "VALID_BYTES", "VOCABULARY", "tiny_model", "tiny_run"]

STEPS, CONTEXT, WARMUP = 5000, 512, 500
SAVE_EVERY, EVALUATE_EVERY, VALID_BYTES = 200, 500, 50_000
MIXERS = {
    "attention": {"15m": "tinygpt-15m", "tiny": "tinygpt-tiny"},
    "oscillator": {"15m": "positronic-15m", "tiny": "positronic-tiny"},
    "colony": {"15m": "mycel-10m", "tiny": "mycel-tiny"},
    "metric": {"15m": "moa-20m", "tiny": "moa-tiny"},
    "hybrid": {"15m": "chimera-10m", "tiny": "chimera-tiny"},
}
"""Family -> size -> preset; sizes are names, as close as the presets of a family come."""
VOCABULARY = {"15m": 16_512, "tiny": 4096}
"""Entries of the tokenizer: of a tiny model, a larger one would be most of the weights."""
SENTENCEPIECE = {"15m": 16_000, "tiny": 4096}
"""The same where SentencePiece learns it."""


def tiny_model(mixer: str, size: str, context: int = CONTEXT) -> ModelConfig:
    """The model of a family and size."""
    for name, known in ((mixer, MIXERS), (size, VOCABULARY)):
        if name not in known:
            raise ConfigError(f"There is no {name!r} among {', '.join(known)}. {did_you_mean(name, known)}")
    return preset(MIXERS[mixer][size]).replace(context=context)


def tiny_run(
    model: ModelConfig,
    data: Sequence[str],
    *,
    batch_tokens: int,
    micro_rows: int | None = None,
    steps: int = STEPS,
    seed: int = 0,
) -> RunConfig:
    """The run; validations read 50 kB of what is held out of `data`."""
    return RunConfig(
        model=model,
        data=tuple(data),
        valid_bytes=VALID_BYTES,
        model_seed=seed,
        data_seed=seed,
        train=TrainConfig(
            steps=steps,
            batch_tokens=batch_tokens,
            micro_rows=micro_rows,
            optimizer=AdamWConfig(lr=3e-4, weight_decay=0.1),
            schedule=ScheduleConfig(shape="cosine", warmup=min(WARMUP, steps // 10)),
            clip=1.0,
            seed=seed,
            checkpoint_every=SAVE_EVERY,
            evaluate_every=EVALUATE_EVERY,
        ),
    )
