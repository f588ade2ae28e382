"""Tests the callback for the Trainer of Hugging Face transformers."""

import math
import os
import warnings
from pathlib import Path

import pytest
import torch
from ranks import run_ranks
from torch import nn
from transformers import PretrainedConfig, Trainer, TrainingArguments
from transformers.modeling_outputs import SequenceClassifierOutput

import ncfast
from ncfast.integrations.huggingface import CollapseCallback
from ncfast.tracking import read_records
from ncfast.tracking.sinks import JsonlSink

pytestmark = pytest.mark.filterwarnings(
    "ignore:::transformers", "ignore:::accelerate", "ignore:::torch"
)


class Model(nn.Module):
    """A small model with the interface of the Trainer; the example uses models of the library."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(6, 4), nn.Linear(4, 3)

    def forward(self, x=None, labels=None):
        logits = self.head(self.body(x).relu())
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


def rows(size=40, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        {"x": torch.randn(6, generator=generator), "labels": torch.tensor(index % 3)}
        for index in range(size)
    ]


def train(
    callback, tmp_path, model=None, loss=None, train_dataset=None, eval_dataset=None, **options
):
    model = model or Model()
    arguments = {
        "output_dir": str(tmp_path),
        "num_train_epochs": 2,
        "per_device_train_batch_size": 10,
        "per_device_eval_batch_size": 7,
        "eval_strategy": "epoch",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        **options,
    }
    trainer = Trainer(
        model=model,
        args=TrainingArguments(**arguments),
        train_dataset=train_dataset or rows(),
        eval_dataset=eval_dataset or rows(30, seed=1),
        callbacks=[callback] if callback else [],
        compute_loss_func=loss,
    )
    trainer.train()
    return model, trainer


def test_batches_and_the_evaluation_split(tmp_path):
    records = []
    callback = CollapseCallback(num_classes=3, metrics="rnc1", sinks=[records.append])
    model, trainer = train(callback, tmp_path)
    assert [record["step"] for record in records] == list(range(1, 9))
    assert [r["step"] for r in records if "eval/rnc1.max" in r] == [4, 8]
    x = torch.stack([row["x"] for row in rows(30, seed=1)])
    y = torch.stack([row["labels"] for row in rows(30, seed=1)])
    expected = ncfast.rnc1(model.body(x).relu(), y, num_classes=3).item()
    assert records[-1]["eval/rnc1.max"] == pytest.approx(expected, rel=1e-6)
    accuracy = (model(x=x).logits.argmax(1) == y).double().mean().item()
    assert records[-1]["eval/accuracy"] == pytest.approx(accuracy)
    assert records[-1]["eval/loss"] > 0
    assert not model._forward_hooks
    assert not model._forward_pre_hooks
    trainer.evaluate()  # after the training nothing is measured and nothing fails
    assert len(records) == 8


def test_a_step_is_an_optimiser_step_and_snapshots_can_be_rarer(tmp_path):
    records = []
    callback = CollapseCallback(
        num_classes=3, metrics="rnc1", snapshots=2, sinks=[records.append], every=2
    )
    train(callback, tmp_path, gradient_accumulation_steps=2)
    assert [record["step"] for record in records] == [2, 4]
    assert ["eval/rnc1.max" in record for record in records] == [True, False]


def test_training_is_bitwise_the_same_with_and_without(tmp_path):
    weights = []
    for callback in (None, CollapseCallback(num_classes=3)):
        torch.manual_seed(0)
        model, _ = train(callback, tmp_path, Model(), seed=3)
        weights.append(model.state_dict())
    assert all(torch.equal(weights[0][name], value) for name, value in weights[1].items())


def test_labels_that_do_not_reach_the_model(tmp_path):
    records = []
    callback = CollapseCallback(num_classes=3, metrics="rnc1", sinks=[records.append])

    def loss(outputs, labels, num_items_in_batch=None):
        return nn.functional.cross_entropy(outputs.logits, labels)

    with pytest.warns(RuntimeWarning, match="without 'labels'.*compute_loss_func") as caught:
        train(callback, tmp_path, loss=loss)
    assert sum("without 'labels'" in str(w.message) for w in caught) == 1
    assert [record["step"] for record in records] == [4, 8], "the evaluation is measured"


def warned(caught):
    """Messages of the warnings that came from ncfast."""
    return [str(w.message) for w in caught if "easur" in str(w.message)]


def expected(model, split):
    x, y = (torch.stack([row[key] for row in split]) for key in ("x", "labels"))
    return ncfast.rnc1(model.body(x).relu(), y, num_classes=3).item()


def test_evaluation_sets_by_name(tmp_path):
    """Each set of a dict has its own keys and its own loss."""
    records, sets = [], {"near": rows(30, seed=1), "far": rows(20, seed=2)}
    callback = CollapseCallback(num_classes=3, metrics="rnc1", snapshots=2, sinks=[records.append])
    model, trainer = train(callback, tmp_path, eval_dataset=sets, num_train_epochs=3)
    assert [r["step"] for r in records if "eval_far/rnc1.max" in r] == [4, 12]
    for name, split in sets.items():
        assert records[-1][f"eval_{name}/rnc1.max"] == pytest.approx(expected(model, split))
        losses = [log for log in trainer.state.log_history if f"eval_{name}_loss" in log]
        assert records[-1][f"eval_{name}/loss"] == losses[-1][f"eval_{name}_loss"]
    assert not any(key.startswith("eval/") for record in records for key in record)


def test_label_smoothing(tmp_path):
    """It removes the labels in training: one warning; evaluations are measured."""
    records = []
    callback = CollapseCallback(num_classes=3, metrics="rnc1", sinks=[records.append])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = Model()
        model.config = PretrainedConfig()  # the Trainer reads the type of model from it
        train(callback, tmp_path, model, label_smoothing_factor=0.1)
    assert len(warned(caught)) == 1
    assert "Label smoothing" in warned(caught)[0]
    assert [record["step"] for record in records] == [4, 8]
    assert records[-1]["eval/rnc1.max"] == pytest.approx(expected(model, rows(30, seed=1)))


class Tokens(nn.Module):
    """A label for each of 5 tokens; -100 means no label."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(6, 4), nn.Linear(4, 3)

    def forward(self, x=None, labels=None):
        logits = self.head(self.body(x[:, None].expand(-1, 5, -1)).relu())
        labels = labels[:, None].expand(-1, 5).clone()
        labels[:, 0] = -100
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return SequenceClassifierOutput(loss=loss, logits=logits)


def test_token_level_models_end_no_training(tmp_path):
    """They cannot be measured: training and evaluations each warn once."""
    records = []
    callback = CollapseCallback(num_classes=3, metrics="rnc1", sinks=[records.append])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(callback, tmp_path, Tokens())
    assert 1 <= len(warned(caught)) <= 2
    assert not any("rnc1" in key for record in records for key in record)
    assert records[-1]["eval/loss"] > 0


@pytest.mark.parametrize("stage", ["train", "eval"])
def test_a_label_of_minus_100_ends_no_training(tmp_path, stage):
    """The other split is measured; this one has a warning and no numbers."""
    records = []
    callback = CollapseCallback(num_classes=3, metrics="rnc1", sinks=[records.append])
    sets = {"train": rows(), "eval": rows(30, seed=1)}
    sets[stage][7]["labels"] = torch.tensor(-100)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(callback, tmp_path, train_dataset=sets["train"], eval_dataset=sets["eval"])
    assert len(warned(caught)) == 1, warned(caught)
    measured = {s: [r.get(f"{s}/rnc1.max", math.nan) > 0 for r in records] for s in sets}
    assert sum(measured["train"]) == (6 if stage == "train" else 8), "one batch of each epoch"
    assert sum(measured["eval"]) == (2 if stage == "train" else 0)
    assert not any(r.get("eval/accuracy", 0) > 0 for r in records if stage == "eval")


def test_a_second_training_writes_too(tmp_path):
    """A sink object is still open; a path is appended to."""
    closed, path = [], tmp_path / "log.jsonl"

    class Sink(JsonlSink):
        def close(self):
            closed.append(True)
            super().close()

    sink = Sink(tmp_path / "own.jsonl")
    callback = CollapseCallback(num_classes=3, metrics="rnc1", sinks=[sink, str(path)])
    for _ in range(2):
        train(callback, tmp_path)
        assert not closed
    for log in (path, sink.path):
        assert [r["step"] for r in read_records(log)] == 2 * list(range(1, 9))
    callback.close()
    assert closed == [True]


def test_a_measurement_that_fails_ends_no_training(tmp_path):
    """Here the evaluation data cannot be read a second time."""
    records = []

    class Once(CollapseCallback):
        def _evaluate(self, model, loader, split):
            super()._evaluate(model, list(loader)[:2], split)
            raise OSError("the disk is gone")

    callback = Once(num_classes=3, metrics="rnc1", sinks=[records.append])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(callback, tmp_path)
    assert len(warned(caught)) == 1
    assert "OSError: the disk is gone" in warned(caught)[0]
    assert [record["step"] for record in records] == list(range(1, 9))
    assert math.isnan(records[-1]["eval/rnc1.max"]), "a part of the data is no measurement of all"


def worker(rank, world, port, folder):
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_PORT")
    values = (rank, rank, world, world, port)
    os.environ.update({name: str(value) for name, value in zip(names, values, strict=True)})
    os.environ.update(MASTER_ADDR="127.0.0.1")
    warnings.simplefilter("ignore")
    callback = CollapseCallback(num_classes=3, metrics="rnc1", sinks=[f"{folder}/metrics.jsonl"])
    torch.manual_seed(0)
    options = {"per_device_train_batch_size": 5, "ddp_backend": "gloo", "num_train_epochs": 1}
    sets = {"a": rows(30, seed=1), "b": rows(17, seed=2)}  # 7 + 7 | 2 + 1: the second is padded
    sets["c"] = rows(28)
    sets["c"][-1]["labels"] = torch.tensor(-100)  # on rank 1 alone
    model, _ = train(callback, Path(folder), eval_dataset=sets, **options)
    torch.save(model.state_dict(), f"{folder}/{rank}.pt")


def test_two_processes_measure_together(tmp_path):
    """Samples that accelerate repeats to fill the last batches count once.

    A label of -100 on one rank makes its set NaN on all, ends no training and keeps nobody waiting.
    """
    run_ranks(worker, 2, str(tmp_path))
    records = list(read_records(tmp_path / "metrics.jsonl"))
    assert [record["step"] for record in records] == [1, 2, 3, 4]
    assert all("train/rnc1.max" in record for record in records)
    model = Model()
    model.load_state_dict(torch.load(tmp_path / "0.pt"))
    for name, split in (("a", rows(30, seed=1)), ("b", rows(17, seed=2))):
        value = records[-1][f"eval_{name}/rnc1.max"]
        assert value == pytest.approx(expected(model, split), rel=1e-6)
        x, y = (torch.stack([row[key] for row in split]) for key in ("x", "labels"))
        accuracy = (model(x=x).logits.argmax(1) == y).double().mean().item()
        assert records[-1][f"eval_{name}/accuracy"] == pytest.approx(accuracy)
    assert math.isnan(records[-1]["eval_c/rnc1.max"])
