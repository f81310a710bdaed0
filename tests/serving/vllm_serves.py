"""Run by `make vllm-test` in an environment of its own: vLLM says what our decoder says, token for token.

    python tests/serving/vllm_serves.py FOLDER      FOLDER is emptied and filled with three tiny checkpoints

A tiny control and a tiny Mycel are trained for a moment and served: many prompts in one batch, greedy, offline; the
control once more through the HTTP server. A tiny Positronic is refused, and Mycel too unless its stores are frozen.
"""

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")

from positronic import generate
from positronic.checkpoint import load
from positronic.errors import ConfigError
from positronic.models import preset
from positronic.recipes import RunConfig, train_run
from positronic.text import byte_tokenizer
from positronic.train import TrainConfig

PROMPTS = ("The ", "A model is", "def f(x):", "Once upon a time there was", "0, 1, 2, 3,", "x")
TOKENS, STEPS, PORT = 24, 40, 8971


def main() -> None:
    root = Path(sys.argv[1])
    shutil.rmtree(root, ignore_errors=True)
    folders = {name: trained(name, root) for name in ("control-tiny", "mycel-tiny", "positronic-tiny")}
    same("control-tiny", folders["control-tiny"], {})
    same("mycel-tiny, stores frozen", folders["mycel-tiny"], {"freeze_memory": True})
    refused("mycel-tiny", folders["mycel-tiny"], "freeze_memory")
    refused("positronic-tiny", folders["positronic-tiny"], "positronic chat")
    over_http(folders["control-tiny"])
    print("vLLM says what we say.")


def trained(name: str, root: Path) -> Path:
    """A tiny model of bytes that has read this repository's own words."""
    text = Path(__file__).parents[2] / "README.md"
    config = preset(name)
    config = config.replace(vocab_size=byte_tokenizer().vocab_size, n_layers=2)
    train = TrainConfig(steps=STEPS, seq_len=128, batch_tokens=512, evaluate_every=0, checkpoint_every=0)
    run = RunConfig(model=config, data=(str(text),), train=train)
    train_run(run, root / name, tokenizer=byte_tokenizer(), device="cpu", cache=root / "cache")
    return root / name / "last"


def ours(folder: Path, prompt: str) -> list[int]:
    model, tokenizer = load(folder)
    pieces = generate(model, tokenizer, prompt, temperature=0, max_new_tokens=TOKENS, freeze_memory=True)
    return list(list(pieces)[-1].result.tokens)


def engine(folder: Path, overrides: dict[str, object]):
    from vllm import LLM

    return LLM(model=str(folder), dtype="float32", max_model_len=256, enforce_eager=True, hf_overrides=overrides)


def same(name: str, folder: Path, overrides: dict[str, object]) -> None:
    from vllm import SamplingParams

    tokenizer = load(folder)[1]
    served = engine(folder, overrides)
    asked = [{"prompt_token_ids": tokenizer.encode(prompt)} for prompt in PROMPTS]
    answers = served.generate(asked, SamplingParams(temperature=0, max_tokens=TOKENS))
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        theirs, wanted = list(answer.outputs[0].token_ids), ours(folder, prompt)
        assert theirs[: len(wanted)] == wanted, f"{name}, {prompt!r}: vLLM says {theirs}, we say {wanted}"
    print(f"{name}: {len(PROMPTS)} prompts, {TOKENS} tokens each, the same")


def refused(name: str, folder: Path, says: str) -> None:
    reason = ""
    try:
        engine(folder, {})
    except ConfigError as error:
        reason = str(error)
    assert says in reason, f"{name} is refused with {reason!r}, which does not say {says!r}"
    print(f"{name}: refused. {reason}")


def over_http(folder: Path) -> None:
    """The server's own start, as the documentation gives it."""
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder)]
    flags = ["--dtype", "float32", "--max-model-len", "256", "--enforce-eager", "--port", str(PORT)]
    server = subprocess.Popen([*command, *flags])
    try:
        body = {"model": str(folder), "prompt": PROMPTS[3], "temperature": 0, "max_tokens": TOKENS}
        answer = asked_until_it_answers(server, body)
        wanted = load(folder)[1].decode(ours(folder, PROMPTS[3]))
        assert answer["choices"][0]["text"] == wanted, (answer["choices"][0]["text"], wanted)
        print(f"over HTTP: {PROMPTS[3] + wanted!r}")
    finally:
        server.terminate()
        server.wait()


def asked_until_it_answers(server: "subprocess.Popen[bytes]", body: dict[str, object]) -> dict:
    request = urllib.request.Request(
        f"http://127.0.0.1:{PORT}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    while True:
        assert server.poll() is None, "the server has ended"
        try:
            with urllib.request.urlopen(request, timeout=3600) as response:
                return json.load(response)
        except OSError:
            time.sleep(1)


if __name__ == "__main__":
    main()
