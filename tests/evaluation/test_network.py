import random
import warnings

import numpy as np
import pytest
import torch
import torch.distributed as dist
from ranks import run_ranks
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import ncfast
from ncfast.evaluation import evaluate
from ncfast.tracking import FeatureExtractor

K, D, N = 4, 8, 230


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.drop, self.head = nn.Linear(6, D), nn.Dropout(), nn.Linear(D, K)
        self.calls = 0

    def feats(self, x):
        return self.drop(self.body(x).relu())

    def forward(self, x):
        self.calls += 1
        return self.head(self.feats(x))


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net()


def data(size=N, seed=1):
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(K, (size,), generator=generator)
    x = torch.randn(size, 6, generator=generator) + 2 * torch.eye(6)[y]
    return x, y


def batches(*tensors, size=64):
    return list(zip(*(t.split(size) for t in tensors), strict=True))


def whole(net, x, y, **options):
    """The metrics of all features in one call."""
    with torch.no_grad():
        feats = net.eval().feats(x)
    found = ncfast.collapse_metrics(
        feats, y, weight=net.head.weight, bias=net.head.bias, num_classes=K, **options
    )
    return {id_: float(value) for id_, value in found.items()}


def same(found, expected):
    assert dict(found).keys() == expected.keys()
    assert dict(found) == pytest.approx(expected, rel=1e-6, abs=1e-9, nan_ok=True)


def accuracy(net, x, y):
    with torch.no_grad():
        return float((net.eval()(x).argmax(1) == y).double().mean())


@pytest.mark.parametrize("limit", ["2GiB", "2kB", None])
def test_every_metric_equals_that_of_all_features(net, limit):
    """Kept in memory, or with the network run twice."""
    (x, y), (outside, _) = data(), data(70, seed=2)
    found = evaluate(net, batches(x, y), ood_loader=outside.split(32), memory_limit=limit)
    with torch.no_grad():
        ood = net.eval().feats(outside)
    same(found, {"accuracy": accuracy(net, x, y)} | whole(net, x, y, ood_feats=ood))
    assert (found.samples, found.num_classes, found.ignored) == (N, K, 0)
    assert not found.missing


@pytest.mark.parametrize(
    ("metrics", "limit", "runs"), [("nc1", "1kB", 1), ("nc4", "2GiB", 1), ("nc4", "1kB", 2)]
)
def test_the_network_runs_twice_only_where_features_do_not_fit(net, metrics, limit, runs):
    evaluate(net, batches(*data()), metrics=metrics, memory_limit=limit)
    assert net.calls == runs * 4


def test_several_layers_have_flat_keys(net):
    x, y = data()
    found = evaluate(net, batches(x, y), layers=["body", "head:input"])
    assert {"accuracy", "body/nc1.pinv", "head:input/nc3.self_duality"} <= {*found}
    assert "body/nc3.self_duality" not in found
    assert found.missing["body/nc3.self_duality"] == "needs a classifier"
    expected = whole(net, x, y)
    assert found["head:input/nc4.agreement"] == pytest.approx(expected["nc4.agreement"])
    with torch.no_grad():
        alone = ncfast.nc1(net.body(x), y, variant="pinv")
    assert found["body/nc1.pinv"] == pytest.approx(float(alone))


def test_an_id_by_name_that_one_of_the_layers_cannot_have(net):
    loader, layers = batches(*data()), ["body", "head:input"]
    found = evaluate(net, loader, layers=layers, metrics=["nc3.cosine", "rnc1.max"])
    assert [*found] == ["accuracy", "body/rnc1.max", "head:input/nc3.cosine", "head:input/rnc1.max"]
    found = evaluate(net, loader, layers=layers, metrics=["nc3.cosine"])
    assert [*found] == ["accuracy", "head:input/nc3.cosine"]
    with pytest.raises(ValueError, match="nc3.cosine.*classifier"):
        evaluate(net, loader, layers="body", metrics=["nc3.cosine"])
    with pytest.raises(ValueError, match="nc5.ood_cosine.*outside"):
        evaluate(net, loader, metrics="nc5.ood_cosine")


def streams(generator):
    return (
        torch.random.get_rng_state().tolist(),
        np.random.get_state()[1].tolist(),
        random.getstate(),
        generator.get_state().tolist(),
    )


def test_nothing_is_left_behind(net):
    """Modes, gradients, hooks and random streams, those of the loader included."""
    generator = torch.Generator()
    loader = DataLoader(TensorDataset(*data()), 50, shuffle=True, generator=generator)
    net.head.eval()
    before = streams(generator), torch.is_grad_enabled()
    evaluate(net, loader, memory_limit="1kB")
    assert (streams(generator), torch.is_grad_enabled()) == before
    assert (net.training, net.body.training, net.head.training) == (True, True, False)
    assert not any(module._forward_hooks for module in net.modules())


def test_nothing_is_left_behind_after_an_error(net):
    with pytest.raises(ValueError, match="labels"):
        evaluate(net, [(torch.randn(8, 6), torch.full((8,), K))])
    assert net.training
    assert not any(module._forward_hooks for module in net.modules())


class Augmented:
    """Batches with noise: from the global stream, or from a stream that nobody restores."""

    def __init__(self, stream=None):
        self.stream = stream

    def __iter__(self):
        for x, y in batches(*data()):
            yield x + torch.randn(x.shape, generator=self.stream), y


def test_augmentation_is_the_same_in_both_looks(net):
    """Both begin with the same random streams."""
    assert evaluate(net, Augmented(), metrics="nc4", memory_limit=0).samples == N
    with pytest.raises(ValueError, match="away.*augmentation"):
        evaluate(net, Augmented(torch.Generator()), metrics="nc4", memory_limit=0)


def test_an_iterator_is_kept(net):
    x, y = data()
    found = evaluate(net, iter(batches(x, y)), metrics="nc4")
    same(found, dict(evaluate(net, batches(x, y), metrics="nc4")))


def test_a_loader_that_fills_its_tensors_anew(net):
    """Features and labels are copied for the second look."""
    x, y = data(320)
    inputs, labels = torch.empty(64, 6), torch.empty(64, dtype=torch.int64)
    loader = ((inputs.copy_(a), labels.copy_(b)) for a, b in batches(x, y))
    same(evaluate(net, loader, metrics="nc4"), dict(evaluate(net, batches(x, y), metrics="nc4")))


def test_an_iterator_that_does_not_fit_loses_only_the_second_look(net):
    with pytest.warns(RuntimeWarning, match="iterator that cannot be read twice"):
        found = evaluate(net, iter(batches(*data())), memory_limit="1kB", metrics=["nc2", "nc4"])
    assert "nc2.equinorm" in found
    assert found.missing["nc4.agreement"] == "needs a second look at the rows"


class Speaks(Net):
    """Takes and returns what a network of transformers does."""

    def forward(self, inputs=None, scale=1.0):
        return {"loss": None, "logits": super().forward(inputs * scale)}


@pytest.mark.parametrize(
    "batch",
    [
        lambda x, y: {"inputs": x, "labels": y},
        lambda x, y: {"inputs": x / 2, "scale": 2.0, "label": y},
        lambda x, y: [(x / 2, 2.0), y],
        lambda x, y: (x.numpy(), y.numpy(), "more"),
    ],
)
def test_batches_and_outputs_of_many_forms(batch):
    torch.manual_seed(0)
    net = Speaks()
    x, y = data()
    found = evaluate(net, [batch(*b) for b in batches(x, y)], metrics="nc1.pinv")
    torch.manual_seed(0)
    same(found, dict(evaluate(Net(), batches(x, y), metrics="nc1.pinv")))
    assert "accuracy" in found


def test_labels_in_a_column_and_tensors_in_place_of_batches_are_errors_that_say_what_to_do(net):
    x, y = data()
    remedy = r"labels of shape \(\d+,\) but got \(\d+, 1\)\. Pass unpack=.*squeeze\(-1\)"
    with pytest.raises(ValueError, match=remedy):
        evaluate(net, batches(x, y[:, None]))
    unpacked = evaluate(
        net, batches(x, y[:, None]), unpack=lambda batch: (batch[0], batch[1].squeeze(-1))
    )
    same(unpacked, dict(evaluate(net, batches(x, y))))
    with pytest.raises(TypeError, match=r"two tensors are one batch: \[\(inputs, labels\)\]"):
        evaluate(net, (x, y))


def test_a_batch_without_rows_changes_nothing(net):
    x, y = data()
    loader = batches(x, y)
    loader.insert(1, (x[:0], y[:0]))
    same(evaluate(net, loader, memory_limit="1kB"), dict(evaluate(net, batches(x, y))))


def test_unpack(net):
    x, y = data()
    mask = torch.arange(N) % 3 > 0
    loader = [{"a": [x], "b": {"y": y}, "m": m} for x, y, m in batches(x, y, mask)]
    found = evaluate(net, loader, unpack=lambda b: (b["a"][0], b["b"]["y"], b["m"]))
    same(found, dict(evaluate(net, batches(x[mask], y[mask]))))
    assert found.ignored == int((~mask).sum())
    with pytest.raises(TypeError, match="`unpack` to return .* but got 1 entries"):
        evaluate(net, loader, unpack=lambda b: b["a"])


def test_labels_that_are_left_out(net):
    x, y = data()
    left_out = y.clone()
    left_out[::5] = -100
    found = evaluate(net, batches(x, left_out))
    kept = left_out >= 0
    same(found, dict(evaluate(net, batches(x[kept], y[kept]))))
    assert (found.samples, found.ignored) == (int(kept.sum()), N - int(kept.sum()))


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
def test_models_that_wrap_others(net):
    loader = batches(*data())
    expected = dict(evaluate(net, loader))
    same(evaluate(torch.compile(net), loader), expected)  # is not compiled here
    same(evaluate(FeatureExtractor(net), loader), expected)
    layers = evaluate(FeatureExtractor(net, layers="body"), loader).layers
    assert layers == ("body",)


class Pooled(nn.Module):
    """The features are a feature map, flattened in the forward pass."""

    def __init__(self):
        super().__init__()
        self.net, self.pool, self.head = nn.Linear(6, D), nn.AdaptiveAvgPool1d(D), nn.Linear(D, K)
        self.other = nn.Linear(D, K)

    def forward(self, x):
        return self.head(self.pool(self.net(x).unsqueeze(1)).flatten(1)), self.other(
            x[:, :1] + torch.ones(D)
        )


def test_the_layer_before_the_classifier_has_it_too(net):
    """The output of a layer is what the classifier reads, also through flatten."""
    loader = batches(*data())
    same(evaluate(net, loader, layers="drop"), dict(evaluate(net, loader)))
    pooled = Pooled()
    found = evaluate(pooled, loader, layers="pool", pool="flatten", metrics=["nc3", "nc4"])
    expected = evaluate(pooled, loader, layers="head:input", metrics=["nc3", "nc4"])
    same(found, dict(expected))
    assert not evaluate(net, loader, layers="drop", metrics=["nc3.cosine"]).missing


NORMS = (
    nn.utils.parametrizations.spectral_norm,
    nn.utils.parametrizations.weight_norm,
    nn.utils.spectral_norm,
    nn.utils.weight_norm,
)


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
@pytest.mark.parametrize("norm", NORMS, ids=lambda norm: f"{norm.__module__}.{norm.__name__}")
def test_a_weight_that_the_forward_pass_computes(net, norm):
    """It is the one in eval mode after the last step; reading it does not change the network."""
    norm(net.head)
    x, y = data()
    nn.functional.cross_entropy(net(x), y).backward()
    torch.optim.SGD(net.parameters(), lr=1.0).step()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    found = evaluate(net, batches(x, y), metrics=["nc3", "nc4"])
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    accuracy(net, x, y)  # a forward pass in eval mode
    expected = whole(net, x, y, metrics=["nc3", "nc4"])
    assert {id_: found[id_] for id_ in expected} == pytest.approx(expected, rel=1e-5)


def test_a_classifier_that_reads_something_else_is_not_taken(net):
    net.head.forward = lambda feats: nn.functional.linear(feats, net.head.weight)
    net.feats = lambda x: net.drop(net.body(x).relu()) + 0
    found = evaluate(net, batches(*data()), layers="drop")
    assert found.missing["nc3.cosine"] == "needs a classifier"


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.uint32, torch.uint64])
def test_unsigned_labels_are_those_of_int64(dtype):
    """torch compares the wider ones with no other dtype; 2^64 - 100 is no -100."""
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    x, y = torch.randn(12, 4), torch.arange(12) % 3
    options = {"num_classes": 3, "ignore_index": 1}
    expected = ncfast.evaluate(model, [(x, y)], **options)
    assert ncfast.evaluate(model, [(x, y.to(dtype))], **options) == pytest.approx(
        expected, nan_ok=True
    )
    records = []
    with ncfast.Tracker(model, **options, sinks=[records.append]) as tracker:
        tracker.snapshot([(x, y)], split="one")
        tracker.snapshot([(x, y.to(dtype))], split="other")
    assert records[0]["other/accuracy"] == records[0]["one/accuracy"]
    if dtype == torch.uint64:
        with pytest.raises(ValueError, match=f"row 0 holds {2**64 - 100}"):
            ncfast.evaluate(model, [(x, (y - 100).to(dtype))], num_classes=3)


def test_a_layer_that_runs_twice_is_pointed_out(net):
    net.feats = lambda x: net.body(torch.nn.functional.pad(net.body(x), (0, -2))).relu()
    with pytest.warns(UserWarning, match="'body' ran 2 times.*last call"):
        evaluate(net, batches(*data()), layers="body", metrics="nc1")


def test_progress_wraps_the_loader(net):
    seen = []

    def show(loader):
        for batch in loader:
            seen.append(batch)
            yield batch

    evaluate(net, batches(*data()), metrics="nc1", progress=show)
    assert len(seen) == 4


def test_large_layers_leave_out_what_needs_the_scatter_matrix(net):
    with pytest.warns(UserWarning, match="leaves out .*nc1.pinv.*memory_limit"):
        found = evaluate(net, batches(*data()), memory_limit=100)
    assert "nc1.quotient" in found
    assert "memory_limit" in found.missing["nc1.pinv"]


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"model": 3}, TypeError, "`model` to be an nn.Module but got int"),
        ({"model": nn.ReLU()}, ValueError, "`num_classes`.* without an nn.Linear"),
        ({"layers": "nothing"}, ValueError, "`layers` to name modules"),
        ({"metrics": "nc9"}, ValueError, "names of metrics but got 'nc9'"),
        ({"shift": -1}, ValueError, "`shift` to be 0 or more but got -1"),
        ({"shift": 1}, ValueError, r"labels of shape \(B, T\).*\(64,\).*shift=0"),
        ({"memory_limit": "much"}, ValueError, "`memory_limit`.*'much'"),
        ({"group": "all"}, ValueError, "`group`"),
        ({"loader": []}, ValueError, "at least one row"),
        ({"loader": [torch.zeros(3, 6)]}, TypeError, r"each batch to be \(inputs, labels"),
        ({"loader": [(torch.zeros(3, 6), torch.full((3,), -100))]}, ValueError, "least one row"),
        (
            {"loader": [(torch.zeros(3, 5, 6), torch.ones(3).int())]},
            ValueError,
            "'head:input'.*pool",
        ),
        ({"loader": [(torch.zeros(3, 6), torch.eye(3, K))]}, TypeError, "integers.*argmax"),
        ({"loader": [(torch.zeros(3, 6), torch.eye(3, K).long())]}, ValueError, "unpack="),
        ({"num_classes": 2}, ValueError, "labels"),
    ],
)
def test_bad_input(net, options, error, text):
    options = {"model": net, "loader": batches(*data())} | options
    with pytest.raises(error, match=text):
        evaluate(**options)


def part(rank, world, port, empty):
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    torch.manual_seed(0)
    net = Net()
    loader = batches(*data())
    own = [] if rank in empty else loader[rank :: world - len(empty)]
    outside = [data(30, seed=2)[0]] if rank == 0 else []
    found = evaluate(net, own, ood_loader=outside, group="auto", memory_limit="1kB")
    expected = evaluate(net, loader, ood_loader=[data(30, seed=2)[0]])
    same(found, dict(expected))
    assert (found.samples, found.ignored) == (N, 0)
    dist.destroy_process_group()


@pytest.mark.parametrize(("world", "empty"), [(2, ()), (3, (2,))])
def test_ranks_measure_together(world, empty):
    run_ranks(part, world, empty)


def before(rank, world, port):
    """The second rank has no batch to see who reads the layer."""
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    torch.manual_seed(0)
    loader = batches(*data())
    found = evaluate(net := Net(), [] if rank else loader, layers="drop", group="auto")
    same(found, dict(evaluate(net, loader)))
    dist.destroy_process_group()


def test_ranks_agree_on_the_classifier():
    run_ranks(before, 2)


def once(rank, world, port):
    """Rank 1 cannot repeat its batches, so no rank does."""
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    torch.manual_seed(0)
    own = batches(*data())[rank::world]
    with pytest.warns(RuntimeWarning, match="cannot be read twice"):
        found = evaluate(Net(), iter(own) if rank else own, group="auto", memory_limit="1kB")
    assert found.missing["nc4.agreement"] == "needs a second look at the rows"
    dist.destroy_process_group()


def test_ranks_agree_on_a_second_look():
    run_ranks(once, 2)


def padded(rank, world, port):
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    torch.manual_seed(0)
    dataset = TensorDataset(*data())
    loader = DataLoader(dataset, 16, sampler=DistributedSampler(dataset, shuffle=True))
    found = evaluate(net := Net(), loader, group="auto", metrics=["nc1", "nc4"])
    same(found, dict(evaluate(net, batches(*data()), metrics=["nc1", "nc4"])))
    assert found.samples == N
    dist.destroy_process_group()


def test_rows_that_a_sampler_repeats_count_once():
    run_ranks(padded, 3)  # 230 samples make 231


def test_no_warning_in_an_ordinary_call(net):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluate(net, batches(*data()))
