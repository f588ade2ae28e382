"""Markdown text of the benchmarks: tables written between the markers of a page."""

import pytest

from ncfast.benchmarks.report import text

PAGE = "head\n<!-- table: a -->\nold\n<!-- end -->\nmiddle\n<!-- table: b -->\nkept\n<!-- end -->\n"


def test_a_table_replaces_what_is_between_its_own_markers(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    text.write_between(page, "a", "new\ntable")
    assert page.read_text() == PAGE.replace("old", "new\ntable")


@pytest.mark.parametrize("content", ["head", "<!-- table: a -->\n", PAGE + PAGE])
def test_a_page_without_the_markers_is_refused_and_kept(tmp_path, content):
    page = tmp_path / "page.md"
    page.write_text(content)
    with pytest.raises(ValueError, match="to hold <!-- table: a --> once"):
        text.write_between(page, "a", "new")
    assert page.read_text() == content
