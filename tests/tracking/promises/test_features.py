"""The features that a step measures are those of its batch, or the user is told."""

import contextlib
import copy
import subprocess
import sys
import textwrap
import warnings

import numpy as np
import pytest
import torch
from samples import classes
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

import ncfast
from ncfast.tracking import FeatureExtractor, Tracker

X, Y = classes(dtype=torch.float32)
OTHER = torch.randn(200, 12)  # as many rows: the size tells nothing


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 5))


def value_of(feats, labels=Y):
    return pytest.approx(ncfast.rnc1(feats.detach(), labels, num_classes=5).item(), rel=1e-5)


@contextlib.contextmanager
def tracked(model, **options):
    """The tracker, and its records when the block is over."""
    records = []
    options = {"num_classes": 5, "metrics": "rnc1", "log_cost": False, **options}
    with Tracker(model, sinks=[records.append], **options) as tracker:
        yield tracker, records


def eval_mode(model, tracker):
    model.eval()
    model(OTHER)
    model.train()


def no_grad(model, tracker):
    with torch.no_grad():
        model(OTHER)


def eval_without_grad(model, tracker):
    with torch.no_grad():
        eval_mode(model, tracker)


def inference(model, tracker):
    with torch.inference_mode():
        eval_mode(model, tracker)


def snapshot(model, tracker):
    tracker.snapshot([(OTHER, Y)], split="valid")


@pytest.mark.parametrize("between", [eval_mode, no_grad, eval_without_grad, inference, snapshot])
@pytest.mark.parametrize("first", [False, True])
def test_a_validation_pass_before_the_step_is_not_taken_for_the_batch(between, first):
    """Training batch and validation batch have the same size; the step measures the former."""
    model = network()
    with tracked(model) as (tracker, records):
        for _ in range(3):
            if first:
                between(model, tracker)
            model(X)
            if not first:
                between(model, tracker)
            tracker.step(labels=Y)
    expected = value_of(model[:2](X))
    assert [r["train/rnc1.max"] for r in records if "train/rnc1.max" in r] == [expected] * 3


def test_two_forward_passes_between_steps_are_said_once():
    """The last one is measured; a user with two views must know that it is one of them."""
    model = network()
    with tracked(model) as (tracker, records):
        model(OTHER)
        model(X)
        with pytest.warns(RuntimeWarning, match=r"Step 1: .*'2:input' ran 2 times.*last call is"):
            tracker.step(labels=Y)
        for _ in range(2):
            model(OTHER)
            model(X)
            tracker.step(labels=Y)
    assert [record["train/rnc1.max"] for record in records] == [value_of(model[:2](X))] * 3


def test_a_layer_called_twice_in_one_forward_pass_is_said_once():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Linear(12, 12), nn.Linear(12, 5)

        def forward(self, x):
            return self.head(self.body(self.body(x)))

    model = Twice()
    with tracked(model, layers="body") as (tracker, records):
        model(X)
        with pytest.warns(RuntimeWarning, match="'body' ran 2 times"):
            tracker.step(labels=Y)
        model(X)
        tracker.step(labels=Y)
    assert records[1]["train/rnc1.max"] == value_of(model.body(model.body(X)))


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing_counts_as_one_pass(reentrant):
    """It runs the layer again in the backward pass, which is nothing to warn of."""
    model = network()
    with tracked(model, layers="0") as (tracker, records):
        for _ in range(3):
            hidden = checkpoint(model[:2], X.clone().requires_grad_(), use_reentrant=reentrant)
            model[2](hidden).sum().backward()
            tracker.step(labels=Y)
    assert [record["train/rnc1.max"] for record in records] == [value_of(model[0](X))] * 3


@pytest.mark.parametrize("mode", ["eval", "no_grad", "frozen"])
def test_loops_that_never_train_are_measured_too(mode):
    model = network()
    if mode == "eval":
        model.eval()
    if mode == "frozen":
        model.requires_grad_(False)
    context = torch.no_grad() if mode == "no_grad" else contextlib.nullcontext()
    with tracked(model) as (tracker, records), context:
        for _ in range(3):
            model(X)
            tracker.step(labels=Y)
    assert [record["train/rnc1.max"] for record in records] == [value_of(model[:2](X))] * 3


def test_a_step_without_a_forward_pass_measures_nothing_old():
    """advance() skips a batch: its features do not wait for the next step."""
    model = network()
    with tracked(model) as (tracker, records):
        model(X)
        tracker.advance()
        with pytest.warns(RuntimeWarning, match="saw no data"):
            tracker.step(labels=Y)
    assert records == []


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("grad", [False, True])
def test_a_step_after_a_validation_pass_alone_is_said_once(first, grad):
    """The sizes agree, so that nothing else would tell."""
    model = network()
    with warnings.catch_warnings(record=True) as caught, tracked(model) as (tracker, records):
        warnings.simplefilter("always")
        if not first:
            for _ in range(3):
                model(X)
                tracker.step(labels=Y)
        for _ in range(3):
            model.eval()
            with torch.set_grad_enabled(grad):
                model(OTHER)
            model.train()
            tracker.step(labels=Y)
    (said,) = caught
    assert "eval mode or without gradients only" in str(said.message)
    assert "train/rnc1.max" in records[-1], "what was said is measured"


def test_validation_batches_of_a_split_of_their_own_are_no_mismatch():
    """Steps of two splits in turn, each in its own mode; warnings are errors."""
    model = network()
    with tracked(model) as (tracker, records):
        for _ in range(3):
            model(X)
            tracker.step(labels=Y)
            model.eval()
            with torch.no_grad():
                model(OTHER)
            tracker.step(labels=Y, split="val")
            model.train()
    assert len(records) == 6


def test_several_optimisers_after_one_forward_pass_count_as_several_steps():
    model = network()
    with tracked(model) as (tracker, records):
        model(X)
        tracker.advance(keep_features=True)
        tracker.step(labels=Y)
    assert [record["step"] for record in records] == [2]


class ByKeyword(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(12, 2, batch_first=True)
        self.head = nn.Linear(12, 5)

    def forward(self, x):
        x = x.unsqueeze(1)
        mixed, _ = self.attention(value=x + 1, key=x, query=x)
        return self.head(input=mixed.squeeze(1))


def test_layers_called_by_keyword():
    """The input of a layer is its first parameter, in whatever order the caller names them."""
    model = ByKeyword()
    layers, pool = ["attention:input", "head:input"], {"attention:input": "flatten"}
    with tracked(model, layers=layers, pool=pool) as (tracker, records):
        model(X)
        tracker.step(labels=Y)
    assert records[0]["train/attention:input/rnc1.max"] == value_of(X)
    assert "train/head:input/rnc1.max" in records[0]


def test_a_linear_probe():
    model = nn.Linear(12, 5)
    with tracked(model) as (tracker, records):
        model(X)
        tracker.step(labels=Y)
        tracker.snapshot([(X, Y)])
    assert records[0]["train/rnc1.max"] == value_of(X)
    assert records[0]["test/rnc1.max"] == value_of(X)
    with tracked(model, layers=["", ":input"]) as (tracker, records):
        model(X)
        tracker.step(labels=Y)
    assert records[0]["train/rnc1.max"] == value_of(model(X))


class InPlace(nn.Module):
    """A ReLU that changes what the layer before returned."""

    def __init__(self, structure=False):
        super().__init__()
        self.body, self.head, self.structure = nn.Linear(12, 8), nn.Linear(8, 5), structure
        self.inner = Pair(self.body) if structure else self.body

    def forward(self, x):
        hidden = self.inner(x)
        hidden = hidden[0] if self.structure else hidden
        return self.head(torch.relu_(hidden))


class Pair(nn.Module):
    def __init__(self, body):
        super().__init__()
        self.body = body

    def forward(self, x):
        return self.body(x), x


@pytest.mark.parametrize("pool", [None, lambda output: output[0]])
def test_a_change_in_place_is_noticed_also_within_a_tuple(pool):
    model = InPlace(structure=True)
    with tracked(model, layers="inner", pool=pool) as (tracker, records):
        model(X)
        with pytest.warns(RuntimeWarning, match="'inner' is not measured.*changed in place"):
            tracker.step(labels=Y)
    assert records == []


@pytest.mark.parametrize("call", ["step", "snapshot"])
@pytest.mark.parametrize("structure", [False, True])
def test_a_change_in_place_under_inference_mode_does_not_reach_the_features(call, structure):
    """No tensor counts its changes there, so the hook copies."""
    model = InPlace(structure)
    layer = "inner" if structure else "body"
    with tracked(model, layers=layer) as (tracker, records), torch.inference_mode():
        if call == "step":
            model(X)
            tracker.step(labels=Y)
        else:
            tracker.snapshot([(X, Y)], split="train")
    assert records[0]["train/rnc1.max"] == value_of(model.body(X))


@pytest.mark.parametrize("structure", [False, True])
@pytest.mark.parametrize("extractor", [False, True])
def test_a_change_in_place_in_a_compiled_model_does_not_reach_the_features(structure, extractor):
    model = InPlace(structure)
    layer = "inner" if structure else "body"
    torch.compiler.reset()
    subject = FeatureExtractor(model, layer) if extractor else model
    options = {} if extractor else {"layers": layer}
    with tracked(subject, **options) as (tracker, records):
        run = torch.compile(subject, backend="aot_eager", fullgraph=True)
        for _ in range(2):
            run(X)
            tracker.step(labels=Y)
    assert [record["train/rnc1.max"] for record in records] == [value_of(model.body(X))] * 2


def test_modes_and_calls_of_a_compiled_model():
    """The same promises as without compilation, and few graphs."""
    model, graphs = network(), []
    torch.compiler.reset()

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    with tracked(model) as (tracker, records):
        run = torch.compile(model, backend=backend, fullgraph=True)
        for _ in range(4):
            run(X)
            model.eval()
            with torch.no_grad():
                run(OTHER)
                run(OTHER)
            model.train()
            tracker.step(labels=Y)
        assert len(graphs) == 2
        run(OTHER)
        run(X)
        with pytest.warns(RuntimeWarning, match="ran 2 times"):
            tracker.step(labels=Y)
        for _ in range(3):
            run(X)
            tracker.step(labels=Y)
    assert len(graphs) <= 3
    assert [record["train/rnc1.max"] for record in records] == [value_of(model[:2](X))] * 8


@pytest.mark.skipif(
    not hasattr(torch.compiler, "is_exporting"), reason="torch 2.6 cannot trace the copied hook"
)
def test_a_copy_of_a_tracked_model_can_be_compiled():
    model = network()
    torch.compiler.reset()
    with tracked(model):
        run = torch.compile(copy.deepcopy(model), backend="eager", fullgraph=True)
        assert torch.equal(run(X), model(X))


@pytest.mark.filterwarnings("ignore:Step 5.*without gradients only:RuntimeWarning")
@pytest.mark.parametrize("stream", ["batch", "ema:0.9", "window:3"])
def test_a_first_step_under_inference_mode_does_not_break_later_ones(stream):
    model = network()
    with tracked(model, stream=stream, metrics=["rnc1", "weight.norm"]) as (tracker, records):
        with torch.inference_mode():
            model(X)
            tracker.step(labels=Y, split="val")
            tracker.log({"mine": torch.tensor(1.0)})
        for _ in range(3):
            model(X)
            tracker.step(labels=Y, split="val")
        tracker.flush()
        with torch.inference_mode():
            model(X)
            tracker.step(labels=Y, split="val")
    assert [record["step"] for record in records] == [1, 2, 3, 4, 5]
    prefix = "" if stream == "batch" else stream.split(":")[0] + "/"
    assert all(record[f"{prefix}val/rnc1.max"] > 0 for record in records)
    assert records[0][f"{prefix}val/rnc1.max"] == value_of(model[:2](X)) or prefix
    assert records[0]["mine"] == 1.0


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.LSTM(4, 6), (7, 7, 4)),
        (nn.GRU(4, 6), (7, 7, 4)),
        (nn.TransformerEncoderLayer(4, 2, 8), (7, 7, 4)),
        (nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8), 1, None, False), (7, 7, 4)),
    ],
    ids=["LSTM", "GRU", "layer", "encoder"],
)
@pytest.mark.parametrize("pool", ["last", "gap", "cls", "flatten"])
def test_sequences_come_first_where_a_layer_says_so(layer, shape, pool):
    """With as many tokens as samples no shape tells (T, N, D) from (N, T, D)."""
    model = nn.ModuleDict({"inner": layer}).eval()
    x, labels = torch.randn(shape), torch.arange(7) % 3
    with tracked(model, layers="inner", pool=pool, num_classes=3) as (tracker, records):
        out = model["inner"](x)
        tracker.step(labels=labels)
    out = (out[0] if isinstance(out, tuple) else out).transpose(0, 1)
    feats = {"last": out[:, -1], "gap": out.mean(1), "cls": out[:, 0], "flatten": out.flatten(1)}
    expected = ncfast.rnc1(feats[pool].detach(), labels, num_classes=3).item()
    assert records[0]["train/rnc1.max"] == pytest.approx(expected, rel=1e-5)


UNMEASURABLE = {
    "soft labels": torch.rand(200, 5),
    "float labels": Y.float(),
    "labels of tokens": Y.reshape(100, 2),
    "out of range": Y + 1,
    "too few": Y[:100],
}


@pytest.mark.parametrize("kind", UNMEASURABLE)
def test_labels_that_cannot_be_measured_end_neither_steps_nor_snapshots(kind):
    """A callback must not end a training: it is said once, by either."""
    model, labels = network(), UNMEASURABLE[kind]
    with tracked(model) as (tracker, records):
        model(X)
        with pytest.warns(RuntimeWarning, match="Step 1: Layer '2:input' is not measured"):
            tracker.step(labels=labels)
        tracker.snapshot([(X, labels)])  # the same layer: said
        model(X)
        tracker.step(labels=Y)
        tracker.snapshot([(X, Y)])
    assert records[-1]["train/rnc1.max"] == value_of(model[:2](X))
    assert records[-1]["test/rnc1.max"] == value_of(model[:2](X))
    assert not any("test/rnc1.max" in record for record in records[:-1])
    with tracked(network()) as (tracker, _), pytest.warns(RuntimeWarning, match="not measured"):
        tracker.snapshot([(X, labels)])


def test_a_layer_that_fails_in_one_batch_is_left_out_of_its_snapshot():
    """Half a split under the name of the whole would be a wrong number."""
    with (
        tracked(network()) as (tracker, records),
        pytest.warns(RuntimeWarning, match="not measured"),
    ):
        tracker.snapshot([(X, Y), (X[:9], Y[:9] + 5), (X, Y)])
    assert "test/rnc1.max" not in records[0]


def test_soft_labels_still_have_their_loss():
    soft = torch.softmax(torch.randn(200, 5), 1)
    model = network()
    with (
        tracked(model) as (tracker, records),
        pytest.warns(RuntimeWarning, match="not measured"),
    ):
        tracker.snapshot([(X, soft)], loss=nn.CrossEntropyLoss())
    expected = nn.functional.cross_entropy(model(X), soft).item()
    assert records == [{"step": 0, "test/loss": pytest.approx(expected, rel=1e-6)}]


def test_features_and_labels_passed_by_hand_raise():
    tracker = Tracker(num_classes=5)
    with pytest.raises(TypeError, match="Expected argument `labels`"):
        tracker.step(feats=X, labels=Y.float())
    with pytest.raises(ValueError, match="Expected argument `labels` to lie in"):
        tracker.step(feats=X, labels=Y + 1)
    tracker.close()


def test_a_batch_without_rows_is_left_out():
    with tracked(network()) as (tracker, records):
        with pytest.warns(RuntimeWarning, match="Step 1: A batch without rows"):
            tracker.step(feats=X[:0], labels=Y[:0])
        with pytest.warns(RuntimeWarning, match="without labels"):
            tracker.snapshot([(X[:0], Y[:0]), (X, Y)])
    assert records[0]["test/accuracy"] >= 0


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(12, 8), nn.Linear(8, 5)

    def forward(self, a, b):
        return self.head(torch.relu(self.body(a + b)))


class OneDict(TwoInputs):
    def forward(self, batch):
        return super().forward(batch["a"], batch["b"])


ZERO = torch.zeros_like(X)
BATCHES = {
    "pair": (nn.Sequential, (X, Y)),
    "list": (nn.Sequential, [X, Y]),
    "with an index": (nn.Sequential, (X, Y, torch.arange(200))),
    "arrays": (nn.Sequential, (X.numpy(), Y.numpy())),
    "labels of a list": (nn.Sequential, (X, Y.tolist())),
    "dict": (nn.Sequential, {"image": X, "label": Y}),
    "dict of two": (TwoInputs, {"a": X, "b": ZERO, "labels": Y}),
    "pair with a dict": (TwoInputs, ({"a": X, "b": ZERO.numpy()}, Y)),
    "pair with a tuple": (TwoInputs, ((X, ZERO), Y)),
    "pair with a list": (TwoInputs, ([X, ZERO], Y)),
    "a dict is the argument": (OneDict, ({"a": X, "b": ZERO}, Y)),
}


@pytest.mark.parametrize("kind", BATCHES)
def test_batches_as_loaders_yield_them(kind):
    made, batch = BATCHES[kind]
    model = network() if made is nn.Sequential else made()
    with tracked(model) as (tracker, records):
        tracker.snapshot([batch])
    hidden = model[:2](X) if made is nn.Sequential else torch.relu(model.body(X))
    assert records[0]["test/rnc1.max"] == value_of(hidden)
    assert "test/accuracy" in records[0]


def test_a_loader_of_several_inputs():
    loader = DataLoader(TensorDataset(X, ZERO, Y), batch_size=50)
    with tracked(TwoInputs()) as (tracker, records):
        tracker.snapshot((([a, b], y) for a, b, y in loader))
    assert "test/rnc1.max" in records[0]


@pytest.mark.parametrize("batches", [(X, Y), [X], [{"image": X}], ["ab"], [(X, "labels")], [(X,)]])
def test_what_is_no_batch_is_named(batches):
    tracker = Tracker(network(), num_classes=5)
    with pytest.raises(TypeError, match=r"batch.*but got (a |Tensor|str|dict)"):
        tracker.snapshot(batches)
    tracker.close()


def test_a_saved_model_needs_no_ncfast(tmp_path):
    """torch.save(model) while it is tracked must not tie the file to this package."""
    model = network()
    with tracked(model):
        torch.save(model, tmp_path / "model.pt")
        torch.save(copy.deepcopy(model), tmp_path / "copy.pt")
    code = """
        import sys
        sys.modules["ncfast"] = None
        import torch
        for name in sys.argv[1:]:
            model = torch.load(name, weights_only=False)
            print(tuple(model(torch.zeros(2, 12)).shape))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), tmp_path / "model.pt", tmp_path / "copy.pt"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split("\n")[:2] == ["(2, 5)"] * 2


def test_models_saved_by_version_0_1_still_load():
    from ncfast.tracking.capture import _idle_hook

    assert _idle_hook()(None, (), None) is None


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_exported_and_traced_calls_leave_nothing_behind():
    model = network()
    with tracked(model) as (tracker, records):
        torch.export.export(model, (X,))
        torch.jit.trace(model, OTHER, check_trace=False)  # the check is a pass like any other
        torch.fx.symbolic_trace(model)
        with pytest.warns(RuntimeWarning, match="saw no data"):
            tracker.step(labels=Y)
        model(X)
        if hasattr(torch.compiler, "is_exporting"):  # torch 2.6 does not tell
            torch.export.export(model, (OTHER,))
        tracker.step(labels=Y)
    assert [record["step"] for record in records] == [2]
    assert records[0]["train/rnc1.max"] == value_of(model[:2](X))


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_scripting_a_tracked_model_says_what_to_do():
    model = network()
    with tracked(model), pytest.raises(AttributeError, match=r"Script the model before .*close"):
        torch.jit.script(model)
    assert torch.jit.script(model)(X).shape == (200, 5)


def test_a_extractor_model_serves_one_tracker_after_another():
    """Its taps are part of the model; closing a tracker lets them rest."""
    extractor = FeatureExtractor(network())
    for _ in range(2):
        with tracked(extractor) as (tracker, records):
            extractor(X)
            tracker.step(labels=Y)
        assert records[0]["train/rnc1.max"] == value_of(extractor.module[:2](X))


class Odd(nn.Module):
    def __init__(self, parameter):
        super().__init__()
        self.odd = nn.Parameter(parameter, requires_grad=False)
        self.head = nn.Linear(12, 5)

    def forward(self, x):
        return self.head(x)


def test_the_norm_of_complex_parameters():
    model = Odd(torch.tensor([3 + 4j]).conj())
    with tracked(model, metrics="default") as (tracker, records):
        model(X)
        tracker.step(labels=Y)
    rest = ncfast.weight_norm(model.head).item()
    assert records[0]["weight.norm"] == pytest.approx((25 + rest**2) ** 0.5)


def test_the_norm_of_integer_parameters_is_left_out():
    """They may be codes of a quantised layer; the other metrics are there."""
    model = Odd(torch.tensor([3], dtype=torch.int8))
    with tracked(model, metrics="default") as (tracker, records):
        model(X)
        with pytest.warns(RuntimeWarning, match=r"weight\.norm is not measured.*torch\.int8"):
            tracker.step(labels=Y)
        model(X)
        tracker.step(labels=Y)
        tracker.snapshot([(X, Y)])
    assert "weight.norm" not in records[0]
    assert "train/rnc1.max" in records[1]


def test_whole_numbers_of_numpy_and_no_others():
    feats, labels = classes()
    tracker = Tracker(num_classes=np.int64(5), every=np.int64(2))
    for _ in range(2):
        tracker.step(feats=feats, labels=labels)
    assert type(tracker.num_classes) is int
    with pytest.raises(TypeError, match="whole number of steps but got 2.5"):
        Tracker(num_classes=5, every=2.5)
    with pytest.raises(TypeError, match="`num_classes`"):
        Tracker(num_classes=5.0)


def test_nothing_warns_in_an_ordinary_loop():
    model = network()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with tracked(model, every=3) as (tracker, records):
            for _ in range(9):
                model(X).sum().backward()
                tracker.step(labels=Y)
                with torch.no_grad():
                    model(OTHER)
                tracker.snapshot([(X, Y)]) if tracker.due else None
    assert [r["step"] for r in records] == [3, 6, 9]
