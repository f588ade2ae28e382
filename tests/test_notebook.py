"""Tests the example notebook, and what the results show in notebooks."""

import math
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

import ncfast
from ncfast.information import Estimate

NOTEBOOK = Path(__file__).parent.parent / "examples" / "notebook.ipynb"


@pytest.mark.slow
def test_the_example_runs_and_shows_tables(tmp_path):
    for name in ("nbclient", "ipykernel", "pandas"):
        pytest.importorskip(name, reason=f"the notebook needs {name}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of other libraries
        import nbclient
        import nbformat

        notebook = nbformat.read(NOTEBOOK, as_version=4)
        assert not any(cell.get("outputs") for cell in notebook.cells), "outputs are not kept"
        nbclient.NotebookClient(
            notebook, timeout=250, resources={"metadata": {"path": str(tmp_path)}}
        ).execute()
    shown = {
        cell.source.splitlines()[-1]: "".join(
            output.data.get("text/html", "")
            for output in cell.outputs
            if output.output_type in ("display_data", "execute_result")
        )
        for cell in notebook.cells
        if cell.cell_type == "code"
    }
    assert (
        "<td>accuracy</td>" in shown["ncfast.evaluate(model, test, num_classes=10, progress=True)"]
    )
    assert "ClassMoments: 797 samples, 10 classes, 64 columns" in "".join(shown.values())
    assert "nats</td>" in shown["ncfast.label_information(features, labels[1000:])"]
    assert "MLP on digits, weight decay 0.01" in shown["read_run(out)"]
    assert shown["read_run(out)"].count('<svg class="plot"') == 4


def test_records_are_a_data_frame(tmp_path):
    pandas = pytest.importorskip("pandas", reason="needs pandas")
    from ncfast.tracking import read_records

    log = tmp_path / "metrics.jsonl"
    log.write_text(
        '{"step": 1, "a": 0.5}\n{"step": 2, "a": null, "b": 3.0, "nonfinite": "a=-inf"}\n'
    )
    frame = pandas.DataFrame(read_records(log))
    assert frame["step"].tolist() == [1, 2]
    assert frame["a"].tolist() == [0.5, -math.inf]
    assert math.isnan(frame["b"][0])


def test_moments_show_their_classes():
    x = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 2.0]])
    shown = ncfast.class_moments(x, torch.tensor([0, 0, 1]), num_classes=3)._repr_html_()
    assert "ClassMoments: 3 samples, 3 classes, 2 columns" in shown
    assert "<td>0</td><td>2</td><td>2</td><td>1</td>" in shown
    assert "<td>2</td><td>0</td><td></td><td></td>" in shown, "an absent class has no mean"


def test_moments_of_many_classes_are_cut():
    labels = torch.arange(30)
    shown = ncfast.class_moments(torch.ones(30, 2), labels, num_classes=30)._repr_html_()
    assert shown.count("<td>1</td>") >= 20
    assert "10 more classes" in shown
    assert "<td>20</td>" not in shown


def test_moments_of_several_states_show_their_shape():
    one = ncfast.class_moments(torch.ones(3, 2), torch.arange(3))
    several = type(one)(*(torch.stack([value, value]) for value in vars(one).values()))
    assert "ClassMoments of (2,) states: 3 classes, 2 columns" in several._repr_html_()


def test_moments_with_gradients_can_be_shown():
    x = torch.rand(6, 2, requires_grad=True)
    moments = ncfast.class_moments(x, torch.arange(6) % 2, differentiable=True)
    assert "6 samples" in moments._repr_html_()


def test_an_estimate_shows_its_warnings():
    shown = Estimate(
        0.83, 0.01, n=2000, k=5, method="ksg", dims=(3, 2), warnings=("x < y",)
    )._repr_html_()
    assert "<td>value</td><td>0.8300 nats</td>" in shown
    assert "<td>columns</td><td>3, 2</td>" in shown
    assert "<p>Warning: x &lt; y</p>" in shown
    assert "neighbours" not in Estimate(1.0, 0.1, n=9, k=None, method="counts")._repr_html_()


def test_the_bar_of_a_notebook_is_asked_for_only_with_widgets():
    """In a plain process `tqdm.auto` is the bar of a terminal, and a log gets lines."""
    program = (
        "from ncfast.experiments.training.progress import Progress\n"
        "with Progress(0, 10) as bar:\n"
        "    bar.record({'step': 5, 'train/accuracy': 0.5, 'test/accuracy': 0.25})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stderr == "step 5/10  train 0.500  test 0.250\n"
