"""Commands of daily users of Lightning: each gives right results, or is refused in one line."""

import csv
import logging
import shutil
from pathlib import Path

import pytest
import torch
from conftest import DIGITS, Cli
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lit_mnist import Classifier
from lit_mnist.runs.folder import read_metrics

FIT = ("fit", *DIGITS, "--data.eval_batch_size", 100, "--model.network.hidden_sizes", "[16]")
RUN = Path("lightning_logs/version_0")

WORKS = [
    *(f"precision {value}" for value in ("32-true", "64-true", "bf16-mixed", "bf16-true")),
    *("gradient_clip_val 0.5", "accumulate_grad_batches 3", "detect_anomaly true", "deterministic true"),
    *("limit_train_batches 3", "limit_train_batches 0.3", "limit_val_batches 1", "limit_val_batches 0.5"),
    *("limit_val_batches 0", "check_val_every_n_epoch 2", "val_check_interval 0.5", "val_check_interval 10"),
    *("max_steps 80", "min_epochs 1", "max_time 00:00:01:00", "overfit_batches 2", "overfit_batches 0.4"),
    *("inference_mode false", "barebones true", "benchmark true", "profiler simple", "num_sanity_val_steps 2"),
    *("logger true", "logger false", "enable_checkpointing false", "enable_progress_bar true"),
    *("enable_progress_bar false", "enable_model_summary true", "use_distributed_sampler false"),
    *("reload_dataloaders_every_n_epochs 1", "log_every_n_steps 10", "sync_batchnorm true", "accelerator cpu"),
    *("devices 1", "gradient_clip_algorithm norm", "fast_dev_run 2", "enable_autolog_hparams false"),
    "logger CSVLogger --trainer.logger.save_dir csv",
    "logger+=CSVLogger --trainer.logger.save_dir csv --trainer.logger+=TensorBoardLogger --trainer.logger.save_dir tb",
    "callbacks+=EarlyStopping --trainer.callbacks.monitor val/loss",
    "callbacks+=LearningRateMonitor",
    "callbacks+=RichProgressBar",
    "callbacks+=TQDMProgressBar",
    "callbacks+=RichModelSummary",
    "callbacks+=ModelCheckpoint --trainer.callbacks.monitor val/accuracy --trainer.callbacks.mode max",
    "callbacks+=EMAWeightAveraging --trainer.callbacks.decay 0.5",
    "callbacks+=WeightAveraging",
    "callbacks+=Timer",
    "callbacks+=DeviceStatsMonitor",
    'callbacks+=GradientAccumulationScheduler --trainer.callbacks.scheduling {"1":2}',
]
REFUSED = {
    "callbacks+=StochasticWeightAveraging --trainer.callbacks.swa_lrs 0.01": "use EMAWeightAveraging",
    "callbacks+=BatchSizeFinder": "config.yaml would lack",
    "callbacks+=LearningRateFinder": "config.yaml would lack",
    "logger WandbLogger": "wandb",
    "callbacks+=EarlyStopping --trainer.callbacks.monitor val_loss": "did you mean val/loss?",
    "callbacks+=ModelCheckpoint --trainer.callbacks.monitor accuracy": "which is not measured",
    "val_check_interval 1000": "val_check_interval",
    "precision 7": "--trainer.precision",
    "limit_train_batches 1.5": "limit_train_batches",
    "logger CSVLogger": "--trainer.logger.save_dir is missing",
    "callbacks+=EarlyStopping --trainer.callbacks.monitor val/accuracy": "needs max",
    "callbacks+=ModelCheckpoint --trainer.callbacks.monitor train/accuracy": "needs max",
    "callbacks+=EarlyStopping --trainer.callbacks.monitor val/loss --trainer.callbacks.mode max": "needs min",
    "callbacks+=BackboneFinetuning": "BackboneFinetuning needs a model with a backbone",
    "devices 0": "--trainer",
    "strategy nonsense": "--trainer",
}


@pytest.mark.parametrize("option", WORKS)
@pytest.mark.filterwarnings("ignore")
def test_an_option_of_the_trainer_works(option: str, cli: Cli) -> None:
    done = cli(*FIT, "--trainer.max_epochs", 2, *f"--trainer.{option}".split())
    assert done.status == 0, done.err
    assert "Traceback" not in done.err
    if "barebones" in option or "fast_dev_run" in option:
        assert not Path("lightning_logs").exists()
        return
    rows = read_metrics(RUN)
    validated = [row["epoch"] for row in rows if "val/loss" in row]
    expected = {"limit_val_batches 0": [], "check_val_every_n_epoch 2": [2]}
    assert validated == expected.get(option, [row["epoch"] for row in rows])
    assert (RUN / "checkpoints/last.ckpt").exists() == (option != "enable_checkpointing false")
    assert ("curves" in done.out) == any(RUN.glob("events*"))
    assert ("test with" in done.out) == (RUN / "checkpoints/last.ckpt").exists()


@pytest.mark.parametrize("option", REFUSED)
def test_what_cannot_work_is_refused_in_one_line(option: str, cli: Cli, tmp_path: Path) -> None:
    cli(*FIT, "--trainer.max_epochs", 2, *f"--trainer.{option}".split()).refused(REFUSED[option])
    assert not list(tmp_path.glob("lightning_logs/*"))


def test_figures_are_of_what_was_trained_and_validated(cli: Cli) -> None:
    cli(*FIT, "--trainer.max_epochs", 1, "--trainer.limit_train_batches", 3, "--trainer.limit_val_batches", 1).worked()
    (row,) = read_metrics(RUN)
    assert (row["train/accuracy"] * 96) == pytest.approx(round(row["train/accuracy"] * 96), abs=1e-3)


def test_averaged_weights_are_those_of_the_checkpoints_and_a_fit_goes_on_from_both(cli: Cli) -> None:
    averaging = ("--trainer.callbacks+=EMAWeightAveraging", "--trainer.callbacks.decay", 0.99)
    cli(*FIT, "--trainer.max_epochs", 1, *averaging).worked()
    cli(*FIT, "--trainer.max_epochs", 1).worked()
    averaged, plain = (
        Classifier.load_from_checkpoint(f"lightning_logs/version_{number}/checkpoints/last.ckpt") for number in (0, 1)
    )
    assert not torch.equal(averaged.network.layers[0].weight, plain.network.layers[0].weight)
    saved = torch.load("lightning_logs/version_0/checkpoints/last.ckpt", weights_only=True)
    current = saved["current_model_state"]["network.layers.0.weight"]
    assert torch.equal(current, plain.network.layers[0].weight), "the fit goes on from these"
    done = cli("test", "--ckpt_path", "lightning_logs/version_0/checkpoints/last.ckpt").worked()
    assert "test/accuracy" in done.out


def test_an_own_checkpoint_belongs_to_its_run(cli: Cli) -> None:
    own = ("--trainer.callbacks.save_top_k=-1", "--trainer.callbacks.filename", "{epoch}-{val/loss:.3f}")
    monitor = ("--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.monitor", "val/loss")
    cli(*FIT, "--trainer.max_epochs", 2, *monitor, *own).worked()
    checkpoint = next(path for path in RUN.rglob("*.ckpt") if "epoch=0" in str(path))
    cli("test", "--ckpt_path", checkpoint).worked()
    assert (RUN / "test.json").exists()
    cli("fit", "--ckpt_path", checkpoint).worked()
    assert [path.name for path in RUN.parent.iterdir()] == ["version_0"]
    events = EventAccumulator(str(RUN)).Reload()
    assert [point.step for point in events.Scalars("train/loss")] == [35, 71], "the second epoch is logged once"


def test_the_profilers_table_is_shown(
    cli: Cli, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("lightning", "lightning.pytorch"):  # where Lightning's log goes depends on when it was imported
        monkeypatch.setattr(logging.getLogger(name), "propagate", True)
    cli(*FIT, "--trainer.max_epochs", 1, "--trainer.profiler", "simple")
    assert "run_training_epoch" in caplog.text


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("fit --model.lrr 1", "did you mean --model.optimizer.lr?"),
        ("fit --model.optimizer.lrr 1", "did you mean --model.optimizer.lr?"),
        ("fit --model.network.drop 1", "did you mean --model.network.dropout?"),
        ("fit --model.optimzer Adam", "did you mean --model.optimizer?"),
        ("fit --trainer.max_epoch 1", "did you mean --trainer.max_epochs?"),
        ("fit --epochs 1", "did you mean --trainer.max_epochs?"),
        ("fit --nonsense 1", "--nonsense: there is no such option; see --help"),
        ("fit --model.network CNN --model.network.chanels 3", "did you mean --model.network.channels?"),
        ("fit --trainer.max_epochs=", "--trainer.max_epochs: expected a whole number"),
        ("fit --trainer.precision bf16mixed", "bf16mixed is not a valid value; did you mean bf16-mixed?"),
        ("fit --trainer.precision NoneTypes", "NoneTypes is not a valid value; see --help"),
        ("fit --model.lr_scheduler_interval x", "x is not a valid value; choose from epoch, step"),
        ("fit --trainer.gradient_clip_val x", "expected a number, not x"),
        ("fit --model.network.hidden_sizes x", "--model.network.hidden_sizes: expected"),
        ("fit --data.num_workers 4", "choose from --data.dataset, --data.data_dir"),
        ("fit --model.network.hidden_sizes 512,256", "expected a list such as [1, 2], not 512,256"),
        ("fit --model.metrics {f1:MulticlassF1Score}", "--model.metrics"),
        ("fit --model.metrics={'f1':'MulticlassF1Score'}", "write {class_path: ..., init_args: {num_classes: ..."),
        ("fit --model.loss CrossEntropyLoss --model.loss.weight x", "--model.loss.weight: Not of type Tensor"),
        ("fit --data ImageFolderDataModule --data.sise 3", "did you mean --data.size?"),
        ("fit --data Halves", "--data: there is no class Halves; name your own by its import path"),
        ("fit --model my_model.Nothing", "--model: my_model.Nothing: No module named 'my_model'"),
        ("fit --model.num_classes 3", "--model.num_classes: it follows from the attribute num_classes of the data"),
        ("fit --data lightning.LightningDataModule", "--data: LightningDataModule has no attribute num_classes"),
        (f"fit --data {__file__}", "--data: a Python file is not a config; name a class in it, such as my_file.Data"),
        ("fit --data torch.nn.Linear", "--data: torch.nn.Linear is not a LightningDataModule"),
        ("fit --data.dataset digits --best val/nothing", "--best: val/nothing is not a metric"),
        ("predict", "images: at least one is missing"),
    ],
)  # fmt: skip
def test_a_slip_names_the_option_as_typed_and_what_was_meant(line: str, words: str, cli: Cli) -> None:
    cli(*line.split()).refused(words)


def test_the_loss_by_step_is_logged_where_it_is_asked_for(cli: Cli) -> None:
    cli(*FIT, "--trainer.max_epochs", 2, "--trainer.log_every_n_steps", 10).worked()
    cli(*FIT, "--trainer.max_epochs", 1).worked()
    asked, other = (EventAccumulator(f"lightning_logs/version_{number}").Reload() for number in (0, 1))
    points = asked.Scalars("train/loss_step")
    assert [point.step for point in points] == [10, 20, 30, 40, 50, 60, 70]
    assert points[0].value > points[-1].value > 0
    assert "train/loss_step" not in other.Tags()["scalars"]


def test_the_loss_of_a_step_is_that_of_all_its_batches(cli: Cli) -> None:
    still = ("--model.optimizer.lr", 0, "--trainer.max_epochs", 1, "--trainer.log_every_n_steps", 3)
    cli(*FIT, *still, "--trainer.accumulate_grad_batches", 4).worked()
    points = EventAccumulator(str(RUN)).Reload().Scalars("train/loss_step")
    assert [point.step for point in points] == [3, 6, 9]
    (row,) = read_metrics(RUN)
    assert sum(point.value for point in points) / 3 == pytest.approx(row["train/loss"], rel=0.05)


def test_a_csv_of_pixels_gets_a_line_that_says_how_to_turn_it_into_images(cli: Cli, own_run: Path) -> None:
    Path("test.csv").write_text("pixel0,pixel1\n0,0\n")
    cli("predict", "test.csv").refused("test.csv: ", "Image.fromarray", status=1)


def test_a_project_may_lie_anywhere(cli: Cli, tmp_path: Path, own_run: Path) -> None:
    moved = shutil.move(own_run.parent, tmp_path / "my [runs] é")
    cli("test", "--ckpt_path", Path(moved) / "version_0/checkpoints/best.ckpt").worked()
    with (Path(moved) / "version_0/per_class.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 10
