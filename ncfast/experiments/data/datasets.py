"""Loads a dataset by its name; makes those that need no file."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import torch
from torch import Tensor

from ncfast.experiments.data import cifar, idx, text
from ncfast.experiments.data.images import ImageSet
from ncfast.experiments.data.sources import (
    MOST_BYTES,
    REMEDY_BROKEN,
    DataFileError,
    Source,
    fetch,
)

_DIGITS = tuple(str(digit) for digit in range(10))

SOURCES = {
    "mnist": Source(
        "mnist",
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        {
            "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
            "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
            "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
        },
        _DIGITS,
        (0.1307,),
        (0.3081,),
    ),
    "fashion-mnist": Source(
        "fashion-mnist",
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        {
            "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
            "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
            "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
        },
        idx.FASHION_CLASSES,
        (0.2860,),
        (0.3530,),
    ),
    "cifar10": Source(
        cifar.BINARY,
        "https://www.cs.toronto.edu/~kriz/",
        {"cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530"},
        (
            "airplane",
            "automobile",
            "bird",
            "cat",
            "deer",
            "dog",
            "frog",
            "horse",
            "ship",
            "truck",
        ),
        (0.4914, 0.4822, 0.4465),
        (0.2470, 0.2435, 0.2616),
    ),
}
# text datasets: the folder below text/ in the data directory, and the function that reads it
TEXTS = {"trec": text.load_trec, "sst2": text.load_sst2}
DATASETS = ("digits", *SOURCES, "synthetic", *TEXTS)


def load(
    name: str,
    *,
    data_dir: Path | str | None = None,
    train_size: int | None = None,
    download: bool = False,
) -> tuple[ImageSet, ImageSet]:
    """The first ``train_size`` samples of the training split, and the whole test split.

    Args:
        name: one of `DATASETS`.
        data_dir: folder with ``mnist/``, ``fashion-mnist/``, ``cifar-10-batches-bin/`` or
            ``cifar-10-batches-py/``, ``text/trec/``, ``text/sst2/``; None uses the environment
            variable NCFAST_DATA.
        train_size: number of training samples; None uses all (digits: 200, synthetic: 1000).
        download: download missing files from the official mirrors and verify them.

    Returns:
        Training and test split, on the CPU.

    Raises:
        ValueError: the name is unknown, no data directory is given, or ``train_size`` is out of
            range.
        DataFileError: a file is missing, truncated or corrupt.
    """
    if name not in DATASETS:
        raise ValueError(f"Expected `dataset` to be one of {DATASETS} but got {name!r}.")
    if name == "digits":
        train, test = load_digits()
    elif name == "synthetic":
        train, test = make_gaussians(train=train_size or 1000)
    else:
        train, test = _load_files(name, data_dir, train_size, download)
    return train.first(train_size), test


def _load_files(
    name: str, data_dir: Path | str | None, train_size: int | None, download: bool
) -> tuple[ImageSet, ImageSet]:
    found = data_dir if data_dir is not None else os.environ.get("NCFAST_DATA")
    if not found:
        raise ValueError(
            f"Dataset {name!r} is read from files but no data directory was given. Pass "
            "--data-dir DIR or set NCFAST_DATA; add --download to fetch the files into it."
        )
    folder = Path(found)
    if name in TEXTS:
        if download:
            raise ValueError(f"Dataset {name!r} cannot be fetched. Copy its files to text/{name}/.")
        return TEXTS[name](folder / "text" / name)
    source = SOURCES[name]
    if download:
        fetch(source, folder)
    _check_contents(source, folder)
    if name == "cifar10":
        return cifar.load_cifar10(folder, source, train_size)
    return idx.load_idx(folder / source.folder, source)


def _check_contents(source: Source, data_dir: Path) -> None:
    """Check that no file of a dataset is another official file: they share names and sizes.

    Raises:
        DataFileError: a file is one of another dataset, or of the other split.
    """
    official = {
        md5: f"{one.folder}/{name}" for one in SOURCES.values() for name, md5 in one.md5.items()
    }
    for name, md5 in source.md5.items():
        path = data_dir / source.folder / name
        if path.is_file() and path.stat().st_size <= MOST_BYTES:
            found = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
            if found != md5 and found in official:
                expected = f"{source.folder}/{name}"
                raise DataFileError(path, f"is {official[found]}", expected, REMEDY_BROKEN)


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

    def split(rows: Tensor) -> ImageSet:
        # mean and standard deviation of all pixels
        return ImageSet.of_images(
            images[rows], labels[rows], _DIGITS, white=16.0, mean=[0.3053], std=[0.3760]
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
