# `make` or `make help` lists the targets. Every target sets up its own environment in .venv; after the first time that
# costs nothing, because .venv/.stamp is newer than pyproject.toml.

SHELL       := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON      ?= python3
PYTEST_ARGS ?=
SEED        ?= 0
DEMO_DIR    ?= runs/demo
DEMO_ARGS   ?=
QUERY       ?= a red circle

VENV  := .venv
BIN   := $(VENV)/bin
STAMP := $(VENV)/.stamp

# The demo needs no network, and says so to the libraries, which would otherwise ask the Hub.
OFFLINE := HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 TOKENIZERS_PARALLELISM=false
# One thread for each of the two processes. ACCELERATE_USE_CPU joins them: see examples/accelerate_cpu2.yaml.
LAUNCH  := OMP_NUM_THREADS=1 ACCELERATE_USE_CPU=true $(BIN)/accelerate launch --config_file examples/accelerate_cpu2.yaml

# What the tiny model needs; a recipe holds the method, not the size of a model.
DEMO_TRAINING := --use_cpu true --frame_format raw --num_proc 2 --max_steps 300 --per_device_train_batch_size 16 \
                 --per_device_eval_batch_size 32 --learning_rate 1e-3 --warmup_steps 30 --logging_steps 5 \
                 --save_strategy no --report_to none

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo
	@echo "  variables: PYTHON=$(PYTHON)  PYTEST_ARGS='-m \"not slow\"'  SEED=$(SEED)  DEMO_DIR=$(DEMO_DIR)  QUERY='$(QUERY)'"

$(STAMP): pyproject.toml
	@command -v $(PYTHON) > /dev/null || { echo "error: $(PYTHON) was not found; install Python 3.11 or newer, or name it: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: Python 3.11 or newer is needed, $(PYTHON) is $$($(PYTHON) -V 2>&1); name another one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@echo "setting up $(VENV): some minutes the first time (torch comes with its CUDA libraries, about 6 GB)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off -e '.[viz,dev]'
	@touch $@

.PHONY: demo
demo: $(STAMP) ## make videos, train a tiny model on two CPU processes, evaluate it, draw (4 minutes on 2 cores after the install)
	$(OFFLINE) $(BIN)/frameseg synth $(DEMO_DIR)/data --seed $(SEED) --num-proc 2
	$(OFFLINE) $(LAUNCH) examples/run_qvh.py --recipe default --data_dir $(DEMO_DIR)/data --output_dir $(DEMO_DIR) --seed $(SEED) $(DEMO_TRAINING) $(DEMO_ARGS)
	@vid=$$(sed -n '/"query": "$(QUERY)"/{s/.*"vid": "\([^"]*\)".*/\1/p;q}' $(DEMO_DIR)/data/highlight_val_release.jsonl); \
	  test -n "$$vid" || { echo "error: no validation video is queried for '$(QUERY)'; choose a query of $(DEMO_DIR)/data/highlight_val_release.jsonl" >&2; exit 1; }; \
	  set -x; $(OFFLINE) $(BIN)/frameseg predict $(DEMO_DIR)/data/videos/$$vid.mp4 "$(QUERY)" --model $(DEMO_DIR)/model --output $(DEMO_DIR)/predict.png

.PHONY: test
test: $(STAMP) ## run all tests and doctests (PYTEST_ARGS='-m "not slow"' for the quick ones)
	$(BIN)/python -m pytest $(PYTEST_ARGS)

.PHONY: quality
quality: $(STAMP) ## lint and check the formatting, changing nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.PHONY: format
format: $(STAMP) ## format and mend what the linter can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: docs
docs: $(STAMP) ## check the pages: links lead somewhere, every command and example runs
	$(BIN)/python -m pytest tests/test_docs.py tests/docs docs README.md $(PYTEST_ARGS)

.PHONY: bench
bench: $(STAMP) ## run the benchmarks (ratios within one run)
	@shopt -s nullglob; scripts=(benchmarks/*.py); \
	  test $${#scripts[@]} -gt 0 || echo "there are no benchmarks yet"; \
	  for script in "$${scripts[@]}"; do echo "== $$script"; $(BIN)/python "$$script"; done

.PHONY: clean
clean: ## remove caches, build output and runs/demo (keeps .venv and your other runs)
	rm -rf build dist src/*.egg-info .pytest_cache .ruff_cache .hypothesis .coverage .coverage.* htmlcov runs/demo
	find src tests examples benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2> /dev/null || true
