"""Tries an installed ncfast as its first user: needs nothing but the package.

    python tests/smoke.py [--extension | --pure]

An option states which installation this must be. The status is 1, with the reason, if it is the
other one, if a number is wrong, or if the code of the folder below is used in place of the
installed one.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import warnings
from pathlib import Path

import torch

import ncfast

ROOT = Path(__file__).resolve().parent.parent


def within_trace(feats: torch.Tensor, labels: torch.Tensor, classes: int) -> float:
    """Tr(Sigma_W), by its definition: in float64, class after class."""
    total = 0.0
    for number in range(classes):
        rows = feats[labels == number].double()
        total += float((rows - rows.mean(dim=0)).square().sum())
    return total / len(feats)


def check_metrics(pure: bool) -> None:
    """RNC1 and an entropy against their definitions; a pure installation says so, once."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(2000) % 7
    feats = torch.randn(2000, 48, generator=generator) * 1e-3 + labels[:, None]
    expected = within_trace(feats, labels, 7) / float(feats.double().norm(dim=1).max() ** 2)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        values = [ncfast.rnc1(feats, labels).item() for _ in range(2)]
        metrics = ncfast.collapse_metrics(feats, labels)
        normal = ncfast.entropy(torch.randn(2000, 1, generator=generator))
    assert all(abs(value / expected - 1) < 1e-6 for value in values), (values, expected)
    assert abs(metrics["rnc1.max"].item() / expected - 1) < 1e-6, metrics["rnc1.max"]
    assert abs(normal.value - 1.4189) < 0.1, normal  # log(2 pi e) / 2
    about = [each for each in said if "C++ extension" in str(each.message)]
    assert len(about) == (1 if pure else 0), [str(each.message) for each in said]
    assert all(each.filename == __file__ for each in about), about


def check_tracker() -> None:
    """A tracked loop leaves a readable log."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "metrics.jsonl"
        with ncfast.Tracker(model, num_classes=3, sinks=[log]) as tracker:
            for _ in range(4):
                model(torch.randn(30, 5))
                tracker.step(labels=torch.arange(30) % 3)
        records = [json.loads(line) for line in log.read_text().splitlines()]
    assert len(records) == 4, records
    assert all(record["train/rnc1.max"] > 0 for record in records), records


def main() -> None:
    """Check the installation; raise an error that names what is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--extension", action="store_true", help="the C++ extension must be there")
    which.add_argument("--pure", action="store_true", help="it must not be there")
    asked = parser.parse_args()
    if ROOT in Path(ncfast.__file__).resolve().parents:
        sys.exit(f"{ncfast.__file__} was imported in place of the installed package")
    cpu = ncfast.backends()["cpu"]
    if (asked.extension and not cpu.available) or (asked.pure and cpu.available):
        sys.exit(f"the other installation was expected: {cpu.reason}")
    check_metrics(pure=not cpu.available)
    check_tracker()
    print(f"ncfast {ncfast.__version__}, torch {torch.__version__}: {cpu.reason}")


if __name__ == "__main__":
    main()
