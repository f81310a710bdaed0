"""TRL's `DPOTrainer` on a model of any family: of two answers to a question, one is preferred.

    python examples/trl_dpo.py --model moa-tiny --out preferred
    positronic chat preferred/tuned

The reference is the folder that the model came from, so that the first loss is log 2. `positronic dpo` minimises the
same on our own loop, packed, resumable, and with the losses of organs and heads.
"""

from pathlib import Path

from datasets import Dataset
from start import PAIRS, arguments, learn, settings
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer

import positronic.adapters.hf  # noqa: F401  (registers the families)


def trainer(folder: Path, out: Path) -> DPOTrainer:
    rows = Dataset.from_list(PAIRS)
    how = settings(out, learning_rate=1e-3, per_device_train_batch_size=4)
    return DPOTrainer(
        AutoModelForCausalLM.from_pretrained(folder),
        args=DPOConfig(beta=0.1, max_length=128, **how),
        train_dataset=rows,
        eval_dataset=rows,
        processing_class=AutoTokenizer.from_pretrained(folder),
    )


def main(words: list[str] | None = None) -> tuple[DPOTrainer, float, float]:
    folder, out = arguments(__doc__, words)
    training = trainer(folder, out)
    before, after = learn(training)
    training.save_model(str(out / "tuned"))
    return training, before, after


if __name__ == "__main__":
    main()
