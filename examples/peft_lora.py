"""PEFT's LoRA on a model of any family: two thin matrices beside each linear map learn, and are merged into it.

    python examples/peft_lora.py --model tinygpt-tiny --out adapted
    positronic chat adapted/merged

OUT/adapter holds the thin matrices alone, a few per cent of the weights, in PEFT's form; OUT/merged is a checkpoint of
ours again, of the same family and size. `positronic lora` does the same for files of conversations.
"""

from pathlib import Path

from datasets import Dataset
from peft import LoraConfig
from start import CHATS, arguments, learn, settings
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

import positronic.adapters.hf  # noqa: F401  (registers the families)


def trainer(folder: Path, out: Path) -> SFTTrainer:
    rows = Dataset.from_list(CHATS)
    return SFTTrainer(
        AutoModelForCausalLM.from_pretrained(folder),
        SFTConfig(assistant_only_loss=True, max_length=128, **settings(out)),
        train_dataset=rows,
        eval_dataset=rows,
        processing_class=AutoTokenizer.from_pretrained(folder),
        peft_config=LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"),
    )


def main(words: list[str] | None = None) -> tuple[SFTTrainer, float, float]:
    folder, out = arguments(__doc__, words)
    training = trainer(folder, out)
    before, after = learn(training)
    training.model.save_pretrained(out / "adapter")
    training.model.merge_and_unload().save_pretrained(out / "merged")
    return training, before, after


if __name__ == "__main__":
    main()
