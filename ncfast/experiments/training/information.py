"""Estimates the information plane on test features at the probes of a run."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from torch import Tensor

from ncfast.experiments.data import ImageSet, TextSet
from ncfast.information import EstimateWarning, InformationPlane


class Planes:
    """The information plane of the first samples of a split, for several levels of noise.

    Texts have no estimates, because distances between token ids have no meaning.

    Args:
        split: the test split, on the device.
        sigmas: noise relative to the largest feature norm.
        samples: number of samples; 0 disables the estimates.
    """

    def __init__(self, split: ImageSet, sigmas: Sequence[float], samples: int) -> None:
        self._rows = 0 if isinstance(split, TextSet) else min(samples, len(split))
        self._planes: dict[float, InformationPlane] = {}
        if self._rows:
            inputs, labels = split.batch(slice(0, self._rows))
            flat = inputs.flatten(1)
            self._planes = {sigma: InformationPlane(flat, labels, sigma=sigma) for sigma in sigmas}

    def __call__(self, feats: Tensor) -> dict[str, float]:
        """Estimates and standard errors in nats, by "information.{what}@{sigma}".

        Args:
            feats: (N, D) features of the whole split. If they are all zero or not finite, the
                result is empty.
        """
        feats = feats[: self._rows]
        if not self._planes or not feats.isfinite().all() or not feats.any():
            return {}
        found = {}
        for sigma, plane in self._planes.items():
            with warnings.catch_warnings():
                # at step 0 every network causes warnings; the report mentions them
                warnings.simplefilter("ignore", EstimateWarning)
                point = plane(feats)
            for name in ("inputs", "labels", "superfluous"):
                estimate = getattr(point, name)
                found[f"information.{name}@{sigma:g}"] = estimate.value
                found[f"information.{name}_stderr@{sigma:g}"] = estimate.stderr
        return found
