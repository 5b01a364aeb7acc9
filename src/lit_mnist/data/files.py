"""The data set files: find, verify, unpack and, where they are missing, download them."""

import contextlib
import errno
import gzip
import hashlib
import logging
import math
import os
import shutil
import socket
import struct
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from torch import Tensor

log = logging.getLogger(__name__)

DOWNLOAD_TIMEOUT = 30.0  # seconds without a byte, after which the next mirror is tried

# SHA-256 of the unpacked MNIST files. torchvision knows only the MD5 of the archives, which covers the other sets.
SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}

IDX_TYPES = {0x08: ">u1", 0x0C: ">i4"}  # the element types that these data sets use


class DataError(Exception):
    """The data set cannot be had whole and unharmed; the message is one line that says what to do."""


@dataclass(frozen=True)
class IdxFile:
    """One file of a data set: its name unpacked, what verifies it, and where it comes from."""

    name: str
    md5: str  # of the archive, from torchvision
    sha256: str | None  # of the unpacked content, where known
    urls: tuple[str, ...]

    def content(self, path: Path) -> bytes:
        """Verified content of the file or of its archive; FileNotFoundError or, where it is damaged, DataError."""
        content = path.read_bytes()
        try:
            if path.suffix == ".gz":
                if hashlib.md5(content, usedforsecurity=False).hexdigest() != self.md5:
                    raise ValueError("its MD5 differs")
                content = gzip.decompress(content)
            if self.sha256 and hashlib.sha256(content).hexdigest() != self.sha256:
                raise ValueError("its SHA-256 differs")
            parse_idx(content)
        except (ValueError, OSError, EOFError, zlib.error) as error:
            raise DataError(f"{path} is damaged: {error}") from error
        return content


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

    Files that lie in ``data_dir/<dataset>/raw`` are used, unpacked or as archives, also where the folder cannot be
    written. What is missing or damaged there is unpacked again or downloaded from torchvision's mirrors.

    Args:
        dataset: mnist, fashion_mnist, kmnist or qmnist.
        data_dir: Folder in torchvision's layout.
        split: The training or the test images.

    Returns:
        Images (N, 28, 28) uint8 and labels (N,) int64 in 0..9, in file order.

    Raises:
        DataError: The files are missing or damaged and could not be replaced.
    """
    folder, (images_file, labels_file) = _files(dataset, data_dir, split)
    images, labels = _read(images_file, folder), _read(labels_file, folder)
    labels = labels if labels.ndim == 1 else labels[:, 0]  # qmnist's rows hold the class first
    if images.shape != (len(labels), 28, 28) or labels.size == 0 or labels.max() > 9 or labels.min() < 0:
        raise DataError(
            f"{folder}: {images_file.name} {images.shape} and {labels_file.name} {labels.shape} do not belong together"
            " as images of 28x28 and labels 0..9; delete both to download them again"
        )
    return torch.tensor(images), torch.tensor(labels, dtype=torch.int64)


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
    for location, md5 in resources:
        name = location.rsplit("/", 1)[-1].removesuffix(".gz")
        sha256 = SHA256[name] if source is MNIST else None
        files.append(IdxFile(name, md5, sha256, tuple(mirror + location for mirror in mirrors)))
    return data_dir / source.__name__ / "raw", tuple(files)


def _read(file: IdxFile, folder: Path) -> NDArray[np.uint8 | np.int32]:
    """The verified array of a file, unpacked or downloaded first where needed."""
    raw, archive = folder / file.name, folder / f"{file.name}.gz"
    problems: list[str] = []
    if not _writable(folder):
        for path in (raw, archive):
            try:
                return parse_idx(file.content(path))
            except (DataError, OSError) as error:
                problems.append(str(error) if isinstance(error, DataError) else f"{path}: {error.strerror}")
        raise DataError(
            f"{', '.join(problems)}, and the folder cannot be written; put good files there or point --data.data_dir"
            " or LIT_MNIST_DATA_DIR to a folder that can be written"
        )
    with contextlib.suppress(DataError, FileNotFoundError):
        return parse_idx(file.content(raw))
    with _locked(folder):
        for path in (raw, archive):  # raw again: the run that held the lock may have put it right
            try:
                content = file.content(path)
                break
            except FileNotFoundError:
                continue
            except DataError as error:
                log.warning(f"{error}; replacing it")
        else:
            _download(file, folder)
            content = file.content(archive)
        if path != raw:
            with _whole(raw) as part:
                part.write_bytes(content)
        return parse_idx(content)


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
        for leftover in folder.glob(".part-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        yield
    except OSError as error:
        raise DataError(f"{folder} cannot be written: {error.strerror or error}") from error
    finally:
        lock.release()


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A place to write a file that then takes the name of ``path`` whole, or never."""
    with tempfile.TemporaryDirectory(prefix=".part-", dir=path.parent) as folder:
        part = Path(folder) / path.name
        yield part
        part.replace(path)


def _download(file: IdxFile, folder: Path) -> None:
    """Download the archive from the first mirror that gives it whole."""
    from torchvision.datasets.utils import download_url

    archive, tried = f"{file.name}.gz", []
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)  # download_url sets none of its own
    try:
        for url in file.urls:
            log.info(f"Downloading {url}")
            try:
                with _whole(folder / archive) as part:
                    download_url(url, part.parent, filename=archive, md5=file.md5)
                return
            except (OSError, RuntimeError, HTTPException) as error:  # a mirror's fault, unless the disk is full
                if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
                    raise
                reason = getattr(error, "reason", error)
                tried.append(f"{url}: {getattr(reason, 'strerror', None) or reason}")
                log.info(f"failed, {tried[-1]}")
    finally:
        socket.setdefaulttimeout(before)
    raise DataError(
        f"{archive} could not be downloaded ({'; '.join(tried)}); put the files into {folder}, point --data.data_dir or"
        " LIT_MNIST_DATA_DIR to a folder that has them, or use the embedded digits: --config configs/quickstart.yaml"
    )
