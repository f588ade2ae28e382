"""The small multiples of a report: what is drawn against the step."""

from __future__ import annotations

from collections.abc import Iterable

from ncfast.experiments.report.figures import PANELS, TEST, TRAIN, Curve, Panel, both
from ncfast.experiments.report.multiples import Grid
from ncfast.experiments.report.runs import Run

ERROR, TRACE, PROJECTED, ESTIMATE = "#444444", "#b3588f", "#5b4ea1", "#3c8d54"

CURVES = Grid(
    "curves",
    "Accuracy and collapse",
    "Mean over the seeds, and their range. RNC1 in both conventions: over the largest squared norm "
    "(solid) and over the squared mean norm (dotted). Vertical lines: fit (blue), generalisation "
    "(orange), collapse (green) of each seed.",
    PANELS,
)
BOUNDS = Grid(
    "bounds",
    "The generalisation bound over the measured error",
    "Error on unseen data, and the bound of Theorem 3.2 from the moments of unseen features: with "
    "the total variance of a class, and with its variance along the decision direction. A bound "
    "above one says nothing.",
    (
        Panel(
            "bounds",
            "error, bound",
            (
                Curve("test/error", "test error", ERROR),
                Curve("test/bound.generalization_trace", "bound, trace", TRACE),
                Curve("test/bound.generalization", "bound, projected", PROJECTED),
            ),
            log=True,
        ),
    ),
)
WEIGHTS = Grid(
    "weights",
    "Weights",
    "Global L2 norm of all parameters, and how far the last two layers are from balanced: "
    "norm(W_L^T W_L - W_{L-1} W_{L-1}^T), absolute, and relative to the sum of their norms.",
    (
        Panel("norm", "weight norm", (Curve("weight.norm", "norm", ERROR),), log=True),
        Panel(
            "balancedness",
            "balancedness",
            (
                Curve("balancedness", "relative", TRAIN),
                Curve("balancedness.absolute", "absolute", TRACE),
            ),
            log=True,
        ),
    ),
)


def information(runs: Iterable[Run]) -> Grid:
    """Superfluous information: bounds for each noise, and estimates where there are some."""
    prefix = "test/bound.superfluous@"
    keys = {key for run in runs for record in run.records for key in record}
    sigmas = sorted({key.removeprefix(prefix) for key in keys if key.startswith(prefix)}, key=float)
    return Grid(
        "information",
        "Superfluous information I(Z;X) − I(Z;Y)",
        "Nats, for features with Gaussian noise of σ times the largest norm (Theorem 3.4): the "
        "log-det bound and the looser trace bound on both splits, and the nearest-neighbour "
        "estimate on four principal components of unseen features with its standard error, which "
        "is a lower value by what four components leave out.",
        tuple(_noise_panel(sigma) for sigma in sigmas),
    )


def _noise_panel(sigma: str) -> Panel:
    return Panel(
        f"information{sigma}",
        f"nats, σ = {sigma}",
        (
            *both(f"bound.superfluous@{sigma}", ", log-det"),
            Curve(f"train/bound.superfluous_trace@{sigma}", "train, trace", TRAIN, dashed=True),
            Curve(f"test/bound.superfluous_trace@{sigma}", "test, trace", TEST, dashed=True),
            Curve(f"test/information.superfluous@{sigma}", "test, estimate", ESTIMATE),
        ),
        log=True,
    )
