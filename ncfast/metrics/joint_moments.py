"""`RegressionMoments`: means and second moments of features and targets, mergeable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from itertools import repeat

import torch
import torch.distributed as dist
from torch import Tensor
from typing_extensions import Self

from ncfast import _ranks, _validate
from ncfast._arrays import Array, as_integer, as_tensor
from ncfast._saved import check_entries, check_not_negative
from ncfast._surroundings import updatable

_BLOCK = 1 << 22  # numbers converted to float64 at a time: 32 MB
_CALL = "RegressionMoments.all_reduce"


@dataclass(eq=False)
class RegressionMoments:
    """Means and second moments of features h and targets y, for `regression_metrics`.

    All entries but the count are float64, on the device of the features. Batches combine with
    `update_`, shards with `merge` and ranks with `all_reduce`. The result is that of one pass over
    all rows, up to rounding in float64 (Chan, Golub & LeVeque 1983).

    Attributes:
        count: number of rows N, () int64.
        mean: mean of the rows z = (h, y), (D + n,).
        scatter: sum of (z - mean)(z - mean)^T, (D + n, D + n).
        directions: sum of u u^T, u = h / norm(h), (D, D). A row of zeros has no direction and adds
            nothing.
        targets: n, the number of target columns.

    Example:
        >>> import torch, ncfast
        >>> moments = ncfast.RegressionMoments.empty(dim=8, targets=2)
        >>> for h, y in [(torch.randn(32, 8), torch.randn(32, 2)) for _ in range(3)]:
        ...     _ = moments.update_(h, y)
        >>> moments.count.item(), moments.target_covariance.shape
        (96, torch.Size([2, 2]))
    """

    count: Tensor
    mean: Tensor
    scatter: Tensor
    directions: Tensor
    targets: int

    @classmethod
    @updatable
    def empty(
        cls, dim: int, targets: int, device: torch.device | str | None = None
    ) -> RegressionMoments:
        """The moments of no row: the neutral element of `merge`.

        Args:
            dim: D, the number of feature columns, at least 1.
            targets: n, the number of target columns, at least 1.
            device: where the state lives; it needs float64 arithmetic.

        Raises:
            TypeError: ``dim`` or ``targets`` is not an integer.
            ValueError: ``dim`` or ``targets`` is below 1, or the device has no float64.
        """
        for name, number in (("dim", dim), ("targets", targets)):
            if as_integer(name, number) < 1:
                raise ValueError(f"Expected argument `{name}` to be at least 1 but got {number}.")
        _check_place(device)
        size = dim + targets
        return cls(
            torch.zeros((), dtype=torch.int64, device=device),
            torch.zeros(size, dtype=torch.float64, device=device),
            torch.zeros((size, size), dtype=torch.float64, device=device),
            torch.zeros((dim, dim), dtype=torch.float64, device=device),
            int(targets),
        )

    @property
    def dim(self) -> int:
        """D, the number of feature columns."""
        return self.directions.shape[0]

    @property
    def feature_covariance(self) -> Tensor:
        """Covariance of the features, normalised by 1/N, (D, D); NaN without a row."""
        return self.scatter.narrow(0, 0, self.dim).narrow(1, 0, self.dim) / self.count

    @property
    def target_covariance(self) -> Tensor:
        """Covariance Sigma of the targets, normalised by 1/N, (n, n); NaN without a row."""
        targets = self.scatter.narrow(0, self.dim, self.targets)
        return targets.narrow(1, self.dim, self.targets) / self.count

    @torch.no_grad()
    def update_(self, feats: Array, targets: Array, *, mask: Array | None = None) -> Self:
        """Merge a batch into these moments, in place; return self. No host synchronisation.

        Args:
            feats: (N, D), float16, bfloat16, float32 or float64, on the device of the moments. N
                may be zero.
            targets: (N, n), or (N,) if n = 1: real numbers of any dtype, on the same device.
            mask: (N,) bool; rows where it is False are left out, whatever they hold.

        Raises:
            TypeError: a dtype that cannot be used.
            ValueError: shapes, lengths or devices that do not fit. The moments do not change.
        """
        feats, targets, mask = _checked(feats, targets, mask)
        for name, part, size in (("feats", feats, self.dim), ("targets", targets, self.targets)):
            if part.shape[1] != size or part.device != self.mean.device:
                raise ValueError(
                    f"Expected argument `{name}` with {size} columns on {self.mean.device}, as the "
                    f"moments have, but got {part.shape[1]} columns on {part.device}. Make moments "
                    "for each layer with RegressionMoments.empty(dim, targets, device)."
                )
        rows = max(1, _BLOCK // (self.dim + self.targets))
        masks = repeat(None) if mask is None else mask.split(rows)
        found: RegressionMoments = self
        for block in zip(feats.split(rows), targets.split(rows), masks, strict=False):
            found = found.merge(_of_block(*block))
        for name in _TENSORS:
            setattr(self, name, getattr(found, name))
        return self

    @updatable
    def merge(self, other: RegressionMoments) -> RegressionMoments:
        """The moments of both sets of rows; neither argument changes.

        Args:
            other: moments with the same D and n, on the same device.

        Raises:
            TypeError: ``other`` is no RegressionMoments.
            ValueError: D, n or the devices differ.
        """
        if not isinstance(other, RegressionMoments):
            raise TypeError(
                "Expected argument `other` to be a RegressionMoments but got "
                f"{type(other).__name__}. Make one with ncfast.regression_moments(feats, targets)."
            )
        own, found = ((m.dim, m.targets, m.mean.device) for m in (self, other))
        if own != found:
            raise ValueError(
                "Expected argument `other` to have (D, n, device) = "
                f"({own[0]}, {own[1]}, {own[2]}) but got ({found[0]}, {found[1]}, {found[2]}). "
                "Merge moments of one layer and one set of targets."
            )
        count = self.count + other.count
        share = other.count.to(torch.float64) / count.clamp(min=1)
        delta = other.mean - self.mean
        between = torch.outer(delta, delta) * (self.count * share)
        return RegressionMoments(
            count,
            self.mean + delta * share,
            self.scatter + other.scatter + between,
            self.directions + other.directions,
            self.targets,
        )

    def all_reduce(self, group: dist.ProcessGroup | None = None) -> RegressionMoments:
        """The moments over all ranks, merged in rank order, the same bits on every rank.

        Args:
            group: the process group; None is the default one. Every rank must call with the same D
                and n. A rank without rows passes `empty`.

        Raises:
            RuntimeError: torch.distributed is not initialised, or a rank is missing.
            ValueError: D or n differ between ranks; every rank raises it.
        """
        _ranks.check_initialised(_CALL)
        own = torch.cat([getattr(self, name).flatten().to(torch.float64) for name in _TENSORS])
        shapes = f"(D, n) = ({self.dim}, {self.targets})"
        try:
            first, *rest = (self._unpacked(row) for row in _ranks.gather(own, _CALL, shapes, group))
        except _ranks.RanksDiffer as error:
            raise ValueError(
                f"Expected every rank to call {_CALL} with the same (D, n) but got {error}."
            ) from None
        for part in rest:
            first = first.merge(part)
        return first

    def _unpacked(self, row: Tensor) -> RegressionMoments:
        own = [getattr(self, name) for name in _TENSORS]
        parts = row.split([tensor.numel() for tensor in own])
        count, *others = (
            part.to(tensor.dtype).view_as(tensor) for part, tensor in zip(parts, own, strict=True)
        )
        mean, scatter, directions = others
        return RegressionMoments(count, mean, scatter, directions, self.targets)

    def to(self, device: torch.device | str) -> RegressionMoments:
        """The same moments on another device, which must have float64.

        Raises:
            ValueError: the device has no float64.
        """
        _check_place(device)
        return replace(self, **{name: getattr(self, name).to(device) for name in _TENSORS})

    def state_dict(self) -> dict[str, Tensor]:
        """The state as a flat dict of tensors, ready for torch.save or safetensors."""
        return {name: getattr(self, name).detach().clone() for name in _TENSORS}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> Self:
        """Replace the state by one that `state_dict` returned; return self.

        Args:
            state: a dict with exactly the keys of `state_dict`; shapes must fit this D and n.

        Raises:
            ValueError: a key is missing or unknown, a shape or dtype differs, or a count or square
                is negative. Nothing is loaded.
        """
        own = {name: getattr(self, name) for name in _TENSORS}
        check_entries(own, state, "Load it into RegressionMoments.empty(dim, targets).")
        check_not_negative("count", state["count"])
        check_not_negative("scatter", state["scatter"].diagonal())
        for name, tensor in own.items():
            setattr(self, name, state[name].detach().to(tensor.device, copy=True))
        return self


_TENSORS = tuple(field.name for field in fields(RegressionMoments) if field.name != "targets")


@torch.no_grad()
def regression_moments(
    feats: Array, targets: Array, *, mask: Array | None = None
) -> RegressionMoments:
    """Means and second moments of features and targets, in one pass.

    Args:
        feats: (N, D), float16, bfloat16, float32 or float64. A tensor or a NumPy array.
        targets: (N, n), or (N,) for n = 1: real numbers of any dtype, on the same device.
        mask: (N,) bool; rows where it is False are left out, whatever they hold.

    Returns:
        The moments, float64 on the features' device. Detached from the graph.

    Raises:
        TypeError: a dtype that cannot be used.
        ValueError: shapes, lengths or devices that do not fit.

    Example:
        >>> import torch, ncfast
        >>> h, y = torch.tensor([[1.0, 0.0], [3.0, 0.0]]), torch.tensor([0.0, 2.0])
        >>> ncfast.regression_moments(h, y).target_covariance.item()
        1.0
    """
    feats, targets, mask = _checked(feats, targets, mask)
    moments = RegressionMoments.empty(feats.shape[1], targets.shape[1], feats.device)
    return moments.update_(feats, targets, mask=mask)


@updatable
def _of_block(feats: Tensor, targets: Tensor, mask: Tensor | None) -> RegressionMoments:
    """The moments of a few rows, or of none."""
    rows = torch.cat([feats.to(torch.float64), targets.to(torch.float64)], 1)
    if mask is None:
        kept = rows.new_ones((len(rows), 1))
    else:
        kept = mask.to(torch.float64).unsqueeze(1)
        rows = torch.where(mask.unsqueeze(1), rows, 0.0)
    count = kept.sum()
    mean = rows.sum(0) / count.clamp(min=1)
    deviations = (rows - mean) * kept
    feats = rows.narrow(1, 0, feats.shape[1])  # a slice of a fake tensor would ask for CUDA
    norms = torch.linalg.vector_norm(feats, dim=1, keepdim=True)
    units = torch.where(norms == 0, 0.0, feats / norms)
    return RegressionMoments(
        count.to(torch.int64),
        mean,
        deviations.T @ deviations,
        units.T @ units,
        targets.shape[1],
    )


def _checked(
    feats: Array, targets: Array, mask: Array | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Features (N, D), targets (N, n) and mask (N,) as tensors that fit together."""
    feats = _validate.check_features(feats)
    targets = as_tensor("targets", targets)
    if targets.ndim == 1:
        targets = targets.unsqueeze(1)
    if targets.ndim != 2 or targets.shape[1] == 0 or len(targets) != len(feats):
        raise ValueError(
            f"Expected argument `targets` of shape (N, n) with N = {len(feats)}, as `feats`, and n "
            f"at least 1, but got {tuple(targets.shape)}. Pass one row of targets per row of "
            "features."
        )
    if targets.is_complex() or targets.dtype == torch.bool:
        raise TypeError(
            f"Expected argument `targets` to hold real numbers but got {targets.dtype}. Convert it "
            "with targets.double()."
        )
    if targets.device != feats.device:
        raise ValueError(
            f"Expected argument `targets` on {feats.device}, as `feats`, but got {targets.device}. "
            "Move it with targets.to(feats.device)."
        )
    return feats, targets, _checked_mask(mask, feats)


def _checked_mask(mask: Array | None, feats: Tensor) -> Tensor | None:
    if mask is None:
        return None
    mask = as_tensor("mask", mask)
    if mask.dtype != torch.bool:
        raise TypeError(
            f"Expected argument `mask` to be a bool tensor but got {mask.dtype}. Use mask.bool()."
        )
    if mask.shape != feats.shape[:1] or mask.device != feats.device:
        raise ValueError(
            f"Expected argument `mask` of shape ({len(feats)},) on {feats.device} but got "
            f"{tuple(mask.shape)} on {mask.device}."
        )
    return mask


def _check_place(device: torch.device | str | None) -> None:
    _validate.check_device("device", device, "Leave moments on the CPU, and move features to it.")
