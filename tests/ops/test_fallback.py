"""When kernels fail: which of them are given up, and which errors are passed on."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import ncfast
from ncfast.ops import _fallback, _registry
from ncfast.ops._fallback import variant_of, with_fallback


class Stream:
    """A stream of a device whose context is lost, or not."""

    def __init__(self, lost):
        self.lost = lost

    def query(self):
        if self.lost:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return False


@pytest.fixture
def device(monkeypatch):
    """Makes a fake CUDA device: ``device(capturing=..., lost=...)``; no failure is known yet."""
    monkeypatch.setattr(_fallback, "failures", {})

    def make(*, capturing=False, lost=False):
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream(lost))

    make()
    return make


def features(rows, dim, dtype=torch.float32, step=1, skip=0):
    """Columns ``step`` entries apart, from the entry ``skip`` on."""
    with FakeTensorMode():
        whole = torch.empty(rows * dim * step + skip, dtype=dtype, device="cuda")
        return whole.as_strided((rows, dim), (dim * step, step), skip)


def call(feats, error=None, path=""):
    """The form that ran."""

    def kernels():
        if error is not None:
            raise error
        return "kernels"

    return with_fallback("the scatter matrix", feats, kernels, lambda: "reference", path)


def give_up(feats, path=""):
    with pytest.warns(RuntimeWarning, match="no kernel image"):
        assert call(feats, RuntimeError("no kernel image"), path) == "reference"


def test_a_failure_is_remembered_and_told_once(device):
    feats = features(50, 8)
    give_up(feats)
    assert call(feats) == "reference"  # warnings are errors: none comes
    assert call(features(90, 7)) == "kernels"


@pytest.mark.parametrize(
    ("feats", "path"),
    [
        (features(50, 8, dtype=torch.bfloat16), ""),
        (features(50, 512), ""),
        (features(50, 9), ""),
        (features(50, 8, step=2), ""),
        (features(50, 8, skip=1), ""),
        (features(50, 8), "another path"),
    ],
    ids=["dtype", "width", "alignment", "strided columns", "address", "path"],
)
def test_other_variants_go_on(device, feats, path):
    give_up(features(50, 8))
    assert call(feats, path=path) == "kernels"


def test_the_number_of_rows_is_no_variant():
    assert variant_of("x", features(50, 8)) == variant_of("x", features(9000, 8))


def test_nothing_is_decided_during_a_capture(device):
    feats, error = features(50, 8), RuntimeError("operation not permitted when stream is capturing")
    device(capturing=True)
    with pytest.raises(RuntimeError, match="not permitted"):
        call(feats, error)
    device()
    assert call(feats) == "kernels"


def test_a_failure_known_before_a_capture_holds_in_it(device):
    feats = features(50, 8)
    give_up(feats)
    device(capturing=True)
    assert call(feats) == "reference"


def test_an_error_of_the_device_is_passed_on(device):
    """The results of the reference would not be correct either."""
    feats, error = features(50, 8), RuntimeError("Triton Error [CUDA]: an illegal memory access")
    device(lost=True)
    with pytest.raises(RuntimeError) as caught:
        call(feats, error)
    assert caught.value is error
    assert not _fallback.failures


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("full"), _fallback._DEVICE_ERROR("lost")])
def test_errors_of_torch_about_the_device_are_passed_on(device, error):
    with pytest.raises(type(error)):
        call(features(50, 8), error)
    assert not _fallback.failures


def test_the_status_lists_what_failed(device, monkeypatch):
    give_up(features(50, 200), path="sorted rows")
    monkeypatch.setattr(_registry, "_INSTALLED", True)
    monkeypatch.setattr(_registry, "_TRITON", (3, 9))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    status = ncfast.backends()["triton"]
    assert status.available, "other variants can run"
    for words in ("sorted rows, float32, D up to 256, 16-byte rows, cuda", "no kernel image"):
        assert words in status.reason
