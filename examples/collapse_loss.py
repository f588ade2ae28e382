"""Trains a network with and without a collapse loss, and measures both on unseen data.

The loss adds the class-distance normalised variance of the last hidden layer. A context of earlier
batches, held as class moments, makes up for the few rows of a class in one batch. Run it with
``python examples/collapse_loss.py``.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import ncfast

STRENGTH = 3.0
KEPT = 5  # earlier batches that count beside the present one


def digits() -> tuple[DataLoader, DataLoader]:
    found = load_digits()
    images = torch.tensor(found.data, dtype=torch.float32) / 16
    labels = torch.tensor(found.target)
    train = TensorDataset(images[:1000], labels[:1000])
    test = TensorDataset(images[1000:], labels[1000:])
    return DataLoader(train, batch_size=100, shuffle=True), DataLoader(test, batch_size=256)


def train(strength: float) -> tuple[nn.Sequential, DataLoader]:
    torch.manual_seed(0)
    batches, test = digits()
    body = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU())
    head = nn.Linear(64, 10)
    model = nn.Sequential(body, head)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    earlier: list[ncfast.ClassMoments] = []
    for _ in range(12):
        for images, labels in batches:
            feats = body(images)
            loss = nn.functional.cross_entropy(head(feats), labels)
            context = ncfast.ClassMoments.empty(10, 64)
            for moments in earlier:
                context = context.merge(moments)
            loss = loss + strength * ncfast.losses.cdnv(feats, labels, context=context)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            earlier = [*earlier, ncfast.class_moments(feats, labels, num_classes=10)][-KEPT:]
    return model, test


def main() -> None:
    for strength in (0.0, STRENGTH):
        model, test = train(strength)
        found = ncfast.evaluate(model, test, num_classes=10, metrics=["nc1.cdnv", "rnc1.max"])
        print(
            f"strength {strength:.0f}: CDNV {found['nc1.cdnv']:.4f}, "
            f"RNC1 {found['rnc1.max']:.4f}, accuracy {found['accuracy']:.3f} on unseen digits"
        )


if __name__ == "__main__":
    main()
