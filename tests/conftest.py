"""What several test files share: small data, the command line in and out of process, and one trained run."""

import copy
import hashlib
import logging
import os
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import numpy as np
import pytest
import torch

import lit_mnist.program
from lit_mnist import MNISTDataModule
from lit_mnist.data.checksums import SHA256

torch.set_num_threads(1)

DIGITS = ("--data.dataset", "digits", "--data.batch_size", "32")


@pytest.fixture(autouse=True)
def _isolated() -> Iterator[None]:
    """Start from the same random state, and put back what a command line or a Trainer changes for the process."""
    environ = dict(os.environ)
    for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):
        os.environ.pop(name, None)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric", "lit_mnist")]
    levels = [logger.level for logger in loggers]
    excepthook = threading.excepthook
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)
    for number, handler in handlers.items():
        signal.signal(number, handler)
    threading.excepthook = excepthook
    os.environ.clear()
    os.environ.update(environ)


def write_idx(path: Path, array: np.ndarray) -> None:
    """Write an array of bytes as an IDX file."""
    header = struct.pack(f">HBB{array.ndim}I", 0, 0x08, array.ndim, *array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


@pytest.fixture(scope="session")
def fashion_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A data folder with 300 training and 40 test images of noise, of which image i has label i % 10.

    This process takes them for the true Fashion-MNIST.
    """
    folder = tmp_path_factory.mktemp("data")
    raw = folder / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    random = np.random.default_rng(0)
    for prefix, count in (("train", 300), ("t10k", 40)):
        write_idx(raw / f"{prefix}-images-idx3-ubyte", random.integers(0, 256, (count, 28, 28)))
        write_idx(raw / f"{prefix}-labels-idx1-ubyte", np.arange(count) % 10)
    known = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(raw.iterdir())}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SHA256, "fashion_mnist", known)
        yield folder


@pytest.fixture(scope="session")
def mnist_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with a copy of real MNIST's archives and nothing else, so that the original stays as it is."""
    source = os.environ.get("LIT_MNIST_DATA_DIR")
    archives = sorted(Path(source, "MNIST", "raw").glob("*-ubyte.gz")) if source else []
    if len(archives) != 4:
        pytest.skip("needs the four archives of MNIST in LIT_MNIST_DATA_DIR/MNIST/raw")
    folder = tmp_path_factory.mktemp("mnist")
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for archive in archives:
        shutil.copy(archive, raw)
    return folder


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
        for name in ("checkpointing", "progress_bar", "model_summary"):
            defaults[f"enable_{name}"] = False
        return L.Trainer(**{**defaults, "default_root_dir": tmp_path, **options})

    return make


@dataclass
class Result:
    """How a command ended and what it said."""

    status: int
    out: str
    err: str


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Run the command line in this process and in an empty folder; much faster than a process of its own."""
    monkeypatch.chdir(tmp_path)

    def run(*args: Any) -> Result:
        monkeypatch.setattr(sys, "argv", ["lit-mnist", *map(str, args)])
        capsys.readouterr()
        try:
            lit_mnist.program.main()
            status = 0
        except SystemExit as end:
            status = int(end.code or 0)
        return Result(status, *capsys.readouterr())

    return run


def run_cli(*args: Any, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run ``python -m lit_mnist`` as a process of its own."""
    return run_command(sys.executable, "-m", "lit_mnist", *args, cwd=cwd)


def run_command(*command: Any, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a program on one core, without what Lightning may have left in the environment."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PL_")}
    environ["OMP_NUM_THREADS"] = "1"
    return subprocess.run(
        list(map(str, command)), cwd=cwd, env=environ, capture_output=True, text=True, timeout=300, check=False
    )


@dataclass
class Trained:
    """A finished fit: where it ran, its run folder and what it printed."""

    folder: Path
    run: Path
    out: str
    err: str

    @property
    def test_command(self) -> list[str]:
        """The arguments of the test command that the fit printed."""
        line = next(line for line in self.out.splitlines() if line.startswith("test it with"))
        return shlex.split(line.removeprefix("test it with"))


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Two epochs on the digits with hidden layers of other sizes; not to be changed."""
    folder = tmp_path_factory.mktemp("trained")
    options = ("--trainer.max_epochs", 2, "--model.network.hidden_sizes", "[32, 16]", "--model.network.dropout", 0.1)
    done = run_cli("fit", *DIGITS, *options, "--seed_everything", 7, cwd=folder)
    assert done.returncode == 0, done.stderr
    return Trained(folder, folder / "lightning_logs" / "version_0", done.stdout, done.stderr)


@pytest.fixture
def own_run(trained: Trained, cli: Callable[..., Result], tmp_path: Path) -> Path:
    """A copy of the trained run in the folder of this test."""
    return Path(shutil.copytree(trained.run, tmp_path / "lightning_logs" / "version_0"))
