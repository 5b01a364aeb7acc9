"""The LightningDataModule: download, split, batch and rescale."""

import os
from pathlib import Path
from typing import Any, Literal
from zlib import crc32

import lightning.pytorch as L
import torch
from filelock import FileLock
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.datasets import KMNIST, MNIST, QMNIST, FashionMNIST

from lit_mnist.data.batches import BatchLoader

SETS: dict[str, Any] = {"mnist": MNIST, "fashion_mnist": FashionMNIST, "kmnist": KMNIST, "qmnist": QMNIST}
CRC = {"train": 0x262B2EF3, "test": 0xB458F550}  # of MNIST\'s labels and images; torchvision checks the archives alone


class DataError(ValueError):
    """The data are missing, damaged or of another form, or do not fit an argument; the message says which."""


class MNISTDataModule(L.LightningDataModule):
    """MNIST or a data set of the same form, split into 48,000 training, 12,000 validation and 10,000 test images.

    Raises:
        ValueError: An argument lies outside its range; the message begins with its name.
        DataError: The files are missing or damaged, `load` gives another form, or an argument does not fit the data.

    Args:
        dataset: Which images: mnist, fashion_mnist, kmnist and qmnist come from files, digits is embedded.
        data_dir: Folder in torchvision's layout, for downloads, too; by default LIT_MNIST_DATA_DIR, or else data.
        val_size: Number of training images held out for validation, the last in file order. By default a fifth.
        batch_size: Training images per step, over all devices together.
        eval_batch_size: Images per step in validation and test, over all devices together.
        augment: Changes the images of each training batch, (B, 28, 28) float32 in [0, 1] -> the same.
    """

    def __init__(
        self,
        dataset: Literal["mnist", "fashion_mnist", "kmnist", "qmnist", "digits"] = "mnist",
        data_dir: str | None = None,
        val_size: int | None = None,
        batch_size: int = 128,
        eval_batch_size: int = 2000,
        augment: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if dataset not in (names := (*SETS, "digits")):  # such as that of a checkpoint
            raise DataError(f"dataset: {dataset} is not one of {', '.join(names)}")
        for name, value in (("val_size", val_size), ("batch_size", batch_size), ("eval_batch_size", eval_batch_size)):
            if value is not None and value < 1:
                raise ValueError(f"{name}: {value} is not at least 1")
        self.save_hyperparameters({"dataset": dataset, "val_size": val_size, "batch_size": batch_size}, logger=False)
        self.dataset, self.val_size, self.augment = dataset, val_size, augment
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.data_dir = Path(data_dir or os.environ.get("LIT_MNIST_DATA_DIR") or "data").expanduser()
        self.classes = list(SETS[dataset].classes if dataset in ("fashion_mnist", "kmnist") else "0123456789")  # names
        self.num_classes = len(self.classes)
        self.folder = self.data_dir / (SETS[dataset].__name__ if dataset in SETS else "") / "raw"
        self.splits: dict[str, tuple[Tensor, Tensor]] = {}  # images (N, 28, 28) uint8, labels (N,) int64, file order

    def prepare_data(self) -> None:
        """Download or unpack what is missing; Lightning calls this on one process per machine."""
        if self.dataset == "digits":
            return
        kind = SETS[self.dataset]
        resources = [*kind.resources["train"], *kind.resources["test"]] if self.dataset == "qmnist" else kind.resources
        missing = [path for url, _ in resources if not (path := self.folder / Path(url).stem).exists()]
        mine: list[Path] = []
        try:
            if missing:
                self.folder.mkdir(parents=True, exist_ok=True)
                with FileLock(self.folder / ".lock"):  # two runs that start at once download once
                    mine = [path for path in missing if not path.exists()]
                    for train in (True, False):
                        kind(self.data_dir, train=train, download=True)
        except BaseException as error:
            for path in mine:
                path.unlink(missing_ok=True)  # it may be half unpacked
            if not isinstance(error, OSError | RuntimeError | EOFError):
                raise
            raise DataError(
                f"{self.folder}: there is no {', no '.join(path.name for path in missing)}; to download or unpack it"
                f" failed: {error}; put the files there, name a folder that has them by"
                " --data.data_dir or LIT_MNIST_DATA_DIR, or take the embedded digits: --data.dataset digits"
            ) from error

    def setup(self, stage: str | None = None) -> None:
        """Load and split the images that a stage needs, each once: fit, validate, test or predict; None is all."""
        if stage in ("fit", "validate", None) and "train" not in self.splits:
            images, labels = self._loaded("train")
            val_size = len(images) // 5 if self.val_size is None else self.val_size
            if not 1 <= val_size < len(images):
                raise DataError(f"val_size: {val_size} is not in 1..{len(images) - 1}")
            self.splits["train"] = images[:-val_size], labels[:-val_size]
            self.splits["val"] = images[-val_size:], labels[-val_size:]
        if stage in ("test", "predict", None) and "test" not in self.splits:
            self.splits["test"] = self._loaded("test")

    def _loaded(self, split: Literal["train", "test"]) -> tuple[Tensor, Tensor]:
        """What `load` gives, in the form that it promises; DataError."""
        images, labels = self.load(split)
        what, form = f"load({split!r}) gives", tuple(images.shape)
        if images.dtype != torch.uint8 or len(form) not in (3, 4):
            raise DataError(f"{what} images of {images.dtype} {form}, not of torch.uint8 (N, H, W) or (N, C, H, W)")
        if labels.dtype != torch.int64 or labels.shape != form[:1]:
            raise DataError(f"{what} labels of {labels.dtype} {tuple(labels.shape)}, not of torch.int64 {form[:1]}")
        if len(labels) and not 0 <= labels.min() <= labels.max() < self.num_classes:
            raise DataError(f"{what} labels in {labels.min()}..{labels.max()}, not in 0..{self.num_classes - 1}")
        return images, labels

    def load(self, split: Literal["train", "test"]) -> tuple[Tensor, Tensor]:
        """Images (N, 28, 28) uint8 and labels (N,) int64 of all training or test images; yours in a subclass."""
        if self.dataset == "digits":
            return load_digits(split)
        try:
            data = SETS[self.dataset](self.data_dir, train=split == "train")
            if self.dataset == "mnist" and crc32(data.data.numpy(), crc32(data.targets.numpy())) != CRC[split]:
                raise ValueError(f"other {split} images or labels than MNIST's")
        except (OSError, RuntimeError, ValueError, AssertionError) as error:
            raise DataError(
                f"{self.folder}: missing or damaged ({error}); delete the files to have them anew"
            ) from error
        return data.data, data.targets.view(len(data.targets), -1)[:, 0].long()  # qmnist's rows hold the class first

    def _loader(self, split: str, batch_size: int) -> BatchLoader:
        rank, world_size, device = 0, 1, torch.device("cpu")
        if self.trainer:
            rank, world_size = self.trainer.global_rank, self.trainer.world_size
            device = self.trainer.strategy.root_device  # a GPU then gathers its batches without the host
        if split == "train" and batch_size % world_size:
            raise DataError(f"batch_size: {batch_size} does not divide evenly among {world_size} devices")
        if split not in self.splits:  # in a notebook, without a Trainer
            self.setup("test" if split == "test" else "fit")
        images, labels = (part.to(device) for part in self.splits[split])
        shuffle = split == "train" and not getattr(self.trainer, "overfit_batches", 0)  # which has the same every epoch
        seed = int(os.environ.get("PL_GLOBAL_SEED", 0)) if shuffle else None  # what seed_everything was given
        return BatchLoader(images, labels, batch_size, seed, rank, world_size)

    def train_dataloader(self) -> BatchLoader:
        return self._loader("train", self.batch_size)

    def val_dataloader(self) -> BatchLoader:
        return self._loader("val", self.eval_batch_size)

    def test_dataloader(self) -> BatchLoader:
        return self._loader("test", self.eval_batch_size)

    predict_dataloader = test_dataloader

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Rescale (images (B, 28, 28) uint8, labels), and augment the images of a training batch."""
        if isinstance(batch, Tensor):  # a model's example_input_array, which is a network's input already
            return batch
        images, labels = batch
        images = rescale(images, getattr(self.trainer and self.trainer.lightning_module, "dtype", torch.float32))
        if self.augment is not None and self.trainer and self.trainer.training:
            images = self.augment(images)  # (B, 28, 28) -> (B, 28, 28)
        return images, labels


def rescale(images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Turn images into a network's input: (B, 28, 28) uint8 -> (B, 28, 28) float32, or another dtype, in [0, 1]."""
    return images.to(dtype) / 255


def load_digits(split: Literal["train", "test"]) -> tuple[Tensor, Tensor]:
    """scikit-learn's 1,797 digits in MNIST's form: (N, 28, 28) uint8, (N,) int64; the last fifth is the test set."""
    from sklearn import datasets

    digits = datasets.load_digits()
    small = torch.tensor(digits.images, dtype=torch.float32)[:, None] * (255 / 16)  # (1797, 1, 8, 8) in [0, 255]
    fitted = F.interpolate(small, size=(20, 20), mode="bilinear")[:, 0].round().to(torch.uint8)  # (1797, 20, 20)
    images = torch.zeros(len(fitted), 28, 28, dtype=torch.uint8)
    for canvas, digit in zip(images, fitted, strict=True):  # its centre of mass goes to the centre of the canvas
        centre = [(digit.sum(axis) * torch.arange(20)).sum() / digit.sum() for axis in (1, 0)]
        top, left = (round(14 - float(place)) for place in centre)
        canvas[top : top + 20, left : left + 20] = digit
    labels = torch.tensor(digits.target, dtype=torch.int64)
    return (images[:1438], labels[:1438]) if split == "train" else (images[1438:], labels[1438:])
