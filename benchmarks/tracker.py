"""What tracking costs: the time of a training step with and without it, interleaved.

Every way of logging trains its own copy of the network from the same seed. In each round every copy
makes a block of steps, a few at a time, in turn, so that a busy moment of the machine meets all of
them. A block's time includes waiting until its records are in the file. "off again" is a second
copy without tracking: what it shows beyond zero is noise.

    python benchmarks/tracker.py mlp --seconds 60 --out benchmarks/results/tracker.json
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from tracker_models import mlp, resnet18

import ncfast

Step = Callable[[], None]
CLASSES = 10
_TURN = 16  # steps: short beside what makes a machine slow for a while


class Loop:
    """A network in training on fixed random batches."""

    def __init__(self, build: Callable[[], nn.Module], shape: tuple[int, ...], batch: int) -> None:
        torch.manual_seed(0)
        self.model = build()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), weight_decay=0.01, fused=True)
        generator = torch.Generator().manual_seed(1)
        count = 10 if batch < 128 else 2
        self.batches = [
            (
                torch.randn(batch, *shape, generator=generator),
                torch.randint(CLASSES, (batch,), generator=generator),
            )
            for _ in range(count)
        ]
        self.done = 0

    def train(self) -> tuple[Tensor, Tensor, Tensor]:
        x, y = self.batches[self.done % len(self.batches)]
        self.done += 1
        logits = self.model(x)
        loss = nn.functional.cross_entropy(logits, y)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach(), logits.detach(), y


class Arm:
    """One way of logging: a step, and what makes sure that everything is written."""

    def __init__(self, loop: Loop, after: Callable[..., None], flush: Step = lambda: None) -> None:
        self.loop, self.after, self.flush = loop, after, flush
        self.seconds: list[float] = []

    def turn(self, steps: int, last: bool = True) -> float:
        """Seconds of a turn; the last of a block waits until everything is written."""
        start = time.perf_counter()
        for _ in range(steps):
            self.after(*self.loop.train())
        if last:
            self.flush()
        return time.perf_counter() - start


def off(loop: Loop, folder: Path) -> Arm:
    return Arm(loop, lambda loss, logits, y: None)


def tracked(**options: object) -> Callable[[Loop, Path], Arm]:
    def make(loop: Loop, folder: Path) -> Arm:
        path = Path(tempfile.mkdtemp(dir=folder)) / "metrics.jsonl"
        # the turns of the others must not make its records old
        tracker = ncfast.Tracker(
            loop.model, num_classes=CLASSES, sinks=[path], flush_seconds=60, **options
        )
        return Arm(loop, lambda loss, logits, y: tracker.step(labels=y), tracker.flush)

    return make


def items(loop: Loop, folder: Path) -> Arm:
    """What many loops do: loss and accuracy to the host at every step, a line of JSON each."""
    file = (Path(tempfile.mkdtemp(dir=folder)) / "log.jsonl").open("a", buffering=1)

    def after(loss: Tensor, logits: Tensor, y: Tensor) -> None:
        accuracy = (logits.argmax(1) == y).float().mean()
        record = {"step": loop.done, "loss": loss.item(), "accuracy": accuracy.item()}
        file.write(json.dumps(record) + "\n")

    return Arm(loop, after)


def torchmetrics_style(loop: Loop, folder: Path) -> Arm:
    from torchmetrics import MeanMetric, MetricCollection
    from torchmetrics.classification import MulticlassAccuracy

    accuracy = MetricCollection([MulticlassAccuracy(CLASSES)])
    mean = MeanMetric()
    file = (Path(tempfile.mkdtemp(dir=folder)) / "log.jsonl").open("a", buffering=1)

    def after(loss: Tensor, logits: Tensor, y: Tensor) -> None:
        values = accuracy(logits, y) | {"loss": mean(loss)}
        record = {"step": loop.done, **{name: value.item() for name, value in values.items()}}
        file.write(json.dumps(record) + "\n")

    return Arm(loop, after)


STANDARD = {"metrics": "standard"}
MLP_ARMS = {
    "off": off,
    "off again": off,
    "tracker, standard tier": tracked(**STANDARD),
    "tracker, standard tier, ema": tracked(**STANDARD, stream="ema:0.99"),
    "tracker, standard tier, window": tracked(**STANDARD, stream="window:100"),
    "tracker, rnc1 alone": tracked(metrics="rnc1"),
    "tracker, default set of nine": tracked(),
    "loss and accuracy by .item()": items,
    "torchmetrics accuracy and mean loss": torchmetrics_style,
}
RESNET_ARMS = {
    "off": off,
    "off again": off,
    "tracker, standard tier, four layers": tracked(
        **STANDARD, layers=["layer1", "layer2", "layer3", "layer4"], pool="gap"
    ),
    "loss and accuracy by .item()": items,
}


def measure(arms: dict[str, Arm], steps: int, seconds: float) -> dict[str, dict[str, float]]:
    for arm in arms.values():
        arm.turn(max(2, steps // 4))  # warm up
    turns, order = max(1, steps // _TURN), random.Random(0)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(arms["off"].seconds) < 3:
        spent = dict.fromkeys(arms, 0.0)
        for turn in range(turns):
            # nobody always pays for what the same neighbour has left behind
            for name in order.sample(list(arms), len(arms)):
                spent[name] += arms[name].turn(steps // turns, last=turn == turns - 1)
        for name, arm in arms.items():
            arm.seconds.append(spent[name] / steps)
    base = arms["off"].seconds
    return {name: summary(arm.seconds, base) for name, arm in arms.items()}


def summary(seconds: list[float], base: list[float]) -> dict[str, float]:
    extra = [100 * (mine / other - 1) for mine, other in zip(seconds, base, strict=True)]
    quarters = statistics.quantiles(extra, n=4) if len(extra) > 1 else [extra[0]] * 3
    return {
        "rounds": len(seconds),
        "ms_per_step": round(1e3 * statistics.median(seconds), 4),
        "extra_percent": round(statistics.median(extra), 2),
        "extra_percent_quartiles": [round(quarters[0], 2), round(quarters[2], 2)],
    }


def run_mlp(chosen: list[str], seconds: float, folder: Path) -> dict[str, object]:
    arms = {n: MLP_ARMS[n](Loop(mlp, (784,), 100), folder) for n in chosen}
    return {"model": "MLP 784-200-200-200-10, batch 100", **_result(arms, 128, seconds)}


def run_resnet(chosen: list[str], seconds: float, folder: Path) -> dict[str, object]:
    arms = {n: RESNET_ARMS[n](Loop(resnet18, (3, 32, 32), 128), folder) for n in chosen}
    return {"model": "ResNet18, 32 x 32, batch 128", **_result(arms, 1, seconds)}


def _result(arms: dict[str, Arm], steps: int, seconds: float) -> dict[str, object]:
    return {"steps_per_block": steps, "arms": measure(arms, steps, seconds)}


def run_long(steps: int, folder: Path) -> dict[str, object]:
    """Memory and time of a log of every step: steps of the tracker alone."""
    path = folder / "long.jsonl"
    feats, labels = torch.randn(100, 200), torch.arange(100) % CLASSES
    result: dict[str, object] = {"steps": steps}
    for name, sinks in (("without a sink", []), ("with JSONL", [path])):
        with ncfast.Tracker(num_classes=CLASSES, sinks=sinks, **STANDARD) as tracker:
            for _ in range(2000):
                tracker.step(feats=feats, labels=labels)
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            start = time.perf_counter()
            for _ in range(steps):
                tracker.step(feats=feats, labels=labels)
            tracker.flush()
            micro = 1e6 * (time.perf_counter() - start) / steps
            grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        result[name] = {"us_per_step": round(micro, 2), "peak_memory_grew_MiB": grown / 1024}
    result["lines"] = sum(1 for _ in path.open())
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["mlp", "resnet18", "long"])
    parser.add_argument("--arms", nargs="*")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        if given.what == "long":
            result = run_long(given.steps, Path(name))
        elif given.what == "mlp":
            result = run_mlp(given.arms or list(MLP_ARMS), given.seconds, Path(name))
        else:
            result = run_resnet(given.arms or list(RESNET_ARMS), given.seconds, Path(name))
    result |= {"torch": torch.__version__, "threads": torch.get_num_threads()}
    print(json.dumps(result, indent=1))
    if given.out:
        found = json.loads(given.out.read_text()) if given.out.exists() else {}
        name = f"{given.what}, {torch.get_num_threads()} threads"
        given.out.write_text(json.dumps(found | {name: result}, indent=1) + "\n")


if __name__ == "__main__":
    main()
