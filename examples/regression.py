"""Watches a regression network collapse: NRC1 to NRC3 with and without weight decay.

The network sees the upper half of a digit and predicts how much ink the left, the middle and the
right of its lower half hold: three correlated targets. Run it with ``python
examples/regression.py``. It takes about a minute on one core.
"""

import json
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import ncfast

OUT = Path("runs/regression")
WEIGHT_DECAYS = (0.0, 5e-4, 5e-3)
STEPS, POINTS, WIDTH = 6000, 14, 128
NAMES = {
    "nrc1.features": "NRC1: features against their 3 principal components",
    "nrc2.weight": "NRC2: features against the rows of the last layer",
    "nrc3.gram": "NRC3: last layer against the covariance of the targets",
    "test/r2": "R² on unseen digits",
}


def digits() -> tuple[Tensor, Tensor]:
    """Upper halves (1797, 32) and ink of three parts of the lower halves (1797, 3), scaled."""
    images = torch.tensor(load_digits().images, dtype=torch.float32) / 16
    lower = images[:, 4:]
    parts = [lower[:, :, :3], lower[:, :, 3:5], lower[:, :, 5:]]
    ink = torch.stack([part.mean((1, 2)) for part in parts], 1)
    return images[:, :4].flatten(1), (ink - ink.mean(0)) / ink.std()


def measure(body: nn.Module, head: nn.Linear, x: Tensor, y: Tensor) -> dict[str, float]:
    """NRC1 to NRC3 of features that arrive in batches."""
    moments = ncfast.RegressionMoments.empty(dim=WIDTH, targets=3)
    with torch.no_grad():
        for rows, targets in zip(x.split(256), y.split(256), strict=True):
            moments.update_(body(rows), targets)
    found = ncfast.regression_metrics(moments, weight=head.weight)
    return {name: value.item() for name, value in found.items()}


@torch.no_grad()
def explained(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """R², the share of the targets' variance that the network explains."""
    return 1 - float((model(x) - y).square().sum() / (y - y.mean(0)).square().sum())


def train(weight_decay: float, steps: int, points: int) -> list[dict[str, float]]:
    """One record a log point; log points are spaced evenly in log(step)."""
    torch.manual_seed(0)
    x, y = digits()
    # no ReLU at the end: the theory lets features have any sign
    body = nn.Sequential(
        nn.Linear(32, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH)
    )
    head = nn.Linear(WIDTH, 3)
    model = nn.Sequential(body, head)
    # weight decay added to the gradient is the L2 penalty of the theory
    optimizer = torch.optim.SGD(model.parameters(), 0.05, 0.9, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    due = {int(step) for step in torch.logspace(0, torch.tensor(steps).log10(), points).round()}
    records = []
    for step in range(1, steps + 1):
        rows = torch.randint(1000, (100,))
        loss = (model(x[rows]) - y[rows]).square().sum(1).mean() / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step in due:
            record = {"step": step, "weight_decay": weight_decay}
            record |= measure(body, head, x[:1000], y[:1000])
            record["train/r2"] = explained(model, x[:1000], y[:1000])
            record["test/r2"] = explained(model, x[1000:], y[1000:])
            records.append(record)
    return records


def draw(records: list[dict[str, float]], path: Path) -> None:
    """A panel for each quantity, a line for each weight decay."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 6.5), layout="constrained")
    for axis, (name, title) in zip(figure.subplots(2, 2).flat, NAMES.items(), strict=True):
        for weight_decay in WEIGHT_DECAYS:
            run = [record for record in records if record["weight_decay"] == weight_decay]
            values = [record[name] for record in run]
            label = f"weight decay {weight_decay:g}"
            axis.plot([record["step"] for record in run], values, "o-", ms=3, label=label)
        axis.set(title=title, ylabel=name, xlabel="step", xscale="log")
        if name == "test/r2":
            axis.set_ylim(0, 1)
        else:
            axis.set_yscale("log")
    figure.axes[0].legend()
    figure.savefig(path, dpi=110)


def main(steps: int = STEPS, points: int = POINTS) -> None:
    records = []
    for weight_decay in WEIGHT_DECAYS:
        records += train(weight_decay, steps, points)
        last = "  ".join(f"{name} {value:.3g}" for name, value in records[-1].items())
        print(last, flush=True)
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "records.json").write_text(json.dumps(records, indent=1))
    draw(records, OUT / "collapse.png")
    print(f"Figure: {OUT / 'collapse.png'}")


if __name__ == "__main__":
    main()
