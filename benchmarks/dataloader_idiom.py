"""Two idioms of Lightning: MNIST image by image through PIL and a DataLoader, as most tutorials have it, or --batched.

Then a DataLoader takes whole batches out of tensors in memory, by a BatchSampler as its sampler and batch_size=None.
"""

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler, Subset, TensorDataset
from torchmetrics.classification import MulticlassAccuracy
from torchvision.datasets import MNIST
from torchvision.transforms import ToTensor

from lit_mnist import MLP, MNISTDataModule
from lit_mnist.data import rescale


class Idiom(L.LightningModule):
    """A LightningModule as its documentation shows one."""

    def __init__(self) -> None:
        super().__init__()
        self.model = MLP()
        self.train_accuracy = MulticlassAccuracy(10, average="micro")
        self.val_accuracy = MulticlassAccuracy(10, average="micro")
        self.test_accuracy = MulticlassAccuracy(10, average="micro")

    def _step(self, batch: tuple[Tensor, Tensor], stage: str) -> Tensor:
        images, labels = batch
        logits = self.model(images.flatten(1))
        loss = F.cross_entropy(logits, labels)
        accuracy = getattr(self, f"{stage}_accuracy")
        accuracy(logits, labels)
        self.log(f"{stage}/loss", loss, prog_bar=True, on_step=False, on_epoch=True)
        self.log(f"{stage}/accuracy", accuracy, prog_bar=True, on_step=False, on_epoch=True)
        return loss

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return self._step(batch, "train")

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._step(batch, "val")

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._step(batch, "test")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.RMSprop(self.parameters(), lr=1e-3, alpha=0.9, eps=1e-7)


class FitTimer(Callback):
    """Takes the seconds from on_train_start to on_train_end."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.start = time.perf_counter()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.seconds = time.perf_counter() - self.start


def image_by_image(folder: str) -> tuple[DataLoader, DataLoader, DataLoader]:
    """Training, validation and test images of torchvision's MNIST, each its own PIL image and tensor."""
    source = MNISTDataModule().data_dir / "MNIST" / "raw"  # torchvision writes beside what it reads
    raw = Path(folder) / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for file in source.glob("*.gz"):
        shutil.copyfile(file, raw / file.name)
    train = MNIST(folder, train=True, download=True, transform=ToTensor())
    test = MNIST(folder, train=False, transform=ToTensor())
    return (
        DataLoader(Subset(train, range(48_000)), batch_size=128, shuffle=True),
        DataLoader(Subset(train, range(48_000, 60_000)), batch_size=2000),
        DataLoader(test, batch_size=2000),
    )


def batched() -> tuple[DataLoader, DataLoader, DataLoader]:
    """The same images, indexed once per batch."""
    data = MNISTDataModule()
    data.setup()
    loaders = []
    for split, kind, size in (
        ("train", RandomSampler, 128),
        ("val", SequentialSampler, 2000),
        ("test", SequentialSampler, 2000),
    ):
        images, labels = data.splits[split]
        sampler = BatchSampler(kind(labels), size, drop_last=False)
        loaders.append(DataLoader(TensorDataset(rescale(images), labels), sampler=sampler, batch_size=None))
    return tuple(loaders)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--limit_batches", type=int, default=None)
    parser.add_argument("--batched", action="store_true")
    options = parser.parse_args()
    L.seed_everything(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        train, val, test = batched() if options.batched else image_by_image(folder)
        timer = FitTimer()
        trainer = L.Trainer(
            max_epochs=options.epochs,
            limit_train_batches=options.limit_batches,
            default_root_dir=folder,
            logger=[TensorBoardLogger(folder), CSVLogger(folder)],
            callbacks=[ModelCheckpoint(monitor="val/loss"), ModelCheckpoint(filename="last"), timer],
        )
        model = Idiom()
        trainer.fit(model, train, val)
        val_loss = trainer.callback_metrics["val/loss"].item()
        (metrics,) = trainer.test(model, test, verbose=False)
    result = {"fit_seconds": timer.seconds, "val_loss": val_loss, "test_accuracy": metrics["test/accuracy"]}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
