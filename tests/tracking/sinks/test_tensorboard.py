import math
import time

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

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


def write(folder, *steps):
    sink = TensorBoardSink(folder)
    sink.start({"layers": []})
    for step in steps:
        sink.write({"step": step, "a": float(step)})
    sink.close()
    time.sleep(0.01)  # files are read in the order of their names, which have the time


def shown(folder):
    board = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return [event.step for event in board.Scalars("a")], board.Tags()["tensors"]


def test_a_resumed_run_hides_the_steps_that_it_writes_again(tmp_path):
    write(tmp_path, 1, 2, 3, 4, 5)
    write(tmp_path, 4, 5, 6)
    write(tmp_path, 6)
    assert shown(tmp_path) == ([1, 2, 3, 4, 5, 6], ["ncfast header/text_summary"])
    write(tmp_path, 0, 1)
    assert shown(tmp_path) == ([0, 1], ["ncfast header/text_summary"])


def test_values_of_other_programs_are_never_hidden(tmp_path):
    with SummaryWriter(str(tmp_path)) as writer:
        writer.add_scalar("theirs", 1.0, 5)
    time.sleep(0.01)
    write(tmp_path, 1, 2, 3)
    write(tmp_path, 2, 3)
    board = EventAccumulator(str(tmp_path)).Reload()
    assert [event.step for event in board.Scalars("theirs")] == [5]
    # files of one second are read in any order
    assert sorted(event.step for event in board.Scalars("a")) == [1, 2, 2, 3, 3]
