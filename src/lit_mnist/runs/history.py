"""One row per epoch: in metrics.csv, and as a line on the terminal."""

import csv
import math
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as L
from lightning.pytorch.callbacks import Callback
from torch.nn.utils import get_total_norm

from lit_mnist.atomic import write_whole
from lit_mnist.classifier import Classifier
from lit_mnist.runs.folder import read_metrics


class DivergedError(Exception):
    """The loss or the weights became NaN or infinite; the message names the epoch."""


class History(Callback):
    """Writes one row per epoch, with all metrics that were measured, to metrics.csv, and prints it.

    It precedes the checkpoints in the list of callbacks, so a DivergedError ends a diverged fit before a checkpoint is
    written.
    """

    def __init__(self, run: Path, show: bool = True) -> None:
        self.run = run
        self.show = show
        self.rows: list[dict[str, float]] = []
        self._val: dict[str, float] = {}  # metrics of the validation in this epoch
        self._started, self._lr, self._step = 0.0, 0.0, 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        rows = [row | {"epoch": int(row["epoch"])} for row in read_metrics(self.run)]
        self.rows = [row for row in rows if row["epoch"] <= trainer.current_epoch]

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._val, self._step = {}, trainer.global_step
        self._started = time.perf_counter()
        self._lr = trainer.optimizers[0].param_groups[0]["lr"]

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.sanity_checking:
            found = trainer.callback_metrics.items()
            self._val = {name: value.item() for name, value in found if not name.startswith("train")}

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        if trainer.global_step == self._step:  # no batch was left, for example after max_steps
            return
        logged = {name: value for name, value in trainer.callback_metrics.items() if name.startswith("train")}
        if isinstance(pl_module, Classifier):  # it logs them later
            logged = pl_module.train_metrics.compute()  # on all devices
        found = {name: value.item() for name, value in logged.items()} | self._val
        measured = {name: found[name] for name in metrics_of([found])}
        epoch, seconds = trainer.current_epoch + 1, time.perf_counter() - self._started
        losses = {name: value for name, value in measured.items() if name.endswith("loss")}
        bad = [f"{name} is {value}" for name, value in losses.items() if not math.isfinite(value)]
        if not get_total_norm(pl_module.parameters()).isfinite():
            bad.append("the weights are NaN or infinite")
        if bad:
            option = "--model.optimizer.lr" if isinstance(pl_module, Classifier) else "learning rate"
            raise DivergedError(f"{bad[0]} in epoch {epoch}; try a lower {option}")
        self.rows.append({"epoch": epoch, **measured, "lr": self._lr, "seconds": round(seconds, 3)})
        if trainer.is_global_zero:
            self._write()
            if self.show:
                line = "  ".join(f"{name} {value:.4f}" for name, value in measured.items())
                of_all = "" if trainer.max_epochs == -1 else f"/{trainer.max_epochs}"
                pl_module.print(f"epoch {epoch:>2}{of_all}  {line}  {seconds:.1f} s")

    def _write(self) -> None:
        self.run.mkdir(parents=True, exist_ok=True)
        with write_whole(self.run / "metrics.csv") as part, part.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["epoch", *metrics_of(self.rows), "lr", "seconds"], lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows)


def metrics_of(rows: list[dict[str, float]]) -> list[str]:
    """Names of the metrics in rows of epochs: those of training first, and of each stage the loss first."""
    names = dict.fromkeys(name for row in rows for name in row if name not in ("epoch", "lr", "seconds"))
    return sorted(names, key=lambda name: (not name.startswith("train/"), not name.endswith("/loss")))
