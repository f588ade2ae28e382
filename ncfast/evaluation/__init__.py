"""Computes the metrics of a trained network on a data set, and of features in files."""

from ncfast.evaluation.network import evaluate
from ncfast.evaluation.on_disk import evaluate_files
from ncfast.evaluation.result import Evaluation
from ncfast.evaluation.stored import FileError

__all__ = ["Evaluation", "FileError", "evaluate", "evaluate_files"]
