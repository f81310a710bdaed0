"""docs/from-the-cards.md: it names all that the cards name, each of its lines runs, and what it says is so."""

import json

import pytest

pytest.importorskip("datasets")
pytest.importorskip("transformers")

import datasets
import huggingface_hub
import transformers
from card_lines import ROOT, Runner
from card_names import CONTROL, NAMES
from card_page import Line, read_page
from copies import copy_all
from warmed import MODEL, warmed

from positronic import generate
from positronic.data.sources.embedded import topics
from positronic.models import build, preset
from positronic.observe import verify
from positronic.text import CONTROL_TOKENS, byte_tokenizer
from positronic.train import NextTokenConfig
from positronic_course import ch10_training

pytestmark = pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")  # a test runs scripts twice
INTRODUCTION, *SECTIONS = read_page((ROOT / "docs" / "from-the-cards.md").read_text("utf-8"))
TEXT_BYTES = 40_000


@pytest.fixture(scope="module")
def copies(tmp_path_factory):
    root = tmp_path_factory.mktemp("copies")
    copy_all(root, 400)  # of which some are held out
    return root


@pytest.fixture
def place(tmp_path, copies, monkeypatch):
    """The current folder, with a reader's own texts; the hub has the copies."""
    text = "\n\n".join(topics())[:TEXT_BYTES]
    (tmp_path / "my-text").mkdir()
    for name in ("my-text/one.txt", "text.txt"):
        (tmp_path / name).write_text(text, "utf-8")
    said = [{"text": paragraph} for paragraph in text.split("\n\n")]
    chat = [{"instruction": f"What is {n} + 1?", "output": f"It is {n + 1}."} for n in range(40)]
    pairs = [{"prompt": f"{n} + 1?", "chosen": f"It is {n + 1}.", "rejected": "Who knows."} for n in range(40)]
    asked = [{"question": f"What is {n}?", "context": text[n : n + 900], "answer": "It is."} for n in range(200)]
    files = {"held-out": said[:8], "web": said, "math": said, "chats": chat, "pairs": pairs, "qa": asked}
    for name, rows in files.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    (tmp_path / "model.json").write_text(json.dumps(MODEL.to_json()), "utf-8")
    builder = datasets.load_dataset_builder
    monkeypatch.setattr(
        datasets, "load_dataset_builder", lambda name, config, **how: builder(str(copies / name), config, **how)
    )
    monkeypatch.setenv("POSITRONIC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    datasets.disable_progress_bars()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return tmp_path


@pytest.fixture(scope="module")
def command():
    with warmed() as path:
        yield path


@pytest.fixture
def run(request, place, monkeypatch):
    """Runs the lines of a section; epochs of the course are one."""
    settings = {"DEVICE": "cpu", "PRESET": "model.json", "DATA": "text.txt", "VOCAB": "512", "STEPS": "8"}
    settings |= {"EPOCHS": "1", "HOME": str(place), "OMP_NUM_THREADS": "1", "POSITRONIC": "false"}
    if any("runs/" in line.text for line in getattr(request, "param", ())):
        settings["POSITRONIC"] = str(request.getfixturevalue("command"))
    full = ch10_training.TrainingConfig

    class OneEpoch(full):
        def __post_init__(self):
            super().__post_init__()
            object.__setattr__(self, "epochs", 1)

    monkeypatch.setattr(ch10_training, "TrainingConfig", OneEpoch)
    return Runner(settings).run


def failures(run, lines):
    """What each line that does not run says; behind a block that fails nothing is tried."""
    found = []
    for line in lines:
        try:
            run(line)
        except Exception as error:
            found.append(f"{line.text.strip()[:300]}\n    {type(error).__name__}: {error}")
            if line.form != "code":
                break
    return found


@pytest.mark.parametrize(
    ("section", "run"), [(s, s.lines) for s in SECTIONS], ids=lambda s: getattr(s, "title", ""), indirect=["run"]
)
def test_every_line_of_a_section_runs(section, run):
    assert not (said := failures(run, [*INTRODUCTION.lines, *section.lines])), "\n".join(said)


@pytest.mark.parametrize("section", SECTIONS, ids=lambda s: s.title)
def test_the_left_side_has_all_that_the_card_names(section):
    assert set(NAMES[section.title]) <= set(section.named)


@pytest.mark.parametrize("section", SECTIONS, ids=lambda s: s.title)
def test_flags_that_sentences_speak_of_stand_in_lines_that_run(section):
    run = {word for line in section.lines for word in line.text.split()}
    assert section.spoken <= run


def test_every_card_has_a_section():
    assert [section.title for section in SECTIONS] == list(NAMES)


@pytest.mark.parametrize(
    "text",
    [
        "positronic generate nowhere --prompt x",
        "positronic describe moa-tiny --colour",
        "positronic fly",
        "runs/sft_quickstart.sh gone.jsonl",
        "pip install 'positronic[wings]'",
        "make coffee",
        "src/positronic/wings.py",
        "gone.html",
        "mha.score",
        "print",
        "'a text'",
        "x = 1",
        "print('said')",
        "tuple([])",
        "--flag",
        "cargo run",
    ],
)
def test_a_line_that_is_not_so_is_noticed(text, run):
    with pytest.raises((AssertionError, NameError, SyntaxError)):
        run(Line(text))


def test_a_command_that_is_said_to_be_refused_must_be(run):
    run(Line("positronic describe moa-tiny-huge", refused=True))
    with pytest.raises(AssertionError):
        run(Line("positronic describe moa-tiny", refused=True))


@pytest.mark.parametrize(
    "text",
    [
        "    positronic train",
        "<code>positronic train</code>",
        "~~~\npositronic train\n~~~",
        "```console\npositronic train\n```",
        "```sh\npositronic train",
        "| `--flag` | something else |",
        "| `--flag` | `a` | `b` |",
        "A `word` and `another",
    ],
)
def test_code_that_nothing_would_run_is_refused(text):
    with pytest.raises((AssertionError, ValueError)):
        read_page(text)


def test_the_published_sizes_are_the_presets():
    rings, tips, moa = (preset(name) for name in ("positronic-144m", "mycel-79m", "moa-metric-150m"))
    bank, attention, colony = rings.oscillators, rings.attention, tips.colony
    assert (bank.rings, bank.n_oscillators, bank.steps, bank.dt) == ((4, 8, 16, 32, 64, 128, 256), 508, 4, 0.5)
    assert (bank.readout, NextTokenConfig().z_loss) == (3, 1e-4)
    assert (rings.d_model, rings.n_layers, rings.context, rings.max_positions) == (768, 10, 2024, 4096)
    heads = (attention.n_heads, attention.n_kv_heads, attention.head_dim, attention.rope_dims, attention.rank)
    assert heads == (12, 4, 64, 32, 384)
    assert [organ.kind for organ in bank.injections] == ["phase_attention", "engram", "specialists"]
    assert [refiner.kind for refiner in rings.refiners] == ["hrm", "moe"]
    assert (rings.drafts.heads, rings.vocab_size) == (4, 16_512)
    assert (colony.tips, colony.centres, colony.steps, colony.stations.stations) == (96, 16, 3, 16)
    assert (tips.d_model, tips.n_layers, tips.context, tips.vocab_size) == (768, 10, 2048, 16_512)
    assert [head.kind for head in moa.mixture.heads] == ["local_conv", "metric_mha", "channel_mix", "metric_mqa"]
    assert (moa.mixture.heads[1].score.kind, moa.context) == ("maha_diag", 2048)


def test_code_of_an_exported_folder_is_trusted_in_words():
    [apart] = [line.text for section in SECTIONS for line in section.lines if line.form == "python apart"]
    assert apart.count('"moa-400m"') == 1
    assert apart.count("trust_remote_code=True") == 2  # the model and the pipeline


def test_the_control_tokens_are_those_of_the_cards():
    assert set(CONTROL) == set(CONTROL_TOKENS[: len(CONTROL)])


@pytest.mark.parametrize("name", ["positronic-tiny", "mycel-tiny", "moa-tiny"])
def test_drafts_the_cache_and_requests_between_change_no_text(name):
    tokenizer = byte_tokenizer()
    model = build(preset(name).fitted(tokenizer.vocab_size, tokenizer.eot_id), tokenizer=tokenizer).eval()

    def said(**how):
        *_, last = generate(model, tokenizer, "Hello!", temperature=0, max_new_tokens=16, **how)
        return last.result.tokens

    assert said(speculative=True, exact=True) == said(exact=True)
    found = verify(model, tokenizer.encode("Hello!"), tokenizer.encode("Who are you?"), 12)
    assert found.cache.ok
    assert found.memory.ok
