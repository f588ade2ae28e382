#!/usr/bin/env bash
# All that is claimed of a GPU, on one GPU: correctness first, then time.
#
#   bash benchmarks/gpu.sh [--rehearse] [STAGE...]
#
# Stages, each under ten minutes on a large GPU, in this order when none is named:
#   build     installs the project from this folder, without a network
#   verdicts  the self-check of the kernels, as users run it; a verdict that is not good fails
#   tests     the tests marked gpu: float64, graphs, streams, bits over 20 runs, no synchronisation
#   memory    compute-sanitizer's memcheck, and racecheck of shared memory, over every kernel
#   kernels   the Triton kernels against a plain read and torch
#   bench     every operation against its contestants
#   f3        figure 3 on MNIST in full, tracked (NCFAST_DATA names the data)
# A stage that fails ends the script, so no time is written for what a test before it rejects. A
# stage also fails if the Triton backend cannot run, or if a kernel fell back to the reference.
# --rehearse runs on a CPU, small, in Triton's interpreter: the script is tried, nothing is timed.
set -euo pipefail
cd "$(dirname "$0")/.."

rehearse=
if [ "${1:-}" = --rehearse ]; then
    rehearse=1
    shift
    export TRITON_INTERPRET=1
fi
python=${PYTHON:-python3}
export PYTHONWARNINGS="error:ncfast falls back to the reference:RuntimeWarning,error:WRONG RESULTS:RuntimeWarning"
results=${RESULTS:-benchmarks/results}
mkdir -p "$results"
if [ -n "$rehearse" ]; then
    device=rehearsal
else
    device=$("$python" -c 'import torch; print(torch.cuda.get_device_name().lower().replace(" ", "-"))')
fi

build() {
    "$python" -m pip install --quiet --no-deps --no-build-isolation --no-index -e .
    "$python" -m ncfast info
}

usable() {
    "$python" -c 'import sys, ncfast; s = ncfast.backends()["triton"]; sys.exit(None if s.available else s.reason)'
}

verdicts() {
    if [ -n "$rehearse" ]; then
        "$python" -m ncfast info
        return
    fi
    "$python" -m ncfast info --check-gpu
    "$python" -c 'import sys, ncfast
bad = [line for line in ncfast.backends()["triton"].verdicts
       if any(word in line for word in (" failed", " crashed", " timed out", "): unchecked"))]
sys.exit("\n".join(bad) or None)'
}

tests() {
    "$python" -m pytest tests -m gpu -q
}

memory() {
    if [ -n "$rehearse" ]; then
        "$python" benchmarks/studies/gpu_every_kernel.py --rehearse
        return
    fi
    for tool in memcheck racecheck; do
        compute-sanitizer --tool "$tool" --error-exitcode 1 \
            "$python" benchmarks/studies/gpu_every_kernel.py
    done
}

kernels() {
    "$python" benchmarks/studies/gpu_moments.py ${rehearse:+--rehearse}
}

bench() {
    if [ -n "$rehearse" ]; then
        "$python" -m ncfast bench --quick --ops rnc1 --seconds 0.1 --out "$results/$device.json"
    else
        "$python" -m ncfast bench --device cuda --seconds 4 --out "$results/$device.json"
    fi
}

f3() {
    if [ -n "$rehearse" ]; then
        "$python" -m ncfast sweep --preset f3 --quick --steps 20 --seeds 1 --out "$results/f3"
    else
        time "$python" -m ncfast sweep --preset f3 --device cuda --out "$results/f3"
    fi
}

if [ $# -eq 0 ]; then
    set -- build verdicts tests memory kernels bench f3
fi
for stage in "$@"; do
    echo "== $stage"
    if [ -z "$rehearse" ] && [ "$stage" != build ]; then
        usable
    fi
    "$stage"
done
