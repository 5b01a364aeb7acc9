"""Stopping and continuing a fit as if it had never stopped."""

import hashlib
import json
import logging
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint, Timer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from lit_mnist.callbacks import History, validation_follows
from lit_mnist.checkpoint import CheckpointError
from lit_mnist.errors import quoted

log = logging.getLogger(__name__)

NO_WAY_ON = {  # moments of a checkpoint where something of the epoch is missing and does not come again
    "last": "after the last step of epoch {} and before its validation",
    "step": "after a step of epoch {} and before the validation that follows it",
    "end": "at the end of epoch {}, which was cut short",
}


class ExactResume(Callback):
    """Keeps in the checkpoint what Lightning leaves out and a bit-identical continuation needs.

    That is, for each process, the random state that dropout draws from, what the train metrics of the epoch count and
    the gradients of an accumulation that goes on; for all, the metrics that callbacks look at and a wish to stop. The
    order of the samples and the place in it are the data loader's. ReduceLROnPlateau steps here, before the checkpoint
    of the epoch is written: Lightning steps it afterwards, and not at all in an epoch that was resumed. It takes the
    val loss of the epoch that ends, and waits where that has none.

    Args:
        history: Knows the metrics of the epoch; it has to stand before this callback in the Trainer's list.
        options: What the result depends on and the fit was started with, as plain data.
    """

    def __init__(self, history: History, options: dict[str, Any] | None = None) -> None:
        self.history = history
        self.options = options or {}
        self._saved: dict[str, Any] | None = None
        self._plateaus: list[ReduceLROnPlateau] = []

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        process: dict[str, Any] = {"device": pl_module.device.type, "random": torch.get_rng_state()}
        if pl_module.device.type == "cuda":
            process["random_cuda"] = torch.cuda.get_rng_state(pl_module.device)
        if (uncounted := _uncounted(pl_module)) and not trainer.is_last_batch:  # the epoch is to go on
            process["uncounted"] = [torch.cat(parts).cpu() for parts in zip(*uncounted, strict=True)]
        if trainer.fit_loop._should_accumulate():
            process["gradients"] = [parameter.grad for parameter in pl_module.parameters()]
        processes: list[Any] = [process]
        if trainer.world_size > 1:
            processes = [None] * trainer.world_size
            torch.distributed.all_gather_object(processes, process)
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        times = [callback.time_remaining() for callback in callbacks if isinstance(callback, Timer)]
        checkpoint["resume"] = {
            "options": self.options,
            "epoch": trainer.fit_loop.epoch_progress.current.ready,
            "no_way_on": _no_way_on(trainer),
            "should_stop": trainer.should_stop and not any(left is not None and left <= 0 for left in times),
            "metrics": {name: value.cpu() for name, value in trainer.callback_metrics.items()},
            "processes": processes,
        }
        checkpoint["resume"]["outlines"] = _outlines(checkpoint)

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        self._saved = checkpoint["resume"]
        for name, outline in _outlines(checkpoint).items():
            if outline != self._saved["outlines"][name]:
                raise CheckpointError(f"the {name} of the checkpoint are not of the form in which its fit left them")
        if moment := self._saved["no_way_on"]:
            raise CheckpointError(
                f"the checkpoint was taken {NO_WAY_ON[moment].format(self._saved['epoch'])}, where a fit cannot"
                " continue; the last.ckpt of its run can"
            )
        trainer.should_stop = self._saved["should_stop"]
        self._max_steps = trainer.max_steps
        if checkpoint["global_step"] < trainer.max_steps:
            trainer.fit_loop.epoch_loop.max_steps = -1  # or Lightning takes a whole epoch for one to be finished

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for config in trainer.lr_scheduler_configs:
            if isinstance(config.scheduler, ReduceLROnPlateau):
                self._plateaus.append(config.scheduler)
                config.frequency = sys.maxsize  # never, for Lightning
        if self._saved is None:
            return
        trainer.fit_loop.epoch_loop.max_steps = self._max_steps
        trainer.callback_metrics.update(self._saved["metrics"])
        processes, device = self._saved["processes"], pl_module.device
        before, now = [(len(processes), processes[0]["device"]), (trainer.world_size, device.type)]
        if before != now:
            log.warning("Continuing on {} x {} what ran on {} x {}: not bit-identical".format(*now, *before))
            return
        process = processes[trainer.global_rank]
        torch.set_rng_state(process["random"])
        if device.type == "cuda":
            torch.cuda.set_rng_state(process["random_cuda"], device)
        if "uncounted" in process:  # where the epoch had begun
            _uncounted(pl_module).append(tuple(part.to(device) for part in process["uncounted"]))
        for parameter, gradient in zip(pl_module.parameters(), process.get("gradients", ()), strict=False):
            parameter.grad = None if gradient is None else gradient.to(device)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if "val/loss" in self.history.metrics and trainer.is_last_batch:  # not in an epoch that ends early
            for scheduler in self._plateaus:
                scheduler.step(self.history.metrics["val/loss"])


def _outlines(checkpoint: dict[str, Any]) -> dict[str, str]:
    """The form of each state that a fit continues with."""
    states = {name: checkpoint[name] for name in ("loops", "callbacks", "optimizer_states", "lr_schedulers")}
    states["resume"] = {name: value for name, value in checkpoint["resume"].items() if name != "outlines"}
    return {name: hashlib.sha256(json.dumps(_outline(state)).encode()).hexdigest() for name, state in states.items()}


def _outline(state: Any) -> Any:
    """Names, types and shapes in a state, without its values."""
    if isinstance(state, dict):
        return {str(name): _outline(value) for name, value in state.items()}
    if isinstance(state, list | tuple):
        return [_outline(value) for value in state]
    return list(state.shape) if isinstance(state, torch.Tensor) else type(state).__name__


def _uncounted(module: Any) -> list[Any]:
    """What the train metrics of the epoch are counted from."""
    return module.uncounted  # type: ignore[no-any-return]


def _no_way_on(trainer: L.Trainer) -> str | None:
    """Which of the moments that a fit cannot continue from this is."""
    epoch, batch = trainer.fit_loop.epoch_progress.current, trainer.fit_loop.epoch_loop.batch_progress.current
    if epoch.ready == epoch.processed:  # type: ignore[attr-defined]
        return None if trainer.is_last_batch or not epoch.ready else "end"
    if trainer.is_last_batch:
        return "last"
    return "step" if batch.completed < batch.ready and validation_follows(trainer) else None


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
