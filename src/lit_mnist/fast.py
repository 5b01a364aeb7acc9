"""The fast path: many training steps in one call of Lightning's loop."""

from typing import Any

import torch
from lightning.pytorch import callbacks as stock
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim import LBFGS

from lit_mnist.classifier import Batch, Classifier, ModelError
from lit_mnist.data import ImageDataModule

ALL = (None, 1.0)  # limit_train_batches and val_check_interval of a whole epoch; the integer 1 is one batch
# Callbacks that are refused; so are others that override a hook of EACH_STEP, except ours and progress bars
EXTRA = (stock.GradientAccumulationScheduler, stock.StochasticWeightAveraging, stock.WeightAveraging)
EACH_STEP = ("on_train_batch_start", "on_train_batch_end", "on_before_optimizer_step", "on_before_zero_grad")


class FastClassifier(Classifier):
    """A Classifier that can take many training steps in one call of Lightning's loop.

    Args:
        steps_per_execution: Training steps in one call of Lightning's loop, at least 1. More than 1 is the fast path:
            bit-identical weights in less time, on one device; parts that need single steps are refused.
        kwargs: Of `Classifier`.
    """

    def __init__(self, steps_per_execution: int = 1, **kwargs: Any) -> None:
        if steps_per_execution < 1:
            raise ValueError(f"steps_per_execution: {steps_per_execution} is not at least 1")
        super().__init__(**kwargs)
        self.steps_per_execution = steps_per_execution

    def setup(self, stage: str) -> None:
        super().setup(stage)
        self.automatic_optimization = self.steps_per_execution == 1  # Lightning checks it before setup
        if stage == "fit" and self.steps_per_execution > 1:
            if refused := self._refused():
                raise ModelError(f"steps_per_execution: {self.steps_per_execution} cannot be used with {refused[0]}")
            data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
            data.batch_size = data.hparams["batch_size"] * self.steps_per_execution  # training_step splits it again

    def _refused(self) -> list[str]:
        """The parts and options of this fit that the fast path does not support."""
        trainer: Any = self.trainer
        data = trainer.datamodule
        requested = {
            "data of another kind": not isinstance(data, ImageDataModule),
            "--model.lr_scheduler": self.lr_scheduler is not None,
            "--data.augment": getattr(data, "augment", None) is not None,
            "several devices": trainer.world_size > 1,
            "--trainer.max_steps": trainer.max_steps != -1,
            "--trainer.max_time": any(isinstance(callback, stock.Timer) for callback in trainer.callbacks),
            "--trainer.limit_train_batches": trainer.limit_train_batches not in ALL
            or isinstance(trainer.limit_train_batches, int),
            "--trainer.overfit_batches": trainer.overfit_batches > 0,
            "--trainer.val_check_interval": trainer.val_check_interval not in ALL,
            "--trainer.accumulate_grad_batches": trainer.accumulate_grad_batches != 1,
            "--trainer.gradient_clip_val": trainer.gradient_clip_val is not None,
            "--trainer.precision 16-mixed": trainer.precision == "16-mixed",
            "--trainer.log_every_n_steps": any(type(callback).__name__ == "StepLoss" for callback in trainer.callbacks),
        }
        for callback in trainer.callbacks:
            callback_class = type(callback)
            is_ours = callback_class.__module__.startswith((f"{__package__}.", "lightning.pytorch.callbacks.progress"))
            each_step = not is_ours and any(is_overridden(hook, callback, stock.Callback) for hook in EACH_STEP)
            requested[callback_class.__name__] = each_step or isinstance(callback, EXTRA)
        return [name for name, is_requested in requested.items() if is_requested]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        created: Any = super().configure_optimizers()
        if self.steps_per_execution > 1 and isinstance(created, LBFGS):  # it needs a closure
            raise ModelError(f"steps_per_execution: {self.steps_per_execution} cannot be used with LBFGS")
        return created  # type: ignore[no-any-return]

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        if self.steps_per_execution == 1:
            return super().training_step(batch, batch_idx)
        size = self.trainer.datamodule.hparams["batch_size"]  # type: ignore[attr-defined]
        optimizer: Any = self.optimizers()
        answers = []
        for images, labels in zip(*(part.split(size) for part in batch), strict=True):
            logits = self(images)  # (B, 28, 28) -> (B, num_classes)
            loss = self.loss(logits, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            answers.append(logits.detach())
        logits = torch.cat(answers)  # (steps_per_execution * B, num_classes)
        self.train_metrics.update(logits, batch[1])
        return {"loss": loss.detach(), "logits": logits}
