"""A step and a log point of F2 the way the paper's authors do them, against ours.

    python benchmarks/released_code.py --data-dir DATA --out benchmarks/results/released_code.json

Their way is written here from a reading of their public program (arXiv 2509.20829), it is not their
code: samples are decoded and normalised one by one in a data loader, AdamW is torch's default, a
log point takes accuracy and loss batch by batch on both splits and the collapse of the training
split in two more passes with a mask a class. Their logging service, their information estimates and
torchvision are left out; its two transforms are done with the same tensor operations.

First both must agree on images, accuracies, losses and collapse of the same network; only then are
they timed, interleaved, each round a ratio. Ours logs some twenty metrics more, on both splits.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from ncfast.benchmarks.plain.training import Trainer
from ncfast.experiments.config import TrainConfig
from ncfast.experiments.data import ImageSet, load
from ncfast.experiments.run_dir import versions
from ncfast.experiments.training.measure import measure_split, measure_weights, to_numbers
from ncfast.experiments.training.program import ReplicaProgram

CLASSES, TOLERANCE = 10, 1e-4
F2_STEPS, F2_LOG_POINTS = 100_000, 193
DECAYS = (0.3, 0.1, 0.03, 0.01)


class PerSample(Dataset[tuple[Tensor, int]]):
    """Images that are decoded and normalised when one is asked for."""

    def __init__(self, split: ImageSet) -> None:
        self.images, self.labels = split.inputs.squeeze(1), split.labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        picture = Image.fromarray(self.images[index].numpy())
        image = torch.from_numpy(np.array(picture, np.uint8, copy=True)).unsqueeze(0)
        image = image.contiguous().to(torch.float32).div(255)
        return image.sub_(0.1307).div_(0.3081), int(self.labels[index])


class TheirWay:
    """The network of F2, its training step and its log point."""

    def __init__(self, train: ImageSet, test: ImageSet, decay: float) -> None:
        layers: list[nn.Module] = [nn.Flatten(), nn.Linear(784, 200), nn.ReLU()]
        for _ in range(2):
            layers += [nn.Linear(200, 200), nn.ReLU()]
        self.model = nn.Sequential(*layers, nn.Linear(200, CLASSES))
        self.features = self.model[:-1]
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, weight_decay=decay)
        self.train = DataLoader(PerSample(train), batch_size=100, shuffle=True)
        self.test = DataLoader(PerSample(test), batch_size=100)
        self.one_hot = torch.eye(CLASSES)
        self.stream = self._forever()

    def _forever(self) -> Iterator[list[Tensor]]:
        while True:
            yield from self.train

    def step(self) -> None:
        self.update(*next(self.stream))

    def update(self, images: Tensor, labels: Tensor) -> None:
        self.optimizer.zero_grad()
        output = self.model(images)
        nn.functional.mse_loss(output, self.one_hot[labels], reduction="sum").backward()
        self.optimizer.step()

    @torch.no_grad()
    def log_point(self) -> dict[str, float]:
        found = {}
        for name, loader in (("train", self.train), ("test", self.test)):
            correct, loss, count = 0.0, 0.0, 0
            for images, labels in loader:
                output = self.model(images)
                correct += (output.argmax(1) == labels).sum().item()
                target = self.one_hot[labels]
                loss += nn.functional.mse_loss(output, target, reduction="sum").item()
                count += len(labels)
            found |= {f"{name}/accuracy": correct / count, f"{name}/loss": loss / count}
        found["weight norm"] = sum(p.norm() for p in self.model.parameters()).item()
        return found | self._collapse()

    def _collapse(self) -> dict[str, float]:
        sums, counts = torch.zeros(CLASSES, 200), [0] * CLASSES
        for images, labels in self.train:
            features = self.features(images)
            for c in range(CLASSES):
                mask = labels == c
                sums[c] += features[mask].sum(0)
                counts[c] += mask.sum().item()
        means, weights = (
            sums / torch.tensor(counts).unsqueeze(1),
            torch.tensor(counts) / sum(counts),
        )
        within = torch.zeros(())
        for images, labels in self.train:
            features = self.features(images)
            for c in range(CLASSES):
                within += (features[labels == c] - means[c]).norm() ** 2
        within /= sum(counts)
        between = (weights * (means - weights @ means).norm(dim=1).square()).sum()
        condition = torch.linalg.cond(means @ means.T).sqrt()
        return {"nc1": (within / between).item(), "nc2": condition.item()}


def ours_log_point(program: ReplicaProgram, train: ImageSet, test: ImageSet) -> dict[str, float]:
    records = [measure_weights(program, r) for r in range(len(program.configs))]
    for name, split in (("train", train), ("test", test)):
        found = measure_split(program, split, name)
        records = [{**one, **more} for one, more in zip(records, found, strict=True)]
    return to_numbers(records)[0]


def gate(theirs: TheirWay, program: ReplicaProgram, train: ImageSet, test: ImageSet) -> float:
    """Largest relative difference on one network; ends the program when it is too large."""
    with torch.no_grad():
        for own, other in zip(
            theirs.model.parameters(), program.model_state(0).values(), strict=True
        ):
            own.copy_(other)
    images = torch.stack([theirs.test.dataset[i][0] for i in range(100)])
    apart = [(images - test.batch(slice(100))[0]).abs().max().item()]
    one, two = theirs.log_point(), ours_log_point(program, train, test)
    pairs = {f"{s}/{k}": f"{s}/{k}" for s in ("train", "test") for k in ("accuracy", "loss")}
    for key, other in {**pairs, "nc2": "train/nc2.condition"}.items():
        apart.append(abs(one[key] - two[other]) / abs(two[other]))
    if max(apart) > TOLERANCE:
        raise SystemExit(f"not timed, the two ways differ by {apart}: {one} against {two}")
    return max(apart)


def seconds(function: Callable[[], object], times: int) -> float:
    start = time.perf_counter()
    for _ in range(times):
        function()
    return (time.perf_counter() - start) / times


def run(data_dir: Path | None, rounds: int, steps: int, replicas: int) -> dict[str, object]:
    train, test = load("mnist", data_dir=data_dir, train_size=1000)
    configs = [
        TrainConfig(
            out=Path("unused"), dataset="mnist", seed=42 + i // 4, weight_decay=DECAYS[i % 4]
        )
        for i in range(replicas)
    ]
    device = torch.device("cpu")
    theirs, trainer = TheirWay(train, test, DECAYS[0]), Trainer(configs[0], train, device)
    alone, many = ReplicaProgram(configs[:1], train, device), ReplicaProgram(configs, train, device)
    apart = gate(theirs, alone, train, test)
    for warm in (theirs.step, trainer.step, many.step):
        seconds(warm, 10)
    batch = next(theirs.stream)
    contenders: dict[str, tuple[Callable[[], object], int, int]] = {
        "step, theirs": (theirs.step, steps, 1),
        "step, theirs without the loader": (lambda: theirs.update(*batch), steps, 1),
        "step, ncfast train": (trainer.step, steps, 1),
        "step, ncfast sweep": (many.step, max(steps // replicas, 1), replicas),
        "log point, theirs": (theirs.log_point, 1, 1),
        "log point, ours alone": (lambda: ours_log_point(alone, train, test), 1, 1),
        "log point, ours in a sweep": (lambda: ours_log_point(many, train, test), 1, replicas),
    }
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, (function, times, share) in contenders.items():
            taken[name].append(seconds(function, times) / share)
    return {
        "gate, largest relative difference": apart,
        "rounds": rounds,
        "replicas in the sweep": replicas,
        "milliseconds, median": {k: 1e3 * statistics.median(v) for k, v in taken.items()},
        "times as fast as theirs": ratios(taken),
    }


def ratios(taken: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Median and range over the rounds, of each part and of the whole of F2."""
    ways = {"theirs": "theirs", "ncfast train": "ours alone", "ncfast sweep": "ours in a sweep"}
    every = dict(taken)
    for step, log in ways.items():
        pairs = zip(taken[f"step, {step}"], taken[f"log point, {log}"], strict=True)
        every[f"all of F2, {step}"] = [F2_STEPS * s + F2_LOG_POINTS * p for s, p in pairs]
    found = {}
    for name, values in every.items():
        if not name.endswith("theirs"):
            base = every[f"{name.split(',')[0]}, theirs"]
            rounds = [a / b for a, b in zip(base, values, strict=True)]
            found[name] = {
                "median": statistics.median(rounds),
                "least": min(rounds),
                "most": max(rounds),
            }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--replicas", type=int, default=8)
    options = parser.parse_args()
    content = {
        "versions": versions(),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "results": run(options.data_dir, options.rounds, options.steps, options.replicas),
    }
    text = json.dumps(content, indent=2)
    if options.out:
        options.out.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
