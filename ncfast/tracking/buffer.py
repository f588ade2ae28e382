"""Keeps the moments of the last batches, and the norms of the weights, until they are sent."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ncfast import _validate
from ncfast.features.classifier import Classifier, classifier_of
from ncfast.metrics.inputs import MetricInputs
from ncfast.moments import ClassMoments, class_moments
from ncfast.ops import _raw, select
from ncfast.ops.kept_rows import checked_keys
from ncfast.ops.moments import cpu as cpu_moments
from ncfast.ops.states import Layout, RowWriter, pack, parameter_copier
from ncfast.ops.update import UPDATE
from ncfast.ops.weight_norm import norm_writer
from ncfast.tracking.averaging import Averaging, running_average
from ncfast.tracking.extras import Extras
from ncfast.tracking.keys import WEIGHT_NORM
from ncfast.tracking.records import Table
from ncfast.tracking.shutdown import defer_signals

_ROWS = 128
_FEWEST_SLOTS = 128  # so few classes cost little, present or not
_BYTES = 1 << 25  # most memory of a buffer: with large moments it has fewer rows


def slots_for(rows: int, num_classes: int) -> int:
    """How many classes a row holds for batches of so many rows: K, or fewer where they fill few."""
    slots = max(_FEWEST_SLOTS, 1 << (rows - 1).bit_length())
    return slots if 2 * slots <= num_classes else num_classes


class MomentsBuffer:
    """Packed moments of the batches of one layer that are not evaluated yet.

    The buffer lies on the device of the features, and `push` reads nothing on the host. On the CPU
    the extension writes a row in place, and `fast_writer`, where there is one, does an ordinary
    push in a single call. On other devices a push copies a row to a position that is kept on the
    device: a CUDA graph that holds a push writes the next row at each replay.

    Args:
        prefix: the first part of the keys, such as "train".
        ids: the metrics of a record, in its order.
        layout: the layout of the packed moments. With fewer classes than K, a row holds the classes
            of its batch, in any order.
        device: the device of the features.
        averaging: how batches are averaged.
        of_batch: those of ``ids`` that are computed from the features of each batch, at once.
        classifier: tells the shapes and dtypes of the classifiers that are kept beside the moments;
            None keeps none.
        ignore_index: rows with this label are left out; None leaves out none.
        left_out_key: the key for the number of rows that were left out.
        num_classes: K; None is that of the layout.

    Attributes:
        steps: the step of each filled row.
        of_states: those of ``ids`` that are evaluated from the moments and the classifiers.
        extras: what a row holds beside the moments.
        captured: whether a CUDA graph holds a push.
        fast_writer: the extension's writer of whole rows, or None.
    """

    def __init__(
        self,
        prefix: str,
        ids: Sequence[str],
        layout: Layout,
        device: torch.device,
        averaging: Averaging,
        *,
        of_batch: Sequence[str] = (),
        classifier: Classifier | None = None,
        ignore_index: int | None = None,
        left_out_key: str = "",
        num_classes: int | None = None,
    ) -> None:
        self._num_classes = layout.classes if num_classes is None else num_classes
        self._holds_present = layout.classes < self._num_classes
        self.prefix, self.layout, self.device = prefix, layout, device
        self.keys = [f"{prefix}/{id_}" for id_ in ids]
        self.of_states = tuple(id_ for id_ in ids if id_ not in of_batch)
        columns = [*self.of_states, *of_batch]
        self._order = [columns.index(id_) for id_ in ids] if of_batch else None
        self.left_out_key, self._ignore_index = left_out_key, ignore_index
        size = 8 * layout.size + (0 if classifier is None else classifier.weight.nbytes)
        self.capacity = max(1, min(_ROWS, _BYTES // size))
        self.extras = Extras(self.capacity, device, tuple(of_batch), classifier)
        self.steps: list[int] = []
        self.captured = False
        shape = (self.capacity, layout.size)
        self.states = torch.zeros(shape, dtype=torch.float64, device=device)
        self._moments: dict[int, ClassMoments] = {}
        self._position = torch.zeros(1, dtype=torch.int64, device=device)
        self._averaged = 0  # leading rows that hold averages already
        averages, self._averaging = averaging.kind != "batch", averaging
        self._average = running_average(averaging, layout, device) if averages else None
        fast = _raw.extension is not None and type(self.states) is Tensor and device.type == "cpu"
        self._rows = RowWriter(self.states, layout, num_classes) if fast else None
        self.fast_writer = self._rows.fast_writer(self.steps) if self._rows is not None else None

    @property
    def number(self) -> int:
        """The number of filled rows."""
        return len(self.steps)

    @property
    def full(self) -> bool:
        """Whether the rows must be sent before the next push."""
        return self.number >= self.capacity

    def push(
        self,
        step: int,
        feats: Tensor,
        labels: Tensor,
        mask: Tensor | None = None,
        classifier: Classifier | None = None,
    ) -> None:
        """Write the moments of a batch, and what goes with them, to the next row.

        Args:
            step: the step of the batch.
            feats: (N, D) features, which the caller has checked.
            labels: (N,) class indices on the same device.
            mask: (N,) bool; rows where it is False are left out.
            classifier: of the step.

        Raises:
            ValueError: a label on the CPU is out of range and not left out.
        """
        captures, leaves_out = _capturing(self.device), False
        put = self._put_at_position if captures else self._put
        if mask is None and self._written(feats, labels):
            moments = self._moments_of_row(self.number) if self.extras.measures else None
        else:
            leaves_out = mask is not None or self._may_leave_out(labels)
            row, moments = None, None
            if self._holds_present or (leaves_out and self._updates_row(feats)):
                number = self._update_row(feats, labels, mask)
                if leaves_out:
                    self.extras.leave_out(put, number)
            elif leaves_out:
                row, number = self._of_the_rest(feats, labels, mask)
                self.extras.leave_out(put, number)
                moments = ClassMoments(*self.layout.split(row))
                if self.extras.measures:
                    feats, labels = self._rest(feats, labels, mask)
            else:
                moments = class_moments(feats, labels, num_classes=self.layout.classes)
                row = pack(moments)
            if row is not None:
                put(self.states, row)
        self.extras.keep(put, classifier)
        if moments is not None and self.extras.measures:
            self.extras.measure(put, MetricInputs(moments, feats, labels), classifier, leaves_out)
        if captures:
            self._position.add_(1)
            self.captured = True
            return
        if self._rows is None:
            self._position.fill_(self.number + 1)
        self.steps.append(step)

    # A push that an exception interrupts before its step is appended leaves no empty row.

    def _put(self, into: Tensor, value: Tensor) -> None:
        into[self.number] = value

    def _put_at_position(self, into: Tensor, value: Tensor) -> None:
        into.index_copy_(0, self._position, value.to(into.dtype).unsqueeze(0))

    def _moments_of_row(self, row: int) -> ClassMoments:
        """Views of a row. They stay valid: the views of a step are made once."""
        found = self._moments.get(row)
        if found is None:
            found = self._moments[row] = ClassMoments(*self.layout.split(self.states[row]))
        return found

    def _updates_row(self, feats: Tensor) -> bool:
        """Whether `_update_row` can measure a batch, for a row that holds moments alone."""
        usable = self._rows is not None and select("auto", feats) is cpu_moments
        return usable and not self.extras.measures

    @torch.no_grad()
    def _update_row(self, feats: Tensor, labels: Tensor, mask: Tensor | None) -> Tensor:
        """Merge a batch into an empty row, without a copy; the number of rows left out, ()."""
        ignore_index = self._ignore_index
        if self._holds_present:
            keys, left_out, _ = checked_keys(labels, self._num_classes, mask, ignore_index)
            labels, mask = keys.unique(return_inverse=True)[1], keys < self._num_classes
            ignore_index, counted = None, None
        else:
            left_out = counted = _raw.INT64.new_zeros(())
        self.states[self.number].zero_()
        UPDATE.select("auto", feats)(
            feats,
            labels,
            self._moments_of_row(self.number),
            mask=mask,
            ignore_index=ignore_index,
            ignored=counted,
        )
        return left_out

    def _written(self, feats: Tensor, labels: Tensor) -> bool:
        """Let the extension write the row; False if it cannot, or if rows are to be left out."""
        if self._rows is None or select("auto", feats) is not cpu_moments:
            return False
        if not self._rows.write(self.number, feats, labels):
            return False
        if self._rows.is_nan(self.number):  # from a label out of range, or from a feature
            if self._may_leave_out(labels):
                return False
            _validate.check_label_values(labels, self.layout.classes)
        return True

    def _may_leave_out(self, labels: Tensor) -> bool:
        """Whether `ignore_index` is among the labels; on an accelerator, whether it may be."""
        if self._ignore_index is None:
            return False
        on_host = _validate.is_on_host(labels)
        return not on_host or bool((_raw.as_int64(labels) == self._ignore_index).any())

    @torch.no_grad()
    def _of_the_rest(
        self, feats: Tensor, labels: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The packed moments without the rows that are left out, and their number, ()."""
        size = self.layout.size
        row, number = self.states.new_zeros(size + 1).split((size, 1))
        ignored = number.view(torch.int64).squeeze(0)
        moments = ClassMoments(*self.layout.split(row))
        options = {"mask": mask, "ignore_index": self._ignore_index, "ignored": ignored}
        UPDATE.select("auto", feats)(feats, labels, moments, **options)
        return row, ignored

    @torch.no_grad()
    def _rest(self, feats: Tensor, labels: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Features and labels where the rows that are left out are zeros of a class K."""
        k = self.layout.classes
        labels, _, _ = checked_keys(labels, k, mask, self._ignore_index)
        return torch.where((labels == k).unsqueeze(1), 0, feats), labels

    def fast_copy(self, head: nn.Linear) -> Callable[[int], bool]:
        """A function that copies the parameters of a classifier to a row.

        It returns False, with nothing copied, if they do not fit; a full step must look then.
        """
        weights, biases = self.extras.weights, self.extras.biases
        assert weights is not None
        parameters, copy_weight = head._parameters, parameter_copier(weights)
        copy_bias = None if biases is None else parameter_copier(biases)

        def copy(row: int) -> bool:
            weight, bias = parameters.get("weight"), parameters.get("bias")
            if weight is None:  # computed from others, see `weight_of`
                return False
            if (bias is None) is not (copy_bias is None) or not copy_weight(row, weight):
                return False
            return bias is None or copy_bias is None or copy_bias(row, bias)

        return copy

    def fast_measure(self, head: nn.Linear | None) -> Callable[[int, Tensor, Tensor], bool]:
        """A function that computes the metrics of a batch, whose moments are in a row.

        It returns False if a full step must look: at a classifier that is not as it was.
        """
        before = classifier_of(head)

        def measure(row: int, feats: Tensor, labels: Tensor) -> bool:
            now = classifier_of(head, feats)
            if (now is None) is not (head is None):
                return False
            if (
                now is not None
                and before is not None
                and (now.bias is None) != (before.bias is None)
            ):
                return False
            inputs = MetricInputs(self._moments_of_row(row), feats, labels)
            self.extras.measure(self._put, inputs, now, False)
            return self.number == row

        return measure

    def replayed(self, step: int) -> None:
        """Count the push of a CUDA graph that was replayed."""
        self.steps.append(step)

    def rows(self) -> tuple[list[int], Tensor]:
        """The steps and the packed moments of the filled rows, oldest first."""
        return self.steps[:], self.states[: self.number]

    def clear(self) -> None:
        """Start again with the first row."""
        del self.steps[:]  # the fast writer holds the same list
        self.extras.clear()
        self._averaged = 0
        self._position.zero_()

    def averaged(self, states: Tensor) -> tuple[Tensor, Layout]:
        """The states to evaluate, and their layout.

        An average overwrites the rows of ``states``. A second call before `clear` does not average
        them again.

        Args:
            states: the packed moments that `rows` returned.
        """
        if self._average is None:
            return states, self.layout
        if self._averaged < len(states):
            with defer_signals():
                self._average.update(states[self._averaged :])
                self._averaged = len(states)
        return states, self._average.layout

    @property
    def key(self) -> str:
        """The name of the average in a state_dict."""
        return f"{self.prefix}:{self.layout.dim}"

    def average_state(self) -> dict[str, Tensor]:
        """The state of the average by `key`; empty without one. All rows must have been sent."""
        return {} if self._average is None else {self.key: self._average.state()}

    def load_average(self, state: Tensor | None) -> None:
        """Continue from a state of `average_state`; None starts an empty average.

        Raises:
            ValueError: the average on this device has no such state.
        """
        if self._average is not None:
            self._average = running_average(self._averaging, self.layout, self.device)
            if state is not None:
                self._average.load(state)

    def joined(self, of_states: Tensor) -> Tensor:
        """The metrics of a record in its order, (n, len(ids)).

        Args:
            of_states: (n, len(self.of_states)) those that were evaluated from the rows.
        """
        if self._order is None:
            return of_states
        both = torch.cat([of_states, self.extras.values[: len(of_states)]], 1)
        return both[:, self._order]


class NormBuffer:
    """Norms of the weights that the extension has measured and that are not sent yet.

    Each norm reads the parameters that the model has at that step.

    Attributes:
        steps: the step of each norm.
        writer: the extension's writer, which measures and stores a norm in one call, or None.
    """

    def __init__(self) -> None:
        self.steps: list[int] = []
        self._values = torch.zeros(_ROWS, dtype=torch.float64, device="cpu")
        self.writer = norm_writer(_raw.extension, self._values, self.steps)

    @property
    def full(self) -> bool:
        """Whether the norms must be sent before the next one."""
        return len(self.steps) >= _ROWS

    def push(self, step: int, model: nn.Module) -> bool:
        """Measure the norm at ``step``, once; False if the extension cannot, and torch must."""
        if self.steps and self.steps[-1] == step:
            return True
        return self.writer is not None and self.writer.push(step, model)

    def table(self) -> list[Table]:
        """The norms since the last `clear`: one table, or none."""
        if not self.steps:
            return []
        steps = self.steps[:]
        values = self._values[: len(steps)].unsqueeze(1).clone()  # later norms overwrite them
        return [Table([WEIGHT_NORM], steps, values)]

    def clear(self) -> None:
        """Forget the norms."""
        del self.steps[:]  # the writer holds the same list


def _capturing(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()
