"""The collapse metrics as `torchmetrics.Metric`: all in one object, or one object for each."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from ncfast._optional import need
from ncfast.metrics.catalogue import CATALOGUE

need("torchmetrics", "ncfast.integrations.torchmetrics")
from ncfast.integrations.collapse_metric import CollapseMetric  # noqa: E402

__all__ = ["NC1", "NC2", "NC3", "NC4", "NC5", "RNC1", "CollapseMetric", "CollapseValue"]


class CollapseValue(CollapseMetric):
    """One collapse metric, as a 0-d float64 tensor; see `CollapseMetric`.

    Args:
        id_: the metric's id, such as "nc1.quotient".
        num_classes: K.
        dim: D.
        **kwargs: of `CollapseMetric`, such as ``weight``.

    Raises:
        ValueError: the id is unknown.
    """

    def __init__(self, id_: str, num_classes: int, dim: int, **kwargs: Any) -> None:
        if id_ not in CATALOGUE:
            raise ValueError(
                f"Expected argument `id_` to be the id of a metric but got {id_!r}. Known ids: "
                f"{', '.join(CATALOGUE)}."
            )
        super().__init__(num_classes, dim, metrics=[id_], **kwargs)

    @property
    def higher_is_better(self) -> bool | None:  # type: ignore[override]
        """Whether a higher value means more collapse; None if neither end of the range does."""
        metric = CATALOGUE[self.metrics[0]]
        low, _, high = metric.range[1:-1].partition(", ")
        target = metric.direction.partition(":")[0]
        if target.startswith(("smallest", "largest")):
            return target.startswith("largest")
        return {low: False, high: True}.get(target)

    def compute(self) -> Tensor:
        """The value; NaN without rows, or if the memory limit leaves it out."""
        found = self._values()
        return found.get(self.metrics[0], self.moments_state.new_tensor(torch.nan))


class RNC1(CollapseValue):
    """Tr(Sigma_W) over the squared scale of the features: "rnc1.max", or "rnc1.mean".

    Args:
        num_classes: K.
        dim: D.
        scale: "max", the largest feature norm (Sakamoto & Sato 2025), or "mean".
        **kwargs: of `CollapseMetric`.

    Example:
        >>> import torch
        >>> from ncfast.integrations.torchmetrics import RNC1
        >>> metric = RNC1(num_classes=2, dim=3)
        >>> metric.update(torch.eye(3)[[0, 0, 1]], torch.tensor([0, 0, 1]))
        >>> metric.compute()
        tensor(0., dtype=torch.float64)
    """

    higher_is_better = False

    def __init__(self, num_classes: int, dim: int, *, scale: str = "max", **kwargs: Any) -> None:
        super().__init__(f"rnc1.{scale}", num_classes, dim, **kwargs)


class _Family(CollapseValue):
    """A metric of the family that a subclass names, with the default variant of its function."""

    _family: ClassVar[str]
    _variant: ClassVar[str]

    def __init__(
        self, num_classes: int, dim: int, *, variant: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(f"{self._family}.{variant or self._variant}", num_classes, dim, **kwargs)


class NC1(_Family):
    """A form of NC1: "quotient" unless ``variant`` says otherwise, as in `ncfast.nc1`."""

    higher_is_better = False
    _family, _variant = "nc1", "quotient"


class NC2(_Family):
    """A form of NC2: "condition" unless ``variant`` says otherwise, as in `ncfast.nc2`."""

    _family, _variant = "nc2", "condition"


class NC3(_Family):
    """A form of NC3: "self_duality" unless ``variant`` says otherwise, as in `ncfast.nc3`.

    Example:
        >>> import torch
        >>> from ncfast.integrations.torchmetrics import NC3
        >>> head = torch.nn.Linear(3, 2)
        >>> metric = NC3(num_classes=2, dim=3, weight=head.weight)
        >>> metric.update(torch.randn(16, 3), torch.arange(16) % 2)
        >>> bool(0 <= metric.compute() <= 2)
        True
    """

    _family, _variant = "nc3", "self_duality"


class NC4(_Family):
    """A form of NC4: "agreement" unless ``variant`` says otherwise, as in `ncfast.nc4`.

    It keeps the features, see `CollapseMetric`.
    """

    higher_is_better = True
    _family, _variant = "nc4", "agreement"


class NC5(_Family):
    """A form of NC5: "ood_cosine" unless ``variant`` says otherwise, as in `ncfast.nc5`.

    The features from outside the distribution are the argument ``ood_feats`` of `update`.
    """

    _family, _variant = "nc5", "ood_cosine"
