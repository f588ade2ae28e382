"""`ClassMoments`: the sufficient statistic from which every collapse metric is computed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor
from typing_extensions import Self

from ncfast import _validate
from ncfast._arrays import Array, as_tensor
from ncfast._html import paragraphs, table
from ncfast._saved import check_entries, check_sums
from ncfast.ops import LabelPlan, select
from ncfast.ops.grouping import Labels, labels_of
from ncfast.ops.moments import plain as plain_moments
from ncfast.ops.update import UPDATE, update_plain

_ROWS = 20  # classes that a notebook shows


@dataclass(eq=False)
class ClassMoments:
    """Counts, means, spreads and norms of features by class, mergeable without loss.

    All floating-point entries are float64, on the device of the features. A class without a sample
    has count, mean and sum of squares zero. Shards, minibatches and machines combine with `merge`
    or `all_reduce` to what one pass over everything would have given, up to float64 rounding
    (Chan, Golub & LeVeque 1983).

    The tensors may have leading axes in common, for many states at once: the properties below, and
    every metric of the moments, then have these axes too.

    Attributes:
        counts: samples of each class, (K,) int64.
        means: class means mu_c, (K, D).
        within_ss: sum over the class of norm(x - mu_c)^2, (K,).
        norm_sum: sum of the norms of all rows, ().
        norm_max: largest norm of a row, (); zero when there is no row.

    Example:
        >>> import torch, ncfast
        >>> x = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 2.0]])
        >>> m = ncfast.class_moments(x, torch.tensor([0, 0, 1]), num_classes=3)
        >>> m.counts.tolist(), m.means[0].tolist(), m.within_ss.tolist()
        ([2, 1, 0], [2.0, 0.0], [2.0, 0.0, 0.0])
    """

    counts: Tensor
    means: Tensor
    within_ss: Tensor
    norm_sum: Tensor
    norm_max: Tensor

    @classmethod
    def empty(
        cls, num_classes: int, dim: int, device: torch.device | str | None = None
    ) -> ClassMoments:
        """The moments of no sample at all: the neutral element of `merge`.

        Args:
            num_classes: K, at least 1.
            dim: D, the number of feature columns.
            device: where the state lives.
        """
        num_classes = _validate.check_num_classes(num_classes)
        _check_place(device)
        return cls(
            torch.zeros(num_classes, dtype=torch.int64, device=device),
            torch.zeros((num_classes, dim), dtype=torch.float64, device=device),
            torch.zeros(num_classes, dtype=torch.float64, device=device),
            torch.zeros((), dtype=torch.float64, device=device),
            torch.zeros((), dtype=torch.float64, device=device),
        )

    def _repr_html_(self) -> str:
        """The table of a notebook. It reads the values, and so waits for their device."""
        shape = f"{self.num_classes} classes, {self.dim} columns"
        if self.counts.dim() > 1:
            return paragraphs([f"ClassMoments of {tuple(self.counts.shape[:-1])} states: {shape}"])
        norms = torch.linalg.vector_norm(self.means.detach(), dim=-1)
        columns = zip(
            self.counts.tolist(),
            norms.tolist(),
            self.class_variances.detach().tolist(),
            strict=True,
        )
        rows = [
            [str(label), f"{count:,}", *((f"{norm:.6g}", f"{variance:.6g}") if count else ("", ""))]
            for label, (count, norm, variance) in enumerate(columns)
        ]
        left = len(rows) - _ROWS
        more = [f"{left:,} more classes"] if left > 0 else []
        head = ["class", "samples", "norm of the mean", "variance within"]
        title = f"ClassMoments: {int(self.total):,} samples, {shape}"
        return paragraphs([title]) + table(head, rows[:_ROWS]) + paragraphs(more)

    @property
    def num_classes(self) -> int:
        """K, absent classes included."""
        return self.counts.shape[-1]

    @property
    def dim(self) -> int:
        """D, the number of feature columns."""
        return self.means.shape[-1]

    @property
    def total(self) -> Tensor:
        """N, the number of samples, () int64."""
        return self.counts.sum(-1)

    @property
    def present(self) -> Tensor:
        """Which classes have a sample, (K,) bool."""
        return self.counts > 0

    @property
    def norm_mean(self) -> Tensor:
        """Mean norm of the rows, (); NaN when there is no row."""
        return self.norm_sum / self.total

    @property
    def global_mean(self) -> Tensor:
        """Mean of all samples mu_G, every sample counting the same, (D,)."""
        return (self.means * self.counts.unsqueeze(-1)).sum(-2) / self.total.unsqueeze(-1)

    @property
    def mean_of_means(self) -> Tensor:
        """Mean of the class means, every class that has a sample counting the same, (D,)."""
        return self.means.sum(-2) / self.present.sum(-1, keepdim=True)

    @property
    def centred_means(self) -> Tensor:
        """Class means minus `mean_of_means`, zero for absent classes, (K, D)."""
        centred = self.means - self.mean_of_means.unsqueeze(-2)
        return torch.where(self.present.unsqueeze(-1), centred, 0.0)

    @property
    def class_variances(self) -> Tensor:
        """V_c = within_ss / counts, (K,); zero for absent classes."""
        return self.within_ss / self.counts.clamp(min=1)

    @property
    def within_trace(self) -> Tensor:
        """Tr(Sigma_W) with the population normalisation 1/N, (); NaN when there is no sample."""
        return self.within_ss.sum(-1) / self.total

    @property
    def requires_grad(self) -> bool:
        """Whether these are differentiable; see ``differentiable`` of `class_moments`."""
        return self.means.requires_grad or self.within_ss.requires_grad

    def detach(self) -> ClassMoments:
        """The same moments without a graph; themselves where they have none."""
        if not self.requires_grad:
            return self
        return ClassMoments(*(getattr(self, field.name).detach() for field in fields(self)))

    def each(self) -> list[ClassMoments]:
        """The states along the leading axes, one after another; views where that can be."""
        batch = self.counts.ndim - 1
        parts = (getattr(self, field.name) for field in fields(self))
        flat = [part.flatten(0, batch - 1) if batch > 1 else part for part in parts]
        return [ClassMoments(*state) for state in zip(*flat, strict=True)] if batch else [self]

    def merge(self, other: ClassMoments) -> ClassMoments:
        """The moments of both sample sets together; neither argument changes.

        Differentiable where either of them is: moments of earlier batches can be the constant
        context of those of this one.

        Args:
            other: moments with the same K and D, on the same device.

        Raises:
            ValueError: shapes or devices differ.
        """
        check_mergeable(self, other)
        counts = self.counts + other.counts
        share = other.counts.to(torch.float64) / counts.clamp(min=1)  # int / int is float32
        delta = other.means - self.means
        # share is exactly 1 or 0 where only one side has samples, so absent classes need no guard
        means = self.means + delta * share.unsqueeze(-1)
        between = torch.linalg.vector_norm(delta, dim=-1).square() * self.counts * share
        return ClassMoments(
            counts,
            means,
            self.within_ss + other.within_ss + between,
            self.norm_sum + other.norm_sum,
            torch.maximum(self.norm_max, other.norm_max),
        )

    def update_(
        self,
        feats: Array,
        labels: Labels,
        *,
        mask: Array | None = None,
        ignore_index: int | None = None,
        backend: str = "auto",
    ) -> Self:
        """Merge a batch into these moments, in place; return self.

        Equal to ``self.merge(class_moments(feats, labels, num_classes=K))`` up to rounding, at a
        cost that does not grow with K: only the rows of the classes in the batch are touched.
        No host synchronisation.

        Args:
            feats: (N, D), float16, bfloat16, float32 or float64, on the device of the moments. N
                may be zero.
            labels: (N,), any integer dtype, on the same device, in 0..K-1; or their `plan`.
            mask: (N,) bool; rows where it is False are left out, whatever they hold.
            ignore_index: rows with this label are left out; None leaves out none.
            backend: see `class_moments`.

        Raises:
            TypeError: a dtype that cannot be used.
            ValueError: shapes, lengths or devices that do not fit; moments that are differentiable;
                on the CPU, a label out of range that is not left out. The moments are not changed.
                On an accelerator such a label makes the norms NaN, and with them every metric.

        Example:
            >>> import torch, ncfast
            >>> moments = ncfast.ClassMoments.empty(num_classes=3, dim=2)
            >>> x, y = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 9.0]]), torch.tensor([0, 0, 1])
            >>> moments.update_(x, y, mask=torch.tensor([True, True, False])).counts.tolist()
            [2, 0, 0]
        """
        if self.requires_grad:
            raise ValueError(
                "Expected moments without a graph to change in place, but these are "
                "differentiable. Use merge, or detach() them first."
            )
        plain = mask is None and ignore_index is None and backend == "auto"
        if plain and update_plain(feats, labels, self):
            return self
        feats, labels, mask = check_batch(self, feats, labels, mask)
        if len(feats):
            update = UPDATE.select(backend, feats)
            update(feats, labels, self, mask=mask, ignore_index=ignore_index)
        return self

    def all_reduce(self, group: dist.ProcessGroup | None = None) -> ClassMoments:
        """The moments over all ranks, the same bits on every rank.

        One packed collective; one more for a size that differs from the last, and two for a large
        state: see
        `ncfast.distributed.all_reduce_many`, which also takes several moments at once.

        Args:
            group: the process group; None is the default one. Every rank must hold the same K and
                D; a rank without samples takes part with `ClassMoments.empty`.

        Raises:
            RuntimeError: torch.distributed is not initialised, or a rank is missing.
            ValueError: on every rank, K and D are not the same.
        """
        from ncfast.distributed import all_reduce_many

        return all_reduce_many([self], group)[0]

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> ClassMoments:
        """The same moments on another device, which must have float64."""
        _check_place(device)
        moved = (
            getattr(self, field.name).to(device, non_blocking=non_blocking)
            for field in fields(self)
        )
        return ClassMoments(*moved)

    def state_dict(self) -> dict[str, Tensor]:
        """The state as a flat dict of tensors, ready for torch.save or safetensors."""
        return {field.name: getattr(self, field.name).detach().clone() for field in fields(self)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> Self:
        """Replace the state by one that `state_dict` returned, and return self.

        It reads the values, and so waits for an accelerator that holds them.

        Args:
            state: a dict with exactly the keys of `state_dict`; shapes must fit this K and D.

        Raises:
            ValueError: a key is missing or unknown, a shape or dtype differs, or the values are
                those of no rows (a negative count, a sum that is NaN beside finite norms). Nothing
                is loaded.
        """
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        check_entries(own, state, "Load it into ClassMoments.empty(K, D).")
        check_sums(state)
        for name, tensor in own.items():
            setattr(self, name, state[name].detach().to(tensor.device, copy=True))
        return self


def check_batch(
    moments: ClassMoments, feats: Array, labels: Labels, mask: Array | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The batch as tensors; ValueError or TypeError unless batch, moments and mask fit together."""
    if moments.counts.ndim != 1:
        raise ValueError(
            "Expected the moments of one state, with counts (K,), but got counts "
            f"{tuple(moments.counts.shape)}. Update each of moments.each()."
        )
    feats, labels = as_tensor("feats", feats), as_tensor("labels", labels_of(labels))
    if not _validate.is_pair_without_rows(feats, labels):
        _validate.check_pair(feats, labels)
    if feats.shape[1] != moments.dim:
        raise ValueError(
            f"Expected argument `feats` of shape (N, D) with D = {moments.dim}, as the moments "
            f"have, but got {tuple(feats.shape)}."
        )
    if feats.device != moments.means.device:
        raise ValueError(
            f"Expected argument `feats` on {moments.means.device}, where the moments are, but got "
            f"{feats.device}. Move it with feats.to(device)."
        )
    if mask is None:
        return feats, labels, None
    mask = as_tensor("mask", mask)
    if mask.dtype != torch.bool:
        raise TypeError(
            f"Expected argument `mask` to be a bool tensor but got {mask.dtype}. Use mask.bool()."
        )
    if mask.shape != labels.shape or mask.device != feats.device:
        raise ValueError(
            f"Expected argument `mask` of shape {tuple(labels.shape)} on {feats.device} but got "
            f"{tuple(mask.shape)} on {mask.device}."
        )
    return feats, labels, mask


def _check_place(device: torch.device | str | None) -> None:
    _validate.check_device("device", device, "Leave moments on the CPU, and move features to it.")


def check_moments(given: object, name: str) -> None:
    """Raise TypeError unless the argument is a ClassMoments."""
    if not isinstance(given, ClassMoments):
        raise TypeError(
            f"Expected argument `{name}` to be a ClassMoments but got {type(given).__name__}. "
            "Make one with ncfast.class_moments(feats, labels)."
        )


def check_mergeable(one: ClassMoments, other: ClassMoments, name: str = "other") -> None:
    """Raise ValueError or TypeError unless both are moments of the same K, D and device."""
    check_moments(other, name)
    if one.means.shape != other.means.shape:
        raise ValueError(
            f"Expected argument `{name}` to have means of shape (K, D) = "
            f"{tuple(one.means.shape)} but got {tuple(other.means.shape)}. "
            "Pass the same `num_classes` to every class_moments call."
        )
    if one.means.device != other.means.device:
        raise ValueError(
            f"Expected argument `{name}` on {one.means.device} but got {other.means.device}. "
            f"Move it with {name}.to(device)."
        )


def class_moments(
    feats: Array,
    labels: Labels,
    *,
    num_classes: int | None = None,
    backend: str = "auto",
    validate: Literal["shape", "full"] = "shape",
    differentiable: bool = False,
) -> ClassMoments:
    """Counts, means, spreads and norms of features by class, in one pass over the features.

    Relative error of Tr(Sigma_W) under 1e-6 against a float64 two-pass over the same stored input,
    at any collapse level; exactly zero for identical rows.

    Args:
        feats: (N, D), float16, bfloat16, float32 or float64; any strides; no full copy is made. A
            tensor, or a NumPy array (a read-only memory map, too), which is read where it lies; of
            lists NumPy makes an array.
        labels: (N,), any integer dtype, on the same device, in 0..K-1; or their `plan`.
        num_classes: K. None takes the plan's, or else the largest label plus one: the one call
            that synchronises with an accelerator.
        backend: "auto", or the name of a backend of `ncfast.backends`.
        validate: "shape" looks at shapes, dtypes and devices, and at the values of labels that are
            on the CPU anyway. Then a NaN or infinite feature makes the mean and sum of squares of
            its class and the norms NaN or infinite, and an accelerator's label out of range makes
            everything but the counts NaN. "full" reads all values (synchronises) and raises.
        differentiable: whether the means, sums of squares and norms keep the graph of ``feats``,
            for a loss: see `ncfast.losses`. Its backward pass reads the features once. Metrics,
            trackers and accumulators detach. Differentiable once: a second derivative is an error.

    Returns:
        The moments, in float64 on the features' device. Detached from the graph unless
        ``differentiable``.

    Raises:
        TypeError: a dtype that cannot be used.
        ValueError: shapes, lengths or devices that do not fit; empty input; labels out of range;
            an unknown backend or one that cannot run; with "full", features that are not finite;
            "full" under `torch.func.vmap`, or labels of its batch without ``num_classes``.
        RuntimeError: where ``differentiable`` moments meet forward-mode differentiation.

    Example:
        >>> import torch, ncfast
        >>> feats = torch.randn(100, 8)
        >>> labels = torch.arange(100) % 4
        >>> ncfast.class_moments(feats, labels, num_classes=4).counts.tolist()
        [25, 25, 25, 25]
    """
    if validate not in ("shape", "full"):
        raise ValueError(
            f"Expected argument `validate` to be 'shape' or 'full' but got {validate!r}."
        )
    plan = None
    if isinstance(labels, LabelPlan):
        plan, labels = labels, labels.labels
        num_classes = plan.classes(num_classes)
    if backend == "auto" and validate == "shape" and not differentiable:
        found = plain_moments(feats, labels, num_classes)
        if found is not None:
            return ClassMoments(*found)
    feats, labels = _validate.check_pair(feats, labels)
    inferred = num_classes is None
    if _validate.vmapped():
        _check_no_value_is_read(labels, num_classes, validate)
    if num_classes is None:
        num_classes = _validate.infer_num_classes(labels)
    else:
        num_classes = _validate.check_num_classes(num_classes)
        if validate == "full":
            _validate.check_label_values(labels, num_classes)
    if validate == "full":
        _validate.check_finite(feats)
    if differentiable:
        from ncfast.ops.gradient import differentiable as moments_with_gradient

        raw = moments_with_gradient(backend, feats, labels, num_classes, plan)
    else:
        # detached inputs do what torch.no_grad would, without its 2 us
        raw = select(backend, feats, plan)(feats.detach(), labels, num_classes)
    if not inferred and _validate.is_on_host(labels) and math.isnan(raw.norm_max.item()):
        # a label out of range made everything NaN, unless it was a feature: now look at the labels
        _validate.check_label_values(labels, num_classes)
    return ClassMoments(*raw)


def _check_no_value_is_read(labels: Tensor, num_classes: int | None, validate: str) -> None:
    """Raise ValueError where an argument would have to be read, which vmap forbids."""
    if num_classes is None and torch._C._functorch.is_batchedtensor(labels):
        raise ValueError(
            "Expected argument `num_classes` but got None under vmap, which hides the labels. "
            "Pass num_classes=K."
        )
    if validate == "full":
        raise ValueError(
            "Expected argument `validate` to be 'shape' under vmap, which hides the values, but "
            "got 'full'."
        )
