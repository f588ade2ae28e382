"""Runs the self-check on a GPU: every verdict is good, and "auto" then takes the kernels."""

import pytest
import torch

import ncfast
from ncfast.ops import _verdicts
from ncfast.ops.scatter import SCATTER
from ncfast.self_check import command, worker

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not ncfast.backends()["triton"].available, reason=ncfast.backends()["triton"].reason
    ),
]


@pytest.mark.parametrize("subject", worker.subjects(), ids=lambda each: "-".join(each))
def test_the_kernels_pass(subject):
    verdict = worker.examine(subject, torch.device("cuda:0"), alone=True)
    assert verdict.state in ("ok", "unchecked"), verdict
    if verdict.state == "unchecked":
        pytest.skip(verdict.reason)


@pytest.mark.timeout(1800)
def test_the_command_writes_verdicts_that_auto_takes(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    _verdicts.forget()
    assert command.check_all(print) is None
    _verdicts.forget()
    feats = torch.randn(1000, 64, device="cuda")
    assert SCATTER.select("auto", feats) == SCATTER.if_proven
    bad = [line for line in ncfast.backends()["triton"].verdicts if "failed" in line]
    assert not bad
