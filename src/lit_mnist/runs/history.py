"""What a fit shows and leaves: a bar, a line and a CSV row per epoch, its options, and checkpoints."""

import csv
import io
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as L
from lightning.pytorch.callbacks import Callback

from lit_mnist.atomic import write_whole
from lit_mnist.runs.checkpoints import validation_follows

METRICS = ("train/loss", "train/accuracy", "val/loss", "val/accuracy")
COLUMNS = ("epoch", *METRICS, "lr", "seconds")


class History(Callback):
    """Leaves config.yaml at the start, and one line on the terminal and one row in metrics.csv for every epoch.

    A row holds what was logged in its epoch and nothing else, the last value of each name: Lightning's own
    callback_metrics keep those of the epochs before.

    Args:
        run: Folder for the two files.
        config: The whole configuration as YAML.
        show: Whether to print the lines.
    """

    def __init__(self, run: Path, config: str, show: bool = True) -> None:
        self.run = run
        self.config = config
        self.show = show
        self.rows: list[dict[str, float]] = []
        self.metrics: dict[str, float] = {}  # logged in this epoch so far, beside its number and learning rate
        self._before: dict[str, Any] | None = None  # what Lightning keeps of the epochs before
        self._validated_at = -1  # the step whose weights the last validation measured
        self._started = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero:
            with write_whole(self.run / "config.yaml") as part:
                part.write_text(self.config)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._started = time.perf_counter()
        lr = trainer.optimizers[0].param_groups[0]["lr"]  # a scheduler steps before the epoch ends
        self.metrics = {"epoch": trainer.current_epoch + 1, "lr": lr}
        self._before = dict(trainer.callback_metrics)

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        if self._before is None:  # inside an epoch that is resumed, whose start does not come again
            self._before = dict(trainer.callback_metrics)

    def _collect(self, trainer: L.Trainer) -> None:
        logged, before = trainer.callback_metrics.items(), self._before or {}
        self.metrics |= {name: value.item() for name, value in logged if value is not before.get(name)}

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.sanity_checking or (trainer.is_last_batch and not validation_follows(trainer)):
            return  # the latter comes at the end of a fit alone, and not where it goes on from there
        self._collect(trainer)
        self._validated_at = trainer.global_step

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        pl_module.log_train_metrics()
        self._collect(trainer)
        seconds = time.perf_counter() - self._started
        row = {name: self.metrics[name] for name in COLUMNS if name in self.metrics} | {"seconds": round(seconds, 3)}
        epoch = trainer.current_epoch + 1
        self.rows = [*(row for row in self.rows if row["epoch"] < epoch), row]  # one that ended early may have gone on
        if trainer.is_global_zero:
            text = "  ".join(
                f"{name.replace('train/', '').replace('/', '_')} {row[name]:.4f}" for name in METRICS if name in row
            )
            if self.show:
                pl_module.print(f"epoch {epoch:>2}/{trainer.max_epochs}  {text}  {seconds:.1f} s")
            self._write()

    def _write(self) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        with write_whole(self.run / "metrics.csv") as part:
            part.write_text(text.getvalue())

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Leave in a checkpoint the metrics of its epoch, those of the validation if it measured these very weights."""
        measured = self._validated_at == trainer.global_step
        checkpoint["metrics"] = {
            name: value for name, value in self.metrics.items() if measured or not name.startswith("val/")
        }

    def state_dict(self) -> dict[str, Any]:
        seconds = time.perf_counter() - self._started
        return {
            "rows": self.rows,
            "metrics": self.metrics,
            "validated_at": self._validated_at,
            "seconds": seconds,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = state_dict["rows"]
        self.metrics = state_dict["metrics"]
        self._validated_at = state_dict["validated_at"]
        self._started = time.perf_counter() - state_dict["seconds"]
