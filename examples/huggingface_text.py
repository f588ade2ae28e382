"""Tracks a small, randomly initialised BERT classifier in the Trainer of transformers.

The "sentences" are random tokens, one of which determines the class. Nothing is downloaded. Run it
with ``python examples/huggingface_text.py``.
"""

import torch
from torch.utils.data import Dataset
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    Trainer,
    TrainingArguments,
    set_seed,
)

from ncfast.integrations.huggingface import CollapseCallback
from ncfast.tracking import read_records

OUT = "runs/huggingface_text"
CLASSES = 3


class Sentences(Dataset):
    def __init__(self, size: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.tokens = torch.randint(10, 60, (size, 12), generator=generator)
        self.labels = torch.randint(CLASSES, (size,), generator=generator)
        self.tokens[:, 1] = 2 + self.labels  # the token that determines the class

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.tokens[index], "labels": self.labels[index]}


def main() -> None:
    set_seed(0)
    config = BertConfig(
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=16,
        num_labels=CLASSES,
    )
    # the default features are the input of the classifier, the pooled state of the first token
    callback = CollapseCallback(num_classes=CLASSES, sinks=[f"{OUT}/metrics.jsonl"])
    trainer = Trainer(
        model=BertForSequenceClassification(config),
        args=TrainingArguments(
            output_dir=OUT,
            num_train_epochs=6,
            per_device_train_batch_size=32,
            per_device_eval_batch_size=128,
            learning_rate=3e-3,
            eval_strategy="epoch",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
        ),
        train_dataset=Sentences(512, seed=1),
        eval_dataset=Sentences(256, seed=2),
        callbacks=[callback],
    )
    trainer.train()

    *_, last = read_records(f"{OUT}/metrics.jsonl")
    print(
        f"step {last['step']}: accuracy {last['eval/accuracy']:.3f}, "
        f"RNC1 {last['eval/rnc1.max']:.4f} on the evaluation data"
    )


if __name__ == "__main__":
    main()
