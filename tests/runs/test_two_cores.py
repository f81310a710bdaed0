"""The page of the small pipeline: its section takes the place of the old one and leaves the others alone."""

from pages import put_section
from two_cores import HEADING


def test_a_section_takes_the_place_of_the_old_one_and_leaves_the_others_alone(tmp_path):
    page = tmp_path / "page.md"
    put_section(page, f"{HEADING}\n\nNothing yet.\n")
    assert page.read_text("utf-8") == f"{HEADING}\n\nNothing yet.\n"
    page.write_text(f"# Page\n\n## First\n\none\n\n{page.read_text('utf-8')}\n## Last\n\ntwo\n", "utf-8")
    put_section(page, f"{HEADING}\n\nA back\\slash.\n")
    assert page.read_text("utf-8") == f"# Page\n\n## First\n\none\n\n{HEADING}\n\nA back\\slash.\n\n## Last\n\ntwo\n"


def test_a_page_without_the_section_gets_it_at_its_end(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# Page\n", "utf-8")
    put_section(page, f"{HEADING}\n\nA table.\n")
    assert page.read_text("utf-8") == f"# Page\n\n{HEADING}\n\nA table.\n"
