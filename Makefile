# Needs python3 (>= 3.11, with venv) and make; everything else goes into .venv.

PYTHON ?= python3
PYTEST_ARGS ?=
BENCH_ARGS ?=

BIN := .venv/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
EXTRAS := postgres,mysql,duckdb,ducklake,snowflake,otel,export,report,dask,simulator
# `pip install --group dev` needs pip 25.1, which a plain machine does not have.
PRINT_GROUP := import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["dependency-groups"]["dev"], sep="\n")
PYTEST := $(BIN)/python -m pytest --numprocesses auto --dist worksteal

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test coverage test-slow test-all lint types docs lock bench clean
# The tests start the program hundreds of times, and pytest rewrites each of its files: once is enough.
unexport PYTHONDONTWRITEBYTECODE

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

demo: .venv/.installed-demo ## simulate the API, sync it three times into SQLite, show what an analyst would ask
	@$(BIN)/bindings-etl demo

test: .venv/.installed-dev ## every test this machine can run, except the slow ones (PYTEST_ARGS="-k …")
	@$(PYTEST) -m "not slow and not nightly" $(PYTEST_ARGS)

coverage: .venv/.installed-dev ## make test, and the lines that it never ran
	@$(PYTEST) -m "not slow and not nightly" --cov --cov-report=term $(PYTEST_ARGS)

test-slow: .venv/.installed-dev ## the slow tests that CI runs beside make test
	@$(PYTEST) -m "slow and not nightly" $(PYTEST_ARGS)

test-all: .venv/.installed-dev ## every test, also those that CI leaves to the night
	@$(PYTEST) $(PYTEST_ARGS)

lint: .venv/.installed-dev ## ruff, formatting, import rules
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports

types: .venv/.installed-dev ## mypy
	@$(BIN)/mypy

docs: .venv/.installed-dev ## write the data dictionary, dbt's sources and the screens anew
	@$(BIN)/python -m docs.dictionary
	@$(BIN)/python -m docs.sources
	@$(BIN)/python -m docs.screens

lock: .venv/.installed-dev ## write requirements.lock anew: what the image installs, with hashes
	@$(PIP_INSTALL) uv
	@echo 'hatchling>=1.27' | $(BIN)/uv pip compile --quiet --universal --generate-hashes --python-version 3.11 \
		--custom-compile-command "make lock" --extra postgres --extra mysql --extra otel pyproject.toml - --output-file requirements.lock

bench: .venv/.installed-dev ## the benchmarks (BENCH_ARGS="…")
	@$(BIN)/python -m benchmarks $(BENCH_ARGS)

clean: ## remove what make made: .venv, caches, builds, the demo's folder
	rm -rf .venv build dist demo benchmarks/.work tests/servers/.work .coverage* .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- the virtual environment: made once, installed into again when pyproject.toml has changed ---

.venv/bin/python:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) not found: install Python 3.11 or newer, or say make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed, but $(PYTHON) is $$($(PYTHON) -c 'import platform; print(platform.python_version())'): say make PYTHON=/path/to/newer/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) has no venv: install the package python3-venv (Debian, Ubuntu: apt install python3-venv)" >&2; exit 1; }
	@echo "Creating .venv"
	@$(PYTHON) -m venv --clear .venv || { rm -rf .venv; exit 1; }

.venv/.installed-demo: pyproject.toml | .venv/bin/python
	@echo "Installing bindings-etl into .venv"
	@$(PIP_INSTALL) -e '.[report,simulator]'
	@touch $@

.venv/.installed-dev: pyproject.toml | .venv/bin/python
	@echo "Installing bindings-etl and its development tools into .venv (a minute or two)"
	@$(BIN)/python -c '$(PRINT_GROUP)' >.venv/dev-group.txt
	@$(PIP_INSTALL) -e '.[$(EXTRAS)]' -r .venv/dev-group.txt
	@touch $@ .venv/.installed-demo
