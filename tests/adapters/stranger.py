"""A process that does not have positronic: what it makes of exported folders, as JSON.

    python stranger.py JOBS.json

Each job names a folder, tokens to read and a prompt; HF_MODULES_CACHE says where Transformers puts the folder's code.
"""

import json
import sys
from pathlib import Path


class Absent:
    """Stands before all other finders and knows that positronic is nowhere."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "positronic":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Absent())

import torch  # noqa: E402
from transformers import (  # noqa: E402
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    pipeline,
    utils,
)

utils.logging.set_verbosity_error()
utils.logging.disable_progress_bar()
TRUST = {"trust_remote_code": True}


def said(model, prompt, **how):
    ids = torch.tensor([prompt])
    return model.generate(ids, max_new_tokens=16, do_sample=False, eos_token_id=None, **how)[0, len(prompt) :].tolist()


def loss_of(model, tokens):
    """The loss in training, organs' and heads' parts included, and how much of the gradient there is."""
    model.train()
    loss = model(tokens, labels=tokens).loss
    loss.backward()
    reached = sum(float(p.grad.abs().sum()) > 0 for p in model.parameters() if p.grad is not None)
    model.eval()
    return loss.item(), reached


def answers(job):
    folder, tokens = job["folder"], torch.tensor(job["tokens"])
    config = AutoConfig.from_pretrained(folder, **TRUST)
    model = AutoModelForCausalLM.from_pretrained(folder, **TRUST)
    tokenizer = AutoTokenizer.from_pretrained(folder, **TRUST)
    with torch.no_grad():
        logits = model(tokens).logits
        hidden = AutoModel.from_pretrained(folder, **TRUST)(tokens).last_hidden_state
        same = torch.equal(model.get_output_embeddings()(hidden), logits)
    chat = [{"role": "user", "content": "Hello"}]
    typed = [{"role": "user", "content": "<|im_end|>\n<|im_start|>"}]
    speaker = pipeline("text-generation", model=folder, **TRUST)
    found = {
        "logits": logits.tolist(),
        "dtype": str(logits.dtype),
        "base_model_agrees": same,
        "classes": [type(each).__module__.split(".")[0] for each in (config, model)],
        "tokenizer": type(tokenizer).__name__,
        "prompt": tokenizer("Hello")["input_ids"],
        "chat": tokenizer.apply_chat_template(chat, tokenize=False),
        "typed": tokenizer.apply_chat_template(typed, return_dict=True)["input_ids"],
        "cached": said(model, job["prompt"]),
        "uncached": said(model, job["prompt"], use_cache=False),
        "drafted": said(model, job["prompt"], prompt_lookup_num_tokens=3),
        "stopped": said(model, job["prompt"], stop_strings=["\x00"], tokenizer=tokenizer),
        "hidden": len(model(tokens, output_hidden_states=True).hidden_states),
        "scored": list(AutoModelForSequenceClassification.from_pretrained(folder, **TRUST)(tokens).logits.shape),
        "spoken": [
            speaker(text, max_new_tokens=4, do_sample=False, return_full_text=False)[0]["generated_text"]
            for text in ("Hello", chat)
        ],
        "loss": loss_of(model, tokens),
    }
    model.save_pretrained(job["again"])
    tokenizer.save_pretrained(job["again"])
    again = AutoModelForCausalLM.from_pretrained(job["again"], **TRUST)
    with torch.no_grad():
        found["kept"] = torch.equal(again(tokens).logits, logits)
    return found


def refusal(folder, **how):
    try:
        AutoModelForCausalLM.from_pretrained(folder, **how)
    except (ValueError, OSError) as error:
        return f"{error}"
    return None


torch.set_num_threads(1)
asked = json.loads(Path(sys.argv[1]).read_text())
told = {name: answers(job) for name, job in asked["jobs"].items()}
told["refused"] = {folder: refusal(folder, trust_remote_code=False) for folder in asked["refused"]}
told["broken"] = {}
for broken in asked["broken"]:
    try:
        AutoModelForCausalLM.from_pretrained(broken, **TRUST)
    except Exception as error:
        told["broken"][broken] = f"{type(error).__name__}: {error}"
told["ours"] = sorted(name for name in sys.modules if name.partition(".")[0] == "positronic")
print(json.dumps(told))
