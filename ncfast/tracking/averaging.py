"""Averages the class moments of the last batches: over a window, or exponentially.

A batch has few samples of a class, and the network changes from batch to batch. The averages
therefore pool deviations from the class mean of the same batch: a drift of the means does not count
as spread. With n_ct samples, mean mu_ct and sum of squares SS_ct of class c in batch
t, and weights a_t (1 within a window; beta^(age) for an exponential average),

    w_c  = sum_t a_t n_ct                      weight of the class
    mu_c = sum_t a_t n_ct mu_ct / w_c
    V_c  = sum_t a_t SS_ct / sum_t a_t (n_ct - 1)+    unbiased: one degree of freedom a class, batch
    Tr(Sigma_W) = sum_c w_c V_c / sum_c w_c
    mean norm   = sum_t a_t sum_i norm(g_i) / sum_t a_t n_t
    largest norm = the largest in a window; an exponential average of the batches' largest

Dividing by the sum of the weights also removes the bias of the start (Kingma & Ba 2015, section 3).
A class that never had two samples in one batch takes the pooled variance of the other classes. A
class whose weight has decayed to 2^-60 of a sample counts as absent. The means keep a bias:
norm(mu_c - mu_k)^2 is too large by about V_c / n_c + V_k / n_k, with the numbers of samples in the
average.

On the CPU the extension computes the averages in C++ (``csrc/tracker/average.h``). `TorchAverage`
is the reference, and runs everywhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ncfast.ops import _raw
from ncfast.ops._raw import plain
from ncfast.ops.averages import CpuAverage
from ncfast.ops.states import Layout


@dataclass(frozen=True)
class Averaging:
    """How a tracker averages batches.

    Attributes:
        kind: "batch", "window" or "ema".
        length: batches in a window.
        decay: beta of an exponential average.
    """

    kind: Literal["batch", "window", "ema"]
    length: int = 1
    decay: float = 0.0


def parse_averaging(text: str) -> Averaging:
    """The averaging that a text means: "batch", "window:LENGTH" or "ema:DECAY".

    Raises:
        ValueError: the text is none of these, a length is below 1, or a decay is not in (0, 1).

    Example:
        >>> parse_averaging("ema:0.99")
        Averaging(kind='ema', length=1, decay=0.99)
    """
    kind, _, number = text.partition(":") if isinstance(text, str) else ("", "", "")
    if kind == "batch" and not number:
        return Averaging("batch")
    if kind == "window" and number.isdecimal() and len(number) < 19 and int(number) > 0:
        return Averaging("window", length=int(number))
    if kind == "ema" and _is_fraction(number):
        return Averaging("ema", decay=float(number))
    raise ValueError(
        "Expected argument `stream` to be 'batch', 'window:LENGTH' with a positive length or "
        f"'ema:DECAY' with a decay between 0 and 1 but got {text!r}. For example 'ema:0.99'."
    )


def _is_fraction(number: str) -> bool:
    try:
        return 0 < float(number) < 1
    except ValueError:
        return False


# Metrics depend only on ratios of the weights. Scaling by a power of two does not round. It keeps
# the weights of old classes above 1, as divisions by counts need it. Smaller weights count as 0.
_SCALE = 2.0**60
_FORGOTTEN = 1 / _SCALE
_CHUNK = 128  # batches for which memory is kept
_PIECE = 16  # batches for one product with the weights, whose cost grows with the square


def running_average(
    averaging: Averaging, layout: Layout, device: torch.device
) -> CpuAverage | TorchAverage:
    """The fastest running average for ``device``.

    Args:
        averaging: a window or an exponential average.
        layout: the layout of the batches' packed moments.
        device: the device of the packed moments.
    """
    if _raw.extension is None or not plain(torch.empty(0, device=device)):
        return TorchAverage(averaging, layout, device)
    length = averaging.length if averaging.kind == "window" else 0
    return CpuAverage(layout, length, averaging.decay)


def _decays(decay: float, device: torch.device) -> Tensor:
    """(_PIECE, _PIECE + 1) the weights of the past and of a piece's batches, for each average."""
    index = torch.arange(_PIECE + 1, device=device)
    age = index[1:].unsqueeze(1) - index
    weight = torch.pow(decay, age.clamp(min=0).to(torch.float64))
    return torch.where(age >= 0, weight, 0.0)


class TorchAverage:
    """The reference of `CpuAverage`, in torch and for any device; it sums over chunks of batches.

    Args:
        averaging: a window or an exponential average.
        layout: the layout of the batches' packed moments.
        device: the device of the packed moments.

    Attributes:
        layout: the layout of the averages; their counts are weights.
    """

    def __init__(self, averaging: Averaging, layout: Layout, device: torch.device) -> None:
        self._averaging, self._layout = averaging, layout
        self.layout = layout._replace(integer_counts=False)
        k, d = layout.classes, layout.dim
        # rows that can be added: counts, counts times means, squares, degrees of freedom, sum of
        # norms, largest norm, one. The rows of the past come first.
        self._columns = [k, k * d, k, k, 1, 1, 1]
        self._past = 1 if averaging.kind == "ema" else averaging.length - 1
        shape = (self._past + _CHUNK, sum(self._columns))
        self._rows = torch.zeros(shape, dtype=torch.float64, device=device)
        self._weights = _decays(averaging.decay, device)

    def update(self, states: Tensor) -> Tensor:
        """Overwrite each of the next batches by the average that ends with it.

        A batch that is not finite gives NaN at its step and does not enter later averages.

        Args:
            states: (n, size) packed moments, oldest first.

        Returns:
            ``states``, in the layout `layout`.
        """
        for chunk in states.split(_CHUNK):
            self._update_chunk(chunk)
        return states

    def state(self) -> Tensor:
        """The complete state, (n,) float64."""
        return self._rows[: self._past].flatten().clone()

    def load(self, state: Tensor) -> None:
        """Continue from what `state` returned.

        Raises:
            ValueError: this is the state of an average of another kind, or of other batches.
        """
        past = self._rows[: self._past]
        if state.shape != (past.numel(),):
            raise ValueError(
                f"Expected a state of shape ({past.numel()},) but got {tuple(state.shape)}."
            )
        past.copy_(state.view(past.shape))

    def _update_chunk(self, states: Tensor) -> None:
        rows = self._rows[: self._past + len(states)]
        unusable = torch.isfinite(states[:, -2:]).all(1, keepdim=True).logical_not()
        # on an accelerator the mask is always applied: reading it would synchronise
        masks = states.device.type != "cpu" or bool(unusable.any())
        self._fill(states, rows[self._past :])
        if masks:
            rows[self._past :].masked_fill_(unusable, 0.0)
        averaged = self._decayed(rows) if self._averaging.kind == "ema" else self._within(rows)
        self._pack(*averaged, states)
        if masks:
            states.masked_fill_(unusable, torch.nan)

    def _fill(self, states: Tensor, rows: Tensor) -> None:
        """Fill rows whose weighted sums give the average without cancellation."""
        counts, means, within, norm_sum, norm_max = self._layout.split(states)
        number, total, squares, freedom, norms, largest, one = rows.split(self._columns, 1)
        number.copy_(counts)
        torch.mul(number.unsqueeze(-1), means, out=total.unflatten(1, means.shape[1:]))
        squares.copy_(within)
        freedom.copy_((number - 1).clamp_(min=0))
        norms.copy_(norm_sum.unsqueeze(1))
        largest.copy_(norm_max.unsqueeze(1))
        one.fill_(1)

    def _decayed(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The sums over rows 0..i + 1 with weights decay^age, and the average largest norm."""
        number = len(rows) - 1
        sums = torch.empty_like(rows[1:])
        for start in range(0, number, _PIECE):
            size = min(_PIECE, number - start)
            piece = rows[start : start + size + 1]
            torch.mm(self._weights[:size, : size + 1], piece, out=sums[start : start + size])
            rows[start + size] = sums[start + size - 1]  # the past of the next piece
        self._rows[0] = rows[number]
        return sums, sums[:, -2] / sums[:, -1]

    def _within(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The sums over the window that ends at each row, and the largest norm in it."""
        length, past = self._averaging.length, self._past
        index = torch.arange(len(rows), device=rows.device)
        age = index[past:].unsqueeze(1) - index
        sums = ((age >= 0) & (age < length)).to(torch.float64) @ rows
        largest = rows[:, -2].unfold(0, length, 1).amax(1)
        self._rows[:past] = rows[len(rows) - past :].clone()
        return sums, largest

    def _pack(self, sums: Tensor, largest: Tensor, out: Tensor) -> None:
        """Write the averages to the rows of ``out``."""
        weight, total, squares, freedom, norm_sum, *_ = sums.split(self._columns, 1)
        weights, means, within, norm_sums, norm_max = self.layout.split(out)
        pooled = squares.sum(1, keepdim=True) / freedom.sum(1, keepdim=True)
        variance = torch.where(freedom > _FORGOTTEN, squares / freedom, pooled)
        present = weight > _FORGOTTEN
        weights.copy_(torch.where(present, weight * _SCALE, 0.0))
        share = torch.where(present, weight, 1.0).reciprocal_().unsqueeze(-1)
        torch.mul(total.unflatten(1, means.shape[1:]), share, out=means)
        within.copy_(torch.where(present, weights * variance, 0.0))
        torch.mul(norm_sum.squeeze(1), _SCALE, out=norm_sums)
        norm_max.copy_(largest)


_AVERAGE = "average/"


def pack_state(
    step: int, num_classes: int, averaging: Averaging, averages: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The state of a tracker for a checkpoint, as a flat dict of tensors.

    Args:
        step: the current step.
        num_classes: K.
        averaging: how batches are averaged.
        averages: the state of each average by name.
    """
    found = {"step": torch.tensor(step), **_settings(num_classes, averaging)}
    return found | {f"{_AVERAGE}{name}": state for name, state in averages.items()}


def unpack_state(
    state: Mapping[str, Tensor], num_classes: int, averaging: Averaging
) -> tuple[int, dict[str, Tensor]]:
    """The step and the averages of a state that `pack_state` returned.

    Args:
        state: the state.
        num_classes: K of the tracker that loads it.
        averaging: how that tracker averages batches.

    Raises:
        ValueError: an entry is missing, unknown or no tensor of its kind, or the state is that of a
            tracker with another number of classes or another ``stream``.
    """
    own = {"step": torch.tensor(0), **_settings(num_classes, averaging)}
    averages = {k: v for k, v in state.items() if str(k).startswith(_AVERAGE)}
    if state.keys() - averages.keys() != own.keys():
        names = sorted(map(str, state.keys()))
        raise ValueError(
            f"Expected argument `state` to have the entries {sorted(own)} and '{_AVERAGE}...' but "
            f"got {names}. Pass what `Tracker.state_dict` returned."
        )
    for name, value in state.items():
        like = own.get(name, torch.zeros(1, dtype=torch.float64))
        if not isinstance(value, Tensor) or (value.dtype, value.ndim) != (like.dtype, like.ndim):
            raise ValueError(
                f"Expected entry {name!r} of `state` to be a tensor of {like.ndim} dimensions and "
                f"{like.dtype} but got {_kind(value)}. Pass what `Tracker.state_dict` returned."
            )
    for name in own.keys() - {"step"}:
        if state[name].item() != own[name].item():
            raise ValueError(
                f"Expected entry {name!r} of `state` to be {own[name].item()}, as this tracker has "
                f"it, but got {state[name].item()}. Make the tracker with the same num_classes and "
                "stream."
            )
    return int(state["step"]), {k.removeprefix(_AVERAGE): v for k, v in averages.items()}


def _settings(num_classes: int, averaging: Averaging) -> dict[str, Tensor]:
    window = averaging.length if averaging.kind == "window" else 0
    return {
        "num_classes": torch.tensor(num_classes),
        "window": torch.tensor(window),
        "decay": torch.tensor(averaging.decay, dtype=torch.float64),
    }


def _kind(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{value.dtype} of shape {tuple(value.shape)}"
    return type(value).__name__
