"""The data set files: find, verify, unpack and, where they are missing, download them."""

import contextlib
import gzip
import hashlib
import logging
import math
import os
import stat
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from torch import Tensor

from lit_mnist.atomic import write_whole
from lit_mnist.data.checksums import SHA256
from lit_mnist.data.download import LARGEST, DownloadError, download

log = logging.getLogger(__name__)

IDX_TYPES = {0x08: ">u1", 0x0C: ">i4"}  # the element types that these data sets use


class DataError(Exception):
    """The data set cannot be had whole and unharmed; the message is one line that says what to do."""


@dataclass(frozen=True)
class IdxFile:
    """One file of a data set, of which its archive or what is in it may be there."""

    name: str  # unpacked
    sha256: dict[str, str]  # by name: of the archive and, where it is known, of what is in it
    urls: tuple[str, ...]  # of the archive

    @property
    def archive(self) -> str:
        return f"{self.name}.gz"

    def content(self, path: Path) -> bytes:
        """Verified content of the file or of its archive; FileNotFoundError or, where it is damaged, DataError."""
        try:
            if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe could keep us waiting for ever
                raise ValueError("it is no file")
            with path.open("rb") as file:
                return self.verified(file.read(LARGEST + 1), path.name)
        except FileNotFoundError:
            raise
        except (ValueError, OSError) as error:
            raise DataError(f"{path} is damaged: {getattr(error, 'strerror', None) or error}") from error

    def verified(self, content: bytes, name: str) -> bytes:
        """The unpacked content of a file of that name; ValueError where it is not what it should be."""
        if hashlib.sha256(content).hexdigest() != self.sha256[name]:
            raise ValueError("its SHA-256 differs")
        try:
            return gzip.decompress(content) if name == self.archive else content
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(str(error)) from error


def parse_idx(content: bytes) -> NDArray[np.uint8 | np.int32]:
    """The array in an IDX file, read-only and without a copy.

    Raises:
        ValueError: The content is not whole or not IDX; the message says which.
    """
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in IDX_TYPES:
        raise ValueError("it is not in IDX format")
    kind, dims = np.dtype(IDX_TYPES[content[2]]), content[3]
    start = 4 + 4 * dims
    shape = struct.unpack(f">{dims}I", content[4:start].ljust(4 * dims, b"\0"))
    size = start + math.prod(shape) * kind.itemsize
    if len(content) != size:
        raise ValueError(f"it has {len(content):,} bytes instead of {size:,}")
    return np.frombuffer(content, kind, offset=start).reshape(shape)


def load(dataset: str, data_dir: Path, split: Literal["train", "test"]) -> tuple[Tensor, Tensor]:
    """Images and labels of one split, from verified files.

    Archives that lie in ``data_dir/<dataset>/raw`` are used, and of MNIST what is unpacked there, also where the folder
    cannot be written. What is missing or damaged there is unpacked again or downloaded from torchvision's mirrors.

    Args:
        dataset: mnist, fashion_mnist, kmnist or qmnist.
        data_dir: Folder in torchvision's layout.
        split: The training or the test images.

    Returns:
        Images (N, 28, 28) uint8 and labels (N,) int64 in 0..9, in file order.

    Raises:
        DataError: The files are missing or damaged and could not be replaced.
        OSError: The disk is full.
    """
    folder, (images_file, labels_file) = _files(dataset, data_dir, split)
    try:
        images, labels = (parse_idx(_read(file, folder)) for file in (images_file, labels_file))
    except ValueError as error:
        raise DataError(f"{folder}: {error}") from error
    if labels.ndim == 2:  # qmnist's rows hold the class first
        labels = labels[:, :1].ravel()
    in_form = images.dtype == np.uint8 and images.shape == (*labels.shape, 28, 28)
    if not in_form or labels.size == 0 or labels.max() > 9 or labels.min() < 0:
        raise DataError(
            f"{folder}: {images_file.name} {images.shape} and {labels_file.name} {labels.shape} do not belong together"
            " as images of 28x28 and labels 0..9; delete both to download them again"
        )
    return torch.tensor(images), torch.from_numpy(labels.astype(np.int64))


def _files(dataset: str, data_dir: Path, split: str) -> tuple[Path, tuple[IdxFile, ...]]:
    """Folder and the two files, images then labels, of a split of a torchvision data set."""
    from torchvision.datasets import KMNIST, MNIST, QMNIST, FashionMNIST

    source = {"mnist": MNIST, "fashion_mnist": FashionMNIST, "kmnist": KMNIST, "qmnist": QMNIST}[dataset]
    if source is QMNIST:
        resources, mirrors = QMNIST.resources[split], [""]
    else:
        first = 0 if split == "train" else 2
        resources, mirrors = source.resources[first : first + 2], source.mirrors
    files = []
    for location, _ in resources:
        archive = location.rsplit("/", 1)[-1]
        name = archive.removesuffix(".gz")
        known = {each: SHA256[dataset][each] for each in (name, archive) if each in SHA256[dataset]}
        files.append(IdxFile(name, known, tuple(mirror + location for mirror in mirrors)))
    return data_dir / source.__name__ / "raw", tuple(files)


def _read(file: IdxFile, folder: Path) -> bytes:
    """The verified content of a file, unpacked or downloaded first where needed."""
    paths = [folder / name for name in file.sha256]  # what is unpacked first, since it is faster
    problems: list[str] = []
    if not _writable(folder):
        for path in paths:
            try:
                return file.content(path)
            except (DataError, OSError) as error:
                problems.append(f"{path}: {error.strerror}" if isinstance(error, OSError) else str(error))
        raise DataError(
            f"{', '.join(problems)}, and the folder cannot be written; put good files there or point --data.data_dir"
            " or LIT_MNIST_DATA_DIR to a folder that can be written"
        )
    with contextlib.suppress(DataError, FileNotFoundError):
        return file.content(paths[0])
    with _locked(folder):
        for path in paths:  # the first again: the run that held the lock may have put it right
            try:
                content = file.content(path)
                break
            except FileNotFoundError:
                continue
            except DataError as error:
                log.warning(f"{error}; replacing it")
        else:
            path = folder / file.archive
            content = _download(file, path)
        if path.name != file.name and file.name in file.sha256:
            _write(folder / file.name, content)
    return content


def _writable(folder: Path) -> bool:
    """Whether files can be put into a folder. A folder without write bits counts as read-only for root, too."""
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    return os.access(folder, os.W_OK) and bool(folder.stat().st_mode & 0o222)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, so that of several runs one downloads; what a killed run left half done is removed."""
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.info(f"Waiting for another run that downloads into {folder}")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _write(path: Path, content: bytes) -> None:
    with write_whole(path) as part:
        part.write_bytes(content)


def _download(file: IdxFile, path: Path) -> bytes:
    """Put the archive in its place, from the first mirror that gives it whole; returns what is in it."""
    tried = []
    for url in file.urls:
        log.info(f"Downloading {url}")
        try:
            archive = download(url)
            content = file.verified(archive, file.archive)
        except (DownloadError, ValueError) as error:
            tried.append(f"{url}: {error}")
            log.info(f"failed, {tried[-1]}")
        else:
            _write(path, archive)
            return content
    raise DataError(
        f"{path.name} could not be downloaded ({'; '.join(tried)}); put the files into {path.parent}, point"
        " --data.data_dir or LIT_MNIST_DATA_DIR to a folder that has them, or use the embedded digits:"
        " --config configs/quickstart.yaml"
    )
