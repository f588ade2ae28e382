"""Tests importing ncfast: the time it takes, what it imports, and the names a user gets."""

import json
import pkgutil
import subprocess
import sys

import pytest

import ncfast

PROBE = """
import json, sys, time
begin = time.process_time()
import torch, typing_extensions, importlib.metadata
start = time.process_time()
import ncfast
spent = (time.process_time() - start) / (start - begin)
optional = ["triton", "faiss", "sklearn", "matplotlib", "tqdm", "tyro", "safetensors", "pooch",
            "scipy", "torchmetrics", "lightning", "transformers", "accelerate",
            "tensorboard", "wandb", "mlflow", "trackio", "pyarrow", "pybind11"]
print(json.dumps([spent, [name for name in optional if name in sys.modules]]))
"""


def probe():
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_import_adds_little_and_nothing_optional():
    runs = [probe() for _ in range(3)]
    baseline = subprocess.run(
        [sys.executable, "-c", "import sys, torch, json; print(json.dumps(sorted(sys.modules)))"],
        capture_output=True,
        text=True,
        check=True,
    )
    already = set(json.loads(baseline.stdout))
    for _, loaded in runs:
        assert not [name for name in loaded if name not in already]
    # a share of processor time: another program on the machine slows both
    assert min(share for share, _ in runs) < 0.25


def test_no_module_hides_behind_a_function_of_the_same_name():
    modules = {module.name for module in pkgutil.iter_modules(ncfast.information.__path__)}
    assert not modules & set(ncfast.information.__all__)


def test_every_public_name_is_there_and_no_other():
    for name in (*ncfast.__all__, "information", "tracking", "evaluation", "distributed"):
        assert getattr(ncfast, name) is not None
        assert name in dir(ncfast)
    assert ncfast.Tracker is ncfast.tracking.Tracker
    with pytest.raises(AttributeError, match="no attribute 'missing'"):
        ncfast.missing  # noqa: B018
