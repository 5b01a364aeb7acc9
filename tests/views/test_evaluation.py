"""What a test leaves in the run folder and in TensorBoard."""

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import Result, run_cli
from sklearn.metrics import precision_recall_fscore_support
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lit_mnist import MLP, Classifier, MNISTDataModule
from lit_mnist.views.evaluation import Evaluation

Cli = Callable[..., Result]
LEFT = {"test.json", "per_class.csv", "confusion.png", "mistakes.png", "calibration.png"}


def answers(run: Path, digits: MNISTDataModule) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities (359, 10) and labels (359,) of the best checkpoint, computed without a Trainer."""
    model = Classifier.load_from_checkpoint(run / "checkpoints" / "best.ckpt").eval()
    images, labels = digits.images("test")
    with torch.inference_mode():
        return model(images.flatten(1) / 255).softmax(1), labels


def test_the_files_of_a_test_agree_with_an_evaluation_by_scikit_learn(
    cli: Cli, own_run: Path, digits: MNISTDataModule
) -> None:
    before = {path.name for path in own_run.iterdir()}
    assert cli("test").status == 0
    left = {path.name for path in own_run.iterdir()} - before
    assert {name for name in left if not name.startswith("events") and not name.isdigit()} == LEFT | {
        "projector_config.pbtxt"
    }

    probabilities, labels = answers(own_run, digits)
    found = probabilities.argmax(1)
    told = json.loads((own_run / "test.json").read_text())
    assert told["checkpoint"] == "best.ckpt"
    assert told["images"] == 359
    assert told["accuracy"] == pytest.approx((found == labels).float().mean().item())
    assert told["loss"] == pytest.approx(-probabilities.log()[range(359), labels].mean().item(), rel=1e-5)

    with (own_run / "per_class.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    scores = precision_recall_fscore_support(labels, found, labels=range(10), zero_division=0)
    for i, name in enumerate(("precision", "recall", "f1", "support")):
        assert [float(row[name]) for row in rows] == pytest.approx(scores[i].tolist(), abs=5e-5)


def test_the_calibration_error_is_that_of_its_definition(cli: Cli, own_run: Path, digits: MNISTDataModule) -> None:
    assert cli("test", "--skip", "[confusion,mistakes,calibration,pr_curves,embedding]").status == 0
    probabilities, labels = answers(own_run, digits)
    highest, found = probabilities.max(1)
    expected = 0.0
    for i in range(15):
        chosen = (highest > i / 15) & (highest <= (i + 1) / 15)
        if chosen.any():
            gap = (found[chosen] == labels[chosen]).float().mean() - highest[chosen].mean()
            expected += abs(gap.item()) * chosen.float().mean().item()
    told = json.loads((own_run / "test.json").read_text())
    assert told["calibration_error"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("part", ["confusion", "mistakes", "calibration"])
def test_each_figure_of_a_test_can_be_left_out(cli: Cli, own_run: Path, part: str) -> None:
    assert cli("test", "--skip", f"[{part}]").status == 0
    assert LEFT - {path.name for path in own_run.iterdir()} == {f"{part}.png"}


def tags(run: Path, kind: str) -> set[str]:
    events = EventAccumulator(str(run))
    events.Reload()
    return set(events.Tags()[kind])


def test_tensorboard_gets_figures_precision_recall_curves_and_the_embedding(
    cli: Cli, own_run: Path, digits: MNISTDataModule
) -> None:
    assert cli("test").status == 0
    assert {f"figures/{name}" for name in ("confusion", "mistakes", "calibration")} <= tags(own_run, "images")
    assert {f"test/{digit}" for digit in range(10)} <= tags(own_run, "tensors")
    (folder,) = (path.parent for path in own_run.rglob("tensors.tsv"))
    rows = [list(map(float, line.split("\t"))) for line in (folder / "tensors.tsv").read_text().splitlines()]
    images, labels = digits.images("test")
    model = Classifier.load_from_checkpoint(own_run / "checkpoints" / "best.ckpt").eval()
    expected = model.network.layers[:-1](images.flatten(1) / 255)  # (359, 16)
    torch.testing.assert_close(torch.tensor(rows), expected, atol=1e-4, rtol=1e-4)
    assert (folder / "metadata.tsv").read_text().split() == [str(label) for label in labels.tolist()]
    assert (folder / "sprite.png").stat().st_size > 0


@pytest.mark.parametrize("part", ["pr_curves", "embedding"])
def test_each_view_of_tensorboard_can_be_left_out_of_a_test(cli: Cli, own_run: Path, part: str) -> None:
    assert cli("test", "--skip", f"[{part}]").status == 0
    assert ("test/0" in tags(own_run, "tensors")) == (part != "pr_curves")
    assert any(own_run.rglob("tensors.tsv")) == (part != "embedding")


def test_a_second_test_takes_the_place_of_the_first_and_says_nothing_of_it(cli: Cli, own_run: Path) -> None:
    first = cli("test")
    second = cli("test", "--ckpt_path", "last")
    assert (second.status, second.err) == (0, "")
    assert len(second.out.splitlines()) == len(first.out.splitlines())
    assert json.loads((own_run / "test.json").read_text())["checkpoint"] == "last.ckpt"


def test_without_a_logger_the_files_are_left_all_the_same(cli: Cli, own_run: Path) -> None:
    assert cli("test", "--trainer.logger", "false").status == 0
    assert {path.name for path in own_run.iterdir()} >= LEFT
    assert not any(own_run.rglob("tensors.tsv"))


@pytest.mark.slow
def test_three_devices_leave_the_files_of_one(own_run: Path, tmp_path: Path) -> None:
    devices = ("--trainer.devices", 3, "--trainer.strategy", "ddp", "--trainer.accelerator", "cpu")
    left = []
    for options in ((), devices):
        done = run_cli("test", *options, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        told = json.loads((own_run / "test.json").read_text())
        left.append(
            (told.pop("loss"), told, (own_run / "per_class.csv").read_text(), (own_run / "confusion.png").read_bytes())
        )
    assert left[0][0] == pytest.approx(left[1][0], rel=1e-6)
    assert left[0][2:] == left[1][2:]
    for name, value in left[0][1].items():
        assert value == (pytest.approx(left[1][1][name], abs=1e-6) if isinstance(value, float) else left[1][1][name])


def test_the_most_confident_errors_come_first(
    digits: MNISTDataModule, quiet: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[tuple[torch.Tensor, ...]] = []
    from lit_mnist.views import figures

    draw = figures.mistakes
    monkeypatch.setattr(figures, "mistakes", lambda *args: shown.append(args) or draw(*args))
    model = Classifier(network=MLP(hidden_sizes=[16]))
    quiet(callbacks=[Evaluation(tmp_path, "none")]).test(model, digits, verbose=False)
    ((images, labels, found, probabilities),) = shown
    assert len(images) == 36
    assert (labels != found).all()
    assert probabilities.tolist() == sorted(probabilities.tolist(), reverse=True)
    expected = model(images.flatten(1) / 255).softmax(1).max(1)
    torch.testing.assert_close(probabilities, expected.values)
    assert torch.equal(found, expected.indices)


def test_the_part_of_a_test_that_is_skipped_has_to_exist(cli: Cli, own_run: Path) -> None:
    result = cli("test", "--skip", "[history]")
    assert result.status == 2
    assert result.err.startswith("lit-mnist: error: --skip: ")
    assert result.err.count(os.linesep) == 1
