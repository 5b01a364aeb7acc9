"""What a fit shows and leaves: a bar, a line and a CSV row per epoch, its options, and checkpoints."""

import contextlib
import csv
import io
import math
import sys
import time
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.utilities.model_summary.model_summary import summarize

from lit_mnist.atomic import write_whole

METRICS = ("train/loss", "train/accuracy", "val/loss", "val/accuracy")
COLUMNS = ("epoch", *METRICS, "lr", "seconds")


def validation_follows(trainer: L.Trainer) -> bool:
    """Whether a validation comes after this step in a fit that does not end here."""
    loop: Any = trainer.fit_loop.epoch_loop
    should_stop, trainer.should_stop = trainer.should_stop, False  # which brings one that is not due
    due = loop._should_check_val_fx(trainer.fit_loop._data_fetcher) and not loop._skip_next_val
    trainer.should_stop = should_stop
    return bool(due)


class RunCheckpoint(ModelCheckpoint):
    """A ModelCheckpoint that keeps the weights which were measured, and finds its files again in a run that was moved.

    Args:
        run: The run folder; checkpoints go into its folder checkpoints.
        name: Name of the file without its suffix.
        monitor: Metric of the validation whose lowest value decides; None keeps the last epoch's.
    """

    _validated_at = -1  # the step whose weights the last validation measured

    def __init__(self, run: Path, name: str, monitor: str | None = None) -> None:
        super().__init__(
            dirpath=run / "checkpoints",
            filename=name,
            monitor=monitor,
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        )

    @property
    def state_key(self) -> str:
        """Name of the state in a checkpoint; Lightning asks for it at every hook, and its own takes long to make."""
        return f"RunCheckpoint {self.filename}"

    def on_train_batch_end(self, *_: Any) -> None:
        """Nothing: it saves after a validation or at the end of an epoch only."""

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.sanity_checking or not validation_follows(trainer):
            return
        self._validated_at = trainer.global_step
        if self.monitor and not trainer.is_last_batch:
            # now, since the steps to come change the weights; and not where only the end of the fit has it validated
            super().on_train_epoch_end(trainer, pl_module)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save, unless the fit ends inside the epoch: that is no epoch to compare, nor the moment to continue from."""
        if trainer.is_last_batch and (not self.monitor or self._validated_at == trainer.global_step):
            super().on_train_epoch_end(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        return {"best_score": self.best_model_score}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from the score; where the file lies follows from the run folder, never from what was read."""
        path = Path(self.format_checkpoint_name({}))
        if path.is_file():
            self.best_model_path = str(path)
            if (score := state_dict["best_score"]) is not None:
                self.best_model_score = self.kth_value = torch.as_tensor(float(score))
                self.best_k_models = {str(path): self.best_model_score}
                self.kth_best_model_path = str(path)


class NoProfiler(PassThroughProfiler):
    """Measures nothing, at less cost than Lightning's own: a training step passes through some hundred contexts."""

    _nothing: ClassVar = contextlib.nullcontext()

    def profile(self, action_name: str) -> contextlib.AbstractContextManager[Any]:  # type: ignore[override]
        return self._nothing


def print_layers(module: L.LightningModule) -> None:
    """Print a row for each layer of a module's network: its type, output shape and number of parameters."""
    from rich.console import Console
    from rich.table import Table

    summary = summarize(module, max_depth=-1)
    table = Table("layer", "type", "output shape", "parameters")
    table.columns[-1].justify = "right"
    for name, kind, shape, count in zip(
        summary.layer_names, summary.layer_types, summary.out_sizes, summary.param_nums, strict=True
    ):
        if name.startswith("model.layers."):
            table.add_row(name.removeprefix("model.layers."), kind, f"(B, {shape[-1]})", f"{count:,}" if count else "")
    table.add_section()
    table.add_row("total", "", "", f"{summary.total_parameters:,}")
    Console().print(table)


class EpochBar(TQDMProgressBar):
    """A progress bar per epoch with its metrics as they come; none where the output is no terminal."""

    def __init__(self) -> None:
        super().__init__(refresh_rate=25)
        if not sys.stdout.isatty():
            self.disable()

    def on_train_epoch_start(self, trainer: L.Trainer, *_: Any) -> None:
        super().on_train_epoch_start(trainer)
        trainer.progress_bar_metrics.clear()  # Lightning keeps those of the epochs before
        self.train_progress_bar.set_description(f"epoch {trainer.current_epoch + 1:>2}/{trainer.max_epochs}")

    def init_validation_tqdm(self) -> Tqdm:
        """None within a fit, where validation takes a moment only."""
        return super().init_validation_tqdm() if self.trainer.state.fn != "fit" else Tqdm(disable=True)

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics


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


class DivergedError(Exception):
    """Training has left the numbers; the message is one line that names epoch and step."""


class StopOnDivergence(Callback):
    """Stops as soon as the loss is infinite or not a number, or weights at the end of an epoch are.

    On a GPU it looks at every 50th step only, since looking makes the GPU wait; such a loss never recovers.
    """

    stepped = False  # whether a step has been taken

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.stepped = True
        if pl_module.device.type != "cpu" and batch_idx % 50 and not trainer.is_last_batch:
            return
        if not math.isfinite(outputs["loss"].sum()):
            losses = outputs["loss"].reshape(-1)
            first = int((~losses.isfinite()).nonzero()[0])
            raise DivergedError(
                f"the loss became {losses[first].item()} in epoch {trainer.current_epoch + 1}, step"
                f" {trainer.global_step - len(losses) + first + 1}; try a lower --model.lr"
            )

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn == "fit" and not math.isfinite(trainer.callback_metrics.get("val/loss", 0)):
            self._stop(trainer, "the val loss")

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not torch.nn.utils.get_total_norm(pl_module.parameters()).isfinite():
            self._stop(trainer, "the norm of the weights")

    def _stop(self, trainer: L.Trainer, what: str) -> NoReturn:
        raise DivergedError(
            f"{what} became infinite or not a number in epoch {trainer.current_epoch + 1}, step {trainer.global_step};"
            " try a lower --model.lr"
        )
