# `make demo` reduces a real observation, `make test` runs the tests; both make the environment they need.

SHELL := /bin/bash
# CASA has wheels for Python 3.11 and 3.12.
PYTHON ?= $(shell for python in python3.11 python3.12 python3; do \
	$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' 2>/dev/null && echo $$python && break; done)
VENV := .venv
BIN := $(VENV)/bin
LOCKED_EXTRAS := kubernetes postgres prefect s3
# Who keeps what is known against versions of packages.
ADVISORIES := https://osv.dev

.PHONY: help environment demo test coverage test-mpi test-clusters test-kubernetes test-gpu chaos load fuzz lint lock audit docs bench clean

help:
	@echo "make demo   reduce the VLA observation of NGC 5921 into ./demo"
	@echo "make coverage   what make test does, and how much of the code that runs; takes a tenth longer"
	@echo "make test   run the tests, but for those of:"
	@echo "make test-mpi   MPI sessions, by the mpirun of the environment or MPIRUN=/usr/bin/mpirun"
	@echo "make test-clusters   Slurm, HTCondor and Prefect, with daemons of their own on this machine"
	@echo "make test-kubernetes   Kubernetes, with a cluster of its own on this machine; needs root"
	@echo "make test-gpu   a GPU of NVIDIA; installs torch"
	@echo "make chaos  sessions in which things go wrong at random: ROUNDS=20 at each site, SEED=… as one before"
	@echo "make fuzz   wrong input, EXAMPLES of each kind, other ones each time; SEED=… does the same again"
	@echo "make load   whether a session of 100,000 jobs stays flat: PARTS=… some of it, SHARE=0.1 with a tenth of the jobs"
	@echo "make lint   check style, types and what bandit knows to be unsafe"
	@echo "make lock   pin what the image is made of anew (docker/requirements.lock)"
	@echo "make audit  ask what is known against the pinned versions; needs the internet"
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

# Root may fill disks and cut networks, too.
chaos: environment
	SURGELINE_CHAOS_ROUNDS=$(or $(ROUNDS),20) SURGELINE_CHAOS_SEED=$(SEED) $(BIN)/pytest tests/chaos -s

# Some twenty minutes on two cores.
load: environment
	$(BIN)/python benchmarks/load.py $(PARTS) --share $(or $(SHARE),1)

# By chance first; then guided by which lines of the code each input reaches.
fuzz: EXAMPLES ?= 1000
fuzz: SECONDS_EACH ?= 60
fuzz: SEED := $(or $(SEED),$(shell date +%s))
fuzz: environment
	@echo "seed $(SEED)"
	SURGELINE_FUZZ_EXAMPLES=$(EXAMPLES) $(BIN)/pytest tests/badinput --hypothesis-seed=$(SEED) --timeout=7200 -n 2
	$(PYTHON) -m pip --python $(BIN)/python install --quiet --disable-pip-version-check 'atheris>=3'
	for target in configuration recipe pickle; do \
		PYTHONPATH=tests $(BIN)/python tests/badinput/guided.py $$target -seed=$(SEED) \
			-max_total_time=$(SECONDS_EACH) -timeout=30 -rss_limit_mb=4096 || exit 1; done

lint: environment
	$(BIN)/ruff check src tests examples benchmarks docs/from_the_code.py
	$(BIN)/ruff format --check src tests examples benchmarks docs/from_the_code.py
	$(BIN)/mypy
	$(BIN)/bandit --quiet --recursive --configfile pyproject.toml src

# The versions and hashes of what the image is made of, for the Python and the extras of docker/Dockerfile.
lock: environment
	$(BIN)/pip-compile --quiet --upgrade --generate-hashes --allow-unsafe --strip-extras --no-annotate --no-header \
		--no-emit-options --no-emit-index-url --no-emit-trusted-host --no-emit-find-links --build-deps-for wheel \
		$(foreach extra,$(LOCKED_EXTRAS),--extra $(extra)) --output-file docker/requirements.lock pyproject.toml

# Whether anything is known against these versions; who knows is asked over the internet.
audit: environment
	@if $(BIN)/python -c 'import urllib.request; urllib.request.urlopen("$(ADVISORIES)", timeout=10)' 2>/dev/null; then \
		$(BIN)/pip-audit --vulnerability-service osv --require-hashes --disable-pip \
			--requirement docker/requirements.lock; \
	else echo "not audited: $(ADVISORIES) cannot be reached from here"; fi

# Not with --quiet: then it finds no dead link.
docs: environment
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --site-dir build/docs

bench: environment
	$(BIN)/python benchmarks/bench.py

clean:
	rm -rf $(VENV) demo build .pytest_cache .mypy_cache .ruff_cache
