"""A generation recorded and written as one page that replays it."""

from pathlib import Path

from positronic.cli.console import print_json, say
from positronic.cli.parts.named_models import open_model
from positronic.errors import DataError, GenerationError

__all__ = ["write_view"]


def write_view(
    folder: Path,
    prompt: str,
    out: Path,
    *,
    tokens: int,
    layer: int | None = None,
    temperature: float,
    top_p: float,
    seed: int,
    device: str = "auto",
    as_json: bool = False,
) -> None:
    """Let the model in `folder` read `prompt` and draw `tokens` more; write the page `out` and say so."""
    if tokens < 1:
        raise GenerationError(f"--tokens is {tokens}; draw 1 token or more.")
    if not out.absolute().parent.is_dir():
        raise DataError(f"--out {out}: there is no such folder. Make it first.")
    from positronic.generation import SamplingParams
    from positronic.viz import page, replay

    sampler = SamplingParams(temperature=temperature, top_p=top_p, seed=seed)
    model, tokenizer = open_model(folder, device)
    data = replay(model, tokenizer, prompt, tokens=tokens, layer=layer, sampler=sampler)
    size = _write(page(data), out)
    recorded = len(data["tokens"])
    if as_json:
        print_json({"page": str(out), "bytes": size, "tokens": recorded, "layers": data["layers"]})
        return
    say(f"{recorded} tokens recorded, {size / 1e6:.1f} MB; open it in a browser:")
    print(out)


def _write(text: str, out: Path) -> int:
    """Bytes written."""
    try:
        return out.write_bytes(text.encode())
    except OSError as error:
        raise DataError(f"{out} cannot be written ({error.strerror}); give another --out.") from None
