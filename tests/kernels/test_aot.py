"""Tests kernels compiled for absent GPUs: no spills, few registers, whole-vector loads.

The table beside this file was written by ``python tests/aot.py --write`` with the Triton
of constraints.txt; another version may differ by a few registers.
"""

import importlib.util
import json

import pytest

if importlib.util.find_spec("triton") is None:
    pytest.skip("needs triton (Linux on x86-64 only)", allow_module_level=True)

import aot

TABLE = json.loads(aot.TABLE.read_text())
# Other targets are tested with the hardest case of each kernel; tests/aot.py compiles all cases.
EVERYWHERE = {"segments fp32 D=512", "segments bf16 D=512", "merge fp32 K=10"}
SLACK = 8  # registers are allocated in groups of 8, so smaller changes have no effect


def test_the_table_is_complete():
    assert set(TABLE) == set(aot.cases())


@pytest.mark.parametrize("name", TABLE)
def test_machine_code(name):
    targets = aot.TARGETS if name in EVERYWHERE else (90,)
    for target in targets:
        expected = TABLE[name][f"sm_{target}"]
        found = aot.inspect(aot.compile_case(aot.cases()[name], target))
        assert found["spills"] == 0, target
        assert found["stack"] == 0, target
        assert found["registers"] <= expected["registers"] + SLACK, target
        assert found["vector_loads"] >= expected["vector_loads"], target
        if "code_bytes" in expected:
            assert found["code_bytes"] <= 1.1 * expected["code_bytes"], target


@pytest.mark.parametrize(
    ("name", "registers", "code"),
    [
        ("tiny fp32 1000x200", 128, 31),
        ("tiny fp32 4096x256", 128, 31),
        ("tiny bf16 1000x2048", 128, 31),
        ("tiny fp64 1000x200", 128, 36),
        ("merge fp32 K=10", 128, 24),
        ("merge fp32 K=1000", 128, 24),
    ],
)
def test_kernels_that_wait_for_their_code_are_small(name, registers, code):
    """The table itself: two programs of 256 threads share a multiprocessor; code in KB."""
    for found in TABLE[name].values():
        assert found["registers"] <= registers
        assert found["code_bytes"] <= code << 10


ONE_OF_EACH = ("segments fp32 D=4096", "merge fp32 K=10", "tiny fp32 1000x200", "project fp32 V=64")
ONE_OF_EACH += ("decide fp32 K=1000", "decide exactly fp64", "scatter fp32 D=512")
ONE_OF_EACH += ("segments again fp32 D=512", "update fp32 D=512", "update look fp32 D=512")
ONE_OF_EACH += ("fold_labels", "find_classes", "cut_classes", "cut_present")


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_compiles_for_an_amd_device(name):
    """A device with waves of 64 and 64 KB of shared memory; no more is tested about it."""
    compiled = aot.compile_case(aot.cases()[name], "gfx942")
    assert compiled.metadata.shared <= 1 << 16
    assert ".vgpr_spill_count: 0" in compiled.asm["amdgcn"]


@pytest.mark.parametrize("target", [75, 120])
@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_compiles_for_the_oldest_and_the_newest_device(name, target):
    assert aot.inspect(aot.compile_case(aot.cases()[name], target))["spills"] == 0


@pytest.mark.parametrize(
    ("wanted", "capability", "allowed", "expected"),
    [
        ("bf16x6", (9, 0), ("tf32", "tf32x3", "ieee", "bf16x6"), "bf16x6"),
        ("bf16x6", (9, 0), ("tf32", "tf32x3", "ieee"), "tf32x3"),
        ("tf32x3", (8, 6), ("tf32", "tf32x3", "ieee"), "tf32x3"),
        ("bf16x6", (7, 5), ("tf32", "tf32x3", "ieee", "bf16x6"), "ieee"),
    ],
)
def test_precisions(monkeypatch, wanted, capability, allowed, expected):
    """Triton before 3.6 has no pieces of bfloat16, devices before 8.0 no pieces at all."""
    from triton.backends.nvidia.compiler import CUDAOptions

    from ncfast.kernels.launch import precision_for

    monkeypatch.setattr(CUDAOptions, "allowed_dot_input_precisions", allowed)
    assert precision_for(wanted, capability) == expected


def test_the_check_notices_a_spill():
    """A tile that is far too large for the registers."""
    case = aot.cases()["segments fp32 D=512"]
    case["constants"] = case["constants"] | {"ROWS": 32}
    assert aot.inspect(aot.compile_case(case | {"warps": 1}, 90))["spills"] > 0
