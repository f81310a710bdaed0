"""The page says everything it was given, whatever characters that has."""

from positronic.viz import Report, Table, write_report


def page(tmp_path, *tables):
    report = Report(
        title="A <model>",
        summary="",
        facts={"trained": "7 steps"},
        scores={"gzip": "2.402", "ours": "2.387"},
        ours="ours",
        verdict="a < b",
        curve=None,
        samples=[("if a", " < b:")],
        tables=list(tables),
        commands=["positronic generate run/last"],
    )
    write_report(report, tmp_path / "report.html")
    return (tmp_path / "report.html").read_text("utf-8")


def test_tables_stand_under_their_headings_with_all_cells(tmp_path):
    table = Table(
        "Gates & rings", ("", "layer 1", "layer 2"), [("<engram>", "0.1", "0.2")], "0 is silent.", ("x", "<y>")
    )
    found = page(tmp_path, table)
    assert "<h2>Gates &amp; rings</h2><table><tr><th></th><th>layer 1</th><th>layer 2</th></tr>" in found
    assert "<tr><td>&lt;engram&gt;</td><td>0.1</td><td>0.2</td></tr></table>" in found
    assert '<p class="soft">0 is silent.</p><pre><b>x</b>&lt;y&gt;</pre>' in found


def test_a_page_without_tables_has_no_more_headings(tmp_path):
    plain = page(tmp_path)
    assert plain.count("<h2>") + 1 == page(tmp_path, Table("One", ("",), [])).count("<h2>")
    assert "<tr class=ours><td>ours</td><td>2.387</td></tr>" in plain
