"""Images and texts with labels, resident on a device as they are stored."""

from ncfast.experiments.data.datasets import DATASETS, load
from ncfast.experiments.data.errors import DataFileError
from ncfast.experiments.data.images import ImageSet
from ncfast.experiments.data.small import load_digits, make_gaussians
from ncfast.experiments.data.text import TextSet

__all__ = [
    "DATASETS",
    "DataFileError",
    "ImageSet",
    "TextSet",
    "load",
    "load_digits",
    "make_gaussians",
]
