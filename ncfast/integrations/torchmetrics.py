"""Collapse metrics as `torchmetrics.Metric`."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from ncfast import _validate
from ncfast._arrays import Array, as_tensor
from ncfast._optional import need
from ncfast.distributed import merge_packed, pack, unpack
from ncfast.metrics.calls import collapse_metrics
from ncfast.metrics.catalogue import METRICS, OF_MOMENTS, resolve
from ncfast.moments import ClassMoments, class_moments
from ncfast.ops.grouping import Labels, labels_of

need("torchmetrics", "ncfast.integrations.torchmetrics")
from torchmetrics import Metric  # noqa: E402


class CollapseMetric(Metric):
    """Collapse metrics of all features seen since the last reset, exact over batches and ranks.

    The state is one vector, the packed `ClassMoments`, and stays float64. It is merged (Chan) where
    torchmetrics would add: over the batches of `forward`, in `merge_state`, and over ranks, which
    costs one gather. Metrics of this module with the same number of classes and the same features
    share one state in a `MetricCollection` (compute groups). A saved state is loaded by a metric of
    the same K and D alone.

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
    # torch.jit.script leaves alone what is listed here
    __jit_unused_properties__: ClassVar[list[str]] = [*Metric.__jit_unused_properties__, "moments"]

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

    def update(self, feats: Array, labels: Labels) -> None:
        """Add a batch.

        Args:
            feats: (N, D) features, any floating dtype; N may be 0. Tensor or NumPy array.
            labels: (N,) integer class indices, or their `plan`.

        Raises:
            ValueError, TypeError: see `ncfast.class_moments`; or features of another width.
        """
        feats, labels = as_tensor("feats", feats), as_tensor("labels", labels_of(labels))
        if feats.shape == (0, self.dim) and labels.shape == (0,):
            return
        batch = class_moments(feats, labels, num_classes=self.num_classes)
        self.moments_state = pack(self.moments.merge(batch))

    def compute(self) -> Any:
        """The values by metric id, 0-d float64."""
        return collapse_metrics(self.moments, metrics=list(self.metrics))

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Draw values of `compute` or `forward` with matplotlib.

        Args:
            val: a value, or a list of values over time; None computes one.
            ax: matplotlib axes; None makes them.

        Returns:
            The figure and the axes.
        """
        return self._plot(val, ax)

    def set_dtype(self, dst_type: str | torch.dtype) -> CollapseMetric:
        """Return the metric: its state is float64 whatever the precision of the features."""
        return self

    def state_dict(  # type: ignore[override]  # as torchmetrics has it
        self, destination: dict[str, Any] | None = None, prefix: str = "", keep_vars: bool = False
    ) -> dict[str, Any]:
        """States that are persistent, with K and D beside them."""
        found = super().state_dict(destination, prefix, keep_vars)
        if prefix + "moments_state" in found:
            found[prefix + _SHAPE] = torch.tensor([self.num_classes, self.dim])
        return found

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        shape = state_dict.pop(prefix + _SHAPE, None)  # absent before version 0.2
        state = state_dict.get(prefix + "moments_state")
        own = [self.num_classes, self.dim]
        if state is not None:
            found = own if shape is None else shape.tolist()
            if found != own or len(state) != len(self.moments_state):
                del state_dict[prefix + "moments_state"]
                args[-1].append(_OTHER.format(own=own, found=found, length=len(state)))
            else:
                state_dict[prefix + "moments_state"] = state.double()
        super()._load_from_state_dict(state_dict, prefix, *args)


_SHAPE = "moments_shape"
_OTHER = (
    "Expected a state of [num_classes, dim] = {own} but got one of {found} with {length} numbers. "
    "Make the metric with the num_classes and dim of the state."
)


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
