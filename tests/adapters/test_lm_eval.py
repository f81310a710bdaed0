"""Our scores are lm-eval's: its tasks, encoding and metrics over one plain forward call a request give the same."""

import json
from pathlib import Path

import lm_eval
import lm_eval.tasks
import numpy as np
import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.huggingface import HFLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from torch.nn import functional as F

from positronic.adapters.lm_eval import Harness, evaluate, local_task
from positronic.checkpoint import save
from positronic.cli import main
from positronic.data import Document
from positronic.errors import ConfigError, DataError
from positronic.eval import benchmark, bits_per_byte, open_task
from positronic.generation import generate
from positronic.models import build, preset
from positronic.observe import ablate
from positronic.text import Tokenizer, byte_tokenizer
from positronic.text.definition import Definition

NOUNS = ("dog", "lamp", "stone", "child", "river", "Größe", "café", "door")
VERBS = ("barks", "bark", "sleeps", "sleep", "runs", "falls", "fall", "shine")
DOCUMENTS = [Document(text, "here") for text in ("The lamp was lit. " * 9, "Größe: 3 µm", "", "Nobody was there.\n")]


@pytest.fixture(scope="module")
def pieces():
    words = [
        b"the",
        b"The",
        b" the",
        b" lamp",
        b" was",
        b" dog",
        b" a",
        b" s",
        b"ing",
        b" door",
        b"er",
        b"llo",
        b"Answer",
    ]
    return Tokenizer(Definition("spike", (*(bytes([b]) for b in range(256)), *words)))


@pytest.fixture(scope="module")
def model(pieces):
    config = preset("tinygpt-tiny").replace(context=32, max_positions=64).fitted(pieces.vocab_size, pieces.eot_id)
    model = build(config, 5)
    with torch.no_grad():  # far from uniform, so that greedy answers and every choice of context show
        for p in model.parameters():
            p.mul_(4 if p.dim() == 2 else 1)
        for word in (b" lamp", b" was", b" dog", b" door"):
            model.embed.weight[pieces.token_bytes.index(word)] *= 3  # so that it says words, too
    return model


class OneByOne(TemplateLM):
    """The definition: lm-eval's own encoding and windows, one forward call a request, no padding."""

    eot_token_id = property(lambda self: self.tokenizer.eot_id)

    def __init__(self, model, tokenizer):
        super().__init__()
        self.model, self.tokenizer = model, tokenizer

    def tok_encode(self, string, add_special_tokens=None):
        return self.tokenizer.encode(string)

    def _loglikelihood_tokens(self, requests, disable_tqdm=False):
        return [self._one(context, continuation) for _, context, continuation in requests]

    def _one(self, context, continuation):
        seen = [*context, *continuation][:-1][-self.model.config.context :]
        with torch.no_grad():
            logits = self.model.logits(self.model(torch.tensor([seen])).hidden[0]).double()[-len(continuation) :]
        wanted = torch.tensor(continuation)
        return -F.cross_entropy(logits, wanted, reduction="sum").item(), bool((logits.argmax(-1) == wanted).all())

    def loglikelihood_rolling(self, requests, disable_tqdm=False):
        return [sum(self._one(*window)[0] for window in self._windows(request.args[0])) for request in requests]

    def _windows(self, text):
        windows = get_rolling_token_windows(
            self.tok_encode(text), self.prefix_token_id, self.model.config.context, context_len=1
        )
        return map(make_disjoint_window, windows)

    def generate_until(self, requests, disable_tqdm=False):
        raise NotImplementedError


@pytest.fixture(scope="module")
def tasks(tmp_path_factory, model, pieces):
    """Small files of our own in each form, of which the model gets some right."""
    place = tmp_path_factory.mktemp("tasks")
    rng = np.random.default_rng(0)

    def word(words):
        return str(rng.choice(words))

    def put(name, rows):
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")

    for part, n in (("agreement", 12), ("binding", 8)):
        sentences = [(f"The {word(NOUNS)} {word(VERBS)}.", f"A {word(NOUNS)} {word(VERBS)} now.") for _ in range(n)]
        put(f"blimp/{part}.jsonl", [{"sentence_good": g, "sentence_bad": b} for g, b in sentences])
    choices = [
        {
            "query": f"Question: What {word(VERBS)} by the {word(NOUNS)}"
            + " and the door" * int(rng.integers(0, 9))
            + "?",
            "choices": [f"a {word(NOUNS)}" + " indeed" * int(rng.integers(0, 3)) for _ in range(4)],
            "gold": int(rng.integers(4)),
        }
        for _ in range(20)
    ]
    put("arc_easy.jsonl", choices)
    letters = [{**row, "choices": ["A", "B"], "gold": row["gold"] % 2} for row in choices]
    put("siqa.jsonl", letters)
    put(
        "winogrande.jsonl",
        [
            {
                "context_options": [f"The {word(NOUNS)} saw the {name}, so the {name}" for name in ("dog", "child")],
                "continuation": f"{word(VERBS)} away.",
                "gold": int(rng.integers(2)),
            }
            for _ in range(16)
        ],
    )
    contexts = [f"The {word(NOUNS)} {word(VERBS)} and the {word(NOUNS)} {word(VERBS)}" for _ in range(300)]
    said = [pieces.decode([next_token(model, pieces.encode(context))]) for context in contexts]
    known = [(context, text) for context, text in zip(contexts, said, strict=True) if text.strip() and text[0] == " "]
    assert len(known) > 2, "some of what the model says begins a word"
    rows = [*known[:6], *((context, word(NOUNS)) for context in contexts[:12])]
    put("lambada.jsonl", [{"context": context, "continuation": text} for context, text in rows])
    return place


def next_token(model, ids):
    with torch.no_grad():
        return int(model.logits(model(torch.tensor([ids])).hidden[0, -1]).argmax())


@pytest.mark.parametrize("name", ["blimp", "arc_easy", "siqa", "winogrande", "lambada"])
def test_our_scores_are_those_of_lm_eval(model, pieces, tasks, name):
    """Built in, through our adapter, and through lm-eval's own encoding one request at a time."""
    ours = benchmark(model, pieces, open_task(name, tasks)).to_json()
    assert ours.pop("unstable_borders") == 0
    assert 0 < ours["acc"] < 1, "a score that could not differ shows nothing"
    for lm in (OneByOne(model, pieces), Harness(model, pieces)):
        assert flat(evaluate(lm, [name], tasks)[name]) == pytest.approx(flat(ours), rel=1e-5)


def flat(found, path=()):
    """Numbers by path, without the error of perplexities, which lm-eval finds by drawing items again."""
    numbers = {}
    for key, value in found.items():
        if isinstance(value, dict):
            numbers |= flat(value, (*path, key))
        elif key != "perplexity_stderr":
            numbers[(*path, key)] = value
    return numbers


def test_drawing_items_again_finds_our_error_of_a_perplexity(model, pieces, tmp_path):
    words = [a + b + c for a in "bdf" for b in "aeiou" for c in "lmn"]
    rows = [{"context": f"The {word} saw the other", "continuation": word} for word in words]
    (tmp_path / "words.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    calm = build(model.config, 5)
    ours = benchmark(calm, pieces, open_task("words", tmp_path)).to_json()
    theirs = evaluate(Harness(calm, pieces), ["words"], tmp_path)["words"]
    assert ours["perplexity_stderr"] == pytest.approx(theirs["perplexity_stderr"], rel=0.15)


def test_lm_evals_own_class_for_transformers_gives_our_scores(family, ours, theirs, tokenizer, tasks):
    """The same model from its folder, through Transformers and lm-eval alone."""
    through = HFLM(pretrained=theirs, tokenizer=tokenizer, batch_size=8)
    names = ["blimp", "siqa"]
    found = evaluate(through, names, tasks, limit=6)
    for name in names:
        mine = benchmark(ours, byte_tokenizer(), open_task(name, tasks).first(6)).to_json()
        mine.pop("unstable_borders")
        assert flat(found[name]) == pytest.approx(flat(mine), rel=1e-4)
    pairs = requests("loglikelihood", PAIRS[:4])
    alone = [p for p, _ in Harness(ours, byte_tokenizer()).loglikelihood(pairs)]
    assert [p for p, _ in through.loglikelihood(pairs)] == pytest.approx(alone, rel=1e-4)


def test_lm_evals_own_class_cuts_what_is_longer_than_the_context_as_we_do(family, ours, theirs, tokenizer):
    """Texts, contexts, continuations and prompts of several times the length of a row in training."""
    through, own = HFLM(pretrained=theirs, tokenizer=tokenizer, batch_size=2), Harness(ours, byte_tokenizer())
    long = "The lamp was lit, and nobody was there. " * 12
    assert len(long) > 3 * ours.config.context
    texts = requests("loglikelihood_rolling", [(long,), ("Short.",), (long[: ours.config.context + 1],)])
    alone = [through.loglikelihood_rolling([text])[0] for text in texts]
    assert own.loglikelihood_rolling(texts) == pytest.approx(alone, rel=1e-5)
    pairs = requests("loglikelihood", [(long, " was lit"), (long, " and so it goes on and on"), ("A", long[:50])])
    found, wanted = own.loglikelihood(pairs), through.loglikelihood(pairs)
    assert [p for p, _ in found] == pytest.approx([p for p, _ in wanted], rel=1e-5)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in wanted]
    told = {"until": ["\n\n"], "max_gen_toks": 12, "do_sample": False}
    prompts = requests("generate_until", [(long, told), ("The lamp", told)])
    assert own.generate_until(prompts) == through.generate_until(prompts)


def test_a_limit_takes_the_first_items_in_both(model, pieces, tasks):
    ours = benchmark(model, pieces, open_task("blimp", tasks).first(5)).to_json()
    theirs = evaluate(Harness(model, pieces), ["blimp"], tasks, limit=5)["blimp"]
    assert (ours["n"], theirs["n"]) == (10, 10)
    assert theirs["acc"] == ours["acc"]


def test_our_bits_per_byte_are_those_of_lm_eval(model, pieces):
    """Windows of the whole context, which lm-eval's own rule cuts from texts of several times its length."""
    ours = bits_per_byte(model, pieces, DOCUMENTS, stride=model.config.context)
    assert ours.tokens > 3 * model.config.context
    for lm in (OneByOne(model, pieces), Harness(model, pieces)):
        found = evaluate(lm, [], texts={"texts": DOCUMENTS})["texts"]
        assert (found["n"], found["bits_per_byte"]) == (3, pytest.approx(ours.bits_per_byte, rel=1e-5))


PAIRS = [
    ("", "The lamp"),
    ("Question: Who?\nAnswer: ", "A dog"),
    ("Question: Who?\nAnswer:\n\n", "A dog"),
    ("a the", "re"),
    ("a lamp w", "as lit"),
    ("The lamp " * 30, "was lit"),
    ("Gr", "öße"),
]


def requests(kind, arguments):
    return [Instance(kind, {}, argument, index) for index, argument in enumerate(arguments)]


def test_borders_are_cut_as_lm_eval_cuts_them(model, pieces):
    """Also where a token reaches over the border, and where the context is longer than the window."""
    asked = requests("loglikelihood", PAIRS)
    ours, theirs = Harness(model, pieces).loglikelihood(asked), OneByOne(model, pieces).loglikelihood(asked)
    assert [p for p, _ in ours] == pytest.approx([p for p, _ in theirs], rel=1e-5)
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in theirs]


def test_generation_goes_on_as_ours_does_and_stops_where_asked(model, pieces):
    prompts = ["The lamp", "A dog and a stone", "", "Nobody was there. " * 40]
    told = {"until": ["e", "\n\n"], "max_gen_toks": 12}
    said = Harness(model, pieces).generate_until(requests("generate_until", [(prompt, told) for prompt in prompts]))
    for prompt, text in zip(prompts[:3], said, strict=False):
        pieces_of = generate(model, pieces, prompt, temperature=0, max_new_tokens=12, stop=told["until"])
        assert text == list(pieces_of)[-1].result.text
    assert not any("e" in text for text in said)
    end = pieces.encode(prompts[3])[-(32 - 12) :]
    heard: list[int] = []
    for _ in range(12):
        heard.append(next_token(model, [*end, *heard]))
    assert pieces.decode(heard).partition("e")[0].partition("\n\n")[0] == said[3], "the prompt's end is what counts"


def test_what_generation_cannot_heed_is_refused(model, pieces):
    asked = requests("generate_until", [("The", {"do_sample": True, "temperature": 1.0, "typical_p": 0.9})])
    with pytest.raises(ConfigError, match="typical_p"):
        Harness(model, pieces).generate_until(asked)
    with pytest.raises(ConfigError, match="every organ"):
        Harness(model, pieces, probe=ablate(model, ["swiglu"])).generate_until(asked)


def test_lm_evals_own_entry_takes_our_model_and_our_tasks(model, pieces, tasks):
    task, few = open_task("siqa", tasks), lm_eval.tasks.TaskManager(include_defaults=False)
    found = lm_eval.simple_evaluate(Harness(model, pieces), tasks=[local_task(task)], task_manager=few)
    assert found["results"]["siqa"]["acc,none"] == benchmark(model, pieces, task).whole.metrics["acc"].value


def test_the_command_line_gives_both_harnesses_the_same_task(model, pieces, tasks, tmp_path, capsys):
    save(tmp_path / "model", model, pieces)
    (tmp_path / "text.txt").write_text("Nobody was there. " * 9, "utf-8")
    words = ["eval", str(tmp_path / "model"), "--tasks", "blimp,lambada", "--data-dir", str(tasks), "--device", "cpu"]
    found = []
    for more in ([], ["--harness", "lm-eval", "--data", str(tmp_path / "text.txt")]):
        capsys.readouterr()
        assert main([*words, "--limit", "5", "--json", *more]) == 0
        found.append(json.loads(capsys.readouterr().out)["tasks"])
    ours, theirs = found
    assert theirs["blimp"]["parts"]["binding"] == pytest.approx(ours["blimp"]["parts"]["binding"])
    assert theirs["lambada"]["perplexity"] == pytest.approx(ours["lambada"]["perplexity"], rel=1e-5)
    assert theirs[str(tmp_path / "text.txt")]["bits_per_byte"] > 0


def test_a_task_that_is_not_local_says_what_to_download_and_where_to_put_it(model, pieces, tasks, monkeypatch):
    folder = Path(lm_eval.tasks.__file__).parent / "hellaswag"  # all of lm-eval's list takes ten seconds to read
    part = lm_eval.tasks.TaskManager(include_defaults=False, include_path=folder)
    monkeypatch.setattr("positronic.adapters.lm_eval._own_list", lambda: part)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DataError) as refused:
        evaluate(Harness(model, pieces), ["arc_easy", "hellaswag"], tasks)
    said = str(refused.value)
    assert "Rowan/hellaswag" in said
    assert f"put it into {tasks}/hellaswag.jsonl" in said
    with pytest.raises(DataError, match="nor lm-eval has a task 'helaswag'"):
        evaluate(Harness(model, pieces), ["helaswag"])
