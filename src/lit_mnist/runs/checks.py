"""Checks before the first training step, for parts that would fail later or silently train wrongly."""

import copy
from collections.abc import Callable
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch import callbacks as stock
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, ReduceLROnPlateau
from torchmetrics import Metric

from lit_mnist.classifier import Classifier, ModelError
from lit_mnist.data import DataError
from lit_mnist.data.batches import BatchLoader
from lit_mnist.errors import fail, nearest, print_error
from lit_mnist.launch import has_bfloat16


class FitCheck(Callback):
    """Raises ModelError or DataError for a schedule, network, loss, metric or batch size that does not fit."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        check_schedules(trainer)
        if pl_module.device.type == "cpu" and trainer.precision.startswith("bf16") and not has_bfloat16():
            why = "this processor has no bfloat16, so float32 is faster; use --float32_precision medium instead"
            print_error(f"--trainer.precision {trainer.precision}: {why}", "warning")
        loader: Any = trainer.train_dataloader
        if isinstance(pl_module, Classifier) and isinstance(loader, BatchLoader):  # another may yield batches only once
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
        planned = getattr(schedule, "total_steps", None)  # OneCycleLR would fail in the middle of the fit
        if planned is not None and planned < steps:
            end = f"{planned} {config.interval}s"
            raise ModelError(f"lr_scheduler: {name} was planned for {end}, but this fit has {steps:.0f}")
        if zero := [period for period in ("step_size", "T_max", "total_iters") if getattr(schedule, period, 1) == 0]:
            raise ModelError(f"lr_scheduler.{zero[0]}: 0 is not at least 1")
        if isinstance(schedule, CosineAnnealingLR) and schedule.T_max < steps:
            when = f"after {schedule.T_max} of {steps} {config.interval}s"
            print_error(f"--model.lr_scheduler.T_max: lr rises again {when}; set it to {steps}", "warning")
        if isinstance(schedule, ReduceLROnPlateau) and schedule.mode == "max":
            raise ModelError("lr_scheduler.mode: max treats a higher val/loss as better; choose min")


def check_model(model: Classifier, images: Tensor, labels: Tensor) -> None:
    """Refuse a network that does not accept the images, or whose output does not fit the loss or the metrics."""
    network, loss, count = model.network, type(model.loss).__name__, model.hparams["num_classes"]
    modes = [(module, module.training) for module in network.modules()]
    name = f"network: {type(network).__name__} does not accept images (B, {', '.join(map(str, images.shape[1:]))})"
    network.eval()
    logits = tried(name, model, images)  # (B, *image_shape) -> (B, num_classes)
    for module, mode in modes:
        module.training = mode
    if logits.shape != (len(images), count):
        raise ModelError(f"network: it returns {tuple(logits.shape)}, not logits {(len(images), count)}")
    differ = (logits != logits[0]).any()  # constant logits may add up to 1 by chance
    if count > 1 and differ and (logits >= 0).all() and (logits.sum(1) - 1).abs().max() < 0.01:
        raise ModelError("network: it returns probabilities, not logits; remove the softmax")
    value = tried(f"loss: {loss}", model.loss, logits, labels)
    if value.numel() != 1:
        raise ModelError(f"loss: {loss} returns {tuple(value.shape)}, not one number")
    if isinstance(model.loss, nn.NLLLoss) and logits.logsumexp(1).abs().max() > 0.01:
        raise ModelError("loss: NLLLoss needs log-probabilities, but the network returns logits; use CrossEntropyLoss")
    noise = torch.randn(2 * count, count, generator=torch.Generator().manual_seed(0))  # of every class
    for name, metric in model.train_metrics.items(keep_base=True):
        value = tried(f"metrics: {name}", metric.clone().cpu(), noise, torch.arange(2 * count) % count)
        if not isinstance(value, Tensor) or value.numel() != 1:
            raise ModelError(f"metrics: {name} does not return a tensor of one number; average it over the classes")


def tried(name: str, part: Callable[..., Any], *arguments: Tensor) -> Any:
    """Call a part; its error becomes a ModelError."""
    try:
        return part(*arguments)
    except (RuntimeError, ValueError) as error:
        raise ModelError(f"{name}: {str(error).splitlines()[0]}") from error


def check_batches(network: nn.Module, image: Tensor, size: int, rest: int, devices: int) -> None:
    """Refuse a batch that leaves one image for a device if the network's batch norm cannot normalise it."""
    if any(1 <= count < 2 * devices for count in (size, rest)):
        try:
            copy.deepcopy(network)(image)
        except ValueError as error:
            why = "leaves a batch of one image, but batch norm needs two or more; choose another"
            raise DataError(f"batch_size: {size} {why}") from error


def metrics_by_name(model: L.LightningModule) -> dict[str, Metric]:
    """The metrics of training and validation by name, such as val/loss; {} unless the model is a Classifier."""
    if not isinstance(model, Classifier):
        return {}
    return {str(name): metric for part in (model.train_metrics, model.val_metrics) for name, metric in part.items()}


def mode_of(metric: str, model: L.LightningModule) -> str:
    """Whether the lowest value of a metric is the best, min, or the highest, max."""
    metrics = metrics_by_name(model)
    higher = getattr(metrics.get(metric), "higher_is_better", None)
    if higher is None and (metrics or not metric.endswith("loss")):
        fail(f"--best: {metric} is not a metric that can select best.ckpt{nearest(metric, metrics)}")
    return "max" if higher else "min"


def check_callbacks(trainer: L.Trainer, model: L.LightningModule) -> None:
    """Refuse callbacks that would fail after an epoch, or do nothing."""
    metrics = metrics_by_name(model)
    measured = [*metrics, "epoch", "step"]
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        name, monitor = type(callback).__name__, getattr(callback, "monitor", None)
        is_ours = type(model).__module__.partition(".")[0] == __name__.partition(".")[0]  # other models may log more
        if monitor and monitor not in measured and is_ours:
            fail(f"--trainer.callbacks: {name} monitors {monitor}, which is not measured{nearest(monitor, measured)}")
        higher = getattr(metrics.get(str(monitor)), "higher_is_better", None)
        wanted = {True: "max", False: "min", None: getattr(callback, "mode", None)}[higher]
        if wanted != getattr(callback, "mode", wanted):
            fail(f"--trainer.callbacks: {name} has mode {callback.mode}, but {monitor} needs {wanted}")
        if isinstance(callback, stock.BackboneFinetuning) and not hasattr(model, "backbone"):
            fail(f"--trainer.callbacks: {name} needs a model with a backbone")
        if isinstance(callback, stock.StochasticWeightAveraging):
            fail(f"--trainer.callbacks: no checkpoint would contain the weights of {name}; use EMAWeightAveraging")
        if isinstance(callback, stock.BatchSizeFinder | stock.LearningRateFinder):
            fail(f"--trainer.callbacks: config.yaml would lack the value that {name} sets; give the value itself")
