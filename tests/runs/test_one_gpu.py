"""The small pipeline's recipe on the blend: seeds side by side, their curve, one run to its end, the page."""

import json
import lzma

import one_gpu
import pytest
from experiment import BLEND, OTHER_TEXTS

from positronic.cli.commands import bootstrap
from positronic.models import preset
from positronic.recipes import blend
from positronic.recipes.doctor import examine
from positronic.recipes.reference import Reference
from positronic.text import byte_tokenizer


@pytest.fixture
def place(tmp_path):
    """Small texts by the blend's names, a vocabulary of bytes and a small model."""
    text = tmp_path / "text"
    text.mkdir()
    for number, name in enumerate((*blend(BLEND).shares, *blend(BLEND).valid, *OTHER_TEXTS)):
        stories = [f"Once upon a time there were {n} cats and {number} dogs.\n\nThey ate fish." * 9 for n in range(9)]
        rows = [json.dumps({"text": story}) if ".jsonl" in name else story for story in stories]
        (text / name).write_bytes(lzma.compress("\n".join(rows).encode()))
    byte_tokenizer().save(tmp_path / "tokenizer")
    model = preset("tinygpt-tiny").replace(d_model=32, n_layers=1)
    (tmp_path / "small.json").write_text(json.dumps(model.to_json()), "utf-8")
    return tmp_path


def words(place, what, *more):
    given = {"text": "text", "tokenizer": "tokenizer", "out": "out", "model": "small.json", "page": "page.md"}
    flags = [word for name, path in given.items() for word in (f"--{name}", place / path)]
    return [str(word) for word in (what, *flags, "--device", "cpu", *more)]


def test_seeds_make_a_curve_and_one_of_them_goes_on_to_its_end(place):
    schedule = ("--steps", 40, "--batch-tokens", 512)
    for seed in range(5):
        one_gpu.main(words(place, "train", "--seed", seed, "--until", 30, *schedule))
    one_gpu.main(words(place, "curve", "--seeds", 6, "--until", 30, "--note", "a CPU", *schedule))
    learned = Reference.load(place / "out" / "small-blend-v1.json")
    assert (learned.seeds, learned.ends) == (6, (10, 20, 30)), "the sixth in a process of its own"
    one_gpu.main(words(place, "train", *schedule))
    found = json.loads((place / "out" / "seed-0.json").read_text("utf-8"))
    assert (found["training"]["step"], found["training"]["tokens"]) == (40, 40 * 512)
    assert set(found["scores"]) == {*blend(BLEND).valid, *OTHER_TEXTS, "blend"}
    verdict = examine(place / "out" / "seed-0", [learned, learned])
    assert (verdict.verdict, verdict.reference, verdict.differences) == ("normal", "small-blend-v1", ())

    (place / "page.md").write_text("# Page\n\n## First\n\none\n", "utf-8")
    one_gpu.main(words(place, "report"))
    page = (place / "page.md").read_text("utf-8")
    assert page.startswith(f"# Page\n\n## First\n\none\n\n{one_gpu.HEADING}\n")
    assert f"| blend | {found['scores']['blend']['bits_per_byte']:.4f} |" in page
    assert "6 seeds, their first 30 steps (a CPU)" in page
    assert "normal in 6 of 6 cases" in page
    assert json.loads((place / "page" / "one-gpu.json").read_text("utf-8"))["curve"]["steps"] == 30


def test_a_seed_that_fails_is_named_with_the_end_of_its_log(place):
    (place / "small.json").write_text("{}", "utf-8")
    with pytest.raises(SystemExit, match=r"failed \[0\]"):
        one_gpu.main(words(place, "curve", "--seeds", 1, "--until", 30))


def test_the_run_is_the_one_that_bootstrap_begins(place, monkeypatch):
    begun = []
    monkeypatch.setattr(bootstrap, "execute", lambda run, *_, **__: begun.append(run))
    data = blend(BLEND).data(place / "text")
    given = bootstrap.Training(batch_tokens=one_gpu.BATCH_TOKENS, seed=3)
    bootstrap.Command(out=place / "run", data=data, vocab_size=400, training=given, device="cpu").run()
    monkeypatch.setattr(
        one_gpu, "train", lambda run, *_: begun.append(run) or {"finished": False, "step": 0, "steps": 0}
    )
    flags = [word for word in words(place, "train", "--seed", 3) if word != str(place / "small.json")]
    flags.remove("--model")
    flags[flags.index("--tokenizer") + 1] = str(place / "run" / "tokenizer")
    one_gpu.main(flags)
    assert begun[0].replace(train=begun[1].train) == begun[1]
    assert begun[0].train.replace(micro_rows=None) == begun[1].train, "how much fits at once is the machine's"
