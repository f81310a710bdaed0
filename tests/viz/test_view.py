"""A page shows what was captured: numbers against tensors, in a browser that has no network."""

import json

import pytest
import torch
from browser import Browser
from view_example import PROMPT, SAMPLER, TOKENIZER, colony, oscillators, smaller, transformer

from positronic.errors import ConfigError, DataError
from positronic.kernels.colony import grow_reference, sense_reference
from positronic.kernels.kuramoto import RingField, integrate_reference
from positronic.mixers.kuramoto import Kuramoto
from positronic.models import mixer_only
from positronic.models.mycel import mycel_tiny
from positronic.models.quazimoto import positronic_tiny
from positronic.observe.record import record
from positronic.probe import capture
from positronic.viz import page, replay
from positronic.viz.colony import Colonies, positions_by_step, sensed
from positronic.viz.rings import Rings, phases_by_step
from positronic.viz.scene import scene_of

TOKENS = 6
MODELS = {"rings": oscillators, "colony": colony, "plain": transformer}
HALF = 0.51
"""Of the last digit shown: what rounding may change."""


@pytest.fixture(scope="module")
def models():
    return {name: make() for name, make in MODELS.items()}


@pytest.fixture(scope="module")
def recordings(models):
    """All taps of all layers."""
    return {
        name: record(model, TOKENIZER, PROMPT, {"trunk.*": capture}, tokens=TOKENS, sampler=SAMPLER)
        for name, model in models.items()
    }


@pytest.fixture(scope="module")
def replays(models):
    return {name: replay(model, TOKENIZER, PROMPT, tokens=TOKENS, sampler=SAMPLER) for name, model in models.items()}


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    there = Browser(tmp_path_factory.mktemp("browser"))
    yield there
    there.close()


@pytest.fixture
def shown(browser, replays, tmp_path):
    """Opens a replay; at the end nothing may have gone wrong in it, and nothing may have been asked of a network."""

    def show(name, **window):
        file = tmp_path / f"{name}.html"
        file.write_text(page(replays[name]), "utf-8")
        browser.open(file, **{"width": 900, "height": 640, **window})
        return browser

    yield show
    assert browser.errors == []
    assert browser.requests == []


def seek(browser, **to) -> None:
    browser.run(f"view.seek({json.dumps(to)})")
    browser.settle()


def numbers(browser) -> dict[str, list[str]]:
    """By name, the numbers on the page as they are written there."""
    found = browser.run("[...document.querySelectorAll('[data-number]')].map((n) => [n.dataset.number, n.textContent])")
    by_name: dict[str, list[str]] = {}
    for name, text in found:
        by_name.setdefault(name, []).append(text)
    return by_name


def agree(text: str, value: float) -> bool:
    """Whether the text is this value rounded to the digits it has, after the four that the page's JSON keeps of it."""
    mantissa, _, exponent = text.partition("e")
    digits = len(mantissa.partition(".")[2])
    return abs(float(text) - float(value)) <= HALF * 10 ** (int(exponent or 0) - digits) + 5e-4 * abs(float(value))


def test_steps_between_the_taps_are_the_dynamics(models, recordings):
    model, recording = models["rings"], recordings["rings"]
    banks = {path: part for path, part in model.named_modules() if isinstance(part, Kuramoto)}
    for path, bank in banks.items():
        phases = phases_by_step(bank, path, recording)
        assert torch.equal(phases[:, 0], recording.tapped(f"{path}:first_phase"))
        assert torch.equal(phases[:, -1], recording.tapped(f"{path}:phase"))
        moved = (phases[:, -1] - phases[:, 0]).abs().max()
        assert moved > 0.5, "phases that stay prove nothing"
        gain = recording.tapped(f"{path}.controller:modulation")[..., 0]
        assert (gain - 1).abs().max() > 1e-3, "a controller that wishes nothing proves nothing"


@torch.no_grad()
def test_an_euler_step_follows_from_the_one_before(models, recordings):
    """From the last step but one, one step of the definition with the controller's wishes leads to the tapped phase."""
    model, recording = models["rings"], recordings["rings"]
    path = "trunk.1.mixer"
    bank = model.get_submodule(path)
    phases, c = phases_by_step(bank, path, recording), bank.config
    gain, lag, centre, _ = recording.tapped(f"{path}.controller:modulation").unbind(-1)
    for k in range(c.steps):
        field = RingField(
            bank.coupling, bank.lag + lag, bank.centre * centre, bank.centre_phase + bank.centre_speed * k * c.dt,
            bank.centre_speed, gain,
        )  # fmt: skip
        frequency, drive = recording.tapped(f"{path}:frequency"), recording.tapped(f"{path}:drive")
        after = integrate_reference(phases[:, k], frequency, drive, field, c.rings, 1, c.dt)
        assert torch.allclose(after, phases[:, k + 1], atol=1e-4), f"step {k}"


@torch.no_grad()
def test_tips_sense_what_the_mixer_senses(models, recordings):
    bank, recording = models["colony"].get_submodule("trunk.1.mixer"), recordings["colony"]
    path, c = positions_by_step(bank, "trunk.1.mixer", recording), bank.config
    first, growth = recording.tapped("trunk.1.mixer:first_positions"), recording.tapped("trunk.1.mixer:first_growth")
    for step in range(c.steps + 1):
        grown = grow_reference(first, growth, bank.field(), step, c.dt).position
        assert torch.allclose(path[:, step], grown, atol=1e-4), f"step {step}"
    assert (path[:, -1] - path[:, 0]).norm(dim=-1).max() > 0.05, "tips that stay prove nothing"
    density, mass = sensed(path, bank.field())
    assert torch.equal(path[:, -1], recording.tapped("trunk.1.mixer:positions"))
    assert torch.allclose(density[:, -1], recording.tapped("trunk.1.mixer:density"), atol=1e-5)
    assert torch.allclose(density, sense_reference(path, bank.field())[0], atol=1e-5)
    assert mass.shape == (*path.shape[:2], bank.config.centres)


def test_writes_are_differences_of_stores(recordings, replays):
    memory = recordings["rings"].tapped("trunk.3.mixer.injections.2:memory")  # (M, 2, R, E, V)
    for m, frame in enumerate(replays["rings"]["frames"]):
        before = memory[m - 1] if m else torch.zeros_like(memory[0])
        written = (memory[m] - before).norm(dim=-1).norm(dim=0)
        assert torch.allclose(torch.tensor(frame[1]["written"]), written, rtol=1e-3, atol=1e-6)
        assert torch.tensor(frame[1]["read"]).sum(-1).allclose(torch.ones(4), atol=1e-3)
    assert memory[-1].abs().max() > 0.01


def test_one_layer_is_the_same_layer_alone(models, replays):
    alone = replay(models["rings"], TOKENIZER, PROMPT, tokens=TOKENS, layer=2, sampler=SAMPLER)
    whole = replays["rings"]
    assert alone["layers"] == [2]
    assert alone["fixed"] == whole["fixed"][1:]
    assert alone["frames"] == [frame[1:] for frame in whole["frames"]]
    assert len(page(alone)) < len(page(whole))


def test_a_layer_that_is_not_there_is_refused(models):
    for layer in (0, 3):
        with pytest.raises(ConfigError, match=f"--layer is {layer}, and this model has layers 1 to 2"):
            scene_of(models["rings"], layer)
    with pytest.raises(ConfigError, match="has none; leave it out"):
        scene_of(models["plain"], 1)
    assert isinstance(scene_of(models["rings"])[0], Rings)
    assert isinstance(scene_of(models["colony"])[0], Colonies)


def test_a_page_that_is_too_large_says_how_to_shorten_it(replays):
    with pytest.raises(DataError, match=r"more than the 0\.5 MB .* record fewer tokens \(about \d+.* or one layer"):
        page(replays["rings"], max_bytes=500_000)
    with pytest.raises(DataError) as refused:
        page(replays["plain"], max_bytes=20_000)
    assert "one layer" not in str(refused.value)


def test_the_licence_travels_with_what_it_allows(replays):
    assert "Permission is hereby granted" in page(replays["rings"])
    plain = page(replays["plain"])
    assert "three" not in plain
    assert len(plain) < 60_000


@pytest.mark.parametrize("name", MODELS)
def test_expectations_shown_are_those_of_the_model(shown, recordings, replays, name):
    browser = shown(name)
    for token in (0, 7, len(recordings[name].moments) - 1):
        seek(browser, token=token)
        moment, found = recordings[name].moments[token], numbers(browser)
        expected = [a.probability for a in moment.alternatives]
        if moment.next not in [a.token for a in moment.alternatives]:
            expected.append(moment.probability)
        assert len(found["p"]) == len(expected)
        assert all(agree(p.removesuffix(" %"), 100 * q) for p, q in zip(found["p"], expected, strict=True)), found["p"]
        assert agree(found["entropy"][0], moment.entropy_bits)
    assert browser.run("document.getElementById('text').textContent").startswith(PROMPT)
    assert json.loads(browser.run("document.getElementById('data').textContent")) == json.loads(
        json.dumps(replays[name])
    )


def test_ring_numbers_shown_are_the_captured_tensors(shown, models, recordings):
    browser, recording = shown("rings"), recordings["rings"]
    for layer, token, step in ((0, 4, 0), (1, 11, 2), (1, 20, 4)):
        seek(browser, token=token, step=step, layer=layer)
        found, path = numbers(browser), f"trunk.{2 * layer + 1}.mixer"
        bank = models["rings"].get_submodule(path)
        rings = bank.config.rings
        phases = phases_by_step(bank, path, recording)[token, step].split(rings)
        frequencies = recording.tapped(f"{path}:frequency")[token].split(rings)
        surprise = recording.tapped(f"{path}.controller:error")[token].norm(dim=-1)
        gain = recording.tapped(f"{path}.controller:modulation")[token][:, 0]
        for r in range(len(rings)):
            expected = {
                f"order.{r}": torch.polar(torch.ones_like(phases[r]), phases[r]).mean().abs(),
                f"frequency.{r}": frequencies[r].mean(),
                f"surprise.{r}": surprise[r],
                f"gain.{r}": gain[r],
            }
            for organ, kind in enumerate(("phase_attention", "engram", "specialists")):
                current = recording.tapped(f"{path}.injections.{organ}:current")[token].split(rings)[r]
                expected[f"current.{kind}.{r}"] = current.square().mean().sqrt()
            wrong = {n: (found[n], float(x)) for n, x in expected.items() if not agree(found[n][0], x)}
            assert not wrong
        gates = recording.tapped(f"{path}.injections.1:gate")[token]
        wrong = {i: (found[f"gate.{i}"], float(x)) for i, x in enumerate(gates) if not agree(found[f"gate.{i}"][0], x)}
        assert not wrong


def test_colony_numbers_shown_are_the_captured_tensors(shown, models, recordings):
    browser, recording = shown("colony"), recordings["colony"]
    for layer, token, step in ((0, 4, 3), (1, 11, 3), (1, 20, 0)):
        seek(browser, token=token, step=step, layer=layer)
        found, path = numbers(browser), f"trunk.{2 * layer + 1}.mixer"
        tips = positions_by_step(models["colony"].get_submodule(path), path, recording)[token, step]
        assert agree(found["distance"][0], tips.norm(dim=-1).mean())
        if step == 3:
            density = recording.tapped(f"{path}:density")[token]
            assert agree(found["density"][0], density.mean())
            assert agree(found["densest"][0], density.max())
        engagement = recording.tapped(f"{path}.stations:engagement")[token]
        wrong = {s: (found[f"engagement.{s}"], float(x)) for s, x in enumerate(engagement)
                 if not agree(found[f"engagement.{s}"][0], x)}  # fmt: skip
        assert not wrong


@pytest.mark.parametrize("name", ["rings", "colony"])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_scene_is_drawn_and_moves(shown, browser, name, theme):
    browser.scheme(theme == "dark")
    shown(name)
    assert browser.run("document.documentElement.dataset.theme") == theme
    seek(browser, token=9, step=0, layer=0)
    first = browser.colours("#canvas")
    pixels = sum(first.values())
    assert len(first) > 200, f"{len(first)} colours are no scene"
    background = max(first.values()) / pixels
    assert 0.3 < background < 0.97, f"{background:.0%} of the scene are one colour"
    assert browser.colours("#canvas") == first, "what stands still looks the same"
    for change in ({"step": 2}, {"token": 12, "step": 0}, {"layer": 1, "token": 9, "step": 0}):
        seek(browser, token=9, step=0, layer=0)
        seek(browser, **change)
        other = browser.colours("#canvas")
        moved = sum(abs(first.get(c, 0) - other.get(c, 0)) for c in first.keys() | other.keys()) / 2
        assert moved > 0.002 * pixels, f"{change} moved {moved:.0f} of {pixels} pixels"


def test_keys_walk_through_time_and_layers(shown):
    browser = shown("rings")

    def at():
        return tuple(browser.run("Object.values(view.at)"))

    seek(browser, token=3, step=3, layer=0)
    walk = [
        ("ArrowRight", False, (3, 4, 0)),
        ("ArrowRight", False, (4, 0, 0)),
        ("ArrowLeft", False, (3, 4, 0)),
        ("ArrowRight", True, (4, 4, 0)),
        ("ArrowLeft", True, (3, 4, 0)),
        ("ArrowUp", False, (3, 4, 1)),
        ("ArrowUp", False, (3, 4, 1)),
        ("ArrowDown", False, (3, 4, 0)),
        ("Home", False, (0, 0, 0)),
        ("ArrowLeft", False, (0, 0, 0)),
    ]
    for key, shift, expected in walk:
        browser.key(key, shift)
        assert at() == expected, key
    browser.key(" ")
    while at() <= (0, 1, 0):
        browser.settle()
    browser.key(" ")
    stopped = at()
    browser.run("new Promise((done) => setTimeout(done, 600))")
    assert at() == stopped, "space again pauses"
    browser.key("End")
    browser.key("ArrowRight")
    assert at()[:2] == (len(browser.run("view.data.tokens")) - 1, 4)


@pytest.mark.parametrize("config", [mixer_only(positronic_tiny()), mixer_only(mycel_tiny())])
def test_a_family_without_organs_is_drawn_too(browser, tmp_path, config):
    data = replay(smaller(config), TOKENIZER, "ab", tokens=2, sampler=SAMPLER)
    (tmp_path / "bare.html").write_text(page(data), "utf-8")
    browser.open(tmp_path / "bare.html", 900, 640)
    seek(browser, token=1, step=1, layer=1)
    assert len(browser.colours("#canvas")) > 100
    assert browser.errors == []


def test_the_button_saves_the_numbers(shown, replays, tmp_path):
    browser = shown("rings")
    browser.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    browser.run("document.getElementById('save').click()")
    saved = tmp_path / "positronic-view.json"
    while not saved.exists():
        browser.settle()
    assert json.loads(saved.read_text("utf-8")) == json.loads(json.dumps(replays["rings"]))


@pytest.mark.parametrize("name", MODELS)
def test_a_telephone_has_room_for_the_page(shown, name):
    browser = shown(name, width=360, height=740, scale=2, mobile=True)
    wide = browser.run("document.documentElement.scrollWidth")
    assert wide <= 360, f"{wide} pixels of width"
    too_small = browser.run(
        "[...document.querySelectorAll('nav button')].filter((b) => b.offsetHeight && b.offsetHeight < 34).length"
    )
    assert not too_small
