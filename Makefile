# `make demo` reduces a real observation, `make test` runs the tests; both make the environment they need.

SHELL := /bin/bash
# CASA has wheels for Python 3.11 and 3.12.
PYTHON ?= $(shell for python in python3.11 python3.12 python3; do \
	$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' 2>/dev/null && echo $$python && break; done)
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help environment demo test coverage test-mpi test-clusters test-kubernetes test-gpu lint docs bench clean

help:
	@echo "make demo   reduce the VLA observation of NGC 5921 into ./demo"
	@echo "make coverage   what make test does, and how much of the code that runs; takes a tenth longer"
	@echo "make test   run the tests, but for those of:"
	@echo "make test-mpi   MPI sessions, by the mpirun of the environment or MPIRUN=/usr/bin/mpirun"
	@echo "make test-clusters   Slurm, HTCondor and Prefect, with daemons of their own on this machine"
	@echo "make test-kubernetes   Kubernetes, with a cluster of its own on this machine; needs root"
	@echo "make test-gpu   a GPU of NVIDIA; installs torch"
	@echo "make lint   check style and types"
	@echo "make docs   the documentation, into build/docs; every link and anchor is checked"
	@echo "make bench  measure speed, as ratios (build/bench.json)"
	@echo "make clean  remove the environment and what the above made"

environment: $(VENV)/.ready

# A venv without pip of its own, filled by the machine's pip: Debian's python3 has no ensurepip.
$(VENV)/.ready: pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or 3.12 is needed: apt-get install python3" >&2; exit 1; }
	@$(PYTHON) -m pip --version >/dev/null || { echo "pip is needed: apt-get install python3-pip" >&2; exit 1; }
	$(PYTHON) -m venv --without-pip $(VENV)
	$(PYTHON) -m pip --python $(BIN)/python install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

demo: environment
	$(BIN)/surgeline run examples/ngc5921.yaml --workdir demo
	$(BIN)/python examples/check_ngc5921.py demo

test: environment
	$(BIN)/pytest -m 'not mpi and not cluster and not prefect and not kubernetes and not gpu and not casa_pipeline' \
		-n 2 --dist loadfile $(COUNTING)

# What commands and workers run in processes of their own is not counted.
coverage: export COVERAGE_FILE = build/coverage
coverage: environment
	mkdir -p build
	$(MAKE) test COUNTING='--cov=surgeline --cov-report='
	@echo "coverage: $$($(BIN)/coverage report --format=total) % of the lines, in the processes of the tests themselves"

# With another mpirun: make test-mpi MPIRUN=/usr/bin/mpirun; that runs only those tests that it makes a difference to.
test-mpi: environment
	SURGELINE_TEST_MPIRUN=$(MPIRUN) $(BIN)/pytest -m mpi $(if $(MPIRUN),tests/parallel)

test-clusters: environment
	$(BIN)/pytest -m 'cluster or prefect' -n 2 --dist loadfile

# One cluster, in which tests take their turns. Its programs are built at the first run, in some 15 minutes.
test-kubernetes: environment
	PYTHONPATH=tests $(BIN)/python -m services.kubernetes
	$(BIN)/pytest -m kubernetes

test-gpu: environment
	$(PYTHON) -m pip --python $(BIN)/python install --quiet --disable-pip-version-check --editable '.[gpu]'
	$(BIN)/pytest -m gpu

lint: environment
	$(BIN)/ruff check src tests examples benchmarks docs/from_the_code.py
	$(BIN)/ruff format --check src tests examples benchmarks docs/from_the_code.py
	$(BIN)/mypy

# Not with --quiet: then it finds no dead link.
docs: environment
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --site-dir build/docs

bench: environment
	$(BIN)/python benchmarks/bench.py

clean:
	rm -rf $(VENV) demo build .pytest_cache .mypy_cache .ruff_cache
