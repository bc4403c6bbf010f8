# Everything a fresh machine needs: Python 3.10 or later with pip and venv
# (3.11 is what is tested), make, a compiler. `make help` lists the targets.

.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:

# The first interpreter that runs and can make an environment.
PYTHON ?= $(shell for p in python3.11 python3; do \
	"$$p" -c 'import ensurepip, venv' >/dev/null 2>&1 && echo "$$p" && break; \
	done)
VENV ?= .venv
PY := $(VENV)/bin/python
# ARGS goes to what a target runs: make test ARGS='-k graph -x'
ARGS ?=
# Test processes, of one thread each. WORKERS=0 runs the tests in this one.
WORKERS ?= 2
PIP_FLAGS ?= $(if $(CI),--quiet)
PIP := $(PY) -m pip install --disable-pip-version-check $(PIP_FLAGS) \
	-c constraints.txt
# An index or folder with built torch-scatter and torch-sparse, if any.
PYG_WHEELS ?=

# Stamps: each is newer than what it was installed from.
DEV := $(VENV)/.installed-dev
DOCS := $(VENV)/.installed-docs

$(PY):
	@test -n "$(PYTHON)" || { echo 'No Python with pip and venv was found:' \
		'install python3.11 and python3.11-venv, or name one with' \
		'make PYTHON=/path/to/python'; exit 1; }
	"$(PYTHON)" -m venv "$(VENV)"

# torch first and pinned: a range would replace a CPU build by the newest one
# with several gigabytes of CUDA packages.
$(DEV): setup.py pyproject.toml constraints.txt | $(PY)
	$(PIP) 'torch==2.13.0'
	$(PIP) -e '.[dev]'
	@touch $@

$(DOCS): $(DEV)
	$(PIP) -e '.[dev,docs]'
	@touch $@

.PHONY: help
help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' \
		$(firstword $(MAKEFILE_LIST))

.PHONY: setup
setup: $(DEV)  ## Create .venv and install the package and its tools

# Passive: threads that wait leave the processor to whoever is beside them.
.PHONY: demo
demo: $(DEV)  ## Train teacher and student on planted data (1 to 2 minutes)
	OMP_WAIT_POLICY=passive $(PY) examples/electronics.py --synthetic $(ARGS)

.PHONY: test
test: $(DEV)  ## Run the tests
	OMP_NUM_THREADS=1 $(PY) -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

.PHONY: lint
lint: $(DEV)  ## Check style and types
	$(PY) -m ruff check .
	$(PY) -m mypy

.PHONY: docs
docs: $(DOCS)  ## Build the documentation into docs/_build/html
	$(PY) -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo 'Documentation: docs/_build/html/index.html'

# Neither package is needed: with them a `SparseTensor` is taken as a graph.
# They compile against the installed torch, hence no build isolation.
.PHONY: sparse
sparse: $(DEV)  ## Add torch-scatter and torch-sparse (builds for 10 to 20 min)
	@if [ -n "$(PYG_WHEELS)" ] && $(PIP) --find-links "$(PYG_WHEELS)" \
		--only-binary torch-scatter,torch-sparse torch-scatter torch-sparse; \
	then :; else \
		$(PIP) setuptools wheel ninja; \
		PATH="$(abspath $(VENV))/bin:$$PATH" \
			$(PIP) --no-build-isolation torch-scatter torch-sparse; \
	fi
	@$(PY) -c 'import torch_scatter, torch_sparse; print("torch-scatter", \
		torch_scatter.__version__, "torch-sparse", torch_sparse.__version__)'

.PHONY: clean
clean:  ## Remove the environment and everything that was built
	rm -rf "$(VENV)" build dist docs/_build *.egg-info \
		.mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
