# Two commands for a newcomer: `make run` and `make test`. Each works alone, first.
# Python 3.10 or newer is all that `make run` needs; nothing is installed outside this folder and
# the user's cache.

PYTHON ?= python3
VENV := .venv
KERNELS := .venv-kernels
RUNS_DIR ?= runs
BIN := $(VENV)/bin
PIP := -m pip install --quiet --disable-pip-version-check

.PHONY: run test test-full check unit integration kernels install schema clean

run: $(VENV)/.run
	@tests/make-run.sh $(BIN)/orchestrate $(RUNS_DIR)

test: check unit integration kernels
	@echo "all tests passed"

# The long versions; see benchmarks/ and tests/faults/ as they grow.
test-full: test

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: $(VENV)/.dev
	$(BIN)/python -m pytest -q -W error tests/orchestrator

integration: $(VENV)/.dev
	tests/system-packages.sh
	ORCHESTRATE_CACHE=$(CURDIR)/.cache $(BIN)/python -m pytest -q -W error tests/integration

kernels: $(KERNELS)/.done
	NSA_TEST_TRITON_SEL=1 $(KERNELS)/bin/python -m pytest -q tests/kernels

install: $(VENV)/.run

schema: $(VENV)/.run
	$(BIN)/orchestrate schema > playbooks/playbook.schema.json

clean:
	rm -rf $(VENV) $(KERNELS) .cache build dist

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "orchestrate needs Python 3.10 or newer; name one: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: $(VENV)/bin/python pyproject.toml
	$(BIN)/python $(PIP) -e .
	@touch $@

$(VENV)/.dev: $(VENV)/bin/python pyproject.toml
	$(BIN)/python $(PIP) -e '.[dev]'
	@touch $@ $(VENV)/.run

# torch for the CPU, so that no CUDA packages are pulled; the controller's environment has neither.
$(KERNELS)/.done: kernels/requirements.txt tests/kernels-environment.sh
	tests/kernels-environment.sh $(PYTHON) $(KERNELS)
	@touch $@
