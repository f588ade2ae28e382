"""`StreamState`: the sums over the rows of an `ncfast.Accumulator`, and how two states merge."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import torch
from torch import Tensor

from ncfast._saved import check_entries, check_finite, check_not_negative, check_sums
from ncfast._surroundings import updatable
from ncfast.moments import ClassMoments, check_batch
from ncfast.ops.states import Layout, pack
from ncfast.ops.update import UPDATE


class Flags(NamedTuple):
    """Facts about a state that the host knows without reading a tensor."""

    rows: bool = False  # rows were added, counted or not
    outside: bool = False  # rows from outside the distribution were added
    shared: bool = False  # these are the rows of all ranks

    def __or__(self, other: Flags) -> Flags:
        return Flags(*map(operator.or_, self, other))


@dataclass(eq=False)
class StreamState:
    """Sums over the rows of a stream, float64, all on one device.

    Attributes:
        moments: of the rows, by class.
        outside: of the rows from outside the distribution, as one class.
        scatter: (D, D) N Sigma_W of the rows, or None where no metric reads it.
        ignored: () int64 rows left out by a mask or `ignore_index`.
        flags: see `Flags`.
    """

    moments: ClassMoments
    outside: ClassMoments
    scatter: Tensor | None
    ignored: Tensor
    flags: Flags

    @classmethod
    @updatable
    def empty(
        cls, num_classes: int, dim: int, device: torch.device, *, scatter: bool
    ) -> StreamState:
        """The state without rows."""
        moments = ClassMoments.empty(num_classes, dim, device)
        return cls(
            moments,
            ClassMoments.empty(1, dim, device),
            moments.means.new_zeros((dim, dim)) if scatter else None,
            torch.zeros((), dtype=torch.int64, device=device),
            Flags(),
        )

    @property
    def device(self) -> torch.device:
        """Where the state lives."""
        return self.ignored.device

    def add(
        self,
        feats: Tensor,
        labels: Tensor,
        mask: Tensor | None,
        ignore_index: int | None,
        backend: str,
    ) -> bool:
        """Merge rows into the state, in place, see `ncfast.Accumulator.update`.

        Returns:
            Whether there was a row.
        """
        self.check_own("update")
        check_batch(self.moments, feats, labels, mask)
        if not len(feats):
            return False
        UPDATE.select(backend, feats)(
            feats,
            labels,
            self.moments,
            mask=mask,
            ignore_index=ignore_index,
            ignored=self.ignored,
            scatter=self.scatter,
        )
        self.flags = self.flags._replace(rows=True)
        return True

    def add_outside(self, feats: Tensor, labels: Tensor, backend: str) -> bool:
        """Merge rows from outside the distribution, in place; whether there was one."""
        self.check_own("update_ood")
        check_batch(self.outside, feats, labels, None)
        if not len(feats):
            return False
        UPDATE.select(backend, feats)(feats, labels, self.outside)
        self.flags = self.flags._replace(outside=True)
        return True

    def check_own(self, call: str) -> None:
        """Raise RuntimeError if the state holds the rows of all ranks."""
        if self.flags.shared:
            raise RuntimeError(
                f"Expected no `{call}` after `all_reduce`: the next `all_reduce` would count the "
                "rows of all ranks once for each rank. Call `reset` first, or reduce a copy: "
                "copy.deepcopy(acc).all_reduce()."
            )

    @updatable
    def merge(self, other: StreamState) -> StreamState:
        """The state of both sets of rows; neither argument changes.

        The scatter takes the spread between the two means of every class:
        S = S_a + S_b + sum_c (n_a n_b / (n_a + n_b)) d_c d_c^T.

        Raises:
            ValueError: K or D differ, or ``other`` has no scatter where this state has one.
        """
        moments = self.moments.merge(other.moments)
        scatter = None
        if self.scatter is not None:
            if other.scatter is None:
                raise ValueError(
                    "Expected argument `other` to keep the scatter matrix but it has none. "
                    "Make both accumulators with the same `metrics` and `memory_limit`."
                )
            one, two = (part.moments.counts.to(torch.float64) for part in (self, other))
            weights = one * two / (one + two).clamp(min=1)
            scaled = (other.moments.means - self.moments.means) * weights.sqrt().unsqueeze(1)
            scatter = (self.scatter + other.scatter).addmm_(scaled.T, scaled)
        outside, ignored = self.outside.merge(other.outside), self.ignored + other.ignored
        return StreamState(moments, outside, scatter, ignored, self.flags | other.flags)

    @updatable
    def to(self, device: torch.device | str) -> StreamState:
        """The same state on another device."""
        return replace(
            self,
            moments=self.moments.to(device),
            outside=self.outside.to(device),
            scatter=None if self.scatter is None else self.scatter.to(device),
            ignored=self.ignored.to(device),
        )

    def pack(self) -> Tensor:
        """The state as one float64 vector; `ignored` is exact up to 2^53."""
        scatter = self.ignored.new_zeros(0) if self.scatter is None else self.scatter.flatten()
        parts = [pack(self.moments), pack(self.outside), self.ignored.view(1), scatter]
        return torch.cat([part.to(torch.float64) for part in parts])

    def unpack(self, packed: Tensor) -> StreamState:
        """The state in a vector of `pack`, of the same K, D and parts as this state."""
        dim = self.moments.dim
        inside, beyond = Layout(self.moments.num_classes, dim), Layout(1, dim)
        sizes = [inside.size, beyond.size, 1]
        moments, outside, ignored, scatter = packed.split([*sizes, len(packed) - sum(sizes)])
        return StreamState(
            ClassMoments(*inside.split(moments)),
            ClassMoments(*beyond.split(outside)),
            None if self.scatter is None else scatter.view(dim, dim),
            ignored.to(torch.int64).squeeze(0),
            self.flags,
        )

    def state_dict(self) -> dict[str, Tensor]:
        """The state as a flat dict of tensors, which are copies."""
        return {name: tensor.detach().clone() for name, tensor in self._entries().items()}

    def _entries(self) -> dict[str, Tensor]:
        """The tensors of `state_dict`, not copied."""
        state = {"ignored": self.ignored, "flags": torch.tensor(self.flags)}
        for name, part in (("moments", self.moments), ("outside", self.outside)):
            state |= {f"{name}.{each.name}": getattr(part, each.name) for each in fields(part)}
        if self.scatter is not None:
            state["scatter"] = self.scatter
        return state

    @updatable
    def load(self, state: Mapping[str, Tensor]) -> StreamState:
        """The state in a `state_dict` of the same K and D, on the device of this one.

        Raises:
            ValueError: a key is missing or unknown, a shape or dtype differs, or the values are
                those of no rows, see `check_sums`.
        """
        check_entries(
            self._entries(),
            state,
            "Load it into an Accumulator of the same num_classes, dim and metrics.",
        )
        for part in ("moments.", "outside."):
            check_sums(state, part)
        check_not_negative("ignored", state["ignored"])
        if "scatter" in state:
            check_not_negative("scatter", state["scatter"].diagonal())
            if bool(state["moments.norm_sum"].isfinite()):
                check_finite("scatter", state["scatter"])
        own = {name: found.detach().to(self.device, copy=True) for name, found in state.items()}
        moments, outside = (
            ClassMoments(*(own[f"{part}.{field.name}"] for field in fields(ClassMoments)))
            for part in ("moments", "outside")
        )
        flags = Flags(*own["flags"].tolist())
        return StreamState(moments, outside, own.get("scatter"), own["ignored"], flags)
