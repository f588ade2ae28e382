import math

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ncfast.tracking.sinks import TensorBoardSink, as_sink


def test_scalars_come_back(tmp_path):
    sink = TensorBoardSink(tmp_path / "board")
    sink.start({"conventions": {"loss": "mean"}})
    sink.write({"step": 3, "train/rnc1.max": 0.25, "test/accuracy": 1})
    sink.write({"step": 5, "train/rnc1.max": math.nan, "note": "text is left out"})
    sink.flush()
    board = EventAccumulator(str(tmp_path / "board")).Reload()
    first, second = board.Scalars("train/rnc1.max")
    assert (first.step, first.value, second.step) == (3, 0.25, 5)
    assert math.isnan(second.value)
    assert [(event.step, event.value) for event in board.Scalars("test/accuracy")] == [(3, 1.0)]
    assert set(board.Tags()["scalars"]) == {"train/rnc1.max", "test/accuracy"}
    (header,) = board.Tensors("ncfast header/text_summary")
    assert b'"loss": "mean"' in header.tensor_proto.string_val[0]
    sink.close()


def test_closing_writes_what_is_queued(tmp_path):
    sink = as_sink(f"tensorboard:{tmp_path}/board")
    sink.write({"step": 0, "a": 1.0})
    sink.close()
    board = EventAccumulator(str(tmp_path / "board")).Reload()
    assert board.Scalars("a")[0].value == pytest.approx(1.0)
