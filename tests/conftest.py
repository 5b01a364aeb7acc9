"""Shared fixtures: small data, the command line in this process, and runs that are trained once."""

import copy
import logging
import os
import random
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Checkpoint

from lit_mnist import MNISTDataModule
from lit_mnist.__main__ import main

torch.set_num_threads(1)

ROOT = Path(__file__).parent.parent
DIGITS = ("--data.dataset", "digits", "--data.batch_size", "32")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the files that take longest, so that two workers end together."""
    longest = ["launch", "cli", "processes", "cases", "documents", "demo"]
    longest = [f"test_{name}.py" for name in longest]
    items.sort(key=lambda item: longest.index(item.path.name) if item.path.name in longest else len(longest))


@pytest.fixture(autouse=True)
def _isolated() -> Iterator[None]:
    """Start from the same random state, and put back what a command line or a Trainer changes for the process."""
    environ = dict(os.environ)
    for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):
        os.environ.pop(name, None)
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    states = random.getstate(), np.random.get_state()
    torch.set_float32_matmul_precision("highest")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
    random.setstate(states[0])
    np.random.set_state(states[1])
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)
    os.environ.clear()
    os.environ.update(environ)


def write_idx(path: Path, array: np.ndarray) -> None:
    """Write an array of bytes as an IDX file."""
    header = struct.pack(f">HBB{array.ndim}I", 0, 0x08, array.ndim, *array.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


@pytest.fixture(scope="session")
def fashion_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with 300 training and 40 test images of noise as Fashion-MNIST, image i of label i % 10."""
    folder = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    for prefix, count in (("train", 300), ("t10k", 40)):
        raw = folder / "FashionMNIST" / "raw"
        write_idx(raw / f"{prefix}-images-idx3-ubyte", random.integers(0, 256, (count, 28, 28)))
        write_idx(raw / f"{prefix}-labels-idx1-ubyte", np.arange(count) % 10)
    return folder


@pytest.fixture(scope="session")
def mnist_dir() -> Path:
    """The data folder of real MNIST, which is not to be changed."""
    folder = Path(os.environ.get("LIT_MNIST_DATA_DIR", "")).resolve()
    if not (folder / "MNIST" / "raw" / "train-images-idx3-ubyte.gz").exists():
        pytest.skip("needs real MNIST in LIT_MNIST_DATA_DIR")
    return folder


@pytest.fixture(scope="session")
def mnist(mnist_dir: Path) -> MNISTDataModule:
    """Real MNIST, loaded once."""
    data = MNISTDataModule(data_dir=str(mnist_dir))
    data.prepare_data()
    data.setup()
    return data


@pytest.fixture(scope="session")
def _loaded_digits() -> MNISTDataModule:
    data = MNISTDataModule(dataset="digits", batch_size=32)
    data.setup()
    return data


@pytest.fixture
def digits(_loaded_digits: MNISTDataModule) -> MNISTDataModule:
    """The embedded digits in batches of 32, loaded once, with no Trainer from another test."""
    return copy.copy(_loaded_digits)


@pytest.fixture
def quiet(tmp_path: Path) -> Callable[..., L.Trainer]:
    """A Trainer on the CPU that shows and leaves nothing."""

    def make(**options: Any) -> L.Trainer:
        defaults: dict[str, Any] = {"accelerator": "cpu", "devices": 1, "logger": False, "num_sanity_val_steps": 0}
        checkpoints = any(isinstance(one, Checkpoint) for one in options.get("callbacks", []))
        defaults |= {"enable_checkpointing": checkpoints, "enable_progress_bar": False, "enable_model_summary": False}
        return L.Trainer(**{**defaults, "default_root_dir": tmp_path, **options})

    return make


@dataclass
class Result:
    """Exit status and output of a command."""

    status: int
    out: str
    err: str

    def refused(self, *words: str, status: int = 2) -> None:
        """Assert that it ended in one line on stderr that has these words."""
        assert self.status == status, self.err
        assert self.err.startswith("lit-mnist: error: "), self.err
        assert self.err.count("\n") == 1, self.err
        for word in words:
            assert word in self.err

    def worked(self) -> "Result":
        """Assert that it ended well and had nothing to say on stderr."""
        assert (self.status, self.err) == (0, "")
        return self


Cli = Callable[..., Result]


@pytest.fixture
def one_thread() -> Iterator[None]:
    """PyTorch on one thread, as in a worker of reproduce and tune."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run the command line in this process and in an empty folder; much faster than a process of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)

    def run(*args: Any) -> Result:
        capsys.readouterr()
        try:
            main(args=list(map(str, args)))
            status = 0
        except SystemExit as end:
            status = int(end.code or 0)
        return Result(status, *capsys.readouterr())

    return run


def run_command(*command: Any, cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a program as a process on one core, without what Lightning may have left in the environment."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PL_")}
    env |= {"OMP_NUM_THREADS": "1", **environ}
    words = list(map(str, command))
    return subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True, timeout=300, check=False)


def run_cli(*args: Any, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run ``python -m lit_mnist`` as a process of its own."""
    return run_command(sys.executable, "-m", "lit_mnist", *args, cwd=cwd)


@dataclass
class Trained:
    """A finished fit: where it ran, its run folder and what it printed."""

    folder: Path
    run: Path
    out: str
    err: str


def train(folder: Path, *args: Any) -> Trained:
    """A fit in a process of its own."""
    done = run_cli("fit", *args, "--trainer.accelerator", "cpu", cwd=folder)
    assert done.returncode == 0, done.stderr
    return Trained(folder, folder / "lightning_logs" / "version_0", done.stdout, done.stderr)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Two epochs on the digits with hidden layers of other sizes; not to be changed."""
    options = ("--trainer.max_epochs", 2, "--model.network.hidden_sizes", "[32, 16]", "--model.network.dropout", 0.1)
    return train(tmp_path_factory.mktemp("trained"), *DIGITS, *options, "--seed_everything", 7)


@pytest.fixture
def own_run(trained: Trained, cli: Cli, tmp_path: Path) -> Path:
    """A copy of the trained run in the folder of this test."""
    return Path(shutil.copytree(trained.run, tmp_path / "lightning_logs" / "version_0"))


@pytest.fixture(scope="session")
def on_mnist(tmp_path_factory: pytest.TempPathFactory, mnist_dir: Path) -> Path:
    """The checkpoint of two epochs on real MNIST, which reads 96 % of the digits; not to be changed."""
    options = ("--data.data_dir", mnist_dir, "--trainer.max_epochs", 2, "--trainer.logger", "false")
    return train(tmp_path_factory.mktemp("mnist"), *options).run / "checkpoints" / "best.ckpt"


@pytest.fixture(scope="session")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image file of one of the digits."""
    from PIL import Image

    data = MNISTDataModule("digits")
    data.setup("test")
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    Image.fromarray(data.splits["test"][0][3].numpy()).resize((200, 200)).save(path)
    return path
