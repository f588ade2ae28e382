"""Lines of JSON from the extension against json.dumps, byte for byte."""

import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ncfast._strict_json import json_line
from ncfast.ops import _raw
from ncfast.tracking import JsonlSink, read_records
from ncfast.tracking.records import LogPoint, RecordBatch, Table

needs_lines = pytest.mark.skipif(
    not hasattr(_raw.extension, "json_lines"), reason="the extension writes no JSON here"
)


def expected(block):
    return "".join(json_line(record) for record in block).encode()


def points(extras):
    made = [LogPoint(step) for step in extras]
    for point in made:
        point.values.update(extras[point.step])
    return made


@needs_lines
@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(), min_size=1, max_size=20))
@example([0.0, -0.0, 1e16, 9999999999999998.0, 1e-4, 9.999999999999999e-5, 5e-324, 1e22, 100.0])
@example([math.nan, math.inf, -math.inf, 1.7976931348623157e308, 123456.789, 2.0**53 + 2])
def test_any_number(values):
    column = torch.tensor(values, dtype=torch.float64).unsqueeze(1)
    block = RecordBatch([], [Table(["a"], range(len(values)), column)])
    assert block.json_lines() == expected(block)


EXTRAS = {3: {'quo"te\n': 1.0, "é": 3}, 5: {"loss": torch.tensor(0.25, dtype=torch.float64)}}


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize(
    ("steps", "extras"),
    [
        ([[3, 4, 5]], {}),
        ([[3, 4, 5]], EXTRAS),
        ([[3, 4, 5], [3, 4, 5]], EXTRAS),
        ([[3, 4, 5], [4, 5]], EXTRAS),
        ([[-(2**60), 2**62]], {}),
        ([[1, 2]], EXTRAS),
        ([], EXTRAS),
        ([[5, 4, 4]], {}),
    ],
)
def test_tables_and_single_values(steps, extras, fast, monkeypatch):
    if not fast:
        monkeypatch.setattr(_raw, "extension", None)
    tables = [
        Table([f"{i}/x", f'{i}/"y'], own, torch.randn(len(own), 2, dtype=torch.float64))
        for i, own in enumerate(steps)
    ]
    block = RecordBatch(points(extras), tables)
    assert block.json_lines() == expected(block)
    records = list(block)
    assert [record["step"] for record in records] == block.steps == sorted(set(block.steps))
    for i, (keys, own, values, _) in enumerate(tables):
        row = {step: values[j].tolist() for j, step in enumerate(own)}
        assert {r["step"]: [r[k] for k in keys] for r in records if f"{i}/x" in r} == row


def test_a_block_and_single_records_give_the_same_file(tmp_path):
    table = Table(["a", "b"], [1, 2, 3], torch.randn(3, 2, dtype=torch.float64))
    block = RecordBatch(points(EXTRAS), [table])
    one, two = JsonlSink(tmp_path / "one.jsonl"), JsonlSink(tmp_path / "two.jsonl")
    one.write_block(block)
    for record in block:
        two.write(record)
    one.close()
    two.close()
    assert one.path.read_bytes() == two.path.read_bytes()
    assert list(read_records(one.path)) == list(block)
