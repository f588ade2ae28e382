"""Tests the callback for Lightning."""

import os
import warnings

import lightning
import pytest
import torch
from ranks import run_ranks
from samples import classes
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import ncfast
from ncfast.integrations import split
from ncfast.integrations.lightning import CollapseCallback
from ncfast.metrics.catalogue import CATALOGUE
from ncfast.tracking import read_records

pytestmark = pytest.mark.filterwarnings("ignore:::lightning", "ignore:::torch")


class Module(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(12, 8), nn.Linear(8, 5)
        self.seen = []

    def forward(self, x):
        return self.head(self.body(x).relu())

    def training_step(self, batch, index):
        self.seen.append(index)
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, index, dataloader_idx=0):
        self(batch[0])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


def loader(batch_size=50):
    x, y = classes(dtype=torch.float32)
    return DataLoader(TensorDataset(x, y), batch_size=batch_size)


def fit(callback, module=None, val=None, **options):
    module = module or Module()
    trainer = lightning.Trainer(**{"max_epochs": 2, "callbacks": [callback], **QUIET, **options})
    trainer.fit(module, loader(), val)
    return module


def test_batches_and_the_validation_split():
    records = []
    callback = CollapseCallback(num_classes=5, metrics="rnc1", sinks=[records.append])
    module = fit(callback, val=loader(64))
    assert [record["step"] for record in records] == list(range(1, 9))
    assert [r["step"] for r in records if "val/rnc1.max" in r] == [4, 8]
    assert all("train/loss" in record for record in records)
    x, y = classes(dtype=torch.float32)
    hidden = module.body(x).relu()
    expected = ncfast.rnc1(hidden, y, num_classes=5).item()
    assert records[-1]["val/rnc1.max"] == pytest.approx(expected, rel=1e-6)
    assert records[-1]["val/accuracy"] == pytest.approx(
        (module(x).argmax(1) == y).double().mean().item()
    )


def test_a_step_is_an_optimiser_step():
    records = []
    callback = CollapseCallback(num_classes=5, metrics="rnc1", every=2, sinks=[records.append])
    module = fit(callback, accumulate_grad_batches=2)
    assert len(module.seen) == 8
    assert [record["step"] for record in records] == [2, 4]


def test_several_loaders_limits_and_rarer_snapshots():
    records = []
    callback = CollapseCallback(
        num_classes=5, metrics="rnc1", every=10**9, snapshots=2, sinks=[records.append]
    )
    module = fit(callback, val=[loader(50), loader(80)], max_epochs=3, limit_val_batches=1)
    assert [record["step"] for record in records] == [4, 12]
    x, y = classes(dtype=torch.float32)
    for index, size in enumerate((50, 80)):
        expected = ncfast.rnc1(module.body(x[:size]).relu(), y[:size], num_classes=5).item()
        assert records[-1][f"val_{index}/rnc1.max"] == pytest.approx(expected, rel=1e-6)


def test_training_is_bitwise_the_same_with_and_without():
    weights = []
    for callbacks in ([], [CollapseCallback(num_classes=5)]):
        lightning.seed_everything(3, verbose=False)
        module = Module()
        fit(None, module, loader(), callbacks=callbacks)
        weights.append(module.state_dict())
    assert all(torch.equal(weights[0][name], value) for name, value in weights[1].items())


def test_an_exception_loses_nothing():
    records = []

    class Failing(Module):
        def training_step(self, batch, index):
            if index == 2:
                raise ZeroDivisionError
            return super().training_step(batch, index)

    with pytest.raises(ZeroDivisionError):
        fit(CollapseCallback(num_classes=5, metrics="rnc1", sinks=[records.append]), Failing())
    assert [record["step"] for record in records] == [1, 2]


def test_resuming_continues_the_steps(tmp_path):
    records = []
    first = CollapseCallback(num_classes=5, metrics="rnc1")
    module = Module()
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=1,
        callbacks=[first],
        logger=False,
        default_root_dir=tmp_path,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, loader())
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    second = CollapseCallback(num_classes=5, metrics="rnc1", sinks=[records.append])
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=2,
        callbacks=[second],
        logger=False,
        default_root_dir=tmp_path,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Module(), loader(), ckpt_path=tmp_path / "last.ckpt")
    assert [record["step"] for record in records] == [5, 6, 7, 8]


def test_running_averages_are_part_of_a_checkpoint(tmp_path):
    """A resumed fit has the bits of one that was not interrupted, with two callbacks."""

    def records_of(epochs, path=None, saved=None, decays=(0.9, 0.5), **options):
        torch.manual_seed(0)
        records = [[] for _ in decays]
        callbacks = [
            CollapseCallback(
                num_classes=5, metrics="rnc1", stream=f"ema:{decay}", sinks=[found.append]
            )
            for decay, found in zip(decays, records, strict=True)
        ]
        settings = {**QUIET, "max_epochs": epochs, "callbacks": callbacks, **options}
        trainer = lightning.Trainer(**settings)
        trainer.fit(Module(), loader(), ckpt_path=path)
        if saved is not None:
            trainer.save_checkpoint(saved)
        return [[r["ema/train/rnc1.max"] for r in found] for found in records]

    whole = records_of(2)
    saved = tmp_path / "last.ckpt"
    before = records_of(1, saved=saved)
    after = records_of(2, saved)
    assert [[*a, *b] for a, b in zip(before, after, strict=True)] == whole
    assert whole[0] != whole[1]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        other = records_of(2, saved, decays=(0.9, 0.7))
    assert other[0] == after[0]
    (text,) = warned(caught)
    assert "Expected entry 'decay' of `state` to be 0.7" in text


def test_a_checkpoint_without_averages_is_unchanged(tmp_path):
    callback = CollapseCallback(num_classes=5, metrics="rnc1")
    trainer = lightning.Trainer(**QUIET, max_epochs=1, callbacks=[callback])
    trainer.fit(Module(), loader())
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    assert not any("ncfast" in key for key in torch.load(tmp_path / "last.ckpt"))


def val_batches(size):
    x, y = classes(dtype=torch.float32)
    return x[:size], y[:size]


def expected(module, size):
    x, y = val_batches(size)
    hidden = module.body(x.to(module.body.weight.dtype)).relu()
    return ncfast.rnc1(hidden, y, num_classes=5).item()


def warned(caught):
    """Messages of the warnings that came from ncfast."""
    return [str(w.message) for w in caught if "easur" in str(w.message)]


@pytest.mark.parametrize("precision", ["bf16-true", "64-true", "16-mixed", "bf16-mixed"])
def test_precisions(precision):
    """Validation runs in the precision of the training, and both are measured."""
    records = []
    callback = CollapseCallback(num_classes=5, metrics="rnc1", sinks=[records.append])
    module = fit(callback, val=loader(64), precision=precision)
    assert [record["step"] for record in records] == list(range(1, 9))
    assert all(0 < record["train/rnc1.max"] < 1 for record in records)
    tolerance = 1e-6 if precision == "64-true" else 0.02
    assert records[-1]["val/rnc1.max"] == pytest.approx(expected(module, 200), rel=tolerance)
    assert "val/accuracy" in records[-1]


class NoForward(Module):
    """Its steps call a submodule; there is no forward(x)."""

    forward = lightning.LightningModule.forward

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(self.body, nn.ReLU(), self.head)

    def training_step(self, batch, index):
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch, index, dataloader_idx=0):
        self.net(batch[0])


class TwoArguments(Module):
    """Its forward takes two arguments, and its batches are dicts with a tuple of inputs."""

    def forward(self, x, shift):
        return self.head(self.body(x + shift).relu())

    def training_step(self, batch, index):
        return {"loss": nn.functional.cross_entropy(self(*batch["pair"]), batch["label"])}

    def validation_step(self, batch, index, dataloader_idx=0):
        self(*batch["pair"])


class Pairs(torch.utils.data.Dataset):
    def __init__(self):
        self.x, self.y = classes(dtype=torch.float32)

    def __len__(self):
        return len(self.y)

    def __getitem__(self, index):
        return {"label": self.y[index], "pair": (self.x[index], torch.zeros(12))}


@pytest.mark.parametrize("module", [NoForward, TwoArguments])
def test_modules_without_a_forward_of_one_argument(module):
    """Their validations are measured like all others, with the accuracy."""
    records = []
    callback = CollapseCallback(num_classes=5, metrics="rnc1", sinks=[records.append])
    make = loader if module is NoForward else lambda size=50: DataLoader(Pairs(), size)
    module = module()
    trainer = lightning.Trainer(**QUIET, max_epochs=1, callbacks=[callback])
    trainer.fit(module, make(), make(64))
    assert [record["step"] for record in records] == [1, 2, 3, 4]
    assert all(0 < record["train/rnc1.max"] < 1 for record in records)
    assert all(record["train/loss"] > 0 for record in records)
    assert records[-1]["val/rnc1.max"] == pytest.approx(expected(module, 200), rel=1e-6)
    x, y = val_batches(200)
    right = module.head(module.body(x).relu()).argmax(1) == y
    assert records[-1]["val/accuracy"] == pytest.approx(right.double().mean().item())


def test_the_loss_is_the_one_that_the_training_step_returned():
    """The same with accumulated gradients, where Lightning divides the loss."""
    records, returned = [], []

    class Noting(Module):
        def training_step(self, batch, index):
            loss = super().training_step(batch, index)
            returned.append(loss.item())
            return loss

    callback = CollapseCallback(num_classes=5, metrics="rnc1", sinks=[records.append])
    fit(callback, Noting(), accumulate_grad_batches=4)
    assert [r["train/loss"] for r in records] == pytest.approx(returned[3::4], rel=1e-6)
    assert len(records) == 2


def test_loaders_of_a_dict_have_their_names():
    records = []
    callback = CollapseCallback(num_classes=5, metrics="rnc1", sinks=[records.append])
    module = fit(callback, val={"near": loader(50), "far": loader(80)}, limit_val_batches=1)
    for name, size in (("near", 50), ("far", 80)):
        assert records[-1][f"val_{name}/rnc1.max"] == pytest.approx(
            expected(module, size), rel=1e-6
        )


class Sink:
    """A sink of the user, which refuses records after it was closed."""

    def __init__(self):
        self.records, self.closed, self.starts = [], 0, 0

    def start(self, header):
        self.starts += 1

    def write(self, record):
        assert not self.closed
        self.records.append(record)

    def close(self):
        self.closed += 1


def test_a_second_fit_writes_too(tmp_path):
    """A sink object is still open; a path is appended to."""
    sink, path = Sink(), tmp_path / "log.jsonl"
    callback = CollapseCallback(num_classes=5, metrics="rnc1", snapshots=2, sinks=[sink, path])
    for _ in range(2):
        fit(callback, val=loader(64))
        assert not sink.closed
    assert [r["step"] for r in sink.records] == 2 * list(range(1, 9)), "a new Trainer counts anew"
    assert [r["step"] for r in read_records(path, all=True)] == 2 * list(range(1, 9))
    assert ["val/rnc1.max" in r for r in sink.records] == 2 * [*3 * [False], True, *4 * [False]]
    assert sink.starts == 2
    callback.close()
    callback.close()
    assert sink.closed == 1


def test_a_trainer_that_goes_on_continues_the_steps():
    records = []
    callback = CollapseCallback(num_classes=5, metrics="rnc1", sinks=[records.append])
    module = Module()
    trainer = lightning.Trainer(**QUIET, max_epochs=1, callbacks=[callback])
    trainer.fit(module, loader(), loader(64))
    trainer.fit_loop.max_epochs = 2
    trainer.fit(module, loader(), loader(64))
    trainer.validate(module, loader(64), verbose=False)  # after the fit: not measured
    assert [record["step"] for record in records] == list(range(1, 9))


SOFT = torch.eye(5)
LABELS = {
    "a label too large": lambda y: y + 1,
    "soft labels": lambda y: SOFT[y],
    "labels of tokens": lambda y: y[:, None].expand(-1, 7),
    "no numbers": lambda y: [str(label) for label in y.tolist()],
}


class Labelled(Module):
    """A split whose labels cannot be measured."""

    def __init__(self, change, stage):
        super().__init__()
        self.change, self.stage = change, stage

    def on_after_batch_transfer(self, batch, index):
        if self.trainer.validating or self.trainer.sanity_checking or not self.training:
            changed = self.stage == "val"
        else:
            changed = self.stage == "train"
        return (batch[0], self.change(batch[1]) if changed else batch[1])

    def training_step(self, batch, index):
        return self(batch[0]).square().mean()


@pytest.mark.parametrize("stage", ["train", "val"])
@pytest.mark.parametrize("kind", LABELS)
def test_labels_that_cannot_be_measured_end_no_training(kind, stage):
    """One warning; the other split is measured, and this one has no numbers."""
    records = []
    callback = CollapseCallback(num_classes=5, metrics="rnc1", sinks=[records.append])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(callback, Labelled(LABELS[kind], stage), val=loader(64))
    assert len(warned(caught)) == 1, warned(caught)
    other = "val" if stage == "train" else "train"
    assert records[-1][f"{other}/rnc1.max"] > 0
    assert not any(r.get(f"{stage}/rnc1.max", 0.0) > 0 for r in records)
    assert not any(r.get("val/accuracy", 0.0) > 0 for r in records if stage == "val")
    assert records[-1]["step"] == 8


@pytest.mark.parametrize("stage", ["train", "val"])
def test_a_label_of_minus_100_is_left_out(stage):
    records = []
    callback = CollapseCallback(num_classes=5, metrics="rnc1", sinks=[records.append])
    change = lambda y: torch.where(torch.arange(len(y)) == 3, -100, y)  # noqa: E731
    module = fit(callback, Labelled(change, stage), val=loader(200))
    assert all(record["train/rnc1.max"] > 0 for record in records)
    assert sum(r.get(f"{stage}/ignored", 0) for r in records) == (8 if stage == "train" else 2)
    x, y = val_batches(200)
    kept = torch.arange(200) != (3 if stage == "val" else -1)
    expected = ncfast.rnc1(module.body(x[kept]).relu(), y[kept], num_classes=5).item()
    assert records[-1]["val/rnc1.max"] == pytest.approx(expected, rel=1e-6)
    right = (module(x[kept]).argmax(1) == y[kept]).double().mean().item()
    assert records[-1]["val/accuracy"] == pytest.approx(right)


@pytest.mark.filterwarnings("ignore:metrics=.all. means:FutureWarning")
def test_every_metric():
    """All that have their inputs: everything but NC5."""
    records = []
    callback = CollapseCallback(num_classes=5, metrics="all", sinks=[records.append])
    module = fit(callback, val=loader(64))
    x, y = val_batches(200)
    head = {"weight": module.head.weight, "bias": module.head.bias}
    expected = ncfast.collapse_metrics(module.body(x).relu(), y, metrics="all", **head)
    assert set(expected) == {id_ for id_, of in CATALOGUE.items() if "ood" not in of.needs}
    for id_, value in expected.items():
        assert records[-1][f"val/{id_}"] == pytest.approx(value.item(), rel=1e-3), id_
        assert f"train/{id_}" in records[-1]


@pytest.mark.parametrize(
    ("id_", "text"), [("nc4.ncc_accuracy", "exceed 2 GiB"), ("nc1.pinv", "leaves out nc1.pinv")]
)
def test_what_exceeds_the_memory_limit_is_left_out(monkeypatch, id_, text):
    """A value of some of the rows would be wrong, and 8 D^2 bytes may be all that there are."""
    monkeypatch.setattr(split, "MEMORY", 500)
    records = []
    callback = CollapseCallback(num_classes=5, metrics=["rnc1.max", id_], sinks=[records.append])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        fit(callback, val=loader(64))
    assert sum(text in str(w.message) for w in caught) == 1
    assert records[-1]["val/rnc1.max"] > 0
    assert f"val/{id_}" not in records[-1]
    assert records[-1][f"train/{id_}"] > 0


class Sequences(Module):
    """A label for each token of sequences of 4, and for the token after it."""

    def training_step(self, batch, index):
        return self(batch["x"]).square().mean()

    def validation_step(self, batch, index, dataloader_idx=0):
        self(batch["x"])


class Tokens(torch.utils.data.Dataset):
    def __init__(self):
        x, y = classes(dtype=torch.float32)
        self.x, self.y = x.view(50, 4, 12), y.view(50, 4)

    def __len__(self):
        return len(self.y)

    def __getitem__(self, index):
        mask = (torch.arange(4) < 2 + index % 3).long()
        return {"x": self.x[index], "attention_mask": mask, "labels": self.y[index]}


@pytest.mark.parametrize("shift", [0, 1])
def test_tokens(shift):
    records, data = [], Tokens()
    ids = ["rnc1.max", "nc4.ncc_accuracy"]
    callback = CollapseCallback(num_classes=5, metrics=ids, shift=shift, sinks=[records.append])
    module = Sequences()
    trainer = lightning.Trainer(**QUIET, max_epochs=1, callbacks=[callback])
    trainer.fit(module, DataLoader(data, 10), DataLoader(data, 7))
    mask = torch.stack([row["attention_mask"] for row in data]).bool()
    kept = mask[:, shift:] & mask[:, : 4 - shift]
    hidden = module.body(data.x).relu()[:, : 4 - shift][kept]
    labels = data.y[:, shift:][kept]
    for id_, value in ncfast.collapse_metrics(hidden, labels, num_classes=5, metrics=ids).items():
        assert records[-1][f"val/{id_}"] == pytest.approx(value.item(), rel=1e-5)
    assert records[-1]["val/ignored"] == 200 - kept.sum()
    right = module.head(hidden).argmax(1) == labels
    assert records[-1]["val/accuracy"] == pytest.approx(right.double().mean().item())
    assert all(record["train/rnc1.max"] > 0 for record in records)


def test_labels_that_are_a_list_are_measured():
    """As in a snapshot: both split batches with the same function."""
    records = []
    callback = CollapseCallback(num_classes=5, metrics="rnc1", sinks=[records.append])
    fit(callback, Labelled(lambda y: y.tolist(), "train"), val=loader(64), max_epochs=1)
    assert all(0 < record["train/rnc1.max"] < 1 for record in records)


def test_a_batch_that_is_not_understood_ends_no_training():
    records = []
    callback = CollapseCallback(
        num_classes=5, metrics="rnc1", unpack=lambda batch: batch["none"], sinks=[records.append]
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(callback, val=loader(64))
    assert len(warned(caught)) <= 2
    assert [record["step"] for record in records] == list(range(1, 9)), "the loss is logged"


def worker(rank, world, port, folder):
    """Join the other ranks, with the environment of torchrun."""
    names = ("RANK", "LOCAL_RANK", "GROUP_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_PORT")
    values = (rank, rank, 0, world, world, port)
    os.environ.update({name: str(value) for name, value in zip(names, values, strict=True)})
    os.environ.update(MASTER_ADDR="127.0.0.1", TORCHELASTIC_RUN_ID="test")
    warnings.simplefilter("ignore")
    ids = ["rnc1", "nc1.pinv", "nc4.agreement"]
    callback = CollapseCallback(num_classes=5, metrics=ids, sinks=[f"{folder}/metrics.jsonl"])
    torch.manual_seed(0)
    val = DataLoader(TensorDataset(*val_batches(103)), batch_size=50)  # padded to 104
    options = {"max_epochs": 1, "strategy": "ddp", "devices": world}
    module = fit(callback, val=[loader(50), val], **options)
    torch.save(module.state_dict(), f"{folder}/{rank}.pt")


def test_two_processes_measure_together(tmp_path):
    """Samples that a sampler repeats to give both ranks the same number count once."""
    run_ranks(worker, 2, str(tmp_path))
    records = list(read_records(tmp_path / "metrics.jsonl"))
    assert [record["step"] for record in records] == [1, 2], "two of four batches each"
    module = Module()
    module.load_state_dict(torch.load(tmp_path / "0.pt"))
    for index, size in enumerate((200, 103)):
        assert records[-1][f"val_{index}/rnc1.max"] == pytest.approx(
            expected(module, size), rel=1e-6
        )
        x, y = val_batches(size)
        head = {"weight": module.head.weight, "bias": module.head.bias}
        options = {"num_classes": 5, "metrics": ["nc1.pinv", "nc4.agreement"], **head}
        found = ncfast.collapse_metrics(module.body(x).relu(), y, **options)
        for id_, value in found.items():
            assert records[-1][f"val_{index}/{id_}"] == pytest.approx(value.item(), rel=1e-4)
        accuracy = (module(x).argmax(1) == y).double().mean().item()
        assert records[-1][f"val_{index}/accuracy"] == pytest.approx(accuracy)
