"""Checks before the first step of a fit: parts that would fail later, or silently train something else."""

import copy
from collections.abc import Callable
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, ReduceLROnPlateau

from lit_mnist.classifier import Classifier, ModelError
from lit_mnist.data import DataError
from lit_mnist.data.batches import BatchLoader
from lit_mnist.errors import print_error


class FitCheck(Callback):
    """Raises ModelError or DataError for a schedule, network, loss, metric or batch size that does not fit."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        check_schedules(trainer)
        slow = pl_module.device.type == "cpu" and torch.backends.cpu.get_cpu_capability() in ("DEFAULT", "AVX2")
        if slow and trainer.precision.startswith("bf16"):
            why = "this processor may have no bfloat16; 32-true may be faster"
            print_error(f"--trainer.precision {trainer.precision}: {why}", "warning")
        loader: Any = trainer.train_dataloader
        if isinstance(pl_module, Classifier) and isinstance(loader, BatchLoader):  # another may give its batches once
            images, labels = trainer.strategy.batch_to_device(next(iter(loader)))  # (B, *image_shape) in [0, 1], (B,)
            if len(labels):  # a device may have no share of a small data set
                with trainer.precision_plugin.train_step_context(), torch.no_grad():
                    check_model(pl_module, images, labels)
            if trainer.num_training_batches == len(loader) and trainer.max_steps == -1:
                size = loader.batch_size // getattr(pl_module, "steps_per_execution", 1)
                check_batches(pl_module.network, images[:1], size, len(loader.labels) % size, trainer.world_size)


def check_schedules(trainer: L.Trainer) -> None:
    """Refuse a schedule that ends before the fit or prefers the worst epoch."""
    for config in trainer.lr_scheduler_configs:
        schedule, name = config.scheduler, type(config.scheduler).__name__
        steps = trainer.estimated_stepping_batches if config.interval == "step" else trainer.max_epochs or -1
        planned = getattr(schedule, "total_steps", None)  # of OneCycleLR, which would fail in the middle of the fit
        if planned is not None and planned < steps:
            end = f"{planned} {config.interval}s"
            raise ModelError(f"lr_scheduler: {name} was planned for {end}, and this fit has {steps:.0f}")
        if zero := [period for period in ("step_size", "T_max", "total_iters") if getattr(schedule, period, 1) == 0]:
            raise ModelError(f"lr_scheduler.{zero[0]}: 0 is not at least 1")
        if isinstance(schedule, CosineAnnealingLR) and schedule.T_max < steps:
            when = f"after {schedule.T_max} of {steps} {config.interval}s"
            print_error(f"--model.lr_scheduler.T_max: lr rises again {when}; take {steps}", "warning")
        if isinstance(schedule, ReduceLROnPlateau) and schedule.mode == "max":
            raise ModelError("lr_scheduler.mode: max takes a higher val/loss for a better one; choose min")


def check_model(model: Classifier, images: Tensor, labels: Tensor) -> None:
    """Refuse a network that does not take the images, or whose output does not suit loss or metrics."""
    network, loss, count = model.network, type(model.loss).__name__, model.hparams["num_classes"]
    modes = [(module, module.training) for module in network.modules()]
    name = f"network: {type(network).__name__} does not take images (B, {', '.join(map(str, images.shape[1:]))})"
    network.eval()
    logits = tried(name, model, images)  # (B, *image_shape) -> (B, num_classes)
    for module, mode in modes:
        module.training = mode
    if logits.shape != (len(images), count):
        raise ModelError(f"network: it gives {tuple(logits.shape)}, not logits {(len(images), count)}")
    differ = (logits != logits[0]).any()  # constant ones may add up to 1 by chance
    if count > 1 and differ and (logits >= 0).all() and (logits.sum(1) - 1).abs().max() < 0.01:
        raise ModelError("network: it gives probabilities, not logits; leave out the softmax")
    value = tried(f"loss: {loss}", model.loss, logits, labels)
    if value.numel() != 1:
        raise ModelError(f"loss: {loss} gives {tuple(value.shape)}, not one number")
    if isinstance(model.loss, nn.NLLLoss) and logits.logsumexp(1).abs().max() > 0.01:
        raise ModelError("loss: NLLLoss needs log-probabilities, but the network gives logits; take CrossEntropyLoss")
    noise = torch.randn(2 * count, count, generator=torch.Generator().manual_seed(0))  # of every class
    for name, metric in model.train_metrics.items(keep_base=True):
        value = tried(f"metrics: {name}", metric.clone().cpu(), noise, torch.arange(2 * count) % count)
        if not isinstance(value, Tensor) or value.numel() != 1:
            raise ModelError(f"metrics: {name} does not give a tensor of one number; average it over the classes")


def tried(name: str, part: Callable[..., Any], *arguments: Tensor) -> Any:
    """What a part gives, or ModelError."""
    try:
        return part(*arguments)
    except (RuntimeError, ValueError) as error:
        raise ModelError(f"{name}: {str(error).splitlines()[0]}") from error


def check_batches(network: nn.Module, image: Tensor, size: int, rest: int, devices: int) -> None:
    """Refuse a batch that leaves a device one image, which batch norm cannot normalise."""
    if any(1 <= count < 2 * devices for count in (size, rest)):
        try:
            copy.deepcopy(network)(image)
        except ValueError as error:
            why = "leaves a batch of one image, but batch norm needs two or more; choose another"
            raise DataError(f"batch_size: {size} {why}") from error
