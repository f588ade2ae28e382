"""Trains and logs network F2 as the paper's authors do, written from a reading of their code.

It is not their code (arXiv 2509.20829). Samples are decoded and normalised one by one in a data
loader, and AdamW is that of torch. A log point takes accuracy and loss batch by batch on both
splits, and the collapse of the training split in two more passes with one mask per class. Their
logging service, their information estimates and torchvision are left out. The two transforms of
torchvision are replaced by the same tensor operations. Batches are in the order of ncfast, so that
both train on the same ones.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from ncfast.experiments.config import TrainConfig
from ncfast.experiments.data import ImageSet
from ncfast.experiments.models import build_model
from ncfast.experiments.training.batches import BatchOrder

WHITE, BATCH = 255, 100


class PerSample(Dataset[tuple[Tensor, int]]):
    """Images that are decoded and normalised on access."""

    def __init__(self, split: ImageSet) -> None:
        self.images, self.labels = split.inputs.squeeze(1), split.labels
        self.mean, self.std = (float(value) / WHITE for value in (split.mean, split.std))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        picture = Image.fromarray(self.images[index].numpy())
        image = torch.from_numpy(np.array(picture, np.uint8, copy=True)).unsqueeze(0)
        image = image.contiguous().to(torch.float32).div(WHITE)
        return image.sub_(self.mean).div_(self.std), int(self.labels[index])


class Order:
    """The batches of ncfast, for an endless data loader."""

    def __init__(self, size: int, config: TrainConfig) -> None:
        self.order = BatchOrder(size, config.effective_batch_size(size), config.seed)

    def __iter__(self) -> Iterator[list[int]]:
        while True:
            yield self.order.next().tolist()


class TheirWay:
    """A perceptron with the initial weights of ncfast, its training step and its log point.

    Args:
        loaded: whether steps take their samples one by one, or by an index into all at once.
    """

    def __init__(
        self, config: TrainConfig, train: ImageSet, test: ImageSet, *, loaded: bool = True
    ) -> None:
        self.model = self._network(config, train)
        self.features, self.classes = self.model[:-1], train.num_classes
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=config.lr, weight_decay=config.weight_decay
        )
        self.splits = {
            "train": DataLoader(PerSample(train), batch_size=BATCH, shuffle=True),
            "test": DataLoader(PerSample(test), batch_size=BATCH),
        }
        self.one_hot = torch.eye(self.classes)
        order = Order(len(train), config)
        loader = DataLoader(PerSample(train), batch_sampler=order)  # type: ignore[arg-type]
        indexed = (train.batch(torch.tensor(index)) for index in order)
        self.stream = iter(loader) if loaded else indexed

    @staticmethod
    def _network(config: TrainConfig, train: ImageSet) -> nn.Sequential:
        layers: list[nn.Module] = [nn.Flatten()]
        before = train.input_size
        for width in config.widths:
            layers += [nn.Linear(before, width), nn.ReLU()]
            before = width
        model = nn.Sequential(*layers, nn.Linear(before, train.num_classes))
        ours = build_model(config, train)
        with torch.no_grad():
            for own, other in zip(model.parameters(), ours.parameters(), strict=True):
                own.copy_(other)
        return model

    def step(self) -> None:
        images, labels = next(self.stream)
        self.optimizer.zero_grad()
        output = self.model(images)
        nn.functional.mse_loss(output, self.one_hot[labels], reduction="sum").backward()
        self.optimizer.step()

    @torch.no_grad()
    def log_point(self) -> dict[str, float]:
        found = {}
        for name, loader in self.splits.items():
            correct, loss, count = 0.0, 0.0, 0
            for images, labels in loader:
                output = self.model(images)
                correct += (output.argmax(1) == labels).sum().item()
                target = self.one_hot[labels]
                loss += nn.functional.mse_loss(output, target, reduction="sum").item()
                count += len(labels)
            found |= {f"{name}/accuracy": correct / count, f"{name}/loss": loss / count}
        found["sum of norms"] = sum(p.norm() for p in self.model.parameters()).item()
        return found | self._collapse(self.splits["train"])

    def _collapse(self, loader: DataLoader[tuple[Tensor, int]]) -> dict[str, float]:
        sums, counts = torch.zeros(self.classes, self.model[-1].in_features), [0] * self.classes
        for images, labels in loader:
            features = self.features(images)
            for c in range(self.classes):
                mask = labels == c
                sums[c] += features[mask].sum(0)
                counts[c] += mask.sum().item()
        means, weights = sums / torch.tensor(counts)[:, None], torch.tensor(counts) / sum(counts)
        within = torch.zeros(())
        for images, labels in loader:
            features = self.features(images)
            for c in range(self.classes):
                within += (features[labels == c] - means[c]).norm() ** 2
        within /= sum(counts)
        between = (weights * (means - weights @ means).norm(dim=1).square()).sum()
        condition = torch.linalg.cond(means @ means.T).sqrt()
        return {
            "train/nc1.quotient_sample": (within / between).item(),
            "train/nc2.condition": condition.item(),
        }
