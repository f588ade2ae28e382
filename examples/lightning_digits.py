"""Tracks a Lightning module on the digits of scikit-learn with a callback.

Run it with ``python examples/lightning_digits.py``.
"""

import lightning
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ncfast.integrations.lightning import CollapseCallback
from ncfast.tracking import read_records

OUT = "runs/lightning_digits"


class Classifier(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU())
        self.head = nn.Linear(32, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(images))

    def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
        images, labels = batch
        return nn.functional.cross_entropy(self(images), labels)

    def validation_step(self, batch: list[torch.Tensor], index: int) -> None:
        images, labels = batch
        self.log("val_accuracy", (self(images).argmax(1) == labels).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


def main() -> None:
    lightning.seed_everything(0, verbose=False)
    found = load_digits()
    images = torch.tensor(found.data, dtype=torch.float32) / 16
    labels = torch.tensor(found.target)
    train = DataLoader(TensorDataset(images[:1000], labels[:1000]), batch_size=100, shuffle=True)
    val = DataLoader(TensorDataset(images[1000:], labels[1000:]), batch_size=400)

    ids = ["default", "nc1.pinv", "nc3.self_duality", "nc4.agreement"]
    callback = CollapseCallback(num_classes=10, metrics=ids, sinks=[f"{OUT}/metrics.jsonl"])
    trainer = lightning.Trainer(
        max_epochs=5,
        accelerator="cpu",
        callbacks=[callback],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
    )
    trainer.fit(Classifier(), train, val)

    *_, last = read_records(f"{OUT}/metrics.jsonl")
    print(
        f"step {last['step']}: validation accuracy {last['val/accuracy']:.3f}, "
        f"RNC1 {last['val/rnc1.max']:.4f}, NC4 agreement {last['val/nc4.agreement']:.3f}"
    )


if __name__ == "__main__":
    main()
