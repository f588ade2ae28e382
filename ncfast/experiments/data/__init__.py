"""Datasets of labelled images and texts, kept on a device in their stored dtype."""

from ncfast.experiments.data.datasets import DATASETS, load, load_digits, make_gaussians
from ncfast.experiments.data.images import ImageSet
from ncfast.experiments.data.sources import DataFileError
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
