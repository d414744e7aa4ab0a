# What a newcomer types. Each target works on a fresh clone, as root and as an ordinary user.
#
#   make demo    a job at a memory limit too small for it, on this machine, start to finish
#   make test    every check and every test: what CI runs
#   make check   formatting, lint, types and import directions only
#   make environment   .venv alone, with etlkit in it
#   make docs    the documentation as a site, in build/docs; needs no network
#   make clean   removes what these made, the generated input included

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
# Without byte code each start of a job compiles etlkit anew.
unexport PYTHONDONTWRITEBYTECODE

BIN := .venv/bin
RUNS := .venv/.runs
INSTALLED := .venv/.installed
PYTEST_ARGS ?=

.PHONY: demo test check environment docs clean
.DEFAULT_GOAL := demo

# Installed again only when pyproject.toml or the way of installing changed.
$(INSTALLED): pyproject.toml scripts/environment
	@scripts/environment
	@touch $(RUNS) $@

# Enough to run jobs; what the tests need is more, and three times as long to wait for.
$(RUNS): pyproject.toml scripts/environment
	@scripts/environment demo
	@touch $@

demo: $(RUNS)
	@scripts/demo

environment: $(RUNS)

docs: $(INSTALLED)
	@$(BIN)/python -m sphinx -q -W --keep-going -E -b html docs build/docs && echo "docs: open build/docs/index.html"

check: $(INSTALLED)
	@echo "check: format"; $(BIN)/ruff format --check --quiet . || { echo "  run: $(BIN)/ruff format ."; exit 1; }
	@echo "check: lint"; $(BIN)/ruff check --quiet .
	@echo "check: types"; $(BIN)/mypy --no-error-summary
	@echo "check: imports"; log=$$(mktemp); $(BIN)/lint-imports >$$log 2>&1 || { cat $$log; rm $$log; exit 1; }; rm $$log

# Real processes at real limits, side by side on a shared machine: what fails is tried once more, and said as a rerun.
test: check
	@scripts/test-machine
	@echo "tests"; $(BIN)/python -m pytest -n 4 --dist loadfile --reruns 1 $(PYTEST_ARGS)

clean:
	@rm -rf .venv data out .etlkit build dist *.egg-info .mypy_cache .ruff_cache .hypothesis .import_linter_cache
