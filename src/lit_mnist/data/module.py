"""The base of all data modules: images in memory, split, batched, rescaled and augmented."""

import os
from typing import Any, Literal

import lightning.pytorch as L
import torch
from torch import Tensor, nn

from lit_mnist.data.batches import BatchLoader


class DataError(ValueError):
    """The data are missing or damaged, have the wrong shape or dtype, or do not fit an argument."""


class ImageDataModule(L.LightningDataModule):
    """Images with class labels; the training images are split into training and validation images.

    A subclass defines `load` and `classes`, and `image_shape` unless its images are 28x28.

    Args:
        val_size: Number of training images held out for validation, the last that `load` returns. By default a fifth.
        batch_size: Training images per step, over all devices together.
        eval_batch_size: Images per step in validation and test, over all devices together.
        augment: Transforms each training batch: (B, *image_shape) float32 in [0, 1] -> the same shape.

    Raises:
        ValueError: An argument is outside its range; the message begins with its name.
        DataError: The images are missing or damaged, have the wrong shape or dtype, or do not fit an argument.
    """

    classes: list[str]  # names of the classes; label 0 is the first
    image_shape: tuple[int, ...] = (28, 28)  # of an image: (H, W) for greyscale, (C, H, W) for colour

    def __init__(
        self,
        val_size: int | None = None,
        batch_size: int = 128,
        eval_batch_size: int = 2000,
        augment: nn.Module | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("val_size", val_size), ("batch_size", batch_size), ("eval_batch_size", eval_batch_size)):
            if value is not None and value < 1:
                raise ValueError(f"{name}: {value} is not at least 1")
        self.val_size, self.batch_size, self.eval_batch_size = val_size, batch_size, eval_batch_size
        self.augment = augment
        self.name = type(self).__name__  # of the data set, for reports and checkpoints
        self.save_hyperparameters({"val_size": val_size, "batch_size": batch_size, "dataset": self.name}, logger=False)
        self.splits: dict[str, tuple[Tensor, Tensor]] = {}  # images (N, *image_shape) uint8, labels (N,) int64

    @property
    def num_classes(self) -> int:
        if not hasattr(self, "classes"):
            raise DataError(f"classes: {type(self).__name__} does not name its classes")
        return len(self.classes)

    def load(self, split: Literal["train", "test"]) -> tuple[Tensor, Tensor]:
        """All training or test images (N, *image_shape) uint8 and their labels (N,) int64."""
        raise NotImplementedError(f"{type(self).__name__} needs a method load(split)")

    def setup(self, stage: str | None = None) -> None:
        """Called by Lightning on every device; loads the images for fit, validate, test or predict, all for None."""
        if stage in ("fit", "validate", None) and "train" not in self.splits:
            images, labels = self._loaded("train")
            val_size = len(images) // 5 if self.val_size is None else self.val_size
            if not 1 <= val_size < len(images):
                raise DataError(f"val_size: {val_size} is not in 1..{len(images) - 1}")
            if (labels.diff() >= 0).all() and labels[-1] > labels[-val_size - 1]:
                why = f"so the last {val_size} have a class without training images; shuffle them"
                raise DataError(f"load('train') returns images sorted by class, {why}")
            self.splits["train"] = images[:-val_size], labels[:-val_size]
            self.splits["val"] = images[-val_size:], labels[-val_size:]
        if stage in ("test", "predict", None) and "test" not in self.splits:
            self.splits["test"] = self._loaded("test")

    def _loaded(self, split: Literal["train", "test"]) -> tuple[Tensor, Tensor]:
        """The result of `load`, checked; raises DataError for a wrong shape, dtype or label."""
        loaded, what = self.load(split), f"load({split!r}) returns"
        if not (isinstance(loaded, tuple) and [isinstance(part, Tensor) for part in loaded] == [True, True]):
            raise DataError(f"{what} something other than a tuple of two tensors, images and labels")
        images, labels = loaded
        form, shape = tuple(images.shape), tuple(self.image_shape)
        if images.dtype != torch.uint8 or form[1:] != shape or len(shape) not in (2, 3):
            why = f"not of torch.uint8 {('N', *shape)}; image_shape is {shape}"
            raise DataError(f"{what} images of {images.dtype} {form}, {why}")
        if labels.dtype != torch.int64 or labels.shape != form[:1]:
            raise DataError(f"{what} labels of {labels.dtype} {tuple(labels.shape)}, not of torch.int64 {form[:1]}")
        if len(labels) and not 0 <= labels.min() <= labels.max() < self.num_classes:
            raise DataError(f"{what} labels in {labels.min()}..{labels.max()}, not in 0..{self.num_classes - 1}")
        return images, labels

    def _loader(self, split: str, batch_size: int) -> BatchLoader:
        rank, world_size, device = 0, 1, torch.device("cpu")
        if self.trainer:
            rank, world_size = self.trainer.global_rank, self.trainer.world_size
            device = self.trainer.strategy.root_device  # a GPU then gathers its batches without the host
        if split == "train" and batch_size % world_size:
            raise DataError(f"batch_size: {batch_size} does not divide evenly among {world_size} devices")
        self.setup("test" if split == "test" else "fit")  # needed without a Trainer, as in a notebook
        images, labels = (part.to(device) for part in self.splits[split])
        shuffle = split == "train" and not getattr(self.trainer, "overfit_batches", 0)  # it repeats the batches
        seed = int(os.environ.get("PL_GLOBAL_SEED", 0)) if shuffle else None  # the argument of seed_everything
        return BatchLoader(images, labels, batch_size, seed, rank, world_size)

    def train_dataloader(self) -> BatchLoader:
        """Called by Lightning before the first epoch."""
        return self._loader("train", self.batch_size)

    def val_dataloader(self) -> BatchLoader:
        """Called by Lightning before the first validation."""
        return self._loader("val", self.eval_batch_size)

    def test_dataloader(self) -> BatchLoader:
        """Called by Lightning before a test."""
        return self._loader("test", self.eval_batch_size)

    predict_dataloader = test_dataloader

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Called by Lightning for every batch on its device; rescales the images, and augments training images."""
        if isinstance(batch, Tensor):  # a model's example_input_array, which is rescaled already
            return batch
        images, labels = batch
        images = rescale(images, getattr(self.trainer and self.trainer.lightning_module, "dtype", torch.float32))
        if self.augment is not None and self.trainer and self.trainer.training:
            images = self.augment(images)  # (B, *image_shape) -> the same
        return images, labels


def rescale(images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Rescale images: (B, *image_shape) uint8 -> float32, or another dtype, in [0, 1]."""
    return images.to(dtype).div_(255)


def name_of(data: Any) -> str:
    """The name of the data set of a data module, such as mnist; "" without one."""
    return "" if data is None else getattr(data, "name", None) or type(data).__name__
