"""Measures the error of Tr(Sigma_W) at every collapse level, for ncfast and usual expressions.

    python benchmarks/studies/accuracy.py            # prints the table, writes results and docs

One run of this script writes the tables of docs/accuracy.md.
"""

from functools import partial
from pathlib import Path

import torch

import ncfast
from ncfast.benchmarks import results_file
from ncfast.benchmarks.report import text

ROOT = Path(__file__).resolve().parents[2]
LEVELS = [1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7]
COUNT, DIM, CLASSES = 20_000, 256, 10


def sample(level, dtype, outlier):
    """Classes whose standard deviation is ``level`` times the norm of their mean."""
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(CLASSES, DIM, generator=generator, dtype=torch.float64)
    labels = torch.randint(CLASSES, (COUNT,), generator=generator)
    noise = torch.randn(COUNT, DIM, generator=generator, dtype=torch.float64)
    spread = level * means.norm(dim=1)[labels].unsqueeze(1) / DIM**0.5
    feats = (means[labels] + spread * noise).to(dtype)
    if outlier:
        for c in range(CLASSES):  # the first row of each class is a sample of the next one
            feats[(labels == c).nonzero()[0]] = means[(c + 1) % CLASSES].to(dtype)
    return feats, labels


def truth(feats, labels):
    """The definition: two passes in float64, relative to a row of the class."""
    total = 0.0
    for c in range(CLASSES):
        rows = feats[labels == c].double()
        shifted = rows - rows[0]
        total += float((shifted - shifted.mean(0)).square().sum())
    return total / COUNT


def difference_of_squares(feats, labels):
    """E[x^2] - E[x]^2 in float32, as in public code."""
    x = feats.float()
    counts = torch.bincount(labels, minlength=CLASSES).float().unsqueeze(1)
    first = torch.zeros(CLASSES, DIM).index_add_(0, labels, x)
    second = torch.zeros(CLASSES, DIM).index_add_(0, labels, x.square())
    variance = second / counts - (first / counts).square()
    return float((variance * counts).sum() / COUNT)


def two_pass_float32(feats, labels):
    """Means, then squared deviations, in float32."""
    x = feats.float()
    counts = torch.bincount(labels, minlength=CLASSES).float().unsqueeze(1)
    means = torch.zeros(CLASSES, DIM).index_add_(0, labels, x) / counts
    return float((x - means[labels]).square().sum() / COUNT)


def one_pass(feats, labels, backend):
    """ncfast.class_moments on the whole matrix."""
    moments = ncfast.class_moments(feats, labels, num_classes=CLASSES, backend=backend)
    return float(moments.within_trace)


def merged(feats, labels, backend):
    """ncfast.class_moments on 1,000 chunks, merged."""
    total = ncfast.ClassMoments.empty(CLASSES, DIM)
    for x, y in zip(feats.chunk(1000), labels.chunk(1000), strict=True):
        part = ncfast.class_moments(x, y, num_classes=CLASSES, backend=backend)
        total = total.merge(part)
    return float(total.within_trace)


OURS = {
    f"ncfast, {backend}{what}": partial(function, backend=backend)
    for backend in ("reference", "cpu")
    for what, function in (("", one_pass), (", 1,000 chunks", merged))
    if ncfast.backends()[backend].available
}
CONTESTANTS = {
    "E[x²] − E[x]², float32": difference_of_squares,
    "two-pass, float32": two_pass_float32,
    **OURS,
}


def measure():
    """Every row of the table."""
    rows = []
    for dtype, outlier in ((torch.float32, False), (torch.bfloat16, False), (torch.float32, True)):
        for level in LEVELS:
            feats, labels = sample(level, dtype, outlier)
            exact = truth(feats, labels)
            errors = {
                name: abs(function(feats, labels) / exact - 1)
                for name, function in CONTESTANTS.items()
            }
            data = str(dtype).removeprefix("torch.") + (", outlier first" if outlier else "")
            rows.append({"data": data, "level": level, "errors": errors})
    return rows


def markdown(rows):
    """The largest error of each expression by kind of features, and folded away every level."""
    titles = ["features", *CONTESTANTS]
    kinds = dict.fromkeys(row["data"] for row in rows)
    worst = [
        [
            kind,
            *(
                text.error(max(r["errors"][n] for r in rows if r["data"] == kind))
                for n in titles[1:]
            ),
        ]
        for kind in kinds
    ]
    body = [
        [row["data"], f"{row['level']:.0e}", *(text.error(e) for e in row["errors"].values())]
        for row in rows
    ]
    full = text.table(["features", "std / norm(mean)", *CONTESTANTS], body)
    return (
        f"Largest error over all levels:\n\n{text.table(titles, worst)}\n\n"
        f"{text.folded('Every level', full)}"
    )


def main():
    rows = measure()
    table = markdown(rows)
    print(table)
    worst = max(row["errors"][name] for row in rows for name in OURS)
    print(f"\nlargest error of ncfast: {worst:.1e}")
    about = {"torch": torch.__version__, "N": COUNT, "D": DIM, "K": CLASSES, "rows": rows}
    results_file.write(results_file.folder() / "accuracy.json", about)
    if results_file.folder() == results_file.OURS:
        text.write_between(ROOT / "docs/accuracy.md", "Tr(Sigma_W)", table)
    if worst > 1e-6:
        raise SystemExit("the promised bound of 1e-6 does not hold")


if __name__ == "__main__":
    main()
