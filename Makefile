# Python 3.11 or newer and a package index are all that these need.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input

.DEFAULT_GOAL := help
.PHONY: help demo test test-fast test-slow check bench docs clean

help: ## list the commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

# Stamp files: an environment is made again only when pyproject.toml changes.
$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml | $(BIN)/python
	$(PIP) install --quiet --editable ".[demo]"
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(PIP) install --quiet --editable ".[dev]"
	@touch $@ $(VENV)/.demo

demo: $(VENV)/.demo ## set up, then the main job on real models
	$(BIN)/python examples/quickstart.py

test: test-fast test-slow ## set up, then all tests

test-fast: $(VENV)/.dev ## only what needs no downloads
	$(BIN)/python -m pytest -q -m "not slow"

test-slow: test-fast
	$(BIN)/python -m pytest -q -m slow

check: $(VENV)/.dev ## lint, format, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/python -m pytest -q tests/test_layers.py

bench: $(VENV)/.dev ## measure the server and the SDK (BENCH="--json FILE" for more)
	$(BIN)/python tests/bench $(BENCH)

docs: $(VENV)/.dev ## refresh the generated tables and build the reference into docs/_build
	$(BIN)/python docs/tables.py
	$(BIN)/python -m pdoc --docformat google --output-directory docs/_build \
		aiaas_client aiaas_client.protocol aiaas_client.testing aiaas_client.otel aiaas_server

clean: ## remove what the commands above made
	rm -rf $(VENV) docs/_build build dist .mypy_cache .ruff_cache .pytest_cache
