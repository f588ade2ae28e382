import numpy as np
import pytest
import torch
import torch.distributed as dist
from ranks import run_ranks
from safetensors.torch import save_file

import ncfast
from ncfast.evaluation import on_disk
from ncfast.evaluation.on_disk import evaluate_files
from ncfast.evaluation.stored import FileError

K, D, N = 5, 16, 700
GENERATOR = np.random.default_rng(0)
MEANS = GENERATOR.standard_normal((K, D)).astype("float32")
LABELS = GENERATOR.integers(0, K, N)
FEATS = MEANS[LABELS] + GENERATOR.standard_normal((N, D)).astype("float32") / 2
BIAS = GENERATOR.standard_normal(K).astype("float32")
OUTSIDE = GENERATOR.standard_normal((90, D)).astype("float32")


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    """Blocks of 64 rows."""
    monkeypatch.setattr(on_disk, "_BLOCK", 64 * 4 * D)


@pytest.fixture
def folder(tmp_path):
    for name, array in {"x": FEATS, "y": LABELS, "w": MEANS, "b": BIAS, "o": OUTSIDE}.items():
        np.save(tmp_path / f"{name}.npy", array)
    return tmp_path


def paths(folder):
    named = {"feats": "x", "labels": "y", "weight": "w", "bias": "b", "ood": "o"}
    return {argument: folder / f"{name}.npy" for argument, name in named.items()}


def expected(rows=slice(None)):
    feats, labels, weight, bias = map(torch.from_numpy, (FEATS[rows], LABELS[rows], MEANS, BIAS))
    found = ncfast.collapse_metrics(
        feats, labels, weight=weight, bias=bias, ood_feats=torch.from_numpy(OUTSIDE)
    )
    hit = (feats @ weight.T + bias).argmax(1) == labels
    return {"accuracy": float(hit.double().mean())} | {k: float(v) for k, v in found.items()}


def same(found, expected):
    assert dict(found).keys() == expected.keys()
    assert dict(found) == pytest.approx(expected, rel=1e-6, abs=1e-9, nan_ok=True)


def test_every_metric_equals_that_of_the_features_in_memory(folder):
    found = evaluate_files(**paths(folder))
    same(found, expected())
    assert (found.samples, found.num_classes, found.layers) == (N, K, ("",))


def test_one_file_with_everything(folder):
    tensors = {"feats": FEATS, "labels": LABELS, "weight": MEANS, "bias": BIAS, "out": OUTSIDE}
    path = folder / "all.safetensors"
    save_file({name: torch.from_numpy(array) for name, array in tensors.items()}, path)
    same(evaluate_files(path, path, weight=path, bias=path, ood=f"{path}:out"), expected())


def test_without_classifier_or_outside(folder):
    found = evaluate_files(
        folder / "x.npy", folder / "y.npy", metrics=["nc1", "nc5"], num_classes=8
    )
    assert found.num_classes == 8
    assert "accuracy" not in found
    assert found["nc1.pinv"] == pytest.approx(expected()["nc1.pinv"])
    assert found.missing["nc5.ood_cosine"] == "needs features from outside the distribution"


def test_tokens(folder):
    np.save(folder / "x.npy", FEATS.reshape(70, 10, D))
    np.save(folder / "y.npy", LABELS.reshape(70, 10))
    same(evaluate_files(**paths(folder)), expected())


def test_labels_that_are_left_out(folder):
    np.save(folder / "y.npy", np.where(np.arange(N) < 600, LABELS, -100))
    found = evaluate_files(**paths(folder))
    same(found, expected(slice(600)))
    assert (found.samples, found.ignored) == (600, 100)


def test_rows_that_are_not_finite_are_counted(folder):
    bad = FEATS.copy()
    bad[600:, 3] = np.nan
    bad[650] = np.inf
    np.save(folder / "x.npy", bad)
    with pytest.raises(FileError, match=r"x.npy: 100 of rows 0 to 699 hold NaN.*nonfinite='skip'"):
        evaluate_files(**paths(folder))
    np.save(folder / "y.npy", np.where(np.arange(N) < 690, LABELS, -100))
    found = evaluate_files(**paths(folder), nonfinite="skip")
    same(found, expected(slice(600)))
    assert (found.samples, found.ignored, found.nonfinite) == (600, 10, 90)
    np.save(folder / "o.npy", np.concatenate([OUTSIDE, np.full((2, D), np.nan, "float32")]))
    found = evaluate_files(**paths(folder), nonfinite="skip")
    same(found, expected(slice(600)))
    assert found.nonfinite == 92


@pytest.mark.parametrize(
    ("name", "array", "text"),
    [
        ("w", MEANS.T, r"w.npy: expected a classifier of shape \(K, D\) with D = 16.* transposed"),
        ("w", MEANS > 0, r"w.npy: expected a classifier in float16.* but got torch.bool"),
        ("b", BIAS[:3], r"b.npy: expected a bias of shape \(5,\) but got \(3,\)"),
        ("o", OUTSIDE[:, :4], r"o.npy: expected features with D = 16 columns.*\(90, 4\)"),
        ("y", LABELS + 1, r"y.npy: expected labels in 0..4 but row \d+ holds 5"),
        ("y", LABELS[:5], r"y.npy: expected labels of shape \(700,\).*\(5,\)"),
    ],
)
def test_files_that_do_not_fit_each_other(folder, name, array, text):
    np.save(folder / f"{name}.npy", array)
    with pytest.raises(FileError, match=text):
        evaluate_files(**paths(folder))


def test_bad_arguments(folder):
    given = paths(folder)
    with pytest.raises(ValueError, match="`weight` beside `bias`"):
        evaluate_files(given["feats"], given["labels"], bias=given["bias"])
    with pytest.raises(ValueError, match="`nonfinite` to be 'error' or 'skip' but got 'drop'"):
        evaluate_files(given["feats"], given["labels"], nonfinite="drop")


def share(rank, world, port, folder):
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    found = evaluate_files(**paths(folder), group="auto")
    same(found, expected())
    assert found.samples == N
    dist.destroy_process_group()


def test_ranks_read_their_share(folder):
    run_ranks(share, 3, folder)
