"""Callbacks that make a run resumable: random numbers, history and checkpoints."""

import os
import random
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import numpy as np
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from lit_mnist.atomic import write_whole
from lit_mnist.checkpoint import CheckpointError
from lit_mnist.errors import print_error
from lit_mnist.runs.checks import FitCheck
from lit_mnist.runs.history import History


def run_callbacks(
    run: str | Path, checkpoints: bool = True, show: bool = True, best: str = "val/loss", mode: str = "min"
) -> list[Callback]:
    """Callbacks that save metrics.csv and checkpoints in a run folder, so that a fit can be resumed exactly.

    Args:
        run: The run folder.
        checkpoints: Whether to save checkpoints/best.ckpt and checkpoints/last.ckpt.
        show: Whether to print a line per epoch.
        best: Metric that selects best.ckpt.
        mode: min if a lower value of that metric is better, max if a higher one is.
    """
    run = Path(run).expanduser()
    callbacks: list[Callback] = [FitCheck(), EpochSeed(), History(run, show)]
    if checkpoints:
        callbacks += [RunCheckpoint(run, "best", best, mode), RunCheckpoint(run, "last")]
    return callbacks


class EpochSeed(Callback):
    """Reseeds all generators from (seed, epoch, rank) every epoch, so that a resumed fit draws the same numbers."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        epoch = torch.tensor(float(trainer.current_epoch), device=pl_module.device)
        if trainer.strategy.reduce(epoch.clone(), reduce_op="mean") != epoch:
            why = "others do not; all hosts need the same run folder"
            raise CheckpointError(f"this process resumes after epoch {epoch:.0f}, {why}")

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        key = (int(os.environ.get("PL_GLOBAL_SEED", 0)), trainer.current_epoch, trainer.global_rank)
        seed = int(np.random.SeedSequence(key).generate_state(1)[0])
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints atomically; Lightning's class moves them from TMPDIR, which may be on another disk."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        if "://" in str(path):
            return super().save_checkpoint(checkpoint, path, storage_options)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with write_whole(Path(path)) as part, part.open("wb") as file:
            torch.save(checkpoint, file)


class RunCheckpoint(ModelCheckpoint):
    """A ModelCheckpoint of its own class, so that its state never mixes with that of another ModelCheckpoint.

    A run has two, since `save_last=True` writes last.ckpt only in epochs that write best.ckpt.
    """

    def __init__(self, run: Path, name: str, monitor: str | None = None, mode: str = "min") -> None:
        options: Any = {"save_on_train_epoch_end": True, "enable_version_counter": False}
        super().__init__(str(run / "checkpoints"), name, monitor, mode=mode, **options)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = WholeCheckpointIO()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        metrics = trainer.callback_metrics
        names = [name for name in metrics if name.startswith("val")]
        if self.monitor is None or self.monitor in metrics:  # else nothing was validated, or under another name
            super().on_train_epoch_end(trainer, pl_module)
        elif names and trainer.current_epoch == 0:
            print_error(f"--best: {self.monitor} is not logged, so there is no best.ckpt; choose {names[0]}", "warning")

    def on_train_batch_end(self, *_: Any) -> None:
        """Do nothing: checkpoints are written only at the end of an epoch."""

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        if state := checkpoint["callbacks"].get(self.state_key):
            state["dirpath"] = self.dirpath  # the run may have been moved
