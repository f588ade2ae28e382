"""Describes the public datasets, downloads them, and checks that their files can be used."""

from __future__ import annotations

import stat
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


class DataFileError(RuntimeError):
    """A data file is missing, truncated, corrupt or unsafe; the message names the remedy."""

    def __init__(self, path: Path, problem: str, expected: str, remedy: str) -> None:
        super().__init__(f"{path}: {problem}; expected {expected}. {remedy}")
        self.path = path


def check_file(path: Path, expected: str) -> None:
    """Check that ``path`` is a file that can be opened.

    Args:
        path: the file.
        expected: what it should be, for the message.

    Raises:
        DataFileError: there is none, it is no regular file, far too large, or cannot be opened.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # a pipe or a device might never end
            raise DataFileError(path, "no regular file", expected, REMEDY_MISSING)
        if status.st_size > MOST_BYTES:
            raise DataFileError(path, f"holds {status.st_size:,} bytes", expected, REMEDY_BROKEN)
        path.open("rb").close()
    except FileNotFoundError as error:
        raise DataFileError(path, "no such file", expected, REMEDY_MISSING) from error
    except OSError as error:
        problem = f"cannot be opened ({error.strerror})"
        raise DataFileError(path, problem, expected, REMEDY_MISSING) from error


MOST_BYTES = 1 << 30  # no file of these datasets is nearly as large
REMEDY_MISSING = (
    "Point --data-dir (or NCFAST_DATA) at the folder that holds it, or pass --download to fetch it."
)
REMEDY_BROKEN = "Delete it and pass --download to fetch it again, or copy it anew."
