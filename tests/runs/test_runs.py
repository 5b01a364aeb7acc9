"""Files of a run, and equality of resumed and uninterrupted fits."""

import csv
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as L
import numpy as np
import pytest
import torch
from conftest import run_command
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import Tensor, nn
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR, StepLR
from torchmetrics.classification import MulticlassF1Score

from lit_mnist import CNN, MLP, Classifier, MNISTDataModule
from lit_mnist.checkpoint import CheckpointError
from lit_mnist.runs.callbacks import EpochSeed, run_callbacks
from lit_mnist.runs.folder import find_checkpoint, new_run, read_metrics, run_of
from lit_mnist.runs.history import DivergedError

Quiet = Callable[..., L.Trainer]
Fit = Callable[..., Classifier]


@pytest.fixture
def fit(digits: MNISTDataModule, quiet: Quiet) -> Fit:
    """Fit a new classifier into a run folder, with the seed 3, or go on from its last checkpoint."""

    def run(
        folder: Path,
        epochs: int,
        again: bool = False,
        callbacks: Any = (),
        limits: Any = None,
        cnn: bool = False,
        **options: Any,
    ):
        L.seed_everything(3, verbose=False)
        model = Classifier(**{"network": MLP([16], dropout=0.3), **options, **({"network": CNN(2)} if cnn else {})})
        trainer = quiet(max_epochs=epochs, callbacks=[*run_callbacks(folder, show=False), *callbacks], **(limits or {}))
        trainer.fit(model, digits, ckpt_path=folder / "checkpoints/last.ckpt" if again else None, weights_only=True)
        return model

    return run


def state(run: Path, name: str = "last") -> dict[str, Tensor]:
    return torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)["state_dict"]


def without_seconds(run: Path) -> list[dict[str, float]]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in read_metrics(run)]


SCHEDULES: dict[str, dict[str, Any]] = {
    "none": {},
    "StepLR": {"lr_scheduler": partial(StepLR, step_size=1, gamma=0.5)},
    "CosineAnnealingLR": {"lr_scheduler": partial(CosineAnnealingLR, T_max=5), "optimizer": AdamW},
    "OneCycleLR": {
        "lr_scheduler": partial(OneCycleLR, max_lr=0.05, total_steps=180),
        "lr_scheduler_interval": "step",
        "optimizer": partial(SGD, lr=0.1, momentum=0.9),
    },
}


@pytest.mark.parametrize("moved", [False, True], ids=["", "moved"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_fit_continued_from_an_epoch_equals_one_that_never_stopped(
    schedule: str, moved: bool, fit: Fit, tmp_path: Path
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    options = SCHEDULES[schedule]
    fit(whole, 5, **options)
    fit(cut, 2, **options)
    if moved:
        cut = Path(shutil.move(cut, tmp_path / "elsewhere"))
    fit(cut, 5, again=True, **options)
    for name in ("last", "best"):
        assert all(
            torch.equal(a, b) for a, b in zip(state(whole, name).values(), state(cut, name).values(), strict=True)
        )
    assert without_seconds(cut) == without_seconds(whole)


def test_a_convolutional_network_with_averaged_weights_goes_on_exactly(fit: Fit, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for folder, epochs in ((whole, (3,)), (cut, (1, 3))):
        for number, count in enumerate(epochs):
            averaging = EMAWeightAveraging(decay=0.9)
            fit(folder, count, again=number > 0, cnn=True, callbacks=[averaging], limits={"limit_train_batches": 9})
    assert all(torch.equal(a, b) for a, b in zip(state(whole).values(), state(cut).values(), strict=True))
    assert without_seconds(cut) == without_seconds(whole)


def test_what_was_written_after_the_checkpoint_is_cut_from_the_history(fit: Fit, tmp_path: Path) -> None:
    fit(tmp_path / "run", 2)
    path = tmp_path / "run/metrics.csv"
    path.write_text(path.read_text() + "3,9,9,9,9,0.001,1\n")
    fit(tmp_path / "run", 3, again=True)
    assert [row["epoch"] for row in read_metrics(tmp_path / "run")] == [1, 2, 3]
    assert read_metrics(tmp_path / "run")[2]["train/loss"] < 9


def test_a_score_is_kept_so_that_only_a_better_epoch_becomes_the_best(fit: Fit, tmp_path: Path) -> None:
    fit(tmp_path / "run", 2, optimizer=partial(SGD, lr=0.1))
    best = state(tmp_path / "run", "best")
    checkpoint = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)
    (key,) = (key for key in checkpoint["callbacks"] if "val/loss" in key)
    checkpoint["callbacks"][key]["best_k_models"] = {"x": torch.tensor(0.0)}
    checkpoint["callbacks"][key]["kth_best_model_path"] = "x"
    torch.save(checkpoint, tmp_path / "run/checkpoints/last.ckpt")
    fit(tmp_path / "run", 3, again=True, optimizer=partial(SGD, lr=0.1))
    assert all(torch.equal(a, b) for a, b in zip(best.values(), state(tmp_path / "run", "best").values(), strict=True))


def test_best_holds_the_epoch_of_the_lowest_val_loss_and_last_the_last(fit: Fit, tmp_path: Path) -> None:
    fit(tmp_path / "run", 6, optimizer=partial(SGD, lr=2.0), lr_scheduler=partial(StepLR, step_size=1, gamma=1.2))
    rows = read_metrics(tmp_path / "run")
    lowest = min(rows, key=lambda row: row["val/loss"])
    epochs = [
        torch.load(tmp_path / f"run/checkpoints/{name}.ckpt", weights_only=True)["epoch"] for name in ("best", "last")
    ]
    assert epochs == [lowest["epoch"] - 1, 5]


def test_a_row_holds_whatever_was_measured_in_its_epoch(fit: Fit, tmp_path: Path) -> None:
    fit(tmp_path / "run", 4, metrics={"f1": MulticlassF1Score(10)}, limits={"check_val_every_n_epoch": 2})
    with (tmp_path / "run/metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    names = ["train/loss", "train/accuracy", "train/f1", "val/loss", "val/accuracy", "val/f1"]
    assert list(rows[0]) == ["epoch", *names, "lr", "seconds"]
    assert [row["val/f1"] != "" for row in rows] == [False, True, False, True]


def test_the_learning_rate_is_that_of_the_epoch(fit: Fit, tmp_path: Path) -> None:
    fit(tmp_path / "run", 3, lr_scheduler=partial(StepLR, step_size=1, gamma=0.5))
    assert [row["lr"] for row in read_metrics(tmp_path / "run")] == [1e-3, 5e-4, 2.5e-4]


def test_a_line_per_epoch_has_the_metrics_under_their_own_names(
    digits: MNISTDataModule, quiet: Quiet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quiet(max_epochs=2, callbacks=run_callbacks(tmp_path / "run")).fit(Classifier(MLP([8])), digits)
    lines = [line.split("  ") for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
    rows = read_metrics(tmp_path / "run")
    assert lines[1][:1] == ["epoch  2/2"] or lines[1][:2] == ["epoch", "2/2"]
    for name in ("train/loss", "train/accuracy", "val/loss", "val/accuracy"):
        assert f"{name} {rows[1][name]:.4f}" in lines[1]


class Exploding(nn.Module):
    """A loss that is no number."""

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return logits.sum() * float("nan")


def test_a_fit_that_is_no_number_any_more_ends_before_a_checkpoint_is_written(fit: Fit, tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match=r"^train/loss is nan in epoch 1; try a lower --model.optimizer.lr$"):
        fit(tmp_path / "run", 2, loss=Exploding())
    assert not (tmp_path / "run/checkpoints").exists()
    with pytest.raises(DivergedError, match=r"^the weights are NaN or infinite in epoch 1"):
        fit(tmp_path / "run", 2, loss=Exploding(), limits={"limit_train_batches": 1, "limit_val_batches": 0})


@pytest.mark.parametrize("planned", [100, 179])
def test_a_schedule_that_is_too_short_is_refused_at_the_start(planned: int, fit: Fit, tmp_path: Path) -> None:
    short = SCHEDULES["OneCycleLR"] | {"lr_scheduler": partial(OneCycleLR, max_lr=0.05, total_steps=planned)}
    with pytest.raises(ValueError, match=f"^lr_scheduler: OneCycleLR was planned for {planned} steps, .* has 180$"):
        fit(tmp_path / "run", 5, **short)
    assert not (tmp_path / "run/metrics.csv").exists()


def test_all_generators_follow_from_seed_epoch_and_device_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def draws(seed: int, epoch: int, rank: int) -> set[float]:
        monkeypatch.setenv("PL_GLOBAL_SEED", str(seed))
        EpochSeed().on_train_epoch_start(SimpleNamespace(current_epoch=epoch, global_rank=rank), None)
        return {torch.rand(1).item(), random.random(), float(np.random.rand())}

    first = draws(1, 2, 0)
    assert draws(1, 2, 0) == first
    for other in ((2, 2, 0), (1, 3, 0), (1, 2, 1)):
        assert not first & draws(*other)


def test_two_runs_that_start_at_once_get_two_folders(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(8) as pool:
        runs = list(pool.map(lambda _: new_run(tmp_path / "logs"), range(40)))
    assert sorted(run.name for run in runs) == sorted(f"version_{number}" for number in range(40))


def test_best_and_last_are_those_of_the_newest_run_and_never_of_an_older_one(tmp_path: Path) -> None:
    for number, names in ((2, ("best", "last")), (10, ("last",)), (11, ())):
        (tmp_path / f"version_{number}/checkpoints").mkdir(parents=True)
        for name in names:
            (tmp_path / f"version_{number}/checkpoints/{name}.ckpt").touch()
        if names:  # the others are of tests
            (tmp_path / f"version_{number}/config.yaml").touch()
            os.utime(tmp_path / f"version_{number}/config.yaml", (0, 0))  # of one time, as in a copy
    assert find_checkpoint("last", tmp_path) == tmp_path / "version_10/checkpoints/last.ckpt"
    with pytest.raises(CheckpointError, match=r"version_10 has no best.ckpt; it has last.ckpt"):
        find_checkpoint("best", tmp_path)
    assert find_checkpoint(None, tmp_path) == tmp_path / "version_10/checkpoints/last.ckpt"
    with pytest.raises(CheckpointError, match=r"no run in .*nothing; train one with"):
        find_checkpoint("best", tmp_path / "nothing")
    with pytest.raises(CheckpointError, match=r"x.ckpt is not a file"):
        find_checkpoint("x.ckpt", tmp_path)


def test_a_run_is_known_by_its_config(tmp_path: Path) -> None:
    checkpoint = tmp_path / "run/checkpoints/best.ckpt"
    checkpoint.parent.mkdir(parents=True)
    assert run_of(checkpoint) is None
    (tmp_path / "run/config.yaml").touch()
    assert run_of(checkpoint) == tmp_path / "run"


def test_a_checkpoint_is_written_beside_its_place_and_a_full_disk_elsewhere_does_no_harm(
    fit: Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "no such folder"))
    fit(tmp_path / "run", 1)
    assert sorted(path.name for path in (tmp_path / "run/checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]


def test_two_processes_that_write_a_file_at_once_have_a_part_each(tmp_path: Path) -> None:
    code = "import sys, pathlib, lit_mnist.atomic as a\nwith a.write_whole(pathlib.Path('x')) as part: print(part)"
    parts = {run_command(sys.executable, "-c", f"{code}; part.touch()", cwd=tmp_path).stdout for _ in range(2)}
    assert len(parts) == 2
