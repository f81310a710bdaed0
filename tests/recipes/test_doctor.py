"""What is normal is called normal, and what is off is named: on trained runs, and on metrics written by hand."""

import json
import math

import numpy as np
import pytest
from doctored import STEPS, Recipe, frozen_after, rate_times, shuffled_labels

from positronic.errors import DataError
from positronic.recipes import RunConfig
from positronic.recipes.doctor import examine
from positronic.recipes.reference import Reference, learn_from, recipe_of, shipped, trace
from positronic.recipes.tiny import tiny_model, tiny_run

SEEDS = 5


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return Recipe(tmp_path_factory.mktemp("recipe"))


@pytest.fixture(scope="module")
def reference(recipe):
    return learn_from([recipe.run(f"seed-{seed}", seed) for seed in range(SEEDS)], "small")


def test_a_fresh_seed_is_normal(recipe, reference):
    found = examine(recipe.run("fresh", 5), [reference])
    assert found.verdict == "normal", found.words
    assert found.steps == STEPS


@pytest.mark.slow
def test_of_twenty_fresh_seeds_at_most_one_is_flagged(recipe, reference):
    found = [examine(recipe.run(f"fresh-{seed}", seed), [reference]) for seed in range(100, 120)]
    assert sum(f.verdict != "normal" for f in found) <= 1, [f.words for f in found]


SABOTAGE = {
    "a rate ten times too large": (lambda: rate_times(10), "learning rate", (4, 15)),
    "a rate ten times too small": (lambda: rate_times(0.1), "learning rate", (0.06, 0.2)),
    "labels of other tokens": (shuffled_labels, "labels", None),
    "weights that never move": (lambda: rate_times(0), "stuck", None),
    "weights that stop moving": (lambda: frozen_after(40), "stuck", None),
}


@pytest.mark.parametrize("what", SABOTAGE)
def test_sabotage_is_flagged_within_200_steps_and_named(recipe, reference, what):
    sabotage, cause, between = SABOTAGE[what]
    with sabotage():
        run = recipe.run(what.replace(" ", "-"), 77)
    found = examine(run, [reference])
    assert found.steps <= 200
    assert found.verdict == "off", found.words
    assert found.finding.cause == cause, found.words
    if between is not None:
        assert between[0] < found.finding.numbers["factor"] < between[1]


# From here on: metrics written by hand, whose truth is known.


def config(batch_tokens: int = 1024, lr: float = 3e-4, seed: int = 0, text: str = "text") -> RunConfig:
    run = tiny_run(tiny_model("attention", "tiny"), [text], batch_tokens=batch_tokens, seed=seed)
    return run.replace(train=run.train.replace(optimizer=run.train.optimizer.replace(lr=lr)))


def write(folder, seed=0, steps=200, run=None, change=lambda event: event, evaluations=()):
    """A run whose loss falls from 8 to 4 with a little noise; `change` is what is wrong with it."""
    noise = np.random.Generator(np.random.Philox(seed)).normal(0, 0.02, (steps + 1, 2))
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps((run or config()).to_json()), "utf-8")
    with (folder / "metrics.jsonl").open("w") as file:
        for step in range(1, steps + 1):
            loss = 4 + 4 * math.exp(-((step - 1) ** 2) / 10_000) + noise[step, 0]
            event = {"event": "step", "step": step, "total": 5000, "loss": loss, "bits_per_byte": loss / 3}
            event |= {"grad_norm": math.exp(noise[step, 1]), "rate": min(1.0, step / 500)}
            event |= {"tokens": 1024 * step, "bytes": 4096 * step}
            file.write(json.dumps(change(event)) + "\n")
        for step, bits in evaluations:
            file.write(json.dumps({"event": "evaluation", "step": step, "bits_per_byte": bits}) + "\n")
    return folder


@pytest.fixture(scope="module")
def curve(tmp_path_factory):
    folder = tmp_path_factory.mktemp("written")
    return learn_from([write(folder / str(seed), seed, run=config(seed=seed)) for seed in range(SEEDS)], "written")


def judged(tmp_path, curve, **how):
    return examine(write(tmp_path / "run", seed=99, **how), [curve])


def test_what_is_written_alike_is_normal(tmp_path, curve):
    assert judged(tmp_path, curve).verdict == "normal"


def with_loss(function):
    return lambda event: event | {"loss": function(event["step"], event["loss"])}


CASES = {
    "nan": (lambda e: e | ({"loss": None, "fault": "the output of trunk.3"} if e["step"] == 120 else {}), "nan"),
    "a loss that runs away": (with_loss(lambda step, loss: loss + max(0, step - 150) * 0.1), "learning rate"),
    "other text": (lambda e: e | {"bytes": int(e["bytes"] * 0.9)}, "data"),
    "another vocabulary": (with_loss(lambda step, loss: loss + 0.7), "data"),
    "no gradient to speak of": (lambda e: e | {"grad_norm": e["grad_norm"] * 0.5}, "labels"),
}


@pytest.mark.parametrize("what", CASES)
def test_what_is_off_is_named_with_its_number(tmp_path, curve, what):
    change, cause = CASES[what]
    found = judged(tmp_path, curve, change=change)
    assert (found.verdict, found.finding and found.finding.cause) == ("off", cause), found.words
    assert found.finding.numbers


def test_nan_says_where_and_when(tmp_path, curve):
    words = judged(tmp_path, curve, change=CASES["nan"][0]).words
    assert "step 120" in words
    assert "the output of trunk.3" in words


@pytest.mark.parametrize(("held_out", "cause"), [(2.0, "data"), (1.21, "learning rate")])
def test_text_known_by_heart_is_told_from_a_large_rate_by_what_is_held_out(tmp_path, curve, held_out, cause):
    def fast(event):
        loss = 3 + 5 * math.exp(-event["step"] / 40)
        return event | {"loss": loss + (event["step"] == 1) * 0.12, "bits_per_byte": loss / 3}

    found = judged(tmp_path, curve, change=fast, evaluations=[(0, 3.0), (200, held_out)])
    assert found.finding.cause == cause, found.words


def test_thirty_steps_are_needed(tmp_path, curve):
    assert judged(tmp_path, curve, steps=29).verdict == "too early"


def test_a_setting_of_the_optimizer_is_compared_and_named(tmp_path, curve):
    found = examine(write(tmp_path / "run", run=config(lr=3e-3)), [curve, curve])
    assert found.verdict == "normal"
    assert found.differences == ("train.optimizer.lr is 0.003 and the reference's 0.0003",)


def test_another_recipe_has_no_reference_and_hears_why(tmp_path, curve):
    found = examine(write(tmp_path / "run", run=config(batch_tokens=4096)), [curve, curve])
    assert found.verdict == "no reference"
    assert "train.batch_tokens is 4096 and the reference's 1024" in found.words


def test_a_text_of_another_name_has_no_reference_and_may_lie_in_any_folder(tmp_path, curve):
    moved = examine(write(tmp_path / "moved", run=config(text="elsewhere/text")), [curve, curve])
    assert moved.verdict == "normal"
    found = examine(write(tmp_path / "other", run=config(text="stories")), [curve, curve])
    assert found.verdict == "no reference"
    assert "data is ['stories'] and the reference's ['text']" in found.words


def test_without_a_reference_a_run_that_never_moves_is_still_stuck(tmp_path):
    found = examine(write(tmp_path / "run", change=with_loss(lambda step, loss: 8.0)), [])
    assert (found.verdict, found.finding.cause) == ("off", "stuck")


def test_a_curve_comes_back_from_its_file(tmp_path, curve):
    curve.save(tmp_path / "curve.json")
    back = Reference.load(tmp_path / "curve.json")
    assert back.ends == curve.ends
    assert back.recipe == curve.recipe
    assert back.loss.mean == pytest.approx(curve.loss.mean, rel=1e-4)
    (tmp_path / "curve.json").write_text("{}")
    with pytest.raises(DataError, match="no reference curve"):
        Reference.load(tmp_path / "curve.json")


def test_a_band_is_five_seeds_of_one_recipe(tmp_path):
    runs = [write(tmp_path / str(seed), seed) for seed in range(SEEDS)]
    with pytest.raises(DataError, match="needs 5 seeds"):
        learn_from(runs[:4], "few")
    with pytest.raises(DataError, match="given twice"):
        learn_from([*runs[:4], runs[0]], "double")
    other = write(tmp_path / "other", 9, run=config(batch_tokens=2048))
    with pytest.raises(DataError, match="another recipe"):
        learn_from([*runs[:4], other], "mixed")
    assert learn_from(runs, "five").seeds == SEEDS


def test_a_curve_is_as_long_as_the_shortest_run(tmp_path):
    runs = [write(tmp_path / str(seed), seed, steps=200 - 25 * seed) for seed in range(SEEDS)]
    assert learn_from(runs, "short").ends[-1] == 100


def test_windows_grow_with_the_run(tmp_path):
    ends = trace(write(tmp_path / "run", steps=2000)).ends
    assert ends[:3] == (10, 20, 30)
    assert 90 < ends[-1] - ends[-2] < 110


@pytest.mark.parametrize("curve", shipped(), ids=lambda curve: curve.name)
def test_shipped_curves_belong_to_the_small_recipe(curve):
    assert curve.seeds >= SEEDS
    assert curve.ends[-1] >= 200
    size = "tiny" if curve.recipe["model.d_model"] == 256 else "15m"
    data, batch_tokens = curve.recipe["data"], curve.recipe["train.batch_tokens"]
    run = tiny_run(tiny_model("attention", size), data, batch_tokens=batch_tokens)
    assert not curve.differences(recipe_of(run))
