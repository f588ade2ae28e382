"""The two paths of `Tracker.step`.

`FullStep` measures any batch, with every check, and makes a `FastStep` for further batches of the
same kind. A `FastStep` measures such a batch in one call of the extension, and leaves any other
batch to the full step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor, nn

from ncfast import _validate
from ncfast._arrays import Array
from ncfast.accumulator.rows import as_rows
from ncfast.features.capture import FeatureCapture
from ncfast.features.classifier import Classifier, classifier_of
from ncfast.features.hook import Hook
from ncfast.metrics.arguments import as_parameters
from ncfast.metrics.weights import weight_norm
from ncfast.ops.grouping import Labels, labels_of
from ncfast.ops.weight_norm import NormWriter
from ncfast.tracking import messages
from ncfast.tracking.buffer import MomentsBuffer
from ncfast.tracking.keys import IGNORED, WEIGHT_NORM, KeyPrefixes
from ncfast.tracking.messages import WarnOnce
from ncfast.tracking.recorder import Recorder


class Given(NamedTuple):
    """The arguments of a step, apart from its features."""

    labels: Labels | None
    split: str
    mask: Array | None = None
    weight: Array | None = None
    bias: Array | None = None

    @property
    def has_classifier(self) -> bool:
        """Whether the user passed a classifier."""
        return self.weight is not None or self.bias is not None

    @property
    def usual(self) -> bool:
        """Whether a fast step can take them: labels and a split alone."""
        return self.mask is None and not self.has_classifier


class FullStep:
    """Measures the batch of a step into the buffers of a recorder, and the norm of the weights.

    Args:
        recorder: where the measurements go.
        capture: the features of the tracked layers, or None.
        prefixes: the first parts of the keys.
        kind: what a step measures: "batch", "window" or "ema".
        num_classes: K.
        norm_model: the model whose norm is measured, or None.
        warn: gives each warning once.

    Attributes:
        norm_model: as the argument; None as well after a norm that could not be measured.
        heads: the linear classifier of each layer that has one.
    """

    def __init__(
        self,
        recorder: Recorder,
        capture: FeatureCapture | None,
        prefixes: KeyPrefixes,
        kind: str,
        num_classes: int,
        norm_model: nn.Module | None,
        warn: WarnOnce,
    ) -> None:
        self.norm_model = norm_model
        self._recorder, self._capture, self._prefixes = recorder, capture, prefixes
        self._kind, self._num_classes, self._warn = kind, num_classes, warn
        self._never = recorder.metrics.named_never
        self._named = recorder.metrics.named_of_classifier
        self._reads_classifier = recorder.metrics.wants_classifier
        self.heads: dict[str, nn.Linear] = {}
        if self._reads_classifier and capture is not None:
            self.heads = capture.heads(num_classes)

    def measure(self, step: int, feats: Array | None, given: Given) -> FastStep | None:
        """Measure a batch.

        Args:
            step: the step of the batch.
            feats: (N, D) features; None takes the captured ones.
            given: the other arguments of the step. Without labels there is a warning, and nothing
                is measured.

        Returns:
            The fast step for further batches of this kind; None if they need a full step.

        Raises:
            RuntimeError: no features were passed, and there is no layer to capture them from.
            ValueError, TypeError: an argument does not fit, or a metric asked for by name needs a
                classifier and there is none.
        """
        if self._never:
            id_, why = next(iter(self._never.items()))
            ids = ", ".join(self._never)
            message = messages.NOT_IN_STEPS.format(ids=ids, first=id_, why=why)
            self._warn(step, "metrics of snapshots", message)
        if feats is None:
            return self._measure_captured(step, given)
        try:
            return self._measure_passed(step, feats, given)
        finally:
            if self._capture is not None:
                self._capture.clear()  # the hooks have caught features of the same batch

    def _measure_passed(self, step: int, feats: Array, given: Given) -> FastStep | None:
        if given.labels is None:
            self._warn(step, "labels", messages.NO_LABELS)
            return None
        self._check_classifier(given, ())
        buffer = self._push(step, "", feats, given)
        return self._fast_step(given.split, None, buffer) if given.usual else None

    def _measure_captured(self, step: int, given: Given) -> FastStep | None:
        if self._capture is None:
            raise RuntimeError(
                "Expected argument `feats`, because the Tracker has no model or no layers to "
                "capture from, but got None. Pass the features to step, or a model to the Tracker."
            )
        split, labels = given.split, given.labels
        calls, out_of_mode = self._capture.repeated(), self._capture.out_of_mode(split)
        features, errors = self._capture.take()
        if labels is None:
            self._warn(step, "labels", messages.NO_LABELS)
            return None
        self._check_classifier(given, self._capture.names)
        fast: FastStep | None = None
        hook = self._capture.direct_hook if given.usual else None
        for layer, feats in features.items():
            try:
                buffer = self._push(step, layer, feats, given)
            except (TypeError, ValueError) as error:
                errors[layer] = error
                continue
            fast = self._fast_step(split, hook, buffer, self.heads.get(layer)) if hook else None
        for layer in out_of_mode:
            if layer not in errors:
                self._warn(step, f"mode {layer}", messages.OTHER_MODE.format(layer=layer))
        self.warn_of_layers(step, errors, calls)
        return fast

    def _check_classifier(self, given: Given, layers: Sequence[str]) -> None:
        """Raise ValueError for a classifier that belongs to no layer, or one that is missing."""
        passed = given.has_classifier
        if passed and len(layers) > 1:
            raise ValueError(
                "Expected no argument `weight` beside several captured layers, but got one. Track "
                "the inputs of the linear layers, or pass the features of one layer as `feats`."
            )
        named = self._named
        if named and not passed and not any(layer in self.heads for layer in layers):
            raise ValueError(
                f"Expected argument `weight`, the classifier that the metric {named[0]!r} reads, "
                "but got None. Pass weight= and bias= to step, or track the input of an nn.Linear "
                f"with {self._num_classes} rows."
            )

    def _push(self, step: int, layer: str, feats: Array, given: Given) -> MomentsBuffer | None:
        assert given.labels is not None
        rows, labels, mask = _rows(feats, given.labels, given.mask)
        if _validate.is_pair_without_rows(rows, labels):
            self._warn(step, "rows", messages.NO_ROWS)
            return None
        rows, labels = _validate.check_pair(rows, labels)
        return self._recorder.buffers.push(
            step,
            self._prefixes.prefix(self._kind, given.split, layer, step),
            rows,
            labels,
            mask=mask,
            classifier=self._classifier(layer, rows, given),
            left_out_key=f"{self._prefixes.prefix(self._kind, given.split, '', step)}/{IGNORED}",
        )

    def _classifier(self, layer: str, feats: Tensor, given: Given) -> Classifier | None:
        """The classifier that was passed, or that of the layer; None if no metric reads one."""
        if not self._reads_classifier:
            return None
        if not given.has_classifier:
            return classifier_of(self.heads.get(layer), feats)
        weight, bias = as_parameters(given.weight, given.bias, self._num_classes, feats.shape[1])
        assert weight is not None
        return Classifier(weight.to(feats.device), None if bias is None else bias.to(feats.device))

    def _fast_step(
        self,
        split: str,
        hook: Hook | None,
        buffer: MomentsBuffer | None,
        head: nn.Linear | None = None,
    ) -> FastStep | None:
        """The fast step for further batches of a buffer."""
        push = None if buffer is None else buffer.fast_push(head)
        if push is None:
            return None
        norm_model, capture = self.norm_model, self._capture
        return FastStep(
            split,
            push,
            hook,
            norm=() if norm_model is None else (self._recorder.norms.writer, norm_model),
            clear=None if capture is None else capture.clear,
            min_rank=-1 if capture is None else capture.highest_rank(split),
        )

    def warn_of_layers(
        self, step: int, errors: Mapping[str, Exception], calls: Mapping[str, int]
    ) -> None:
        """Warn of layers that could not be measured, ran several times, or pooled padding."""
        for layer, number in calls.items():
            message = messages.REPEATED.format(layer=layer, number=number)
            self._warn(step, f"calls {layer}", message)
        for layer in () if self._capture is None else self._capture.unknown_padding:
            self._warn(step, f"padding {layer}", messages.PADDING.format(layer=layer))
        for layer, error in errors.items():
            self._warn(step, f"layer {layer}", f"Layer {layer!r} is not measured: {error}")

    def measure_norm(self, step: int) -> bool:
        """Measure the norm of the weights once a step.

        Returns:
            False if a fast step cannot measure the next norm.
        """
        if self.norm_model is None:
            return True
        recorder, point = self._recorder, self._recorder.point
        # the weights do not change within a step, so all splits share one value
        if point is not None and point.step == step and WEIGHT_NORM in point.values:
            return False
        if recorder.norms.push(step, self.norm_model):
            return True
        try:
            norm = weight_norm(self.norm_model)
        except (TypeError, ValueError) as error:
            self.norm_model = None
            self._warn(step, WEIGHT_NORM, f"{WEIGHT_NORM} is not measured: {error}")
        else:
            recorder.open_point(step).values[WEIGHT_NORM] = norm
        return False


def _rows(feats: Array, labels: Labels, mask: Array | None) -> tuple[Array, Array, Tensor | None]:
    """Features, labels and mask; those of tokens (B, T, D), or with a mask, are flattened."""
    labels = labels_of(labels)
    if mask is None and getattr(labels, "ndim", 1) < 2:
        return feats, labels, None
    return as_rows(feats, labels, mask)


class FastStep:
    """Measures batches of one split into one buffer.

    A full step records where its batch was written; later batches of the same kind reuse that
    route. A batch of another kind changes nothing here, and a full step measures it. Training
    leaves the caches cold, so fetching the code takes most of the time of a step.

    Args:
        split: the first part of the keys.
        push: measures a batch, see `MomentsBuffer.fast_push`.
        hook: the hook that holds the features; None if they are passed in.
        norm: the writer of the norms and the model whose norm is measured; empty for no norm.
        clear: called after a batch that was passed in, to drop the features that hooks hold.
        min_rank: the rank of the calls that are measured (see `Hook`). A full step takes calls of
            a lower rank.
    """

    __slots__ = ("_clear", "_hook", "_min_rank", "_norm", "_push", "_split")

    def __init__(
        self,
        split: str,
        push: Callable[..., bool],
        hook: Hook | None = None,
        *,
        norm: tuple[NormWriter | None, nn.Module] | tuple[()] = (),
        clear: Callable[[], None] | None = None,
        min_rank: int = -1,
    ) -> None:
        self._split, self._push, self._hook = split, push, hook
        self._norm, self._clear, self._min_rank = norm, clear, min_rank

    def __call__(self, step: int, labels: Labels | None, feats: Array | None, split: str) -> bool:
        """Measure the batch of ``step``; False, with nothing changed, if a full step must do it."""
        hook = self._hook
        if split != self._split or (feats is None) is (hook is None):
            return False
        if hook is None:
            done = self._push(step, feats, labels, *self._norm)
            if done and self._clear is not None:
                self._clear()
            return done
        value, version = hook.value, hook.version
        if value is None or hook.calls > hook.max_calls or hook.rank < self._min_rank:
            return False
        if version >= 0 and value._version != version:
            return False
        if not self._push(step, value, labels, *self._norm):
            return False
        if hook.compiled:
            hook.clear()
        else:  # the part of `clear` that an uncompiled call needs
            hook.value, hook.rank = None, -1
        return True
