"""Continuing a fit as if it had never stopped."""

import hashlib
import json
import logging
import sys
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import Callback, Timer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from lit_mnist.checkpoint import CheckpointError
from lit_mnist.runs.checkpoints import validation_follows
from lit_mnist.runs.history import History

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
