# doran. `make r1` trains a reasoning model from nothing; `make test` checks everything. Both set up their own .venv first.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt
RECIPE ?= recipes/tiny-r1.yaml

.PHONY: help r1 smoke test checks lint types clean

help:
	@echo "make r1      set up and run $(RECIPE) (about half an hour on 2 cores)"
	@echo "make smoke   set up and run recipes/smoke.yaml (under 2 minutes)"
	@echo "make test    set up and run lint, types and all tests"
	@echo "make checks  lint and types only"
	@echo "make clean   remove .venv (runs/ stays)"

# --- the environment: each stamp says what is installed, so a second call installs nothing --------------------------------

$(VENV)/.made:
	@test -n "$(PYTHON)" || { echo "error: no python3 found; hint: apt install python3 python3-venv" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "error: $(PYTHON) is no Python 3.11 or newer; hint: make PYTHON=/path/to/python3.11 ..." >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV) || \
	  { rm -rf $(VENV); echo "error: $(PYTHON) cannot make a virtual environment; hint: apt install python3-venv" >&2; exit 2; }
	@touch $@

$(VENV)/.run: $(VENV)/.made pyproject.toml constraints.txt
	$(PIP) -e '.[math,data,serve]'
	@touch $@

$(VENV)/.test: $(VENV)/.run
	$(PIP) -e '.[test,math,data,gym,serve]'
	@touch $@

# --- what to do with it -----------------------------------------------------------------------------------------------

r1: $(VENV)/.run
	$(BIN)/doran run $(RECIPE)

smoke: $(VENV)/.run
	$(BIN)/doran run recipes/smoke.yaml

test: checks
	$(BIN)/python -m pytest

checks: lint types

lint: $(VENV)/.test
	$(BIN)/ruff check .

types: $(VENV)/.test
	$(BIN)/mypy

clean:
	rm -rf $(VENV)
