"""The LightningModule: a network with its loss, metrics, optimizer and schedule, each of them an argument."""

import inspect
from pathlib import Path
from typing import Any, Literal, cast

import lightning.pytorch as L
import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy
from typing_extensions import Self

from lit_mnist import networks
from lit_mnist.checkpoint import CheckpointError, read_checkpoint
from lit_mnist.data import name_of
from lit_mnist.metrics import CrossEntropy
from lit_mnist.optim import KerasRMSprop

Batch = tuple[Tensor, Tensor]  # images (B, *image_shape) float32 in [0, 1], labels (B,) int64


class ModelError(ValueError):
    """A part does not fit the others; the message begins with the name of the wrong argument of the model."""


class Classifier(L.LightningModule):
    """A network with its loss, metrics, optimizer and schedule; Lightning calls the hooks below.

    Args:
        network: Images (B, *image_shape) in [0, 1] -> logits (B, num_classes), such as MLP, the default, or CNN.
        optimizer: Class of the optimizer, such as Adam; it is called with the parameters.
        lr_scheduler: Class of the schedule, such as StepLR; None keeps the learning rate. If it takes total_steps and
            that is not given, it gets the number of steps of the fit, and the schedule advances after every step.
        lr_scheduler_interval: Whether the schedule advances after every epoch or after every training step.
        loss: Logits (B, num_classes), labels (B,) -> the loss that is minimised; None is CrossEntropyLoss. The metric
            named loss is always the cross-entropy.
        metrics: Further metrics of logits and labels by name: f1 is logged as train/f1, val/f1 and test/f1.
        num_classes: Number of classes.
        weights: A checkpoint of the same architecture, or pretrained; a new fit starts from its weights.
    """

    def __init__(
        self,
        network: networks.MLP | nn.Module | None = None,  # MLP first, so that the name means ours, not torchvision's
        optimizer: OptimizerCallable = KerasRMSprop,
        lr_scheduler: LRSchedulerCallable | None = None,
        lr_scheduler_interval: Literal["epoch", "step"] = "epoch",
        loss: nn.Module | None = None,
        metrics: dict[str, Metric] | None = None,
        num_classes: int = 10,
        weights: str | None = None,
    ) -> None:
        super().__init__()
        network = networks.MLP(num_classes=num_classes) if network is None else network
        inner = dict(network.named_children()).get("_orig_mod")  # a network wrapped by torch.compile
        self.network = network if inner is None else inner
        self.compiled: Any = None if inner is None else network.forward
        self.optimizer, self.loss = optimizer, nn.CrossEntropyLoss() if loss is None else loss
        self.lr_scheduler, self.lr_scheduler_interval, self.weights = lr_scheduler, lr_scheduler_interval, weights
        # Defaults, replaced in `setup` by those of the data and in `restore` by those of a checkpoint
        self.classes = [str(label) for label in range(num_classes)]
        self.image_shape, self.dataset = [28, 28], ""
        self.save_hyperparameters({"num_classes": num_classes, **networks.describe(self.network)}, logger=False)
        if taken := {"loss", "accuracy"}.intersection(metrics or {}):
            raise ValueError(f"metrics: {min(taken)} is measured already; choose another name")
        accuracy = MulticlassAccuracy(num_classes, average="micro", validate_args=False)
        measured: Any = {"loss": CrossEntropy(), "accuracy": accuracy, **(metrics or {})}
        self.train_metrics = MetricCollection(measured, prefix="train/", compute_groups=False)
        self.val_metrics = self.train_metrics.clone(prefix="val/")
        self.test_metrics = self.train_metrics.clone(prefix="test/")

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]  # Lightning's method imports the classes named in a checkpoint
        cls, checkpoint_path: str | Path, map_location: Any = None, *, strict: bool | None = None, **options: Any
    ) -> Self:
        """Load a classifier in evaluation mode; nothing named in the checkpoint is imported. Raises CheckpointError.

        Args:
            checkpoint_path: A checkpoint of a fit.
            map_location: Device of the classifier; None is the CPU.
            strict: Whether missing and unexpected weights are errors; None is True.
            options: Arguments of the class, such as a `network` that is not in `lit_mnist.networks`.
        """
        saved = read_checkpoint(checkpoint_path)
        hparams, accepted = saved["hyper_parameters"], inspect.signature(cls).parameters.values()
        arguments = {"num_classes": hparams.get("num_classes", 10), "network": networks.build(hparams)}
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepted):  # a subclass may create both
            arguments = {p.name: arguments[p.name] for p in accepted if p.name in arguments}
        ignored = ("hparams_file", "weights_only")  # arguments of Lightning's method
        arguments |= {name: value for name, value in options.items() if value is not None and name not in ignored}
        if arguments.get("network", cls) is None:
            name = saved.get("network")
            why = f"its network, {name}, is not one of lit_mnist.networks; name it with --network {name}"
            raise CheckpointError(f"{checkpoint_path}: {why}, in Python with network=...")
        classifier = cls(**arguments)
        classifier.restore(saved, checkpoint_path, strict is not False)
        return classifier.eval().to(map_location or "cpu")

    def restore(self, saved: dict[str, Any], path: str | Path, strict: bool = True) -> None:
        """Restore the weights, the classes, the image shape and the name of the data set."""
        self.load_network(saved, path, strict)
        self.classes = saved["classes"] or self.classes
        self.image_shape, self.dataset = saved["image_shape"], saved["dataset"]

    def load_network(self, saved: dict[str, Any], path: str | Path, strict: bool = True) -> None:
        """Load the network's weights from the result of `read_checkpoint`."""
        weights = {name[8:]: weight for name, weight in saved["state_dict"].items() if name.startswith("network.")}
        try:
            self.network.load_state_dict(weights, strict=strict)
        except RuntimeError as error:
            other = saved["hyper_parameters"].get("network", saved.get("network"))
            raise CheckpointError(f"{path}: its weights are of {other}, not of the network that is given") from error

    def setup(self, stage: str) -> None:
        """Called by Lightning before a fit, validation, test or prediction, on every device."""
        data = getattr(self.trainer, "datamodule", None)
        self.classes = getattr(data, "classes", self.classes)
        self.image_shape = list(getattr(data, "image_shape", self.image_shape))
        self.dataset = name_of(data) or self.dataset

    def on_fit_start(self) -> None:
        """Called by Lightning once before training; in a resumed fit, after the checkpoint is loaded."""
        if not self.training:  # as `load_from_checkpoint` leaves it; Lightning would train in evaluation mode
            self.train()
        if self.weights and not self.trainer.ckpt_path:  # a resumed fit has its own weights
            self.load_network(read_checkpoint(self.weights), self.weights)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Called by Lightning for every checkpoint; adds classes, image shape, data set and the network's class."""
        checkpoint |= {"classes": self.classes, "image_shape": self.image_shape, "dataset": self.dataset}
        checkpoint["network"] = f"{type(self.network).__module__}.{type(self.network).__qualname__}"

    def forward(self, images: Tensor) -> Tensor:
        """Logits of a batch: (B, *image_shape) float32 in [0, 1] -> (B, num_classes) float32."""
        return cast(Tensor, (self.compiled or self.network)(images))

    def _step(self, batch: Batch, metrics: MetricCollection) -> dict[str, Tensor]:
        """The mean loss of a batch and its logits (B, num_classes); updates the metrics of the stage."""
        images, labels = batch
        logits = self(images)  # (B, *image_shape) -> (B, num_classes)
        if len(labels):  # a device may have no share of the last batch
            metrics.update(logits.detach(), labels)
        return {"loss": self.loss(logits, labels), "logits": logits.detach()}

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Called by Lightning for every training batch; the returned loss is backpropagated."""
        outputs = self._step(batch, self.train_metrics)
        if self.trainer.world_size > 1 and self.trainer.is_last_batch:
            outputs["loss"] = self._weighted(outputs["loss"], len(batch[1]))
        return outputs

    def _weighted(self, loss: Tensor, count: int) -> Tensor:
        """Weight the loss of a device by the size of its share; the shares of the last batch may be unequal."""
        mean = self.trainer.strategy.reduce(torch.tensor(float(count), device=self.device), reduce_op="mean")
        return loss.nan_to_num() * count / mean  # an empty share has a loss of NaN

    def on_train_epoch_end(self) -> None:
        """Called by Lightning after the last batch and the validation of an epoch."""
        self.log_dict(self.train_metrics)

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Called by Lightning for every validation batch, in evaluation mode and without gradients."""
        return self._step(batch, self.val_metrics)

    def on_validation_epoch_end(self) -> None:
        """Called by Lightning after the last validation batch."""
        self.log_dict(self.val_metrics, prog_bar=True)

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Called by Lightning for every test batch, in evaluation mode and without gradients."""
        return self._step(batch, self.test_metrics)

    def on_test_epoch_end(self) -> None:
        """Called by Lightning after the last test batch."""
        self.log_dict(self.test_metrics)

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Called by `Trainer.predict` for every batch: probabilities (B, num_classes)."""
        return self.forward(batch[0]).softmax(dim=1)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Called by Lightning once before training."""
        optimizer = self.optimizer(self.parameters())
        if self.lr_scheduler is None:
            return optimizer
        scheduler, interval = self.lr_scheduler, self.lr_scheduler_interval
        arguments = {name: parameter.default for name, parameter in inspect.signature(scheduler).parameters.items()}
        arguments |= getattr(scheduler, "keywords", {})  # of a functools.partial
        options = {}
        if arguments.get("total_steps", 0) is None:  # accepted, but not given
            steps = self.trainer.estimated_stepping_batches
            if steps == float("inf"):
                raise ModelError("lr_scheduler: it needs total_steps, --trainer.max_epochs or --trainer.max_steps")
            options["total_steps"], interval = int(steps), "step"
        # only ReduceLROnPlateau reads the monitor
        schedule: Any = {"scheduler": scheduler(optimizer, **options), "interval": interval, "monitor": "val/loss"}
        return {"optimizer": optimizer, "lr_scheduler": schedule}
