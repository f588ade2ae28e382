"""The second pass of the C++ backend against the reference."""

from __future__ import annotations

import pytest
import torch
from cluster_data import FEATURE_DTYPES, features

from ncfast.ops import _raw
from ncfast.ops import moments as passes
from ncfast.ops.projection import PROJECTION

pytestmark = [
    pytest.mark.skipif(_raw.extension is None, reason=f"no extension: {_raw.import_error}"),
    pytest.mark.usefixtures("poison"),
]


@pytest.mark.parametrize("num_vectors", [1, 4, 7, 100])
@pytest.mark.parametrize("dtype", FEATURE_DTYPES)
def test_projections(instruction_set: str, dtype: torch.dtype, num_vectors: int) -> None:
    feats, labels = features(700, 83, 6)
    feats = feats.to(dtype)
    means = passes.reference(feats, labels, 6).means
    vectors = torch.randn(num_vectors, 83, generator=torch.Generator().manual_seed(3))
    got = PROJECTION.cpu(feats, labels, means, vectors)
    expected = PROJECTION.reference(feats, labels, means, vectors)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=0)


def test_projections_add_up_to_the_trace() -> None:
    feats, labels = features(3000, 12, 4)
    raw = passes.cpu(feats, labels, 4)
    sums = PROJECTION.cpu(feats, labels, raw.means, torch.eye(12))
    torch.testing.assert_close(sums.sum(), raw.within_ss.sum(), rtol=1e-12, atol=0)
    labels[0] = 4
    assert PROJECTION.cpu(feats, labels, raw.means, torch.eye(12)).isnan().all()
