"""The full path of `Tracker.step`: any batch, with every check, and the fast path it prepares."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from ncfast import _validate
from ncfast._arrays import Array
from ncfast.metrics.weights import weight_norm
from ncfast.ops.grouping import Labels, labels_of
from ncfast.tracking import messages
from ncfast.tracking.buffer import MomentsBuffer
from ncfast.tracking.capture import FeatureCapture
from ncfast.tracking.fast_step import FastStep
from ncfast.tracking.hook import Hook
from ncfast.tracking.keys import WEIGHT_NORM, KeyPrefixes
from ncfast.tracking.messages import WarnOnce
from ncfast.tracking.recorder import Recorder


class FullStep:
    """Measures the batch of a step into the buffers of a recorder, and the norm of the weights.

    Args:
        recorder: where the measurements go.
        capture: the features of the tracked layers, or None.
        prefixes: the first parts of the keys.
        kind: what a step measures: "batch", "window" or "ema".
        norm_model: the model whose norm is measured, or None.
        warn: gives each warning once.

    Attributes:
        norm_model: None also after a norm that could not be measured.
    """

    def __init__(
        self,
        recorder: Recorder,
        capture: FeatureCapture | None,
        prefixes: KeyPrefixes,
        kind: str,
        norm_model: nn.Module | None,
        warn: WarnOnce,
    ) -> None:
        self.norm_model = norm_model
        self._recorder, self._capture, self._prefixes = recorder, capture, prefixes
        self._kind, self._warn = kind, warn

    def measure(
        self, step: int, labels: Labels | None, feats: Array | None, split: str
    ) -> FastStep | None:
        """Measure a batch.

        Args:
            step: the step of the batch.
            labels: (N,) class indices; None warns, and measures nothing.
            feats: (N, D) features; None takes the captured ones.
            split: the first part of the keys.

        Returns:
            The fast step for further batches of this kind; None if they need the full step.

        Raises:
            RuntimeError: there are neither features nor a model to capture them from.
            ValueError, TypeError: ``feats`` or ``labels`` do not fit.
        """
        if feats is None:
            return self._measure_captured(step, labels, split)
        try:
            return self._measure_passed(step, labels, feats, split)
        finally:
            if self._capture is not None:
                self._capture.clear()  # the features that the hooks caught of the same batch

    def _measure_passed(
        self, step: int, labels: Labels | None, feats: Array, split: str
    ) -> FastStep | None:
        if labels is None:
            self._warn(step, "labels", messages.NO_LABELS)
        elif _validate.is_pair_without_rows(feats, labels_of(labels)):
            self._warn(step, "rows", messages.NO_ROWS)
        else:
            return self._fast_step(split, None, self._push(step, split, "", feats, labels))
        return None

    def _measure_captured(self, step: int, labels: Labels | None, split: str) -> FastStep | None:
        if self._capture is None:
            raise RuntimeError(
                "Expected argument `feats`, because the Tracker has no model to capture from, but "
                "got None. Pass the features to step, or a model to the Tracker."
            )
        calls, out_of_mode = self._capture.repeated(), self._capture.out_of_mode(split)
        features, errors = self._capture.take()
        if labels is None:
            self._warn(step, "labels", messages.NO_LABELS)
            return None
        fast: FastStep | None = None
        hook = self._capture.direct_hook
        for layer, feats in features.items():
            try:
                buffer = self._push(step, split, layer, feats, labels)
            except (TypeError, ValueError) as error:
                errors[layer] = error
                continue
            fast = self._fast_step(split, hook, buffer) if hook is not None else None
        for layer in out_of_mode:
            if layer not in errors:
                self._warn(step, f"mode {layer}", messages.OTHER_MODE.format(layer=layer))
        self.warn_of_layers(step, errors, calls)
        return fast

    def _push(
        self, step: int, split: str, layer: str, feats: Array, labels: Labels
    ) -> MomentsBuffer:
        feats, labels = _validate.check_pair(feats, labels_of(labels))
        prefix = self._prefixes.prefix(self._kind, split, layer, step)
        return self._recorder.push(step, prefix, feats, labels)

    def _fast_step(self, split: str, hook: Hook | None, buffer: MomentsBuffer) -> FastStep | None:
        """The fast step for further batches of a buffer."""
        if buffer.fast_writer is None:
            return None
        norms = self._recorder.norms.writer
        clear = None if self._capture is None else self._capture.clear
        min_rank = -1 if self._capture is None else self._capture.highest_rank(split)
        return FastStep(split, hook, buffer.fast_writer, norms, self.norm_model, clear, min_rank)

    def warn_of_layers(
        self, step: int, errors: Mapping[str, Exception], calls: Mapping[str, int]
    ) -> None:
        """Warn of layers that could not be measured, and of those that ran several times."""
        for layer, number in calls.items():
            message = messages.REPEATED.format(layer=layer, number=number)
            self._warn(step, f"calls {layer}", message)
        for layer, error in errors.items():
            self._warn(step, f"layer {layer}", f"Layer {layer!r} is not measured: {error}")

    def measure_norm(self, step: int) -> bool:
        """Measure the norm of the weights once a step; False if the extension could not."""
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
