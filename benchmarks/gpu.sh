#!/usr/bin/env bash
# All that is claimed of a GPU, on one GPU: correctness first, then time.
#
#   bash benchmarks/gpu.sh [--rehearse] [STAGE...]
#
# Stages, in this order when none is named:
#   build     installs the project from this folder, without a network
#   compile   compiles the kernels of the self-check, in a process for each core
#   verdicts  the self-check of the kernels, as users run it; a verdict that is not good fails
#   tests     the tests marked gpu: float64, graphs, streams, bits over 20 runs, no synchronisation
#   memory    compute-sanitizer's memcheck, and racecheck of shared memory, over every kernel
#   kernels   the Triton kernels against a plain read and torch
#   bench     every operation against its contestants, or those that $OPS names
#   f3        figure 3 on MNIST in full, tracked ($NCFAST_DATA names the data)
# A stage that fails ends the script, so no time is written for what a test before it rejects. A
# stage also fails if the Triton backend cannot run, or if a kernel fell back to the reference.
# The packages are checked before the first stage; images with CUDA often lack tyro, which the stages
# tests and f3 need (with docstring_parser and typeguard).
# --rehearse runs on a CPU, small, in Triton's interpreter: the script is tried, nothing is timed.
#
# Results are written to $NCFAST_RESULTS (benchmarks/results), case by case. After $NCFAST_LIMIT
# seconds the script is ended. $NCFAST_PACK names a .tgz for the results without the checkpoints; it
# is written whatever happened. On a machine that is lent for ten minutes at a time and then forgets:
#   export NCFAST_RESULTS=/tmp/results NCFAST_LIMIT=570
#   NCFAST_PACK=/tmp/1.tgz bash benchmarks/gpu.sh build compile verdicts tests
#   NCFAST_PACK=/tmp/2.tgz bash benchmarks/gpu.sh build memory kernels
#   NCFAST_PACK=/tmp/3.tgz bash benchmarks/gpu.sh build bench
set -euo pipefail
called_in=$PWD
cd "$(dirname "$0")/.."

export NCFAST_RESULTS=${NCFAST_RESULTS:-benchmarks/results}
results=$NCFAST_RESULTS
mkdir -p "$results"
if [ -n "${NCFAST_LIMIT:-}${NCFAST_PACK:-}" ]; then
    limit=${NCFAST_LIMIT:-0} pack=${NCFAST_PACK:-} status=0
    unset NCFAST_LIMIT NCFAST_PACK
    timeout --kill-after=10 "$limit" bash benchmarks/gpu.sh "$@" || status=$?
    if [ "$status" = 124 ]; then
        echo "ended after $limit s, the limit" >&2
    fi
    if [ -n "$pack" ]; then
        case $pack in /*) ;; *) pack=$called_in/$pack ;; esac
        tar -czf "$pack" --exclude='*.safetensors' -C "$results" .
    fi
    exit "$status"
fi

rehearse=
if [ "${1:-}" = --rehearse ]; then
    rehearse=1
    shift
    export TRITON_INTERPRET=1
fi
python=${PYTHON:-python3}
export PYTHONUNBUFFERED=1
fallback="error:ncfast falls back to the reference:RuntimeWarning"
wrong="error:WRONG RESULTS:RuntimeWarning"
export PYTHONWARNINGS="$fallback,$wrong"

# needs STAGE: names the packages that a stage imports and that are missing
needs() {
    local packages
    case $1 in
    build) packages="setuptools pybind11" ;;
    tests) packages="pytest pytest_timeout hypothesis sklearn tyro" ;;
    f3) packages="tyro matplotlib tqdm safetensors sklearn" ;;
    *) return 0 ;;
    esac
    "$python" - "$1" $packages <<'END'
import importlib.util, sys
missing = [name for name in sys.argv[2:] if not importlib.util.find_spec(name)]
sys.exit(f"stage {sys.argv[1]} needs the package {', '.join(missing)}" if missing else None)
END
}

build() {
    local install=("$python" -m pip install --quiet --no-deps --no-build-isolation --no-index -e .)
    # the kernels do not need the C++ extension
    "${install[@]}" || NCFAST_PURE=1 "${install[@]}"
    "$python" -m ncfast info
}

usable() {
    "$python" -c 'import sys, ncfast; s = ncfast.backends()["triton"]; sys.exit(None if s.available else s.reason)'
}

compile() {
    "$python" benchmarks/studies/gpu_compile.py ${rehearse:+--rehearse}
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
    # the verdicts have the self-check; other versions of packages may warn of what is to come
    grep -rl --include='test_*.py' 'mark\.gpu' tests | grep -v test_gpu_self_check |
        xargs "$python" -m pytest -m gpu -q -W default -W "$fallback" -W "$wrong"
}

memory() {
    if [ -n "$rehearse" ]; then
        "$python" benchmarks/studies/gpu_every_kernel.py --rehearse
        return
    fi
    local study=("$python" benchmarks/studies/gpu_every_kernel.py --dtype)
    each_dtype "${study[@]}" # compiles, at the speed of the processor
    for tool in memcheck racecheck; do
        each_dtype compute-sanitizer --tool "$tool" --error-exitcode 1 "${study[@]}"
    done
}

# each_dtype COMMAND...: the command for each dtype of features, side by side
each_dtype() { printf '%s\n' float32 bfloat16 float16 float64 | xargs -P 4 -n 1 "$@"; }

kernels() {
    "$python" benchmarks/studies/gpu_moments.py ${rehearse:+--rehearse} --seconds 400
}

# `ncfast bench`, without the package that reads its options. The kernels are what is timed: with no
# verdict in the cache of this machine, a call would take the reference and start the self-check.
bench() {
    NCFAST_TRITON=1 "$python" - "$results/$device.json" "$rehearse" ${OPS:-} <<'END'
import sys
from pathlib import Path
from ncfast.benchmarks.bench import bench
from ncfast.benchmarks.config import BenchConfig
out, rehearse, *ops = sys.argv[1:]
if rehearse:
    bench(BenchConfig(out=Path(out), quick=True, ops=("rnc1",), seconds=0.1, device="cpu"))
else:
    bench(BenchConfig(out=Path(out), ops=tuple(ops), seconds=4.0, device="cuda"))
END
}

f3() {
    if [ -n "$rehearse" ]; then
        "$python" -m ncfast sweep --preset f3 --quick --steps 20 --seeds 1 --out "$results/f3"
    else
        time NCFAST_TRITON=1 "$python" -m ncfast sweep --preset f3 --device cuda --out "$results/f3"
    fi
}

all="build compile verdicts tests memory kernels bench f3"
if [ $# -eq 0 ]; then
    set -- $all
fi
for stage in "$@"; do
    case " $all " in
    *" $stage "*) needs "$stage" ;;
    *)
        echo "Expected stages of: $all, but got '$stage'." >&2
        exit 2
        ;;
    esac
done
if [ -n "$rehearse" ]; then
    device=rehearsal
else
    device=$("$python" -c 'import torch; print(torch.cuda.get_device_name().lower().replace(" ", "-"))')
fi
for stage in "$@"; do
    echo "== $stage"
    if [ -z "$rehearse" ] && [ "$stage" != build ]; then
        usable
    fi
    begin=$SECONDS
    "$stage"
    echo "== $stage took $((SECONDS - begin)) s"
done
