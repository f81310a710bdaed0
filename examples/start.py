"""What the examples begin from: a model of any family in a folder, sixty-four rows to learn, and settings for a CPU."""

import argparse
from pathlib import Path
from typing import Any

from positronic.checkpoint import save
from positronic.models import build, preset
from positronic.text import byte_tokenizer

NUMBERS = [(a, b) for a in range(8) for b in range(8)]
ASKED = [[{"role": "user", "content": f"{a} + {b}?"}] for a, b in NUMBERS]
ANSWERS = [[{"role": "assistant", "content": f"It is {a + b}."}] for a, b in NUMBERS]
CHATS = [{"messages": asked + answer} for asked, answer in zip(ASKED, ANSWERS, strict=True)]
OTHER = [{"role": "assistant", "content": "Who knows."}]
PAIRS = [{"prompt": asked, "chosen": ANSWERS[i], "rejected": OTHER} for i, asked in enumerate(ASKED)]


def arguments(about: str, words: list[str] | None) -> tuple[Path, Path]:
    """The folder of the model and the folder to write to, as the command line names them."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="positronic-tiny", help="a preset, for a new model on bytes; or a folder")
    parser.add_argument("--out", type=Path, required=True, help="where to write")
    given = parser.parse_args(words)
    return (Path(given.model) if Path(given.model).is_dir() else new(given.model, given.out / "new")), given.out


def new(name: str, folder: Path) -> Path:
    """A new model of a preset, on bytes, as a checkpoint."""
    tokenizer = byte_tokenizer()
    config = preset(name).fitted(tokenizer.vocab_size, tokenizer.eot_id)
    return save(folder, build(config, tokenizer=tokenizer), tokenizer)


def settings(out: Path, **others: Any) -> dict[str, Any]:
    """What any trainer is told: thirty steps of eight rows on a CPU."""
    common = {"max_steps": 30, "per_device_train_batch_size": 8, "per_device_eval_batch_size": 32}
    device = {"use_cpu": True, "bf16": False, "activation_checkpointing": False}  # TRL would switch both on
    rate = {"learning_rate": 1e-2, "lr_scheduler_type": "constant_with_warmup", "warmup_steps": 3}
    written = {"output_dir": str(out), "save_strategy": "no", "report_to": [], "logging_steps": 10}
    return common | device | rate | written | others


def learn(trainer: Any) -> tuple[float, float]:
    """Train; the loss on all rows before and after."""
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    after = trainer.evaluate()["eval_loss"]
    print(f"loss on all {len(NUMBERS)} rows: {before:.3f} -> {after:.3f}")
    return before, after
