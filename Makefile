# The commands of the README and of CI. Each one makes .venv itself; nothing else has to be installed first
# but Python 3.11 to 3.13 and a package index.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed
# Hashes are required, so the lock decides every file that is installed: uv, where present, only does it faster.
INSTALL := $(if $(shell uv --version 2>/dev/null),uv pip install --quiet --compile-bytecode --python $(BIN)/python,$(BIN)/python -m pip install --quiet --disable-pip-version-check)
# Reset, so that a setting of the caller's shell neither hides pytest's skips nor changes what a test sees.
PYTEST := env -u PYTEST_ADDOPTS $(BIN)/python -m pytest
# Fails on a link or an anchor that leads nowhere. The variable silences an advertisement of another program.
SITE := NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
# Test processes, each with servers of its own; much of a test is waiting. What PYTEST_ARGS says comes later and wins.
WORKERS ?= 2

.PHONY: help demo test test-slow soak lint sbom wheel format docs bench lock clean

help: ## Show the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 18

demo: $(READY) ## Run the whole product on embedded PostgreSQL and Kafka; Ctrl-C ends it (DEMO_ARGS="--seconds 60 --no-ui")
	@exec $(BIN)/fraud-lakehouse demo $(DEMO_ARGS)

test: $(READY) ## Run the tests, but for those marked slow (PYTEST_ARGS="tests/unit -x")
	$(PYTEST) --numprocesses=$(WORKERS) -m "not slow" $(PYTEST_ARGS)

test-slow: $(READY) ## Run the tests marked slow: Java servers, whole processes, an object store, faults
	$(PYTEST) --numprocesses=$(WORKERS) -m slow $(PYTEST_ARGS)

soak: $(READY) ## Break the product for as long as asked and print what was found (SOAK_ARGS="--minutes 30 --seed 7")
	$(BIN)/python -m tests.soak.run $(SOAK_ARGS)

lint: $(READY) ## Check style (ruff), types (mypy, strict), the layers of the package, and spelling, prose and links of the documents
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/codespell
	$(BIN)/python .ci/prose.py README.md CONTRIBUTING.md docs
	$(SITE)

sbom: $(READY) ## List the installed packages in build/sbom.json (CycloneDX) and check their licences
	mkdir -p build
	$(BIN)/cyclonedx-py environment --pyproject pyproject.toml --no-validate --output-reproducible \
		--output-file build/sbom.json $(BIN)/python
	$(BIN)/python .ci/licences.py build/sbom.json

wheel: $(READY) ## Build the wheel into dist/: `pip install` of it is all that fraud-lakehouse demo needs
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir dist .

format: $(READY) ## Rewrite the Python files in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(READY) ## Write the documentation to build/site, the dbt documentation to build/site/dbt
	$(SITE)
	$(BIN)/fraud-lakehouse docs --folder build/site/dbt
	@echo "build/site/index.html opens from disk; with search: $(BIN)/mkdocs serve"

bench: $(READY) ## Run the benchmarks one after the other (BENCH=NAME for one of them)
	for name in $(or $(BENCH),$$($(BIN)/fraud-lakehouse bench list)); do $(BIN)/fraud-lakehouse bench "$$name"; done

lock: ## Resolve pyproject.toml anew into requirements.lock (needs uv)
	uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --upgrade --quiet \
		--generate-hashes --no-strip-extras --no-annotate --no-header --no-emit-index-url --no-emit-find-links \
		--output-file requirements.lock

clean: ## Remove .venv, caches and build output; a lake is never touched
	rm -rf $(VENV) build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache dbt_project/target dbt_project/logs
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +

$(READY): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v < (3, 14) else f"Python 3.11 to 3.13 is needed, $(PYTHON) is {v[0]}.{v[1]}: set PYTHON=")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing requirements.lock into $(VENV)"
	@$(INSTALL) --require-hashes -r requirements.lock
	@$(INSTALL) --no-deps --no-build-isolation --editable .
	@echo "compiling the feature engine"
	@$(BIN)/python -m fraud_lakehouse.features.engine
	touch $@
