"""What a fit shows on the terminal: its layers and a progress bar per epoch."""

import sys
from typing import Any

import lightning.pytorch as L
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm
from lightning.pytorch.utilities.model_summary.model_summary import summarize


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
        if name.startswith("network.") and not any(other.startswith(f"{name}.") for other in summary.layer_names):
            sizes = ", ".join(map(str, shape[1:])) if isinstance(shape, list) else shape  # of layers that were called
            table.add_row(
                name.removeprefix("network.").removeprefix("layers."),
                kind,
                f"(B, {sizes})",
                f"{count:,}" if count else "",
            )
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
