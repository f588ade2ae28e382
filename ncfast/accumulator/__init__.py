"""The collapse metrics of a stream of batches, without keeping the features."""

from ncfast.accumulator.accumulator import Accumulator

__all__ = ["Accumulator"]
