"""Gain of each speed-up: the same fit with and without it, alternating in one process."""

import contextlib
import io
import os
import statistics
import tempfile
from collections.abc import Callable
from typing import Any

import lightning.pytorch as L
import torch
from bench import FAST, HERE, fix_data_dir, processor, write_table
from lightning.pytorch.callbacks import Callback
from lit import CONFIGS, FitTimer
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from lit_mnist.__main__ import main as lit_mnist
from lit_mnist.metrics import CrossEntropy

ROUNDS, EPOCHS = 5, 3


def collection(model: Any, validate_args: bool = False, **options: Any) -> None:
    """Other metrics of the training batches."""
    accuracy = MulticlassAccuracy(10, average="micro", validate_args=validate_args)
    model.train_metrics = MetricCollection({"loss": CrossEntropy(), "accuracy": accuracy}, prefix="train/", **options)


WITHOUT: dict[str, Callable[[Any], object]] = {  # what leaves a trick out
    "no look for a GPU's driver in every step": lambda _: os.environ.update(PYTORCH_NVML_BASED_CUDA_CHECK="1"),
    "compute_groups=False of the metrics": lambda model: collection(model),
    "validate_args=False of the accuracy": lambda model: collection(model, validate_args=True, compute_groups=False),
    "set_flush_denormal": lambda _: torch.set_flush_denormal(False),
}


class LeaveOut(Callback):
    """Leaves the trick out that `chosen` names, if any."""

    chosen = ""

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if LeaveOut.chosen:
            WITHOUT[LeaveOut.chosen](pl_module)


def fit(trick: str, options: list[str]) -> float:
    """Seconds of a fit without a trick, or with all."""
    LeaveOut.chosen = trick
    command = ["fit", "--config", str(CONFIGS / "mlp.yaml"), "--figures", "false", "--trainer.max_epochs", str(EPOCHS)]
    command += ["--trainer.callbacks+", "lit.FitTimer", "--trainer.callbacks+", f"{__name__}.LeaveOut", *options]
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        lit_mnist(args=[*command, "--trainer.default_root_dir", folder])
    return FitTimer.result["fit_seconds"]


def main() -> None:
    fix_data_dir()
    cases = [(path, trick) for path in ("default", "fast") for trick in ("", *WITHOUT)]
    measured: dict[tuple[str, str], list[float]] = {case: [] for case in cases}
    for _ in range(1 + ROUNDS):
        for path, trick in cases:
            measured[path, trick].append(fit(trick, FAST if path == "fast" else []))
    rows = []
    for path, trick in cases:
        if trick:
            pairs = zip(measured[path, trick][1:], measured[path, ""][1:], strict=True)  # without the first round
            ratios = sorted(without / all_of_them for without, all_of_them in pairs)
            gain = f"{statistics.median(ratios) - 1:+.1%}"
            rows.append([trick, path, gain, f"{ratios[1] - 1:+.1%}..{ratios[-2] - 1:+.1%}"])
    write_table(
        HERE / "results" / f"{processor()}-gains.md",
        "What each trick gains",
        f"`python benchmarks/gains.py`: {EPOCHS} epochs of configs/mlp.yaml with all tricks and without one of them, in"
        f" turn, n={ROUNDS}: by how much longer the fit takes without it, median and range without the two extremes.",
        ["trick", "path", "longer without", "range"],
        rows,
    )


if __name__ == "__main__":
    main()
