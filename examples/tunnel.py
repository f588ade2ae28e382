"""Measures every layer of a CNN and a ResNet18, and finds where their tunnels begin.

NC1 and the accuracy of the nearest class mean on unseen digits, layer by layer. Run it with
``python examples/tunnel.py``. It takes a few minutes on one core.
"""

import json
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import ncfast
from ncfast.experiments.models import CNN, ResNet18

OUT = Path("runs/tunnel")
METRICS = {"nc1.quotient": "NC1", "nc4.ncc_accuracy": "accuracy of the nearest class mean"}
EPOCHS = {"CNN": 30, "ResNet18": 12}
LAYERS = {
    "CNN": ["activation1", "activation2", "pool", "activation3"],
    "ResNet18": ["activation", *(f"stage{s}.{b}" for s in range(1, 5) for b in range(2))],
}


def digits() -> tuple[Tensor, Tensor]:
    found = load_digits()
    images = torch.tensor(found.images, dtype=torch.float32).unsqueeze(1) / 16
    return images, torch.tensor(found.target)


def train(model: nn.Module, images: Tensor, labels: Tensor, epochs: int) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    steps = epochs * (len(images) // 50)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    model.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(images)).split(50):
            loss = nn.functional.cross_entropy(model(images[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


def measure(name: str, model: nn.Module, images: Tensor, labels: Tensor) -> ncfast.Evaluation:
    """All layers in one pass over the data; the ResNet's maps are averaged over their positions."""
    layers = [f"features.{layer}" for layer in LAYERS[name]]
    pool = dict.fromkeys(layers, "flatten" if name == "CNN" else "gap")
    batches = list(zip(images.split(200), labels.split(200), strict=True))
    return ncfast.evaluate(
        model,
        batches,
        layers=layers,
        pool=pool,
        metrics=list(METRICS),
    )


def draw(found: dict[str, dict[str, ncfast.Evaluation]], path: Path) -> None:
    """A row for each network, a column for each metric; the tunnel is shaded."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7), layout="constrained")
    for row, (name, splits) in zip(figure.subplots(2, 2), found.items(), strict=True):
        for axis, (id_, title) in zip(row, METRICS.items(), strict=True):
            for split, of_split in splits.items():
                values = [of_split[f"{layer}/{id_}"] for layer in of_split.layers]
                axis.plot(values, "o-", label=f"{split} digits")
            layers = splits["unseen"].layers
            begin = layers.index(splits["unseen"].tunnel(id_))
            axis.axvspan(begin, len(layers) - 1, color="0.9", label="tunnel, of unseen digits")
            names = [layer.removeprefix("features.") for layer in layers]
            axis.set_xticks(range(len(names)), names, rotation=45, ha="right")
            axis.set(title=f"{name}: {title}", ylabel=id_)
            if id_ == "nc1.quotient":
                axis.set_yscale("log")
            else:
                axis.axhline(splits["unseen"]["accuracy"], color="0.5", ls="--", lw=1)
    figure.axes[0].legend()
    figure.savefig(path, dpi=110)


def main(epochs: dict[str, int] = EPOCHS, number: int = 1000) -> None:
    images, labels = digits()
    seen, unseen = slice(number), slice(number, 2 * number)
    found: dict[str, dict[str, ncfast.Evaluation]] = {}
    for name, network in {"CNN": CNN, "ResNet18": ResNet18}.items():
        torch.manual_seed(0)
        model = network((1, 8, 8), 10)
        train(model, images[seen], labels[seen], epochs[name])
        found[name] = {
            "training": measure(name, model, images[seen], labels[seen]),
            "unseen": measure(name, model, images[unseen], labels[unseen]),
        }
        last = found[name]["unseen"]
        print(f"{name}, unseen digits: {last}")
        for id_ in METRICS:
            print(f"{id_} stands still from {last.tunnel(id_)} on", flush=True)
    OUT.mkdir(parents=True, exist_ok=True)
    records = {
        name: {split: each.to_dict() for split, each in splits.items()}
        for name, splits in found.items()
    }
    (OUT / "records.json").write_text(json.dumps(records, indent=1))
    draw(found, OUT / "depth.png")
    print(f"Figure: {OUT / 'depth.png'}")


if __name__ == "__main__":
    main()
