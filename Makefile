# Perdure. `make` or `make help` lists the verbs; verbs that need it set up first, and a second set-up takes no time.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.perdure-setup
ARGS ?=

# JOBS: test processes; one file's tests stay in one process. NAME: a bench.
JOBS ?= auto
NAME ?=

# Faults that every run of the tests injects; `make faults` injects all of them.
QUICK_FAULTS := tests/faults/test_faults.py tests/faults/test_bad_input.py tests/faults/test_load.py

.PHONY: help setup up test faults browser-test screenshots sim check check-web format bench report load chaos chaos-table audit compose-test images lock clean

help: ## list the verbs
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## make .venv with the locked packages and the command perdure
	@:

$(STAMP): requirements-dev.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "perdure needs Python 3.11 or later: install python3, or say make PYTHON=/path/to/python" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "perdure needs Python 3.11 or later, and $(PYTHON) is $$($(PYTHON) -c 'import platform; print(platform.python_version())'): say make PYTHON=/path/to/python" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "this Python cannot make virtual environments: install the package python3-venv" >&2; exit 2; }
	@[[ -x $(BIN)/python ]] || { echo "setup: making $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "setup: installing the locked packages (a minute or two the first time)"
	@$(BIN)/python -m pip install --disable-pip-version-check --quiet --progress-bar on --require-hashes -r requirements-dev.lock
	@PYTHONWARNINGS=ignore $(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation --editable .
	@touch $(STAMP)
	@echo "setup: done"

up: setup ## run a world on this machine, with bots; Ctrl-C ends it (ARGS="--shards 2")
	@$(BIN)/perdure up $(ARGS)

test: setup ## run the tests (ARGS="-k gateway")
	@printf '%s\n' games/arena games/tag.py tests/data/*.py | xargs -n 1 -P 2 $(BIN)/python -m shard.warmup  # once, not once a test process
ifeq ($(strip $(ARGS)),)
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --ignore=tests/faults --ignore=tests/simulation
	@$(BIN)/python -m pytest -n $(JOBS) --dist load tests/simulation  # in processes that have loaded no other game: Numba mixes up games' tuples, and calls take thrice the time
	@$(BIN)/python -m pytest $(QUICK_FAULTS)  # clusters of real processes: one at a time, with the machine to itself
else
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(ARGS)
endif

faults: setup ## run every fault test on real processes (some minutes)
	@$(BIN)/python -m pytest tests/faults $(ARGS)

browser-test: setup ## play, look and steer in a real browser, on real processes (needs Chromium, or CHROMIUM=/path/to/it)
	@$(BIN)/python -m pytest -m browser tests/browser $(ARGS)

screenshots: setup ## make the pictures in docs/images anew (needs Chromium)
	@$(BIN)/python -m tests.browser.screenshots $(ARGS)

sim: setup ## simulate the whole cluster, seed after seed (SEEDS=200)
	@$(BIN)/perdure sim --seeds $(or $(SEEDS),200) $(ARGS)

check: setup ## ruff, pyright, import-linter, and check-web
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports --no-cache --no-logo
	@$(BIN)/pyright
	@$(MAKE) --no-print-directory check-web

# npm is asked for the one pinned compiler, and keeps it; without npm or a registry the types are not checked, and that is said.
TSC := npx --yes --package typescript@5.9.3 tsc

check-web: ## the pages' scripts: their syntax by node, their types (JSDoc) by tsc
	@if ! command -v node >/dev/null; then echo "SKIPPED: check-web needs node 20 or later, and there is none"; exit 0; fi; \
	  find web -name '*.js' -print0 | xargs -0 -I{} sh -c 'node --input-type=module --check <"{}" || { echo "in {}" >&2; exit 1; }'; \
	  echo "check-web: the syntax of web/ is sound"; \
	  if ! $(TSC) --version >/dev/null 2>&1; then echo "SKIPPED: types of web/ are checked by tsc, and npx cannot fetch it here"; exit 0; fi; \
	  $(TSC) -p web && echo "check-web: the types of web/ are sound"

format: setup ## let ruff mend and format what it can
	@$(BIN)/ruff check --fix --quiet . || true
	@$(BIN)/ruff format .

bench: setup ## all benches in one table, with their bars (ARGS=--quick), or one of them (NAME=failover)
	@$(BIN)/perdure bench $(or $(NAME),all) --keep bench-results $(ARGS)

report: setup ## one page, with plots, of what make bench has kept (IMAGES=docs/images for the pictures alone too)
	@$(BIN)/perdure report bench-results $(if $(IMAGES),--images $(IMAGES))

load: setup ## thousands of players on the cluster that runs here, or on one of its own (USERS=2000 ARGS="--scenario kill")
	@$(BIN)/perdure load --users $(or $(USERS),200) $(ARGS)

chaos: setup ## break real processes in every way there is, and count (ROWS=a,b TIMES=10 RESULTS=chaos-runs.jsonl)
	@$(BIN)/perdure bench chaos --json $(if $(ROWS),--rows $(ROWS)) $(if $(TIMES)$(RESULTS),--results $(CHAOS_RUNS)) \
	  $(if $(TIMES),--until-times $(TIMES)) $(ARGS)

chaos-table: setup ## the table over all runs that make chaos TIMES=... has kept
	@$(BIN)/perdure bench chaos --table $(CHAOS_RUNS)

CHAOS_RUNS = $(or $(RESULTS),chaos-runs.jsonl)

audit: setup ## is everything in the world there, once? also beside a running one (ARGS="--redis-url ... --game ...")
	@$(BIN)/perdure audit $(ARGS)

compose-test: setup ## run the cluster in containers and break it (needs a container engine)
	@$(BIN)/python -m pytest -m compose tests/faults/test_compose.py $(ARGS)

images: ## build the container image
	@docker compose build

lock: setup ## make the lock files anew from pyproject.toml
	@$(BIN)/uv pip compile --quiet --upgrade $(LOCK_OPTIONS) pyproject.toml -o requirements.lock
	@$(BIN)/uv pip compile --quiet --upgrade $(LOCK_OPTIONS) --all-extras -c requirements.lock pyproject.toml -o requirements-dev.lock
	@$(BIN)/uv pip compile --quiet $(LOCK_OPTIONS) --extra loadtest -c requirements-dev.lock pyproject.toml -o requirements-loadtest.lock

LOCK_OPTIONS := --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --system-certs

clean: ## remove .venv and every cache
	@rm -rf $(VENV) build .pytest_cache .ruff_cache .hypothesis .import_linter_cache *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
