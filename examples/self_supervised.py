"""Pretrains two encoders on digits without labels; one of them collapses, and the metrics tell.

SimCLR (Chen et al. 2020) pulls two views of a digit together and pushes other digits away. The
second run only pulls. Every log point measures rank, spectrum, alignment and uniformity without a
label, and, to judge them, the accuracy of the nearest class mean. Run it with ``python
examples/self_supervised.py``. It takes a few minutes on one core.
"""

import json
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import ncfast

OUT = Path("runs/self_supervised")
LOSSES = {"SimCLR": 1.0, "pull only": 0.0}
STEPS, POINTS, BATCH, DIM, TEMPERATURE = 1200, 12, 256, 64, 0.2
INSTANCES, VIEWS = 200, 20  # of LiDAR
LABEL_FREE = ["rank.rankme", "rank.alpha_req", "ssl.lidar"]
PANELS = {
    "rank.rankme": "RankMe: directions in use, of 64",
    "rank.alpha_req": "alpha-ReQ: decay of the spectrum",
    "ssl.lidar": "LiDAR: directions of instances",
    "ssl.alignment": "alignment: distance of two views",
    "ssl.uniformity": "uniformity: lower is more even",
    "nc4.ncc_accuracy": "nearest class mean, unseen digits",
}


class Encoder(nn.Module):
    """A small convolutional network with 64 features, and SimCLR's projection head."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(64 * 16, DIM)),
        )
        self.head = nn.Sequential(nn.ReLU(), nn.Linear(DIM, DIM), nn.ReLU(), nn.Linear(DIM, 32))

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.normalize(self.head(self.body(images)), dim=1)


def view(images: Tensor) -> Tensor:
    """A random view of each 8 x 8 digit: shifted, turned, scaled, with noise and other contrast."""
    number = len(images)
    angle = 0.35 * torch.randn(number)
    scale = 1 + 0.15 * torch.randn(number)
    moves = torch.zeros(number, 2, 3)
    moves[:, 0, 0] = moves[:, 1, 1] = scale * angle.cos()
    moves[:, 0, 1], moves[:, 1, 0] = -scale * angle.sin(), scale * angle.sin()
    moves[:, :, 2] = 0.2 * torch.randn(number, 2)
    grid = nn.functional.affine_grid(moves, [number, 1, 8, 8], align_corners=False)
    moved = nn.functional.grid_sample(images, grid, align_corners=False)
    contrast = 1 + 0.3 * torch.randn(number, 1, 1, 1)
    return contrast * moved + 0.1 * torch.randn_like(images)


def loss_of(encoder: Encoder, images: Tensor, repulsion: float) -> Tensor:
    """The loss of SimCLR (NT-Xent); without repulsion only its first term, which pulls."""
    both = encoder(torch.cat([view(images), view(images)]))
    number = len(images)
    similar = both @ both.T / TEMPERATURE
    partner = torch.arange(2 * number).roll(number)
    pull = -similar.gather(1, partner.unsqueeze(1)).mean()
    others = similar.masked_fill(torch.eye(2 * number, dtype=torch.bool), -torch.inf)
    return pull + repulsion * others.logsumexp(1).mean()


@torch.no_grad()
def measure(encoder: Encoder, images: Tensor, labels: Tensor) -> dict[str, float]:
    """Metrics of the 64 features of unseen digits; only the last one reads labels."""
    feats = encoder.body(images)
    spectrum = ncfast.collapse_metrics(feats, torch.zeros_like(labels), metrics=LABEL_FREE[:2])
    views = encoder.body(view(images[:INSTANCES].repeat_interleave(VIEWS, 0)))
    instances = torch.arange(INSTANCES).repeat_interleave(VIEWS)
    found = spectrum | ncfast.collapse_metrics(views, instances, metrics="ssl.lidar")
    found["ssl.alignment"] = ncfast.alignment(encoder.body(view(images)), feats)
    found["ssl.uniformity"] = ncfast.uniformity(feats)
    found["nc4.ncc_accuracy"] = ncfast.nc4(feats, labels, variant="ncc_accuracy")
    return {name: value.item() for name, value in found.items()}


def train(repulsion: float, steps: int, points: int) -> list[dict[str, float]]:
    """One record a log point; log points are spaced evenly in log(step)."""
    torch.manual_seed(0)
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.tensor(digits.target)
    encoder = Encoder()
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=1e-3, weight_decay=1e-4)
    due = {int(step) for step in torch.logspace(0, torch.tensor(steps).log10(), points).round()}
    records = [{"step": 0.5} | measure(encoder, images[1000:], labels[1000:])]
    for step in range(1, steps + 1):
        loss = loss_of(encoder, images[torch.randint(1000, (BATCH,))], repulsion)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step in due:
            records.append({"step": step} | measure(encoder, images[1000:], labels[1000:]))
    return records


def draw(found: dict[str, list[dict[str, float]]], path: Path) -> None:
    """A panel for each metric, a line for each loss; the first point is before training."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 6.5), layout="constrained")
    for axis, (name, title) in zip(figure.subplots(2, 3).flat, PANELS.items(), strict=True):
        for label, records in found.items():
            steps = [record["step"] for record in records]
            axis.plot(steps, [record[name] for record in records], "o-", ms=3, label=label)
        axis.set(title=title, ylabel=name, xlabel="step", xscale="log")
    figure.axes[0].legend()
    figure.savefig(path, dpi=110)


def main(steps: int = STEPS, points: int = POINTS) -> None:
    found = {}
    for name, repulsion in LOSSES.items():
        found[name] = train(repulsion, steps, points)
        for record in (found[name][0], found[name][-1]):
            print(
                name, "  ".join(f"{key} {value:.4g}" for key, value in record.items()), flush=True
            )
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "records.json").write_text(json.dumps(found, indent=1))
    draw(found, OUT / "collapse.png")
    print(f"Figure: {OUT / 'collapse.png'}")


if __name__ == "__main__":
    main()
