"""Kernels run on the device of their tensors, whatever device is current: Triton takes that one."""

import ast
import contextlib
import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

if importlib.util.find_spec("triton") is None:
    pytest.skip("needs triton (Linux on x86-64 only)", allow_module_level=True)

from fake_driver import fake_driver
from triton.runtime.jit import JITFunction

from ncfast import ClassMoments
from ncfast.kernels import (
    autotune,
    decisions,
    gradient,
    grouping,
    launch,
    neighbors,
    projection,
    scatter,
    update,
)
from ncfast.kernels.configuration import neighbors_config, segments_config
from ncfast.ops import moments as passes
from ncfast.ops.decisions import STACKED_DECISIONS
from ncfast.ops.gradient import GRADIENT
from ncfast.ops.projection import PROJECTION
from ncfast.ops.scatter import SCATTER
from ncfast.ops.update import UPDATE

pytestmark = pytest.mark.skipif(launch.interpreted(), reason="needs kernels that are compiled")
FOLDER = Path(__file__).parents[2] / "kernels"
MODULES = (grouping, launch, update, scatter, gradient, projection, decisions, neighbors)
ROWS, DIM, K = 300, 12, 3


class Watch:
    """Records what is launched, and whether the device of the tensors is current then."""

    def __init__(self):
        self.current, self.launched, self.elsewhere = [], set(), []

    @contextlib.contextmanager
    def on(self, device):
        self.current.append(device)
        yield
        self.current.pop()

    def run(self, kernel, *given, grid, warmup, **named):
        name = kernel.fn.__name__
        self.launched.add(name)
        devices = {
            each.device for each in (*given, *named.values()) if isinstance(each, torch.Tensor)
        }
        if devices != {*self.current[-1:]}:
            self.elsewhere.append(name)
        return SimpleNamespace(src=SimpleNamespace(signature={}))


@pytest.fixture
def watch(monkeypatch):
    """Nothing is compiled or launched; tensors on the CPU pass for those of a device."""
    watch = Watch()
    for module in MODULES:
        monkeypatch.setattr(module, "on", watch.on)
    monkeypatch.setattr(
        JITFunction, "run", lambda kernel, *given, **n: watch.run(kernel, *given, **n)
    )
    monkeypatch.setattr(launch, "_compiled", {})
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    with fake_driver():
        yield watch


def call_everything():
    """Each operation that has kernels, in each form."""
    generator = torch.Generator().manual_seed(0)
    feats = torch.randn(ROWS, DIM, generator=generator)
    labels = torch.arange(ROWS) % K
    means = torch.randn(K, DIM, generator=generator).double()
    counts, numbers, one = torch.full((K,), ROWS // K), means[:, 0].clone(), means[0, 0].clone()
    passes.compute(feats, labels, K)
    passes.by_sorted_rows(feats, labels, K)
    total = torch.zeros(DIM, DIM).double()
    for scatter_matrix in (None, total):
        UPDATE.triton(feats, labels, ClassMoments.empty(K, DIM), scatter=scatter_matrix)
    GRADIENT.triton(feats, labels, counts, means, means, numbers, one, one)
    PROJECTION.triton(feats, labels, means, means)
    SCATTER.triton(feats, labels, means)
    STACKED_DECISIONS.triton(feats, means[:1], means[None], numbers[None])
    points, config = feats.T.contiguous()[None], neighbors_config(ROWS, 4, 4)
    ranges = torch.zeros(ROWS, dtype=torch.int32), torch.full((ROWS,), ROWS, dtype=torch.int32)
    neighbors.nearest_rows(points, [0, DIM], ranges, 1, True, config)
    neighbors.count_rows(points, [0, DIM], ranges, torch.ones(1, 2, ROWS), True, config)


def kernels_with_a_grid():
    """The names in ``NAME[grid](...)``, and those that are passed to `launch.launch`."""
    found = set()
    for path in FOLDER.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            if isinstance(node.func, ast.Subscript) and isinstance(node.func.value, ast.Name):
                found.add(node.func.value.id)
            elif isinstance(node.func, ast.Name) and node.func.id == "launch":
                found.add(node.args[0].id)
    return found - {"kernel", "compiled"}  # `launch.launch` itself


def test_every_kernel_runs_where_its_tensors_are(watch):
    call_everything()
    assert watch.elsewhere == []
    assert watch.launched == kernels_with_a_grid(), "a kernel is missing in `call_everything`"


def test_a_launch_without_its_device_is_noticed(watch, monkeypatch):
    monkeypatch.setattr(scatter, "on", contextlib.nullcontext)
    call_everything()
    assert watch.elsewhere == ["scatter_tiles", "add_parts"]


def test_another_device_becomes_current(monkeypatch):
    entered = []
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(
        torch.cuda, "device", lambda d: entered.append(d) or contextlib.nullcontext()
    )
    with launch.on(torch.device("cuda", 1)), launch.on(torch.device("cpu")):
        assert entered == []
    with launch.on(torch.device("cuda", 0)):
        assert entered == [torch.device("cuda", 0)]


def test_configurations_are_timed_on_the_device_of_the_features(watch, monkeypatch):
    """An event is recorded on the current device: elsewhere it would time nothing."""
    seen = []
    monkeypatch.setattr(launch, "on", watch.on)
    monkeypatch.setattr(autotune, "_best", {})
    monkeypatch.setattr(
        autotune, "milliseconds", lambda call: seen.append(watch.current[-1:]) or 1.0
    )
    feats = torch.zeros(ROWS, DIM)
    autotune.segments(feats, K, segments_config(ROWS, DIM, K, 4, 132), lambda config: None)
    assert seen
    assert all(each == [feats.device] for each in seen)
