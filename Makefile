PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
# Errors alone: the output of a compiler that fails is among them.
PIP := $(BIN)/python -m pip -qq --disable-pip-version-check

.PHONY: setup demo test lint docs

# The pinned environment with everything the tests need, and the package itself, editable.
setup: $(STAMP)

$(STAMP): constraints.txt pyproject.toml setup.py $(wildcard csrc/* csrc/*/*)
	@echo "Setting up .venv: pinned packages, then the C++ extension; a few minutes the first time"
	@$(PYTHON) -m venv .venv
	@$(PIP) install -c constraints.txt setuptools wheel pybind11
	@$(PIP) install -c constraints.txt torch
	@$(PIP) install -c constraints.txt --no-build-isolation -e '.[dev]'
	@touch $@

# A network groks the bundled digits, measured at every step; the last line names the report.
# One thread: as fast as two at this size, and steady on a busy machine.
demo: setup
	rm -rf runs/demo
	OMP_NUM_THREADS=1 $(BIN)/ncfast train --dataset digits --weight-decay 0.3 --steps 15000 --schedule every --test-schedule log:200 --out runs/demo

test: setup
	$(BIN)/pytest

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The documentation site, in site/. Every warning is an error: broken links, names that do not exist.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
