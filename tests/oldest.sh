#!/usr/bin/env bash
# Runs the core suite with the oldest declared versions, or with another Python, in an environment
# of its own.
#
#   bash tests/oldest.sh [FOLDER [CONSTRAINTS [PYTEST ARGUMENTS...]]]
#
# FOLDER (default runs/oldest) gets the environment and a copy of the tracked files; both stay for
# the next call. CONSTRAINTS defaults to tests/oldest.txt, the oldest versions of pyproject.toml;
# "-" takes the newest of everything. PYTHON names the interpreter (default python3).
# The first call downloads about 3 GB: PyPI has torch 2.6 with CUDA only.
#
# The core suite is what needs no optional package: no experiments, integrations or benchmarks.
# tests/test_packaging.py checks that tests/oldest.txt and pyproject.toml agree.
set -euo pipefail
cd "$(dirname "$0")/.."

folder=$(realpath -m "${1:-runs/oldest}")
constraints=$(realpath "tests/oldest.txt")
if [ $# -gt 1 ]; then
    constraints=$2
    [ "$2" = - ] || constraints=$(realpath "$2")
fi
shift $(($# > 2 ? 2 : $#))
pinned=()
[ "$constraints" = - ] || pinned=(-c "$constraints")

python=$folder/venv/bin/python
[ -x "$python" ] || "${PYTHON:-python3}" -m venv "$folder/venv"
rm -rf "$folder/tree"
mkdir -p "$folder/tree"
git ls-files -z | xargs -0 cp --parents -t "$folder/tree"
cd "$folder/tree"

"$python" -m pip install --quiet "${pinned[@]}" 'setuptools>=77' wheel 'pybind11>=2.13' \
    pytest pytest-timeout hypothesis
# only what pyproject.toml declares: a package that is used without being declared would be missing
"$python" -m pip install --quiet "${pinned[@]}" --no-build-isolation -e .
"$python" -c '
import platform, numpy, scipy, torch, ncfast
print("Python", platform.python_version(), "torch", torch.__version__, "NumPy", numpy.__version__,
      "SciPy", scipy.__version__, "C++ backend:", ncfast.backends()["cpu"].available, flush=True)'
if [ $# -eq 0 ]; then
    set -- -q tests
    # these import optional packages, or test the development set-up
    for name in benchmarks experiments integrations kernels \
        tracking/sinks/test_{mlflow,parquet,registry,tensorboard,trackio,wandb}.py \
        tracking/test_saved_state.py damaged_files.py mutations.py \
        evaluation/test_{files,on_disk,command}.py test_{arguments,cli,docs,examples,packaging}.py; do
        set -- "$@" --ignore="tests/$name"
    done
fi
CUDA_VISIBLE_DEVICES='' exec "$folder/venv/bin/pytest" "$@"
