"""Image files in one folder per class, read into memory as images of one shape."""

import math
import os
import sys
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal
from zlib import crc32

import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn

from lit_mnist.data import DataError, ImageDataModule
from lit_mnist.image_files import ImageError, fit, images_below, load_image, show_progress

File = tuple[Path, int]  # an image and its label
SPLIT_NAMES = {"train", "training", "val", "valid", "validation", "test", "testing"}


class ImageFolderDataModule(ImageDataModule):
    """Images in root/CLASS/, which it splits, or in root/train/CLASS/, root/val/CLASS/ and root/test/CLASS/.

    Greyscale, RGB, RGBA, palette and 16-bit files of any size are resized in proportion and padded with black. A file
    that cannot be read is reported on stderr and skipped.

    Args:
        root: Folder that contains the folders of the classes, or of the splits train, val and test.
        size: Height and width of the images in pixels.
        grey: Whether images are greyscale, (size, size), or RGB, (3, size, size).
        val_share: Share of each class held out for validation, in (0, 1), if there is no folder root/val.
        test_share: Share of each class held out for the test, in (0, 1 - val_share), if there is no folder root/test.
        batch_size: Images per step, over all devices together.
        augment: Transforms each training batch: (B, *image_shape) float32 in [0, 1] -> the same shape.
    """

    def __init__(
        self,
        root: str,
        size: int = 64,
        grey: bool = False,
        val_share: float = 0.2,
        test_share: float = 0.2,
        batch_size: int = 128,
        augment: nn.Module | None = None,
    ) -> None:
        super().__init__(batch_size=batch_size, eval_batch_size=batch_size, augment=augment)
        if size < 1:
            raise ValueError(f"size: {size} is not at least 1")
        for name, share, most in (("val_share", val_share, 1), ("test_share", test_share, 1 - val_share)):
            if not 0 < share < most:
                raise ValueError(f"{name}: {share} is not in (0, {most:g})")
        self.root, self.shares = Path(root).expanduser(), {"test": test_share, "val": val_share}
        self.image_shape = (size, size) if grey else (3, size, size)
        self.name = f"folder {self.root.resolve().name}"  # never equal to that of a data set, such as mnist
        self.save_hyperparameters({"dataset": self.name}, logger=False)
        if not self.root.is_dir():
            raise DataError(f"root: {root} is not a folder")
        splits = {path.name for path in folders_in(self.root) if path.name.lower() in SPLIT_NAMES}
        if splits and not {"train"} <= splits <= {"train", "val", "test"}:
            raise DataError(f"root: {root} has {', '.join(sorted(splits))}; name the splits train, val and test")
        self.folders = {split: self.root / split for split in ("train", "val", "test") if split in splits}
        self.folders = self.folders or {"train": self.root}
        self.classes = sorted({path.name for folder in self.folders.values() for path in folders_in(folder)})
        if len(self.classes) < 2:
            raise DataError(f"root: {self.folders['train']} has fewer than two folders of images, one per class")

    def load(self, split: Literal["train", "test"]) -> tuple[Tensor, Tensor]:
        """Read the images of a split, those for validation last."""
        files = self._files()
        chosen = files["test"] if split == "test" else [*files["train"], *files["val"]]
        size = len(chosen) * math.prod(self.image_shape)  # in bytes
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else math.inf
        if size > memory / 2:
            fits = math.isqrt(int(memory / 2 / size * self.image_shape[-1] ** 2))
            raise DataError(f"size: {len(chosen):,} images take {size / 1e9:.1f} GB of memory; size {fits} would fit")
        rank_zero_only(print)(f"{self.root}: {len(chosen):,} images for {split}, {size / 1e6:,.0f} MB", file=sys.stderr)
        images = torch.empty(len(chosen), *self.image_shape, dtype=torch.uint8)
        labels = torch.tensor([label for _, label in chosen], dtype=torch.int64)
        with ThreadPoolExecutor() as pool:
            for i, image in enumerate(show_progress(pool.map(self._read, chosen), len(chosen))):
                images[i] = 0 if image is None else image
                labels[i] = -1 if image is None else labels[i]
        if absent := self._absent(labels.tolist()):
            raise DataError(f"root: no image of {absent} for {split} can be read")
        if split == "train":
            self.val_size = int((labels[len(files["train"]) :] >= 0).sum())
        return (images, labels) if (labels >= 0).all() else (images[labels >= 0], labels[labels >= 0])

    def _files(self) -> dict[str, list[File]]:
        """The files of each split, at least one per class."""
        files: dict[str, list[File]] = {split: self._found(folder) for split, folder in self.folders.items()}
        counts = Counter(label for _, label in files["train"])
        for split, share in self.shares.items():
            if split not in files:
                held_out: list[File] = []
                for label, count in counts.items():
                    of_class = [file for file in files["train"] if file[1] == label]
                    held_out += of_class[: max(1, round(share * count))]
                kept = set(files["train"]).difference(held_out)
                files[split], files["train"] = held_out, [file for file in files["train"] if file in kept]
        for split, found in files.items():
            if absent := self._absent(label for _, label in found):
                raise DataError(f"root: {self.root} has too few images of {absent} for {split}; use at least 3")
        return files

    def _absent(self, labels: Iterable[int]) -> str:
        """The first class without a label, or ""."""
        present = set(labels)
        return next((name for label, name in enumerate(self.classes) if label not in present), "")

    def _found(self, folder: Path) -> list[File]:
        """The image files of a folder in the order of a checksum, so that new files change the split of few others."""
        files = [(path, i) for i, name in enumerate(self.classes) for path in images_below(folder / name)]
        return sorted(files, key=lambda file: crc32(file[0].relative_to(folder).as_posix().encode()))

    def _read(self, file: File) -> Tensor | None:
        try:
            return fit(load_image(file[0]), self.image_shape)
        except ImageError as error:
            rank_zero_only(print)(f"{file[0]} is skipped: {error}", file=sys.stderr)
            return None


def folders_in(folder: Path) -> list[Path]:
    """The subfolders of a folder, except those whose names begin with . or _, such as __pycache__."""
    return [path for path in folder.glob("[!._]*") if path.is_dir()]
