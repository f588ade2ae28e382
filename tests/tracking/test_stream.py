import pytest
from samples import classes

import ncfast
from ncfast.tracking.averaging import Stream, parse


@pytest.mark.parametrize("text", ["", "batches", "window", "window:0", "ema:1", "ema:x", "batch:3"])
def test_bad_streams(text):
    with pytest.raises(ValueError, match="Expected argument `stream`"):
        parse(text)


def test_streams():
    assert parse("batch") == Stream("batch")
    assert parse("window:3") == Stream("window", length=3)
    feats, labels = classes()
    records = []
    with ncfast.Tracker(num_classes=5, stream="window:2", sinks=[records.append]) as tracker:
        for _ in range(3):
            tracker.step(feats=feats, labels=labels)
    values = [record["window/train/rnc1.max"] for record in records]
    assert values == pytest.approx(values[:1] * 3, rel=1e-12)
