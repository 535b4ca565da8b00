# One .venv serves every goal: whichever comes first makes it, from pyproject.toml and constraints.txt.
PYTHON ?= $(or $(shell command -v python3.11),python3)
DIST ?= dist
BIN := .venv/bin
export PYTHON DIST
unexport PYTHONDONTWRITEBYTECODE # common in containers; each process would compile torch's modules again
export HF_HUB_OFFLINE := 1
export HF_HUB_DISABLE_TELEMETRY := 1
export DO_NOT_TRACK := 1

.PHONY: help demo test test-full lint venv clean

help:
	@echo "make demo       build, check and compare four bundles: two models for cpu and for gguf"
	@echo "make test       the tests"
	@echo "make test-full  the slow tests as well"
	@echo "make lint       ruff and mypy"
	@echo "make venv       only what the others need installed"
	@echo "make clean      remove .venv, $(DIST) and the tools' caches"

demo:
	@.ci/demo

# One file a worker: fixtures of a file are built once.
PYTEST := $(BIN)/pytest -q -n auto --maxprocesses 4 --dist loadfile

test: venv
	$(PYTEST)

test-full: venv
	$(PYTEST) -m "slow or not slow"

lint:
	@.ci/setup base
	$(BIN)/ruff check .
	$(BIN)/mypy

venv:
	@.ci/setup all

clean:
	rm -rf .venv "$(DIST)" build .pytest_cache .mypy_cache .ruff_cache .hypothesis
