# One command each. `make run` is all that is needed to try Pawlens out; see `make help`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
BENCH_INSTALLED := $(VENV)/.bench-installed
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup run test check bench chaos clean

help: ## Show this list
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10
	@echo
	@echo 'PYTHON=python3.12 make run   takes that interpreter'
	@echo 'make run ARGS="--port 9000"  passes options on to pawlens up'

setup: $(INSTALLED) ## Make .venv and install Pawlens with all that it needs

$(INSTALLED): pyproject.toml constraints.txt
	@command -v "$(PYTHON)" >/dev/null || { \
	  echo 'There is no $(PYTHON). Pawlens needs Python 3.11 or newer; name yours: PYTHON=python3.12 make run'; \
	  exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "$(PYTHON) is $$("$(PYTHON)" -V). Pawlens needs Python 3.11 or newer;" \
	       'name one: PYTHON=python3.12 make run'; \
	  exit 1; }
	@# An environment of an older Python, or one that was moved, is made anew.
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  "$(PYTHON)" -m venv --clear $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e '.[dev]'
	@touch $@

run: setup ## Start everything on this machine; Ctrl-C stops it
	@$(BIN)/pawlens up $(ARGS)

# One process more than processors, since tests of whole services often wait, but four at most: they start many.
test: setup ## Run all tests
	$(BIN)/python -m pytest --dist loadscope -n $$($(BIN)/python -c 'import os; print(min((os.cpu_count() or 1) + 1, 4))') $(ARGS)

check: setup ## Lint, check the format, the types and who may import whom
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(BENCH_INSTALLED) ## Measure; takes half an hour on two idle cores, ARGS=--quick a few minutes
	$(BIN)/python -m tests.benchmarks $(ARGS)

# What Pawlens is compared with, and nothing else needs.
$(BENCH_INSTALLED): $(INSTALLED)
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e '.[bench]'
	@touch $@

chaos: setup ## Kill everything while 10,000 jobs run; prints what was lost
	$(BIN)/python -m tests.chaos $(ARGS)

clean: ## Remove what can be made again; data in .pawlens stays
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
