"""Tests the callback for the Trainer of Hugging Face transformers."""

import math
import os
import warnings
from pathlib import Path

import pytest
import torch
from ranks import run_ranks
from torch import nn
from transformers import (
    BartConfig,
    BartForCausalLM,
    BertConfig,
    BertForTokenClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    PretrainedConfig,
    Trainer,
    TrainingArguments,
)
from transformers.modeling_outputs import SequenceClassifierOutput

import ncfast
from ncfast.integrations.huggingface import CollapseCallback, shifts_labels
from ncfast.metrics.catalogue import CATALOGUE
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


BERT = {"vocab_size": 20, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
GPT2 = {"vocab_size": 20, "n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 9}
DROPOUTS = ("hidden_dropout_prob", "attention_probs_dropout_prob")  # of BERT
NO_DROPOUT = dict.fromkeys((*DROPOUTS, "resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
FROZEN = {"learning_rate": 0.0, "per_device_train_batch_size": 12}  # steps see what evaluations see


def sentences(size=12, labelled=True):
    """Sequences of 9 ids of which the last few are padding; labels of -100 there."""
    generator = torch.Generator().manual_seed(5)
    made = []
    for index in range(size):
        ids = torch.randint(20, (9,), generator=generator)
        mask = (torch.arange(9) < 5 + index % 5).long()
        labels = torch.where(mask > 0, ids % 3 if labelled else ids, -100)
        labels[0] = -100
        made.append({"input_ids": ids, "attention_mask": mask, "labels": labels})
    return made


def stacked(split, key):
    return torch.stack([row[key] for row in split])


def test_every_token_with_a_label_is_measured(tmp_path):
    records, split = [], sentences()
    torch.manual_seed(0)
    config = BertConfig(num_labels=3, num_attention_heads=2, **BERT, **NO_DROPOUT)
    model = BertForTokenClassification(config)
    ids = ["rnc1", "nc1.pinv", "nc3.self_duality", "nc4.agreement"]
    callback = CollapseCallback(num_classes=3, metrics=ids, sinks=[records.append])
    train(callback, tmp_path, model, train_dataset=split, eval_dataset=split, **FROZEN)
    kept = stacked(split, "labels") != -100
    assert records[-1]["eval/ignored"] == (~kept).sum()
    model.eval()
    inputs = {key: stacked(split, key) for key in ("input_ids", "attention_mask")}
    feats, labels = model.bert(**inputs).last_hidden_state[kept], stacked(split, "labels")[kept]
    head = {"weight": model.classifier.weight, "bias": model.classifier.bias}
    expected = ncfast.collapse_metrics(feats, labels, metrics=ids, **head)
    for id_, value in expected.items():
        assert records[-1][f"eval/{id_}"] == pytest.approx(value.item(), rel=1e-4)
        assert records[-1][f"train/{id_}"] == pytest.approx(value.item(), rel=1e-4)
    accuracy = (model(**inputs).logits[kept].argmax(1) == labels).double().mean()
    assert records[-1]["eval/accuracy"] == pytest.approx(accuracy.item())


def test_causal_models_are_measured_against_the_next_token(tmp_path):
    """Their loss shifts the labels."""
    records, split = [], sentences(labelled=False)
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(**GPT2, **NO_DROPOUT))
    callback = CollapseCallback(num_classes=20, metrics="nc1.cdnv", sinks=[records.append])
    train(callback, tmp_path, model, train_dataset=split, eval_dataset=split, **FROZEN)
    model.eval()
    ids, mask, labels = (stacked(split, k) for k in ("input_ids", "attention_mask", "labels"))
    kept = labels[:, 1:] != -100
    hidden = model.transformer(ids, attention_mask=mask).last_hidden_state[:, :-1]
    expected = ncfast.cdnv(hidden[kept], labels[:, 1:][kept], num_classes=20)
    for stage in ("train", "eval"):
        assert records[-1][f"{stage}/nc1.cdnv"] == pytest.approx(expected.item(), rel=1e-4)
        assert records[-1][f"{stage}/ignored"] == labels.numel() - kept.sum()
    logits = model(ids, attention_mask=mask).logits[:, :-1][kept]
    accuracy = (logits.argmax(1) == labels[:, 1:][kept]).double().mean().item()
    assert records[-1]["eval/accuracy"] == pytest.approx(accuracy)


@pytest.mark.parametrize("pool", ["last", "gap"])
def test_pooling_over_tokens_leaves_out_padding(tmp_path, pool):
    """The classifier of GPT-2 reads the last token that is no padding."""
    records, split = [], [{**row, "labels": row["labels"].max()} for row in sentences(20)]
    torch.manual_seed(0)
    config = GPT2Config(num_labels=3, pad_token_id=19, **GPT2)
    for row in split:
        row["input_ids"] = torch.where(row["attention_mask"] > 0, row["input_ids"] % 19, 19)
    model = GPT2ForSequenceClassification(config)
    callback = CollapseCallback(
        num_classes=3, layers="transformer", pool=pool, metrics="rnc1", sinks=[records.append]
    )
    train(callback, tmp_path, model, train_dataset=split, eval_dataset=split)
    model.eval()
    ids, mask, labels = (stacked(split, k) for k in ("input_ids", "attention_mask", "labels"))
    hidden = model.transformer(ids, attention_mask=mask).last_hidden_state
    share = mask / mask.sum(1, keepdim=True)
    pooled = {
        "last": hidden[torch.arange(len(ids)), mask.sum(1) - 1],
        "gap": (share.unsqueeze(2) * hidden).sum(1),
    }
    expected = ncfast.rnc1(pooled[pool], labels, num_classes=3).item()
    assert records[-1]["eval/rnc1.max"] == pytest.approx(expected, rel=1e-4)
    assert all(record["train/rnc1.max"] > 0 for record in records)


def test_which_models_shift_labels():
    """BartForCausalLM takes labels that are shifted already."""
    bart = {"d_model": 8, "decoder_layers": 1, "decoder_ffn_dim": 8, "decoder_attention_heads": 2}
    assert shifts_labels(GPT2LMHeadModel(GPT2Config(**GPT2)))
    assert not shifts_labels(BartForCausalLM(BartConfig(vocab_size=20, **bart)))
    assert not shifts_labels(BertForTokenClassification(BertConfig(num_attention_heads=2, **BERT)))
    assert not shifts_labels(Model())


@pytest.mark.filterwarnings("ignore:metrics=.all. means:FutureWarning")
def test_every_metric(tmp_path):
    """All that have their inputs: everything but NC5."""
    records = []
    callback = CollapseCallback(num_classes=3, metrics="all", sinks=[records.append])
    model, _ = train(callback, tmp_path)
    x, y = (stacked(rows(30, seed=1), key) for key in ("x", "labels"))
    head = {"weight": model.head.weight, "bias": model.head.bias}
    expected = ncfast.collapse_metrics(model.body(x).relu(), y, metrics="all", **head)
    assert set(expected) == {id_ for id_, of in CATALOGUE.items() if "ood" not in of.needs}
    for id_, value in expected.items():
        # a batch norm or a threshold amplifies what another batch size rounds
        assert records[-1][f"eval/{id_}"] == pytest.approx(value.item(), rel=1e-3, nan_ok=True), id_
        assert f"train/{id_}" in records[-1]


@pytest.mark.parametrize("stage", ["train", "eval"])
def test_a_label_of_minus_100_is_left_out(tmp_path, stage):
    records = []
    callback = CollapseCallback(num_classes=3, metrics="rnc1", sinks=[records.append])
    sets = {"train": rows(), "eval": rows(30, seed=1)}
    sets[stage][7]["labels"] = torch.tensor(-100)
    model, _ = train(callback, tmp_path, train_dataset=sets["train"], eval_dataset=sets["eval"])
    assert all(record["train/rnc1.max"] > 0 for record in records)
    ignored = [record.get(f"{stage}/ignored", 0) for record in records]
    assert sum(ignored) == 2, "once in each epoch"
    kept = [row for row in sets["eval"] if row["labels"] >= 0]
    assert records[-1]["eval/rnc1.max"] == pytest.approx(expected(model, kept), rel=1e-6)
    x, y = stacked(kept, "x"), stacked(kept, "labels")
    accuracy = (model(x=x).logits.argmax(1) == y).double().mean().item()
    assert records[-1]["eval/accuracy"] == pytest.approx(accuracy)


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
        assert [r["step"] for r in read_records(log, all=True)] == 2 * list(range(1, 9))
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

    class Broken(CollapseCallback):
        """On rank 1, the labels of the batch with -100 are out of range."""

        def _targets_of(self, model, inputs):
            labels, mask = super()._targets_of(model, inputs)
            return (torch.where((labels == -100).any(), 7, labels), mask)

    ids = ["rnc1", "nc1.pinv", "nc3.self_duality", "nc4.agreement"]
    callback = Broken(num_classes=3, metrics=ids, sinks=[f"{folder}/metrics.jsonl"])
    torch.manual_seed(0)
    options = {"per_device_train_batch_size": 5, "ddp_backend": "gloo", "num_train_epochs": 1}
    sets = {"a": rows(30, seed=1), "b": rows(17, seed=2)}  # 7 + 7 | 2 + 1: the second is padded
    sets["c"] = rows(28)
    sets["c"][-1]["labels"] = torch.tensor(-100)  # on rank 1 alone
    model, _ = train(callback, Path(folder), eval_dataset=sets, **options)
    torch.save(model.state_dict(), f"{folder}/{rank}.pt")


def test_two_processes_measure_together(tmp_path):
    """Samples that accelerate repeats to fill the last batches count once.

    Labels out of range on one rank make their set NaN on all, end no training and keep nobody
    waiting.
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
        head = {"weight": model.head.weight, "bias": model.head.bias}
        x, y = (stacked(split, key) for key in ("x", "labels"))
        hidden = model.body(x).relu()
        ids = ["nc1.pinv", "nc3.self_duality", "nc4.agreement"]
        for id_, found in ncfast.collapse_metrics(hidden, y, metrics=ids, **head).items():
            assert records[-1][f"eval_{name}/{id_}"] == pytest.approx(found.item(), rel=1e-4)
        accuracy = (model(x=x).logits.argmax(1) == y).double().mean().item()
        assert records[-1][f"eval_{name}/accuracy"] == pytest.approx(accuracy)
    assert math.isnan(records[-1]["eval_c/rnc1.max"])
    assert math.isnan(records[-1]["eval_c/nc4.agreement"])
