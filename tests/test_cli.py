"""fit, validate and test, as they are typed: what they leave, print and refuse."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
import torch
import yaml
from conftest import DIGITS, ROOT, Cli
from lightning.pytorch.callbacks import Callback
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lit_mnist.__main__ import COMMANDS
from lit_mnist.cli import CLI
from lit_mnist.program import TOOLS
from lit_mnist.runs.folder import read_metrics

QUICK = (
    *DIGITS,
    "--trainer.max_epochs",
    2,
    "--model.network.hidden_sizes",
    "[16]",
    "--trainer.enable_model_summary",
    "false",
)
FILES = {
    ".lock",
    "config.yaml",
    "hparams.yaml",
    "metrics.csv",
    "checkpoints",
    "history.png",
    "history.svg",
    "samples.png",
}
TESTED = {"test.json", "per_class.csv", "probabilities.npz", "confusion.png", "mistakes.png", "calibration.png"}


def state(folder: Path, name: str = "last", number: int = 0) -> dict[str, torch.Tensor]:
    path = folder / f"lightning_logs/version_{number}/checkpoints/{name}.ckpt"
    return torch.load(path, weights_only=True)["state_dict"]


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first.values(), second.values(), strict=True))


class Told(Callback):
    """Prints the precision of a fit or a test."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        print(f"{stage}: {trainer.precision}, {torch.get_float32_matmul_precision()}")


def test_medium_precision_fits_in_bf16_mixed_and_tests_in_float32(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    options = ("--float32_precision", "medium", "--trainer.accelerator", "cpu", "--trainer.callbacks+=test_cli.Told")
    assert "FITTING: bf16-mixed, medium\n" in cli("fit", *QUICK, *options).worked().out
    assert "TESTING: 32-true, medium\n" in cli("test").worked().out


def test_a_fit_and_its_test_leave_their_files_in_one_run_folder(cli: Cli, tmp_path: Path) -> None:
    fit = cli("fit", *QUICK).worked()
    run = tmp_path / "lightning_logs/version_0"
    assert {path.name for path in run.iterdir() if "tfevents" not in path.name} == FILES
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert len(list(run.glob("events.out.tfevents.*"))) >= 1
    assert "run folder  lightning_logs/version_0" in fit.out
    cli("test").worked()
    assert {path.name for path in run.iterdir()} >= FILES | TESTED
    assert json.loads((run / "test.json").read_text())["checkpoint"] == "best.ckpt"
    assert [path.name for path in run.parent.iterdir()] == ["version_0"]


def printed_test(out: str) -> list[str]:
    """The arguments of the test command that a fit printed."""
    (line,) = (line for line in out.splitlines() if line.startswith("test with"))
    words = shlex.split(line)[2:]
    return words[words.index("test") :]


def test_what_a_fit_prints_works_as_it_is_printed(cli: Cli) -> None:
    fit = cli("fit", *QUICK).worked()
    cli(*printed_test(fit.out)).worked()
    (line,) = (line for line in fit.out.splitlines() if line.startswith("curves"))
    assert line.split()[1:] == ["tensorboard", "--logdir", "lightning_logs"]
    assert "curves" not in cli("fit", *QUICK, "--trainer.logger", "false").out


@pytest.mark.parametrize("printed", [False, True], ids=["config.yaml", "--print_config"])
def test_the_config_of_a_fit_gives_the_same_weights(printed: bool, cli: Cli, tmp_path: Path) -> None:
    options = ("--model.optimizer", "Adam", "--model.network", "CNN", "--model.network.channels", 2)
    quick = (*DIGITS, "--trainer.max_epochs", 1, *options, "--seed_everything", 5)
    text = cli("fit", *quick, "--print_config").out
    cli("fit", *quick).worked()
    config = tmp_path / "lightning_logs/version_0/config.yaml"
    if printed:
        (config := tmp_path / "printed.yaml").write_text(text)
    assert yaml.safe_load(text)["model"]["init_args"]["optimizer"]["class_path"] == "torch.optim.Adam"
    defaults = yaml.safe_load(cli("fit", "--print_config").out)["trainer"]
    assert (defaults["max_epochs"], defaults["num_sanity_val_steps"]) == (10, 0)
    cli("fit", "--config", config).worked()
    assert same(state(tmp_path), state(tmp_path, number=1))


def test_validate_and_test_take_the_config_of_a_fit(cli: Cli, own_run: Path) -> None:
    for command in ("validate", "test"):
        cli(command, "--config", own_run / "config.yaml").worked()


def test_the_network_and_the_data_follow_from_the_checkpoint(cli: Cli, own_run: Path) -> None:
    done = cli("test", "--ckpt_path", own_run / "checkpoints/last.ckpt").worked()
    assert "checkpoint  lightning_logs/version_0/checkpoints/last.ckpt" in done.out
    content = json.loads((own_run / "test.json").read_text())
    assert (content["dataset"], content["images"]) == ("digits", 359)
    val = cli("validate", "--ckpt_path", "last").worked()
    assert f"val/loss {read_metrics(own_run)[-1]['val/loss']:.4f}" in val.out


def test_a_test_of_other_images_is_no_result_of_the_run(cli: Cli, own_run: Path, fashion_dir: Path) -> None:
    done = cli("test", "--data.dataset", "fashion_mnist", "--data.data_dir", fashion_dir, "--ckpt_path", "last")
    assert (done.status, "warning: the names of the classes are not those of" in done.err) == (0, True)
    assert not (own_run / "test.json").exists()
    assert json.loads((own_run.parent / "version_1/test.json").read_text())["dataset"] == "fashion_mnist"


def test_the_newest_run_without_a_best_checkpoint_has_its_last_tested(cli: Cli, tmp_path: Path) -> None:
    fit = cli("fit", *QUICK, "--trainer.limit_val_batches", 0).worked()
    cli(*printed_test(fit.out)).worked()
    assert "last.ckpt" in (tmp_path / "lightning_logs/version_0/test.json").read_text()
    done = cli("test").worked()
    assert "version_0 has no best.ckpt, since nothing was validated" in done.out
    assert json.loads((tmp_path / "lightning_logs/version_0/test.json").read_text())["checkpoint"].endswith("last.ckpt")


def test_a_continued_fit_equals_one_that_never_stopped(cli: Cli, tmp_path: Path) -> None:
    options = (*QUICK, "--model.network.dropout", 0.3, "--trainer.max_epochs")
    cli("fit", *options, 3).worked()
    cli("fit", *options, 1).worked()
    cli("fit", "--ckpt_path", "last", "--trainer.max_epochs", 3, "--data.eval_batch_size", 500).worked()
    for name in ("best", "last"):
        assert same(state(tmp_path, name), state(tmp_path, name, number=1))
    assert len(read_metrics(tmp_path / "lightning_logs/version_1")) == 3
    assert "raise --trainer.max_epochs (3)" in cli("fit", "--ckpt_path", "last").worked().out
    assert len(list((tmp_path / "lightning_logs").iterdir())) == 2


def test_a_schedule_that_was_planned_for_fewer_epochs_is_not_resumed(cli: Cli) -> None:
    cli("fit", *QUICK, "--model.lr_scheduler", "OneCycleLR", "--model.lr_scheduler.max_lr", 0.01).worked()
    done = cli("fit", "--ckpt_path", "last", "--trainer.max_epochs", 3)
    done.refused("--model.lr_scheduler: OneCycleLR was planned for 72 steps, but this fit has 108")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--model.optimizer.lr", 0.5),
        ("--model.optimizer", "Adam"),
        ("--model.network.dropout", 0.7),
        ("--data.batch_size", 64),
        ("--data.dataset", "mnist"),
        ("--seed_everything", 1),
    ],
)
def test_a_fit_that_goes_on_refuses_another_model_data_or_seed(
    option: str, value: Any, cli: Cli, own_run: Path
) -> None:
    done = cli("fit", "--ckpt_path", "last", "--trainer.max_epochs", 3, option, value)
    done.refused(option, str(value), "--model.weights lightning_logs/version_0/checkpoints/last.ckpt")
    assert len(read_metrics(own_run)) == 2


def test_a_checkpoint_away_from_its_run_does_not_continue_but_is_tested(cli: Cli, own_run: Path) -> None:
    shutil.copy(own_run / "checkpoints/last.ckpt", "mine.ckpt")
    cli("fit", "--ckpt_path", "mine.ckpt").refused("mine.ckpt", "config.yaml")
    cli("test", "--ckpt_path", "mine.ckpt").worked()


def test_a_new_fit_starts_from_weights_with_new_options(cli: Cli, own_run: Path, tmp_path: Path) -> None:
    weights = own_run / "checkpoints/last.ckpt"
    network = ("--model.network.hidden_sizes", "[32, 16]", "--model.network.dropout", 0.2)
    cli(
        "fit", *DIGITS, *network, "--model.weights", weights, "--model.optimizer.lr", 0, "--trainer.max_epochs", 1
    ).worked()
    assert same(state(tmp_path), state(tmp_path, number=1))
    weights.unlink()
    cli("fit", "--ckpt_path", "last", "--trainer.max_epochs", 2).worked()


def test_without_figures_a_run_has_its_numbers_alone(cli: Cli, tmp_path: Path) -> None:
    cli("fit", *QUICK, "--figures", "false").worked()
    cli("test", "--figures", "false").worked()
    run = tmp_path / "lightning_logs/version_0"
    assert list(run.glob("*.png")) == []
    assert {"metrics.csv", "test.json", "per_class.csv"} <= {path.name for path in run.iterdir()}
    tags = EventAccumulator(str(run)).Reload().Tags()
    assert {"train/loss", "test/accuracy"} <= set(tags["scalars"])
    assert tags["images"] == tags["histograms"] == []


OWN = """
from torch import nn
class Net(nn.Module):
    def __init__(self, width: int = 4, num_classes: int = 10):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(784, width), nn.Linear(width, num_classes))
    def forward(self, images):
        return self.layers(images)
"""


def test_a_run_knows_its_network_and_a_checkpoint_by_its_path_is_data(cli: Cli, tmp_path: Path, photo: Path) -> None:
    (tmp_path / "own_network.py").write_text(OWN)
    network = ("--model.network", "own_network.Net", "--model.network.width", 5)
    fit = cli("fit", *DIGITS, "--trainer.max_epochs", 1, *network).worked()
    for command in ("test", "validate", f"predict {photo}", "export"):
        cli(*command.split()).worked()
    cli(*printed_test(fit.out)).worked()
    path = tmp_path / "lightning_logs/version_0/checkpoints/best.ckpt"
    (tmp_path / "own_network.py").write_text("raise SystemExit('imported')")
    sys.modules.pop("own_network")
    for command in ("test", "validate"):
        cli(command, "--ckpt_path", path).refused("own_network.Net", "--model.network own_network.Net")
    for command in (f"predict {photo}", "export"):
        cli(*command.split(), "--ckpt_path", path).refused("own_network.Net", "--network own_network.Net")
    (tmp_path / "own_network.py").write_text(OWN)
    own = ("--network", "own_network.Net", "--network.width", 5)
    cli("test", "--ckpt_path", path, *network).worked()
    cli("predict", photo, "--ckpt_path", path, *own).worked()
    cli("export", "--ckpt_path", path, *own).worked()


OWN_DATA = """
from lit_mnist import MNISTDataModule
class Inverted(MNISTDataModule):
    def __init__(self, level: int = 255, **kwargs):
        super().__init__(**kwargs)
        self.level = level
    def load(self, split):
        images, labels = super().load(split)
        return self.level - images, labels
"""


def test_data_of_ones_own_is_named_by_its_import_path(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "own_data.py").write_text(OWN_DATA)
    data = ("--data", "own_data.Inverted", "--data.level", 254)
    cli("fit", *data, *QUICK, "--data.batch_size", 64).worked()
    cli("test").worked()
    run = tmp_path / "lightning_logs/version_0"
    assert json.loads((run / "test.json").read_text())["dataset"] == "Inverted"
    path = run / "checkpoints/best.ckpt"
    cli("test", "--ckpt_path", path).refused("it was trained on Inverted; name these images with --data")
    cli("test", "--ckpt_path", path, *data[:2], "--data.dataset", "digits").worked()
    assert [path.name for path in run.parent.iterdir()] == ["version_0"]
    (tmp_path / "other.py").write_text(
        "from own_data import Inverted\n"
        "class Named(Inverted):\n"
        "    classes = property(lambda self: list('abcdefghij'), lambda self, names: None)\n"
        "class Two(Inverted):\n"
        "    classes = property(lambda self: ['a', 'b'], lambda self, names: None)\n"
    )
    other = ("test", "--ckpt_path", path, "--data")
    done = cli(*other, "other.Named", "--data.dataset", "digits")
    assert "warning: the names of the classes are not those of" in done.err
    cli(*other, "other.Two").refused("trained on images of (28, 28) in 10 classes, but the data are images")


def test_a_class_in_a_config_keeps_what_the_config_below_it_says(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "below.yaml").write_text("model: {network: {class_path: MLP, init_args: {dropout: 0.25}}}")
    (tmp_path / "above.yaml").write_text("model: {class_path: FastClassifier, init_args: {steps_per_execution: 5}}")
    cli("fit", "--config", "below.yaml", "--config", "above.yaml", *QUICK).worked()
    model = yaml.safe_load((tmp_path / "lightning_logs/version_0/config.yaml").read_text())["model"]
    assert model["class_path"] == "lit_mnist.fast.FastClassifier"
    assert model["init_args"]["network"]["init_args"]["dropout"] == 0.25
    assert model["init_args"]["steps_per_execution"] == 5


AUTOENCODER = """
import lightning as L
import torch
class Autoencoder(L.LightningModule):
    def __init__(self, width: int = 4):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(784, width), torch.nn.Linear(width, 784))
    def training_step(self, batch, batch_idx, stage="train"):
        images = batch[0].flatten(1)
        loss = torch.nn.functional.mse_loss(self.layers(images), images)
        self.log(f"{stage}/loss", loss, on_step=False, on_epoch=True)
        return loss
    def validation_step(self, batch, batch_idx):
        self.training_step(batch, batch_idx, "val")
    def test_step(self, batch, batch_idx):
        self.training_step(batch, batch_idx, "test")
    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters())
"""


def test_another_lightning_module_fits_tests_and_resumes_as_if_never_stopped(
    cli: Cli, tmp_path: Path, photo: Path
) -> None:
    (tmp_path / "own_model.py").write_text(AUTOENCODER)
    fit = ("fit", *DIGITS, "--model", "own_model.Autoencoder", "--model.width", 3)
    cli(*fit, "--trainer.max_epochs", 3).worked()
    cli(*fit, "--trainer.max_epochs", 2).worked()
    cli("fit", "--ckpt_path", "last", "--trainer.max_epochs", 3).worked()
    assert same(state(tmp_path), state(tmp_path, number=1))
    runs = [tmp_path / f"lightning_logs/version_{number}" for number in (0, 1)]
    rows, resumed = ([{**row, "seconds": 0} for row in read_metrics(run)] for run in runs)
    assert rows == resumed
    assert rows[0].keys() == {"epoch", "train/loss", "val/loss", "lr", "seconds"}
    cli("test").worked()
    assert json.loads((runs[1] / "test.json").read_text()).keys() >= {"loss", "dataset", "checkpoint"}
    cli("report", "lightning_logs").worked()
    cli("predict", photo).refused("Autoencoder, is not a Classifier")
    (tmp_path / "own_model.py").write_text(AUTOENCODER.replace('f"{stage}/loss"', 'f"{stage}_loss"'))
    sys.modules.pop("own_model")
    assert "warning: --best: val/loss is not logged" in cli(*fit, "--trainer.max_epochs", 1).err
    cli(*fit, "--trainer.max_epochs", 1, "--best", "val_loss").worked()
    assert (tmp_path / "lightning_logs/version_3/checkpoints/best.ckpt").is_file()
    cli(*fit, "--best", "val/score").refused("--best: val/score is not a metric that can select best.ckpt")


def test_best_ckpt_has_the_best_value_of_any_metric(cli: Cli, tmp_path: Path) -> None:
    f1 = "{f1: {class_path: torchmetrics.classification.MulticlassF1Score, init_args: {num_classes: 10}}}"
    cli("fit", *QUICK, "--best", "val/f1", "--model.metrics", f1, "--model.optimizer.lr", 0.5).worked()
    saved = torch.load(tmp_path / "lightning_logs/version_0/checkpoints/best.ckpt", weights_only=True)
    rows = read_metrics(tmp_path / "lightning_logs/version_0")
    assert saved["epoch"] + 1 == max(rows, key=lambda row: row["val/f1"])["epoch"]
    cli("fit", *QUICK, "--best", "val/f2").refused("--best: val/f2 is not a metric that can select best.ckpt")
    cli("fit", *QUICK, "--ckpt_path", "last", "--best", "val/accuracy").refused("--best: val/accuracy differs from")


def test_class_weights_are_those_of_the_loss_that_trains(cli: Cli, tmp_path: Path) -> None:
    weights = [1, 1, 1, 1, 1, 1, 1, 1, 1, 8]
    cli("fit", *QUICK, "--model.loss", "CrossEntropyLoss", "--model.loss.weight", weights).worked()
    assert state(tmp_path)["loss.weight"].tolist() == weights
    cli("fit", "--ckpt_path", "last", "--trainer.max_epochs", 3).worked()
    cli("test").worked()
    cli("fit", *QUICK, "--model.loss", "CrossEntropyLoss", "--model.loss.weight", [1, 2]).refused("--model.loss")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("fit --model.network.dropout 1.5", ["--model.network.dropout: 1.5 is not in [0, 1)"]),
        ("fit --model.network.hidden_sizes [0]", ["--model.network.hidden_sizes: 0 is not at least 1"]),
        ("fit --data.dataset digits --model.network CNN --model.network.channels 1", ["network.channels: 1 is not"]),
        ("fit --data.dataset digits --data.augment RandomWarp --data.augment.scale 2", ["augment.scale: 2.0 is"]),
        ("fit --float32_precision low", ["--float32_precision", "medium", "low"]),
        ("fit --model.network.widht 1", ["--model.network.widht: there is no such option"]),
        ("fit --model.network nonsense", ["--model.network", "nonsense"]),
        ("fit --trainer.max_epochs x", ["--trainer.max_epochs", "whole number, not x"]),
        ("fit --model.optimizer Adam --model.optimizer.lr x", ["--model.optimizer.lr", "a number, not x"]),
        ("fit --model.optimizer SGD --model.optimizer.lr -1 --data.dataset digits", ["--model.optimizer", "-1"]),
        ("fit --data.batch_size 0", ["--data.batch_size: 0 is not at least 1"]),
        ("fit --data.dataset letters", ["--data.dataset", "fashion_mnist", "letters"]),
        ("fit --data.dataset digits --data.val_size 9999", ["--data.val_size: 9999 is not in 1..1437"]),
        ("fit --config missing.yaml", ["missing.yaml: there is no such config"]),
        ("fit --config broken.yaml", ["broken.yaml: while parsing a flow node", "line 2, column 1"]),
        ("fit --ckpt_path missing.ckpt", ["missing.ckpt is not a file"]),
        ("fit --ckpt_path last", ["no run in lightning_logs"]),
        ("fit --seed_everything -1", ["--seed_everything", "-1"]),
        ("fit --trainer.accelerator abacus", ["--trainer", "abacus"]),
        ("fit --data.dataset digits --model.network torch.nn.Linear --model.network.in_features 784"
            " --model.network.out_features 10", ["--model.network: Linear does not accept images (B, 28, 28)"]),
        ("fit --data.dataset digits --model.lr_scheduler OneCycleLR", ["--model.lr_scheduler", "max_lr"]),
        ("fit --data.dataset digits --model.lr_scheduler StepLR --model.lr_scheduler.step_size 0", ["--model.lr_sch"]),
        ("fit --model FastClassifier --model.steps_per_execution 0", ["--model.steps_per_execution: 0 is not at"]),
        ("test", ["no run in lightning_logs"]),
        ("tset", ["tset: there is no such command", "test"]),
        ("report nothing", ["nothing is not a folder"]),
    ],
)  # fmt: skip
def test_bad_input_gets_one_line_and_leaves_nothing(line: str, words: list[str], cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "broken.yaml").write_text("data: [1,\n")
    cli(*line.split()).refused(*words)
    assert not list(tmp_path.glob("lightning_logs/*"))


def test_a_fit_that_diverges_ends_in_one_line_with_status_1(cli: Cli) -> None:
    done = cli("fit", *QUICK, "--model.optimizer", "SGD", "--model.optimizer.lr", 1e30)
    done.refused("is nan in epoch 1", "--model.optimizer.lr", status=1)


def test_help_names_every_command_and_version_is_said(cli: Cli) -> None:
    out = cli("--help").worked().out
    for command in ("fit", "validate", "test", "predict", "export", "demo", "report", "reproduce"):
        assert f"\n  {command} " in out
    assert cli().out == out
    assert cli("--version").out.startswith("lit-mnist ")


def test_what_needs_no_pytorch_imports_none() -> None:
    script = "import sys; from lit_mnist.__main__ import main; main(['--help']); main(['--version']); "
    script += "assert not {'torch', 'lightning', 'jsonargparse'} & set(sys.modules); main(['tets'])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("lit-mnist: error: tets: there is no such command; choose from fit, validate, test")


def test_the_list_of_commands_says_what_each_says_of_itself() -> None:
    functions = {name: getattr(CLI, name) for name in ("fit", "validate", "test")} | TOOLS
    assert {name: str(function.__doc__).partition("\n")[0] for name, function in functions.items()} == COMMANDS


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict", "export", "demo", "report", "reproduce"])
def test_the_help_of_a_command_explains_its_options(command: str, cli: Cli) -> None:
    done = cli(command, "--help").worked()
    assert done.out.startswith(f"usage: lit-mnist {command}")
    assert len(done.out) < 60_000
    assert "torch.nn.Identity" not in done.out


def test_a_config_goes_by_its_name_unless_a_file_has_it(cli: Cli, tmp_path: Path) -> None:
    for name in ("mlp_dropout", "mlp_dropout.yaml"):
        cli("fit", "--config", name, *QUICK[:6], "--trainer.fast_dev_run", "true").worked()
    assert "dropout:\n      - 0.4" in cli("fit", "--config=mlp_dropout", "--print_config").out.replace(
        "        ", "      "
    )
    Path("mlp_dropout").write_text("model: {network: {class_path: MLP, init_args: {dropout: 0.25}}}\n")
    assert "dropout: 0.25" in cli("fit", "--config", "mlp_dropout", "--print_config").out
    assert "dropout: 0.5" in cli("fit", "--config", "{model: {network: {dropout: 0.5}}}", "--print_config").out
    cli("fit", "--config", "qickstart").refused("qickstart: there is no such config; did you mean quickstart?")
    cli("fit", "--config", "ladder/6cnn").refused("did you mean ladder/6_cnn?")


def test_the_help_of_a_part_has_the_programs_name(cli: Cli) -> None:
    assert cli("fit", "--model.network.help", "CNN").out.startswith("usage: lit-mnist ")


def test_home_is_meant_by_a_tilde(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    cli("fit", *QUICK, "--trainer.default_root_dir", "~/runs").worked()
    cli("test", "--trainer.default_root_dir", "~/runs").worked()
    assert (tmp_path / "home/runs/lightning_logs/version_0/test.json").exists()
    assert not (tmp_path / "~").exists()


def test_a_folder_of_runs_may_have_any_name(cli: Cli, tmp_path: Path) -> None:
    root = tmp_path / "my [runs] é"
    fit = cli("fit", *QUICK, "--trainer.default_root_dir", root).worked()
    cli(*printed_test(fit.out)).worked()
    assert (root / "lightning_logs/version_0/test.json").exists()


@pytest.mark.parametrize(
    "name", sorted(str(path.relative_to(ROOT / "configs")) for path in ROOT.glob("configs/**/*.yaml"))
)
def test_a_shipped_config_opens_with_its_command_and_runs(
    name: str, cli: Cli, fashion_dir: Path, tmp_path: Path
) -> None:
    text = (ROOT / "configs" / name).read_text()
    contract = [line.removeprefix("# ") for line in text.splitlines() if line.startswith("# ")]
    assert contract[0] == f"python -m lit_mnist fit --config {name.removesuffix('.yaml')}"
    assert re.match(r"test accuracy 9\d\.\d\d \+- \d\.\d\d %", contract[-1])
    data = ("--data.dataset", "fashion_mnist", "--data.data_dir", fashion_dir, "--data.val_size", 60)
    short = ("--trainer.max_epochs", 1, "--trainer.enable_model_summary", "false")
    cli("fit", "--config", ROOT / "configs" / name, *data, *short).worked()
    config = yaml.safe_load((tmp_path / "lightning_logs/version_0/config.yaml").read_text())
    wanted = yaml.safe_load(text).get("model", {})
    for part, spec in wanted.items():
        if isinstance(spec, dict) and "class_path" in spec:
            assert config["model"]["init_args"][part]["class_path"].endswith(f".{spec['class_path']}")
            assert config["model"]["init_args"][part]["init_args"].items() >= spec.get("init_args", {}).items()


def test_the_tutorials_runs_are_shipped() -> None:
    dropout = {"class_path": "MLP", "init_args": {"dropout": [0.4, 0.3]}}
    expected: dict[str, Any] = {
        "mlp": {"trainer": {"max_epochs": 10}},
        "mlp_dropout": {"trainer": {"max_epochs": 10}, "model": {"network": dropout}},
        "mlp_dropout_30": {"trainer": {"max_epochs": 30}, "model": {"network": dropout}},
    }
    assert {n: yaml.safe_load((ROOT / f"configs/{n}.yaml").read_text()) for n in expected} == expected


def test_a_checkpoint_of_ones_own_lies_in_its_run_without_a_logger(cli: Cli, tmp_path: Path) -> None:
    own = ("--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.filename", "own", "--trainer.logger", "false")
    cli("fit", *QUICK, *own).worked()
    assert (tmp_path / "lightning_logs/version_0/checkpoints/own.ckpt").exists()
    assert not (tmp_path / "checkpoints").exists()


def test_the_config_of_an_older_run_means_its_checkpoint(cli: Cli, own_run: Path) -> None:
    cli("fit", *QUICK).worked()
    done = cli("test", "--config", own_run / "config.yaml").worked()
    assert "checkpoint  lightning_logs/version_0/checkpoints/best.ckpt" in done.out
    assert not (own_run.parent / "version_1/test.json").exists()


def test_the_newest_run_is_the_one_that_was_fitted_last_and_it_needs_a_checkpoint(cli: Cli, own_run: Path) -> None:
    cli("fit", *QUICK).worked()
    cli("fit", "--ckpt_path", own_run / "checkpoints/last.ckpt", "--trainer.max_epochs", 3).worked()
    assert "version_0/checkpoints/best.ckpt" in cli("test").worked().out
    cli("fit", *QUICK, "--trainer.enable_checkpointing", "false").worked()
    cli("test").refused("version_2 has no best.ckpt; it has no checkpoint")
    cli("predict", "x.png", "--ckpt_path", "last").refused("version_2 has no last.ckpt; it has no checkpoint")


def test_nothing_that_a_checkpoint_names_is_imported_made_or_fetched(cli: Cli, own_run: Path, tmp_path: Path) -> None:
    (tmp_path / "evil.py").write_text("from pathlib import Path\nPath('imported').touch()\nEvil = object\n")
    path = own_run / "checkpoints/last.ckpt"
    saved = torch.load(path, weights_only=True)
    saved["datamodule_hyper_parameters"] |= {"augment": {"class_path": "evil.Evil"}, "data_dir": str(tmp_path / "made")}
    torch.save(saved, "evil.ckpt")
    for command in ("test", "validate"):
        cli(command, "--ckpt_path", "evil.ckpt").worked()
    saved["hyper_parameters"]["network"]["init_args"]["batch_norm"] = {"class_path": "evil.Evil"}
    torch.save(saved, "evil.ckpt")
    cli("test", "--ckpt_path", "evil.ckpt").refused("batch_norm")
    assert not {"imported", "made"} & {path.name for path in tmp_path.iterdir()}


def test_a_fit_that_max_steps_ended_is_resumed(cli: Cli, tmp_path: Path) -> None:
    cli("fit", *QUICK, "--trainer.max_steps", 50).worked()
    rows = read_metrics(run := tmp_path / "lightning_logs/version_0")
    done = cli("fit", "--ckpt_path", "last").worked()
    how = "raise --trainer.max_epochs (2) or --trainer.max_steps (50)"
    assert f"the fit was already complete; to extend it, {how}" in done.out
    assert read_metrics(run) == rows
    cli("fit", "--ckpt_path", "last", "--trainer.max_steps", -1, "--trainer.max_epochs", 3).worked()
    assert [row["epoch"] for row in read_metrics(run)] == [1, 2, 3]
    assert (run / "metrics.csv").read_text().splitlines()[1].startswith("1,")


def test_an_endless_fit_counts_its_epochs(cli: Cli) -> None:
    done = cli("fit", *QUICK, "--trainer.max_epochs", -1, "--trainer.max_steps", 40).worked()
    assert "\nepoch  1  train/loss" in f"\n{done.out}"


def test_in_a_notebook_the_printed_command_is_one_that_works(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/x/ipykernel_launcher.py", "-f", "kernel.json"])
    assert "test with   python -m lit_mnist test" in cli("fit", *QUICK).out


def test_a_test_says_of_which_epoch_it_is(cli: Cli, own_run: Path) -> None:
    cli("test", "--ckpt_path", "last").worked()
    content = json.loads((own_run / "test.json").read_text())
    assert (content["checkpoint"], content["epoch"], content["global_step"]) == ("last.ckpt", 2, 72)
