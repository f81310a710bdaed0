"""TRL's `SFTTrainer` on a model of any family: assistant-only loss, short chats packed into full rows.

    python examples/trl_sft.py --model positronic-tiny --out answers
    positronic chat answers/tuned

Packed chats begin again at position 0, and there a document of ours begins: neither attention nor any memory of a
family reaches into the next chat. TRL adds up a loss of its own, from hidden vectors and the embedding; Transformers'
`Trainer` asks the model for its loss, which has z-loss and the parts of draft heads and organs. So its way is taken.
"""

from pathlib import Path

from datasets import Dataset
from start import CHATS, arguments, learn, settings
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer
from trl import SFTConfig, SFTTrainer

import positronic.adapters.hf  # noqa: F401  (registers the families)


class WholeLoss(SFTTrainer):
    """TRL's rows and masks; the loss of the model."""

    compute_loss = Trainer.compute_loss


def trainer(folder: Path, out: Path) -> SFTTrainer:
    rows = Dataset.from_list(CHATS)
    how = settings(out, per_device_train_batch_size=2)  # rows of some five chats each
    return WholeLoss(
        AutoModelForCausalLM.from_pretrained(folder),
        SFTConfig(assistant_only_loss=True, packing=True, eval_packing=False, max_length=128, **how),
        train_dataset=rows,
        eval_dataset=rows,
        processing_class=AutoTokenizer.from_pretrained(folder),
    )


def main(words: list[str] | None = None) -> tuple[SFTTrainer, float, float]:
    folder, out = arguments(__doc__, words)
    training = trainer(folder, out)
    before, after = learn(training)
    training.save_model(str(out / "tuned"))
    return training, before, after


if __name__ == "__main__":
    main()
