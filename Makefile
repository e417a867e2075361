# Two commands for a newcomer: `make run` and `make test`. Each works alone, first.
# Python 3.10 or newer is all that `make run` needs; nothing is installed outside this folder and
# the user's cache.

PYTHON ?= python3
RUNS_DIR ?= runs
VENV := .venv
BIN := $(VENV)/bin
CACHE := $(CURDIR)/.cache
KERNELS_PYTHON := $(CACHE)/embedded/venv/m4-02-selection-cpu/bin/python
PIP := -m pip install --quiet --disable-pip-version-check
PYTEST := -m pytest -q -n
KERNEL_WORKERS ?= 3

# Compiled modules are kept: the tests start the controller some hundred times.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: card run test test-full check controller unit integration faults kernels kernels-and-compat \
	compat compat-quick install schema clean

run: $(VENV)/.run
	@$(BIN)/python tests/make_run.py $(BIN)/orchestrate $(RUNS_DIR)

# Side by side: the controller's tests wait for links and processes, the kernels' compute.
test:
	@$(MAKE) --no-print-directory -j $(if $(TEST_FULL),1,2) --output-sync controller kernels-and-compat
	@echo "all tests passed"

# The long versions: every kill, outages of a minute, the whole way over OpenSSH, the whole matrix.
test-full: export TEST_FULL = 1
test-full: test compat

controller: check
	@$(MAKE) --no-print-directory unit
	@$(MAKE) --no-print-directory integration
	@$(MAKE) --no-print-directory faults

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: $(VENV)/.dev
	$(BIN)/python $(PYTEST) 2 -W error tests/orchestrator

integration: $(VENV)/.dev $(if $(TEST_FULL),$(CACHE)/.environment)
	tests/system-packages.sh
	ORCHESTRATE_CACHE=$(CACHE) $(BIN)/python $(PYTEST) 4 -W error tests/integration

# Cut links, kills, full disks, hostile pods. As root with network namespaces where they may be made.
# TEST_FULL=1: every event, fifty random times, outages of a minute; some ten minutes.
faults: $(VENV)/.dev
	tests/system-packages.sh
	$(BIN)/python $(PYTEST) 5 -W error tests/faults

# The controller's tests, whose links and limits are of seconds, come first on a busy machine.
kernels-and-compat: $(CACHE)/.environment
	@nice $(MAKE) --no-print-directory -j 2 --output-sync kernels compat-quick

# In the environment that the controller itself sets up on its embedded pod.
kernels: $(CACHE)/.environment
	NSA_TEST_TRITON_SEL=1 $(KERNELS_PYTHON) $(PYTEST) $(KERNEL_WORKERS) tests/kernels

# Every kernel as shipped, for every Triton and card; the table in docs/ is made anew. Ten minutes
# and more on few cores, and 3 GB of Triton in the cache.
compat: $(CACHE)/.environment
	ORCHESTRATE_CACHE=$(CACHE) $(KERNELS_PYTHON) -m kernels.compat --markdown docs/compat.md

# The document's shapes on the Triton of two years ago, of today and between: a minute or two.
compat-quick: $(CACHE)/.environment
	ORCHESTRATE_CACHE=$(CACHE) $(KERNELS_PYTHON) -m kernels.compat --quick -n 1 \
		--triton 3.1.0,3.6.0,3.9.0 --target sm_89,sm_90

# The report of the GPU at hand, by a Python that has CUDA torch: some fifteen minutes.
# make card OUT=reports/a-card PYTHON=python3
card: BENCH = $(PYTHON) -m kernels.bench.bench_sel_triton --jobs 8 \
	--matrix kernels/bench/matrices/document.json
card:
	mkdir -p $(OUT)
	$(BENCH) --dist few --csv $(OUT)/sel_dense.csv
	$(BENCH) --dist many --csv $(OUT)/sel_varlen.csv
	$(PYTHON) -m kernels.bench.agreement --L_list 64,256,1024 --out $(OUT)/agreement.md
	$(PYTHON) -m benchmarks.rows --dims 128 64 --lengths 64 256 1024 --csv $(OUT)/rows.csv

install: $(VENV)/.run

schema: $(VENV)/.run
	$(BIN)/orchestrate schema > playbooks/playbook.schema.json

clean:
	rm -rf $(VENV) $(CACHE) build dist

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

$(CACHE)/.environment: $(VENV)/.dev playbooks/m4-02-selection.yaml kernels/requirements.txt
	ORCHESTRATE_CACHE=$(CACHE) $(BIN)/python tests/make_run.py $(BIN)/orchestrate $(CACHE)/runs
	$(CACHE)/embedded/venv/m4-02-selection-cpu/bin/python $(PIP) pytest-xdist
	@touch $@
