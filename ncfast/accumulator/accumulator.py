"""`Accumulator`: every collapse metric of a stream of batches, without keeping the features."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from typing_extensions import Self

from ncfast import _validate
from ncfast._arrays import Array, as_integer
from ncfast.accumulator import ranks as of_ranks
from ncfast.accumulator.ranks import Facts
from ncfast.accumulator.rows import as_outside_rows, as_rows
from ncfast.accumulator.stream import Flags, StreamState
from ncfast.metrics.arguments import as_parameters
from ncfast.metrics.catalogue import CATALOGUE
from ncfast.metrics.inputs import MetricInputs, RowSums
from ncfast.metrics.metric import evaluate
from ncfast.metrics.needs import as_bytes, select
from ncfast.metrics.second_look import SecondLook
from ncfast.moments import ClassMoments, check_batch
from ncfast.ops import LabelPlan
from ncfast.ops._registry import NAMES

_LOOK = "look."  # begins the names of a second look in a saved state


class Accumulator:
    """Collapse metrics of features that arrive in batches, equal to `collapse_metrics` of them all.

    `update` merges a batch into sums, in place. NC4, the projected bound and NECO compare every row
    with the final means: if `needs_revisit` is true, pass the rows again to `revisit`. Several
    accumulators combine with `merge`, those of several processes with `all_reduce`.

    Features may be (N, D) with labels (N,), or (B, T, D) with labels (B, T); tensors or NumPy
    arrays. Tensors on another device are moved to that of the state. Methods may be called from
    several threads: a lock lets one of them in at a time. `update` and `revisit` do not wait for
    the accelerator that holds the state, except at the first `revisit` for NECO.

    Args:
        num_classes: K.
        dim: D; None takes that of `weight`, or of the first batch.
        metrics: "default" (the eight that a `Tracker` logs), an id ("nc1.pinv"), a family ("nc2"),
            a tier ("lite", "standard", "full", each with the cheaper ones), a sequence of them, or
            "all": every id whose inputs are there.
        weight: (K, D) rows of the linear classifier, see `set_classifier`.
        bias: (K,) its bias; zero when None, except for nc3.bias_collapse, which needs one.
        ignore_index: rows with this label are left out; None leaves out none.
        device: of the state; None takes that of the first batch, or the CPU for a device without
            float64.
        backend: see `class_moments`.
        memory_limit: bytes, or text such as "2GiB", that one matrix of the state may take. The
            metrics that need a larger one (8 D^2 bytes, or 8 K^2 for bound.generalization) are left
            out with one warning. None: 2 GiB, and no limit for ids asked for by name.

    Raises:
        TypeError, ValueError: an argument that does not fit, or the unknown name of a metric.

    Example:
        >>> import torch, ncfast
        >>> feats, labels = torch.randn(96, 8), torch.arange(96) % 3
        >>> acc = ncfast.Accumulator(num_classes=3, metrics=["nc1", "nc4.ncc_accuracy"])
        >>> for x, y in zip(feats.split(32), labels.split(32)):
        ...     _ = acc.update(x, y)
        >>> for x, y in zip(feats.split(32), labels.split(32)):
        ...     _ = acc.revisit(x, y)
        >>> sorted(acc.compute())[-2:]
        ['nc1.within_fraction_sample', 'nc4.ncc_accuracy']
    """

    _state: StreamState | None
    _look: SecondLook | None

    def __init__(
        self,
        num_classes: int,
        dim: int | None = None,
        *,
        metrics: str | Sequence[str] = "default",
        weight: Array | None = None,
        bias: Array | None = None,
        ignore_index: int | None = -100,
        device: torch.device | str | None = None,
        backend: str = "auto",
        memory_limit: int | str | None = None,
    ) -> None:
        num_classes = _validate.check_num_classes(num_classes)
        if backend not in NAMES:
            raise ValueError(
                f"Expected argument `backend` to be one of {NAMES} but got {backend!r}."
            )
        dim = None if dim is None else as_integer("dim", dim)
        if dim is not None and dim < 1:
            raise ValueError(f"Expected argument `dim` to be at least 1 but got {dim}.")
        self.num_classes, self.metrics, self.backend = num_classes, metrics, backend
        self.ignore_index = _validate.check_ignore_index(ignore_index)
        self._selection = select(metrics, num_classes, as_bytes(memory_limit))
        self._device = None if device is None else _with_float64(device)
        self._weight: Tensor | None = None
        self._bias: Tensor | None = None
        self._fixed_dim = dim
        self._lock, self._warned = threading.RLock(), False
        self._clear()
        if weight is not None or bias is not None:
            self.set_classifier(weight, bias)
        self._knows_dim = self._fixed_dim is not None
        if self._fixed_dim is not None and self._device is not None:
            self._start(self._fixed_dim, self._device)

    # Input.

    @torch.no_grad()
    def update(self, feats: Array, labels: Array | LabelPlan, *, mask: Array | None = None) -> Self:
        """Merge a batch into the state, in place; return self.

        A batch without a row, or with none that counts, changes nothing. An update after `revisit`
        discards the second look: revisit all rows again.

        Args:
            feats: (N, D), float16, bfloat16, float32 or float64; or (B, T, D).
            labels: (N,), any integer dtype, in 0..K-1 or `ignore_index`; or (B, T).
            mask: of the labels' shape, bool, or integer as an attention mask is; rows where it is
                zero are left out, whatever they hold.

        Raises:
            TypeError: a dtype that cannot be used.
            ValueError: shapes that do not fit; on the CPU, a label out of range that is not left
                out. The state is not changed. On an accelerator such a label makes every metric
                NaN.
            RuntimeError: after `all_reduce`, see there.
        """
        with self._lock:
            feats, labels, mask = as_rows(feats, labels, mask, self._home)
            state = self._started(feats, labels)
            if state.add(feats, labels, mask, self.ignore_index, self.backend):
                self._look = None
        return self

    @torch.no_grad()
    def revisit(
        self, feats: Array, labels: Array | LabelPlan, *, mask: Array | None = None
    ) -> Self:
        """Show a batch again, in any batches and any order; return self.

        The first call fixes the means, and copies the classifier. `compute` checks that the rows
        are those of `update`, by the number of rows of each class, the sum of the norms and the
        column sums of each class. The call does nothing if `needs_revisit` is false.

        Args:
            feats: see `update`.
            labels: see `update`.
            mask: see `update`.

        Raises:
            TypeError, ValueError: see `update`; before any `update`.
            RuntimeError: after the second looks of all ranks were added up.
        """
        with self._lock:
            look = self._looking("revisit")
            feats, labels, mask = as_rows(feats, labels, mask, self._home)
            check_batch(self.moments, feats, labels, mask)
            if look is not None and len(feats):
                look.add(feats, labels, mask, self.ignore_index)
        return self

    @torch.no_grad()
    def update_ood(self, feats: Array) -> Self:
        """Add features from outside the distribution, for NC5; return self.

        Args:
            feats: (M, D), or (B, T, D).

        Raises:
            TypeError, ValueError, RuntimeError: see `update`.
        """
        with self._lock:
            feats, labels = as_outside_rows(feats, self._home)
            state = self._started(feats, labels)
            if state.add_outside(feats, labels, self.backend):
                self._look = None
        return self

    @torch.no_grad()
    def revisit_ood(self, feats: Array) -> Self:
        """Show features from outside the distribution again, for NECO's scores; return self.

        Args:
            feats: see `update_ood`.

        Raises:
            TypeError, ValueError, RuntimeError: see `revisit`.
        """
        with self._lock:
            look = self._looking("revisit_ood")
            feats, labels = as_outside_rows(feats, self._home)
            check_batch(self._needs_state("revisit_ood").outside, feats, labels, None)
            if look is not None and len(feats):
                look.add_outside(feats)
        return self

    def set_classifier(self, weight: Array | None, bias: Array | None = None) -> Self:
        """Set the classifier of NC3, NC4 and the bounds; return self.

        The tensors are not copied. The parameters are read at the first `revisit`, or at `compute`
        if there is none; training may change them until then. Setting a classifier discards the
        second look.

        Args:
            weight: (K, D); None for no classifier.
            bias: (K,); None for none.

        Raises:
            ValueError: the shapes do not fit.
        """
        with self._lock:
            parts = as_parameters(weight, bias, self.num_classes, self.dim)
            (self._weight, self._bias), self._look = parts, None
            if self._weight is not None:
                self._fixed_dim = self._weight.shape[1]
            if self._state is not None:
                self._warn_of_large(self._state.moments.dim)
        return self

    # Results.

    @property
    def dim(self) -> int | None:
        """D; None before it is known."""
        return self._fixed_dim if self._state is None else self._state.moments.dim

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of the metrics asked for."""
        return self._selection.ids

    @property
    def moments(self) -> ClassMoments:
        """The class moments so far. They share memory with the state: read them only.

        Raises:
            ValueError: before the first batch.
        """
        return self._needs_state("moments").moments

    @property
    def ignored(self) -> Tensor:
        """The number of rows left out by `mask` or `ignore_index`, () int64."""
        return torch.zeros((), dtype=torch.int64) if self._state is None else self._state.ignored

    @property
    def needs_revisit(self) -> bool:
        """Whether an id asked for needs the rows a second time and has all other inputs."""
        return bool(self._selection.looks(self.dim, self._there()))

    @property
    def missing(self) -> dict[str, str]:
        """The ids that `compute` leaves out now, and why."""
        return self._selection.missing(self.dim, self._there())

    @torch.no_grad()
    def compute(self) -> dict[str, Tensor]:
        """The value of every metric asked for whose inputs are there.

        After a second look the call reads its counts, for which it waits for an accelerator.

        Returns:
            A () float64 tensor for each metric id, on the device of the state; NaN without rows.

        Raises:
            ValueError: an id asked for by name whose input or second look is missing; a second look
                at other rows than the first; before the first batch.
        """
        with self._lock:
            state = self._needs_state("compute")
            missing = self.missing
            self._selection.check_named(missing)
            inputs = self._inputs(state)
            if self._look is not None:
                self._look.check(state.outside if self._look.outside_scores else None)
                inputs = replace(self._look.inputs, sums=self._look.row_sums(), _results={})
            ids = (id_ for id_ in self.ids if id_ not in missing)
            return evaluate({id_: CATALOGUE[id_] for id_ in ids}, inputs)

    # Merging, saving and moving.

    @torch.no_grad()
    def merge(self, other: Accumulator) -> Self:
        """Add the rows of another accumulator, which does not change; return self.

        The second looks of both are discarded.

        Raises:
            TypeError: ``other`` is no Accumulator.
            ValueError: other K or D, or ``other`` lacks a sum that the metrics of this one read.
            RuntimeError: after `all_reduce`, see there.
        """
        if not isinstance(other, Accumulator):
            raise TypeError(
                f"Expected argument `other` to be an Accumulator but got {type(other).__name__}."
            )
        first, second = (self, other) if id(self) < id(other) else (other, self)
        with first._lock, second._lock:  # in the same order in every thread
            own, found = self._state, other._state
            if own is not None:
                own.check_own("merge")
            if found is None:
                return self
            if own is None:
                own = self._empty(self.dim or found.moments.dim, found.device)
            self._state = own.merge(found.to(own.device))
            self._look = None
        return self

    @torch.no_grad()
    def all_reduce(self, group: dist.ProcessGroup | None = None) -> Self:
        """Replace the state by that of the rows of all ranks, the same on each; return self.

        Call it after the last `update`. If `needs_revisit` is true, every rank then revisits its
        own rows and calls `all_reduce` again, which adds up the second looks. After the first call
        `update` and `merge` raise until `reset`: another `all_reduce` would count rows twice.

        A small state takes one packed collective, a large one takes two. One more is needed if D is
        not known in advance, or if a metric needs a second look or features from outside.

        Args:
            group: the process group; None is the default one. Every rank must call, with the same
                num_classes, metrics and classifier; a rank may have no row.

        Raises:
            RuntimeError: torch.distributed is not initialised, or a rank is missing.
            ValueError: the ranks differ in K, D or metrics.
        """
        with self._lock, of_ranks.reported(group):
            ranks = self._agree(group)
            dim = of_ranks.common_dim(ranks) if ranks else self.dim
            if self._state is None and dim:
                self._start(dim, self._device or of_ranks.device_of(group))
            if self._state is not None and not self._state.flags.shared:
                if any(rank.outside for rank in ranks):
                    self._state.flags = self._state.flags._replace(outside=True)
                self._state = of_ranks.reduce_state(
                    self._state, self._settings, group, agreed=bool(ranks)
                )
                self._look = None
            elif any(rank.looked for rank in ranks):
                look = self._looking("all_reduce")
                if look is not None:
                    of_ranks.reduce_look(look, ranks, group)
        return self

    def reset(self) -> Self:
        """Forget all rows; K, D, device, classifier and metrics stay. Return self."""
        with self._lock:
            state = self._state
            self._clear()
            if state is not None:
                self._start(state.moments.dim, state.device)
        return self

    def to(self, device: torch.device | str) -> Self:
        """Move the state to another device, in place; return self."""
        with self._lock:
            self._device = _with_float64(device)
            if self._state is not None:
                self._state = self._state.to(self._device)
                if self._look is not None:
                    look = self._look.state_dict()
                    self._look = SecondLook.of(self._inputs(self._state), look)
        return self

    def state_dict(self) -> dict[str, Tensor]:
        """The state as a flat dict of tensors; empty before a batch.

        It leaves out the classifier that was set; a second look in it holds its own copy.
        """
        with self._lock:
            if self._state is None:
                return {}
            state = self._state.state_dict()
            if self._look is not None:
                look = self._look.state_dict()
                state |= {f"{_LOOK}{name}": tensor for name, tensor in look.items()}
            return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> Self:
        """Replace the state by one that `state_dict` returned; return self.

        A second look without the sums or the classifier that the metrics need here is left out. The
        call reads the values, and so waits for an accelerator that holds them.

        Raises:
            ValueError: another K or D, sums of other metrics, or values that no rows give: a
                negative count, a sum that is NaN beside finite norms. Nothing is loaded.
        """
        with self._lock:
            if not state:
                return self.reset()
            look = {k.removeprefix(_LOOK): v for k, v in state.items() if k.startswith(_LOOK)}
            sums = {k: v for k, v in state.items() if not k.startswith(_LOOK)}
            dim, means = self.dim, sums.get("moments.means")
            if dim is None and isinstance(means, Tensor) and means.ndim == 2:
                dim = means.shape[1]
            own = self._state or self._empty(dim or 1, self._device or torch.device("cpu"))
            loaded = own.load(sums)
            inputs = self._inputs(loaded)
            found = SecondLook.of(inputs, look) if look else None
            self._state, self._look = loaded, None
            wanted = self._selection.looks(self.dim, self._there())
            if found is not None and found.serves(wanted, inputs):
                self._look = found
        return self

    def __getstate__(self) -> dict[str, Any]:
        with self._lock:
            return {name: value for name, value in vars(self).items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._lock = threading.RLock()

    def __repr__(self) -> str:
        rows = 0 if self._state is None else int(self.moments.total)
        return (
            f"Accumulator(N={rows}, K={self.num_classes}, D={self.dim}, metrics={self.metrics!r}, "
            f"backend={self.backend!r})"
        )

    # Internals.

    def _clear(self) -> None:
        self._state = self._look = None

    def _empty(self, dim: int, device: torch.device) -> StreamState:
        scatter = self._selection.keeps_scatter(dim)
        return StreamState.empty(self.num_classes, dim, device, scatter=scatter)

    def _start(self, dim: int, device: torch.device) -> StreamState:
        self._state = self._empty(dim, device)
        self._warn_of_large(dim)
        return self._state

    def _started(self, feats: Tensor, labels: Tensor) -> StreamState:
        if self._state is None:
            if not _validate.is_pair_without_rows(feats, labels) or feats.shape[1] == 0:
                _validate.check_pair(feats, labels)
            return self._start(self._fixed_dim or feats.shape[1], feats.device)
        return self._state

    def _needs_state(self, call: str) -> StreamState:
        if self._state is None:
            raise ValueError(f"Expected `update` before `{call}` but no batch was seen.")
        return self._state

    @property
    def _home(self) -> torch.device | None:
        return self._device if self._state is None else self._state.device

    @property
    def _flags(self) -> Flags:
        return Flags() if self._state is None else self._state.flags

    def _there(self) -> frozenset[str]:
        """The inputs that are there beside the moments, by the names that `Selection` uses."""
        look = self._look
        there = {
            "classifier": self._weight is not None,
            "bias": self._bias is not None,
            "ood": self._flags.outside,
            "revisit": look is not None,
            "scores": look is not None and bool(look.outside_scores),
        }
        return frozenset(name for name, is_there in there.items() if is_there)

    def _looking(self, call: str) -> SecondLook | None:
        """The second look, begun if there is none; None where no metric needs one."""
        state = self._needs_state(call)
        if not state.flags.rows:
            raise ValueError(f"Expected rows in `update` before `{call}` but none were seen.")
        if self._look is not None and self._look.shared:
            raise RuntimeError(
                f"Expected no `{call}` after `all_reduce` of the second look. Call `reset` first."
            )
        if self._look is None:
            wanted = self._selection.looks(self.dim, self._there())
            self._look = SecondLook(self._inputs(state, copy=True), wanted) if wanted else None
        return self._look

    def _inputs(self, state: StreamState, *, copy: bool = False) -> MetricInputs:
        weight, bias = (
            None if part is None else part.to(state.device) for part in (self._weight, self._bias)
        )
        if bias is not None:
            bias = bias.to(torch.float64, copy=copy)
        if weight is not None and copy:
            weight = weight.to(torch.float64, copy=True)
        outside = state.outside.means.squeeze(0) if state.flags.outside else None
        sums = RowSums(scatter=state.scatter, outside=outside)
        return MetricInputs(
            state.moments, weight=weight, bias=bias, sums=sums, backend=self.backend
        )

    def _warn_of_large(self, dim: int) -> None:
        """Warn once of the ids that only the memory limit leaves out."""
        text = self._selection.left_out(dim, self._there() | {"ood"})
        if text and not self._warned:
            self._warned = True
            warnings.warn(f"Accumulator leaves out {text}.", UserWarning, stacklevel=4)

    @property
    def _settings(self) -> str:
        """The settings that must be equal on all ranks, as text."""
        limit = self._selection.memory_limit
        text = f"num_classes = {self.num_classes}, memory_limit = {limit}, metrics = "
        text += ", ".join(self.ids)
        if not self._flags.shared:
            return text
        looks = sorted(self._selection.looks(self.dim, self._there()))
        return f"second look at {', '.join(looks) or 'nothing'}, {text}"

    def _agree(self, group: dist.ProcessGroup | None) -> list[Facts]:
        """The facts of every rank; empty if each rank knows those of the others in advance."""
        if self._knows_dim and not self._selection.needs & {"revisit", "ood"}:
            return []
        look = self._look if self._flags.shared else None
        look = None if look is None or look.shared else look
        scores = (0, 0) if look is None else look.lengths
        facts = Facts(self.dim or 0, int(self._flags.outside), int(look is not None), *scores)
        device = self._state.device if self._state else of_ranks.device_of(group)
        return of_ranks.exchange(facts, self._settings, group, device)


def _with_float64(device: torch.device | str) -> torch.device:
    _validate.check_device(
        "device", device, "Leave it out: features of such a device are moved to the CPU."
    )
    return torch.device(device)
