"""What a fit leaves in its run folder, and how runs and checkpoints are found."""

import csv
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import DIGITS, Result, Trained
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from lit_mnist.checkpoint import CheckpointError
from lit_mnist.runs.folder import find_checkpoint, new_run, run_of
from lit_mnist.runs.history import METRICS

Cli = Callable[..., Result]

SHORT = (
    *DIGITS,
    "--trainer.limit_train_batches",
    2,
    "--trainer.accelerator",
    "cpu",
    "--model.network.hidden_sizes",
    "[16]",
)


def history(run: Path) -> list[dict[str, float]]:
    with (run / "metrics.csv").open(newline="") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def checkpoint(run: Path, name: str) -> dict[str, Any]:
    return torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)


def same_weights(first: dict[str, Any], second: dict[str, Any]) -> bool:
    pairs = zip(first["state_dict"].items(), second["state_dict"].items(), strict=True)
    return all(a[0] == b[0] and torch.equal(a[1], b[1]) for a, b in pairs)


def test_a_run_leaves_config_checkpoints_metrics_and_curves(trained: Trained) -> None:
    left = {str(path.relative_to(trained.run)) for path in trained.run.rglob("*") if path.is_file()}
    assert {"config.yaml", "metrics.csv", "checkpoints/best.ckpt", "checkpoints/last.ckpt"} <= left
    assert len([name for name in left if name.startswith("events.out.tfevents")]) == 1
    assert [path.name for path in trained.folder.iterdir()] == ["lightning_logs"]
    assert not [path for path in trained.run.rglob("*") if path.name.startswith(".")], "half-written files"


def test_metrics_csv_has_a_row_for_each_epoch(trained: Trained) -> None:
    rows = history(trained.run)
    assert list(rows[0]) == ["epoch", *METRICS, "lr", "seconds"]
    assert [row["epoch"] for row in rows] == [1, 2]
    assert [row["lr"] for row in rows] == [1e-3, 1e-3]
    assert rows[1]["train/loss"] < rows[0]["train/loss"]
    assert all(0 <= row[name] <= 1 for row in rows for name in ("train/accuracy", "val/accuracy"))


def test_best_is_the_epoch_of_the_lowest_val_loss_and_last_the_last(cli: Cli, tmp_path: Path) -> None:
    rising = ("--model.lr_scheduler", "ExponentialLR", "--model.lr_scheduler_options", "{gamma: 10}")
    done = cli("fit", *SHORT, "--trainer.max_epochs", 4, *rising)
    assert done.status == 0
    run = tmp_path / "lightning_logs" / "version_0"
    losses = [row["val/loss"] for row in history(run)]
    best = losses.index(min(losses))
    assert best < 3, "a learning rate of 1 makes no epoch the best"
    assert checkpoint(run, "best")["epoch"] == best
    assert checkpoint(run, "last")["epoch"] == 3
    assert f"(val_loss {min(losses):.4f})" in done.out


def test_the_seed_stands_in_the_configuration(trained: Trained) -> None:
    config = yaml.safe_load((trained.run / "config.yaml").read_text())
    assert config["seed_everything"] == 7
    assert config["model"]["network"]["init_args"]["hidden_sizes"] == [32, 16]
    assert config["data"]["dataset"] == "digits"
    assert config["trainer"]["max_epochs"] == 2


def test_a_fit_from_the_saved_configuration_gives_the_same_bits(trained: Trained, cli: Cli, tmp_path: Path) -> None:
    done = cli("fit", "--config", trained.run / "config.yaml")
    assert (done.status, done.err) == (0, "")
    run = tmp_path / "lightning_logs" / "version_0"
    for name in ("best", "last"):
        assert same_weights(checkpoint(run, name), checkpoint(trained.run, name))
    for again, first in zip(history(run), history(trained.run), strict=True):
        assert {**again, "seconds": 0} == {**first, "seconds": 0}


def test_a_continued_run_goes_on_in_its_folder_with_its_configuration(cli: Cli, own_run: Path, tmp_path: Path) -> None:
    done = cli("fit", "--ckpt_path", "last", "--trainer.max_epochs", 3)
    assert (done.status, done.err) == (0, "")
    assert [path.name for path in (tmp_path / "lightning_logs").iterdir()] == ["version_0"]
    assert [row["epoch"] for row in history(own_run)] == [1, 2, 3]
    config = yaml.safe_load((own_run / "config.yaml").read_text())
    assert (config["trainer"]["max_epochs"], config["seed_everything"], config["ckpt_path"]) == (3, 7, None)
    assert config["model"]["network"]["init_args"]["hidden_sizes"] == [32, 16]


def test_another_seed_gives_other_weights(cli: Cli, tmp_path: Path) -> None:
    for seed in (1, 2):
        assert cli("fit", *SHORT, "--trainer.max_epochs", 1, "--seed_everything", seed).status == 0
    first, second = (tmp_path / "lightning_logs" / f"version_{number}" for number in range(2))
    assert not same_weights(checkpoint(first, "last"), checkpoint(second, "last"))


@pytest.mark.parametrize("logger", ["true", "false"])
def test_two_runs_never_share_a_folder(cli: Cli, tmp_path: Path, logger: str) -> None:
    for lr in (0.01, 0.02):
        done = cli("fit", *SHORT, "--trainer.max_epochs", 1, "--trainer.logger", logger, "--model.lr", lr)
        assert (done.status, done.err) == (0, "")
    logs = tmp_path / "lightning_logs"
    assert sorted(path.name for path in logs.iterdir()) == ["version_0", "version_1"]
    for number, lr in enumerate((0.01, 0.02)):
        run = logs / f"version_{number}"
        config = yaml.safe_load((run / "config.yaml").read_text())
        assert (config["model"]["lr"], config["seed_everything"]) == (lr, 0)
        assert [row["lr"] for row in history(run)] == [lr]
        assert checkpoint(run, "best")["hyper_parameters"]["lr"] == lr
        assert bool(list(run.glob("events*"))) == (logger == "true")


def test_without_checkpoints_the_metrics_are_left(cli: Cli, tmp_path: Path) -> None:
    done = cli("fit", *SHORT, "--trainer.max_epochs", 1, "--trainer.enable_checkpointing", "false")
    assert (done.status, done.err) == (0, "")
    run = tmp_path / "lightning_logs" / "version_0"
    assert len(history(run)) == 1
    assert not (run / "checkpoints").exists()
    assert "test it with" not in done.out


def test_runs_go_under_the_root_folder_that_is_given(cli: Cli, tmp_path: Path) -> None:
    root = ("--trainer.default_root_dir", "elsewhere")
    assert cli("fit", *SHORT, "--trainer.max_epochs", 1, *root).status == 0
    assert [path.name for path in tmp_path.iterdir()] == ["elsewhere"]
    assert "elsewhere/lightning_logs/version_0/checkpoints/best.ckpt" in cli("test", *root).out


def test_the_curves_hold_one_true_value_for_each_epoch(trained: Trained) -> None:
    events = EventAccumulator(str(trained.run))
    events.Reload()
    assert "hp_metric" not in events.Tags()["scalars"]
    for name in METRICS:
        values = [event.value for event in events.Scalars(name)]
        assert values == pytest.approx([row[name] for row in history(trained.run)])


def hparams(run: Path, tag: str) -> list[HParamsPluginData]:
    """All that TensorBoard's HParams is told under a tag, in all event files of a run."""
    return [
        HParamsPluginData.FromString(value.metadata.plugin_data.content)
        for path in run.glob("events.out.tfevents*")
        for event in EventFileLoader(str(path)).Load()
        for value in event.summary.value
        if value.tag == f"_hparams_/{tag}"
    ]


def test_hparams_show_a_run_once_with_its_optimizer_and_true_metrics(cli: Cli, own_run: Path) -> None:
    tested = cli("test")
    assert tested.status == 0
    (start,) = hparams(own_run, "session_start_info")
    told = start.session_start_info.hparams
    numbers = {"optimizer/lr": 1e-3, "optimizer/alpha": 0.9, "optimizer/eps": 1e-7, "seed": 7, "batch_size": 32}
    assert {name: told[name].number_value for name in numbers} == numbers
    assert told["optimizer"].string_value == "RMSprop"
    assert told["network.hidden_sizes"].string_value == "[32, 16]"
    (experiment,) = hparams(own_run, "experiment")
    metrics = {info.name.tag for info in experiment.experiment.metric_infos}
    assert metrics == {*METRICS, "test/loss", "test/accuracy"}

    events = EventAccumulator(str(own_run))
    events.Reload()
    assert metrics <= set(events.Tags()["scalars"])
    said = re.match(r"test_loss (\S+)  test_accuracy (\S+)", tested.out)
    assert said
    for name, value in zip(("test/loss", "test/accuracy"), said.groups(), strict=True):
        assert events.Scalars(name)[-1].value == pytest.approx(float(value), abs=5e-5)


def test_new_runs_count_on_from_the_highest(tmp_path: Path) -> None:
    for name in ("version_2", "version_10", "version_x", "other"):
        (tmp_path / name).mkdir()
    assert new_run(tmp_path).name == "version_11"


def test_runs_that_start_at_once_get_folders_of_their_own(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as threads:
        runs = list(threads.map(lambda _: new_run(tmp_path / "logs"), range(64)))
    assert len(set(runs)) == 64


def make_checkpoint(logs: Path, number: int, name: str) -> Path:
    path = logs / f"version_{number}" / "checkpoints" / f"{name}.ckpt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_best_and_last_are_those_of_the_newest_run(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, 9, "best")
    best, last = make_checkpoint(tmp_path, 10, "best"), make_checkpoint(tmp_path, 10, "last")
    (tmp_path / "version_11").mkdir()  # of an evaluation
    assert find_checkpoint("best", tmp_path) == best
    assert find_checkpoint("last", tmp_path) == last


@pytest.mark.parametrize("left", ["config.yaml", "checkpoints/last.ckpt"])
def test_an_older_run_does_not_stand_in_for_the_newest(tmp_path: Path, left: str) -> None:
    older = make_checkpoint(tmp_path, 0, "best")
    (tmp_path / "version_1" / left).parent.mkdir(parents=True)
    (tmp_path / "version_1" / left).touch()
    with pytest.raises(CheckpointError, match=re.escape(f"{tmp_path / 'version_1'}, has no best.ckpt")) as error:
        find_checkpoint("best", tmp_path)
    assert str(older) in str(error.value)


@pytest.mark.parametrize("command", ["test", "validate", "predict x.png", "export", "demo", "fit --ckpt_path best"])
def test_after_a_fit_without_validation_each_command_says_that_the_newest_run_has_no_best(
    cli: Cli, own_run: Path, command: str
) -> None:
    assert cli("fit", *SHORT, "--trainer.max_epochs", 1, "--trainer.limit_val_batches", 0).status == 0
    done = cli(*command.split())
    assert done.status == 2
    assert done.err == (
        "lit-mnist: error: the newest run, lightning_logs/version_1, has no best.ckpt; give the path of another, such"
        " as lightning_logs/version_0/checkpoints/best.ckpt\n"
    )


def test_a_checkpoint_is_found_by_its_path(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path, 0, "best")
    assert find_checkpoint(str(path), tmp_path / "elsewhere") == path


@pytest.mark.parametrize("name", ["best", "last", "no/such.ckpt", "."])
def test_a_checkpoint_that_is_not_there_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match=re.escape(name)):
        find_checkpoint(name, tmp_path)


def test_a_checkpoint_knows_its_run_only_where_it_lies_in_one(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path, 0, "best")
    assert run_of(path) is None
    (tmp_path / "version_0" / "config.yaml").touch()
    assert run_of(path) == tmp_path / "version_0"
