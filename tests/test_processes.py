"""Tests that need processes: signals, two devices, copies of the package, python -m."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import DIGITS, ROOT, Cli, run_cli, run_command
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lit_mnist.runs.folder import read_metrics

SOURCE = ROOT / "src" / "lit_mnist"
QUICK = (*DIGITS, "--trainer.accelerator", "cpu")
STARTER = ("__init__", "networks", "data", "metrics", "optim", "checkpoint", "classifier")


def start(folder: Path, *args: Any) -> "subprocess.Popen[str]":
    """Start a command in a folder, on one core."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PL_")} | {"OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "lit_mnist", *map(str, args)]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(words, cwd=folder, env=env, text=True, start_new_session=True, **streams)


def wait_for(path: Path, process: "subprocess.Popen[str]") -> None:
    for _ in range(600):
        if path.exists():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    raise AssertionError(f"{path} did not come")


@pytest.mark.parametrize(("number", "name"), [(signal.SIGINT, "Ctrl-C"), (signal.SIGTERM, "SIGTERM")])
def test_a_fit_that_is_stopped_says_how_it_goes_on_and_does(number: signal.Signals, name: str, tmp_path: Path) -> None:
    process = start(tmp_path, "fit", *QUICK, "--trainer.max_epochs", 5000, "--trainer.logger", "false")
    run = tmp_path / "lightning_logs/version_0"
    wait_for(run / "checkpoints/last.ckpt", process)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    (line,) = (line for line in err.splitlines() if line.strip())
    assert line == (
        f"stopped by {name}; resume with: python -m lit_mnist fit --ckpt_path"
        " lightning_logs/version_0/checkpoints/last.ckpt"
    )
    epochs = len(read_metrics(run))
    words = line.partition("lit_mnist ")[2].split()
    done = run_cli(*words, "--trainer.max_epochs", epochs + 2, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [row["epoch"] for row in read_metrics(run)] == list(range(1, epochs + 3))


def test_two_devices_equal_one_but_for_rounding(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a last batch that does not divide evenly, of which one device gets nothing."""
    options = (*QUICK, "--data.val_size", 413, "--trainer.max_epochs", 2)
    two = ("--trainer.devices", 2, "--trainer.strategy", "ddp", "--trainer.accelerator", "cpu")
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    for words in (("fit", *options, "--figures", "true", *two), ("test", *two)):
        done = run_cli(*words, cwd=tmp_path / "two")
        assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "two" / "lightning_logs").iterdir())) == 1
    monkeypatch.chdir(tmp_path / "one")
    cli("fit", *options, "--trainer.logger", "false").worked()
    cli("test").worked()
    runs = [tmp_path / name / "lightning_logs/version_0" for name in ("one", "two")]
    for first, second in zip(*map(read_metrics, runs), strict=True):
        assert {k: v for k, v in second.items() if k != "seconds"} == pytest.approx(
            {k: v for k, v in first.items() if k != "seconds"}, rel=1e-4
        )
    states = [torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"] for run in runs]
    for weight, other in zip(*(state.values() for state in states), strict=True):
        torch.testing.assert_close(weight, other, rtol=1e-3, atol=2e-5)
    tests = [(run / "per_class.csv").read_text() for run in runs]
    assert tests[0] == tests[1]
    speeds = EventAccumulator(str(runs[1])).Reload().Scalars("images_per_second")
    images = [point.value * row["seconds"] for point, row in zip(speeds, read_metrics(runs[1]), strict=True)]
    assert images == pytest.approx([1438 - 413] * 2, rel=1e-3), "of both devices"


def copy_of_the_package(folder: Path, rooms: tuple[str, ...]) -> dict[str, str]:
    """Copy some rooms of the package under another name; returns the environment to run it in."""
    shutil.copytree(SOURCE, folder / "my_digits", ignore=shutil.ignore_patterns("__pycache__"))
    for path in (folder / "my_digits").iterdir():
        if path.stem not in rooms:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in (folder / "my_digits").rglob("*.py"):
        path.write_text(path.read_text().replace("lit_mnist", "my_digits"))
    (folder / "sitecustomize.py").write_text("import sys; sys.modules['lit_mnist'] = None\n")  # which is installed
    return {"PYTHONPATH": str(folder)}


def test_the_starter_alone_fits_and_tests_with_lightnings_own_command_line(tmp_path: Path) -> None:
    environ = copy_of_the_package(tmp_path, STARTER)
    (tmp_path / "main.py").write_text(
        "from lightning.pytorch.cli import LightningCLI\n"
        "from my_digits import Classifier, MNISTDataModule\n"
        "LightningCLI(Classifier, MNISTDataModule)\n"
    )
    options = ("--data.dataset", "digits", "--trainer.max_epochs", 1, "--trainer.accelerator", "cpu")
    done = run_command(sys.executable, "main.py", "fit", *options, cwd=tmp_path, **environ)
    assert done.returncode == 0, done.stderr
    (checkpoint,) = tmp_path.glob("lightning_logs/version_0/checkpoints/*.ckpt")
    code = (
        f"import torch; from my_digits import Classifier; print(Classifier.load_from_checkpoint({str(checkpoint)!r}))"
    )
    assert "MLP" in run_command(sys.executable, "-c", code, cwd=tmp_path, **environ).stdout
    words = ("main.py", "test", "--ckpt_path", checkpoint, *options[:2])
    assert "test/accuracy" in run_command(sys.executable, *words, cwd=tmp_path, **environ).stdout
    done = run_cli("test", "--ckpt_path", checkpoint, "--trainer.accelerator", "cpu", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_the_readmes_command_gives_the_package_another_name(tmp_path: Path) -> None:
    (command,) = re.findall(r"^git mv src/lit_mnist .*", (ROOT / "README.md").read_text(), re.MULTILINE)
    shutil.copytree(SOURCE, tmp_path / "src" / "lit_mnist", ignore=shutil.ignore_patterns("__pycache__"))
    for step in ("git init --quiet", "git add src", command):
        subprocess.run(step, shell=True, cwd=tmp_path, check=True)
    (tmp_path / "src" / "sitecustomize.py").write_text("import sys; sys.modules['lit_mnist'] = None\n")  # is installed
    for step in (
        "fit --data.dataset digits --trainer.max_epochs 1",
        "test --ckpt_path pretrained --data.dataset digits",
    ):
        words = (sys.executable, "-m", "pets", *step.split(), "--trainer.accelerator", "cpu")
        done = run_command(*words, cwd=tmp_path, PYTHONPATH=str(tmp_path / "src"))
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "lightning_logs/version_1/test.json").exists(), "a run of its own, since its images are others"


def test_two_fits_that_start_at_once_in_an_empty_folder_get_a_run_each(tmp_path: Path) -> None:
    options = (*QUICK, "--trainer.max_epochs", 1, "--trainer.logger", "false")
    both = [start(tmp_path, "fit", *options) for _ in range(2)]
    for process in both:
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
    assert {path.name for path in (tmp_path / "lightning_logs").iterdir()} == {"version_0", "version_1"}


def test_the_installed_command_finds_modules_in_the_working_folder(tmp_path: Path) -> None:
    (tmp_path / "own_data.py").write_text("from lit_mnist import MNISTDataModule\nclass Own(MNISTDataModule): pass\n")
    words = ("fit", "--data", "own_data.Own", "--data.dataset", "digits", "--trainer.fast_dev_run", 1)
    done = run_command(Path(sys.executable).parent / "lit-mnist", *words, "--trainer.accelerator", "cpu", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
