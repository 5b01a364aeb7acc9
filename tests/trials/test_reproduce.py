"""The study end to end: it takes the steps of fit, continues where it was stopped, and repeats nothing."""

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from conftest import DIGITS, Result, run_cli

from lit_mnist import MNISTDataModule
from lit_mnist.trials.reproduce import RECIPES, fit_and_test

Cli = Callable[..., Result]
CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_what_its_config_says(name: str) -> None:
    config = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    epochs, network, options = RECIPES[name]
    model = {**options, **({"network": {"class_path": "MLP", "init_args": network}} if network else {})}
    assert config == {"trainer": {"max_epochs": epochs}, **({"model": model} if model else {})}


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def fit(run: Path, digits: MNISTDataModule, each_epoch: Callable[[], None] = lambda: None) -> None:
    fit_and_test(run, {"dropout": [0.4, 0.3]}, {}, digits, 3, 5, each_epoch)


def test_a_seed_is_the_fit_and_the_test_of_the_command_line(cli: Cli, tmp_path: Path, digits: MNISTDataModule) -> None:
    fit(tmp_path / "run", digits)
    options = ("--model.network.dropout", "[0.4, 0.3]", "--trainer.max_epochs", 3, "--seed_everything", 5)
    assert cli("fit", *DIGITS, *options).status == 0
    assert cli("test", "--ckpt_path", "last").status == 0
    by_hand = tmp_path / "lightning_logs" / "version_0"
    for name, weight in weights(by_hand).items():
        assert torch.equal(weight, weights(tmp_path / "run")[name]), name
    assert rows(by_hand / "metrics.csv") == rows(tmp_path / "run" / "metrics.csv")
    assert (by_hand / "test.json").read_text() == (tmp_path / "run" / "test.json").read_text()


def test_the_config_of_a_seed_repeats_it(cli: Cli, tmp_path: Path, digits: MNISTDataModule) -> None:
    fit(tmp_path / "run", digits)
    assert cli("fit", "--config", "run/config.yaml").status == 0
    again = weights(tmp_path / "lightning_logs" / "version_0")
    assert all(torch.equal(weight, again[name]) for name, weight in weights(tmp_path / "run").items())


def test_a_seed_stopped_after_an_epoch_continues_as_if_it_had_not(tmp_path: Path, digits: MNISTDataModule) -> None:
    fit(tmp_path / "unbroken", digits)
    epochs = []

    def stop() -> None:
        epochs.append(1)
        if len(epochs) == 2:
            raise KeyboardInterrupt

    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(tmp_path / "stopped", digits, stop)
    assert not (tmp_path / "stopped" / "test.json").exists()
    counted = []
    fit(tmp_path / "stopped", digits, lambda: counted.append(1))
    assert len(counted) == 3  # so that a progress bar ends where it should
    for name, weight in weights(tmp_path / "unbroken").items():
        assert torch.equal(weight, weights(tmp_path / "stopped")[name]), name
    for name in ("metrics.csv", "test.json"):
        if name.endswith("csv"):
            assert rows(tmp_path / "stopped" / name) == rows(tmp_path / "unbroken" / name)
        else:
            assert (tmp_path / "stopped" / name).read_text() == (tmp_path / "unbroken" / name).read_text()


@pytest.mark.slow
def test_the_study_of_real_mnist_survives_a_kill_and_does_not_repeat_a_seed(tmp_path: Path, mnist_dir: Path) -> None:
    command = [sys.executable, "-m", "lit_mnist", "reproduce", "--seeds", "2", "--runs", "mlp"]
    environment = {**os.environ, "LIT_MNIST_DATA_DIR": str(mnist_dir), "OMP_NUM_THREADS": "1"}
    first, second = (tmp_path / "reproduction" / "runs" / "mlp" / f"seed_{seed}" for seed in range(2))
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL)
    while not (second / "metrics.csv").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = (first / "test.json").stat().st_mtime_ns
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert (first / "test.json").stat().st_mtime_ns == finished
    folder = tmp_path / "reproduction"
    assert {path.name for path in folder.iterdir()} == {"README.md", "curves.png", "curves.svg", "results.csv", "runs"}
    table = rows(folder / "results.csv")
    assert [(row["seed"], row["epoch"]) for row in table] == [(f"{i}", f"{j}") for i in range(2) for j in range(1, 11)]
    for row in table[9::10]:
        assert 0.970 < float(row["test_accuracy"]) < 0.985
        assert 0.07 < float(row["test_loss"]) < 0.12


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (("--seeds", 1), "--seeds: 1 is not at least 2"),
        (("--runs", "mlp,cnn"), "--runs: cnn is not one of mlp, mlp_dropout, mlp_dropout_30, mlp_weight_decay"),
    ],
)
def test_bad_options_are_refused_before_anything_is_written(cli: Cli, tmp_path: Path, args: tuple, line: str) -> None:
    result = cli("reproduce", *args)
    assert (result.status, result.err) == (2, f"lit-mnist: error: {line}\n")
    assert not any(tmp_path.iterdir())


def test_without_data_the_study_ends_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").write_text("no folder")
    monkeypatch.setenv("LIT_MNIST_DATA_DIR", str(tmp_path / "data"))
    done = run_cli("reproduce", cwd=tmp_path)
    assert done.returncode in (1, 2)
    assert done.stderr.startswith("lit-mnist: error: ")
    assert done.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
