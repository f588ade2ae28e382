"""The second pass of the C++ backend against the reference."""

from __future__ import annotations

import pytest
import torch
from cluster_data import FEATURE_DTYPES, features

from ncfast.ops import cpu, reference

pytestmark = [
    pytest.mark.skipif(cpu.extension is None, reason=f"no extension: {cpu.import_error}"),
    pytest.mark.usefixtures("poison"),
]


@pytest.mark.parametrize("num_vectors", [1, 4, 7, 100])
@pytest.mark.parametrize("dtype", FEATURE_DTYPES)
def test_projections(instruction_set: str, dtype: torch.dtype, num_vectors: int) -> None:
    feats, labels = features(700, 83, 6)
    feats = feats.to(dtype)
    means = reference.class_moments(feats, labels, 6).means
    vectors = torch.randn(num_vectors, 83, generator=torch.Generator().manual_seed(3))
    got = cpu.projected_ss(feats, labels, means, vectors)
    expected = reference.projected_ss(feats, labels, means, vectors)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=0)


def test_projections_add_up_to_the_trace() -> None:
    feats, labels = features(3000, 12, 4)
    raw = cpu.class_moments(feats, labels, 4)
    sums = cpu.projected_ss(feats, labels, raw.means, torch.eye(12))
    torch.testing.assert_close(sums.sum(), raw.within_ss.sum(), rtol=1e-12, atol=0)
    labels[0] = 4
    assert cpu.projected_ss(feats, labels, raw.means, torch.eye(12)).isnan().all()
