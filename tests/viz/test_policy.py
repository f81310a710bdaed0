"""A page runs one script and wears one style, both ours: whatever else gets into it does nothing."""

import base64
import hashlib
import re

import pytest
from browser import Browser
from view_example import SAMPLER, TOKENIZER, oscillators, transformer

from positronic.observe import health
from positronic.observe.health import sample_rows
from positronic.viz import Report, page, replay, write_report
from positronic.viz.health import write_health

HACK = "window.hacked = 1"
ATTACKS = {
    "inline": f"<script>{HACK}</script>",
    "module": f'<script type="module">{HACK}</script>',
    "attribute": f'<img src="data:," onerror="{HACK}">',
    "vector": f'<svg onload="{HACK}"></svg>',
    "address": f'<script src="data:text/javascript,{HACK}"></script>',
    "frame": f'<iframe srcdoc="<script>parent.{HACK.removeprefix("window.")}</script>"></iframe>',
    "named": f'<script type="text/plain" data-module="scene">{HACK}; export const create = () => ({{}})</script>',
    "map": f'<script type="importmap">{{"imports": {{"scene": "data:text/javascript,{HACK}"}}}}</script>',
    "link": f'<a id="bait" href="javascript:{HACK}">here</a>',
    "style": "<style>h1 { display: none }</style>",
}


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    there = Browser(tmp_path_factory.mktemp("policy"))
    yield there
    there.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The text of each kind of page."""
    place, model = tmp_path_factory.mktemp("pages"), oscillators()
    rows = sample_rows([TOKENIZER.encode("A lamp on the hill. " * 20)], TOKENIZER.eot_id, 32)
    write_health(health(model, rows), "Health", place / "health.html")
    write_report(Report("A model", "", {}, {"ours": "2"}, "ours", "", None), place / "report.html")
    found = {name: (place / f"{name}.html").read_text("utf-8") for name in ("health", "report")}
    for name, made in {"view": model, "plain": transformer()}.items():
        found[name] = page(replay(made, TOKENIZER, "A lamp", tokens=2, sampler=SAMPLER))
    return found


@pytest.mark.parametrize("name", ["health", "report", "view", "plain"])
def test_the_policy_names_the_digests_of_what_stands_in_the_page(pages, name):
    text = pages[name]
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1]
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy
    for tag, directive in {"style": "style-src", 'script type="module"': "script-src"}.items():
        kind = tag.split()[0]
        for inside in re.findall(rf"<{tag}>(.*?)</{kind}>", text, re.DOTALL):
            digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
            assert re.search(rf"{directive} [^;]*'sha256-{re.escape(digest)}'", policy)
    runs = re.findall(r"<script(?! type=\"application/json\")[^>]*>", text)
    assert len(runs) == (name in ("view", "plain"))


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("name", ["health", "report", "view"])
def test_what_gets_into_a_page_is_not_run(browser, pages, tmp_path, name, attack):
    target = tmp_path / "page.html"
    opening = "<main>"
    target.write_text(pages[name].replace(opening, opening + ATTACKS[attack], 1), "utf-8")
    browser.show(target)
    if name == "view":
        while not browser.run("Boolean(window.view)"):
            browser.settle()
    browser.run("document.getElementById('bait')?.click()")
    browser.settle()
    assert browser.run("window.hacked === undefined")
    assert browser.run("getComputedStyle(document.querySelector('h1')).display") != "none"
    assert browser.run("document.querySelector('h1').textContent")
    assert browser.requests == []


@pytest.mark.parametrize("attack", ["inline", "module", "attribute", "address"])
def test_a_text_whose_escaping_failed_is_not_run(browser, tmp_path, attack):
    prompt = "A lamp</script>" + ATTACKS[attack]
    text = page(replay(transformer(), TOKENIZER, prompt, tokens=1, sampler=SAMPLER))
    before, mark, data = text.partition('<script type="application/json"')
    broken = before + mark + data.replace("\\u003c", "<").replace('\\"', '"')
    assert ATTACKS[attack] in broken
    (tmp_path / "broken.html").write_text(broken, "utf-8")
    browser.show(tmp_path / "broken.html")
    browser.settle()
    assert browser.run("window.hacked === undefined")


def test_pages_without_a_script_are_dressed_and_complain_of_nothing(browser, pages, tmp_path):
    for name in ("health", "report"):
        (tmp_path / f"{name}.html").write_text(pages[name], "utf-8")
        browser.errors.clear()
        browser.show(tmp_path / f"{name}.html")
        assert browser.run("getComputedStyle(document.body).marginTop") == "0px"
        assert browser.errors == []
