# Every target works with Python 3.11 or newer and pip alone; PYTHON picks another interpreter.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help demo test papers fast nightly lint types bench fuzz mutants replay lines gpu notebooks docs clean

help:
	@echo "make demo       simulate the built-in example (installs into $(VENV) on first use)"
	@echo "make test       run the tests; OPBYTE_DATA=DIR also validates against measured data,"
	@echo "                WORKERS=N runs N files at a time (here $(WORKERS))"
	@echo "                ROOM=devices: of one room; CHANGED=1: what differs from main may touch"
	@echo "make papers     the tests of what published systems are predicted to do"
	@echo "make fast       each room's contract, in about a minute"
	@echo "make nightly    runs of 10^6 requests, fits of kernels, $(EXAMPLES) times as many random scenarios of every path"
	@echo "make lint       ruff: rules and formatting"
	@echo "make types      mypy, strict, over every file of the package"
	@echo "make bench      the timed tests: engine and CPU kernels, with their bars"
	@echo "make fuzz       $(FUZZ) spoilt files and options of every reader and command"
	@echo "make mutants    deliberate faults, each of which the tests must catch; ONLY=PART of a path;"
	@echo "                COUNT=60: random ones in the code that decides"
	@echo "make replay     OLD=REVISION: do a list of commands answer as they did, byte for byte?"
	@echo "make lines      syntax nodes by room, the change against SINCE=REVISION, unclear English, budgets"
	@echo "make gpu        on a machine with a GPU: kernels checked and measured, tables in $(GPU_OUT)"
	@echo "make notebooks  execute every notebook"
	@echo "make docs       the documents as a site in $(DOCS_OUT), every link of theirs checked"
	@echo "make clean      remove $(VENV), build output and caches"

demo: $(VENV)/.run
	$(BIN)/opbyte simulate

# A file's tests stay on one worker: they share what is slow to set up.
WORKERS ?= $(shell n=`getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2`; [ $$n -lt 4 ] && echo $$n || echo 4)
# ROOM is a folder of tests/; CHANGED asks the import graph. Published systems have a tier of their own: `make papers`.
ROOM ?=
CHANGED ?=
TESTS = $(if $(CHANGED),$(or $(shell $(BIN)/python .ci/changed.py),tests/test_size.py),$(if $(ROOM),tests/$(ROOM),tests --ignore=tests/papers))
test: $(VENV)/.test
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder --durations 20 $(TESTS)

papers: $(VENV)/.test
	$(MAKE) test ROOM=papers

# What a room promises to the others, without long runs; one file a room or two.
FAST := tests/test_size.py tests/test_layering.py tests/workloads/test_catalog.py tests/workloads/test_classes.py \
  tests/devices/test_catalog.py tests/devices/test_cost.py tests/devices/test_collectives.py \
  tests/simulator/test_placement.py tests/simulator/test_layout.py tests/simulator/test_policies.py \
  tests/simulator/test_composed.py tests/simulator/test_parts_together.py \
  tests/analysis/test_show.py tests/analysis/test_cli_help.py
fast: $(VENV)/.test
	$(BIN)/python -m pytest -q --numprocesses $(WORKERS) --dist loadfile --durations 20 $(FAST)

# Compiled engines against their slow references and the explicit path, on many more draws than `make test`.
EXAMPLES ?= 30
nightly: $(VENV)/.test
	$(BIN)/python -m pytest -q --numprocesses $(WORKERS) --dist load -m nightly tests
	OPBYTE_EXAMPLES=$(EXAMPLES) $(BIN)/python -m pytest -q --numprocesses $(WORKERS) --dist load \
	  $(wildcard tests/simulator/test_*paths*.py) tests/simulator/test_composed.py tests/simulator/test_parts_together.py tests/simulator/test_scheduler.py

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/python .ci/check_types.py

bench: $(VENV)/.test
	$(BIN)/python -m pytest -m benchmark

# Cases in all: of each of 31 targets but slow ones, and half as many options again.
FUZZ ?= 20000
fuzz: $(VENV)/.test
	OPBYTE_FUZZ=$$(($(FUZZ) / 44)) $(BIN)/python -m pytest -q --numprocesses $(WORKERS) --dist load \
	  tests/analysis/test_fuzz.py

ONLY ?=
COUNT ?=
mutants: $(VENV)/.test
	$(BIN)/python .ci/$(if $(COUNT),random_mutants.py $(COUNT),mutants.py $(ONLY))

OLD ?= main
replay: $(VENV)/.test
	$(BIN)/python .ci/replay.py $(OLD)

SINCE ?= $(shell git rev-parse --verify --quiet main)
lines: $(VENV)/.run
	$(BIN)/python .ci/lines.py $(SINCE)

GPU_OUT ?= out/gpu
gpu: $(VENV)/.gpu
	$(BIN)/python -m pytest -m gpu tests/kernels
	$(BIN)/opbyte measure --backend cupy --quick --lenient --out $(GPU_OUT)
	$(BIN)/opbyte measure configs --backend cupy --quick --out $(GPU_OUT)/configs
	@cat $(GPU_OUT)/summary.md

notebooks: $(VENV)/.notebook
	printf '%s\n' notebooks/*.ipynb | xargs -n 1 -P $(WORKERS) \
	  $(BIN)/python -m nbconvert --execute --to notebook --output-dir "$(VENV)/executed"

DOCS_OUT ?= out/docs
docs: $(VENV)/.docs
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going -c docs/site . $(DOCS_OUT)

clean:
	rm -rf $(VENV) build dist out src/*.egg-info *.egg-info
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One stamp per set of extras: made again when the requirements change. A larger set serves the
# smaller ones. The environment is made anew where it is absent or no longer runs.
EXTRAS_test := [test]
EXTRAS_dev := [test,dev]
EXTRAS_gpu := [test,gpu]
EXTRAS_notebook := [test,notebook]
EXTRAS_docs := [docs]
SERVES_run := .run
SERVES_test := .run .test
SERVES_dev := .run .test .dev
SERVES_gpu := .run .test .gpu
SERVES_notebook := .run .test .notebook
SERVES_docs := .run .docs

$(VENV)/.run $(VENV)/.test $(VENV)/.dev $(VENV)/.gpu $(VENV)/.notebook $(VENV)/.docs: $(VENV)/.%: pyproject.toml setup.py
	@$(PYTHON) -c 'pass' 2>/dev/null || { \
	  echo "$(PYTHON) does not run here; name a Python 3.11 or newer: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "OpByte needs Python 3.11 or newer, $(PYTHON) is `$(PYTHON) -c 'import sys; print(sys.version.split()[0])'`; name another: make PYTHON=python3.12" >&2; exit 1; }
	@$(BIN)/python -c 'import pip' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV) || { \
	  echo "$(PYTHON) cannot make virtual environments; on Debian and Ubuntu install python3-venv" >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".$(EXTRAS_$*)"
	@touch $(addprefix $(VENV)/,$(SERVES_$*))
