#!/usr/bin/env bash
# Compiles every kernel with other versions of Triton, for devices that are not here.
#
#   bash benchmarks/aot_versions.sh [VERSION...]          3.2.0 3.4.0 3.6.0 if none is named
#
# The versions are those that come with torch 2.6, 2.8 and 2.10. Each is installed into a folder of
# its own (VERSIONS, default build/triton) and leaves the environment as it is. A line names the
# kernel and the target, and the registers, spills and loads of its machine code, or says that it
# does not compile. TARGETS names the compute capabilities. A version takes 20 minutes on a core.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
folder=${VERSIONS:-build/triton}
read -ra targets <<< "${TARGETS:-75 80 86 90 100 120}"

if [ $# -eq 0 ]; then
    set -- 3.2.0 3.4.0 3.6.0
fi
for version in "$@"; do
    if [ ! -d "$folder/$version" ]; then
        "$python" -m pip install --quiet --no-deps --target "$folder/$version" "triton==$version"
    fi
    PYTHONPATH="$folder/$version" "$python" tests/aot.py --survey --targets "${targets[@]}"
done
