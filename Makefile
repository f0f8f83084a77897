# Everything runs in .venv/, which each target makes when it is missing or out of date.
#   make demo PYTHON=python3.12         another interpreter
#   make demo PIP_FLAGS='--extra-index-url URL'   another package index, for instance one with CPU builds of torch

PYTHON ?= python3
JOBS ?= 2
PIP_FLAGS ?=
FUZZ_INPUTS ?= 1000000
FUZZ_SECONDS ?= inf
FUZZ_SEED ?= 1
FUZZ_FLAGS ?=
BIN := .venv/bin
STAMP := .venv/.installed
BENCH_STAMP := .venv/.bench
NATIVE := $(shell find cuda -type f) CMakeLists.txt
PACKAGES := zk training attacks cli

ifeq ($(origin CXX),default)
CXX := c++
endif
export CXX

.DELETE_ON_ERROR:
.PHONY: help demo test test-fast fuzz sanitize lint bench bench-audit bench-training

help:
	@echo "make demo       train on handwritten digits, prove it, verify the proof"
	@echo "make test       every test (make test-fast: without the slow ones)"
	@echo "make fuzz       malformed proof files for the verifier, FUZZ_INPUTS=1000000 of them or for FUZZ_SECONDS, from FUZZ_SEED=1"
	@echo "make sanitize   the tests of the C++ core with one that AddressSanitizer and UndefinedBehaviorSanitizer watch"
	@echo "make lint       ruff and mypy --strict"
	@echo "make bench      time prover and verifier, and the curve beside other libraries; JSON in benchmarks/results"
	@echo "make bench-audit   attacks side by side, fifteen tests of what updates leak, the base-model screen; JSON there too"
	@echo "make bench-training   each training method: what was published, and what it does here; JSON there too"

# The proof travels alone: it is verified in a folder that holds nothing else.
demo: $(STAMP)
	rm -rf demo && mkdir -p demo/elsewhere
	$(BIN)/zkaudit train examples/digits.toml --out demo/run
	$(BIN)/zkaudit prove demo/run --out demo/digits.zkp
	cp demo/digits.zkp demo/elsewhere/
	cd demo/elsewhere && $(CURDIR)/$(BIN)/zkaudit verify digits.zkp

test: $(STAMP)
	$(BIN)/python -m pytest -n $(JOBS)

test-fast: $(STAMP)
	$(BIN)/python -m pytest -n $(JOBS) -m "not slow"

# FUZZ_FLAGS=--guided has coverage guide the inputs, where atheris is installed.
fuzz: $(STAMP)
	cd tests && ../$(BIN)/python -m fuzz --inputs $(FUZZ_INPUTS) --seconds $(FUZZ_SECONDS) --seed $(FUZZ_SEED) $(FUZZ_FLAGS)

sanitize: $(STAMP)
	$(BIN)/python -m pytest -s -v tests/test_sanitized.py

# The packages lie in folders named without `zkaudit.`; mypy finds them under their import names through links.
lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@mkdir -p build/mypy/zkaudit
	@for package in $(PACKAGES); do ln -sfn ../../../$$package build/mypy/zkaudit/$$package; done
	$(BIN)/mypy

bench: $(BENCH_STAMP)
	@mkdir -p benchmarks/results
	$(BIN)/zkaudit bench prove --json benchmarks/results/digits.json
	$(BIN)/zkaudit bench msm --json benchmarks/results/msm.json

bench-audit: $(STAMP)
	$(BIN)/python benchmarks/attacks.py
	$(BIN)/python benchmarks/screen.py --json benchmarks/results/screen.json

bench-training: $(STAMP)
	$(BIN)/python benchmarks/training.py --json benchmarks/results/training.json

# What is compared with is large and only needed here.
$(BENCH_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet $(PIP_FLAGS) -c constraints.txt --no-build-isolation -e '.[bench]'
	@touch $@

$(STAMP): pyproject.toml constraints.txt $(NATIVE)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "zkaudit needs Python 3.11 or newer: install it, or name one with make PYTHON=python3.12" >&2; exit 1; }
	@echo 'int main() {}' | $(CXX) -std=c++20 -fopenmp -x c++ - -o /dev/null >/dev/null 2>&1 || \
	  { echo "zkaudit needs a C++20 compiler with OpenMP (on Debian or Ubuntu: apt-get install g++): '$(CXX)' is not one" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, os, sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")' 2>/dev/null || \
	  { echo "zkaudit needs Python's venv module and C headers (on Debian or Ubuntu: apt-get install python3-venv python3-dev)" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet $(PIP_FLAGS) -c constraints.txt scikit-build-core nanobind cmake ninja wheel
	$(BIN)/python -m pip install --quiet $(PIP_FLAGS) -c constraints.txt --no-build-isolation -e '.[train,audit,federated,dp,notebook,test,lint]'
	$(BIN)/python -m pip install --quiet $(PIP_FLAGS) -c constraints.txt --no-deps timm
	@touch $@
