"""Outputs of layers become features; pooling leaves out the padding that the mask tells."""

import copy
import pickle
import warnings

import pytest
import torch
from torch import nn

import ncfast
from ncfast.features.pooling import as_pool, tensor_of
from ncfast.tracking import FeatureExtractor

K, D, B, T = 3, 8, 12, 6
LABELS = torch.arange(B) % K
IDS = torch.randint(1, 20, (B, T), generator=torch.Generator().manual_seed(0))
LENGTHS = torch.arange(B) % (T - 1) + 1
RIGHT = (torch.arange(T) < LENGTHS.unsqueeze(1)).long()
LEFT = RIGHT.flip(1)
OTHER = RIGHT.roll(1, 0)


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.inner, self.head = nn.Embedding(20, D), nn.Linear(D, K)

    def forward(self, input_ids, attention_mask=None):
        return self.head(self.inner(input_ids).mean(1))


def pooled(model, pool, mask):
    feats = model.inner(IDS).detach()
    rows = [row[kept.bool()] for row, kept in zip(feats, mask, strict=True)]
    return torch.stack([row[-1] if pool == "last" else row.mean(0) for row in rows])


def value(model, pool, mask):
    found = ncfast.rnc1(pooled(model, pool, mask), LABELS, num_classes=K)
    return pytest.approx(found.item(), rel=1e-6)


def tracked(model, pool, run, **options):
    records = []
    given = {"layers": "inner", "pool": pool, "num_classes": K, "metrics": "rnc1", **options}
    with ncfast.Tracker(model, sinks=[records.append], **given) as tracker:
        run(tracker)
    return [record["train/rnc1.max"] for record in records]


@pytest.mark.parametrize("pool", ["last", "gap"])
@pytest.mark.parametrize("mask", [RIGHT, LEFT, RIGHT.bool()])
@pytest.mark.parametrize("by_keyword", [True, False])
def test_padding_is_left_out(pool, mask, by_keyword):
    model = Encoder()

    def run(tracker):
        for _ in range(2):
            model(IDS, attention_mask=mask) if by_keyword else model(IDS, mask)
            tracker.step(labels=LABELS)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert tracked(model, pool, run) == [value(model, pool, mask)] * 2


@pytest.mark.parametrize("pool", ["last", "gap"])
def test_the_mask_in_a_batch_that_is_the_only_argument(pool):
    class TakesBatches(Encoder):
        def forward(self, batch):
            return super().forward(batch["input_ids"])

    model, batch = TakesBatches(), {"input_ids": IDS, "attention_mask": RIGHT}

    def run(tracker):
        model(batch)
        tracker.step(labels=LABELS)

    options = {"layers": "inner", "pool": pool, "metrics": "rnc1", "num_classes": K}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert tracked(model, pool, run) == [value(model, pool, RIGHT)]
        found = ncfast.evaluate(model, [(batch, LABELS)], **options)
    assert found["rnc1.max"] == value(model, pool, RIGHT)


def test_the_mask_is_that_of_the_pass_that_is_measured():
    model = Encoder()

    def run(tracker):
        model(IDS, RIGHT)
        model.eval()
        with torch.no_grad():
            model(IDS, OTHER)  # a validation
        model.train()
        tracker.snapshot([{"input_ids": IDS, "attention_mask": LEFT, "labels": LABELS}])
        tracker.step(labels=LABELS)
        assert tracker._capture._padding.mask is None

    records = []
    options = {"layers": "inner", "pool": "last", "num_classes": K, "metrics": "rnc1"}
    with ncfast.Tracker(model, sinks=[records.append], **options) as tracker:
        run(tracker)
    assert records[0]["test/rnc1.max"] == value(model, "last", LEFT)
    assert records[1]["train/rnc1.max"] == value(model, "last", RIGHT)


@pytest.mark.parametrize("mask", [None, RIGHT[:, :3], RIGHT[:, None, None]])
def test_padding_that_nothing_tells_is_said_once(mask):
    model = Encoder()

    def run(tracker):
        for _ in range(2):
            model(IDS, mask)
            tracker.step(labels=LABELS)

    with pytest.warns(RuntimeWarning, match="attention_mask=") as said:
        found = tracked(model, "last", run)
    assert len(said) == 1
    assert found == [value(model, "last", torch.ones(B, T))] * 2


def test_images_have_no_padding():
    model = nn.Sequential(nn.Unflatten(1, (4, D)), nn.Flatten(), nn.Linear(4 * D, K))

    def run(tracker):
        model(torch.randn(B, 4 * D))
        tracker.step(labels=LABELS)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(tracked(model, "gap", run, layers="0")) == 1


def test_a_compiled_extractor_keeps_its_mask():
    model = Encoder()
    compiled = torch.compile(FeatureExtractor(model, "inner", "last"), backend="eager")
    records = []
    with ncfast.Tracker(compiled, num_classes=K, metrics="rnc1", sinks=[records.append]) as tracker:
        compiled(IDS, attention_mask=RIGHT)
        tracker.step(labels=LABELS)
    assert records[0]["train/rnc1.max"] == value(model, "last", RIGHT)


def test_a_copy_of_the_model_is_not_observed():
    model = Encoder()
    with ncfast.Tracker(model, layers="inner", pool="gap", num_classes=K):
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert other(IDS, RIGHT).shape == (B, K)
    assert not model._forward_pre_hooks


@pytest.mark.parametrize(
    ("pool", "shape", "expected"),
    [
        ("flatten", (2, 3, 4, 4), lambda x: x.reshape(2, 48)),
        ("gap", (2, 3, 4, 4), lambda x: x.mean((2, 3))),
        ("gap", (2, 5, 3), lambda x: x.mean(1)),
        ("cls", (2, 5, 3), lambda x: x[:, 0]),
        ("last", (2, 5, 3), lambda x: x[:, 4]),
        (lambda out: out[:, :2], (2, 5), lambda x: x[:, :2]),
        (None, (2, 5), lambda x: x),
    ],
)
def test_pooling(pool, shape, expected):
    x = torch.randn(shape)
    torch.testing.assert_close(as_pool(pool)(x), expected(x))


@pytest.mark.parametrize(
    ("pool", "shape", "message"),
    [
        ("gap", (2, 3), r"pool='gap'.*got \(2, 3\)"),
        ("cls", (2, 3, 4, 4), r"pool='cls'.*got \(2, 3, 4, 4\)"),
        ("last", (2, 3), "pool='last'"),
    ],
)
def test_pooling_of_unfit_shapes(pool, shape, message):
    with pytest.raises(ValueError, match=message):
        as_pool(pool)(torch.zeros(shape))


def test_where_the_tensor_is_in_an_output():
    x, y = torch.ones(2, 3), torch.zeros(2, 3)
    assert tensor_of((x, (y, y))) is x
    assert tensor_of({"last_hidden_state": x, "attentions": y}) is x
    assert tensor_of({"hidden_states": (y, x)}) is x
    assert tensor_of({"mine": x}) is x
    with pytest.raises(TypeError, match=r"dict with the keys \['a', 'b'\].*pass pool="):
        tensor_of({"a": x, "b": y})
    with pytest.raises(TypeError, match="got NoneType"):
        tensor_of(None)
    with pytest.raises(ValueError, match=r"\['flatten', 'gap', 'cls', 'last'\].*'avg'"):
        as_pool("avg")
