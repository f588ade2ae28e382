"""Collapse metrics as `torchmetrics.Metric`."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ncfast import _validate
from ncfast._optional import need
from ncfast.distributed import merge_packed, pack, unpack
from ncfast.metrics._collect import collapse_metrics
from ncfast.metrics.registry import METRICS, OF_MOMENTS, resolve
from ncfast.moments import ClassMoments, class_moments

need("torchmetrics", "ncfast.integrations.torchmetrics")
from torchmetrics import Metric  # noqa: E402


class CollapseMetric(Metric):
    """Collapse metrics of all features seen since the last reset, exact over batches and ranks.

    The state is one float64 vector, the packed `ClassMoments`. It is merged (Chan) where
    torchmetrics would add: over the batches of `forward`, in `merge_state`, and over ranks, which
    costs one gather. Metrics of this module with the same number of classes and the same features
    share one state in a `MetricCollection` (compute groups).

    Args:
        num_classes: K.
        dim: D, the number of feature columns.
        metrics: ids, families or tiers of the metrics that need the class moments alone (see
            `ncfast.describe`), or "all" for the core set of eight that a Tracker logs.
        **kwargs: of `torchmetrics.Metric`.

    Raises:
        ValueError: an unknown metric, or K or D below 1.

    Example:
        >>> import torch
        >>> from ncfast.integrations.torchmetrics import CollapseMetric
        >>> metric = CollapseMetric(num_classes=2, dim=3, metrics=["rnc1.max", "nc2.condition"])
        >>> for _ in range(4):
        ...     metric.update(torch.randn(16, 3), torch.arange(16) % 2)
        >>> sorted(metric.compute())
        ['nc2.condition', 'rnc1.max']
    """

    is_differentiable = False
    higher_is_better: bool | None = None
    full_state_update = False
    moments_state: Tensor

    def __init__(
        self,
        num_classes: int,
        dim: int,
        *,
        metrics: str | Sequence[str] = "all",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        _validate.check_num_classes(num_classes)
        if dim < 1:
            raise ValueError(f"Expected argument `dim` to be at least 1 but got {dim}.")
        self.num_classes, self.dim = num_classes, dim
        self.metrics = tuple(METRICS) if metrics == "all" else resolve(metrics, OF_MOMENTS)
        self.add_state(
            "moments_state",
            pack(ClassMoments.empty(num_classes, dim)),
            dist_reduce_fx=functools.partial(merge_packed, num_classes=num_classes, dim=dim),
        )

    @property
    def moments(self) -> ClassMoments:
        """The class moments of everything seen since the last reset, on this rank."""
        return unpack(self.moments_state, self.num_classes, self.dim)

    def update(self, feats: Tensor, labels: Tensor) -> None:
        """Add a batch.

        Args:
            feats: (N, D) features, any floating dtype.
            labels: (N,) integer class indices.

        Raises:
            ValueError, TypeError: see `ncfast.class_moments`; or features of another width.
        """
        batch = class_moments(feats, labels, num_classes=self.num_classes)
        self.moments_state = pack(self.moments.merge(batch))

    def compute(self) -> Any:
        """The values by metric id, 0-d float64."""
        return collapse_metrics(self.moments, which=list(self.metrics))


class CollapseValue(CollapseMetric):
    """One collapse metric, as a 0-d float64 tensor; see `CollapseMetric`.

    Args:
        id_: the metric's id, such as "nc1.quotient".
        num_classes: K.
        dim: D.
        **kwargs: of `torchmetrics.Metric`.

    Raises:
        ValueError: the id is unknown or needs more than the class moments.
    """

    def __init__(self, id_: str, num_classes: int, dim: int, **kwargs: Any) -> None:
        if id_ not in OF_MOMENTS:
            raise ValueError(
                f"Expected argument `id_` to be one id of a metric of the moments but got "
                f"{id_!r}. Known ids: {', '.join(OF_MOMENTS)}."
            )
        super().__init__(num_classes, dim, metrics=[id_], **kwargs)

    def compute(self) -> Tensor:
        """The value."""
        (value,) = super().compute().values()
        return value


class RNC1(CollapseValue):
    """Tr(Sigma_W) over the squared scale of the features: "rnc1.max", or "rnc1.mean".

    Args:
        num_classes: K.
        dim: D.
        scale: "max", the largest feature norm (Sakamoto & Sato 2025), or "mean".
        **kwargs: of `torchmetrics.Metric`.

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


class NC1(CollapseValue):
    """A form of NC1: "quotient" unless ``variant`` says otherwise, as in `ncfast.nc1`."""

    higher_is_better = False

    def __init__(
        self, num_classes: int, dim: int, *, variant: str = "quotient", **kwargs: Any
    ) -> None:
        super().__init__(f"nc1.{variant}", num_classes, dim, **kwargs)


class NC2(CollapseValue):
    """A form of NC2: "condition" unless ``variant`` says otherwise, as in `ncfast.nc2`."""

    def __init__(
        self, num_classes: int, dim: int, *, variant: str = "condition", **kwargs: Any
    ) -> None:
        super().__init__(f"nc2.{variant}", num_classes, dim, **kwargs)
