"""Tracks an ordinary PyTorch training loop with three extra lines.

A network learns the digits that come with scikit-learn. The batch is measured at every step, and
the whole test split every 20 steps. Run it with ``python examples/plain_loop.py``.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import ncfast
from ncfast.tracking import read_records

OUT = "runs/plain_loop"


def digits() -> tuple[DataLoader, DataLoader]:
    found = load_digits()
    images = torch.tensor(found.data, dtype=torch.float32) / 16
    labels = torch.tensor(found.target)
    train = TensorDataset(images[:1000], labels[:1000])
    test = TensorDataset(images[1000:], labels[1000:])
    return DataLoader(train, batch_size=100, shuffle=True), DataLoader(test, batch_size=256)


def main() -> None:
    torch.manual_seed(0)
    train, test = digits()
    model = nn.Sequential(
        nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10)
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

    with ncfast.Tracker(
        model, num_classes=10, sinks=[f"{OUT}/metrics.jsonl", f"{OUT}/metrics.csv"]
    ) as tracker:
        for _ in range(12):
            for images, labels in train:
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(images), labels).backward()
                optimizer.step()
                tracker.step(labels=labels)
                if tracker.current_step % 20 == 0:
                    tracker.snapshot(test, split="test")

    *_, last = read_records(f"{OUT}/metrics.jsonl")
    print(
        f"step {last['step']}: test accuracy {last['test/accuracy']:.3f}, "
        f"RNC1 {last['train/rnc1.max']:.4f} on the last batch, "
        f"{last['test/rnc1.max']:.4f} on the test split"
    )


if __name__ == "__main__":
    main()
