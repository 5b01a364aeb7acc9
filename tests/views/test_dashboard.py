"""Figures of a fit, and its values in TensorBoard."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lit_mnist import MLP, Classifier, MNISTDataModule
from lit_mnist.runs.callbacks import run_callbacks
from lit_mnist.runs.folder import read_metrics
from lit_mnist.views import figures
from lit_mnist.views.dashboard import Dashboard

Quiet = Callable[..., L.Trainer]


@pytest.fixture
def fit(digits: MNISTDataModule, quiet: Quiet, tmp_path: Path) -> Callable[..., Path]:
    """Fit for two epochs with a dashboard and TensorBoard; gives the run folder."""

    def run(network: Any = None, **options: Any) -> Path:
        folder = tmp_path / "logs/run"
        logger = TensorBoardLogger(tmp_path, "logs", "run", default_hp_metric=False)
        callbacks = [*run_callbacks(folder, show=False), Dashboard(folder)]
        quiet(max_epochs=2, logger=logger, callbacks=callbacks, **options).fit(Classifier(network or MLP([16])), digits)
        return folder

    return run


def test_tensorboard_has_the_curves_and_what_the_fit_was_like(fit: Callable[..., Path]) -> None:
    run = fit()
    events = EventAccumulator(str(run)).Reload()
    tags = events.Tags()
    curves = {f"{stage}/{name}" for stage in ("train", "val") for name in ("loss", "accuracy")}
    assert curves | {"lr", "images_per_second"} <= set(tags["scalars"])
    rows = read_metrics(run)
    for name in curves:
        assert [point.value for point in events.Scalars(name)][:2] == pytest.approx([row[name] for row in rows])
    assert {"layers.0.weight", "layers.2.bias"} <= set(tags["histograms"])
    assert {"figures/history", "figures/samples"} <= set(tags["images"])
    assert tags["graph"]
    speeds = [point.value for point in events.Scalars("images_per_second")]
    assert speeds == pytest.approx([1151 / row["seconds"] for row in rows], rel=0.01)


def test_the_samples_are_the_first_training_images(
    fit: Callable[..., Path], digits: MNISTDataModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []
    whole = figures.samples
    monkeypatch.setattr(figures, "samples", lambda *args: [given.extend(args), whole(*args)][1])
    fit(network=MLP([16]))
    images, labels, classes = given
    assert torch.equal(images, digits.splits["train"][0][:36])
    assert torch.equal(labels, digits.splits["train"][1][:36])
    assert classes == list("0123456789")


def test_without_data_of_ours_or_tensorboard_there_are_the_curves(quiet: Quiet, tmp_path: Path) -> None:
    from torch.utils.data import DataLoader, TensorDataset

    loader = DataLoader(TensorDataset(torch.rand(20, 28, 28), torch.arange(20) % 10), 5)
    callbacks = [*run_callbacks(tmp_path / "run", show=False), Dashboard(tmp_path / "run")]
    quiet(max_epochs=1, callbacks=callbacks).fit(Classifier(MLP([4])), loader, loader)
    assert {path.name for path in (tmp_path / "run").glob("*.png")} == {"history.png"}
