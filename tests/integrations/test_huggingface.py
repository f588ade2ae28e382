import pytest
import torch
from torch import nn
from transformers import Trainer, TrainingArguments
from transformers.modeling_outputs import SequenceClassifierOutput

import ncfast
from ncfast.integrations.huggingface import CollapseCallback

pytestmark = pytest.mark.filterwarnings(
    "ignore:::transformers", "ignore:::accelerate", "ignore:::torch"
)


class Model(nn.Module):
    """Speaks the language of the Trainer; the real library's own models are in the example."""

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


def train(callback, tmp_path, model=None, loss=None, **options):
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
        train_dataset=rows(),
        eval_dataset=rows(30, seed=1),
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
    trainer.evaluate()  # after the training nothing is measured, and nothing fails
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
