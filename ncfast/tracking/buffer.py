"""Keeps the moments of the last batches, and what goes with them, until they are sent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from ncfast import _validate
from ncfast.features.classifier import Classifier, classifier_of
from ncfast.metrics.catalogue import CATALOGUE
from ncfast.metrics.inputs import MetricInputs, RowSums
from ncfast.metrics.metric import evaluate
from ncfast.metrics.needs import LOOKS
from ncfast.metrics.second_look import SecondLook
from ncfast.moments import ClassMoments, class_moments
from ncfast.ops import _raw, select
from ncfast.ops.kept_rows import checked_keys
from ncfast.ops.moments import cpu as cpu_moments
from ncfast.ops.scatter import SCATTER
from ncfast.ops.states import Layout, RowWriter, pack, parameter_copier
from ncfast.ops.update import UPDATE
from ncfast.tracking.averaging import Averaging, running_average
from ncfast.tracking.records import LeftOut
from ncfast.tracking.shutdown import defer_signals

# writes a value to the row of the batch: the row that the host counts, or in a CUDA graph the one
# that the device counts
Put = Callable[[Tensor, Tensor], None]

ROWS = 128  # most rows of a buffer
_FEWEST_SLOTS = 128  # so few classes cost little, present or not
_BYTES = 1 << 25  # most memory of a buffer: with large moments it has fewer rows


def slots_for(rows: int, num_classes: int) -> int:
    """The classes that a row holds for batches of ``rows``: K, or fewer if a batch has few rows."""
    slots = max(_FEWEST_SLOTS, 1 << (rows - 1).bit_length())
    return slots if 2 * slots <= num_classes else num_classes


class MomentsBuffer:
    """Packed moments of the batches of one layer that are not evaluated yet.

    The buffer is on the device of the features, and `push` reads nothing of an accelerator. On the
    CPU the extension writes a row in place, and `fast_writer`, if there is one, does an ordinary
    push in one call. On other devices a push copies a row to a position that the device counts: a
    CUDA graph that holds a push writes the next row at each replay.

    Args:
        prefix: the first part of the keys, such as "train".
        ids: the metrics of a record, in its order.
        layout: the layout of the packed moments. With fewer classes than K, a row holds the classes
            of its batch, in any order.
        device: the device of the features.
        averaging: how batches are averaged.
        of_batch: the ids that are computed at the step, from the features of its batch.
        classifier: has the shapes and dtypes of the classifiers to keep beside the moments; None
            keeps none.
        ignore_index: rows with this label are left out; None leaves out none.
        left_out_key: the key for the number of rows that were left out.
        num_classes: K; None is that of the layout.

    Attributes:
        keys: the key of each of ``ids``.
        steps: the step of each filled row.
        of_states: the ids that are evaluated from the moments and the classifiers.
        extras: the data of each row beside its moments.
        captured: whether a CUDA graph holds a push.
        evaluated_layout: the layout of the rows once they are averaged.
        evaluated_with: equal for buffers whose rows can be evaluated in one call.
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
        self.capacity = max(1, min(ROWS, _BYTES // size))
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
        self.evaluated_layout = layout if self._average is None else self._average.layout
        parts = () if classifier is None else classifier
        kept = [None if part is None else part.dtype for part in parts]
        self.evaluated_with = (self.evaluated_layout, device, self.of_states, *kept)
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
        """Write the moments of a batch, and the data beside them, to the next row.

        Args:
            step: the step of the batch.
            feats: (N, D) features, which the caller has checked.
            labels: (N,) class indices on the same device.
            mask: (N,) bool; rows where it is False are left out.
            classifier: the classifier of the step.

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
        self.steps.append(step)  # last: a push that an exception interrupts leaves no empty row

    def _put(self, into: Tensor, value: Tensor) -> None:
        into[self.number] = value

    def _put_at_position(self, into: Tensor, value: Tensor) -> None:
        into.index_copy_(0, self._position, value.to(into.dtype).unsqueeze(0))

    def _moments_of_row(self, row: int) -> ClassMoments:
        """Views of a row, which are made once."""
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
        """Merge a batch into an empty row, without a copy; return the number of rows left out."""
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
        """Let the extension write the row; False if it cannot, or if rows must be left out."""
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
        """Features and labels; rows that are left out become zeros with the label K."""
        k = self.layout.classes
        labels, _, _ = checked_keys(labels, k, mask, self._ignore_index)
        return torch.where((labels == k).unsqueeze(1), 0, feats), labels

    def fast_push(self, head: nn.Linear | None) -> Callable[..., bool] | None:
        """A function that fills the next row in one call, as `FastRowWriter.push` does.

        A row counts once all of it is written, so no row has the classifier or the metrics of an
        earlier block. If a signal handler flushes in between, a full step measures the batch.

        Args:
            head: the classifier of the layer; None if there is none.

        Returns:
            None if only a full step can write such rows.
        """
        writer, extras = self.fast_writer, self.extras
        if writer is None or (extras.keeps and head is None):
            return None
        if not (extras.keeps or extras.measures):
            return writer.push
        copy = extras.copier(head) if extras.keeps and head is not None else None
        measure = self._measurer(head) if extras.measures else None

        def push(step: int, feats: Tensor, labels: Tensor, *norm: object) -> bool:
            row = self.number
            if copy is not None and not copy(row):
                return False
            if not writer.fill(feats, labels):
                return False
            if measure is not None and not measure(row, feats, labels):
                return False
            return writer.count(step, row, *norm)

        return push

    def _measurer(self, head: nn.Linear | None) -> Callable[[int, Tensor, Tensor], bool]:
        """A function that computes the metrics of a batch, whose moments are in a row.

        It returns False if a full step must do it: the classifier has other parameters than before,
        or the row has been sent meanwhile.
        """
        has_bias = _has_bias(classifier_of(head))

        def measure(row: int, feats: Tensor, labels: Tensor) -> bool:
            now = classifier_of(head, feats)
            if (now is None) is not (head is None) or _has_bias(now) is not has_bias:
                return False
            inputs = MetricInputs(self._moments_of_row(row), feats, labels)
            self.extras.measure(self._put, inputs, now, False)
            return self.number == row

        return measure

    def replayed(self, step: int) -> None:
        """Count the push of a CUDA graph that was replayed."""
        self.steps.append(step)

    def clear(self) -> None:
        """Forget all rows."""
        del self.steps[:]  # the fast writer holds the same list
        self.extras.clear()
        self._averaged = 0
        self._position.zero_()

    def averaged(self, states: Tensor) -> Tensor:
        """The rows to evaluate, in the layout `evaluated_layout`.

        An average overwrites the rows of ``states``. A second call before `clear` does not average
        them again.

        Args:
            states: the packed moments of the filled rows.
        """
        if self._average is not None and self._averaged < len(states):
            with defer_signals():
                self._average.update(states[self._averaged :])
                self._averaged = len(states)
        return states

    @property
    def key(self) -> str:
        """The name of the average in a state_dict."""
        return f"{self.prefix}:{self.layout.dim}"

    def average_state(self) -> dict[str, Tensor]:
        """The state of the average by `key`; empty without one. No row may be left to send."""
        return {} if self._average is None else {self.key: self._average.state()}

    def load_average(self, state: Tensor | None) -> None:
        """Continue from a state of `average_state`; None starts an empty average.

        Raises:
            ValueError: the state does not fit the average on this device.
        """
        if self._average is not None:
            self._average = running_average(self._averaging, self.layout, self.device)
            if state is not None:
                self._average.load(state)

    def left_out(self, rows: Tensor) -> LeftOut | None:
        """The numbers of rows that were left out; None if no batch has left out a row.

        Args:
            rows: the rows that `averaged` returned.
        """
        if not self.extras.leaves_out:
            return None
        kept = self.evaluated_layout.split(rows)[0].sum(-1).to(torch.float64)
        numbers = torch.stack([self.extras.left_out[: len(rows)], kept], 1)
        return LeftOut(self.left_out_key, numbers)

    def joined(self, of_states: Tensor) -> Tensor:
        """The metrics of a record in its order, (n, len(ids)).

        Args:
            of_states: (n, len(self.of_states)) those that were evaluated from the rows.
        """
        if self._order is None:
            return of_states
        both = torch.cat([of_states, self.extras.values[: len(of_states)]], 1)
        return both[:, self._order]


def _has_bias(classifier: Classifier | None) -> bool:
    return classifier is not None and classifier.bias is not None


def _capturing(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


class Extras:
    """The data of each row of a buffer beside its moments: classifiers, values, numbers of rows.

    Args:
        capacity: the number of rows.
        device: the device of the features.
        ids: metrics that are computed at the step, from the features of its batch.
        classifier: has the shapes and dtypes of the classifiers to keep; None keeps none.

    Attributes:
        values: (capacity, len(ids)) float64; NaN in rows that are not filled.
        left_out: (capacity,) float64 rows that a mask or ``ignore_index`` left out.
        leaves_out: whether some entry of ``left_out`` may not be zero.
        weights: (capacity, K, D) in the classifier's dtype, or None.
        biases: (capacity, K), or None.
    """

    def __init__(
        self,
        capacity: int,
        device: torch.device,
        ids: tuple[str, ...] = (),
        classifier: Classifier | None = None,
    ) -> None:
        self._metrics = {id_: CATALOGUE[id_] for id_ in ids}
        shape = (capacity, len(ids))
        self.values = torch.full(shape, torch.nan, dtype=torch.float64, device=device)
        self.left_out = torch.zeros(capacity, dtype=torch.float64, device=device)
        self.leaves_out = False
        kept = [None, None] if classifier is None else [*classifier]
        self.weights, self.biases = (
            None
            if part is None
            else torch.empty((capacity, *part.shape), dtype=part.dtype, device=device)
            for part in kept
        )

    @property
    def measures(self) -> bool:
        """Whether `measure` computes anything."""
        return bool(self._metrics)

    @property
    def keeps(self) -> bool:
        """Whether rows hold the classifier of their step."""
        return self.weights is not None

    def keep(self, put: Put, classifier: Classifier | None) -> None:
        """Copy the classifier of a step."""
        if self.weights is not None and classifier is not None:
            put(self.weights, classifier.weight)
            if self.biases is not None and classifier.bias is not None:
                put(self.biases, classifier.bias)

    def copier(self, head: nn.Linear) -> Callable[[int], bool]:
        """A function that copies the parameters of a classifier to a row.

        It returns False, with nothing copied, if they do not fit; a full step must check them then.
        """
        assert self.weights is not None
        parameters, copy_weight = head._parameters, parameter_copier(self.weights)
        copy_bias = None if self.biases is None else parameter_copier(self.biases)

        def copy(row: int) -> bool:
            weight, bias = parameters.get("weight"), parameters.get("bias")
            if weight is None:  # computed from others, see `weight_of`
                return False
            if (bias is None) is not (copy_bias is None) or not copy_weight(row, weight):
                return False
            return bias is None or copy_bias is None or copy_bias(row, bias)

        return copy

    @torch.no_grad()
    def measure(
        self, put: Put, inputs: MetricInputs, classifier: Classifier | None, leaves_out: bool
    ) -> None:
        """Compute the metrics of a batch.

        Args:
            put: see `Put`.
            inputs: the moments, features and labels of the batch.
            classifier: the classifier of the step, or None.
            leaves_out: whether rows may be left out; they are zeros with the label K.
        """
        if not self._metrics:
            return
        if classifier is not None:
            inputs.weight = classifier.weight.to(torch.float64)
            inputs.bias = None if classifier.bias is None else classifier.bias.to(torch.float64)
        inputs = self._without_rows_left_out(inputs) if leaves_out else inputs
        values = evaluate(self._metrics, inputs).values()
        put(self.values, torch.stack([*values]))

    def _without_rows_left_out(self, inputs: MetricInputs) -> MetricInputs:
        """The inputs with sums over the other rows in place of the features and labels."""
        (feats, labels), means = inputs.samples, inputs.moments.means
        scatter = None
        if any("scatter" in metric.needs for metric in self._metrics.values()):
            with_none = torch.cat([means, means.new_zeros((1, means.shape[1]))])
            scatter = SCATTER.select("auto", feats)(feats, labels, with_none)
        sums = RowSums(scatter=scatter)
        inputs = replace(inputs, feats=None, labels=None, sums=sums, _results={})
        uses = frozenset[str]().union(*(metric.uses for metric in self._metrics.values()))
        look = SecondLook(inputs, uses & LOOKS)
        look.add(feats, labels, labels != inputs.moments.num_classes, None)
        return replace(inputs, sums=look.row_sums(), _results={})

    def leave_out(self, put: Put, number: Tensor) -> None:
        """Note how many rows of a batch were left out, () of any dtype."""
        self.leaves_out = True
        put(self.left_out, number)

    def merge_left_out(self, numbers: Tensor) -> None:
        """Replace the first entries of `left_out` by those of all ranks."""
        self.leaves_out = True
        self.left_out[: len(numbers)] = numbers

    def classifiers(self, rows: int) -> Classifier:
        """The classifiers of the first rows, (rows, K, D) and (rows, K)."""
        assert self.weights is not None
        return Classifier(self.weights[:rows], None if self.biases is None else self.biases[:rows])

    def clear(self) -> None:
        """Forget all rows."""
        if self._metrics:
            self.values.fill_(torch.nan)
        if self.leaves_out:  # a fast step does not write it
            self.left_out.zero_()
            self.leaves_out = False
