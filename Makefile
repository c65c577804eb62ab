# Everything here works from a fresh clone with git, make and Python 3.11 to 3.13.
SHELL := bash
.DEFAULT_GOAL := help
PYTHON ?= python3
# auto: the CPU build, unless this Linux machine has an NVIDIA GPU. Or: make setup TORCH=cuda
TORCH ?= auto
BIN := .venv/bin
INSTALL := $(PYTHON) scripts/install.py --torch $(TORCH)
# Tests run on one thread each, so two processes take what two cores have.
PYTEST := $(BIN)/python -m pytest -n 2 --dist worksteal
HOST ?= 127.0.0.1
PORT ?= 8000

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup
setup: ## make .venv with the pinned packages (TORCH=auto|cpu|cuda)
	@$(INSTALL)

.PHONY: setup-dev
setup-dev: ## the same, with what tests and checks need
	@$(INSTALL) --for dev

.PHONY: run
run: setup ## set up, then serve (HOST=127.0.0.1 PORT=8000)
	@exec $(BIN)/footnote serve --host $(HOST) --port $(PORT)

.PHONY: test
test: setup-dev ## set up, then run the tests (three minutes on two cores)
	@$(PYTEST) -m "not slow" $(ARGS)

.PHONY: test-slow
test-slow: setup-dev ## the slower tests: kill -9, training while serving, packaging
	@$(PYTEST) -m slow $(ARGS)

.PHONY: lint
lint: setup-dev ## ruff: rules and format
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

.PHONY: format
format: setup-dev ## let ruff fix and format what it can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

.PHONY: types
types: setup-dev ## mypy, strict
	@$(BIN)/mypy

.PHONY: layers
layers: setup-dev ## import-linter: who may import whom
	@$(BIN)/lint-imports

.PHONY: check
check: lint types layers test-slow test ## all that CI runs

.PHONY: setup-bench
setup-bench: ## set up what the benchmarks compare with
	@$(INSTALL) --for bench

.PHONY: bench-help
bench-help: ## the benchmarks, each with its command
	@for file in benchmarks/[a-z]*.py benchmarks/*/__main__.py; do \
	  if grep -q '^if __name__ == "__main__"' $$file; then \
	    name=$$(basename $${file%/__main__.py} .py); \
	    printf "  python -m benchmarks.%-16s %s\n" $$name \
	      "$$(sed -n '1s/^"""\(.*[^"]\)\("""\)\{0,1\}$$/\1/p' $$file)"; \
	  fi; \
	done

.PHONY: lock
lock: setup-dev setup-bench ## write the lock files from what is installed
	@$(BIN)/python scripts/lock.py

.PHONY: docker
docker: ## build the image footnote:local
	@docker build -t footnote:local .

.PHONY: clean
clean: ## remove what the tools left (not .venv, not your documents)
	@rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
