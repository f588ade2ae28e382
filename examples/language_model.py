"""Trains a small language model on SST-2 and measures neural collapse over its vocabulary.

Every word of the vocabulary is a class: thousands of classes in 64 dimensions, with word counts
that follow Zipf's law. The features are the inputs of the last layer, the label of a feature is the
next word. "Linguistic Collapse" (Wu & Papyan 2024, arXiv 2405.17767) measures the same four
quantities on larger models. Run it with ``NCFAST_DATA=DIR python examples/language_model.py``; the
training sentences are DIR/text/sst2/train.tsv, the unseen ones dev.tsv beside it. It takes about
ten minutes on two cores.
"""

import json
import os
import sys
import time
from collections import Counter
from pathlib import Path

import torch
from torch import Tensor, nn

import ncfast
from ncfast.experiments.data.text import words

OUT = Path("runs/language_model")
METRICS = {
    "nc1.cdnv": "NC1: class-distance normalised variance",
    "nc2.log_energy_var": "GNC2: variance of log energies of pairs",
    "nc3.uniform_duality_cosine": "UNC3: variance of cosines to the classifier",
    "nc4.agreement": "NC4: agreement with the nearest class mean",
}
DIM, HEADS, LAYERS, LENGTH, MIN_COUNT = 64, 4, 2, 32, 20
BATCH, EPOCHS, POINTS = 64, 8, 12
PADDING, UNKNOWN = 0, 1
IGNORED = -100


class LanguageModel(nn.Module):
    """A causal transformer: embeddings, two encoder layers with a causal mask, a linear head."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, DIM, padding_idx=PADDING)
        self.places = nn.Embedding(LENGTH, DIM)
        layer = nn.TransformerEncoderLayer(
            DIM, HEADS, 4 * DIM, dropout=0.1, batch_first=True, norm_first=True
        )
        self.body = nn.TransformerEncoder(layer, LAYERS, nn.LayerNorm(DIM), False)
        self.head = nn.Linear(DIM, vocabulary, bias=False)
        self.register_buffer("causal", torch.full((LENGTH, LENGTH), -torch.inf).triu(1))

    def forward(self, tokens: Tensor) -> Tensor:
        length = tokens.shape[1]
        x = self.words(tokens) + self.places.weight[:length]
        return self.head(self.body(x, mask=self.causal[:length, :length], is_causal=True))


def read(folder: Path, phrases: int | None) -> tuple[Tensor, Tensor, int]:
    """Token ids (N, LENGTH) of training phrases and unseen sentences, and the vocabulary's size."""
    texts = [texts_of(folder / name) for name in ("train.tsv", "dev.tsv")]
    texts[0] = [text for text in texts[0] if len(text) > 4][:phrases]
    counts = Counter(word for text in texts[0] for word in text)
    known = [word for word, count in counts.most_common() if count >= MIN_COUNT]
    ids = {word: index for index, word in enumerate(known, start=2)}
    train, validation = (encode(part, ids) for part in texts)
    return train, validation, len(known) + 2


def texts_of(path: Path) -> list[list[str]]:
    return [words(line.rpartition("\t")[0]) for line in path.read_text("utf-8").split("\n")[1:]]


def encode(texts: list[list[str]], ids: dict[str, int]) -> Tensor:
    tokens = torch.full((len(texts), LENGTH), PADDING)
    for row, text in zip(tokens, texts, strict=True):
        found = [ids.get(word, UNKNOWN) for word in text[:LENGTH]]
        row[: len(found)] = torch.tensor(found, dtype=torch.int64)
    return tokens


def targets(tokens: Tensor) -> Tensor:
    """The next word of each word; padding and unknown words are left out."""
    return tokens[:, 1:].masked_fill(tokens[:, 1:] <= UNKNOWN, IGNORED)


def loss_of(model: nn.Module, tokens: Tensor) -> Tensor:
    logits = model(tokens)[:, :-1]
    return nn.functional.cross_entropy(
        logits.flatten(0, 1), targets(tokens).flatten(), ignore_index=IGNORED
    )


def batches(tokens: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Pairs of inputs and labels for `ncfast.evaluate`, which shifts the labels by itself."""
    return [(part, part.masked_fill(part <= UNKNOWN, IGNORED)) for part in tokens.split(256)]


@torch.no_grad()
def validation_loss(model: nn.Module, tokens: Tensor) -> float:
    model.eval()
    losses = [
        (loss_of(model, part), (targets(part) != IGNORED).sum()) for part in tokens.split(256)
    ]
    model.train()
    return float(sum(loss * n for loss, n in losses) / sum(n for _, n in losses))


def measure(model: nn.Module, train: Tensor, validation: Tensor) -> dict[str, float]:
    """The four metrics of the training features, and the loss on unseen sentences."""
    found = ncfast.evaluate(model, batches(train), shift=1, metrics=list(METRICS))
    values = {name: float(found[name]) for name in METRICS}
    return {"validation/loss": validation_loss(model, validation), **values}


def train(
    tokens: Tensor, validation: Tensor, vocabulary: int, *, epochs: float, sample: int, points: int
) -> list[dict[str, float]]:
    """One record a log point; log points are spaced evenly in log(step)."""
    torch.manual_seed(0)
    model = LanguageModel(vocabulary)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.1)
    steps = max(1, int(epochs * len(tokens) / BATCH))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    due = {int(step) for step in torch.logspace(0, torch.tensor(steps).log10(), points).round()}
    records = []
    begin = time.perf_counter()
    for step in range(1, steps + 1):
        loss = loss_of(model, tokens[torch.randint(len(tokens), (BATCH,))])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step in due:
            record = {"step": step, "train/loss": loss.item()}
            record |= measure(model, tokens[:sample], validation)
            records.append(record)
            line = "  ".join(f"{key} {value:.4g}" for key, value in record.items())
            print(f"{time.perf_counter() - begin:6.0f} s  {line}", flush=True)
    return records


def draw(records: list[dict[str, float]], path: Path) -> None:
    """Each metric against the step, with the validation loss beside it."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(11, 7), sharex=True, layout="constrained")
    steps = [record["step"] for record in records]
    for axis, (name, title) in zip(axes.flat, METRICS.items(), strict=True):
        axis.plot(steps, [record[name] for record in records], "o-", label=name)
        axis.set(title=title, xscale="log", ylabel=name, xlabel="step")
        if name != "nc4.agreement":
            axis.set_yscale("log")
        loss = axis.twinx()
        loss.plot(steps, [r["validation/loss"] for r in records], "s--", color="0.6")
        loss.set_ylabel("validation loss, nats", color="0.5")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(epochs: float = EPOCHS, phrases: int | None = None, points: int = POINTS) -> None:
    data = os.environ.get("NCFAST_DATA")
    if data is None:
        sys.exit("Set NCFAST_DATA to the folder that holds text/sst2/train.tsv and dev.tsv.")
    folder = Path(data) / "text" / "sst2"
    tokens, validation, vocabulary = read(folder, phrases)
    print(f"{len(tokens)} phrases, {vocabulary} words, {DIM} dimensions")
    records = train(tokens, validation, vocabulary, epochs=epochs, sample=8000, points=points)
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "records.json").write_text(json.dumps(records, indent=1))
    draw(records, OUT / "collapse.png")
    print(f"Figure: {OUT / 'collapse.png'}")


if __name__ == "__main__":
    main()
