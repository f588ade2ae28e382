"""Metrics of a trained network on a data set; `on_disk` has those of features in files."""

from ncfast.evaluation.network import evaluate
from ncfast.evaluation.result import Evaluation

__all__ = ["Evaluation", "evaluate"]
