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
from ncfast.integrations.batches import inputs_and_labels
from ncfast.integrations.lightning import CollapseCallback
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


def loader(batch_size=50):
    x, y = classes(dtype=torch.float32)
    return DataLoader(TensorDataset(x, y), batch_size=batch_size)


def fit(callback, module=None, val=None, **options):
    module = module or Module()
    trainer = lightning.Trainer(
        **{
            "accelerator": "cpu",
            "max_epochs": 2,
            "callbacks": [callback],
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            **options,
        }
    )
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


def worker(rank, world, port, folder):
    """Joins the other ranks in the way torchrun sets up."""
    names = ("RANK", "LOCAL_RANK", "GROUP_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_PORT")
    values = (rank, rank, 0, world, world, port)
    os.environ.update({name: str(value) for name, value in zip(names, values, strict=True)})
    os.environ.update(MASTER_ADDR="127.0.0.1", TORCHELASTIC_RUN_ID="test")
    warnings.simplefilter("ignore")
    callback = CollapseCallback(num_classes=5, metrics="rnc1", sinks=[f"{folder}/metrics.jsonl"])
    torch.manual_seed(0)
    module = fit(callback, val=loader(50), max_epochs=1, strategy="ddp", devices=world)
    torch.save(module.state_dict(), f"{folder}/{rank}.pt")


def test_two_processes_measure_together(tmp_path):
    run_ranks(worker, 2, str(tmp_path))
    records = list(read_records(tmp_path / "metrics.jsonl"))
    assert [record["step"] for record in records] == [1, 2], "two of four batches each"
    module = Module()
    module.load_state_dict(torch.load(tmp_path / "0.pt"))
    x, y = classes(dtype=torch.float32)
    expected = ncfast.rnc1(module.body(x).relu(), y, num_classes=5).item()
    assert records[-1]["val/rnc1.max"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (torch.zeros(3), "got Tensor"),
        ({"image": 1}, r"got a dict with \['image'\]"),
        ([torch.zeros(3)], r"got list of \['Tensor'\]"),
    ],
)
def test_batches_that_are_not_understood(batch, message):
    with pytest.raises(TypeError, match=message + r"\. Pass unpack="):
        inputs_and_labels(batch)
