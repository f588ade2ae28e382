"""The choice of a backend, the reasons of refusals, and tracing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from cluster_data import features
from torch._subclasses import FakeTensor, FakeTensorMode

import ncfast
from ncfast.ops import _build, _raw, select
from ncfast.ops import moments as passes

needs_extension = pytest.mark.skipif(
    _raw.extension is None, reason=f"no extension: {_raw.import_error}"
)


@needs_extension
def test_auto_takes_the_extension_for_plain_cpu_tensors() -> None:
    feats = torch.zeros(3, 2)
    assert select("auto", feats) is passes.cpu
    assert select("cpu", torch.nn.Parameter(feats)) is passes.cpu
    assert select("reference", feats) is passes.reference


@needs_extension
def test_status_names_the_instruction_set() -> None:
    status = ncfast.backends()["cpu"]
    assert status.available
    assert _raw.extension.instruction_set() in status.reason


@needs_extension
def test_unknown_instruction_set_changes_nothing() -> None:
    before = _raw.extension.instruction_set()
    assert not _raw.extension.use_instruction_set("mmx")
    assert _raw.extension.instruction_set() == before


def test_without_the_extension(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_raw, "extension", None)
    monkeypatch.setattr(_raw, "import_error", "No module named 'ncfast._C'")
    feats, labels = features(20, 3, 2)
    assert select("auto", feats) is passes.reference
    assert not ncfast.backends()["cpu"].available
    with pytest.raises(ValueError, match=r"cannot run here.*extension"):
        ncfast.class_moments(feats, labels, num_classes=2, backend="cpu")
    raw = torch.ops.ncfast.class_moments(feats, labels, 2)
    assert torch.equal(raw[0], torch.bincount(labels))


def test_reason_of_a_failed_build(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    info = tmp_path / "_build_info.json"
    info.write_text('{"built": false, "reason": "CompileError: no compiler"}')
    monkeypatch.setattr(_build, "INFO", info)
    monkeypatch.setattr(_raw, "extension", None)
    assert "no compiler" in ncfast.backends()["cpu"].reason


@pytest.mark.parametrize("search", [False, True])
def test_a_pure_installation_says_so_once(monkeypatch: pytest.MonkeyPatch, search: bool) -> None:
    monkeypatch.setattr(_raw, "extension", None)
    monkeypatch.setattr(_raw, "import_error", "No module named 'ncfast._C'")
    monkeypatch.setattr(_build, "_warned", False)
    monkeypatch.setattr(_build, "INFO", Path("/nonexistent"))

    def call(rows: int) -> None:
        feats, labels = features(rows, 64, 2)
        if search:
            ncfast.entropy(feats[:, :2], k=3)
        else:
            ncfast.class_moments(feats, labels, num_classes=2)

    call(900)  # too small to matter
    with pytest.warns(RuntimeWarning, match=r"faster with the C\+\+ extension.*ncfast\._C") as said:
        call(1100)
    assert [each.filename for each in said] == [__file__]
    call(1100)  # a warning would be an error


@needs_extension
def test_cpu_cannot_be_forced_on_what_it_cannot_read() -> None:
    class Wrapped(torch.Tensor):
        pass

    feats = torch.zeros(3, 2)
    labels = torch.zeros(3, dtype=torch.int64)
    with pytest.raises(ValueError, match="on meta"):
        select("cpu", feats.to("meta"))
    with pytest.raises(ValueError, match="Wrapped"):
        ncfast.class_moments(feats.as_subclass(Wrapped), labels, num_classes=1, backend="cpu")
    with pytest.raises(ValueError, match="'triton' cannot run here"):
        select("triton", feats)
    with pytest.raises(ValueError, match="one of"):
        select("gpu", feats)


@needs_extension
def test_operators_pass_opcheck() -> None:
    feats, labels = features(60, 7, 5)
    for dtype in (torch.float32, torch.bfloat16):
        args = (feats.to(dtype), labels, 5)
        torch.library.opcheck(torch.ops.ncfast.class_moments.default, args)
    means = passes.reference(feats, labels, 5).means
    vectors = torch.eye(7)[:3]
    torch.library.opcheck(
        torch.ops.ncfast.projected_ss.default, (feats.float(), labels, means, vectors)
    )


@needs_extension
def test_a_fake_tensor_is_never_read() -> None:
    with FakeTensorMode():
        feats, labels = torch.zeros(10, 4), torch.zeros(10, dtype=torch.int64)
        inside = ncfast.class_moments(feats, labels, num_classes=3)
    outside = ncfast.class_moments(feats, labels, num_classes=3)
    assert select("auto", feats) is passes.cpu_operator
    for moments in (inside, outside):
        assert isinstance(moments.means, FakeTensor)
        assert moments.means.shape == (3, 4)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiles_as_one_graph(backend: str) -> None:
    def both(feats: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        moments = ncfast.class_moments(feats, labels, num_classes=5)
        return moments.means, ncfast.rnc1(feats * 2, labels, num_classes=5)

    torch._dynamo.reset()
    compiled = torch.compile(both, fullgraph=True, backend=backend)
    for seed in (0, 1):
        feats, labels = features(80, 6, 5, seed)
        for got, expected in zip(compiled(feats, labels), both(feats, labels), strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-12, atol=0)


@pytest.mark.filterwarnings("ignore")
def test_compiles_with_inductor() -> None:
    if not _inductor_works():
        pytest.skip("inductor has no working C++ compiler here")
    feats, labels = features(80, 6, 5)

    def rnc1(feats: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return ncfast.rnc1(feats, labels, num_classes=5)

    torch._dynamo.reset()
    got = torch.compile(rnc1, fullgraph=True)(feats, labels)
    torch.testing.assert_close(got, rnc1(feats, labels), rtol=1e-12, atol=0)


def _inductor_works() -> bool:
    try:
        torch.compile(lambda x: (x * 2 + 1).sum(), fullgraph=True)(torch.ones(100))
    except Exception:
        return False
    return True
