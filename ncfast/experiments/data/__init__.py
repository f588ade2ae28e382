"""Images with labels, resident on a device as uint8."""

from ncfast.experiments.data.datasets import DATASETS, load
from ncfast.experiments.data.errors import DataFileError
from ncfast.experiments.data.images import ImageSet
from ncfast.experiments.data.small import load_digits, make_gaussians

__all__ = ["DATASETS", "DataFileError", "ImageSet", "load", "load_digits", "make_gaussians"]
