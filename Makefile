# What people and CI run. `make help` lists it.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup tools demo test test-unit check fmt docs bench clean

help: ## show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## make .venv with everything the rest needs (once)

$(READY): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || \
		{ echo "error: $(PYTHON) not found; Python 3.11 or newer is needed (make PYTHON=...)" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $$($(PYTHON) --version) is too old; 3.11 or newer is needed (make PYTHON=...)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --group dev --editable .
	@touch $@

tools: setup ## build the pinned control planes (once; minutes)
	$(BIN)/python -m controlplane build

demo: setup ## see it work: a host and a virtual cluster on this machine
	$(BIN)/python -m demo

test: setup ## run all tests
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-unit: setup ## run the tests that need no API server
	$(BIN)/python -m pytest -n 2 tests/unit

check: setup ## lint, format, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fmt: setup ## format and fix what can be fixed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: setup ## write the generated parts of docs/ anew
	$(BIN)/python -m syncer.settings docs/configuration.md
	$(BIN)/python -m mappers.document > docs/kinds.md

bench: setup ## measure throughput, latency and memory
	$(BIN)/python -m bench

clean: ## remove caches and build results (not .venv)
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
