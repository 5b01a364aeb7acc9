"""What commands print of names from elsewhere: nothing that steers a terminal, and commands that can be copied."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import DIGITS, Result, run_command

Cli = Callable[..., Result]
ODD = "it's $(touch pwned) \x1b[31m\x9b\u202ered\n数\udcff"


def assert_calm(*texts: str) -> None:
    """Each line is text alone."""
    for text in texts:
        assert [line for line in text.split("\n") if not line.isprintable()] == []


def test_a_fit_in_an_odd_folder_prints_commands_that_work(tmp_path: Path) -> None:
    options = (
        *DIGITS,
        "--trainer.max_epochs",
        1,
        "--trainer.accelerator",
        "cpu",
        "--trainer.default_root_dir",
        ODD.strip("\udcff"),
    )
    done = run_command(sys.executable, "-m", "lit_mnist", "fit", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert_calm(done.stdout, done.stderr)
    lines = [line for line in done.stdout.splitlines() if line.startswith("test it with")]
    command = lines[0].removeprefix("test it with").replace("python", sys.executable, 1)
    tested = run_command("bash", "-c", command, cwd=tmp_path)
    assert tested.returncode == 0, tested.stderr
    assert_calm(tested.stdout, tested.stderr)
    assert "test_accuracy" in tested.stdout
    logs = next(line for line in done.stdout.splitlines() if line.startswith("curves")).partition("--logdir ")[2]
    shown = subprocess.run(["bash", "-c", f"ls {logs}"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert shown.stdout == "version_0\n"
    assert not (tmp_path / "pwned").exists()


@pytest.fixture
def odd_run(own_run: Path, tmp_path: Path) -> Path:
    """The trained run in an odd folder, with a relative path."""
    return Path(shutil.move(own_run, tmp_path / ODD)).relative_to(tmp_path)


@pytest.mark.parametrize(
    "args",
    [
        ("test", "--ckpt_path", "{}/checkpoints/best.ckpt"),
        ("validate", "--ckpt_path", "{}/checkpoints/best.ckpt"),
        ("export", "--ckpt_path", "{}/checkpoints/best.ckpt", "--format", "torch_export"),
        ("report", "{}", "--output", ODD + ".html"),
        ("test", "--ckpt_path", "{}/config.yaml"),
        ("test", "--ckpt_path", ODD + ".ckpt"),
        ("fit", "--ckpt_path", "{}/checkpoints/best.ckpt", "--data.dataset", "mnist"),
        ("fit", "--config", ODD),
        ("fit", "--data.data_dir", "{}/config.yaml"),
        ("fit", "--model.lr", ODD),
        ("fit", f"--{ODD}", "1"),
        (ODD,),
        ("export", "--output", ODD, "--ckpt_path", "{}/checkpoints/best.ckpt", "--format", "torch_export"),
        ("predict", ODD + ".png", "--ckpt_path", "{}/checkpoints/best.ckpt"),
        ("predict", ODD + ".png", "--output", ODD),
        ("demo", "--host", ODD, "--port", "0", "--ckpt_path", "{}/checkpoints/best.ckpt"),
        ("demo", "--host", "a" * 64, "--ckpt_path", "{}/checkpoints/best.ckpt"),
        ("report", ODD + "/none"),
        ("report", "{}", "--output", ODD + "/none.html"),
        ("reproduce", "--runs", ODD),
    ],
)
def test_no_command_prints_what_steers_a_terminal(args: tuple[str, ...], cli: Cli, odd_run: Path) -> None:
    done = cli(*(arg.replace("{}", str(odd_run)) for arg in args))
    assert_calm(done.out, done.err)
    assert "Traceback" not in done.err
    assert done.status in (0, 1, 2)
    assert done.err.count("\n") == (done.status != 0)
