"""A fit that has left the numbers stops with a line."""

import math
from typing import Any, NoReturn

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import Callback


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
