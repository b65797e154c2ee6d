# Set-up, tests and runs. Every target is also one command by hand: `make -n TARGET` shows it.
PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
ARGS ?=

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TEST_JOBS ?= 2

.DEFAULT_GOAL := help
.PHONY: help install demo lint type test test-long test-slow test-slurm train sample convert docs bench clean ci

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo '  ARGS="..."  overrides for train, sample and convert, options for test, for example: make train ARGS="experiment=tiny"'
	@echo '  PYTHON=...  the Python (>= 3.11) that makes .venv;  CONSTRAINTS=  newest versions instead of the tested ones'

install: $(STAMP) ## Make .venv and install the project with all extras, unless that is done

$(STAMP): pyproject.toml setup.py $(wildcard $(CONSTRAINTS))
	@test -x $(BIN)/python || $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "ldm needs Python >= 3.11, but $(PYTHON) is $$($(PYTHON) --version 2>&1): make install PYTHON=/path/to/python3.11" >&2; exit 2; }
	@test -x $(BIN)/python || { echo "setting up $(VENV), about 2 minutes"; $(PYTHON) -m venv $(VENV); }
	$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check $(CONSTRAINTS:%=--constraint %) --editable '.[train,dev,docs]'
	@touch $@

demo: install ## Train the demo from scratch, sample its prompts and say where the report is
	$(BIN)/ldm-train experiment=emoji $(ARGS)

train: install ## Train: make train ARGS="experiment=tiny"
	$(BIN)/ldm-train $(ARGS)

sample: install ## Sample: make sample ARGS='prompt="red heart"'
	$(BIN)/ldm-sample $(ARGS)

convert: install ## Convert a checkpoint: make convert ARGS="input=FOLDER output=model.safetensors"
	$(BIN)/ldm-convert $(ARGS)

lint: install ## Check style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: install ## Check types
	$(BIN)/mypy

test: install ## Run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(TEST_JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

test-long: install ## Run the further instances that `make test` leaves out: more pages, runs and cases
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m long -n $(TEST_JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

test-slow: install ## Run the tests that take minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m slow $(ARGS)

test-slurm: install ## Run the tests on the SLURM whose programs are on PATH
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m slurm $(ARGS)

docs: install ## Build the documentation into site/; to read it: python -m http.server -d site
	$(BIN)/mkdocs build --strict $(ARGS)

bench: install ## Run the benchmarks
	@for file in experiments/benchmarks/*.py; do echo "== $$file"; $(BIN)/python $$file || exit 1; done

ci: ## What CI runs: a fresh .venv, lint, types, tests, documentation
	bash .ci/run

clean: ## Remove what tools leave behind; .venv and runs stay
	rm -rf build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src conf tests experiments docs -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
	find src -maxdepth 1 -name '*.egg-info' -prune -exec rm -rf {} +
