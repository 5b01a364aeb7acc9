"""MNIST and data sets of its form: downloaded, unpacked and read by torchvision, or taken from scikit-learn."""

import os
from pathlib import Path
from typing import Any, Literal
from zlib import crc32

import torch
from filelock import FileLock
from torch import Tensor
from torch.nn import functional as F
from torchvision.datasets import KMNIST, MNIST, QMNIST, FashionMNIST

from lit_mnist.data.module import DataError, ImageDataModule

SETS: dict[str, Any] = {"mnist": MNIST, "fashion_mnist": FashionMNIST, "kmnist": KMNIST, "qmnist": QMNIST}
CRC = {"train": 0x262B2EF3, "test": 0xB458F550}  # of MNIST's labels and images; torchvision checks only the archives


class MNISTDataModule(ImageDataModule):
    """MNIST or a data set of the same form; MNIST has 48,000 training, 12,000 validation and 10,000 test images.

    Args:
        dataset: mnist, fashion_mnist, kmnist and qmnist are read from files, digits from scikit-learn.
        data_dir: Folder in torchvision's layout, also for downloads. Default: LIT_MNIST_DATA_DIR, or else data.
        kwargs: Of `ImageDataModule`.
    """

    def __init__(
        self,
        dataset: Literal["mnist", "fashion_mnist", "kmnist", "qmnist", "digits"] = "mnist",
        data_dir: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if dataset not in (*SETS, "digits"):  # for example, the name in a checkpoint
            raise DataError(f"dataset: {dataset} is not one of {', '.join(SETS)}, digits")
        self.dataset = dataset
        self.data_dir = Path(data_dir or os.environ.get("LIT_MNIST_DATA_DIR") or "data").expanduser()
        self.classes = list(SETS[dataset].classes if dataset in ("fashion_mnist", "kmnist") else "0123456789")
        self.folder = self.data_dir / (SETS[dataset].__name__ if dataset in SETS else "") / "raw"
        if type(self).load is MNISTDataModule.load:  # a subclass that overrides it has other images
            self.name = dataset
        self.save_hyperparameters({"dataset": self.name}, logger=False)

    def prepare_data(self) -> None:
        """Download or unpack missing files; Lightning calls this on one process per machine."""
        if self.dataset == "digits":
            return
        dataset_class = SETS[self.dataset]
        resources = dataset_class.resources
        resources = [*resources["train"], *resources["test"]] if self.dataset == "qmnist" else resources
        files = [self.folder / Path(url).stem for url, _ in resources]
        missing = [path for path in files if not path.exists()]
        created: list[Path] = []
        try:
            if missing:
                self.folder.mkdir(parents=True, exist_ok=True)
                with FileLock(self.folder / ".lock"):  # two runs that start at once download once
                    created = [path for path in missing if not path.exists()]
                    for train in (True, False):
                        dataset_class(self.data_dir, train=train, download=True)
        except BaseException as error:
            for path in created:
                path.unlink(missing_ok=True)  # it may be incomplete
            if not isinstance(error, OSError | RuntimeError | EOFError):
                raise
            names = ", no ".join(path.name for path in missing)
            absent = f"there is no {names}, and the download or unpacking failed: {error}"
            ways = "put the files there, name a folder that has them with --data.data_dir or LIT_MNIST_DATA_DIR"
            raise DataError(f"{self.folder}: {absent}; {ways}, or use the digits: --data.dataset digits") from error

    def load(self, split: Literal["train", "test"]) -> tuple[Tensor, Tensor]:
        """Images (N, 28, 28) uint8 and labels (N,) int64 of all training or test images."""
        if self.dataset == "digits":
            return load_digits(split)
        try:
            data = SETS[self.dataset](self.data_dir, train=split == "train")
            if self.dataset == "mnist" and crc32(data.data.numpy(), crc32(data.targets.numpy())) != CRC[split]:
                raise ValueError(f"the {split} images or labels differ from MNIST's")
        except (OSError, RuntimeError, ValueError, AssertionError) as error:
            why = f"missing or damaged ({error}); delete the files to download them again"
            raise DataError(f"{self.folder}: {why}") from error
        return data.data, data.targets.view(len(data.targets), -1)[:, 0].long()  # qmnist's rows hold the class first


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
