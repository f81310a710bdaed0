"""lm-eval on a model of any family: on a local file, on text, and by lm-eval's own Transformers model.

    python examples/lm_eval_tasks.py --model positronic-tiny --out scores

The first way batches as `positronic eval` does and needs no Transformers. The second is what `lm_eval --model hf` runs
once the families are registered: the same scores, by lm-eval's own loop. Tasks of lm-eval's list are named in place
of ours where there is a network: `positronic eval FOLDER --tasks hellaswag --harness lm-eval`.
"""

import json

import lm_eval
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from start import NUMBERS, arguments
from transformers import AutoModelForCausalLM, AutoTokenizer

import positronic
import positronic.adapters.hf
from positronic.adapters.lm_eval import Harness, evaluate, local_task
from positronic.data import Document
from positronic.eval import open_task


def main(words: list[str] | None = None) -> dict[str, float]:
    folder, out = arguments(__doc__, words)
    asked = [
        {"query": f"{a} + {b}? It is", "choices": [f"{a + b}.", f"{a + b + 1}.", "a dog."], "gold": 0}
        for a, b in NUMBERS[:16]
    ]
    out.mkdir(parents=True, exist_ok=True)
    (out / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked), "utf-8")

    lm = Harness(*positronic.load(folder))
    ours = evaluate(lm, ["sums"], out, texts={"text": [Document("One and one is two. " * 20, "text")]})

    theirs = HFLM(
        AutoModelForCausalLM.from_pretrained(folder), tokenizer=AutoTokenizer.from_pretrained(folder), batch_size=4
    )
    task, few = local_task(open_task("sums", out)), TaskManager(include_defaults=False)
    found = lm_eval.simple_evaluate(theirs, tasks=[task], task_manager=few, bootstrap_iters=0)["results"]["sums"]

    scores = {"ours": ours["sums"]["acc"], "hf": found["acc,none"], "bits_per_byte": ours["text"]["bits_per_byte"]}
    print(json.dumps(scores))
    return scores


if __name__ == "__main__":
    main()
