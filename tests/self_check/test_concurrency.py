"""Tests the checks of streams and graphs, with a device on which a graph runs its call again."""

import contextlib
import itertools
from dataclasses import replace

import pytest
import torch

from ncfast.self_check import concurrency
from ncfast.self_check.forms import Wrong, forms
from ncfast.self_check.samples import collapsed

CPU = torch.device("cpu")
FORMS = {f"{form.operation} {form.path}": form for form in forms()}
SAMPLES = [collapsed(0.1, 40, 12, 3, torch.float32, seed) for seed in range(4)]
MOMENTS = FORMS["class moments sorted rows"]


@pytest.fixture(autouse=True)
def device(monkeypatch):
    made, init = [], concurrency._Captured.__init__

    def remember(self, *given):
        made.append(self)
        init(self, *given)

    class Graph:
        def replay(self):
            owner = next(each for each in made if each.graph is self)
            for old, new in zip(owner.found, owner.run(), strict=True):
                old.copy_(new)

    monkeypatch.setattr(concurrency._Captured, "__init__", remember)
    monkeypatch.setattr(concurrency, "_HOG", 16)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "device", contextlib.nullcontext)
    monkeypatch.setattr(torch.cuda, "graph", contextlib.nullcontext)
    monkeypatch.setattr(torch.cuda, "stream", contextlib.nullcontext)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: None)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)


@pytest.mark.parametrize("name", FORMS)
def test_the_reference_passes(name):
    form = replace(FORMS[name], kernels=FORMS[name].reference)
    concurrency.streams(form, SAMPLES[0], CPU)
    concurrency.graphs(form, SAMPLES, CPU)


def test_results_that_depend_on_the_order_fail():
    calls = itertools.count()

    def sometimes(*given):
        raw = MOMENTS.reference(*given)
        return raw._replace(norm_sum=raw.norm_sum * (1 + 1e-15 * (next(calls) == 30)))

    with pytest.raises(Wrong, match="different bits"):
        concurrency.streams(replace(MOMENTS, kernels=sometimes), SAMPLES[0], CPU)


def test_a_graph_that_holds_old_arguments_fails():
    seen = []

    def kernels(*given):
        seen.append(MOMENTS.reference(*given))
        return type(seen[0])(*(part.clone() for part in seen[0]))

    with pytest.raises(Wrong, match="CUDA graph, 40 x 12"):
        concurrency.graphs(replace(MOMENTS, kernels=kernels), SAMPLES, CPU)


def test_graphs_that_disturb_each_other_fail():
    calls = itertools.count()

    def kernels(*given):
        raw = MOMENTS.reference(*given)
        return raw._replace(norm_sum=raw.norm_sum * (1 + 1e-15 * (next(calls) % 2)))

    with pytest.raises(Wrong, match="at the same time"):
        concurrency.graphs(replace(MOMENTS, kernels=kernels), SAMPLES, CPU)
