"""The command line: what a user types, what it says, and how it ends."""

import csv
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import DIGITS, Result, Trained, run_cli, run_command
from PIL import Image

from lit_mnist import MNISTDataModule

Cli = Callable[..., Result]

SHORT = (*DIGITS, "--trainer.max_epochs", 1, "--trainer.limit_train_batches", 2, "--trainer.accelerator", "cpu")
NO_RUN = "no run in lightning_logs has a {}.ckpt; train one with: python -m lit_mnist fit --config configs/mlp.yaml"


def files(folder: Path) -> set[Path]:
    """What is in a folder, apart from an empty folder of runs."""
    return {path for path in folder.rglob("*") if path.name != "lightning_logs"}


def assert_fails(result: Result, line: str) -> None:
    assert result.err == f"lit-mnist: error: {line}\n"
    assert result.status == 2


def test_a_run_is_fitted_tested_and_used_from_the_shell(
    trained: Trained, tmp_path: Path, digits: MNISTDataModule
) -> None:
    shutil.copytree(trained.folder, tmp_path, dirs_exist_ok=True)
    assert trained.test_command[:3] == ["python", "-m", "lit_mnist"]
    tested = run_cli(*trained.test_command[3:], cwd=tmp_path)
    assert (tested.returncode, tested.stderr) == (0, "")
    said = tested.stdout.split()
    accuracy = float(said[said.index("test_accuracy") + 1])

    images, labels = digits.images("test")
    for i, image in enumerate(images):
        Image.fromarray(image.numpy()).save(tmp_path / f"{i:03}.png")
    predicted = run_cli("predict", ".", "--output", "all.csv", cwd=tmp_path)
    assert (predicted.returncode, predicted.stderr) == (0, "")
    with (tmp_path / "all.csv").open(newline="") as file:
        found = {row["file"]: int(row["digit"]) for row in csv.DictReader(file)}
    right = [found[f"{i:03}.png"] == label for i, label in enumerate(labels.tolist())]
    assert sum(right) / len(right) == pytest.approx(accuracy, abs=5e-5)


def test_fit_prints_the_layers_a_line_for_each_epoch_and_the_test_command(trained: Trained) -> None:
    assert trained.err == ""
    lines = trained.out.splitlines()
    assert any(line.startswith("│ total") and "25,818" in line for line in lines)
    assert [line[:10] for line in lines if line.startswith("epoch")] == ["epoch  1/2", "epoch  2/2"]
    assert "run folder       lightning_logs/version_0" in lines
    assert "curves           tensorboard --logdir lightning_logs" in lines
    best = "lightning_logs/version_0/checkpoints/best.ckpt"
    assert trained.test_command == ["python", "-m", "lit_mnist", "test", "--ckpt_path", best]


def test_the_console_script_fails_in_one_line_without_a_checkpoint(tmp_path: Path) -> None:
    done = run_command(Path(sys.executable).with_name("lit-mnist"), "test", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"lit-mnist: error: {NO_RUN.format('best')}\n"
    assert not list(tmp_path.iterdir())


DDP = ("--trainer.devices", 2, "--trainer.strategy", "ddp", "--trainer.accelerator", "cpu")


def test_two_devices_give_what_one_gives(cli: Cli, tmp_path: Path) -> None:
    options = (*DIGITS, "--trainer.max_epochs", 2, "--model.network.hidden_sizes", "[32, 16]")
    two = run_cli("fit", *options, *DDP, cwd=tmp_path)
    assert two.returncode == 0, two.stderr
    assert len([line for line in two.stdout.splitlines() if line.startswith("epoch")]) == 2
    assert cli("fit", *options, "--trainer.accelerator", "cpu").status == 0
    logs = tmp_path / "lightning_logs"
    assert sorted(path.name for path in logs.iterdir()) == ["version_0", "version_1"]
    histories = []
    for run in ("version_0", "version_1"):
        with (logs / run / "metrics.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        histories.append([[float(row[name]) for name in row if name != "seconds"] for row in rows])
    assert len(histories[0]) == 2
    for one_device, two_devices in zip(histories[1], histories[0], strict=True):
        assert two_devices == pytest.approx(one_device, rel=1e-3)
    weights = [torch.load(logs / run / "checkpoints/last.ckpt")["state_dict"] for run in ("version_0", "version_1")]
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], rtol=1e-3, atol=1e-4)


@pytest.fixture(scope="module")
def indivisible(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path]:
    """A fit of batches of 33 on two devices, and where it ran."""
    folder = tmp_path_factory.mktemp("indivisible")
    return run_cli("fit", "--data.dataset", "digits", "--data.batch_size", 33, *DDP, cwd=folder), folder


def test_a_batch_that_does_not_divide_among_the_devices_fails_in_one_line(
    indivisible: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    done, _ = indivisible
    assert done.returncode == 2
    assert done.stderr == "lit-mnist: error: --data.batch_size: 33 does not divide evenly among 2 devices\n"
    assert "Traceback" not in done.stdout


def test_a_batch_that_does_not_divide_among_the_devices_leaves_no_run(
    indivisible: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    _, folder = indivisible
    assert not list(folder.rglob("version_*"))


@pytest.mark.parametrize(
    ("args", "line"),
    [
        ("--model.dropuot 0.3", "--model.dropuot: there is no such option; did you mean --model.network.dropout?"),
        ("--xyzzy 1", "--xyzzy: there is no such option; see --help"),
        ("--model.lr fast", "--model.lr: fast is not of type float"),
        ("--data.batch_size many", "--data.batch_size: many is not of type int"),
        ("--data.batch_size 1.5", "--data.batch_size: 1.5 is not of type int"),
        (
            "--data.dataset mnits",
            "--data.dataset: mnits is not one of mnist, fashion_mnist, kmnist, qmnist, digits",
        ),
        ("--model.lr_scheduler_interval week", "--model.lr_scheduler_interval: week is not one of epoch, step"),
        ("--model.network.dropout 1", "--model.network.dropout: 1.0 is not in [0, 1)"),
        ("--model.network.dropout -0.1", "--model.network.dropout: -0.1 is not in [0, 1)"),
        ("--model.network.dropout [0.4,1.5]", "--model.network.dropout: 1.5 is not in [0, 1)"),
        (
            "--model.network.dropout [0.4]",
            "--model.network.dropout: [0.4] has 1 values, not one for each of [256, 128]",
        ),
        ("--data.batch_size 0", "--data.batch_size: 0 is not at least 1"),
        ("--data.eval_batch_size -1", "--data.eval_batch_size: -1 is not at least 1"),
        ("--model.network.hidden_sizes [256,0]", "--model.network.hidden_sizes: 0 is not at least 1"),
        ("--model.lr -1", "--model.lr: -1.0 is not at least 0"),
        ("--model.weight_decay -0.1", "--model.weight_decay: -0.1 is not at least 0"),
        ("--data.val_size 0", "--data.val_size: 0 is not at least 1"),
        ("--data.val_size 1438", "--data.val_size: 1438 is not in 1..1437"),
        (
            "--model.optimizer SGD --model.optimizer_options {momentums:3}",
            "--model.optimizer_options: SGD refuses {'lr': 0.001, 'momentums': 3}:"
            " SGD.__init__() got an unexpected keyword argument 'momentums'",
        ),
        (
            "--model.optimizer SGD --model.optimizer_options {momentum:-3}",
            "--model.optimizer_options: SGD refuses {'lr': 0.001, 'momentum': -3}: Invalid momentum value: -3",
        ),
        (
            "--model.lr_scheduler StepLR",
            "--model.lr_scheduler_options: StepLR refuses {}:"
            " StepLR.__init__() missing 1 required positional argument: 'step_size'",
        ),
        (
            "--trainer.limit_train_batches -3",
            "--trainer: You have passed invalid value -3 for limit_train_batches,"
            " it has to be in [0.0, 1.0] or an int.",
        ),
    ],
)
def test_a_bad_option_is_named_in_one_line_and_leaves_nothing(cli: Cli, tmp_path: Path, args: str, line: str) -> None:
    args = args.replace("momentums:", "momentums: ").replace("momentum:", "momentum: ")
    words = [word for option in args.split(" --") for word in option.split(" ", 1)]
    words = [f"--{word}" if number % 2 == 0 and number else word for number, word in enumerate(words)]
    assert_fails(cli("fit", *DIGITS, *words), line)
    assert not files(tmp_path)


@pytest.mark.parametrize(
    ("option", "name", "known"),
    [("optimizer", "Adamm", ("Adam", "RMSprop")), ("lr_scheduler", "StepLRR", ("StepLR", "ReduceLROnPlateau"))],
)
def test_an_unknown_class_of_torch_is_answered_with_those_there_are(
    cli: Cli, tmp_path: Path, option: str, name: str, known: tuple[str, ...]
) -> None:
    result = cli("fit", *DIGITS, f"--model.{option}", name)
    start = f"lit-mnist: error: --model.{option}: {name} is not one of "
    assert result.status == 2
    assert result.err.startswith(start)
    assert result.err.count("\n") == 1
    assert set(known) <= set(result.err.strip().removeprefix(start).split(", "))
    assert not files(tmp_path)


def test_a_missing_configuration_is_named(cli: Cli, tmp_path: Path) -> None:
    assert_fails(cli("fit", "--config", "no.yaml"), f"--config: File does not exist: '{tmp_path / 'no.yaml'}'")
    assert not files(tmp_path)


def test_an_unknown_option_in_a_configuration_is_named(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text("model:\n  dropuot: 3\n")
    line = "--model.dropuot: there is no such option; did you mean --model.network.dropout?"
    assert_fails(cli("fit", "--config", "my.yaml"), line)


def test_a_value_of_the_wrong_type_in_a_configuration_is_named(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text("model:\n  lr: fast\n")
    assert_fails(cli("fit", "--config", "my.yaml"), "--model.lr: fast is not of type float")


@pytest.mark.parametrize("content", ["model: [unclosed", "just words", "model:\n\t- tab"])
def test_a_malformed_configuration_fails_in_one_line(cli: Cli, tmp_path: Path, content: str) -> None:
    (tmp_path / "my.yaml").write_text(content)
    result = cli("fit", "--config", "my.yaml")
    assert result.status == 2
    assert result.err.startswith("lit-mnist: error: ")
    assert result.err.count("\n") == 1
    assert files(tmp_path) == {tmp_path / "my.yaml"}


@pytest.mark.parametrize("content", ["model: [unclosed", "just words"])
def test_a_malformed_configuration_is_named(cli: Cli, tmp_path: Path, content: str) -> None:
    (tmp_path / "my.yaml").write_text(content)
    assert cli("fit", "--config", "my.yaml").err.startswith("lit-mnist: error: --config: my.yaml")


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict x.png", "export", "demo"])
def test_a_missing_checkpoint_is_named(cli: Cli, tmp_path: Path, command: str) -> None:
    line = "no.ckpt is no file; give the path of a checkpoint, or best or last for the newest run"
    assert_fails(cli(*command.split(), "--ckpt_path", "no.ckpt"), line)
    assert not files(tmp_path)


@pytest.mark.parametrize("command", ["validate", "test", "predict x.png", "export", "demo"])
def test_without_any_run_there_is_nothing_to_evaluate(cli: Cli, tmp_path: Path, command: str) -> None:
    assert_fails(cli(*command.split()), NO_RUN.format("best"))
    assert not files(tmp_path)


@pytest.mark.parametrize("command", ["fit", "test"])
@pytest.mark.parametrize("name", ["best", "last"])
def test_best_and_last_need_a_run(cli: Cli, tmp_path: Path, command: str, name: str) -> None:
    assert_fails(cli(command, "--ckpt_path", name), NO_RUN.format(name))
    assert not files(tmp_path)


@pytest.mark.parametrize(
    ("option", "value", "shown", "trained_with"),
    [
        ("model.network.hidden_sizes", "[64, 16]", "[64, 16]", "[32, 16]"),
        ("model.network.dropout", "0.3", "0.3", "0.1"),
        ("model.optimizer", "SGD", "SGD", "RMSprop"),
    ],
)
def test_a_model_option_that_contradicts_the_checkpoint_is_refused(
    cli: Cli, own_run: Path, tmp_path: Path, option: str, value: str, shown: str, trained_with: str
) -> None:
    before = files(tmp_path)
    for command, name in (("test", "best"), ("fit", "last")):
        line = f"--{option}: {shown} contradicts lightning_logs/version_0/checkpoints/{name}.ckpt,"
        assert_fails(cli(command, "--ckpt_path", name, f"--{option}", value), f"{line} trained with {trained_with}")
    assert files(tmp_path) == before


def test_a_continued_fit_keeps_its_data_options(cli: Cli, own_run: Path) -> None:
    line = "--data.batch_size: 64 contradicts lightning_logs/version_0/checkpoints/last.ckpt, trained with 32"
    assert_fails(cli("fit", "--ckpt_path", "last", "--data.batch_size", 64), line)


CONTRADICTIONS = [
    ("model.lr", 0.5, "0.5", "0.001"),
    ("model.lr_scheduler", "ExponentialLR", "ExponentialLR", "None"),
    ("data.dataset", "fashion_mnist", "fashion_mnist", "digits"),
    ("data.val_size", 100, "100", "None"),
    ("seed_everything", 3, "3", "7"),
    ("trainer.gradient_clip_val", 0.5, "0.5", "None"),
    ("trainer.accumulate_grad_batches", 2, "2", "1"),
    ("trainer.limit_train_batches", 5, "5", "None"),
    ("trainer.limit_train_batches", 1, "1", "None"),
    ("trainer.check_val_every_n_epoch", 2, "2", "1"),
    ("trainer.precision", "bf16-mixed", "bf16-mixed", "None"),
]


@pytest.mark.parametrize(("option", "value", "shown", "trained_with"), CONTRADICTIONS)
@pytest.mark.parametrize("edited", [False, True], ids=["option", "edited"])
def test_what_changes_the_result_of_a_continued_fit_is_refused_on_the_command_line_and_in_an_edited_configuration(
    cli: Cli, own_run: Path, tmp_path: Path, option: str, value: Any, shown: str, trained_with: str, edited: bool
) -> None:
    if edited:
        config = yaml.safe_load((own_run / "config.yaml").read_text())
        *group, name = option.split(".")
        (config[group[0]] if group else config)[name] = yaml.safe_load(str(value))
        (own_run / "config.yaml").write_text(yaml.safe_dump(config))
    before = {path: path.read_bytes() for path in own_run.rglob("*") if path.is_file()}
    args = () if edited else (f"--{option}", value)
    line = (
        f"--{option}: {shown} contradicts lightning_logs/version_0/checkpoints/last.ckpt, trained with {trained_with}"
    )
    assert_fails(cli("fit", "--ckpt_path", "last", "--trainer.max_epochs", 3, *args), line)
    assert {path: path.read_bytes() for path in own_run.rglob("*") if path.is_file()} == before
    assert not (tmp_path / "lightning_logs" / "version_1").exists()


def test_a_callback_that_changes_the_result_is_refused_where_one_that_shows_something_is_taken(
    cli: Cli, own_run: Path
) -> None:
    stop = ("--trainer.callbacks+", "EarlyStopping", "--trainer.callbacks.monitor", "val/loss")
    refused = cli("fit", "--ckpt_path", "last", "--trainer.max_epochs", 3, *stop)
    assert refused.status == 2
    assert refused.err.startswith("lit-mnist: error: --trainer.callbacks: [")
    assert refused.err.endswith("last.ckpt, trained with []\n")
    show = ("--trainer.callbacks+", "LearningRateMonitor")
    taken = cli("fit", "--ckpt_path", "last", "--trainer.max_epochs", 3, *show)
    assert (taken.status, taken.err) == (0, "")


def test_what_does_not_change_the_result_of_a_continued_fit_may_change(cli: Cli, own_run: Path) -> None:
    free = {"max_epochs": 3, "max_steps": 200, "max_time": "00:01:00:00", "log_every_n_steps": 7, "logger": "false"}
    options = [word for name, value in free.items() for word in (f"--trainer.{name}", value)]
    done = cli("fit", "--ckpt_path", "last", *options, "--data.eval_batch_size", 100, "--skip", "[samples]")
    assert (done.status, done.err) == (0, "")
    config = yaml.safe_load((own_run / "config.yaml").read_text())
    assert (config["trainer"]["max_epochs"], config["data"]["eval_batch_size"]) == (3, 100)


def test_a_checkpoint_away_from_its_run_continues_with_what_it_was_trained_with(cli: Cli, tmp_path: Path) -> None:
    options = ("--trainer.gradient_clip_val", 0.5, "--seed_everything", 3, "--trainer.limit_train_batches", 2)
    assert cli("fit", *DIGITS, "--trainer.max_epochs", 2, "--trainer.accelerator", "cpu", *options).status == 0
    shutil.copy(tmp_path / "lightning_logs/version_0/checkpoints/last.ckpt", tmp_path / "alone.ckpt")
    shutil.rmtree(tmp_path / "lightning_logs")
    done = cli("fit", "--ckpt_path", "alone.ckpt", "--trainer.max_epochs", 3)
    assert (done.status, done.err) == (0, "")
    config = yaml.safe_load((tmp_path / "lightning_logs/version_0/config.yaml").read_text())
    assert (config["seed_everything"], config["trainer"]["gradient_clip_val"]) == (3, 0.5)
    assert saved(tmp_path)["global_step"] == 6


def test_a_checkpoint_of_weights_alone_can_be_tested_but_not_continued(cli: Cli, tmp_path: Path) -> None:
    own = ("--trainer.callbacks+", "ModelCheckpoint", "--trainer.callbacks.save_weights_only", "true")
    assert cli("fit", *SHORT, *own, "--trainer.callbacks.filename", "mine").status == 0
    path = "lightning_logs/version_0/checkpoints/mine.ckpt"
    assert cli("test", "--ckpt_path", path).status == 0
    assert_fails(cli("fit", "--ckpt_path", path), f"{path}: lacks optimizer_states, or has something else in its place")


def test_a_model_option_that_agrees_with_the_checkpoint_is_taken(cli: Cli, own_run: Path) -> None:
    assert cli("test", "--model.network.hidden_sizes", "[32, 16]").status == 0


@pytest.mark.parametrize("args", [(), ("fitt",)])
def test_a_missing_or_unknown_subcommand_is_answered_with_those_there_are(cli: Cli, args: tuple[str, ...]) -> None:
    result = cli(*args)
    assert result.status == 2
    assert result.err.startswith("lit-mnist: error: ")
    assert result.err.count("\n") == 1
    assert all(name in result.err for name in ("fit", "validate", "test", "predict"))


@pytest.mark.parametrize("args", [("--help",), ("fit", "--help")])
def test_help_goes_to_the_standard_output(cli: Cli, args: tuple[str, ...]) -> None:
    result = cli(*args)
    assert (result.status, result.err) == (0, "")
    assert result.out.startswith("usage: lit-mnist")


def test_help_explains_each_option_of_model_and_data(cli: Cli) -> None:
    help_text = " ".join(cli("fit", "--help").out.split())
    assert "the tutorial's `MLP`" in help_text
    of_the_network = " ".join(cli("fit", "--model.network.help", "MLP").out.split())
    assert "Share of activations dropped after each hidden layer" in of_the_network
    assert "Training images per step, over all devices together." in help_text
    assert "continues from it" in help_text


def test_test_rebuilds_the_model_and_the_data_from_the_checkpoint_alone(
    cli: Cli, trained: Trained, tmp_path: Path
) -> None:
    shutil.copy(trained.run / "checkpoints" / "best.ckpt", tmp_path / "alone.ckpt")
    result = cli("test", "--ckpt_path", "alone.ckpt")
    assert (result.status, result.err) == (0, "")
    assert result.out.startswith("test_loss ")
    assert "checkpoint       alone.ckpt" in result.out


def test_test_and_validate_take_the_best_checkpoint_of_the_newest_run(cli: Cli, own_run: Path, tmp_path: Path) -> None:
    shutil.copytree(own_run, tmp_path / "lightning_logs" / "version_10")
    shutil.copytree(own_run, tmp_path / "lightning_logs" / "version_9")
    for command in ("test", "validate"):
        assert "checkpoint       lightning_logs/version_10/checkpoints/best.ckpt" in cli(command).out


def test_validate_repeats_the_metrics_of_the_fit(cli: Cli, own_run: Path) -> None:
    with (own_run / "metrics.csv").open(newline="") as file:
        last = list(csv.DictReader(file))[-1]
    out = cli("validate", "--ckpt_path", "last").out
    assert out.startswith(f"val_loss {float(last['val/loss']):.4f}  val_accuracy {float(last['val/accuracy']):.4f}\n")


def test_a_checkpoint_can_be_tested_on_other_data(cli: Cli, own_run: Path, fashion_dir: Path) -> None:
    result = cli("test", "--data.dataset", "fashion_mnist", "--data.data_dir", fashion_dir)
    assert (result.status, result.err) == (0, "")


def saved(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "lightning_logs/version_0/checkpoints/last.ckpt", weights_only=True)


def test_of_layered_configurations_the_later_wins_and_an_option_wins_over_both(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        "data: {dataset: digits}\n"
        "model: {lr: 0.5, network: {class_path: MLP, init_args: {hidden_sizes: [8], dropout: 0.5}}}\n"
    )
    (tmp_path / "b.yaml").write_text("model: {lr: 0.25, network: {class_path: MLP, init_args: {dropout: 0.25}}}\n")
    done = cli("fit", "--config", "a.yaml", "--config", "b.yaml", *SHORT, "--model.network.dropout", 0.125)
    assert (done.status, done.err) == (0, "")
    model = saved(tmp_path)["hyper_parameters"]
    network = model["network"]["init_args"]
    assert (network["hidden_sizes"], model["lr"], network["dropout"]) == ([8], 0.25, 0.125)


def test_a_fast_dev_run_leaves_nothing(cli: Cli, tmp_path: Path) -> None:
    done = cli("fit", *DIGITS, "--trainer.fast_dev_run", "true", "--trainer.accelerator", "cpu")
    assert (done.status, done.err) == (0, "")
    assert not files(tmp_path)


def test_table_and_lines_can_be_switched_off(cli: Cli) -> None:
    off = ("--trainer.enable_model_summary", "false", "--trainer.enable_progress_bar", "false")
    assert "│ total" not in cli("fit", *SHORT, *off).out
    assert "│ total" in cli("fit", *SHORT).out
