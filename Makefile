# make demo: the main job on a real model.   make test: every check.   Both set up .venv first, in either order, again and again.
# make test-fast: what runs in one process.   make test-all: with every case, fault, database and recipe.   make wheel-check: the wheel as users install it.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
# One more than processors: tests wait for servers and other processes a third of their time.
WORKERS ?= $(shell $(PYTHON) -c 'import os; print((os.cpu_count() or 1) + 1)')
PYTEST := $(BIN)/pytest --numprocesses $(WORKERS) --dist worksteal
# Tests start Python often, and it starts sooner with bytecode.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup demo services test test-fast test-all conformance wheel-check lint unit docs docs-site clean

setup: $(STAMP)

# Updated when the dependencies change. llama-cpp-python has no wheel: it is compiled once (about 6 minutes on 2 cores).
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "phipack needs Python 3.11 or newer: make PYTHON=python3.11"; exit 1; }
	@command -v c++ >/dev/null || { echo "a C++ compiler is needed once, for llama.cpp: apt-get install g++"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "setting up .venv (the first time takes about 8 minutes: llama.cpp is compiled)"
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[build,registry,serve,cluster,tasks]' --group dev
	@touch $@

demo: $(STAMP)
	$(BIN)/python -m benchmarks.demo

# Runs PostgreSQL, S3 and MLflow on this machine until Ctrl-C. The data is in .phipack/services.
services: $(STAMP)
	$(BIN)/python -m devtools.services

# The lint keeps one processor busy for a minute, and the tests wait for servers: together they take less time.
test: $(STAMP)
	$(MAKE) --no-print-directory --jobs=2 lint unit

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# In random order: pytest prints the seed, and --randomly-seed=SEED repeats it.
unit: $(STAMP)
	$(PYTEST)

# No other process and no server (tests/support/tiers.py).
test-fast: $(STAMP)
	$(PYTEST) -m "not (process or service or slow)"

# All that one of a kind stands for in `make test`; every command stopped at every point where it changes something; every
# database; every recipe on the real model.
test-all: export CASES = all
test-all: export FAULTS = all
test-all: export DATABASES = all
test-all: export ACCURACY = all
test-all: test

# The TUF project's own tests of both clients, all but those of delegations: make conformance SUITE=…/tuf-conformance. Needs faketime.
conformance: $(STAMP)
	@test -d "$(SUITE)/tuf_conformance" || { echo "SUITE must be a checkout of theupdateframework/tuf-conformance, v2.4.0"; exit 1; }
	for client in product sample; do \
	  PYTHONPATH="$(SUITE)" $(BIN)/python -m pytest -q -c /dev/null -p no:randomly "$(SUITE)/tuf_conformance" \
	    --entrypoint "$(CURDIR)/$(BIN)/python $(CURDIR)/tests/clients/conformance.py $$client" \
	    -k "not graph_traversal and not targetfile_search and not unusual_role_name and not tuf-on-ci" || exit 1; \
	done

# In fresh environments: base, [registry] and [serve].
wheel-check: $(STAMP)
	$(BIN)/python -m devtools.wheel_check

# Generates the references of the commands and of their JSON. Tests compare them with the code.
docs: $(STAMP)
	$(BIN)/python -m phipack.reference > docs/cli.md
	$(BIN)/python -m phipack.reference json > docs/json.md
	$(BIN)/python -m phipack.reference runtimes > docs/runtimes.md

# Builds the documentation site in site/ and checks every page and link. Needs none of phipack's own dependencies.
docs-site:
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group docs
	$(BIN)/mkdocs build --strict

clean:
	rm -rf .venv .cache .phipack demo dist site
