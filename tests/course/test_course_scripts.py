"""The scripts as a learner types them: what they promise, and one sentence for what he can mend."""

import json
import re
import signal
import subprocess
import sys
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from stories import TEXT

from positronic.cli import main
from positronic_course.ch05_attention import weights
from positronic_course.ch07_loss import ModelConfig, attentions, forward
from positronic_course.ch10_training import checkpoints, read
from positronic_course.scripts import console, train_simple, visualize_attention

pytestmark = pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")  # a test runs scripts twice
STORIES = console.read_text(None)
WORDS = set(re.findall(r"[A-Za-z]+", STORIES))


def trained(out, *more) -> dict:
    before, sys.stdout = sys.stdout, StringIO()
    try:
        assert train_simple.main(["--json", "--out", str(out), *more]) == 0
        return json.loads(sys.stdout.getvalue())
    finally:
        sys.stdout = before


@pytest.fixture(scope="module")
def improved(tmp_path_factory):
    """What acceptance asks for: `improved` on the stories, 20 epochs."""
    out = tmp_path_factory.mktemp("improved")
    return trained(out, "--config", "improved") | {"out": str(out)}


def course(capsys, *words) -> str:
    capsys.readouterr()
    assert main(["course", *map(str, words)]) == 0
    return capsys.readouterr().out


def complaint(capsys, *words) -> str:
    capsys.readouterr()
    assert main(["course", *map(str, words)]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert "Traceback" not in err
    assert err.count("\n") == 1
    return err


def check_learnt(result):
    assert result["corpus"]["sha256"] == train_simple.STORIES_SHA256
    assert result["training"]["epochs"] == 20
    assert result["losses"]["training"]["nats_per_token"] < 1.0
    assert result["history"][-1]["training"] < 1.0
    # Of text it has not seen it guesses characters far better than their frequencies would (2.98 nats), and worse than
    # of what it has read twenty times: held out, it is.
    assert 1.2 < result["losses"]["held_out"]["nats_per_token"] < 1.8


def test_improved_learns_the_stories_below_1_2_nats_a_character_in_20_epochs(improved):
    check_learnt(improved)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 5))
def test_so_it_does_from_other_seeds(seed, tmp_path):
    check_learnt(trained(tmp_path, "--config", "improved", "--seed", str(seed)))


def test_most_words_of_its_samples_are_words_of_the_stories(improved, capsys):
    text = course(capsys, "generate_text", "The ", "--model-path", improved["out"], "--num-samples", 3)
    assert improved["sample_words"]["known"] > 0.65 * improved["sample_words"]["all"] > 25
    samples = re.findall(r"--- \d of 3\n(.*?)(?=\n---|\Z)", text, re.S)
    assert len(samples) == len(set(samples)) == 3
    words = [word for sample in samples for word in re.findall(r"[A-Za-z]+", sample)[1:-1]]
    assert len(words) > 60
    assert len(set(words)) > 25
    assert sum(word in WORDS for word in words) > 0.65 * len(words)


def test_the_same_seed_writes_the_same_and_temperature_0_needs_none(improved, capsys):
    def write(*more):
        words = ("generate_text", "Once upon", "--model-path", improved["out"], "--max-length", 40, *more)
        return course(capsys, *words)

    assert write("--seed", 1) == write("--seed", 1) != write("--seed", 2)
    assert write("--temperature", 0, "--seed", 1) == write("--top-k", 1, "--seed", 2) == write("--top-p", 0.01)
    assert write("--max-length", 0) == "Once upon\n"
    assert len(write()) == len("Once upon\n") + 40


def test_interactive_asks_until_an_empty_line(improved, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", StringIO("The cat\nThe sea\n\nnever read\n"))
    text = course(capsys, "generate_text", "--interactive", "--model-path", improved["out"], "--max-length", 5)
    assert [line[:7] for line in text.splitlines()] == ["The cat", "The sea"]


@pytest.mark.parametrize("layer", [0, 1])
def test_shown_attention_sums_to_one_and_is_the_models_own(layer, improved, tmp_path, capsys, monkeypatch):
    drawn, picture = {}, visualize_attention.picture
    monkeypatch.setattr(
        visualize_attention, "picture", lambda heads, pieces, path: drawn.update(heads) or picture(heads, pieces, path)
    )
    saved, tokenizer, parameters = read(Path(improved["out"]))
    _, kept = forward(parameters, tokenizer.encode("The lamp on the hill")[None], ModelConfig(**saved["model"]))
    words = ["The lamp on the hill", "--layer", layer, "--compare-heads", "--out", tmp_path / "heads.png"]
    text = shown(capsys, improved, *words)
    shares = np.stack(list(drawn.values()))
    assert np.array_equal(shares, weights(attentions(kept)[layer])[0])
    assert np.abs(shares.sum(axis=-1) - 1).max() < 1e-6
    assert list(drawn) == [f"layer {layer}, head {h}" for h in range(4)]
    assert all(f"{title}: reads" in text for title in drawn)
    assert (tmp_path / "heads.png").read_bytes().startswith(b"\x89PNG")


def shown(capsys, improved, *words) -> str:
    """`visualize_attention`, in this process so that a test may look inside."""
    capsys.readouterr()
    visualize_attention.main([*map(str, words), "--model-path", improved["out"]])
    return capsys.readouterr().out


def test_one_head_of_the_last_layer_is_shown_when_none_is_named(improved, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = shown(capsys, improved, "The cat")
    assert "layer 1, head 0: reads" in text
    assert text.count("layer") == 1
    assert Path("attention.png").exists()


def test_without_matplotlib_there_is_text_and_a_hint(improved, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(visualize_attention, "find_spec", lambda _: None)
    assert "No picture: matplotlib is not installed" in shown(capsys, improved, "The cat", "--out", tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    trained(tmp_path / "m", "--config", "small", "--epochs", "1")
    assert "No loss.png: matplotlib is not installed" in capsys.readouterr().err
    assert not (tmp_path / "m" / "loss.png").exists()


SMALL = ("--config", "small", "--epochs", "4")


def arrays(folder) -> dict[str, bytes]:
    newest = checkpoints(Path(folder))[-1]
    return {path.name: path.read_bytes() for path in newest.iterdir()}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    out = tmp_path_factory.mktemp("small")
    return trained(out, *SMALL) | {"out": str(out)}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGKILL, -9)])
def test_an_interrupted_run_goes_on_to_the_same_bits(number, code, small, tmp_path):
    command = [sys.executable, "-m", "positronic_course.scripts.train_simple", *SMALL, "--out", str(tmp_path)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    for line in process.stderr:
        if "epoch   2/4" in line:
            process.send_signal(number)
            break
    rest = process.stderr.read()
    assert process.wait() == code
    assert code < 0 or "without --clean it goes on from here" in rest
    begun = int(checkpoints(tmp_path)[-1].name.removeprefix("step-"))
    assert 0 < begun < small["steps"]
    again = trained(tmp_path, *SMALL)
    assert again["timing"]["tokens"] < small["timing"]["tokens"]
    assert {name: again[name] for name in ("losses", "history", "sample")} == {
        name: small[name] for name in ("losses", "history", "sample")
    }
    assert arrays(tmp_path) == arrays(small["out"])


def test_a_finished_run_is_not_trained_again_and_clean_begins_anew(small, tmp_path, capsys):
    first = trained(tmp_path, *SMALL, "--seed", "7")
    (tmp_path / "notes.txt").write_text("mine", "utf-8")
    again = trained(tmp_path, *SMALL, "--seed", "7")
    assert again["timing"]["tokens"] == 0
    assert again["losses"] == first["losses"] != small["losses"]
    assert "has 124 of 124 steps; --clean begins again" in capsys.readouterr().err
    assert trained(tmp_path, "--clean", *SMALL)["losses"] == small["losses"]
    assert (tmp_path / "notes.txt").read_text("utf-8") == "mine"
    assert (tmp_path / "loss.png").exists()


@pytest.mark.slow
def test_long_training_is_200_epochs_and_learns_the_stories_by_heart(tmp_path):
    result = trained(tmp_path, "--config", "small", "--long-training")
    assert len(result["history"]) == 200
    assert result["losses"]["training"]["nats_per_token"] < 1.0


def test_a_tokenizer_of_byte_pairs_is_learnt_compared_and_trained_with(tmp_path, capsys):
    out = tmp_path / "bpe.json"
    text = course(capsys, "train_bpe", "--vocab-size", 400, "--out", out, "--epochs", 0)
    assert re.findall(r"^(\w+) +W = +(\d+)", text, re.M) == [("char", "256"), ("word", "400"), ("bpe", "400")]
    result = trained(tmp_path / "m", *SMALL, "--tokenizer", str(out))
    assert result["model"]["vocab_size"] == 400
    assert "vocabulary of 400 (bpe), this run has another one of 256 (char)" in complaint(
        capsys, "train_simple", *SMALL, "--out", tmp_path / "m"
    )


def test_train_bpe_trains_a_model_that_generate_bpe_lets_write(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = course(capsys, "train_bpe", "--config", "small", "--epochs", 2)
    assert "supports 678 pieces, and no 2000" in said
    saved, tokenizer, _ = read(Path("course-model-bpe"))
    assert (tokenizer.kind, saved["model"]["vocab_size"], saved["training"]["epochs"]) == ("bpe", 678, 2)
    written = course(capsys, "generate_bpe", "Once upon", "--max-length", 10)
    assert written.startswith("Once upon")
    assert len(written) > len("Once upon\n")
    other = course(capsys, "generate_text", "Once upon", "--model-path", "course-model-bpe", "--max-length", 10)
    assert other == written


def test_a_text_that_supports_2000_pieces_gets_them(tmp_path, capsys):
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdefghij"), 6)) for _ in range(900)]
    (tmp_path / "many.txt").write_text("\n".join(" ".join(words) for _ in range(3)), "utf-8")
    out = tmp_path / "t.json"
    assert "2000 pieces ->" in course(
        capsys, "train_bpe", "--data-file", tmp_path / "many.txt", "--out", out, "--epochs", 0
    )


def test_generate_text_may_name_the_size_of_its_model(small, capsys):
    words = ("generate_text", "Once", "--model-path", small["out"], "--max-length", 3, "--config")
    assert course(capsys, *words, "small").startswith("Once")
    assert "is not of the size improved" in complaint(capsys, *words, "improved")


def test_a_text_of_ones_own_is_trained_on(tmp_path):
    (tmp_path / "mine.txt").write_text(TEXT + "\u00e9 \u65e5\n" * 40, "utf-8")
    result = trained(tmp_path / "m", "--data-file", str(tmp_path / "mine.txt"), *SMALL)
    assert result["corpus"]["sha256"] != train_simple.STORIES_SHA256
    assert result["model"]["vocab_size"] == 258


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["train_simple", "--data-file", "empty.txt"], "The text is empty"),
        (["train_simple", "--data-file", "line.txt"], "The text is a single line"),
        (["train_simple", "--data-file", "short.txt"], "one window of this model takes 64"),
        (["train_simple", "--data-file", "nowhere.txt"], "nowhere.txt cannot be read: No such file"),
        (["train_simple", "--data-file", "latin.txt"], "latin.txt is not UTF-8 text"),
        (["train_simple", "--epochs", "0"], "epochs is 0; use 1 or more"),
        (["train_simple", "--rate", "0"], "The learning rate is 0.0; use more than 0"),
        (["train_simple", "--seed", "-1"], "seed is -1; use 0 or more"),
        (["train_simple", "--long-training", "--epochs", "3"], "Leave one of them out"),
        (["train_simple", "--tokenizer", "line.txt"], "line.txt is not a tokenizer"),
        (
            ["train_bpe", "--vocab-size", "5000"],
            "this text supports 256 (the bytes alone) to 678. Use --vocab-size 678",
        ),
        (["train_bpe", "--vocab-size", "20"], "Use --vocab-size 256"),
        (["train_bpe", "--data-file", "empty.txt"], "empty.txt has nothing to learn from"),
        (["train_bpe", "--out", "no/such/folder.json"], "no/such/folder.json: No such file or directory"),
        (["generate_text", "Once", "--model-path", "nowhere"], "no model in nowhere. Train one first"),
        (["visualize_attention", "Once", "--model-path", "nowhere"], "no model in nowhere. Train one first"),
        (["generate_text", "", "--model-path", "MODEL"], "The prompt is empty"),
        (["generate_text", "--model-path", "MODEL"], "There is no prompt"),
        (["generate_text", "a", "--model-path", "MODEL", "--top-p", "2"], "top-p is 2.0"),
        (["generate_text", "a", "--model-path", "MODEL", "--num-samples", "0"], "--num-samples 0"),
        (["visualize_attention", "", "--model-path", "MODEL"], "has 0 tokens, the model looks at 1 to 64"),
        (["visualize_attention", "a" * 65, "--model-path", "MODEL"], "has 65 tokens, the model looks at 1 to 64"),
        (["visualize_attention", "a", "--model-path", "MODEL", "--layer", "1"], "--layer is 1; this model has 1"),
        (["visualize_attention", "a", "--model-path", "MODEL", "--head", "-1"], "use 0 to 3"),
        (["benchmark", "--steps", "0"], "--steps is 0; use 1 or more"),
        (["no_such_script"], "The course has no 'no_such_script'"),
    ],
)
def test_what_the_learner_can_mend_is_one_sentence(words, found, small, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("empty.txt").write_text("", "utf-8")
    Path("line.txt").write_text("only one line here\n", "utf-8")
    Path("short.txt").write_text("two\nlines\n", "utf-8")
    Path("latin.txt").write_bytes("caf\u00e9\nbar\n".encode("latin-1"))
    assert found in complaint(capsys, *(small["out"] if word == "MODEL" else word for word in words))


def test_changed_stories_are_not_taken_for_the_ones_that_were_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(train_simple, "STORIES_SHA256", "0" * 64)
    with pytest.raises(train_simple.CourseError, match="stories of the course have been changed"):
        train_simple.main(["--out", str(tmp_path)])


def test_the_benchmark_counts_what_it_says(capsys):
    result = json.loads(course(capsys, "benchmark", "--config", "small", "--steps", 3, "--json"))
    assert result["parameters"] == 40_080
    assert result["kept_bytes"] == 3 * 4 * 40_080 + 8  # weights, m and v in float32, and the number of steps
    assert result["added_by_a_step_bytes"] > 4 * 256 * 256  # the logits of four rows at least
    assert result["training_tokens_per_cpu_s"] > result["generated_tokens_per_cpu_s"] > 0


def test_the_command_lists_scripts_and_chapters_and_loads_no_torch():
    program = "import sys; from positronic.cli import main; main(['course']); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0
    for name in ("train_simple", "gradient_check", "generate_bpe", "ch01", "ch18"):
        assert re.search(rf"^  {name} ", done.stdout, re.M)


def test_a_chapter_shows_its_demonstration(capsys):
    assert "Adam     after 200 steps" in course(capsys, "ch09")


def test_flags_after_a_script_are_its_own(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["course", "--help"])
    assert ended.value.code == 0
    assert "positronic course train_simple" in capsys.readouterr().out
    assert "--long-training" in course(capsys, "train_simple", "--help")
