"""Checks before the first step of a fit: parts that would fail later, or train something else without a word."""

import copy
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, PolynomialLR, ReduceLROnPlateau
from torchmetrics import MetricCollection

from lit_mnist.classifier import Classifier, ModelError
from lit_mnist.data import DataError
from lit_mnist.errors import warn


class FitCheck(Callback):
    """Raises ModelError or DataError for a schedule, network, loss, metric or batch size that does not fit."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        check_schedules(trainer)
        no_bfloat16 = pl_module.device.type == "cpu" and torch.backends.cpu.get_cpu_capability() in ("DEFAULT", "AVX2")
        if no_bfloat16 and trainer.precision.startswith("bf16"):
            warn(f"--trainer.precision {trainer.precision}: this processor has no bfloat16; 32-true is faster")
        if isinstance(pl_module, Classifier):
            loader: Any = trainer.train_dataloader
            images, labels = trainer.strategy.batch_to_device(next(iter(loader)))  # (B, 28, 28) in [0, 1], (B,)
            check_network(pl_module, images[:4], labels[:4])
            check_metrics(pl_module.train_metrics, pl_module.hparams["num_classes"])
            if trainer.num_training_batches == len(loader) and hasattr(trainer.datamodule, "batch_size"):  # type: ignore[attr-defined]
                size = pl_module.trainer.datamodule.hparams["batch_size"]  # type: ignore[attr-defined]
                check_batches(pl_module.network, images[:1], size, len(loader.labels) % size, trainer.world_size)


def check_schedules(trainer: L.Trainer) -> None:
    """A schedule that ends before the fit, or that looks for the worst epoch."""
    for config in trainer.lr_scheduler_configs:
        schedule, name = config.scheduler, type(config.scheduler).__name__
        steps = trainer.estimated_stepping_batches if config.interval == "step" else trainer.max_epochs or -1
        planned = getattr(schedule, "total_steps", None)  # of OneCycleLR, which would fail in the middle of the fit
        if planned is not None and planned < steps:
            raise ModelError(f"lr_scheduler: {name} was planned for {planned} steps, and this fit has {steps:.0f}")
        if isinstance(schedule, CosineAnnealingLR | PolynomialLR):
            end = schedule.T_max if isinstance(schedule, CosineAnnealingLR) else schedule.total_iters
            if end < steps:
                after = "rises again" if isinstance(schedule, CosineAnnealingLR) else "is 0"
                warn(f"--model.lr_scheduler: {name} ends after {end} of {steps} {config.interval}s; then lr {after}")
        if isinstance(schedule, ReduceLROnPlateau) and schedule.mode == "max":
            raise ModelError("lr_scheduler.mode: max would wait for the highest val/loss; choose min")


def check_network(model: Classifier, images: Tensor, labels: Tensor) -> None:
    """A network that does not take the images, or gives what the loss does not want."""
    network, count = model.network, model.hparams["num_classes"]
    training = network.training
    try:
        with torch.no_grad():
            logits = network.eval().forward(images).float()  # (4, 28, 28) -> (4, num_classes)
    except RuntimeError as error:
        name, form = type(network).__name__, ("B", *images.shape[1:])
        raise ModelError(f"network: {name} does not take images {form}: {str(error).splitlines()[0]}") from error
    finally:
        network.train(training)
    if logits.shape != (len(images), count):
        raise ModelError(f"network: it gives {tuple(logits.shape)}, not logits {(len(images), count)}")
    if count > 1 and (logits >= 0).all() and (logits.sum(1) - 1).abs().max() < 0.01:
        raise ModelError("network: it gives probabilities, but the loss wants logits; leave out the softmax")
    try:
        loss = model.loss(logits, labels)
    except (RuntimeError, ValueError) as error:
        raise ModelError(f"loss: {type(model.loss).__name__}: {str(error).splitlines()[0]}") from error
    if loss.numel() != 1:
        raise ModelError(f"loss: {type(model.loss).__name__} gives {tuple(loss.shape)}, not one number")
    if isinstance(model.loss, nn.NLLLoss) and (logits.logsumexp(1)).abs().max() > 0.01:
        raise ModelError("loss: NLLLoss wants log-probabilities, but the network gives logits; take CrossEntropyLoss")


def check_metrics(metrics: MetricCollection, count: int) -> None:
    """A metric that does not take logits and labels, or gives more than one number."""
    noise = torch.randn(2 * count, count, generator=torch.Generator().manual_seed(0))
    for name, metric in metrics.items(keep_base=True):
        probe = metric.clone().cpu()
        try:
            probe.update(noise, torch.arange(2 * count) % count)
            value = probe.compute()
        except Exception as error:  # whatever a metric makes of it
            raise ModelError(f"metrics: {name} does not take logits of {count} classes: {error}") from error
        if not isinstance(value, Tensor) or value.numel() != 1:
            raise ModelError(f"metrics: {name} is not one number; average it over the classes")


def check_batches(network: nn.Module, image: Tensor, size: int, rest: int, devices: int) -> None:
    """A batch that leaves a device one image, which batch norm cannot normalise."""
    if any(1 <= count < 2 * devices for count in (size, rest)):
        try:
            copy.deepcopy(network).train().forward(image)
        except ValueError as error:
            raise DataError(f"batch_size: {size} leaves a batch of one image, and batch norm takes two") from error
