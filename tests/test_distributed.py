"""Several devices give what one gives, and stop together when one of them is lost."""

import os
import signal
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from reliability import DIGITS, FRESH, RUN, assert_fitted, assert_one_line, ended, fit, rows, run, shell, wait_for

from lit_mnist import Classifier, MNISTDataModule

pytestmark = pytest.mark.slow

DEVICES = (1, 2, 3, 4, 7)
IMAGES = {"validate": 12_000, "test": 10_000}


class Tally(Callback):
    """Leaves a file for each device: how many images it was given and how many its metrics count."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.given = 0

    def on_test_batch_end(self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, *_: Any) -> None:
        self._count(trainer, module.test_accuracy, module.test_loss, batch)

    def on_validation_batch_end(self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, *_: Any) -> None:
        self._count(trainer, module.val_accuracy, module.val_loss, batch)

    def _count(self, trainer: L.Trainer, accuracy: Any, loss: Any, batch: Any) -> None:
        self.given += len(batch[1])
        counted = (self.given, int(accuracy.tp + accuracy.fn), int(loss.weight))
        torch.save(counted, self.folder / f"{trainer.global_rank}.pt")


def trainer(devices: int, folder: Path, **options: Any) -> L.Trainer:
    """A silent Trainer on so many processes, each forked from this one."""
    silent = {f"enable_{name}": False for name in ("checkpointing", "progress_bar", "model_summary")}
    strategy = {"strategy": "ddp_fork"} if devices > 1 else {}
    return L.Trainer(
        accelerator="cpu", devices=devices, logger=False, default_root_dir=folder, **strategy, **silent, **options
    )


def evaluate(folder: Path, data_dir: Path) -> None:
    """Test and validate one network on each number of devices and leave the results in the folder."""
    torch.set_num_threads(1)
    data = MNISTDataModule(data_dir=str(data_dir))
    results = {}
    for devices in DEVICES:
        for command in IMAGES:
            tally = folder / f"{command}_{devices}"
            tally.mkdir()
            torch.manual_seed(0)
            run = getattr(trainer(devices, folder, callbacks=[Tally(tally)]), command)
            (metrics,) = run(Classifier(), data, verbose=False)
            counted = [torch.load(path) for path in tally.iterdir()]
            results[command, devices] = {name.partition("/")[2]: value for name, value in metrics.items()}
            results[command, devices]["counted"] = [sum(column) for column in zip(*counted, strict=True)]
            results[command, devices]["processes"] = len(counted)
    torch.save(results, folder / "results.pt")


def train(folder: Path, devices: int, precision: Any, batches: int | None, **data: Any) -> None:
    """Train for one epoch, or so many batches of it, without dropout and leave the weights in the folder."""
    torch.set_num_threads(1)
    L.seed_everything(0, verbose=False)
    options = {"max_epochs": 1, "num_sanity_val_steps": 0, "precision": precision, "limit_train_batches": batches}
    trainer(devices, folder, callbacks=[SaveWeights(folder)], **options).fit(Classifier(), MNISTDataModule(**data))


class SaveWeights(Callback):
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        metrics = {name: value.item() for name, value in trainer.callback_metrics.items()}
        torch.save((module.state_dict(), metrics), self.folder / f"{trainer.world_size}_{trainer.global_rank}.pt")


def in_fresh_process(function: Any, *args: Any) -> None:
    process = FRESH.Process(target=function, args=args)
    process.start()
    process.join()
    assert process.exitcode == 0


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory, mnist_dir: Path) -> dict[tuple[str, int], dict[str, Any]]:
    folder = tmp_path_factory.mktemp("evaluated")
    in_fresh_process(evaluate, folder, mnist_dir)
    return torch.load(folder / "results.pt")


@pytest.mark.parametrize("command", IMAGES)
@pytest.mark.parametrize("devices", DEVICES)
def test_any_number_of_devices_counts_every_image_once_and_gives_the_same_metrics(
    command: str, devices: int, evaluated: dict[tuple[str, int], dict[str, Any]]
) -> None:
    result, alone = evaluated[command, devices], evaluated[command, 1]
    assert result["processes"] == devices
    assert result["counted"] == [IMAGES[command]] * 3
    assert result["accuracy"] == alone["accuracy"]
    assert result["loss"] == pytest.approx(alone["loss"], abs=1e-6)


# In float32 the two sum in another order, and after some 250 steps of MNIST RMSprop has grown that rounding past any
# bound; float64 shows over the whole epoch that nothing else differs.
@pytest.mark.parametrize(
    ("dataset", "precision", "batches", "difference"),
    [
        ("mnist", "64-true", None, 1e-12),
        ("mnist", "32-true", 200, 1e-5),
        ("digits", "64-true", None, 1e-12),
        ("digits", "32-true", None, 1e-5),
    ],
)
def test_two_devices_train_the_weights_of_one(
    dataset: str,
    precision: str,
    batches: int | None,
    difference: float,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    data = {"dataset": dataset}
    if dataset == "mnist":
        data["data_dir"] = str(request.getfixturevalue("mnist_dir"))
    for devices in (1, 2):
        in_fresh_process(partial(train, **data), tmp_path, devices, precision, batches)
    (weights, metrics), *others = (torch.load(tmp_path / f"{name}.pt") for name in ("1_0", "2_0", "2_1"))
    for other_weights, other_metrics in others:
        for name in (name for name in weights if name.startswith("model.")):
            torch.testing.assert_close(other_weights[name], weights[name], rtol=0, atol=difference)
        assert other_metrics == pytest.approx(metrics, abs=1e-5)


def test_the_command_line_tests_on_three_devices_what_it_tests_on_one(tmp_path: Path) -> None:
    fit(tmp_path, *DIGITS, "--trainer.max_epochs", 1)
    alone = run(tmp_path, "test", "--trainer.accelerator", "cpu").out
    options = ("--trainer.accelerator", "cpu", "--trainer.devices", 3, "--trainer.strategy", "ddp")
    process = shell(tmp_path, "test", *options)
    done = ended(process.wait(120), tmp_path)
    assert_fitted(tmp_path, done)
    assert done.out == alone


# Lost processes


def children(pid: int) -> list[int]:
    """The processes of this program that a process has started."""
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    found = (line.split(None, 2) for line in listed.splitlines())
    return [int(own) for own, parent, *args in found if int(parent) == pid and "fit" in "".join(args)]


def alive(group: int) -> bool:
    """Whether a process of this group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("lost", ["child", "parent"])
def test_when_a_process_is_lost_the_others_stop_within_a_minute_and_the_run_resumes(lost: str, tmp_path: Path) -> None:
    two = ("--trainer.devices", 2, "--trainer.strategy", "ddp")
    process = shell(tmp_path, *DIGITS, *two, "--trainer.max_epochs", 10_000)
    try:
        wait_for(lambda: len(rows(tmp_path / RUN)) >= 2 or process.poll() is not None)
        (child,) = children(process.pid)
        os.kill(child if lost == "child" else process.pid, signal.SIGKILL)
        status = process.wait(60)
        wait_for(lambda: not alive(process.pid), seconds=60)
    finally:
        if alive(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
    assert status != 0
    done = ended(1, tmp_path)
    assert_one_line(done, "another process of this run stopped", "fit --ckpt_path last", status=1)
    epochs = len(rows(tmp_path / RUN)) + 1
    process = shell(tmp_path, "fit", "--ckpt_path", "last", "--trainer.max_epochs", epochs)
    assert_fitted(tmp_path, ended(process.wait(120), tmp_path))
    assert [int(row["epoch"]) for row in rows(tmp_path / RUN)] == list(range(1, epochs + 1))
