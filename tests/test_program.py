"""The program as a process: whatever its environment, its streams and the bytes of its files, it ends in a line."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import DIGITS, Result, run_command
from reliability import Ended, assert_one_line

FIT = ("fit", *DIGITS, "--trainer.accelerator", "cpu", "--trainer.max_epochs", 1)


def shell(folder: Path, line: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a line of shell in which $PROGRAM is the program."""
    program = {**os.environ, "PROGRAM": f"{sys.executable} -m lit_mnist", "OMP_NUM_THREADS": "1", **environ}
    return subprocess.run(["sh", "-c", line], cwd=folder, env=program, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_without_docstrings_everything_works(tmp_path: Path) -> None:
    done = run_command(sys.executable, "-OO", "-m", "lit_mnist", *FIT, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert run_command(sys.executable, "-OO", "-m", "lit_mnist", "predict", "--help", cwd=tmp_path).returncode == 0


@pytest.mark.slow
def test_a_backend_of_matplotlib_that_does_not_exist_is_not_used(own_run: Path, tmp_path: Path) -> None:
    done = shell(tmp_path, "$PROGRAM test --trainer.accelerator cpu", MPLBACKEND="nonsense")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
@pytest.mark.parametrize("streams", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_predict_answers_in_its_file_though_its_streams_are_closed(streams: str, own_run: Path, tmp_path: Path) -> None:
    photo = Path(__file__).parent.parent / "docs" / "preparation.png"
    done = shell(tmp_path, f"$PROGRAM predict {photo} missing.png --output x.csv {streams}")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr
    assert len((tmp_path / "x.csv").read_text().splitlines()) == 2
    assert {path.name for path in tmp_path.iterdir()} == {"x.csv", "lightning_logs"}


@pytest.mark.slow
def test_what_is_shown_on_a_full_disk_gets_one_line(own_run: Path, tmp_path: Path) -> None:
    photo = Path(__file__).parent.parent / "docs" / "preparation.png"
    done = shell(tmp_path, f"$PROGRAM predict {photo} > /dev/full")
    assert_one_line(Ended(done.returncode, done.stdout, done.stderr), "No space left on device", status=1)


@pytest.mark.parametrize(
    "content",
    [
        b"model:\n  lr: 0.001  # \xe9\n",  # Latin-1
        "model:\n  lr: 0.001\n".encode("utf-16"),
        b"\x7fELF\x02\x01\x01\x00\xff\xfe\x00",
        b"",
        b"# only a comment\n",
        b"[1, 2]\n",
        b"text\n",
        b"model: [1\n",
        b"model:\n\tlr: 1\n",
        b"\0\0\0\0",
        None,
    ],
)
def test_a_config_of_another_form_gets_one_line(
    content: bytes | None, cli: Callable[..., Result], tmp_path: Path
) -> None:
    if content is None:
        (tmp_path / "x.yaml").mkdir()
    else:
        (tmp_path / "x.yaml").write_bytes(content)
    done = cli("fit", "--config", "x.yaml", "--data.dataset", "digits")
    assert_one_line(Ended(done.status, done.out, done.err), "--config: ", "x.yaml")


def test_the_config_of_a_run_that_is_not_utf_8_gets_one_line(own_run: Path, cli: Callable[..., Result]) -> None:
    with (own_run / "config.yaml").open("ab") as file:
        file.write(b"# caf\xe9\n")
    done = cli("fit", "--ckpt_path", "last")
    assert_one_line(Ended(done.status, done.out, done.err), f"{own_run / 'config.yaml'} is not text in UTF-8")


@pytest.mark.parametrize("option", ["ckpt_path", "data.data_dir", "trainer.default_root_dir", "trainer.accelerator"])
@pytest.mark.parametrize("command", ["fit", "test", "validate"])
def test_a_nul_character_gets_one_line(command: str, option: str, cli: Callable[..., Result], tmp_path: Path) -> None:
    group, _, name = option.rpartition(".")
    text = f'{name}: "a\\0b"\n'
    (tmp_path / "x.yaml").write_text(f"{group}:\n  {text}" if group else text)
    done = cli(command, "--config", "x.yaml")
    assert_one_line(Ended(done.status, done.out, done.err), f"--{option}: ", "has a NUL character")
    assert [path.name for path in tmp_path.iterdir()] == ["x.yaml"]


@pytest.mark.parametrize(
    ("option", "value", "status"),
    [
        ("model.lr", "1e308", 2),
        ("model.lr", "-1e308", 2),
        ("model.lr", ".nan", 2),
        ("model.lr", ".inf", 2),
        ("model.weight_decay", "1e308", 2),
        ("model.weight_decay", ".nan", 2),
        ("model.dropout", ".nan", 2),
        ("model.lr", "1e38", 1),  # with which the loss becomes infinite
    ],
)
def test_a_number_that_no_optimizer_can_take_gets_one_line(
    option: str, value: str, status: int, cli: Callable[..., Result], tmp_path: Path
) -> None:
    done = cli(*FIT, "--trainer.enable_progress_bar", "false", f"--{option}", value)
    assert_one_line(Ended(done.status, done.out, done.err), f"--{option}", status=status)


def test_a_learning_rate_that_grows_too_large_gets_one_line(cli: Callable[..., Result]) -> None:
    schedule = ("--model.lr_scheduler", "ExponentialLR", "--model.lr_scheduler_options", "{gamma: 1.0e+300}")
    done = cli(*FIT, "--trainer.enable_progress_bar", "false", *schedule, "--model.lr_scheduler_interval", "step")
    assert_one_line(Ended(done.status, done.out, done.err), "too large for float32", status=1)
