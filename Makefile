# Everything a fresh machine needs is Python 3.11 or newer and make: the first target that is run makes `.venv`.
# When `.venv` is up to date with pyproject.toml and uv.lock, no target below touches the network.

DATA ?= ./data
LISTEN ?= 127.0.0.1:7777
PYTHON ?= python3

VENV := .venv
BIN := $(VENV)/bin
# The lock file names the uv that wrote it; the same one reads it.
UV_VERSION := $(shell awk '/^name = "uv"$$/ { getline; gsub(/[^0-9.]/, ""); print; exit }' uv.lock)

# Other environments of the caller must not decide where packages go.
unexport VIRTUAL_ENV
unexport UV_PROJECT_ENVIRONMENT

.PHONY: help
help: ## what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: serve
serve: $(VENV)/.server ## serve DATA on LISTEN; an empty DATA is filled with the bundled sample first
	$(BIN)/recension-server serve --data "$(DATA)" --listen "$(LISTEN)" --sample

.PHONY: test
test: $(VENV)/.dev system-packages torch-cpu lint ## the whole suite: every check, then every test
	$(BIN)/python -m pytest --numprocesses=auto --dist=loadfile --durations=15 --cov --cov-report=term:skip-covered

.PHONY: lint
lint: $(VENV)/.dev ## every check that runs no test
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/scripts/gen_protos.py --check
	$(BIN)/buf lint protos
	$(BIN)/buf format protos --diff --exit-code
	$(BIN)/hadolint --failure-threshold info Dockerfile

.PHONY: format
format: $(VENV)/.dev ## rewrite sources and protos in the house format
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format
	$(BIN)/buf format protos --write

.PHONY: stubs
stubs: $(VENV)/.dev ## regenerate the committed stubs and the saved contract from protos/
	$(BIN)/python tools/scripts/gen_protos.py

.PHONY: bench
bench: $(VENV)/.dev ## measure, beside git; SECTIONS="texts reading" for some of it
	$(BIN)/python -m tests.bench $(SECTIONS)

# The long tests set their own limits; the suite's hang detection would end them early.
.PHONY: torture
torture: $(VENV)/.dev system-packages torch-cpu ## the long tests: kills, full disks, hostile clients
	$(BIN)/python -m pytest -m torture --timeout=3600 -o faulthandler_timeout=3600

.PHONY: fuzz
fuzz: $(VENV)/.dev ## parsers, guided by coverage; TARGETS="history events" for some of them, RECENSION_FUZZ_RUNS=100000 for fewer inputs
	$(BIN)/python -m tests.fuzz $(TARGETS)

.PHONY: rehearse
rehearse: $(VENV)/.dev system-packages ## run the server as the container would, under bubblewrap
	tools/scripts/rehearse_container.sh

.PHONY: env
env: $(VENV)/.dev ## the development environment

.PHONY: system-packages
system-packages:
	@tools/scripts/system_packages.sh

.PHONY: torch-cpu
torch-cpu: $(VENV)/.dev
	@tools/scripts/torch_cpu.sh

.PHONY: clean
clean: ## remove the environment and every cache; DATA is left alone
	rm -rf $(VENV) build dist htmlcov .coverage .coverage.* .fuzz .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find service tools tests -type d -name __pycache__ -prune -exec rm -rf {} +

$(BIN)/uv:
	$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "recension needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

# Inexact: serving from a development environment takes nothing away from it. With what the README's walk asks for.
$(VENV)/.server: pyproject.toml uv.lock | $(BIN)/uv
	$(BIN)/uv sync --locked --inexact --no-dev --extra server --extra report
	touch $@

# Without torch, whose build here would bring CUDA: tools/scripts/torch_cpu.sh.
$(VENV)/.dev: pyproject.toml uv.lock | $(BIN)/uv
	$(BIN)/uv sync --locked --all-extras --no-extra torch
	touch $@ $(VENV)/.server
