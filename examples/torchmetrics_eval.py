"""Measures the collapse and the accuracy of a validation split with torchmetrics.

The metrics of one `MetricCollection` with the same sums share one state. Run it with
``python examples/torchmetrics_eval.py``.
"""

import torch
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from ncfast.integrations.torchmetrics import NC1, NC2, NC3, NC4, RNC1, CollapseMetric

CLASSES, DIM = 4, 16


def batches(spread: float) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Features around class means, like those of a network's last hidden layer."""
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(CLASSES, DIM, generator=generator)
    labels = torch.randint(CLASSES, (512,), generator=generator)
    feats = means[labels] + spread * torch.randn(512, DIM, generator=generator)
    return list(zip(feats.split(128), labels.split(128), strict=True))


def main() -> None:
    head = torch.nn.Linear(DIM, CLASSES)
    collapse = MetricCollection(
        {
            "rnc1": RNC1(CLASSES, DIM),
            "condition": NC2(CLASSES, DIM),
            "nc1": CollapseMetric(CLASSES, DIM, metrics=["nc1.quotient", "nc1.cdnv"]),
            "pinv": NC1(CLASSES, DIM, variant="pinv"),
            "duality": NC3(CLASSES, DIM, weight=head.weight),
            "agreement": NC4(CLASSES, DIM, weight=head.weight, bias=head.bias),
        },
        prefix="val/",
    )
    accuracy = MulticlassAccuracy(CLASSES)
    for epoch, spread in enumerate((1.0, 0.1, 0.001)):
        for feats, labels in batches(spread):
            collapse.update(feats, labels)
            accuracy.update(head(feats), labels)
        values = {name: value.item() for name, value in collapse.compute().items()}
        print(f"epoch {epoch}: accuracy {accuracy.compute():.2f}", values)
        collapse.reset()
        accuracy.reset()


if __name__ == "__main__":
    main()
