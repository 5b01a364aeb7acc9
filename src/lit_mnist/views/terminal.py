"""Terminal output of a fit besides its line per epoch: a summary of the network and a progress bar."""

from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import Callback, TQDMProgressBar
from lightning.pytorch.utilities.model_summary.model_summary import ModelSummary

ROWS = 12  # of the summary, at most; with more, only the whole network is shown


class NetworkSummary(Callback):
    """Prints the layers of a classifier's network with output shapes and numbers of parameters."""

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        pl_module.example_input_array = torch.zeros(1, *pl_module.image_shape, dtype=pl_module.dtype)
        summary = ModelSummary(pl_module, max_depth=-1)
        rows = zip(summary.layer_names, summary.layer_types, summary.out_sizes, summary.param_nums, strict=True)
        whole, *parts = [row for row in rows if row[0].startswith("network")]
        layers = [row for row in parts if not any(other[0].startswith(f"{row[0]}.") for other in parts)]
        pl_module.print(f"{'layer':<18}{'output':<18}{'parameters':>12}")
        for _, layer_class, shape, parameters in [*(layers if len(layers) < ROWS else []), whole]:
            pl_module.print(f"{layer_class:<18}{f'(B, {str(shape)[4:-1]})':<18}{parameters:>12,}")
        pl_module.print()


class EpochBar(TQDMProgressBar):
    """Lightning's progress bar, but counting epochs from 1, as the epoch lines do."""

    def on_train_epoch_start(self, trainer: L.Trainer, *_: Any) -> None:
        super().on_train_epoch_start(trainer, *_)
        self.train_progress_bar.set_description(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}")

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        return {name: value for name, value in super().get_metrics(trainer, pl_module).items() if name != "v_num"}
