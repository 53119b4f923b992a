# Python 3.11 or newer and a package index are all that these need.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
# Tests beside one another: one process a core, and no more than the memory of a laptop holds.
JOBS ?= auto
PYTEST := -m pytest -q --numprocesses $(JOBS) --maxprocesses 4 --dist worksteal
# Tests start some hundred Python processes: each finds our modules compiled.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help demo test test-fast test-slow test-crash check bench docs clean

help: ## list the commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

# Stamp files: an environment is made again only when pyproject.toml changes.
$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml | $(BIN)/python
	$(PIP) install --quiet --editable ".[demo]"
	@touch $@

# Of torch the build without CUDA, which is a tenth as large; where it cannot be had, the tests of
# networks are skipped and say so.
$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(PIP) install --quiet --editable ".[dev]"
	$(PIP) install --quiet "torch==2.13.0+cpu" "onnxscript>=0.5" || \
		echo "torch without CUDA could not be installed: the tests of networks are skipped"
	@touch $@ $(VENV)/.demo

demo: $(VENV)/.demo ## set up, then the main job on real models
	$(BIN)/python examples/quickstart.py

test: test-fast test-slow ## set up, then all tests

# Server processes that the tests start are counted too; below the floor (pyproject.toml) it fails.
test-fast: $(VENV)/.dev ## only what needs no downloads, with coverage
	$(BIN)/coverage erase
	$(BIN)/coverage run $(PYTEST) -m "not slow"
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

test-slow: test-fast
	$(BIN)/python $(PYTEST) -m slow

# Of each database: SQLite, and PostgreSQL where Debian's is installed.
test-crash: $(VENV)/.dev ## kill a server at 200 random moments of its writes (CRASH="--points 50")
	$(BIN)/python -m tests.crash $(CRASH)

check: $(VENV)/.dev ## lint, format, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/python -m pytest -q tests/test_layers.py

bench: $(VENV)/.dev ## measure the server and the SDK (BENCH="--json FILE" for more)
	$(BIN)/python tests/bench $(BENCH)

# pdoc shows annotations that it cannot evaluate as they are written: nothing is lost.
docs: $(VENV)/.dev ## refresh tables and picture, build the reference into docs/_build
	$(BIN)/python docs/tables.py
	$(BIN)/python docs/rooms.py
	$(BIN)/python -W "ignore:Error parsing type annotation" -m pdoc --docformat google --output-directory docs/_build \
		aiaas_client aiaas_client.protocol aiaas_client.testing aiaas_client.otel aiaas_server

clean: ## remove what the commands above made
	rm -rf $(VENV) docs/_build build dist .mypy_cache .ruff_cache .pytest_cache
