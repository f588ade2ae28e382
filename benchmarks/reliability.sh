#!/usr/bin/env bash
# Tries to break ncfast: kill -9, fuzzed calls, full disks, lost ranks, damaged files, a million
# tracked steps. At most 30 minutes on two cores; Linux, from a checkout with the development set-up.
#
#   bash benchmarks/reliability.sh [--quick] [STAGE...]
#
# Stages, all when none is named: kills, calls, disk, ranks, files, soak.
# The results go to $NCFAST_RESULTS/reliability.json, or runs/evidence/reliability.json. The status is
# 1 if anything was lost or wrong. docs/reliability.md shows the results of benchmarks/results;
# `python -m ncfast.benchmarks.reliability.page` writes it.
# --quick takes the form of CI, about two minutes.
set -euo pipefail
cd "$(dirname "$0")/.."

results=${NCFAST_RESULTS:-runs/evidence}
mkdir -p "$results"
# one thread each: the stages run beside each other
export OMP_NUM_THREADS=1
exec "${PYTHON:-.venv/bin/python}" -m ncfast.benchmarks.reliability --out "$results/reliability.json" "$@"
