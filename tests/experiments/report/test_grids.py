"""Tests that captions describe only what is drawn."""

from pathlib import Path

from ncfast.experiments.report.grids import weights
from ncfast.experiments.report.runs import Run


def test_the_caption_of_the_weights():
    """The caption of a figure without balancedness does not explain balancedness."""
    plain = {"step": 0, "weight.norm": 1.0}
    for record in (plain, {**plain, "balancedness": 0.5}):
        grid = weights([Run(Path("a"), {}, [record], {})])
        shown = [panel.name for panel in grid.panels]
        assert ("balanced" in grid.caption) is ("balancedness" in shown) is (len(record) > 2)
