"""What a fit shows and leaves."""

import csv
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
import torch
import yaml

from lit_mnist import MLP, Classifier, MNISTDataModule
from lit_mnist.runs.checkpoints import RunCheckpoint
from lit_mnist.runs.divergence import DivergedError, StopOnDivergence
from lit_mnist.runs.history import METRICS, History
from lit_mnist.views.bar import EpochBar, print_layers

Quiet = Callable[..., L.Trainer]


def small(**options: Any) -> Classifier:
    return Classifier(network=MLP(hidden_sizes=[16]), **options)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_history_leaves_a_row_and_a_line_for_each_epoch(
    digits: MNISTDataModule, quiet: Quiet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = quiet(max_epochs=2, callbacks=[History(tmp_path, "")])
    trainer.fit(small(), digits)
    table = rows(tmp_path / "metrics.csv")
    assert list(table[0]) == ["epoch", *METRICS, "lr", "seconds"]
    assert [row["epoch"] for row in table] == ["1", "2"]
    for name in METRICS:
        assert float(table[1][name]) == trainer.callback_metrics[name].item()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
    assert [line[:10] for line in lines] == ["epoch  1/2", "epoch  2/2"]
    assert f"val_loss {float(table[1]['val/loss']):.4f}" in lines[1]
    assert f"  loss {float(table[1]['train/loss']):.4f}" in lines[1]


def test_history_shows_the_learning_rate_of_each_epoch(digits: MNISTDataModule, quiet: Quiet, tmp_path: Path) -> None:
    model = small(lr_scheduler="StepLR", lr_scheduler_options={"step_size": 1, "gamma": 0.5})
    quiet(max_epochs=3, limit_train_batches=2, callbacks=[History(tmp_path, "")]).fit(model, digits)
    assert [float(row["lr"]) for row in rows(tmp_path / "metrics.csv")] == [1e-3, 5e-4, 2.5e-4]


def test_history_leaves_validation_empty_where_there_is_none(
    digits: MNISTDataModule, quiet: Quiet, tmp_path: Path
) -> None:
    history = History(tmp_path, "")
    quiet(max_epochs=1, limit_val_batches=0, limit_train_batches=2, callbacks=[history]).fit(small(), digits)
    (row,) = rows(tmp_path / "metrics.csv")
    assert row["val/loss"] == row["val/accuracy"] == ""
    assert float(row["train/loss"]) > 0


def test_a_restored_history_goes_on_after_its_rows(digits: MNISTDataModule, quiet: Quiet, tmp_path: Path) -> None:
    first = quiet(max_epochs=1, limit_train_batches=2, callbacks=[History(tmp_path, "")])
    first.fit(small(), digits)
    first.save_checkpoint(tmp_path / "first.ckpt")
    second = quiet(max_epochs=2, limit_train_batches=2, callbacks=[History(tmp_path, "")])
    second.fit(small(), digits, ckpt_path=tmp_path / "first.ckpt")
    assert [row["epoch"] for row in rows(tmp_path / "metrics.csv")] == ["1", "2"]


def test_the_layer_table_lists_each_layer_once_and_the_total(capsys: pytest.CaptureFixture[str]) -> None:
    print_layers(Classifier(network=MLP(dropout=[0.4, 0.3])))
    lines = [
        [cell.strip() for cell in line.strip("│").split("│")]
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("│")
    ]
    assert lines == [
        ["0", "Linear", "(B, 256)", "200,960"],
        ["1", "ReLU", "(B, 256)", ""],
        ["2", "Dropout", "(B, 256)", ""],
        ["3", "Linear", "(B, 128)", "32,896"],
        ["4", "ReLU", "(B, 128)", ""],
        ["5", "Dropout", "(B, 128)", ""],
        ["6", "Linear", "(B, 10)", "1,290"],
        ["total", "", "", "235,146"],
    ]


def test_the_progress_bar_stays_away_where_the_output_is_no_terminal() -> None:
    assert EpochBar().is_disabled


def test_the_configuration_is_left_in_the_run_folder(digits: MNISTDataModule, quiet: Quiet, tmp_path: Path) -> None:
    saved = History(tmp_path, "seed_everything: 3\n")
    quiet(max_epochs=1, limit_train_batches=1, callbacks=[saved]).fit(small(), digits)
    assert yaml.safe_load((tmp_path / "config.yaml").read_text()) == {"seed_everything": 3}


class Scripted(Classifier):
    """A classifier whose val/loss comes from a list, one for each epoch."""

    script: list[float]

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/loss", self.script[self.current_epoch], batch_size=1)


def fit_with_checkpoints(digits: MNISTDataModule, quiet: Quiet, folder: Path, losses: list[float]) -> L.Trainer:
    saved = [RunCheckpoint(folder, "best", monitor="val/loss"), RunCheckpoint(folder, "last")]
    trainer = quiet(max_epochs=len(losses), limit_train_batches=2, enable_checkpointing=True, callbacks=saved)
    model = Scripted(network=MLP(hidden_sizes=[16]))
    model.script = losses
    trainer.fit(model, digits)
    return trainer


@pytest.mark.parametrize(("losses", "best"), [([3, 1, 2], 1), ([1, 2, 3], 0), ([3, 2, 1], 2)])
def test_best_has_the_lowest_val_loss_and_last_is_of_the_last_epoch(
    digits: MNISTDataModule, quiet: Quiet, tmp_path: Path, losses: list[float], best: int
) -> None:
    fit_with_checkpoints(digits, quiet, tmp_path, losses)
    folder = tmp_path / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == ["best.ckpt", "last.ckpt"]
    assert torch.load(folder / "best.ckpt", weights_only=True)["epoch"] == best
    assert torch.load(folder / "last.ckpt", weights_only=True)["epoch"] == 2


def test_a_moved_run_keeps_its_best_checkpoint(digits: MNISTDataModule, quiet: Quiet, tmp_path: Path) -> None:
    trainer = fit_with_checkpoints(digits, quiet, tmp_path / "old", [1.0, 2.0])
    state = trainer.checkpoint_callback.state_dict()
    (tmp_path / "old").rename(tmp_path / "new")
    moved = RunCheckpoint(tmp_path / "new", "best", monitor="val/loss")
    moved.load_state_dict(state)
    assert moved.best_model_path == str(tmp_path / "new" / "checkpoints" / "best.ckpt")
    assert moved.best_model_score == 1


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_training_stops_where_the_loss_leaves_the_numbers(digits: MNISTDataModule, quiet: Quiet, value: float) -> None:
    model = small()
    model.network.layers[-1].bias.data[:] = torch.tensor([0.0] * 9 + [value])
    trainer = quiet(max_epochs=3, callbacks=[StopOnDivergence()])
    with pytest.raises(DivergedError, match=r"the loss became (nan|inf) in epoch 1, step 1; .*--model.lr"):
        trainer.fit(model, digits)
    assert trainer.global_step == 1
