"""The tables of docs/metrics.md: definitions from the catalogue, typical values from three samples.

python benchmarks/studies/metrics_table.py
"""

import re
from pathlib import Path

import torch

import ncfast
from ncfast.benchmarks.report import text
from ncfast.metrics.catalogue import CATALOGUE

PAGE = Path(__file__).resolve().parents[2] / "docs/metrics.md"
COUNT, DIM, CLASSES = 10_000, 64, 10
HEAD = ["id", "definition", "source", "says", "random", "separated", "collapsed", "tier"]


def samples():
    """Features, labels, classifier, bias and foreign features of three stages."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    labels = torch.arange(COUNT) % CLASSES
    noise, ood = normal(COUNT, DIM), normal(1000, DIM)
    weight, bias = normal(CLASSES, DIM), 0.1 * normal(CLASSES)
    yield "random", (noise, labels, weight, bias, ood)
    means = normal(CLASSES, DIM)
    weight = means + 0.5 * normal(CLASSES, DIM)
    yield "separated", (means[labels] + 0.5 * noise, labels, weight, bias, ood)
    simplex = (torch.eye(CLASSES).double() - 1 / CLASSES) @ torch.linalg.qr(normal(DIM, DIM))[0][
        :CLASSES
    ]
    weight = simplex + 1e-3 * normal(CLASSES, DIM)
    yield "collapsed", (simplex[labels] + 1e-3 * noise, labels, weight, 0 * bias, ood)


def main():
    values = {}
    for stage, (feats, labels, weight, bias, ood) in samples():
        found = ncfast.collapse_metrics(feats, labels, weight=weight, bias=bias, ood_feats=ood)
        values[stage] = {name: float(value) for name, value in found.items()}
    page = PAGE.read_text()
    for family in dict.fromkeys(name.split(".")[0] for name in CATALOGUE):
        rows = [
            [
                f"`{name}`",
                f"`{metric.formula}`",
                metric.source,
                metric.direction,
                *(f"{values[stage][name]:.3g}" for stage in values),
                f"{metric.tier}{' *' if metric.stalls else ''}",
            ]
            for name, metric in CATALOGUE.items()
            if name.split(".")[0] == family
        ]
        table = text.table(HEAD, rows, 4, 7)
        pattern = f"(<!-- table: {family} -->\n).*?(<!-- end -->)"
        page = re.sub(
            pattern,
            lambda found, table=table: f"{found[1]}{table}\n{found[2]}",
            page,
            flags=re.DOTALL,
        )
    PAGE.write_text(page)


if __name__ == "__main__":
    main()
