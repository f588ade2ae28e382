"""`ImageSet`: a split of a dataset, kept on one device in its stored dtype."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ncfast._arrays import as_integer


@dataclass(frozen=True)
class ImageSet:
    """Inputs and labels of one split. They are normalised when a batch is taken.

    Attributes:
        inputs: (N, C, H, W) uint8 images, or (N, D) float32 vectors.
        labels: (N,) int64 in 0..K-1.
        classes: names of the K classes.
        mean: per-channel mean in stored units, broadcastable to ``inputs``.
        std: per-channel standard deviation in stored units, broadcastable to ``inputs``.
    """

    inputs: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    mean: Tensor
    std: Tensor

    @classmethod
    def of_images(
        cls,
        images: Tensor,
        labels: Tensor,
        classes: Sequence[str],
        *,
        white: float,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> ImageSet:
        """A split of (N, C, H, W) images; ``mean`` and ``std`` are fractions of ``white``."""
        stored_mean, stored_std = (
            torch.tensor(values).mul(white).view(1, -1, 1, 1) for values in (mean, std)
        )
        return cls(images, labels.long(), tuple(classes), stored_mean, stored_std)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        """The number of classes, K."""
        return len(self.classes)

    @property
    def input_size(self) -> int:
        """Number of values in one flattened input."""
        return self.inputs[0].numel()

    def to(self, device: torch.device | str) -> ImageSet:
        """The same split on another device."""
        names = ("inputs", "labels", "mean", "std")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})

    def first(self, count: int | None) -> ImageSet:
        """The first ``count`` samples, or all samples for None.

        Raises:
            TypeError: ``count`` is no integer.
            ValueError: the split has fewer samples.
        """
        if count is None:
            return self
        count = as_integer("train_size", count)
        if not 1 <= count <= len(self):
            raise ValueError(
                f"Expected `train_size` in 1..{len(self)} for this dataset but got {count}."
            )
        return replace(self, inputs=self.inputs[:count], labels=self.labels[:count])

    def batch(self, index: Tensor | slice) -> tuple[Tensor, Tensor]:
        """Normalised float32 inputs, and labels, at ``index``; both on the device."""
        return (self.inputs[index] - self.mean) / self.std, self.labels[index]

    def checksum(self) -> str:
        """SHA-256 of the labels and the stored inputs.

        Inputs in floating point are left out: they are generated, and another processor may round
        them in another way.
        """
        found = hashlib.sha256()
        for values in (self.labels, self.inputs):
            found.update(f"{values.dtype} {tuple(values.shape)}\n".encode())
            if not values.is_floating_point():
                found.update(values.cpu().contiguous().numpy().data)
        return found.hexdigest()

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The split in order, as normalised batches of at most ``size`` rows."""
        for start in range(0, len(self), size):
            yield self.batch(slice(start, start + size))
