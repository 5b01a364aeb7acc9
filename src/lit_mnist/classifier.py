"""The training system around the network: loss, metrics and optimizer."""

import inspect
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, cast

import lightning.pytorch as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import MulticlassAccuracy

from lit_mnist import __version__
from lit_mnist.checkpoint import CheckpointError, describe, make, read_checkpoint
from lit_mnist.networks.mlp import MLP

if TYPE_CHECKING:
    from typing_extensions import Self

# Keras' RMSprop, where torch.optim's defaults are alpha 0.99 and eps 1e-8. Both add eps outside the square root.
RECIPE: dict[str, dict[str, Any]] = {"RMSprop": {"alpha": 0.9, "eps": 1e-7}}

Batch = tuple[Tensor, Tensor]  # images (B, 28, 28) float32 in [0, 1], labels (B,) int64
Option = bool | int | float | str | None
Answers = tuple[Tensor, Tensor, Tensor]  # losses (B,) float32, logits (B, 10) float32, labels (B,) int64


class Classifier(L.LightningModule):
    """A digit classifier that Lightning can train, validate, test and predict with.

    Args:
        network: What gives the logits: images (B, 28, 28) float32 in [0, 1] -> (B, 10). None is the tutorial's `MLP`.
        optimizer: Name of a class in torch.optim, such as RMSprop, Adam, SGD, Adagrad, Adadelta, Adamax or NAdam.
        lr: Learning rate at the start, 0 or above.
        weight_decay: Weight decay as the optimizer defines it, 0 or above; none leaves the optimizer's own default.
        optimizer_options: Further arguments of the optimizer. RMSprop has alpha 0.9 and eps 1e-7 unless given here;
            the other optimizers keep PyTorch's defaults.
        lr_scheduler: Name of a class in torch.optim.lr_scheduler; none keeps the learning rate constant.
            ReduceLROnPlateau follows val/loss.
        lr_scheduler_options: Arguments of the scheduler.
        lr_scheduler_interval: When the scheduler steps, after every epoch or after every training step.

    Raises:
        ValueError: An argument lies outside its range; the message names it.
    """

    train_loss: MeanMetric
    train_accuracy: MulticlassAccuracy

    def __init__(
        self,
        network: MLP | nn.Module | None = None,  # MLP by itself, or its short name would mean torchvision's, too
        optimizer: str = "RMSprop",
        lr: float = 1e-3,
        weight_decay: float | None = None,
        optimizer_options: dict[str, Option | list[Option]] | None = None,
        lr_scheduler: str | None = None,
        lr_scheduler_options: dict[str, Option | list[Option]] | None = None,
        lr_scheduler_interval: Literal["epoch", "step"] = "epoch",
    ) -> None:
        super().__init__()
        for name, value in (("lr", lr), ("weight_decay", weight_decay)):
            if value is not None and not value >= 0:
                raise ValueError(f"{name}: {value} is not at least 0")
            if value is not None and value > torch.finfo(torch.float32).max:
                raise ValueError(f"{name}: {value} is too large for float32")
        self.network = MLP() if network is None else network
        self.save_hyperparameters(ignore="network")
        self.hparams["network"] = describe(self.network)  # a checkpoint holds data, no objects
        self.optimizer = optimizer
        self.lr = lr
        self.weight_decay = weight_decay
        self.optimizer_options = optimizer_options or {}
        self.lr_scheduler = lr_scheduler
        self.lr_scheduler_options = lr_scheduler_options or {}
        self.lr_scheduler_interval = lr_scheduler_interval
        self.example_input_array = torch.zeros(1, 28, 28)
        self.uncounted: list[Answers] = []  # of the training steps of this epoch, until the next begins
        for stage in ("train", "val", "test"):
            self.add_module(f"{stage}_loss", MeanMetric(nan_strategy="disable"))
            self.add_module(f"{stage}_accuracy", MulticlassAccuracy(10, average="micro", validate_args=False))

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]  # what it leaves out would let a checkpoint name code
        cls, checkpoint_path: str | Path, map_location: Any = "cpu", **options: Any
    ) -> "Self":
        """A classifier with the options and weights of a checkpoint, which is read as data.

        Args:
            checkpoint_path: The file.
            map_location: The device that the classifier is put on.
            options: Options that take the place of the checkpoint's, such as a network that the checkpoint cannot name.

        Raises:
            CheckpointError: There is no such file, or it cannot be used.
        """
        saved = read_checkpoint(checkpoint_path)
        weights, own = saved["state_dict"], saved["hyper_parameters"]
        if "kwargs" not in (names := inspect.signature(cls).parameters):  # those of a subclass are left out, as ever
            own = {name: value for name, value in own.items() if name in names}
        own = {name: value for name, value in own.items() if name not in options}
        with torch.device("meta"):  # whatever sizes the options name, it takes no memory
            expected = make(cls, checkpoint_path, own, **options).state_dict()
        if {name: weight.shape for name, weight in weights.items()} != {name: x.shape for name, x in expected.items()}:
            raise CheckpointError(
                f"{checkpoint_path}: its weights do not fit the options that it holds; it was trained with network"
                f" {saved['hyper_parameters'].get('network')}, which from Python can be given: network=..."
            )
        classifier = make(cls, checkpoint_path, own, **options)
        classifier.load_state_dict(weights)
        return classifier.to(map_location)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of a batch: (B, 28, 28) float32 in [0, 1] -> (B, 10) float32."""
        return cast(Tensor, self.network(images))

    def setup(self, stage: str) -> None:
        """Forget what a fit, validation or test that was broken off has counted."""
        self.uncounted.clear()
        for module in self.modules():
            if isinstance(module, Metric):
                module.reset()

    def on_fit_start(self) -> None:
        if self.global_rank > 0:  # so that every device drops other activations
            torch.manual_seed(torch.initial_seed() + self.global_rank)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["lit_mnist"] = __version__

    def losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Cross-entropy of each image of a batch, (B,) float32, and its logits, (B, 10) float32."""
        images, labels = batch
        logits = self.forward(images)  # (B, 28, 28) -> (B, 10)
        return F.cross_entropy(logits, labels, reduction="none"), logits

    def _log(self, stage: str, losses: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Count answers in the metrics of a stage, and log these as one value per epoch."""
        getattr(self, f"{stage}_loss").update(losses)
        getattr(self, f"{stage}_accuracy").update(logits, labels)
        for metric in ("loss", "accuracy"):
            name = f"{stage}_{metric}"
            if stage == "train" and not self.trainer.is_last_batch:
                # The epoch ends early. Its curve gets no point: a fit that continues from there has the whole epoch's.
                self.trainer.callback_metrics[f"{stage}/{metric}"] = getattr(self, name).compute()
            else:
                value, bar = getattr(self, name), stage != "test"
                self.log(f"{stage}/{metric}", value, on_step=False, on_epoch=True, prog_bar=bar)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        losses, logits = self.losses(batch)
        self.uncounted.append((losses.detach(), logits.detach(), batch[1]))
        if self.trainer.is_last_batch and self.trainer.world_size > 1:  # which may not divide evenly
            share = torch.tensor(float(len(losses)), device=self.device)
            return losses.sum() / self.trainer.strategy.reduce(share, reduce_op="mean")
        return losses.mean()

    def on_train_epoch_start(self) -> None:
        self.uncounted.clear()

    def on_train_epoch_end(self) -> None:
        self.log_train_metrics()

    def log_train_metrics(self) -> None:
        """Log the metrics of the steps of this epoch, also of one that ends early; a second call changes nothing.

        All steps are counted at once, which costs each of them nothing. A callback whose on_train_epoch_end needs these
        metrics calls this first, since Lightning calls it before that of the module.
        """
        if self.uncounted and not self.train_loss.update_count:
            self._log("train", *map(torch.cat, zip(*self.uncounted, strict=True)))

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._log("val", *self.losses(batch), batch[1])

    def test_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Count a batch and return its probabilities, (B, 10) float32."""
        losses, logits = self.losses(batch)
        self._log("test", losses, logits, batch[1])
        return logits.softmax(dim=1)

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Probabilities of a batch: (B, 28, 28) float32 -> (B, 10) float32."""
        images, _ = batch
        return self.forward(images).softmax(dim=1)

    def make_optimizer(self, options: dict[str, Any]) -> Optimizer:
        """The optimizer of all parameters, with these options of it."""
        return cast(
            Optimizer, _build("optimizer", torch.optim, Optimizer, self.optimizer, self.parameters(), **options)
        )

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimizer and, where one is chosen, the learning-rate scheduler.

        Raises:
            ValueError: PyTorch has no such class or refuses its options; the message names the argument.
        """
        for name in self.optimizer_options.keys() & {"lr", "weight_decay"}:
            raise ValueError(f"optimizer_options: {name} has an option of its own, --model.{name}")
        options = {"lr": self.lr, **RECIPE.get(self.optimizer, {}), **self.optimizer_options}
        if self.weight_decay is not None:
            options["weight_decay"] = self.weight_decay
        optimizer = self.make_optimizer(options)
        if self.lr_scheduler is None:
            return optimizer
        scheduler = _build(
            "lr_scheduler", lr_scheduler, LRScheduler, self.lr_scheduler, optimizer, **self.lr_scheduler_options
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": self.lr_scheduler_interval, "monitor": "val/loss"},
        }


def _build(argument: str, module: ModuleType, base: type, name: str, *args: Any, **kwargs: Any) -> Any:
    """Instantiate the class of that name in a module of PyTorch; ValueError for a name or options it does not take."""
    classes = {key: value for key, value in vars(module).items() if isinstance(value, type) and issubclass(value, base)}
    if name not in classes or name == base.__name__:
        names = ", ".join(sorted(key for key in classes if key != base.__name__ and not key.startswith("_")))
        raise ValueError(f"{argument}: {name} is not one of {names}")
    try:
        return classes[name](*args, **kwargs)
    except (TypeError, ValueError, AssertionError) as error:
        raise ValueError(f"{argument}_options: {name} refuses {kwargs}: {error}") from error
