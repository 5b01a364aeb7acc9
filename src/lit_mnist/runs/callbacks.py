"""What makes a fit a run that can go on: its random numbers, its history and its checkpoints."""

import os
import random
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from lit_mnist.runs.history import History


def run_callbacks(run: str | Path, checkpoints: bool = True, show: bool = True) -> list[Callback]:
    """Callbacks that leave metrics.csv and checkpoints in a run folder, and let a fit go on exactly.

    Args:
        run: The run folder.
        checkpoints: Whether to leave checkpoints/best.ckpt (of the lowest val/loss) and checkpoints/last.ckpt.
        show: Whether to print a line per epoch.
    """
    run = Path(run).expanduser()
    callbacks: list[Callback] = [EpochSeed(), History(run, show)]
    if checkpoints:
        callbacks += [RunCheckpoint(run, "best", monitor="val/loss"), RunCheckpoint(run, "last")]
    return callbacks


class EpochSeed(Callback):
    """Makes all that is random in an epoch follow from (seed, epoch, device), so that a fit can go on there."""

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        key = (int(os.environ.get("PL_GLOBAL_SEED", 0)), trainer.current_epoch, trainer.global_rank)
        seed = int(np.random.SeedSequence(key).generate_state(1)[0])
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for config in trainer.lr_scheduler_configs:  # such as OneCycleLR, which would fail in the middle of the fit
            planned = getattr(config.scheduler, "total_steps", None)
            steps = trainer.estimated_stepping_batches if config.interval == "step" else trainer.max_epochs
            if planned is not None and steps is not None and planned < steps:
                raise ValueError(f"lr_scheduler: it was planned for {planned} steps, and this fit has {steps:.0f}")


class RunCheckpoint(ModelCheckpoint):
    """Lightning's own, of its own name, so that another one of the user is no second of a kind."""

    def __init__(self, run: Path, name: str, monitor: str | None = None) -> None:
        super().__init__(
            str(run / "checkpoints"), name, monitor, save_on_train_epoch_end=True, enable_version_counter=False
        )

    def on_train_batch_end(self, *_: Any) -> None:
        """Nothing: it saves at the end of an epoch only."""

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        if state := checkpoint["callbacks"].get(self.state_key):
            state["dirpath"] = self.dirpath  # of a run that was moved
