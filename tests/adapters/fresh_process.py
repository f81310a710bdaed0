"""What a process that has only the folders finds in them: `python fresh_process.py ANSWERS FOLDER ...`."""

import json
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

import positronic.adapters.hf  # noqa: F401  (registers)

PROMPTS = ["Hello", "The lamp", "a"]
CHAT = [{"role": "user", "content": "3 + 4?"}]
NEW = 16


def answers(folder: str) -> dict:
    """Logits, greedy tokens by row with and without a cache and in one padded batch, and what the pipeline says."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    how = {"max_new_tokens": NEW, "do_sample": False, "eos_token_id": None}

    def said(texts: list[str], **more) -> list[list[int]]:
        rows = tokenizer(texts, return_tensors="pt", padding=True, padding_side="left")
        return model.generate(**rows, **how, **more)[:, -NEW:].tolist()

    pipe = pipeline("text-generation", model=model, tokenizer=tokenizer)
    with torch.no_grad():
        logits = model(**tokenizer(PROMPTS[1], return_tensors="pt")).logits[0]
    return {
        "logits": logits.tolist(),
        "alone": [said([text])[0] for text in PROMPTS],
        "uncached": [said([text], use_cache=False)[0] for text in PROMPTS],
        "together": said(PROMPTS),
        "pipeline": [one[0]["generated_text"] for one in pipe(PROMPTS, return_full_text=False, **how)],
        "chat": pipe(CHAT, **how)[0]["generated_text"][-1],
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    with open(sys.argv[1], "w", encoding="utf-8") as file:
        json.dump({folder: answers(folder) for folder in sys.argv[2:]}, file)
