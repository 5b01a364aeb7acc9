# Set-up happens by itself: each target makes .venv first where it is missing or older than what it is made from.
PYTHON ?= python3
BIN := .venv/bin
PINNED := --constraint constraints.txt --editable '.[dev]'

.PHONY: quickstart test check dist wheel floors newest bench

quickstart: .venv/installed  ## fit and test on small digits that need no download
	@$(BIN)/python -m lit_mnist fit --config quickstart
	@$(BIN)/python -m lit_mnist test
	@echo
	@echo "Try next:"
	@echo "  $(BIN)/tensorboard --logdir lightning_logs"
	@echo "  $(BIN)/python -m lit_mnist fit --config mlp          # real MNIST, downloaded into data/"
	@echo "  $(BIN)/python -m lit_mnist demo                      # a page to draw digits on"

test: .venv/installed  ## the whole test suite, offline
	@$(BIN)/python -m pytest

check: .venv/installed  ## style and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

dist: .venv/installed  ## a wheel and an sdist in dist/
	@rm -rf dist
	@$(BIN)/uv build --quiet --no-build-isolation --python $(BIN)/python

wheel: dist  ## the wheel in an environment of its own, run from an empty folder
	@$(BIN)/uv venv --quiet --clear --python $(PYTHON) .venv-$@
	@$(BIN)/uv pip install --quiet --python .venv-$@ --constraint constraints.txt dist/*.whl
	@cd $$(mktemp -d) && $(CURDIR)/.venv-$@/bin/lit-mnist fit --config quickstart && $(CURDIR)/.venv-$@/bin/lit-mnist test

floors newest: .venv/installed  ## the test suite on the oldest or the newest versions that pyproject.toml admits
	@$(BIN)/uv venv --quiet --clear --python $(PYTHON) .venv-$@
	@$(BIN)/uv pip install --quiet --python .venv-$@ --resolution $(if $(filter floors,$@),lowest-direct,highest) --editable '.[dev]'
	@.venv-$@/bin/python -m pytest -W ignore::DeprecationWarning

.venv/installed: pyproject.toml constraints.txt
	@echo "Installing the pinned versions into .venv, once (a minute or two)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt uv
	@$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python $(PINNED) || $(BIN)/python -m pip install --quiet $(PINNED)
	@touch $@

bench: .venv/installed benchmarks/.venv-peers/installed  ## time the fit, its peers, start, tricks and growth, into benchmarks/results
	@$(BIN)/python benchmarks/bench.py
	@$(BIN)/python benchmarks/bench.py --cores 1 --slow_rounds 0
	@$(BIN)/python benchmarks/startup.py
	@$(BIN)/python benchmarks/time_to.py
	@$(BIN)/python benchmarks/fits.py
	@$(BIN)/python benchmarks/side_by_side.py
	@$(BIN)/python benchmarks/gains.py
	@$(BIN)/python benchmarks/scale.py

benchmarks/.venv-peers/installed: benchmarks/peers.txt
	@$(PYTHON) -m venv $(@D)
	@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@
