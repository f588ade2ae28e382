"""The Triton backend, as far as a machine without a GPU can test it."""

from dataclasses import replace

import pytest
import torch
import twins
from samples import classes
from torch._subclasses.fake_tensor import FakeTensorMode

import ncfast
from ncfast.kernels.configuration import alignment, merge_config, scatter_config, segments_config
from ncfast.ops import _registry
from ncfast.ops import moments as passes
from ncfast.ops.decisions import STACKED_DECISIONS
from ncfast.ops.projection import PROJECTION
from ncfast.ops.scatter import SCATTER
from ncfast.ops.update import UPDATE

SIZES = [
    (count, dim, num_classes)
    for count in (1, 1000, 100_000, 1_000_000, 4_000_000)
    for dim in (1, 2, 100, 128, 512, 4096, 30_000)
    for num_classes in (1, 10, 1000, 200_000)
]


def test_the_status_names_the_reason(monkeypatch):
    status = ncfast.backends()["triton"]
    assert status.available == (torch.cuda.is_available() and _registry.why_not_triton() is None)
    assert status.reason
    monkeypatch.setattr(_registry, "_INSTALLED", False)
    assert ncfast.backends()["triton"].reason == "triton is not installed"


@pytest.mark.parametrize("version", [(3, 1), (3, 4), (3, 5)])
def test_what_a_version_cannot_run(monkeypatch, version):
    monkeypatch.setattr(_registry, "_INSTALLED", True)
    monkeypatch.setattr(_registry, "_TRITON", version)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    status = ncfast.backends()["triton"]
    assert status.available == (version > (3, 1))
    assert ("3.1 is older than 3.2" in status.reason) == (version == (3, 1))
    assert ("decisions need Triton 3.5" in status.reason) == (version == (3, 4))
    tried = []
    kernels = replace(STACKED_DECISIONS, triton=lambda *given: tried.append(given))
    feats, rules = torch.zeros(3, 2), torch.zeros(1, 4, 2).double()
    found = kernels.eagerly(feats, rules[:, 0], rules, torch.zeros(1, 4).double())
    assert bool(tried) == (version >= (3, 5))
    assert tried or found.tolist() == [[0, 0, 0]]


def test_tensors_on_the_cpu_are_refused():
    with pytest.raises(ValueError, match=r"'triton' cannot run here: .*Use backend='auto'"):
        ncfast.rnc1(*classes(), backend="triton")


def test_operator_on_the_cpu():
    feats, labels = classes(30, 4, 3)
    arguments = (feats, labels, 3)
    assert passes.triton_operator(*arguments).counts.sum() == 30
    torch.library.opcheck(torch.ops.ncfast.triton_moments.default, arguments)


OPERATIONS = {
    "projected_ss": PROJECTION,
    "scatter": SCATTER,
    "decisions": STACKED_DECISIONS,
}


def second_read():
    """Arguments of each operator that reads features again, and the shape it returns."""
    feats, labels = classes(30, 4, 3)
    labels, means = labels.int(), torch.randn(3, 4).double()
    rules = means[:2], torch.stack((means, -means)), torch.randn(2, 3).double()
    return {
        "projected_ss": ((feats, labels, means, means[:2]), (2,)),
        "scatter": ((feats, labels, means), (4, 4)),
        "decisions": ((feats, *rules), (2, 30)),
    }


@pytest.mark.parametrize("name", second_read())
def test_operators_of_the_second_read(name):
    arguments, shape = second_read()[name]
    operator = getattr(torch.ops.ncfast, f"triton_{name}").default
    assert operator(*arguments).shape == shape
    torch.library.opcheck(operator, arguments)
    with FakeTensorMode():
        made = (torch.empty(t.shape, dtype=t.dtype, device="cuda") for t in arguments)
        found = OPERATIONS[name].on_device(*made)
    assert (found.device.type, tuple(found.shape)) == ("cuda", shape)


def update_arguments(count=30, dim=4, num_classes=6, device="cpu"):
    """Features, labels, the state's parts, and the options: what `triton_update` takes."""
    made = {"dtype": torch.float64, "device": device}
    feats = torch.ones(count, dim, device=device)
    labels = torch.arange(count, device=device) % num_classes - 1
    shapes = ((num_classes, dim), (num_classes,), (), (), (dim, dim))
    *state, scatter = (torch.zeros(shape, **made) for shape in shapes)
    counts = torch.zeros(num_classes, dtype=torch.int64, device=device)
    ignored = torch.zeros((), dtype=torch.int64, device=device)
    mask = torch.arange(count, device=device) % 3 > 0
    return feats, labels, counts, *state, mask, -1, ignored, scatter


@pytest.mark.parametrize("options", [True, False])
def test_operator_of_the_update(options):
    """Registered right, with every tensor that it writes declared."""
    arguments = update_arguments()
    if not options:
        arguments = (
            arguments[0],
            arguments[1].clamp(min=0),
            *arguments[2:7],
            None,
            None,
            None,
            None,
        )
    operator = torch.ops.ncfast.triton_update.default
    torch.library.opcheck(operator, arguments)
    operator(*arguments)
    assert arguments[2].sum() == (20 if options else 30)
    written = [argument.alias_info is not None for argument in operator._schema.arguments]
    assert written == [False] * 2 + [True] * 5 + [False] * 2 + [True] * 2


def options_of(arguments):
    return dict(zip(("mask", "ignore_index", "ignored", "scatter"), arguments[7:], strict=True))


def test_the_update_on_fake_cuda_tensors():
    with FakeTensorMode():
        feats, labels, *parts = arguments = update_arguments(device="cuda")
        UPDATE.on_device(feats, labels, passes.RawMoments(*parts[:5]), **options_of(arguments))


def test_compiled_code_holds_one_operator_for_an_update():
    """A traced update writes its state through the operator, and changes nothing else."""

    def step(feats, labels, *parts):
        UPDATE.on_device(feats * 2, labels, passes.RawMoments(*parts))
        return parts[1].sum()

    feats, labels, *parts = update_arguments()[:7]
    labels = labels.clamp(min=0)
    total = torch.compile(step, fullgraph=True, backend="aot_eager")(feats, labels, *parts)
    assert total == 6 * 4 * 2 - 8, "five classes whose mean is 2 in each column"
    assert parts[0].sum() == 30


def test_reference_of_the_second_read():
    """The reference equals the definition in one expression."""
    cases = second_read()
    for name, twin in (("projected_ss", twins.project), ("scatter", twins.scatter)):
        arguments, _ = cases[name]
        torch.testing.assert_close(OPERATIONS[name].reference(*arguments), twin(*arguments))
    feats, *rules = cases["decisions"][0]
    expected = [twins.decide(feats, *rule) for rule in zip(*rules, strict=True)]
    assert torch.equal(STACKED_DECISIONS.reference(feats, *rules), torch.stack(expected))


def test_second_passes_use_the_kernels_when_asked_for():
    with FakeTensorMode():
        feats = torch.empty(50, 6, device="cuda")
        chosen = SCATTER.select("triton", feats)
        assert (chosen == SCATTER.on_device) == (_registry.why_not_triton(feats) is None)
        assert SCATTER.select("auto", feats) is SCATTER.reference


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_operator_on_fake_cuda_tensors(dtype):
    """torch.compile for a GPU traces shapes, dtypes and devices without a kernel."""
    with FakeTensorMode():
        feats = torch.empty(50, 6, dtype=dtype, device="cuda")
        labels = torch.empty(50, dtype=torch.int32, device="cuda")
        found = passes.triton_operator(feats, labels, 7)
    assert [tuple(entry.shape) for entry in found] == [(7,), (7, 6), (7,), (), ()]
    assert [entry.dtype for entry in found] == [torch.int64] + [torch.float64] * 4
    assert {entry.device.type for entry in found} == {"cuda"}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("itemsize", [2, 4, 8])
def test_configurations_are_legal(size, itemsize):
    count, dim, num_classes = size
    config = segments_config(count, dim, num_classes, itemsize, 132)
    for number in (config.tile_rows, config.tile_cols, config.warps):
        assert number & (number - 1) == 0, "a power of two"
    assert 32 <= config.segment_rows <= 256
    assert config.segment_rows % config.tile_rows == 0
    assert config.warps <= 8
    assert 32 * config.warps <= 2 * config.tile_cols * config.tile_rows, "work for every thread"
    merge = merge_config(count, dim, num_classes, config.segment_rows)
    for number in (merge.tile_segments, merge.tile_cols, merge.warps):
        assert number & (number - 1) == 0
    assert merge.tile_segments * merge.tile_cols <= 4096


@pytest.mark.parametrize("dim", [1, 16, 17, 100, 512, 4096])
@pytest.mark.parametrize("count", [1, 1000, 1_000_000])
def test_the_scatter_covers_the_triangle(count, dim):
    config = scatter_config(count, dim, 132)
    high = -(-dim // config.side)
    assert config.side & (config.side - 1) == 0
    assert config.tiles == high * (high + 1) // 2
    assert config.span % config.rows == 0
    assert config.span * (config.parts - 1) < count <= config.span * config.parts


def test_configurations_grow_as_they_should():
    assert segments_config(1_000_000, 512, 10, 4, 132) == segments_config(
        1_000_000, 512, 11, 4, 132
    )
    even = segments_config(200_000, 512, 10, 4, 132).segment_rows
    assert 200_000 // even + 10 <= 132 * 10, "one whole wave: two warps a program, of 20 resident"
    small, large = (
        segments_config(count, 512, 10, 4, 132).segment_rows for count in (10**3, 10**7)
    )
    assert small <= large
    assert segments_config(1_000_000, 512, 200_000, 4, 132).segment_rows == 32


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [((512,), 16), ((200, 200), 8), ((200, 204), 4), ((7,), 1), ((6, 0), 2)],
)
def test_alignment(numbers, expected):
    assert alignment(*numbers) == expected


def test_compiled_code_holds_one_operator():
    """One graph as for a GPU: fake CUDA tensors need no device."""
    graphs = []

    def backend(module, inputs):
        graphs.append(str(module.graph))
        return module.forward

    def metric(feats, labels):
        return ncfast.rnc1(feats * 2, labels, num_classes=7, backend="triton")

    with FakeTensorMode():
        feats = torch.empty(50, 6, device="cuda")
        labels = torch.empty(50, dtype=torch.int64, device="cuda")
        found = torch.compile(metric, fullgraph=True, backend=backend)(feats, labels)
    assert found.device.type == "cuda"
    usable = _registry.why_not_triton(feats) is None
    assert graphs[0].count("ncfast.triton_moments") == int(usable)
