"""Files and figures of a test."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torchmetrics.classification import MulticlassF1Score

from lit_mnist import MLP, Classifier, MNISTDataModule
from lit_mnist.data import rescale
from lit_mnist.views import figures
from lit_mnist.views.evaluation import Evaluation

Quiet = Callable[..., L.Trainer]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[Any, ...]]:
    """Arguments of each figure."""
    given: dict[str, tuple[Any, ...]] = {}
    for name in ("confusion", "mistakes", "calibration"):
        whole = getattr(figures, name)
        monkeypatch.setattr(figures, name, lambda *args, n=name, f=whole: [given.update({n: args}), f(*args)][1])
    return given


@pytest.fixture
def model(digits: MNISTDataModule, quiet: Quiet) -> Classifier:
    """A classifier that makes mistakes."""
    model = Classifier(MLP([16]), metrics={"f1": MulticlassF1Score(10)})
    quiet(max_epochs=2).fit(model, digits)
    with torch.no_grad():
        for parameter in model.network.layers[-1].parameters():
            parameter *= 3  # too sure in some bins, not sure enough in others
    return model.eval()


def test_scores_and_figures_are_of_the_images_in_file_order(
    model: Classifier, digits: MNISTDataModule, quiet: Quiet, tmp_path: Path, drawn: dict[str, tuple[Any, ...]]
) -> None:
    digits.eval_batch_size = 100
    quiet(callbacks=[Evaluation(tmp_path, {"checkpoint": "some.ckpt", "epoch": 2})]).test(model, digits, verbose=False)
    images, labels = digits.splits["test"]
    probabilities = model(rescale(images)).softmax(1).detach()
    highest, answers = probabilities.max(1)
    matrix, classes = drawn["confusion"]
    assert matrix.tolist() == confusion_matrix(labels, answers).tolist()
    assert classes == list("0123456789")
    shown, truth, wrong, sure, _, title = drawn["mistakes"]
    assert (truth != wrong).all()
    assert sure.tolist() == sorted(sure.tolist(), reverse=True)
    assert title == f"{int((answers != labels).sum())} of 359 wrong, the 36 surest"
    assert sure[0] == pytest.approx(highest[answers != labels].max().item(), abs=1e-6)
    assert len(shown) == min(36, int((answers != labels).sum())) == 36
    places = [int((images == image).all(dim=(1, 2)).nonzero()[0, 0]) for image in shown]  # to the pixel
    assert (labels[places].tolist(), answers[places].tolist()) == (truth.tolist(), wrong.tolist())
    bins = (highest * 15).long().clamp(max=14)
    gaps = [(highest - (answers == labels).float())[bins == number].sum().abs().item() for number in range(15)]
    assert drawn["calibration"][2] == pytest.approx(sum(gaps) / len(labels), abs=1e-5)
    content = json.loads((tmp_path / "test.json").read_text())
    accuracy = (answers == labels).float().mean().item()
    f1 = MulticlassF1Score(10)(probabilities, labels).item()
    assert content == {
        "checkpoint": "some.ckpt",
        "epoch": 2,
        "dataset": "digits",
        "images": 359,
        "accuracy": pytest.approx(accuracy),
        "f1": pytest.approx(f1),
        "loss": pytest.approx(nn.functional.cross_entropy(model(rescale(images)), labels).item(), rel=1e-5),
        "calibration_error": pytest.approx(drawn["calibration"][2]),
    }
    with (tmp_path / "per_class.csv").open() as file:
        rows = list(csv.DictReader(file))
    expected = precision_recall_fscore_support(labels, answers, zero_division=0)
    for column, values in zip(("precision", "recall", "f1", "support"), expected, strict=True):
        assert [float(row[column]) for row in rows] == pytest.approx(values.tolist(), abs=5e-5)
    saved = np.load(tmp_path / "probabilities.npz")
    assert torch.allclose(torch.from_numpy(saved["probabilities"]).float(), probabilities, atol=1e-3)
    assert saved["labels"].tolist() == labels.tolist()


def test_classes_have_the_names_of_the_data_set(quiet: Quiet, fashion_dir: Path, tmp_path: Path) -> None:
    data = MNISTDataModule("fashion_mnist", str(fashion_dir))
    quiet(callbacks=[Evaluation(tmp_path, {})]).test(Classifier(), data, verbose=False)
    with (tmp_path / "per_class.csv").open() as file:
        assert [row["class"] for row in csv.DictReader(file)][:2] == ["T-shirt/top", "Trouser"]
    with Image.open(tmp_path / "confusion.png") as image:
        assert min(image.size) > 400


def test_tensorboard_gets_curves_and_figures(digits: MNISTDataModule, quiet: Quiet, tmp_path: Path) -> None:
    from lightning.pytorch.loggers import TensorBoardLogger

    logger = TensorBoardLogger(tmp_path, "logs", "run", default_hp_metric=False)
    run = tmp_path / "logs/run"
    quiet(logger=logger, callbacks=[Evaluation(run, {})]).test(Classifier(), digits, verbose=False)
    logger.finalize("success")
    tags = EventAccumulator(str(run)).Reload().Tags()
    assert {"figures/confusion", "figures/mistakes", "figures/calibration"} <= set(tags["images"])
    assert {"test/loss", "test/accuracy"} <= set(tags["scalars"])
