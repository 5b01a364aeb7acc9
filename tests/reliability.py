"""What the reliability tests share: commands in fresh processes, what a run left, and folders on a small disk."""

import csv
import multiprocessing
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch

os.environ.setdefault("OMP_NUM_THREADS", "1")

# Each process is forked from one that has imported the program: as fresh as one from the shell, without the seconds.
FRESH = multiprocessing.get_context("forkserver")
FRESH.set_forkserver_preload(["lit_mnist.program", "tensorboard"])

DIGITS = ("fit", "--data.dataset", "digits", "--model.network.dropout", "[0.4,0.3]", "--trainer.accelerator", "cpu")
RUN = Path("lightning_logs/version_0")
CHECKPOINTS = RUN / "checkpoints"

KNOWN_COMPLAINTS = re.compile(
    r"^.*The dirpath has changed.*\n"  # Lightning's own ModelCheckpoint, in a run that was moved
    r"|^.*Using ModelCheckpoint with manual optimization(.*\n)*? +optimizer.step\(\)\n"  # with several steps at once
    r"|^terminate called without an active exception\n",  # gloo, now and then, as a process ends
    re.MULTILINE,
)


@dataclass
class Ended:
    """How a command ended and what it said."""

    status: int
    out: str
    err: str


def start(folder: Path, *args: Any, environ: dict[str, str] | None = None, max_file: int | None = None) -> BaseProcess:
    """Start the command line in a fresh process of its own.

    Args:
        folder: Working folder; what the command says goes to its files out and err.
        args: The command's arguments.
        environ: Environment variables to add.
        max_file: The largest size in bytes that a file may grow to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    process = FRESH.Process(target=_command, args=(folder, list(map(str, args)), environ or {}, max_file))
    process.start()
    return process


def _command(folder: Path, args: list[str], environ: dict[str, str], max_file: int | None) -> None:
    import lit_mnist.program

    os.chdir(folder)
    os.environ.update(environ)
    for number, name in ((1, "out"), (2, "err")):
        with Path(name).open("w") as file:
            os.dup2(file.fileno(), number)
    torch.set_num_threads(1)
    sys.argv = ["lit-mnist", *args]
    if max_file:
        resource.setrlimit(resource.RLIMIT_FSIZE, (max_file, max_file))
    lit_mnist.program.main()


def run(folder: Path, *args: Any, **options: Any) -> Ended:
    """Run the command line in a fresh process of its own and wait for its end."""
    process = start(folder, *args, **options)
    process.join()
    return ended(process.exitcode, folder)


def ended(status: int | None, folder: Path) -> Ended:
    """The result of a command that ran in a folder."""
    assert status is not None
    return Ended(status, (folder / "out").read_text(), (folder / "err").read_text())


def fit(folder: Path, *args: Any, **options: Any) -> Path:
    """Run a command that succeeds without a complaint; returns the first run folder."""
    return assert_fitted(folder, run(folder, *args, **options))


def assert_fitted(folder: Path, done: Ended) -> Path:
    """The command succeeded without a complaint; returns the first run folder."""
    assert done.status == 0, done.err
    assert KNOWN_COMPLAINTS.sub("", done.err) == "", done.err
    return folder / RUN


def shell(folder: Path, *args: Any) -> subprocess.Popen[bytes]:
    """Start ``python -m lit_mnist`` as a shell does, leading a process group of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "out").open("w") as out, (folder / "err").open("w") as err:
        return subprocess.Popen(
            [sys.executable, "-m", "lit_mnist", *map(str, args)],
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=out,
            stderr=err,
            start_new_session=True,
        )


def assert_one_line(done: Ended, *words: str, status: int = 2) -> None:
    """The command failed with one line that has all of these words in it."""
    assert done.status == status, done.err
    assert done.err.startswith("lit-mnist: error: "), done.err
    assert done.err.count("\n") == 1, done.err
    assert "Traceback" not in done.out
    for word in words:
        assert word in done.err, done.err


def wait_for(condition: Callable[[], Any], seconds: float = 60) -> None:
    """Wait until something holds, or fail."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


def rows(run: Path) -> list[dict[str, str]]:
    """The rows of metrics.csv without the time that each epoch took."""
    if not (run / "metrics.csv").exists():
        return []
    with (run / "metrics.csv").open(newline="") as file:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


def content(checkpoint: Path) -> Any:
    """All of a checkpoint but times, the state of Lightning's own ModelCheckpoints and the folders of other files."""
    saved = torch.load(checkpoint, weights_only=True)
    callbacks = saved.get("callbacks", {})
    saved["callbacks"] = {key: state for key, state in callbacks.items() if not key.startswith("ModelCheckpoint")}
    return _plain(saved)


UNLIKE = {"seconds", "time_elapsed", "dirpath", "current_score"}  # the last is of the epoch before; nothing reads it


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items() if key not in UNLIKE}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return Path(value).name if isinstance(value, str) and value.endswith(".ckpt") else value


def differences(a: Any, b: Any, where: str = "") -> list[str]:
    """Places where two contents of checkpoints are not the same, bit for bit."""
    if isinstance(a, dict) and isinstance(b, dict):
        keys = [key for key in (*a, *b) if key not in a or key not in b]
        common = [key for key in a if key in b]
        return [f"{where}/{key}" for key in keys] + [x for k in common for x in differences(a[k], b[k], f"{where}/{k}")]
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        return [x for i, pair in enumerate(zip(a, b, strict=True)) for x in differences(*pair, f"{where}/{i}")]
    same = torch.equal(a, b) if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) else a == b
    return [] if same else [f"{where}: {a} != {b}"[:200]]


def assert_same_run(a: Path, b: Path) -> None:
    """Two runs left the same weights, optimizer state, progress and random state, and the same metrics."""
    for name in ("last", "best"):
        path = f"checkpoints/{name}.ckpt"
        found = differences(content(a / path), content(b / path))
        assert not found, found
    assert rows(a) == rows(b) != [], (rows(a), rows(b))


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """A file system of so many bytes, where this machine lets us have one."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        failed = subprocess.run(mount, capture_output=True, text=True, check=False).stderr
    except OSError as error:
        failed = str(error)
    if failed:
        pytest.skip(f"needs to mount a small disk: {failed.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def fill(folder: Path, left: int) -> None:
    """Fill the disk of a folder until so many bytes are left."""
    disk = os.statvfs(folder)
    (folder / "filler").write_bytes(bytes(disk.f_bavail * disk.f_frsize - left))
