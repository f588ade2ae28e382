import json
import math
import sys
import types

import pytest
import torch
from torch import nn

import ncfast
from ncfast.evaluation import Evaluation
from ncfast.metrics.catalogue import CATALOGUE


def one_layer():
    return Evaluation(
        {"accuracy": 0.5, "nc1.pinv": 0.25, "nc2.condition": math.nan},
        layers=("fc:input",),
        dims=(16,),
        num_classes=3,
        samples=10,
        ignored=2,
        missing={"nc5.ood_cosine": "needs rows"},
    )


def several(layers=("block1", "block2")):
    numbers = {f"{layer}/rnc1.max": 0.1 / (i + 1) ** 3 for i, layer in enumerate(layers)}
    missing = {
        f"{layer}/{i}": "needs a classifier" for layer in layers for i in CATALOGUE if "nc3" in i
    }
    return Evaluation({"accuracy": 1.0, **numbers}, layers=tuple(layers), missing=missing)


def test_it_is_a_mapping():
    found = one_layer()
    assert len(found) == 3
    assert found["nc1.pinv"] == 0.25
    assert "nc5.ood_cosine" not in found
    assert found.to_dict().keys() == {*found}


def test_a_key_that_is_not_there_says_why():
    with pytest.raises(KeyError, match=r"'nc5\.ood_cosine' is not in.*it needs rows"):
        one_layer()["nc5.ood_cosine"]
    with pytest.raises(KeyError, match="'nc1.svd'.*it was not measured"):
        one_layer()["nc1.svd"]
    with pytest.raises(KeyError, match="a key is LAYER/ID, such as 'block1/rnc1.max'"):
        several()["rnc1.max"]
    with pytest.raises(KeyError, match=r"'loss'.*it has accuracy, "):
        one_layer()["loss"]
    assert one_layer().get("nc5.ood_cosine") is None


def test_a_meaning_stands_in_the_line_of_its_value():
    ids = {"rank.effective": 2.0, "imbalance.minority_cosine_weight": 0.5}
    found = Evaluation(ids, layers=("fc:input",), dims=(16,), num_classes=3, samples=10)
    lines = repr(found).splitlines()
    assert sum(line.startswith("metric") for line in lines) == 1
    effective = next(line for line in lines if line.startswith("rank.effective"))
    assert effective.split()[1:4] == ["2", "P", "-"]
    assert lines[-1] == "N: samples, D: columns, K: classes, P: classes that have a sample"
    assert "P: classes that have a sample" not in repr(one_layer())


def test_the_table_of_one_layer():
    lines = repr(one_layer()).splitlines()
    assert lines[0] == "10 samples, 3 classes, 16 columns, 2 left out, layer fc:input"
    assert lines[2].split() == ["metric", "value", "meaning"]
    assert lines[4].split() == ["nc1.pinv", "0.25", "0:", "collapsed"]
    assert lines[-1] == "left out: nc5.ood_cosine (needs rows)"


def test_the_table_of_several_layers():
    lines = repr(several()).splitlines()
    assert lines[2].split() == ["metric", "block1", "block2"]
    assert lines[4].split() == ["rnc1.max", "0.1", "0.0125"]
    assert lines[-1] == "left out for block1, block2: nc3.* (needs a classifier)"


def test_many_layers_are_split_into_tables_that_fit():
    text = repr(several([f"encoder.layer.{n}.output" for n in range(12)]))
    tables = [line for line in text.splitlines() if line.startswith("metric")]
    assert len(tables) == 4
    assert all(len(line) <= 100 for line in text.splitlines() if "left out" not in line)


def test_the_table_of_a_notebook_is_escaped():
    found = Evaluation({"a<b/rnc1.max": 1.0}, layers=("a<b", "c"))
    assert "<th>a&lt;b</th>" in found._repr_html_()
    assert "<td>0.25</td>" in one_layer()._repr_html_()


def test_save_writes_strict_json_with_conventions(tmp_path):
    path = tmp_path / "found.json"
    one_layer().save(path)

    def refuse(text):
        raise AssertionError(text)

    record = json.loads(path.read_text(), parse_constant=refuse)
    assert record["metrics"] == {"accuracy": 0.5, "nc1.pinv": 0.25, "nc2.condition": None}
    assert record["nonfinite"] == "nc2.condition=nan"
    assert record["samples"] == 10
    assert record["missing"] == {"nc5.ood_cosine": "needs rows"}
    assert "population normalisation 1/N" in record["conventions"]["Sigma_W"]
    assert "tracker/seconds" not in record["conventions"]
    assert record["definitions"]["nc1.pinv"]["formula"] == CATALOGUE["nc1.pinv"].formula
    assert [entry.name for entry in tmp_path.iterdir()] == ["found.json"]


def test_plot_draws_metrics_over_layers():
    pytest.importorskip("matplotlib")
    figure = several().plot(["rnc1.max", "accuracy"])
    left, right = figure.axes
    assert list(left.lines[0].get_ydata()) == [0.1, 0.0125]
    assert [left.get_title(), right.get_title()] == ["rnc1.max", "accuracy"]
    assert [label.get_text() for label in left.get_xticklabels()] == ["block1", "block2"]
    assert [axes.get_title() for axes in one_layer().plot().axes] == ["nc1.pinv"]
    with pytest.raises(ValueError, match=r"`metrics`.*\['nc9'\]. It has accuracy, rnc1.max"):
        several().plot(["nc9"])


def test_plot_leaves_out_what_only_one_layer_has():
    pytest.importorskip("matplotlib")
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    batches = [(torch.randn(20, 4), torch.arange(20) % 2)]
    ids = ["nc1.pinv", "nc3", "nc4"]
    found = ncfast.evaluate(model, batches, layers=["0", "2:input"], metrics=ids)
    assert "2:input/nc3.self_duality" in found
    drawn = {axes.get_title(): axes for axes in found.plot().axes}
    assert list(drawn) == ["nc1.pinv", "nc4.ncc_accuracy"]
    _, accuracy = drawn["nc4.ncc_accuracy"].lines
    assert list(accuracy.get_ydata()) == [found["accuracy"]] * 2


def depth(*values, id_="nc4.ncc_accuracy"):
    layers = tuple("abcdefg"[: len(values)])
    numbers = {f"{layer}/{id_}": value for layer, value in zip(layers, values, strict=True)}
    return Evaluation(numbers, layers=layers)


def test_the_tunnel_begins_where_a_metric_stands_still():
    assert depth(0.2, 0.5, 0.96, 0.99, 1.0).tunnel() == "c"
    assert depth(0.2, 0.5, 0.96, 0.99, 1.0).tunnel(tolerance=0.02) == "d"
    assert depth(0.2, 0.5, 0.96, 0.99, 1.0).tunnel(tolerance=0) == "e"
    assert depth(1.0, 0.5, 1.0, 1.0).tunnel() == "c", "a later layer moved away again"
    assert depth(0.9, 0.9).tunnel() == "a"
    assert depth(math.nan, 0.5, 0.5).tunnel() == "b"
    assert depth(4.0, 1.2, 1.0, 1.04, id_="nc1.quotient").tunnel("nc1.quotient") == "c"


@pytest.mark.parametrize(
    ("found", "options", "message"),
    [
        (one_layer(), {}, "several layers.*but got 1"),
        (depth(0.5, 1.0), {"metric": "nc1.pinv"}, "`metric`.*'nc1.pinv' has"),
        (depth(0.5, math.nan), {}, "`metric`.*nan"),
        (several(), {"metric": "accuracy"}, "`metric` to be an id.*'accuracy'"),
        (depth(0.5, 1.0), {"tolerance": -1}, "`tolerance` to be at least 0 but got -1"),
        (depth(0.5, 1.0), {"tolerance": math.nan}, "`tolerance`.*nan"),
    ],
)
def test_the_tunnel_of_something_else_is_an_error(found, options, message):
    with pytest.raises(ValueError, match=message):
        found.tunnel(**options)


def test_the_tunnel_of_a_network():
    """Layers after the first copy what they get, so that every metric stands still there."""
    torch.manual_seed(0)
    labels = torch.arange(200) % 4
    copies = [nn.Linear(6, 6, bias=False) for _ in range(2)]
    for copy in copies:
        nn.init.eye_(copy.weight)
    model = nn.Sequential(nn.Linear(4, 6), *copies, nn.Linear(6, 4))
    batches = [(torch.eye(4)[labels] + 0.3 * torch.randn(200, 4), labels)]
    found = ncfast.evaluate(model, batches, layers=["0", "1", "2"], metrics=["nc1", "nc4"])
    for id_ in ("nc4.ncc_accuracy", "nc1.quotient"):
        assert found.tunnel(id_) == "0"


def test_to_frame_has_a_row_for_each_metric(monkeypatch):
    """What pandas is given, and pandas itself where it is installed."""
    stub = types.ModuleType("pandas")
    stub.DataFrame = lambda columns, index: (columns, index)
    monkeypatch.setitem(sys.modules, "pandas", stub)
    columns, index = several().to_frame()
    assert index == ["accuracy", "rnc1.max"]
    assert columns == {"block1": [1.0, 0.1], "block2": [1.0, 0.0125]}
    monkeypatch.undo()
    pandas = pytest.importorskip("pandas", reason="needs pandas")
    frame = several().to_frame()
    assert isinstance(frame, pandas.DataFrame)
    assert frame.loc["rnc1.max", "block2"] == 0.0125


def test_to_frame_names_pandas_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ModuleNotFoundError, match="Evaluation.to_frame needs the package 'pandas'"):
        one_layer().to_frame()
