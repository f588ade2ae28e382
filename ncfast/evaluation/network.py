"""`evaluate`: the collapse metrics of a trained network on a data set."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ncfast._optional import Show, shown
from ncfast.evaluation.classifier import Readers, classifier_of_input, rows_of_last_linear
from ncfast.evaluation.collect import accumulators_of, collected
from ncfast.evaluation.forward import Forward, Unpack
from ncfast.evaluation.group import Group
from ncfast.evaluation.looks import Kept, Memory, can_reread, first_look, second_look
from ncfast.evaluation.result import Evaluation
from ncfast.features.capture import FeatureCapture, PoolSpec
from ncfast.features.extractor import FeatureExtractor
from ncfast.features.layers import INPUT, Layer
from ncfast.features.model import model_device, uncompiled
from ncfast.metrics.needs import as_bytes


def evaluate(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    num_classes: int | None = None,
    layers: Layer | Sequence[Layer] | None = None,
    pool: PoolSpec | Mapping[str, PoolSpec] = None,
    metrics: str | Sequence[str] = "all",
    ood_loader: Iterable[Any] | None = None,
    ignore_index: int | None = -100,
    shift: int = 0,
    unpack: Unpack | None = None,
    device: torch.device | str | None = None,
    group: Any = None,
    memory_limit: int | str | None = "2GiB",
    progress: bool | Show | None = None,
) -> Evaluation:
    """NC1 to NC5, ranks, bounds and accuracy of a network on a data set.

    The network runs in eval mode without gradients. Its modes and the random streams are
    restored. Metrics such as nc4.* look at the features a second time, once the class means are
    known: the features are kept while they fit ``memory_limit``, else the network runs twice.

    Args:
        model: any module. A compiled or data-parallel one is run as the module inside it.
        loader: batches (inputs, labels, ...), or dicts with labels under "labels", "label",
            "targets", "target" or "y". The inputs of a dict are passed by keyword. It may be an
            iterator, which can be read only once.
        num_classes: K; None takes the rows of the last nn.Linear.
        layers: as for `ncfast.Tracker`; None measures the input of the last nn.Linear. NC3, NC4 and
            the bounds use the classifier: an nn.Linear with K rows that reads what is measured, the
            input "fc:input" or the output of the layer before it.
        pool: as for `ncfast.Tracker`: how an output becomes features (N, D). "last" and "gap" leave
            out the padding that an "attention_mask" of the batch marks.
        metrics: "default", a family, a tier, ids, or "all": every id whose inputs are there.
        ood_loader: batches from outside the distribution, with or without labels, for NC5.
        ignore_index: rows with this label are left out; None leaves out none.
        shift: 1 for a causal language model: pairs the feature of token t with the label at t + 1.
            Labels default to the input ids.
        unpack: a function from a batch of either loader to (inputs, labels) or (inputs, labels,
            mask). The mask has the shape of the labels and leaves rows out where it is False.
            Without this function the mask of token labels is the "attention_mask" of the batch.
        device: where inputs go; None is the device of the model's first parameter.
        group: None measures what this process sees; "auto" or a process group merges all ranks,
            each of which passes its own share of the data.
        memory_limit: for kept features, and for the D x D scatter matrix of each layer, without
            which some metrics are left out. Bytes or a text such as "500MiB"; None: no limit.
        progress: True shows a bar of tqdm; or a function that wraps an iterable, as tqdm does.

    Raises:
        TypeError: the model is no module, or a batch cannot be unpacked.
        ValueError: unknown layers, pooling or metrics; K is unknown; features that are not
            (N, D); labels that do not fit; no batch; a metric asked for by name cannot be had; the
            features of the second look differ from those of the first.
        ModuleNotFoundError: ``progress=True`` without tqdm.

    Source:
        NC1 to NC4: Papyan, Han & Donoho 2020. Every id: `ncfast.describe`.

    Example:
        >>> import torch, ncfast
        >>> net = torch.nn.Sequential(torch.nn.Tanh(), torch.nn.Linear(8, 3))
        >>> data = [(torch.randn(32, 8), torch.randint(3, (32,))) for _ in range(4)]
        >>> found = ncfast.evaluate(net, data)
        >>> found.samples, 0 <= found["nc4.agreement"] <= 1
        (128, True)
    """
    if shift < 0:
        raise ValueError(f"Expected argument `shift` to be 0 or more but got {shift}.")
    processes = Group(group)
    network, layers, pool = _inner(model, layers, pool)
    classes = rows_of_last_linear(network) if num_classes is None else num_classes
    capture, readers = FeatureCapture(network, layers, pool), Readers(network, classes)
    try:
        accumulators, missing = accumulators_of(
            {name: classifier_of_input(network, name, classes) for name in capture.names},
            classes,
            metrics,
            ignore_index=ignore_index,
            memory_limit=memory_limit,
        )
        forward = Forward(
            network,
            capture,
            readers,
            num_classes=classes,
            device=model_device(network) if device is None else torch.device(device),
            ignore_index=ignore_index,
            shift=shift,
            unpack=unpack,
            show=shown(progress),
        )
        # accumulators that have seen no features from outside do not know yet that they need two
        # passes over them
        twice = ood_loader is not None or any(a.needs_revisit for a in accumulators.values())
        memory = Memory(as_bytes(memory_limit)) if twice else None
        passes = [Kept(forward.over(loader), memory, repeatable=can_reread(loader))]
        if ood_loader is not None:
            again = can_reread(ood_loader)
            passes.append(Kept(forward.outside(ood_loader), memory, repeatable=again))
        first_look(accumulators, passes)
        for name, accumulator in accumulators.items():
            if not name.endswith(INPUT) and (found := readers.of(name, processes)):
                accumulator.set_classifier(*found)
        second_look(accumulators, passes, processes)
        scores = processes.summed(forward.scores)
        return collected(accumulators, scores=scores, missing=missing)
    finally:
        capture.remove()
        readers.remove()


def _inner(
    model: nn.Module,
    layers: Layer | Sequence[Layer] | None,
    pool: PoolSpec | Mapping[str, PoolSpec],
) -> tuple[nn.Module, Layer | Sequence[Layer] | None, PoolSpec | Mapping[str, PoolSpec]]:
    """The module inside a compiled, data-parallel or `FeatureExtractor` one.

    Hooks fire in it, and ranks whose loaders differ in length do not wait for each other.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"Expected argument `model` to be an nn.Module but got {type(model).__name__}."
        )
    network = uncompiled(model)
    if isinstance(network, (nn.DataParallel, DistributedDataParallel)):
        network = uncompiled(network.module)
    if isinstance(network, FeatureExtractor):
        if layers is None and pool is None:
            layers, pool = network._chosen
        network = uncompiled(network.module)
    return network, layers, pool
