"""The warnings of a tracker, each of which is given once."""

from __future__ import annotations

import warnings

from ncfast._warnings import user_level

NO_LABELS = (
    "A batch without labels is not measured, training goes on. Pass the class indices of the "
    "samples as labels=."
)
NO_ROWS = "A batch without rows is not measured, training goes on."
REPEATED = (
    "Layer {layer!r} ran {number} times since the last step; the last call is measured, with the "
    "labels of this step. To measure all calls, pass feats=. If the calls have other labels, track "
    "a layer that runs once."
)
OTHER_MODE = (
    "Layer {layer!r} ran since the last step, but in eval mode or without gradients only, as in a "
    "validation; that call is measured, with the labels of this step. Call step() after the "
    "training pass of its batch, or pass feats=. Use another split= for batches of a validation."
)
NOT_IN_STEPS = (
    "Steps leave out {ids}, which snapshots have: {first} {why}. Ask for them in snapshot(..., "
    "metrics=...) alone."
)
ALL_MEANS_ALL = (
    "metrics='all' means every metric whose inputs are there. Up to version 0.1 it meant the short "
    "list, which is now 'default'. Pass metrics='default' for that list."
)
PADDING = (
    "Layer {layer!r} is pooled over tokens without an attention mask, so padding counts as tokens. "
    "Call the model with attention_mask=, of the shape (N, T) of the tokens; pool='cls' and a "
    "function of the layer's output need none."
)
CLOSED = (
    "The Tracker is closed: steps are counted and nothing is recorded. Call close() after the last "
    "step, or make a new Tracker."
)
OVERWRITTEN = (
    "The snapshot writes {key!r}, which log() had given a value; the snapshot's is kept. Log under "
    "another key."
)
SHARED_SPLIT = (
    "The keys {split}/... hold what {owner} measures, so those of the {kind} begin with "
    "{kind}/{split}/. Give one of them another split=."
)


class WarnOnce:
    """Gives one warning for each topic, at the line of the user's code that called the package."""

    def __init__(self) -> None:
        self._topics: set[str] = set()

    def __call__(self, step: int, topic: str, message: str) -> None:
        """Warn of ``topic`` if it is the first time.

        Args:
            step: the current step, which the warning names.
            topic: what the warning is about.
            message: its text.
        """
        if topic not in self._topics:
            self._topics.add(topic)
            text = f"Step {step}: {message}"
            warnings.warn(text, RuntimeWarning, stacklevel=user_level())


_said_all: list[bool] = []


def warn_of_all() -> None:
    """Warn that the meaning of metrics="all" has changed, once in this process."""
    if not _said_all:
        _said_all.append(True)
        warnings.warn(ALL_MEANS_ALL, FutureWarning, stacklevel=user_level())
