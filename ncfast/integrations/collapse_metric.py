"""`CollapseMetric`: an `ncfast.Accumulator` as a `torchmetrics.Metric`."""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor
from typing_extensions import Self

from ncfast._arrays import Array
from ncfast._optional import need
from ncfast._surroundings import updatable
from ncfast._warnings import user_level
from ncfast.accumulator import Accumulator
from ncfast.accumulator.rows import as_outside_rows, as_rows
from ncfast.accumulator.stream import Flags, StreamState
from ncfast.integrations import packed
from ncfast.metrics.arguments import as_parameters
from ncfast.metrics.catalogue import CATALOGUE
from ncfast.metrics.needs import SECOND_LOOK
from ncfast.moments import ClassMoments, check_batch
from ncfast.ops.grouping import Labels
from ncfast.tracking.messages import warn_of_all

need("torchmetrics", "ncfast.integrations.torchmetrics")
from torchmetrics import Metric  # noqa: E402
from torchmetrics.utilities.distributed import gather_all_tensors  # noqa: E402

_KEPT = ("kept_feats", "kept_labels", "kept_outside")
_LIMIT = 2 << 30  # bytes of kept features, if no metric that needs them was asked for by name


class CollapseMetric(Metric):
    """Collapse metrics of all features seen since the last reset, exact over batches and ranks.

    The state is one float64 vector: the sums of an `ncfast.Accumulator`. Batches are merged into it
    in place. It is merged (Chan) where torchmetrics would add: in `forward`, in `merge_state`, and
    over ranks, in one packed collective. Metrics with the same state, fed by a `MetricCollection`,
    share it (compute groups). A saved state is loaded by a metric of the same K, D and sums alone.

    Ids that look at the features a second time, once the class means are known, keep the features:
    nc4.*, bound.generalization, nc5.neco_auroc and nc5.neco_fpr95. Above ``memory_limit`` the
    features are dropped with a warning, and these ids are NaN until the next reset;
    `ncfast.evaluate`, or an `ncfast.Accumulator` with `revisit`, reads a loader twice instead.
    Kept features stay on their rank.

    Args:
        num_classes: K.
        dim: D, the number of feature columns.
        metrics: "default" (the eight that a Tracker logs), ids, families or tiers (see
            `ncfast.describe`), or "all": every id whose inputs are there.
        weight: (K, D) rows of the linear classifier, see `set_classifier`.
        bias: (K,) its bias.
        ignore_index: rows with this label are left out; None leaves out none.
        memory_limit: bytes, or text such as "500MiB", for the kept features, and for one matrix of
            the state (see `ncfast.Accumulator`). None: 2 GiB, and no limit for ids asked for by
            name.
        backend: see `ncfast.class_moments`.
        **kwargs: of `torchmetrics.Metric`.

    Raises:
        ValueError: an unknown metric, K or D below 1, or a classifier of another shape.

    Example:
        >>> import torch
        >>> from ncfast.integrations.torchmetrics import CollapseMetric
        >>> metric = CollapseMetric(num_classes=2, dim=3, metrics=["rnc1.max", "nc1.pinv"])
        >>> for _ in range(4):
        ...     metric.update(torch.randn(16, 3), torch.arange(16) % 2)
        >>> sorted(metric.compute())
        ['nc1.pinv', 'rnc1.max']
    """

    is_differentiable = False
    higher_is_better: bool | None = None
    full_state_update = False
    # torch.jit.script leaves alone what is listed here
    __jit_unused_properties__: ClassVar[list[str]] = [
        *Metric.__jit_unused_properties__,
        "moments",
        "missing",
        "ignored",
    ]

    def __init__(
        self,
        num_classes: int,
        dim: int,
        *,
        metrics: str | Sequence[str] = "default",
        weight: Array | None = None,
        bias: Array | None = None,
        ignore_index: int | None = -100,
        memory_limit: int | str | None = None,
        backend: str = "auto",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        # declared here: torch.jit.script does not understand annotations of the class
        self.moments_state: Tensor
        self.kept_feats: list[Tensor]
        self.kept_labels: list[Tensor]
        self.kept_outside: list[Tensor]
        if metrics == "all":
            warn_of_all()
        self._stream = Accumulator(
            num_classes,
            dim,
            metrics=metrics,
            ignore_index=ignore_index,
            memory_limit=memory_limit,
            backend=backend,
        )
        num_classes, dim = self._stream.num_classes, int(dim)
        self.num_classes, self.dim = num_classes, dim
        self.metrics = self._stream.ids
        selection = self._stream._selection
        self._layout = packed.Layout(
            num_classes, dim, selection.keeps_scatter(dim), self._stream.ignore_index
        )
        self.add_state(
            "moments_state",
            packed.empty(self._layout),
            dist_reduce_fx=functools.partial(packed.merged, layout=self._layout),
        )
        self._keeps = "revisit" in selection.needs
        for name in _KEPT if self._keeps else ():
            self.add_state(name, [], dist_reduce_fx="cat")
        named = any("revisit" in CATALOGUE[id_].needs for id_ in selection.named)
        limit = selection.memory_limit
        self._limit = (None if named else _LIMIT) if limit is None else limit
        self._dropped = self._warned = False
        self._classifier = _Classifier()
        self.set_classifier(weight, bias)

    def set_classifier(self, weight: Array | None, bias: Array | None = None) -> Self:
        """Set the classifier of NC3, NC4 and the bounds; return self.

        The tensors are read at `compute`, so training may change them; copies of the metric share
        them, and saved states do not hold them.

        Args:
            weight: (K, D); None for no classifier.
            bias: (K,); None for none.

        Raises:
            ValueError: the shapes do not fit.
        """
        self._classifier = _Classifier(*as_parameters(weight, bias, self.num_classes, self.dim))
        self._computed = None
        stream, _ = self._opened()
        stream._warn_of_large(self.dim)
        self._stream._warned = stream._warned
        return self

    @property
    def moments(self) -> ClassMoments:
        """The class moments of all rows since the last reset, on this rank; a copy."""
        return packed.opened(self.moments_state.clone(), self._layout).moments

    @property
    def ignored(self) -> Tensor:
        """The number of rows left out by a mask or `ignore_index`, () int64."""
        return packed.opened(self.moments_state, self._layout).ignored

    @property
    def missing(self) -> dict[str, str]:
        """The ids asked for that `compute` leaves out now, and why."""
        stream = self._read()
        return stream._selection.missing(self.dim, stream._there() | SECOND_LOOK)

    def update(
        self,
        feats: Array,
        labels: Labels,
        mask: Array | None = None,
        *,
        ood_feats: Array | None = None,
    ) -> None:
        """Add a batch; it may have no row, or none that counts.

        Args:
            feats: (N, D), or (B, T, D), floats of 16 to 64 bits. Tensor or NumPy array; tensors on
                another device are moved to that of the metric.
            labels: (N,) integer class indices, or their `plan`; or (B, T).
            mask: of the labels' shape, bool or integer; rows where it is zero are left out.
            ood_feats: (M, D) features from outside the distribution, for NC5.

        Raises:
            ValueError, TypeError: see `ncfast.Accumulator.update`. The state is not changed.
        """
        with torch.inference_mode(False), torch.no_grad():
            if self.moments_state.is_inference():  # it was reset in inference mode
                self.moments_state = self.moments_state.clone()
            stream, state = self._opened()
            feats, labels, mask = as_rows(feats, labels, mask, state.device)
            outside = None
            if ood_feats is not None:
                outside, one_class = as_outside_rows(ood_feats, state.device)
                check_batch(state.outside, outside, one_class, None)  # before anything changes
            stream.update(feats, labels, mask=mask)
            if outside is not None:
                stream.update_ood(outside)
            packed.close(state, self.moments_state, self._layout)
            if self._keeps:
                self._keep(feats, labels, mask, outside)

    @torch.jit.unused
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Add a batch, and return the values of the batch alone."""
        dropped = self._dropped  # torchmetrics resets the metric for the batch
        value = super().forward(*args, **kwargs)
        if self._keeps:
            self._dropped = dropped
            self._drop_if_large()
        return value

    def compute(self) -> Any:
        """The values by metric id, 0-d float64; NaN without rows.

        Raises:
            ValueError: an id asked for by name whose classifier, bias or ``ood_feats`` is missing.
        """
        return self._values()

    def reset(self) -> None:
        """Forget all rows and the kept features; the classifier stays."""
        super().reset()
        self._dropped = False

    def merge_state(self, incoming_state: dict[str, Any] | Metric) -> None:
        """Add the rows of another metric, or of its states by name."""
        super().merge_state(incoming_state)
        self._computed = None  # torchmetrics would return the value from before the merge

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
        """Copies of the states that are persistent, with K and D beside them."""
        found = super().state_dict(destination, prefix, keep_vars)
        for key in (prefix + name for name in self._defaults if prefix + name in found):
            found[key] = list(found[key]) if isinstance(found[key], list) else found[key].clone()
        if prefix + "moments_state" in found:
            found[prefix + _SHAPE] = torch.tensor([self.num_classes, self.dim])
        return found

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        shape = state_dict.pop(prefix + _SHAPE, None)  # absent before version 0.2
        state = state_dict.get(prefix + "moments_state")
        own = [self.num_classes, self.dim]
        if state is not None:
            found = own if shape is None else shape.tolist()
            if len(state) != len(self.moments_state):
                older = packed.of_first_release(state, self._layout)
                state = state if older is None else older
            if found != own or len(state) != len(self.moments_state):
                del state_dict[prefix + "moments_state"]
                args[-1].append(_OTHER.format(own=own, found=found, length=len(state)))
            elif damage := self._damage(state):
                del state_dict[prefix + "moments_state"]
                args[-1].append(damage)
            else:
                state_dict[prefix + "moments_state"] = state.to(self.moments_state, copy=True)
        for key in (prefix + name for name in _KEPT if prefix + name in state_dict):
            state_dict[key] = list(state_dict[key])
        super()._load_from_state_dict(state_dict, prefix, *args)

    # Internals.

    def _damage(self, state: Tensor) -> str | None:
        """Why a state is not loaded, or None."""
        try:
            packed.check(state, self._layout, "moments_state")
        except ValueError as error:
            return str(error)
        return None

    def _opened(self) -> tuple[Accumulator, StreamState]:
        """An accumulator of the state, and the state; all but the counts share the memory."""
        stream = copy.copy(self._stream)
        stream._weight, stream._bias = self._classifier.weight, self._classifier.bias
        stream._state = state = packed.opened(self.moments_state, self._layout)
        state.flags = Flags(rows=True)
        return stream, state

    def _read(self, *, shared: bool = False) -> Accumulator:
        """The accumulator for `compute`, which knows whether there are rows from outside.

        Args:
            shared: whether the state holds the rows of all ranks.
        """
        stream, state = self._opened()
        outside = "ood" in stream._selection.needs and bool(state.outside.counts.any())
        state.flags = Flags(rows=True, outside=outside, shared=shared)
        return stream

    def _keep(
        self, feats: Tensor, labels: Tensor, mask: Tensor | None, outside: Tensor | None
    ) -> None:
        if self._dropped:
            return
        if mask is not None:
            labels = torch.where(mask, labels.to(torch.int64), self.num_classes)
        if len(feats):
            # a copy: a view would keep the whole activation alive
            self.kept_feats.append(feats.clone())
            self.kept_labels.append(labels.clone())
        if outside is not None and len(outside):
            self.kept_outside.append(outside.clone())
        self._drop_if_large()

    def _drop_if_large(self) -> None:
        kept: list[list[Tensor]] = [getattr(self, name) for name in _KEPT]
        if self._limit is None or sum(t.nbytes for rows in kept for t in rows) <= self._limit:
            return
        for rows in kept:
            rows.clear()
        self._dropped = True
        if not self._warned:
            self._warned = True
            warnings.warn(_LARGE.format(limit=self._limit), UserWarning, stacklevel=user_level())

    def _sync_dist(self, dist_sync_fn: Any = gather_all_tensors, process_group: Any = None) -> None:
        """Merge the sums of all ranks; kept features stay where they are."""
        if dist_sync_fn is not gather_all_tensors or not dist.is_initialized():
            super()._sync_dist(dist_sync_fn, process_group)
            return
        stream = self._read().all_reduce(process_group or self.process_group)
        assert stream._state is not None
        self.moments_state = packed.packed(stream._state, self._layout)

    @torch.no_grad()
    @updatable
    def _values(self) -> dict[str, Tensor]:
        shared = self._is_synced and not isinstance(getattr(self, _KEPT[0], None), Tensor)
        stream = self._read(shared=shared)
        if not stream.needs_revisit:
            return stream.compute()
        self._revisit(stream)
        if shared:
            stream.all_reduce(self.process_group)
        return stream.compute() if _saw_all(stream) else self._without_features(stream)

    def _revisit(self, stream: Accumulator) -> None:
        """Show the accumulator the kept features."""
        stream._looking("compute")  # ranks without features have a second look too
        feats, labels, outside = (_batches(getattr(self, name)) for name in _KEPT)
        for rows, classes in zip(feats, labels, strict=True):
            stream.revisit(rows, classes, mask=classes != self.num_classes)
        for rows in outside if stream._flags.outside else ():
            stream.revisit_ood(rows)

    def _without_features(self, stream: Accumulator) -> dict[str, Tensor]:
        """The values where kept features were dropped: NaN for the ids that look at them again."""
        if not self._dropped:  # on this rank; another one did
            warnings.warn(_LARGE_ELSEWHERE, UserWarning, stacklevel=user_level())
        missing = self.missing
        stream._selection.check_named(missing)
        stream._look, stream._selection = None, stream._selection.without("revisit")
        found = stream.compute()
        nan = self.moments_state.new_tensor(torch.nan)
        return {id_: found.get(id_, nan) for id_ in self.metrics if id_ not in missing}


class _Classifier:
    """Weight and bias, which copies of a metric share.

    Attributes:
        weight: (K, D) or None.
        bias: (K,) or None.
    """

    def __init__(self, weight: Tensor | None = None, bias: Tensor | None = None) -> None:
        self.weight, self.bias = weight, bias

    def __deepcopy__(self, memo: object) -> _Classifier:
        return self


def _batches(kept: Tensor | list[Tensor]) -> list[Tensor]:
    return kept if isinstance(kept, list) else [kept]


def _saw_all(stream: Accumulator) -> bool:
    """Whether the second look counted as many rows as the first one."""
    look, state = stream._look, stream._state
    assert look is not None
    assert state is not None
    same = torch.equal(look.sums.counts[:-1], state.moments.counts.to(torch.float64))
    if "scores" not in look.wanted or not state.flags.outside:
        return same
    return same and bool(look.sums.outside == state.outside.counts)


_SHAPE = "moments_shape"
_LARGE = (
    "The features kept for metrics that look at them a second time, such as nc4.*, exceed "
    "memory_limit = {limit:,} bytes and are dropped: these metrics are NaN until the next reset. "
    "Raise memory_limit, or call ncfast.evaluate, which runs the model twice instead."
)
_LARGE_ELSEWHERE = (
    "The features kept for metrics that look at them a second time were dropped, here or on "
    "another rank: these metrics are NaN. Raise memory_limit, or call ncfast.evaluate."
)
_OTHER = (
    "Expected a state of [num_classes, dim] = {own} but got one of {found} with {length} numbers. "
    "Make the metric with the num_classes, dim and metrics of the state."
)
