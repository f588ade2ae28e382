"""Datasets that need no file: scikit-learn's bundled digits, and Gaussian classes."""

from __future__ import annotations

import torch
from torch import Tensor

from ncfast.experiments.data.images import ImageSet

# The images are sorted by writer. Training on every ninth image puts each writer in both splits.
DIGITS_STRIDE = 9


def load_digits() -> tuple[ImageSet, ImageSet]:
    """The 1,797 digits of 8 x 8 pixels: every ninth (200) for training, 1,597 for testing.

    Raises:
        ModuleNotFoundError: scikit-learn is not installed.
    """
    from sklearn import datasets

    bunch = datasets.load_digits()
    images = torch.from_numpy(bunch.images).to(torch.uint8).unsqueeze(1)
    labels = torch.from_numpy(bunch.target).long()
    classes = tuple(str(digit) for digit in range(10))

    def split(rows: Tensor) -> ImageSet:
        # mean and standard deviation of all pixels
        return ImageSet.of_images(
            images[rows], labels[rows], classes, white=16.0, mean=[0.3053], std=[0.3760]
        )

    trains = torch.arange(len(labels)) % DIGITS_STRIDE == 0
    return split(trains), split(~trains)


def make_gaussians(
    *,
    num_classes: int = 10,
    dim: int = 32,
    train: int = 1000,
    test: int = 1000,
    spread: float = 1.0,
    seed: int = 0,
) -> tuple[ImageSet, ImageSet]:
    """Gaussian classes around random means: x = mu_y + spread * noise, mu ~ N(0, I).

    Args:
        num_classes: K; labels are balanced.
        dim: D.
        train: number of training samples.
        test: number of test samples.
        spread: standard deviation within a class.
        seed: seed of the generator; the global random stream is not used.
    """
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(num_classes, dim, generator=generator)
    labels = torch.arange(train + test) % num_classes
    noise = torch.randn(train + test, dim, generator=generator)
    inputs = means[labels] + spread * noise
    classes = tuple(str(index) for index in range(num_classes))
    as_is = torch.zeros(()), torch.ones(())
    return (
        ImageSet(inputs[:train], labels[:train], classes, *as_is),
        ImageSet(inputs[train:], labels[train:], classes, *as_is),
    )
