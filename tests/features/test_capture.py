import copy
import io
import pickle

import pytest
import torch
from samples import classes
from torch import nn

import ncfast
from ncfast.features.capture import FeatureCapture
from ncfast.tracking import FeatureExtractor, Tapped, Tracker


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 5))


class Convolutional(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1) for _ in range(2))
        self.head = nn.Linear(3, 5)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((2, 3)))


def images():
    return torch.randn(40, 3, 6, 6), torch.arange(40) % 5


def test_convolutions_are_pooled_by_layer():
    model, (x, y), records = Convolutional(), images(), []
    pool = {"blocks.0": "gap", "blocks.1": "flatten"}
    with Tracker(
        model,
        layers=["blocks.*", "head:input"],
        pool=pool,
        num_classes=5,
        metrics="rnc1",
        sinks=[records.append],
    ) as tracker:
        model(x)
        tracker.step(labels=y)
    first = model.blocks[0](x)
    found = {name: records[0][f"train/{name}/rnc1.max"] for name in (*pool, "head:input")}
    second = model.blocks[1](first)
    for name, feats in (
        ("blocks.0", first.mean((2, 3))),
        ("blocks.1", second.flatten(1)),
        ("head:input", second.mean((2, 3))),
    ):
        assert found[name] == pytest.approx(ncfast.rnc1(feats, y, num_classes=5).item(), rel=1e-5)
    with pytest.raises(ValueError, match="keys of `pool`"):
        Tracker(model, layers="head:input", pool={"blocks.0": "gap"}, num_classes=5)


def test_recurrent_layers_give_their_output_first():
    model = nn.GRU(4, 3, batch_first=True)
    wrapped = nn.Sequential(model)
    capture = FeatureCapture(wrapped, "0", "last")
    x = torch.randn(2, 5, 4)
    wrapped(x)
    found, wrong = capture.take()
    assert not wrong
    torch.testing.assert_close(found["0"], model(x)[0][:, -1].detach())


@pytest.mark.parametrize("how", ["deepcopy", "pickle", "torch.save"])
def test_a_tracked_model_can_be_copied(how):
    model, x = network(), torch.randn(20, 12)
    keys = list(model.state_dict())
    tracker = Tracker(model, layers="*", num_classes=5)
    assert list(model.state_dict()) == keys
    if how == "deepcopy":
        again = copy.deepcopy(model)
    elif how == "pickle":
        again = pickle.loads(pickle.dumps(model))
    else:
        buffer = io.BytesIO()
        torch.save(model, buffer)
        buffer.seek(0)
        again = torch.load(buffer, weights_only=False)
    assert torch.equal(again(x), model(x))
    tracker._capture.take()
    again(x)
    # a copy is untracked
    assert all(hook.value is None for hook in tracker._capture._hooks.values())
    tracker.close()
    assert not any(module._forward_hooks for module in model.modules())


def test_a_value_changed_in_place_is_not_measured():
    model = nn.Sequential(nn.Linear(12, 8), nn.ReLU(inplace=True), nn.Linear(8, 5))
    x, y = classes(dtype=torch.float32)
    records = []
    with Tracker(model, layers=["0", "1"], num_classes=5, sinks=[records.append]) as tracker:
        model(x)
        with pytest.warns(RuntimeWarning, match=r"Layer '0' is not measured.*changed in place"):
            tracker.step(labels=y)
    assert "train/1/rnc1.max" in records[0]
    assert "train/0/rnc1.max" not in records[0]


@pytest.mark.parametrize("order", ["before", "after", "extractor"])
def test_compiled_models(order):
    """Traced for real, by Dynamo; the code generator would only make this slow."""
    x, y = classes(dtype=torch.float32)
    model, records = network(), []
    options = {"num_classes": 5, "metrics": "rnc1", "sinks": [records.append]}

    def compiled(module):
        torch.compiler.reset()
        return torch.compile(module, backend="eager", fullgraph=True)

    if order == "before":
        tracker = Tracker(model, **options)
        run = compiled(model)
    elif order == "after":
        run = compiled(model)
        tracker = Tracker(run, **options)  # it has not run yet
    else:
        extractor = FeatureExtractor(model)
        run = compiled(extractor)
        run(x)
        tracker = Tracker(run, **options)
    with tracker:
        for _ in range(2):
            run(x)
            tracker.step(labels=y)
    expected = ncfast.rnc1(model[:4](x), y, num_classes=5).item()
    found = [record["train/rnc1.max"] for record in records]
    assert found == pytest.approx([expected, expected], rel=1e-6)


def test_a_model_that_was_compiled_and_had_run_is_noticed():
    x, y = classes(dtype=torch.float32)
    model = network()
    torch.compiler.reset()
    run = torch.compile(model, backend="eager")
    run(x)
    with Tracker(model, num_classes=5) as tracker:
        run(x)
        with pytest.warns(RuntimeWarning, match=r"saw no data.*ncfast\.tracking\.FeatureExtractor"):
            tracker.step(labels=y)


def test_an_extractor_is_a_model():
    x, y = classes(dtype=torch.float32)
    extractor = FeatureExtractor(network(), layers="2")
    again = copy.deepcopy(extractor)
    assert torch.equal(extractor(x), again(x))
    records = []
    with Tracker(again, num_classes=5, metrics="rnc1", sinks=[records.append]) as tracker:
        again(x)
        tracker.step(labels=y)
    assert "train/rnc1.max" in records[0]
    with pytest.raises(ValueError, match="Pass them to FeatureExtractor"):
        Tracker(extractor, layers="0", num_classes=5)


def test_models_saved_under_the_former_name_load():
    model = FeatureExtractor(network())
    name = f"{FeatureExtractor.__module__}\n{FeatureExtractor.__name__}".encode()
    old = pickle.dumps(model, 0).replace(name, b"ncfast.tracking.tapped\nTapped")
    assert b"tapped" in old
    loaded = pickle.loads(old)
    assert type(loaded) is Tapped is FeatureExtractor
    assert loaded.capture.names == model.capture.names
