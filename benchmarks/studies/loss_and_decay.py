"""Analyses the runs of docs/results/loss-and-decay.md: cross-entropy, and no weight decay.

    python benchmarks/studies/loss_and_decay.py --out runs

Reads the sweeps that the commands on that page write, and judges them by its plan. A sweep of which
one run is not at its last step counts as not run.
"""

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ncfast.benchmarks import results_file
from ncfast.experiments.report.claims import verdicts
from ncfast.experiments.report.runs import Run, read_run
from ncfast.experiments.run_dir import versions
from ncfast.experiments.sweep_file import SWEEP, load_sweep
from ncfast.experiments.training.checkpoint import saved_step
from ncfast.tracking.analytics.events import series

ROOT = Path(__file__).resolve().parents[2]
TO = ROOT / "docs" / "results" / "loss-and-decay" / "mnist.json"
# the folders that the commands on the page write
SWEEPS = {
    "cross-entropy": "cross-entropy",
    "no decay": "no-decay",
    "no decay, larger ε": "no-decay-larger-eps",
}
CROSS_ENTROPY = "cross-entropy"
RISE = 0.05  # least late rise of the test accuracy with cross-entropy
GENERALISES, DOES_NOT, LASTING = 0.5, 0.3, 0.9
CANNOT_TELL = "cannot tell"
CLAIMS = {
    "It groks": "grokking",
    "RNC1 of the training": "RNC1, train",
    "RNC1 of unseen": "RNC1, unseen",
}


def number(step: int | None) -> float:
    """A step, or NaN for an event that did not happen."""
    return math.nan if step is None else float(step)


def outcome(run: Run) -> dict[str, Any]:
    """The numbers of one run."""
    steps, accuracy = series(run.records, "test/accuracy")
    fit = run.events.fit
    at_fit = math.nan if fit is None else float(accuracy[steps <= fit][-1])
    return {
        "weight_decay": run.settings["weight_decay"],
        "seed": run.settings["seed"],
        "fit": number(fit),
        "test accuracy at the fit": at_fit,
        "90 % of the best": number(run.events.generalisation),
        "a fifth of RNC1": number(run.events.collapse),
        "best test accuracy": float(accuracy.max()),
        "last test accuracy": float(accuracy[-1]),
        "last training accuracy": float(series(run.records, "train/accuracy")[1][-1]),
    }


def agreed(held: Sequence[bool], yes: str, no: str) -> str:
    """``yes`` if it holds in all runs, ``no`` if in none, else "cannot tell"."""
    return yes if held and all(held) else CANNOT_TELL if any(held) or not held else no


def late_rise(run: Run) -> bool:
    """Whether the test accuracy still rises after the fit."""
    found = outcome(run)
    return bool(found["last test accuracy"] - found["test accuracy at the fit"] >= RISE)


def earlier(runs: Sequence[Run]) -> list[bool]:
    """Whether the larger of two weight decays generalises earlier, for each seed."""
    found: dict[int, dict[float, float]] = {}
    for run in runs:
        step = run.events.generalisation
        times = found.setdefault(run.settings["seed"], {})
        times[run.settings["weight_decay"]] = math.inf if step is None else step
    return [times[max(times)] < times[min(times)] for times in found.values()]


def generalises(run: Run) -> bool | None:
    """Whether the test accuracy is high in the second half of a run; None if in between."""
    steps, accuracy = series(run.records, "test/accuracy")
    if (accuracy < DOES_NOT).all():
        return False
    late = accuracy[steps >= steps[-1] / 2] >= GENERALISES
    return True if late[-1] and late.mean() >= LASTING else None


def judge_cross_entropy(runs: Sequence[Run]) -> dict[str, str]:
    """The verdicts 1 to 4 of the plan."""
    asked = {
        name: verdict.outcome
        for verdict in verdicts(runs)
        for start, name in CLAIMS.items()
        if verdict.claim.startswith(start)
    }
    rises = agreed([late_rise(run) for run in runs], "a late rise", "no late rise")
    order = agreed(earlier(runs), "earlier", "not earlier")
    return asked | {"late rise": rises, "larger λ": order}


def judge_no_decay(runs: Sequence[Run]) -> dict[str, str]:
    """The verdicts 5 and 6 of the plan."""
    told = {generalises(run) for run in runs}
    word = {True: "generalises", False: "does not generalise", None: CANNOT_TELL}
    fell = [run.events.collapse is not None for run in runs]
    return {
        "generalisation": word[told.pop()] if len(told) == 1 else CANNOT_TELL,
        "RNC1, train": agreed(fell, "collapses", "does not collapse"),
    }


def ended(path: Path) -> bool:
    """Whether a run is at its last step."""
    at = saved_step(path)
    return at >= 0 and at >= read_run(path).settings["steps"]


def complete(out: Path) -> dict[str, list[Run]]:
    """The runs of the sweeps that are complete, by the name of the sweep."""
    found = {}
    for name, folder in SWEEPS.items():
        if (out / folder / SWEEP).exists():
            replicas = [out / folder / one for one in load_sweep(out / folder)["replicas"]]
            if all(ended(one) for one in replicas):
                found[name] = [read_run(one) for one in replicas]
    return found


def analyse(done: Mapping[str, Sequence[Run]]) -> dict[str, Any]:
    """Every outcome and verdict of the plan."""
    judges: dict[bool, Callable[[Sequence[Run]], dict[str, str]]]
    judges = {True: judge_cross_entropy, False: judge_no_decay}
    sweeps = {
        name: {
            "runs": [outcome(run) for run in runs],
            "verdicts": judges[name == CROSS_ENTROPY](runs),
        }
        for name, runs in done.items()
    }
    missing = [name for name in SWEEPS if name not in done]
    return {"versions": versions(), "not run": missing, "sweeps": sweeps}


def table(sweeps: Mapping[str, Any]) -> str:
    """The outcomes in Markdown, a row for each run."""
    rows = [
        "| sweep | λ | seed | fit | test accuracy at the fit | 90 % of its best | "
        "a fifth of RNC1 at the fit | test accuracy, best and last | last training accuracy |",
        "|---" * 9 + "|",
    ]
    for name, found in sweeps.items():
        for one in found["runs"]:
            steps = [step(one[key]) for key in ("fit", "90 % of the best", "a fifth of RNC1")]
            best, last = one["best test accuracy"], one["last test accuracy"]
            cells = [name, f"{one['weight_decay']:g}", f"{one['seed']}", steps[0]]
            cells += [accuracy(one["test accuracy at the fit"]), *steps[1:]]
            cells += [f"{best:.3f}, {last:.3f}", accuracy(one["last training accuracy"])]
            rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def step(at: float | None) -> str:
    """A step, or "never"."""
    return "never" if at is None or math.isnan(at) else f"{at:,.0f}"


def accuracy(value: float | None) -> str:
    """An accuracy, or nothing."""
    return "" if value is None or math.isnan(value) else f"{value:.3f}"


def main() -> None:
    """Parse the options, judge the sweeps that are complete, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the sweeps")
    parser.add_argument("--to", type=Path, default=TO, help="file of the results")
    options = parser.parse_args()
    found = analyse(complete(options.out))
    results_file.write(options.to, results_file.rounded(found))
    print(table(found["sweeps"]))
    for name, one in found["sweeps"].items():
        print(name, one["verdicts"])


if __name__ == "__main__":
    main()
