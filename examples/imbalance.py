"""Trains on digits of which five are rare, and watches the rare ones lose their own direction.

Minority collapse (Fang et al. 2021): the classifier's rows of rare classes turn towards each other
as the ratio of class sizes grows. Run it with ``python examples/imbalance.py``. It takes about a
minute on one core.
"""

import json
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn

import ncfast

OUT = Path("runs/imbalance")
RATIOS = (2, 20, 100)
MAJORITY, STEPS, WEIGHT_DECAY = 100, 1000, 0.02
KEYS = [
    "imbalance.minority_cosine_weight",
    "imbalance.minority_cosine_means",
    "imbalance.norm_correlation_weight",
    "imbalance.nc1_correlation",
]


def train(ratio: int, steps: int) -> dict[str, float]:
    """Digits 0 to 4 have 100 samples each, digits 5 to 9 a share of that."""
    torch.manual_seed(0)
    digits = load_digits()
    images = torch.tensor(digits.data, dtype=torch.float32) / 16
    labels = torch.tensor(digits.target)
    unseen = slice(1200, None)
    rows = []
    for digit in range(10):
        number = MAJORITY if digit < 5 else MAJORITY // ratio
        rows.append((labels[:1200] == digit).nonzero().squeeze(1)[:number])
    x, y = images[torch.cat(rows)], labels[torch.cat(rows)]
    body = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU())
    head = nn.Linear(64, 10)
    model = nn.Sequential(body, head)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        feats, right = body(x), model(images[unseen]).argmax(1) == labels[unseen]
    found = ncfast.collapse_metrics(feats, y, weight=head.weight, metrics=KEYS)
    by_class = ncfast.nc1(feats, y, variant="per_class")
    rare = labels[unseen] >= 5
    return {
        "ratio": ratio,
        **{name: value.item() for name, value in found.items()},
        "nc1 of frequent classes": by_class[:5].mean().item(),
        "nc1 of rare classes": by_class[5:].mean().item(),
        "accuracy of frequent classes": right[~rare].float().mean().item(),
        "accuracy of rare classes": right[rare].float().mean().item(),
    }


def main(steps: int = STEPS) -> None:
    records = []
    for ratio in RATIOS:
        records.append(train(ratio, steps))
        print("\n".join(f"{name:36} {value:8.3g}" for name, value in records[-1].items()), "\n")
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "records.json").write_text(json.dumps(records, indent=1))


if __name__ == "__main__":
    main()
