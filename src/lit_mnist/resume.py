"""Stopping and continuing a fit as if it had never stopped."""

import logging
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import Callback
from torch.optim.lr_scheduler import ReduceLROnPlateau

from lit_mnist.checkpoint import CheckpointError
from lit_mnist.errors import quoted

log = logging.getLogger(__name__)


class ExactResume(Callback):
    """Keeps in the checkpoint what Lightning leaves out and a bit-identical continuation needs.

    That is, for each process, the random state that dropout draws from and what the train metrics have yet to count;
    the order of the samples and the place in it are the data loader's. ReduceLROnPlateau steps here, before the
    checkpoint of the epoch is written: Lightning steps it afterwards, and not at all in an epoch that was resumed.
    """

    def __init__(self) -> None:
        self._saved: dict[str, Any] | None = None
        self._plateaus: list[ReduceLROnPlateau] = []

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        progress: Any = trainer.fit_loop.epoch_progress.current
        process: dict[str, Any] = {"random": torch.get_rng_state()}
        if pl_module.device.type == "cuda":
            process["random_cuda"] = torch.cuda.get_rng_state(pl_module.device)
        if uncounted := _uncounted(pl_module):
            process["uncounted"] = [torch.cat(parts).cpu() for parts in zip(*uncounted, strict=True)]
        processes: list[Any] = [process]
        if trainer.world_size > 1:
            processes = [None] * trainer.world_size
            torch.distributed.all_gather_object(processes, process)
        checkpoint["resume"] = {
            "epoch": progress.completed,
            "before_validation": trainer.is_last_batch and progress.processed == progress.completed,
            "processes": processes,
        }

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        self._saved = checkpoint["resume"]
        if self._saved["before_validation"]:
            raise CheckpointError(
                f"the checkpoint was taken after the last step of epoch {self._saved['epoch'] + 1} and before its"
                " validation, where a fit cannot continue; last.ckpt of that epoch is from a moment later"
            )

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for config in trainer.lr_scheduler_configs:
            if isinstance(config.scheduler, ReduceLROnPlateau):
                self._plateaus.append(config.scheduler)
                config.frequency = sys.maxsize  # never, for Lightning
        if self._saved is None:
            return
        processes = self._saved["processes"]
        if len(processes) != trainer.world_size:
            log.warning(f"Continuing on {trainer.world_size} devices what ran on {len(processes)}: not bit-identical")
            return
        process = processes[trainer.global_rank]
        torch.set_rng_state(process["random"])
        if pl_module.device.type == "cuda" and "random_cuda" in process:
            torch.cuda.set_rng_state(process["random_cuda"], pl_module.device)
        if "uncounted" in process:  # where the epoch had begun
            _uncounted(pl_module).append(tuple(part.to(pl_module.device) for part in process["uncounted"]))

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for scheduler in self._plateaus:
            if "val/loss" in trainer.callback_metrics:
                scheduler.step(trainer.callback_metrics["val/loss"])


def _uncounted(module: Any) -> list[Any]:
    """What a Classifier has yet to count of its train metrics."""
    return module.uncounted["train"]  # type: ignore[no-any-return]


class StopOnSignal(Callback):
    """On SIGTERM or Ctrl-C, writes a checkpoint of the moment, says how to continue and exits with 143 or 130.

    The first process decides for all, between two training steps.

    Args:
        checkpoint: Where to write.
    """

    CHECK_EVERY_N_STEPS = 25  # with several processes, which have to agree

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint = checkpoint
        self._signal = 0
        self._handlers: dict[signal.Signals, Any] = {}

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self._signal = number

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._handlers[number] = signal.signal(number, self._remember)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.is_last_batch:
            return  # on_train_epoch_start is next, after the checkpoint of the epoch
        if trainer.world_size > 1 and batch_idx % self.CHECK_EVERY_N_STEPS:
            return
        if self._asked_to_stop(trainer):
            trainer.save_checkpoint(self.checkpoint)
            self._exit(trainer)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._asked_to_stop(trainer):
            self._exit(trainer)

    def _asked_to_stop(self, trainer: L.Trainer) -> bool:
        if trainer.world_size > 1:
            self._signal = trainer.strategy.broadcast(self._signal)
        return self._signal != 0

    def _exit(self, trainer: L.Trainer) -> None:
        if trainer.is_global_zero:
            how = f"continue with: python -m lit_mnist fit --ckpt_path {quoted(self.checkpoint)}"
            print(f"\nstopped by {signal.Signals(self._signal).name}; {how}", file=sys.stderr)
        sys.exit(128 + self._signal)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}
