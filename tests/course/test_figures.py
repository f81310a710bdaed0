"""The figures: drawn from the chapters' own numbers, the same bytes each time, and small."""

import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

import positronic_course
from positronic_course import CHAPTERS
from positronic_course.drawing import Drawing, round_numbers
from positronic_course.figures import caption, draw

PACKAGE = Path(positronic_course.__file__).parent
each_chapter = pytest.mark.parametrize("name", CHAPTERS)


def test_every_chapter_has_a_figure_and_no_figure_is_left_over():
    files = sorted(path.stem for path in (PACKAGE / "figures").glob("fig*.py"))
    assert files == [name.replace("ch", "fig", 1) for name in CHAPTERS]


@each_chapter
def test_a_figure_is_drawn_from_its_chapter_and_is_the_same_twice(name):
    assert f"positronic_course.{name} import" in source(name) or "figures import trained" in source(name)
    one, two = str(draw(name)), str(draw(name))
    assert one == two
    assert len(one) < 60_000
    assert len(caption(name)) > 80


def source(name):
    return (PACKAGE / "figures" / f"{name.replace('ch', 'fig', 1)}.py").read_text("utf-8")


@each_chapter
def test_everything_drawn_lies_inside_the_picture(name):
    root = ET.fromstring(str(draw(name)))
    wide, high = float(root.get("width")), float(root.get("height"))
    assert len(root) > 10
    for element in root.iter():
        if points := element.get("points"):
            places = np.array([pair.split(",") for pair in points.split()], float)
            assert np.isfinite(places).all()
            assert ((places >= 0) & (places <= (wide, high))).all()
        for key, most in (("x", wide), ("y", high), ("cx", wide), ("cy", high)):
            assert 0 <= float(element.get(key, 0)) <= most


def test_a_place_outside_the_plot_is_drawn_at_its_edge():
    panel = Drawing().panel(0, "t", (0, 1), (0, 1))
    assert panel.at(-1, 9) == panel.at(0, 1) == (panel.left, panel.top)
    assert panel.at(1, 0) == (panel.right, panel.bottom)


def test_words_are_written_as_text_and_never_as_tags():
    drawing = Drawing()
    drawing.text(1, 1, "<script> & co")
    assert "&lt;script&gt; &amp; co" in str(drawing)


@pytest.mark.parametrize(
    ("low", "high", "numbers"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (-22, 22, [-20, -10, 0, 10, 20]), (2, 4.5, [2, 2.5, 3, 3.5, 4, 4.5])],
)
def test_an_axis_has_a_few_round_numbers(low, high, numbers):
    assert round_numbers(low, high) == numbers


def test_a_figure_s_file_prints_it():
    command = [sys.executable, "-m", "positronic_course.figures.fig04_activations"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == str(draw("ch04_activations"))
    assert re.match(r"<svg [^>]+>", done.stdout)
