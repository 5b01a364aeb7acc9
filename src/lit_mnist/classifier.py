"""The LightningModule: a network with its loss, metrics, optimizer and schedule, each of them an argument."""

import inspect
import pickle
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as L
import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from lit_mnist import networks
from lit_mnist.metrics import CrossEntropy
from lit_mnist.networks import MLP
from lit_mnist.optim import KerasRMSprop

Batch = tuple[Tensor, Tensor]  # images (B, 28, 28) float32 in [0, 1], labels (B,) int64


class CheckpointError(Exception):
    """A checkpoint cannot be used; the message is one line that names it and says why."""


class Classifier(L.LightningModule):
    """A digit classifier that Lightning can train, validate, test and predict with.

    Args:
        network: Images (B, 28, 28) float32 in [0, 1] -> logits (B, num_classes), such as MLP or CNN. None is the
            tutorial's MLP.
        optimizer: Called with the parameters, such as Adam.
        lr_scheduler: Called with the optimizer, such as StepLR. Where it has total_steps that nobody gave, they are
            those of the fit, and it steps after every one. None keeps the learning rate constant.
        lr_scheduler_interval: When the schedule steps: after every epoch or after every training step.
        loss: Logits (B, num_classes), labels (B,) -> the loss that trains, such as CrossEntropyLoss, which None is.
            What is measured as loss is the cross-entropy, whatever trains.
        metrics: Metrics of logits and labels beside loss and accuracy, by name: f1 is logged as train/f1, val/f1
            and test/f1.
        num_classes: Number of classes.
        weights: A checkpoint whose network, of the same form, is where a new fit starts.

    Raises:
        ValueError: An argument lies outside its range; the message names it.
    """

    def __init__(
        self,
        network: MLP | nn.Module | None = None,  # MLP first, or its short name would mean torchvision's, too
        optimizer: OptimizerCallable = KerasRMSprop,
        lr_scheduler: LRSchedulerCallable | None = None,
        lr_scheduler_interval: Literal["epoch", "step"] = "epoch",
        loss: nn.Module | None = None,
        metrics: dict[str, Metric] | None = None,
        num_classes: int = 10,
        weights: str | None = None,
    ) -> None:
        super().__init__()
        self.network = MLP(num_classes=num_classes) if network is None else network
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.lr_scheduler_interval = lr_scheduler_interval
        self.loss = nn.CrossEntropyLoss() if loss is None else loss
        self.weights = weights
        self.classes = [str(label) for label in range(num_classes)]  # names, which the data or a checkpoint may know
        own = describe(self.network)  # plain data, which a checkpoint may hold
        self.save_hyperparameters({"num_classes": num_classes, **({"network": own} if own else {})}, logger=False)
        accuracy = MulticlassAccuracy(num_classes, average="micro", validate_args=False)
        measured = MetricCollection(
            {"loss": CrossEntropy(), "accuracy": accuracy, **(metrics or {})}, compute_groups=False
        )
        self.train_metrics = measured.clone(prefix="train/")
        self.val_metrics = measured.clone(prefix="val/")
        self.test_metrics = measured.clone(prefix="test/")

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]  # Lightning's own would import what a checkpoint names
        cls, checkpoint_path: str | Path, network: nn.Module | None = None, **options: Any
    ) -> "Classifier":
        """A classifier in evaluation mode, on the CPU, with the network and weights of a checkpoint.

        Args:
            checkpoint_path: The file, which is read as data: nothing that it names is imported.
            network: A network of its form, which has to be given unless it is one of `lit_mnist.networks`.
            options: Further arguments of the classifier.

        Raises:
            CheckpointError: There is no such file, or it cannot be used.
        """
        saved = read_checkpoint(checkpoint_path)
        options = {"num_classes": saved["hyper_parameters"]["num_classes"], **options}
        classifier = cls(network or build(saved, checkpoint_path), **options)
        classifier.load_network(saved, checkpoint_path)
        classifier.classes = saved.get("classes", classifier.classes)
        return classifier.eval()

    def load_network(self, saved: dict[str, Any], path: str | Path) -> None:
        """Give the network the weights of a checkpoint, as `read_checkpoint` has read it."""
        try:
            self.network.load_state_dict(saved["weights"])
        except RuntimeError as error:
            of = saved["hyper_parameters"].get("network", saved.get("network"))
            raise CheckpointError(f"{path}: its weights are of {of}, not of the network that is given") from error

    def setup(self, stage: str) -> None:
        self.classes = getattr(getattr(self.trainer, "datamodule", None), "classes", self.classes)

    def on_fit_start(self) -> None:
        if self.weights and not self.trainer.ckpt_path:  # which is given where a fit continues
            self.load_network(read_checkpoint(self.weights), self.weights)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        kind = type(self.network)
        checkpoint |= {"classes": self.classes, "network": f"{kind.__module__}.{kind.__qualname__}"}

    def forward(self, images: Tensor) -> Tensor:
        """Logits of a batch: (B, 28, 28) float32 in [0, 1] -> (B, num_classes) float32."""
        return self.network(images)  # type: ignore[no-any-return]

    def _step(self, batch: Batch, metrics: MetricCollection) -> dict[str, Tensor]:
        """The mean loss of a batch and its logits (B, num_classes), which the metrics of the stage have seen."""
        images, labels = batch
        logits = self(images)  # (B, 28, 28) -> (B, num_classes)
        if len(labels):  # a device may have no share of the last batch
            metrics.update(logits.detach(), labels)
        return {"loss": self.loss(logits, labels), "logits": logits.detach()}

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        answers = self._step(batch, self.train_metrics)
        if self.trainer.world_size > 1 and self.trainer.is_last_batch:  # whose shares may differ in size, and be empty
            share = torch.tensor(float(len(batch[1])), device=self.device)
            mean = self.trainer.strategy.reduce(share.clone(), reduce_op="mean")
            answers["loss"] = answers["loss"].nan_to_num() * share / mean
        return answers

    def on_train_epoch_end(self) -> None:
        self.log_dict(self.train_metrics)

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        return self._step(batch, self.val_metrics)

    def on_validation_epoch_end(self) -> None:
        self.log_dict(self.val_metrics, prog_bar=True)

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        return self._step(batch, self.test_metrics)

    def on_test_epoch_end(self) -> None:
        self.log_dict(self.test_metrics)

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Probabilities of a batch: (B, 28, 28) float32 -> (B, num_classes) float32."""
        return self(batch[0]).softmax(dim=1)  # type: ignore[no-any-return]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = self.optimizer(self.parameters())
        if self.lr_scheduler is None:
            return optimizer
        options, interval = {}, self.lr_scheduler_interval
        arguments = inspect.signature(self.lr_scheduler).parameters  # of a class or partial; the parser's has keywords
        defaults = {name: argument.default for name, argument in arguments.items()}
        if (defaults | getattr(self.lr_scheduler, "keywords", {})).get("total_steps", 0) is None:
            options["total_steps"], interval = int(self.trainer.estimated_stepping_batches), "step"
        scheduler = self.lr_scheduler(optimizer, **options)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": interval}}


def describe(network: nn.Module) -> dict[str, Any] | None:
    """The name and the arguments of one of our networks, as the command line writes them; None for any other."""
    kind = type(network)
    if kind is not getattr(networks, kind.__name__, None):
        return None
    arguments = {name: getattr(network, name) for name in inspect.signature(kind).parameters}
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in arguments.items()}
    return {"class_path": f"{networks.__name__}.{kind.__name__}", "init_args": plain}


def build(saved: dict[str, Any], path: str | Path) -> nn.Module:
    """The network that a checkpoint describes, if it is one of ours."""
    own = saved["hyper_parameters"].get("network", {})
    name = own.get("class_path", "").removeprefix(f"{networks.__name__}.")
    if name not in networks.__all__:
        other = saved.get("network", "unknown")
        raise CheckpointError(
            f"{path}: its network, {other}, is not one of lit_mnist.networks; give it by --network {other}, or in Python by"
            " network=..."
        )
    return getattr(networks, name)(**own["init_args"])  # type: ignore[no-any-return]


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """A checkpoint, read as data: what Lightning saves, and the ``weights`` of the network by their names."""
    try:
        saved = torch.load(Path(path).expanduser(), map_location="cpu", weights_only=True)
        weights = {name.removeprefix("network."): w for name, w in saved["state_dict"].items() if name[:8] == "network."}
        return {**saved, "weights": weights, "hyper_parameters": {"num_classes": 10, **saved["hyper_parameters"]}}
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: there is no such checkpoint") from error
    except (OSError, RuntimeError, EOFError, KeyError, TypeError, AttributeError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path}: is no checkpoint of a fit, or damaged: {' '.join(str(error).split())}") from error
