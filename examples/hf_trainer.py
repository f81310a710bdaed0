"""Transformers' `Trainer` on a model of any family: it learns to answer, and only its answers are learned.

    python examples/hf_trainer.py --model mycel-tiny --out answers
    positronic chat answers/tuned

The chat template marks what the assistant says, so that a label stands there and nowhere else. In training the loss has
the parts of organs and draft heads too. What is saved is a checkpoint of ours.
"""

from pathlib import Path

from start import CHATS, arguments, learn, settings
from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForSeq2Seq, Trainer, TrainingArguments

import positronic.adapters.hf  # noqa: F401  (registers the families)


def labelled(tokenizer, chat: dict) -> dict:
    """A chat as tokens, labelled where the assistant speaks."""
    found = tokenizer.apply_chat_template(chat["messages"], return_dict=True, return_assistant_tokens_mask=True)
    spoken = zip(found["input_ids"], found["assistant_masks"], strict=True)
    return {"input_ids": found["input_ids"], "labels": [token if said else -100 for token, said in spoken]}


def trainer(folder: Path, out: Path) -> Trainer:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = [labelled(tokenizer, chat) for chat in CHATS]
    return Trainer(
        AutoModelForCausalLM.from_pretrained(folder),
        TrainingArguments(**settings(out)),
        data_collator=DataCollatorForSeq2Seq(tokenizer),
        train_dataset=rows,
        eval_dataset=rows,
        processing_class=tokenizer,
    )


def main(words: list[str] | None = None) -> tuple[Trainer, float, float]:
    folder, out = arguments(__doc__, words)
    training = trainer(folder, out)
    before, after = learn(training)
    training.save_model(str(out / "tuned"))
    return training, before, after


if __name__ == "__main__":
    main()
