"""Describes the public datasets (folder, mirror, checksums, normalisation) and downloads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ncfast.experiments.data.images import ImageSet


@dataclass(frozen=True)
class Source:
    """A dataset that is read from files.

    Attributes:
        folder: its folder inside the data directory.
        url: address of the official mirror, to which file names are appended.
        md5: checksum of each file to download.
        classes: class names.
        mean: per-channel mean of the training images, scaled to 0..1.
        std: per-channel standard deviation of the training images, scaled to 0..1.
    """

    folder: str
    url: str
    md5: Mapping[str, str]
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def image_set(self, images: Tensor, labels: Tensor) -> ImageSet:
        """A split of this dataset from its uint8 images and labels."""
        return ImageSet.of_images(
            images, labels, self.classes, white=255.0, mean=self.mean, std=self.std
        )


def fetch(source: Source, data_dir: Path) -> None:
    """Download the files of ``source`` that are missing or differ, and verify their checksums.

    Raises:
        ModuleNotFoundError: pooch is not installed.
        OSError, ValueError: raised by pooch if the mirror fails or a checksum differs.
    """
    import pooch

    for name, md5 in source.md5.items():
        folder = data_dir / source.folder
        archive = name.endswith(".tar.gz")
        pooch.retrieve(
            source.url + name,
            known_hash=f"md5:{md5}",
            fname=name,
            path=data_dir if archive else folder,
            processor=pooch.Untar(extract_dir=".") if archive else None,
        )
