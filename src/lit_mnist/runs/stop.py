"""Stopping a fit inside an epoch, so that it can go on there."""

import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as L
from lightning.pytorch.callbacks import Checkpoint

from lit_mnist.errors import quoted
from lit_mnist.runs.checkpoints import validation_follows


class StopInsideEpoch(Checkpoint):
    """Writes a checkpoint of the moment where a fit stops inside an epoch, whatever stops it.

    On SIGTERM or Ctrl-C it then says how to continue and exits with 143 or 130; the first process decides for all,
    between two training steps. It is a Checkpoint so that it comes after the callbacks that ask to stop.

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
        look = trainer.world_size == 1 or batch_idx % self.CHECK_EVERY_N_STEPS == 0
        self._stop(trainer, look, after_validation=False)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._stop(trainer, True, after_validation=True)

    def _stop(self, trainer: L.Trainer, look: bool, after_validation: bool) -> None:
        """Write the checkpoint if the fit stops here and nothing that belongs to the last step is still to come."""
        if trainer.is_last_batch:
            return  # the next moment is after the checkpoint of the epoch
        asked = look and self._asked_to_stop(trainer)
        ends = 0 <= trainer.max_steps <= trainer.global_step or (
            trainer.should_stop and trainer.fit_loop._can_stop_early
        )
        if (asked or ends) and validation_follows(trainer) == after_validation:
            trainer.save_checkpoint(self.checkpoint)
            if asked:
                self._exit(trainer)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._asked_to_stop(trainer):
            self._exit(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._asked_to_stop(trainer):
            self._exit(trainer)
        self._give_back()

    def _asked_to_stop(self, trainer: L.Trainer) -> bool:
        if trainer.world_size > 1:
            self._signal = trainer.strategy.broadcast(self._signal)
        return self._signal != 0

    def _exit(self, trainer: L.Trainer) -> None:
        if trainer.is_global_zero:
            how = f"continue with: python -m lit_mnist fit --ckpt_path {quoted(self.checkpoint)}"
            print(f"\nstopped by {signal.Signals(self._signal).name}; {how}", file=sys.stderr)
        sys.exit(128 + self._signal)

    def _give_back(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._give_back()
