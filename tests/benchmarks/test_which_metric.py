"""Tests that the tables of papers and code bases are the output of their script, and hold."""

import importlib.util
import math
import re
from pathlib import Path

import pytest

from ncfast.metrics.catalogue import CATALOGUE, STANDALONE

ROOT = Path(__file__).parents[2]
spec = importlib.util.spec_from_file_location(
    "which_metric", ROOT / "benchmarks/studies/which_metric.py"
)
which_metric = importlib.util.module_from_spec(spec)
spec.loader.exec_module(which_metric)

PRINTED = [
    pytest.param(printed, id=f"{base.split(' (')[0]}-{printed.name}")
    for base, numbers in which_metric.CODE.items()
    for printed in numbers
]


@pytest.mark.parametrize("printed", PRINTED)
def test_a_code_base_prints_what_the_id_says(printed):
    for name, sample in which_metric.samples().items():
        expected = printed.from_id(which_metric.value_of(printed, sample))
        if name in printed.exact:
            assert printed.prints(sample) == pytest.approx(expected, rel=1e-5), name
        else:  # the relation says that it holds for equal classes alone
            assert "if classes are equal" in printed.relation
            assert printed.prints(sample) != pytest.approx(expected, rel=1e-3), name


def cells(table):
    """The cells of a table, numbers as floats."""
    for line in table.strip().split("\n"):
        for cell in line.split(" | "):
            text = cell.strip(" |")
            is_number = re.fullmatch(r"-?\d+(\.\d+)?(e[+-]\d+)?", text)
            yield float(text) if is_number else text


@pytest.mark.parametrize("name", list(which_metric.TABLES))
def test_a_table_is_the_output_of_the_script(name):
    page, table = which_metric.TABLES[name]
    text = (ROOT / "docs" / page).read_text()
    stored = text.split(f"<!-- table: {name} -->")[1].split("<!-- end -->")[0]
    pairs = list(zip(cells(stored), cells(table()), strict=True))
    assert len(pairs) > 20
    for old, new in pairs:
        same = math.isclose(old, new, rel_tol=2e-3) if isinstance(old, float) else old == new
        assert same, f"{old!r} is {new!r}: run benchmarks/studies/which_metric.py"


def test_every_id_with_a_paper_is_in_the_table_of_papers():
    text = which_metric.paper_table()
    for name, metric in {**CATALOGUE, **STANDALONE}.items():
        if re.search(r"\b(1|2)\d{3}\b", metric.source):
            assert f"`{name}`" in text, name


def test_packages_print_what_the_calls_give():
    rows = [row.split(" | ") for row in which_metric.information_table().split("\n")[2:]]
    printed = [(row[2], row[3].strip(" |")) for row in rows if row[3].strip(" |")]
    assert len(printed) == 2
    for ours, theirs in printed:
        assert float(ours) == pytest.approx(float(theirs), rel=1e-3)
