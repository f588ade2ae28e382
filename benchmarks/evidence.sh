#!/usr/bin/env bash
# Every measurement of speed and error on a CPU behind the documents, one after another; hours on an
# idle machine. Trainings are in docs/results, each with its command.
#
#   bash benchmarks/evidence.sh [--quick] [STAGE...]
#
# Stages, in this order when none is named:
#   bench        every operation against its contestants, accuracy first (docs/performance.md)
#   scaling      class moments against N, D, K and threads
#   streaming    a file larger than memory (needs as much free disk there)
#   projection   state and traffic on a cluster
#   accuracy     the table of docs/accuracy.md
#   moments      the tables of docs/cpu-backend.md
#   metrics      the whole suite, up to 10,000 classes (docs/metrics.md)
#   neighbors    the tables of docs/neighbors.md
#   information  the tables and the figure of docs/information.md
#   tracker      what tracking costs (docs/tracking.md)
#   collectives  one packed collective against two (docs/integrations.md)
#   replicas     steps of F2, the authors' way beside ours (docs/experiments.md; NCFAST_DATA names the data)
#   released     log points of F2, the authors' way beside ours (likewise)
# All of them write to $NCFAST_RESULTS, or runs/evidence; nothing of the repository changes.
# --quick takes the small form of each, minutes in all: it shows that all of it runs.
set -euo pipefail
cd "$(dirname "$0")/.."

quick=
if [ "${1:-}" = --quick ]; then
    quick=1
    shift
fi
python=${PYTHON:-.venv/bin/python}
export NCFAST_RESULTS=${NCFAST_RESULTS:-runs/evidence}
results=$NCFAST_RESULTS
mkdir -p "$results"

run() {
    echo "+ $*"
    "$python" "$@"
}

study() {
    local name=$1
    shift
    run "benchmarks/studies/$name.py" "$@"
}

# ops NAME...: operations of `ncfast bench`; the file keeps the others
ops() { run -m ncfast bench ${quick:+--quick --seconds 0.2} --ops "$@" --out "$results/bench.json"; }

bench() { run -m ncfast bench ${quick:+--quick} --out "$results/bench.json"; }

scaling() { run -m ncfast.benchmarks.scaling ${quick:+--quick} --out "$results/scaling.json"; }

streaming() {
    run -m ncfast.benchmarks.streaming "$results/stream" ${quick:+--gib 1} \
        --out "$results/streaming.json"
    rm -r "$results/stream"
}

projection() { run -m ncfast.benchmarks.projection --out "$results/projection.json"; }

accuracy() { study accuracy; }

moments() { ops class_moments.grid update.vocabulary rnc1.call; }

metrics() { ops metrics.suite; }

neighbors() { ops knn.grid knn.engines mutual_information.grid mutual_information.engines; }

information() {
    ops entropy plane
    if [ -n "$quick" ]; then
        study information_warnings --draws 1 0 --ranks 0 0
        study information_ties --draws 2
        return
    fi
    study information_bias
    study information_warnings
    study information_rivals
    study information_ties
    study information_errors
}

tracker() { ops tracker_cost.mlp tracker_cost.resnet18 tracker_cost.alone; }

collectives() { ops all_reduce; }

replicas() { ops replica_step.f2; }

released() { ops log_point; }

if [ $# -eq 0 ]; then
    set -- bench scaling streaming projection accuracy moments metrics neighbors information \
        tracker collectives replicas released
fi
for stage in "$@"; do
    echo "== $stage"
    "$stage"
done
