"""Copies of the data sets of all published blends, as they lie on the Hugging Face hub."""

import json
from pathlib import Path

import datasets

from positronic.data import DataSpec
from positronic.recipes import BLENDS, blend

__all__ = ["PUBLISHED", "copy_all"]

PUBLISHED = [name for name, found in BLENDS.items() if found.take is not None]


def turns(i):
    return [{"role": "user", "content": f"Question {i}?"}, {"role": "assistant", "content": f"The answer is {i}."}]


def said(i):
    return [
        {"from": "user", "value": f"Why {i}?"},
        {"from": "assistant", "value": f"<think>\nHm, {i}.\n</think>\n\nSo."},
    ]


ROWS = {
    "openbmb/Ultra-FineWeb-L3": lambda i: {"uid": str(i), "content": f"Page {i} of the web. " * 9, "style": "qa"},
    "HuggingFaceFW/fineweb-edu": lambda i: {"text": f"Lesson {i} of the school. " * 9, "id": str(i), "score": 3.5},
    "HuggingFaceTB/finemath": lambda i: {"url": "u", "text": f"{i} + {i} = {2 * i}, as was shown. " * 9, "score": 4.0},
    "Quazim0t0/PretrainNew": lambda i: {"text": f"Something new, number {i}. " * 9},
    "mlabonne/ultrachat_200k_sft": lambda i: {"prompt": "p", "prompt_id": "x", "messages": turns(i)},
    "mlabonne/ultrafeedback-sft": lambda i: {"conversations": said(i)},
    "openbmb/UltraData-SFT-2605": lambda i: {
        "uid": str(i),
        "messages": [{**turn, "reasoning_content": None} for turn in turns(i)],
    },
    "volcanos/OpenThoughts2-1M-ShortThink": lambda i: {"conversations": said(i), "source": "s"},
    "WeMake/Intelligent-Content-Understanding": lambda i: {"text": f"Content {i} is understood. " * 9},
    "QingyiSi/Alpaca-CoT": lambda i: {"instruction": f"Say {i}.", "input": "", "output": f"It is {i}."},
    "HuggingFaceH4/MATH-500": lambda i: {"problem": f"{i}?", "solution": f"It is {i}.", "answer": str(i), "level": 1},
    "zai-org/LongWriter-6k": lambda i: {"messages": turns(i)},
    "prithivMLmods/Deepthink-Reasoning": lambda i: {"prompt": f"{i}?", "response": f"Deeply thought, {i}."},
}
SPLITS = {"mlabonne/ultrachat_200k_sft": "train_sft"}
"""Where it is not the one that the blend names, or train."""


def copy_all(root: Path, n: int = 60) -> None:
    """The repositories of all data sets below a folder, at OWNER/NAME, n rows each."""
    for part in (part for name in PUBLISHED for part in blend(name).parts):
        wanted = DataSpec.parse(part.source).path
        folder = root / wanted.name
        folder.mkdir(parents=True)
        rows = [ROWS[wanted.name](i) for i in range(n)]
        if wanted.files is not None:
            (folder / wanted.files).parent.mkdir()
            (folder / wanted.files).write_text(json.dumps(rows))
            (folder / "other.json").write_text(json.dumps([{"another": "shape"}]))
            continue
        datasets.Dataset.from_list(rows).to_parquet(folder / "rows.parquet")
        config = wanted.config or "default"
        split = wanted.split or SPLITS.get(wanted.name, "train")
        card = ["---", "configs:"]
        for name in (config, "another") if wanted.config else (config,):
            card += [f"- config_name: {name}", "  data_files:", f"  - split: {split}", "    path: rows.parquet"]
        (folder / "README.md").write_text("\n".join([*card, "---", "# A copy"]))
