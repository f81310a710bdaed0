"""LoRA by PEFT: two thin matrices beside each linear map learn from conversations, and may be merged into it.

    W x  ->  W x + (alpha / rank) B A x        A (rank, n_in) drawn, B (n_out, rank) zero: silent when new

By default every linear map is adapted that a token passes through. Routers and decoders of stores are matrices with
arithmetic of their own, beside which PEFT puts nothing, and heads pass no token on. The loop is Transformers'
`Trainer`; rows, labels and losses of organs and heads are those of `positronic sft`, so that the two differ in what is
allowed to move.

Source   Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", arXiv 2106.09685, eq. 3.
"""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Annotated, Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import IterableDataset

from positronic.checkpoint import RunFolder, vacant
from positronic.checkpoint.atomic import writing
from positronic.checkpoint.reading import reason
from positronic.config import AtMost, Config, ModelConfig, did_you_mean
from positronic.data import NAMES, UNFILLED, Mixture, chat_mixture
from positronic.errors import CheckpointError, ConfigError, TrainingError
from positronic.lm import LM
from positronic.text import Tokenizer
from positronic.train import Observer, pick_device
from positronic.train.nonfinite import first_unsound

try:
    import peft
    from transformers import AutoModelForCausalLM, PrinterCallback, Trainer, TrainerCallback, TrainingArguments
    from transformers.utils.logging import disable_progress_bar

    from positronic.adapters.hf import PositronicForCausalLM
    from positronic.adapters.hf.loss import IGNORED
    from positronic.adapters.lora_folder import ADAPTER, LoRAFolder, step_of
except ImportError as error:
    raise ImportError("LoRA needs PEFT and Transformers: pip install 'positronic[hf]'.") from error

__all__ = ["LoRAConfig", "Tuned", "adapted", "linear_maps", "names_of", "read_settings", "tune"]

SETTINGS = "lora.json"
ROWS_AT_ONCE = 8
"""Rows of one forward pass; a larger batch is several."""


@dataclass(frozen=True, kw_only=True)
class LoRAConfig(Config, kind="lora"):
    """What is adapted, to what, and how."""

    model: str
    """Checkpoint that the thin matrices stand beside."""
    data: tuple[str, ...]
    """Conversations, PATH[:weight] each."""
    fill_names: bool = False
    """Whether {{name}} and {{author}} in them become the model's name and its makers'."""
    rank: int = 8
    """Rows of A and columns of B."""
    alpha: float = 16.0
    """What they say is multiplied by alpha / rank."""
    targets: tuple[str, ...] = ()
    """Ends of the names of linear maps to adapt. Empty: all that a token passes through."""
    steps: int | None = None
    """Updates; None: `epochs` says."""
    epochs: float = 3.0
    """How often the conversations are read, where steps are not given."""
    lr: Annotated[float, AtMost(3e38)] = 2e-3
    """Peak learning rate; a cosine follows a short warm-up."""
    batch_tokens: int = 16_384
    """Tokens an update."""
    seq_len: int | None = None
    """Tokens a row; None: the model's context."""
    checkpoint_every: int = 100
    """Steps between the checkpoints that a stopped run goes on from."""
    seed: Annotated[int, AtMost(2**64)] = 0
    """Of A and of the order of rows."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rank < 1 or not self.alpha > 0 or not self.lr > 0 or self.checkpoint_every < 1:
            raise ConfigError(
                f"lora has rank {self.rank}, alpha {self.alpha}, lr {self.lr} and checkpoint_every "
                f"{self.checkpoint_every}; all of them must be positive (8, 16, 2e-3 and 100 are usual)."
            )
        if (self.steps is not None and self.steps < 1) or not self.epochs > 0:
            raise ConfigError(f"lora has steps {self.steps} and epochs {self.epochs}; use 1 or more, and more than 0.")


@dataclass(frozen=True)
class Tuned:
    """What came of a run."""

    model: peft.PeftModel
    lm: LM
    """The core, with the adapter inside."""
    report: dict[str, Any]
    """Steps, tokens and sizes, for JSON."""

    def merge(self, folder: Path) -> None:
        """Add the thin matrices to the weights and write a checkpoint of ours; this model is one without them after."""
        vacant(folder, "merged model")
        self.model.merge_and_unload().save_pretrained(str(folder))


def linear_maps(lm: LM) -> list[str]:
    """Names, by module path, of the linear maps that tokens pass through."""
    core, passed = cast(nn.Module, lm), []
    linear = {name: module for name, module in core.named_modules() if isinstance(module, nn.Linear)}
    hooks = [module.register_forward_hook(lambda *_, name=name: passed.append(name)) for name, module in linear.items()]
    try:
        with torch.no_grad():
            lm(torch.zeros(1, 2, dtype=torch.long, device=next(core.parameters()).device))
    finally:
        for hook in hooks:
            hook.remove()
    return sorted(set(passed))


def adapted(model: PositronicForCausalLM, config: LoRAConfig) -> peft.PeftModel:
    """The model with silent thin matrices beside its targets; nothing else of it learns."""
    names = linear_maps(model.lm)
    chosen = [name for name in names if not config.targets or any(_ends(name, end) for end in config.targets)]
    for end in config.targets:
        if not any(_ends(name, end) for name in names):
            ends = sorted({name.rpartition(".")[2] for name in names})
            raise ConfigError(
                f"--targets {end} matches no linear map that tokens of this model pass through; they end in "
                f"{', '.join(ends)} (in full: {names[0]}). {did_you_mean(end, [*ends, *names])}"
            )
    torch.manual_seed(config.seed)
    thin = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,  # type: ignore[arg-type]  # PEFT says int and divides
        target_modules=[f"{model.base_model_prefix}.{name}" for name in chosen],
        task_type="CAUSAL_LM",
    )
    return cast(peft.PeftModel, peft.get_peft_model(model, thin))


def tune(
    config: LoRAConfig,
    out: Path,
    *,
    go_on: bool = False,
    device: str = "auto",
    observer: Observer | None = None,
    cache: Path | None = None,
) -> Tuned:
    """Train an adapter and save it in `out`.

    go_on: from the newest of Transformers' checkpoints in `out`, with the optimizer's state and the same rows to come;
    a run that is finished is read, and no step added.
    """
    with RunFolder(out).held():
        return _tune(config, LoRAFolder(out), go_on, device, observer, cache)


def _tune(
    config: LoRAConfig, run: LoRAFolder, go_on: bool, device: str, observer: Observer | None, cache: Path | None
) -> Tuned:
    disable_progress_bar()  # the observer tells
    if go_on:
        run.check()
    saved = run.newest()
    if saved is not None and not go_on:
        raise ConfigError(f"{run.path} holds a run already, up to {saved}; go on with --resume, or give another --out.")
    place = pick_device(device)
    base = _opened(config.model)
    model = adapted(base, config)
    data = _rows(config, base.lm.config, cache)
    rows = max(1, config.batch_tokens // data.seq_len)
    at_once = max(n for n in range(1, min(rows, ROWS_AT_ONCE) + 1) if rows % n == 0)
    steps = config.steps or max(1, round(config.epochs * sum(source.n_rows for source in data.sources) / rows))
    run.keep(saved)
    if not go_on:
        with writing(run.path / SETTINGS):
            (run.path / SETTINGS).write_text(json.dumps(config.to_json(), indent=2) + "\n", "utf-8")
    trainer = Trainer(
        model,
        TrainingArguments(
            output_dir=str(run.saving),
            max_steps=steps,
            per_device_train_batch_size=at_once,
            gradient_accumulation_steps=rows // at_once,
            learning_rate=config.lr,
            lr_scheduler_type="cosine",
            warmup_steps=min(20, steps // 10),
            save_steps=config.checkpoint_every,
            logging_steps=1,
            seed=config.seed,
            use_cpu=place.torch_device.type == "cpu",
            bf16=place.bfloat16,
            dataloader_pin_memory=place.runs_ahead,
            report_to=[],
            disable_tqdm=True,
            log_level="error",
        ),
        train_dataset=_Stream(data),
        callbacks=[_Kept(run), *([] if observer is None else [_Told(observer, run.path, rows * data.seq_len)])],
    )
    trainer.remove_callback(PrinterCallback)
    with _saving(run):
        if saved is not None and step_of(saved) >= steps:
            peft.set_peft_model_state_dict(model, load_file(saved / ADAPTER))
        else:
            _train(trainer, None if saved is None else str(saved))
        model.save_pretrained(str(run.path))
    run.keep(run.newest())
    learning, total = model.get_nb_trainable_parameters()
    report = {
        "run": str(run.path),
        "step": steps,
        "tokens": steps * rows * data.seq_len,
        "adapted": sum(name.endswith(".lora_A") for name, _ in model.named_modules()),
        "parameters": {"adapter": learning, "model": total - learning},
    }
    return Tuned(model, base.lm, report)


def _train(trainer: Trainer, saved: str | None) -> None:
    """All steps, or those behind a checkpoint, whose pickles Transformers reads as numbers alone."""
    try:
        trainer.train(resume_from_checkpoint=saved)
    except UnpicklingError:
        raise CheckpointError(
            f"A file in {saved} would run code when it is read, and was not: an optimizer's state holds numbers alone. "
            f"Delete that folder, and go on from one that this command wrote."
        ) from None


def read_settings(out: Path) -> LoRAConfig:
    """What the run in `out` was begun with."""
    try:
        return LoRAConfig.from_json(json.loads((out / SETTINGS).read_text("utf-8")), str(out / SETTINGS))
    except (OSError, ValueError, RecursionError):
        raise CheckpointError(
            f"There is no adapter to go on with in {out}: {out / SETTINGS} cannot be read. Start without --resume."
        ) from None


def names_of(config: LoRAConfig) -> Mapping[str, str]:
    """What is filled into the conversations."""
    return NAMES if config.fill_names else UNFILLED


def _opened(folder: str) -> PositronicForCausalLM:
    Tokenizer.load(folder)  # a folder that is none of ours is refused in our words
    return cast(PositronicForCausalLM, AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32))


def _ends(name: str, end: str) -> bool:
    return f".{name}".endswith(f".{end}")


def _rows(config: LoRAConfig, lm: ModelConfig, cache: Path | None) -> Mixture:
    """Packed conversations; a row keeps one place free, for the target of its last token."""
    seq_len = config.seq_len or min(lm.context, lm.max_positions - 1)
    if not 1 <= seq_len < lm.max_positions:
        raise ConfigError(f"--seq-len is {seq_len}; the model has {lm.max_positions} positions. Use a smaller one.")
    tokenizer = Tokenizer.load(config.model)
    return chat_mixture(config.data, tokenizer, seq_len=seq_len, seed=config.seed, names=names_of(config), cache=cache)


class _Stream(IterableDataset[dict[str, Tensor]]):
    """The rows of a mixture in Transformers' words, from the same first row whenever it is asked anew."""

    def __init__(self, data: Mixture):
        self.data, self.begin = data, data.position()

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        self.data.seek(self.begin)
        while True:
            batch = self.data.next(1)
            real = torch.ones_like(batch.tokens) if batch.valid is None else batch.valid.long()
            yield {
                "input_ids": torch.cat([batch.tokens, batch.targets[:, -1:]], 1)[0],
                "attention_mask": F.pad(real, (0, 1))[0],
                "labels": F.pad(batch.targets.masked_fill(~batch.loss_mask, IGNORED), (1, 0), value=IGNORED)[0],
            }


ARCHIVE = ("PytorchStreamWriter", "inline_container", "iostream")
"""What torch names in its errors when an archive cannot be written."""


@contextmanager
def _saving(run: LoRAFolder) -> Iterator[None]:
    """Around what writes to the folder by other libraries: a full disk is one sentence."""
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not any(word in str(error) for word in ARCHIVE):
            raise
        raise CheckpointError(
            f"{run.path} could not be written: {reason(error)}. {run.stands()} Free space there, and go on with "
            f"--resume."
        ) from error


class _Kept(TrainerCallback):
    """Checkpoints that are finite, and whole or not there."""

    def __init__(self, run: LoRAFolder):
        self.run = run

    def on_step_end(
        self, args: Any, state: Any, control: Any, model: Any = None, optimizer: Any = None, **_: Any
    ) -> None:
        if not control.should_save:
            return
        learned = {name: p for name, p in model.named_parameters() if p.requires_grad}
        memory = {
            f"the optimizer's {key} of {name}": value
            for name, p in learned.items()
            for key, value in optimizer.state[p].items()
            if torch.is_tensor(value) and value.shape == p.shape
        }
        broken = first_unsound({**learned, **memory})
        if broken is not None:
            raise TrainingError(
                f"After step {state.global_step} {broken} is not finite, so no checkpoint was written. "
                f"{self.run.stands()} Try a lower --lr."
            )

    def on_save(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        self.run.publish(state.global_step)


class _Told(TrainerCallback):
    """Transformers' log in the words of our observers."""

    def __init__(self, observer: Observer, out: Path, tokens: int):
        self.observer, self.out, self.tokens = observer, out, tokens

    def on_train_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        self.first, self.began = state.global_step, time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **others: Any) -> None:
        if "loss" in logs:
            seconds = (time.monotonic() - self.began) / max(1, state.global_step - self.first)
            self.observer.step(
                {
                    "step": state.global_step,
                    "total": state.max_steps,
                    "loss": float(logs["loss"]),
                    "tokens_per_s": self.tokens / max(seconds, 1e-9),
                    "left_s": seconds * (state.max_steps - state.global_step),
                }
            )

    def on_save(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        self.observer.checkpoint({"step": state.global_step, "folder": f"{self.out}/checkpoint-{state.global_step}"})

    def on_train_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        self.observer.close()
