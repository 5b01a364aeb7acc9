"""The LightningDataModule: load, split, batch and rescale."""

import os
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as L
import torch
from torch import Tensor
from torch.nn import functional as F

from lit_mnist.data import files
from lit_mnist.data.batches import BatchLoader, BatchSampler


class MNISTDataModule(L.LightningDataModule):
    """MNIST or a data set of the same form, split into 48,000 training, 12,000 validation and 10,000 test images.

    Images stay uint8 in memory; each batch becomes float32 in [0, 1] on the device that trains.

    Args:
        dataset: Which images: mnist, fashion_mnist, kmnist and qmnist come from files, digits is embedded.
        data_dir: Folder of the files in torchvision's layout, where missing ones are downloaded to. By default
            the environment variable LIT_MNIST_DATA_DIR, or else data.
        val_size: Number of training images held out for validation, the last in file order. By default a fifth:
            12,000 of MNIST's 60,000.
        batch_size: Training images per step, over all devices together.
        eval_batch_size: Images per step in validation and test, over all devices together.

    Raises:
        ValueError: An argument lies outside its range; the message names it.
    """

    def __init__(
        self,
        dataset: Literal["mnist", "fashion_mnist", "kmnist", "qmnist", "digits"] = "mnist",
        data_dir: str | None = None,
        val_size: int | None = None,
        batch_size: int = 128,
        eval_batch_size: int = 2000,
    ) -> None:
        super().__init__()
        for name, value in (("val_size", val_size), ("batch_size", batch_size), ("eval_batch_size", eval_batch_size)):
            if value is not None and value < 1:
                raise ValueError(f"{name}: {value} is not at least 1")
        self.save_hyperparameters()
        self.dataset = dataset
        self.data_dir = Path(data_dir or os.environ.get("LIT_MNIST_DATA_DIR") or "data")
        self.val_size = val_size
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.batches_at_once = 1  # training batches given out together, as a list, for what takes several
        self._splits: dict[str, tuple[Tensor, Tensor]] = {}

    def prepare_data(self) -> None:
        """Load and verify the files, downloading what is missing; Lightning calls this on one process per machine.

        Raises:
            DataError: The files cannot be had.
        """
        self.setup()

    def setup(self, stage: str | None = None) -> None:
        """Load and split the images that a stage needs; calling it again changes nothing.

        Args:
            stage: fit, validate, test or predict; None loads all.

        Raises:
            DataError: The files cannot be had.
            ValueError: val_size leaves no image to train on.
        """
        if stage in ("fit", "validate", None) and "train" not in self._splits:
            images, labels = self._load("train")
            val_size = len(images) // 5 if self.val_size is None else self.val_size
            if not 1 <= val_size < len(images):
                raise ValueError(f"val_size: {val_size} is not in 1..{len(images) - 1}")
            self._splits["train"] = images[:-val_size], labels[:-val_size]
            self._splits["val"] = images[-val_size:], labels[-val_size:]
        if stage in ("test", "predict", None) and "test" not in self._splits:
            self._splits["test"] = self._load("test")

    def _load(self, split: Literal["train", "test"]) -> tuple[Tensor, Tensor]:
        if self.dataset == "digits":
            return load_digits(split)
        return files.load(self.dataset, self.data_dir, split)

    def images(self, split: Literal["train", "val", "test"]) -> tuple[Tensor, Tensor]:
        """Images (N, 28, 28) uint8 and labels (N,) int64 of a split, in file order; `setup` comes first."""
        return self._splits[split]

    def _loader(self, split: str, batch_size: int, shuffle: bool = False, steps: int = 1) -> BatchLoader:
        images, labels = self._splits[split]
        seed = int(os.environ.get("PL_GLOBAL_SEED", 0))  # what seed_everything was given
        rank, world_size, device = 0, 1, torch.device("cpu")
        if self.trainer:
            rank, world_size = self.trainer.global_rank, self.trainer.world_size
            device = self.trainer.strategy.root_device  # a GPU then gathers its batches without the host
        sampler = BatchSampler(len(images), batch_size, shuffle, seed, rank, world_size, device)
        return BatchLoader(images.to(device), labels.to(device), sampler, steps)

    def refuse_uneven_shares(self, devices: int) -> None:
        """Raise ValueError where a number of devices does not divide batch_size."""
        if self.batch_size % devices:
            raise ValueError(f"batch_size: {self.batch_size} does not divide evenly among {devices} devices")

    def train_dataloader(self) -> BatchLoader:
        """Shuffled batches of (images (B, 28, 28) uint8, labels (B,) int64).

        Raises:
            ValueError: The number of devices does not divide batch_size.
        """
        self.refuse_uneven_shares(self.trainer.world_size if self.trainer else 1)
        overfit = getattr(self.trainer, "overfit_batches", 0) > 0  # the same batches in every epoch
        return self._loader("train", self.batch_size, shuffle=not overfit, steps=self.batches_at_once)

    def val_dataloader(self) -> BatchLoader:
        """Batches of the validation images in file order."""
        return self._loader("val", self.eval_batch_size)

    def test_dataloader(self) -> BatchLoader:
        """Batches of the test images in file order."""
        return self._loader("test", self.eval_batch_size)

    predict_dataloader = test_dataloader

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Nothing on a CPU, and nothing to move on a GPU, where the batches of this class are gathered."""
        return batch if device.type == "cpu" else super().transfer_batch_to_device(batch, device, dataloader_idx)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Rescale on the device that computes: images, (images, labels), or a list of such batches."""
        if isinstance(batch, list):
            return [self.on_after_batch_transfer(one, dataloader_idx) for one in batch]
        if isinstance(batch, Tensor):
            return rescale(batch, self._dtype)
        images, labels = batch
        return rescale(images, self._dtype), labels

    @property
    def _dtype(self) -> torch.dtype:
        """What the model computes in: float32 unless --trainer.precision asks for another."""
        return getattr(self.trainer and self.trainer.lightning_module, "dtype", torch.float32)


def rescale(images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Turn images into a network's input: (B, 28, 28) uint8 -> (B, 28, 28) float32, or another dtype, in [0, 1]."""
    return images.to(dtype) / 255


def load_digits(split: Literal["train", "test"]) -> tuple[Tensor, Tensor]:
    """The 1,797 handwritten digits that come with scikit-learn, 8x8 and 0..16 there: the last fifth is the test set.

    Returns:
        Images (N, 28, 28) uint8 and labels (N,) int64.
    """
    from sklearn import datasets

    digits = datasets.load_digits()
    small = torch.tensor(digits.images, dtype=torch.float32)[:, None] * (255 / 16)  # (1797, 1, 8, 8) in [0, 255]
    images = F.interpolate(small, size=(28, 28), mode="bilinear")[:, 0].round().to(torch.uint8)  # (1797, 28, 28)
    labels = torch.tensor(digits.target, dtype=torch.int64)
    cut = len(images) - len(images) // 5
    return (images[:cut], labels[:cut]) if split == "train" else (images[cut:], labels[cut:])
