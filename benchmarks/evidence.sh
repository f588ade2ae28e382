#!/usr/bin/env bash
# Every measurement of speed and error on a CPU behind the documents, one after another; hours on an
# idle machine. Trainings are in docs/results, each with its command. A stage that fails does not
# stop the others: the last lines list the seconds of every stage and what did not finish.
#
#   bash benchmarks/evidence.sh [--quick] [STAGE...]
#
# Stages, in this order when none is named:
#   first        the ten rows at the top of docs/performance.md, and its aims
#   packages     the installed packages of `pip install ncfast[bench]`
#   bench        every operation against its contestants, accuracy first (docs/performance.md)
#   moments      the tables of docs/cpu-backend.md
#   metrics      the whole suite, up to 10,000 classes (docs/metrics.md)
#   neighbors    the tables of docs/neighbors.md
#   tracker      what tracking costs (docs/tracking.md)
#   collectives  one packed collective against two (docs/integrations.md)
#   replicas     steps of F2, the authors' way beside ours (docs/experiments.md; NCFAST_DATA names the data)
#   released     log points of F2, the authors' way beside ours (likewise)
#   scaling      class moments against N, D, K and threads
#   streaming    a file larger than memory (needs as much free disk there)
#   projection   state and traffic on a cluster
#   accuracy     the table of docs/accuracy.md
#   information  the tables and the figure of docs/information.md
# All of them write to $NCFAST_RESULTS, or runs/evidence; nothing of the repository changes.
# --quick takes the small form of each, minutes in all: it shows that all of it runs.
# The rounds of a case take $NCFAST_SECONDS seconds (4); set-up and slow contestants come on top.
# A command that runs for more than $NCFAST_LIMIT seconds (an hour) is ended, where `timeout` exists.
set -euo pipefail
cd "$(dirname "$0")/.."

quick=
if [ "${1:-}" = --quick ]; then
    quick=1
    shift
fi
python=${PYTHON:-.venv/bin/python}
export NCFAST_RESULTS=${NCFAST_RESULTS:-runs/evidence}
results=$NCFAST_RESULTS bench=$NCFAST_RESULTS/bench.json
seconds=${NCFAST_SECONDS:-4}
[ -z "$quick" ] || seconds=0.2
limit=()
if command -v timeout >/dev/null; then
    limit=(timeout "${NCFAST_LIMIT:-3600}")
fi

run() {
    echo "+ $*"
    ${limit[@]+"${limit[@]}"} "$python" "$@"
}

study() {
    local name=$1
    shift
    run "benchmarks/studies/$name.py" "$@"
}

# ops NAME...: operations of `ncfast bench`; the file keeps the others
ops() { run -m ncfast bench ${quick:+--quick} --seconds "$seconds" --ops "$@" --out "$bench"; }

first() {
    if [ -n "$quick" ]; then
        run -m ncfast bench --quick --seconds "$seconds" --ops packages.training packages.nc1
        return
    fi
    run -m ncfast.benchmarks.first_screen --out "$results/first.json"
    run -m ncfast.benchmarks.aims --out "$results/first.json"
}

packages() {
    ops packages.training packages.nc1 packages.vocabulary packages.information packages.discrete
}

bench() { run -m ncfast bench ${quick:+--quick} --seconds "$seconds" --out "$bench"; }

moments() { ops class_moments.grid update.vocabulary rnc1.call; }

metrics() { ops metrics.suite; }

neighbors() { ops knn.grid knn.engines mutual_information.grid mutual_information.engines; }

tracker() {
    # some percent of a step take a minute of rounds, and one thread
    local minute=${quick:+$seconds}
    run -m ncfast bench ${quick:+--quick} --seconds "${minute:-60}" --threads 1 \
        --ops tracker_cost.mlp --out "$results/first.json"
    ops tracker_cost.resnet18 tracker_cost.alone
}

collectives() { ops all_reduce; }

replicas() { ops replica_step.f2; }

released() { ops log_point; }

scaling() { run -m ncfast.benchmarks.scaling ${quick:+--quick} --out "$results/scaling.json"; }

streaming() {
    run -m ncfast.benchmarks.streaming "$results/stream" ${quick:+--gib 1} \
        --out "$results/streaming.json"
    rm -r "$results/stream"
}

projection() { run -m ncfast.benchmarks.projection --out "$results/projection.json"; }

accuracy() { study accuracy; }

information() {
    ops entropy
    if [ -n "$quick" ]; then
        study information_warnings --draws 1 0 --ranks 0 0
        study information_ties --draws 2
        return
    fi
    # values, not times: two at a time
    local others=0
    export OMP_NUM_THREADS=1
    study information_errors &
    {
        study information_bias && study information_warnings && study information_rivals &&
            study information_ties
    } || others=$?
    wait $!
    return "$others"
}

if [ $# -eq 0 ]; then
    set -- first packages bench moments metrics neighbors tracker collectives replicas released \
        scaling streaming projection accuracy information
fi
for stage in "$@"; do
    if [ "$(type -t "$stage")" != function ]; then
        echo "Expected stages of benchmarks/evidence.sh but got '$stage'." >&2
        exit 2
    fi
done
mkdir -p "$results"
lines=() failed=()
for stage in "$@"; do
    echo "== $stage"
    begin=$SECONDS status=0
    # a shell of its own, in which the first command that fails ends the stage
    set +e
    (
        set -e
        "$stage"
    )
    status=$?
    set -e
    lines+=("$stage: $((SECONDS - begin)) s$([ "$status" = 0 ] || echo ", failed with status $status")")
    [ "$status" = 0 ] || failed+=("$stage")
done
echo "== stages"
printf '%s\n' "${lines[@]}"
if [ ${#failed[@]} -gt 0 ]; then
    echo "Not finished: ${failed[*]}" >&2
    exit 1
fi
