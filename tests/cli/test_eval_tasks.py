"""eval --tasks scores benchmarks of local files, alone or beside text, and refuses what would have no effect."""

import json

import pytest

from positronic.checkpoint import save
from positronic.cli import main
from positronic.models import build, preset
from positronic.text import byte_tokenizer

PAIRS = [{"sentence_good": f"The dogs see {n} men.", "sentence_bad": f"The dogs sees {n} men."} for n in range(8)]
CHOICES = [{"query": f"Question: What is {n}?", "choices": ["odd", "even", "much"], "gold": n % 2} for n in range(9)]
WORDS = [{"context": f"The lamp on desk {n} was", "continuation": "lit"} for n in range(7)]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    model = build(preset("tinygpt-tiny").replace(vocab_size=384, d_model=32, n_layers=1, context=64), 1)
    save(folder / "model", model, byte_tokenizer())
    (folder / "data" / "blimp").mkdir(parents=True)
    files = {"blimp/agreement": PAIRS[:5], "blimp/numbers": PAIRS[5:], "arc_easy": CHOICES, "lambada_dev": WORDS}
    for name, rows in files.items():
        (folder / "data" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    (folder / "text.txt").write_text("A lamp on a desk, and nobody there. " * 5, "utf-8")
    return folder


def run(capsys, place, *words) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main(["eval", str(place / "model"), "--device", "cpu", *map(str, words)])
    return code, *capsys.readouterr()


def test_json_has_items_scores_errors_and_seconds_of_every_task(place, capsys):
    _, out, _ = run(capsys, place, "--tasks", "blimp,arc_easy", "lambada", "--data-dir", place / "data", "--json")
    tasks = json.loads(out)["tasks"]
    assert {name: task["n"] for name, task in tasks.items()} == {"blimp": 8, "arc_easy": 9, "lambada": 7}
    assert {name: part["n"] for name, part in tasks["blimp"]["parts"].items()} == {"agreement": 5, "numbers": 3}
    metrics = {"blimp": ["acc"], "arc_easy": ["acc", "acc_norm", "acc_bytes"], "lambada": ["acc", "perplexity"]}
    for name, wanted in metrics.items():
        assert [key for key in tasks[name] if f"{key}_stderr" in tasks[name]] == wanted
        assert tasks[name]["seconds"] > 0
    assert tasks["lambada"]["file"] == "lambada_dev.jsonl"
    assert tasks["lambada"]["perplexity"] > 1


def test_limit_takes_the_first_items_of_each_part(place, capsys):
    _, out, _ = run(capsys, place, "--tasks", "blimp", "--data-dir", place / "data", "--limit", "2", "--json")
    assert json.loads(out)["tasks"]["blimp"]["n"] == 4


def test_text_and_tasks_are_measured_together_and_silenced_together(place, capsys):
    words = ["--data", place / "text.txt", "--tasks", "lambada", "--data-dir", place / "data", "--json"]
    whole = json.loads(run(capsys, place, *words)[1])
    silent = json.loads(run(capsys, place, *words, "--without", "swiglu")[1])
    (source,) = whole["sources"].values()
    assert source["bits_per_byte"] == whole["bits_per_byte"]
    assert (source["documents"], source["bits_per_byte_stderr"]) == (1, None)
    assert source["seconds"] > 0
    assert silent["without"] == ["swiglu"]
    assert silent["tasks"]["lambada"]["perplexity"] != whole["tasks"]["lambada"]["perplexity"]


def test_people_read_a_table_of_tasks_and_one_of_parts(place, capsys):
    code, out, err = run(capsys, place, "--tasks", "blimp", "--data-dir", place / "data")
    assert code == 0
    assert "blimp, by part" in out
    assert "agreement" in out
    assert "accuracy" in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "nothing to measure on; give --data PATH, or --tasks"),
        (["--tasks", "blimp"], "say where it lies: --data-dir FOLDER"),
        (["--tasks", "mmlu", "--data-dir", "DATA"], "'mmlu' is not in DATA, which holds arc_easy, blimp, lambada_dev"),
        (["--tasks", "winogrande", "--data-dir", "DATA"], "github.com/mosaicml/llm-foundry"),
        (["--data", "TEXT", "--limit", "3"], "are for tasks"),
        (["--tasks", "blimp", "--data-dir", "DATA", "--stride", "3"], "are for text"),
        (["--tasks", "blimp", "--data-dir", "DATA", "--limit", "0"], "score 1 item or more"),
        (["--tasks", "blimp", "--harness", "lm-eval", "--data", "TEXT", "--stride", "3"], "leave --stride out"),
    ],
)
def test_what_cannot_be_or_has_no_effect_is_refused(place, capsys, words, said):
    names = {"DATA": place / "data", "TEXT": place / "text.txt"}
    code, out, err = run(capsys, place, *(names.get(word, word) for word in words))
    assert code == 2
    assert not out
    assert "Traceback" not in err
    assert said.replace("DATA", str(place / "data")) in err
