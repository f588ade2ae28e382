"""Tests the parts that all callbacks share: warnings, sinks, and samples of ranks."""

import copy
import gc
import pickle

import pytest
import torch
from torch import nn

from ncfast.integrations.callback import KeptOpen, Logits, Measuring, harmless


class Sink:
    def __init__(self):
        self.records, self.closed = [], False

    def write(self, record):
        assert not self.closed
        self.records.append(record)

    def close(self):
        self.closed = True


def test_a_callback_that_is_forgotten_loses_nothing():
    """Training ended in an exception without a hook, and the Trainer was deleted."""
    sink, model = Sink(), nn.Sequential(nn.Linear(4, 2))
    callback = Measuring([sink], {"num_classes": 2, "metrics": "rnc1"})
    callback._start(model, 0, writes=True)
    for _ in range(3):
        model(torch.randn(8, 4))
        callback.tracker.step(labels=torch.arange(8) % 2)
    del callback
    gc.collect()
    assert [record["step"] for record in sink.records] == [1, 2, 3]
    assert sink.closed
    assert not model[0]._forward_hooks


def test_a_callback_can_be_copied_before_its_training():
    callback = Measuring([[].append, "a.jsonl"], {"num_classes": 2})
    for twin in (copy.deepcopy(callback), pickle.loads(pickle.dumps(callback))):
        assert len(twin._sinks) == 2


def test_a_sink_that_fails_is_named():
    class Failing(Sink):
        def write(self, record):
            raise OSError("full")

    callback = Measuring([Failing()], {"num_classes": 2, "metrics": "rnc1"})
    callback._start(nn.Sequential(nn.Linear(4, 2)), 0, writes=True)
    callback.tracker.step(feats=torch.randn(8, 4), labels=torch.arange(8) % 2)
    with pytest.warns(RuntimeWarning, match="Failing.*full"):
        callback.close()


@pytest.mark.parametrize("ask", ["warn", "raise"])
def test_what_a_hook_raises(ask):
    """The error is reported once; with on_sink_error="raise" it is raised."""

    class Callback(Measuring):
        @harmless
        def on_step(self):
            raise OSError("gone")

    callback = Callback([], {"num_classes": 2, "on_sink_error": ask})
    if ask == "raise":
        with pytest.raises(OSError, match="gone"):
            callback.on_step()
    else:
        with pytest.warns(
            RuntimeWarning, match="Callback.on_step, training goes on: OSError: gone"
        ):
            callback.on_step()
        callback.on_step()


def test_kept_open_shows_what_its_sink_has():
    kept = KeptOpen([].append)
    kept.open()
    assert not hasattr(kept, "flush")
    assert hasattr(KeptOpen(Sink()), "write")


def test_logits_are_those_of_the_one_module_that_gives_them():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 3), nn.Linear(4, 3)

    module = Two()
    logits = Logits(module, 3)
    out = module.a(torch.zeros(2, 4))
    assert logits.take() is out
    assert logits.take() is None
    module.a(torch.zeros(2, 4))
    module.b(torch.zeros(2, 4))
    assert logits.take() is None, "there is no telling which"
    logits.remove()
    assert not module.a._forward_hooks
