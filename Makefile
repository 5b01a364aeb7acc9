# Set-up happens by itself: each target makes .venv first where it is missing or older than what it is made from.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: quickstart test check

quickstart: .venv/installed  ## fit and test on small digits that need no download
	@$(BIN)/python -m lit_mnist fit --config configs/quickstart.yaml
	@$(BIN)/python -m lit_mnist test
	@echo
	@echo "Try next:"
	@echo "  $(BIN)/tensorboard --logdir lightning_logs"
	@echo "  $(BIN)/python -m lit_mnist fit --config configs/mlp.yaml    # real MNIST, downloaded into data/"

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
