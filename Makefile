# Set-up happens by itself: each target makes .venv first where it is missing or older than what it is made from.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: quickstart test check bench

quickstart: .venv/installed  ## fit and test on small digits that need no download
	@$(BIN)/python -m lit_mnist fit --config configs/quickstart.yaml
	@$(BIN)/python -m lit_mnist test
	@echo
	@echo "Try next:"
	@echo "  $(BIN)/tensorboard --logdir lightning_logs"
	@echo "  $(BIN)/python -m lit_mnist fit --config configs/mlp.yaml    # real MNIST, downloaded into data/"
	@echo "  $(BIN)/python -m lit_mnist demo                              # a page to draw digits on"

test: .venv/installed  ## the whole test suite, offline
	@$(BIN)/python -m pytest

check: .venv/installed  ## style and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

.venv/installed: pyproject.toml constraints.txt
	@echo "Installing the pinned versions into .venv (a few minutes the first time)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

bench: .venv/installed benchmarks/.venv-peers/installed  ## time the fit, its peers, its start and its growth, into benchmarks/results
	@$(BIN)/python benchmarks/bench.py
	@$(BIN)/python benchmarks/startup.py
	@$(BIN)/python benchmarks/scale.py

benchmarks/.venv-peers/installed: benchmarks/peers.txt
	@$(PYTHON) -m venv $(@D)
	@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@
