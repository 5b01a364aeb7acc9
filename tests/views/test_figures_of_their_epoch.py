"""Every figure that a fit or a test shows is of its epoch and its weights, computed anew in plain PyTorch."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from conftest import Result, run_cli
from lightning.pytorch.callbacks import Callback
from recorder import Figures, Record, figures_of, mean_figures, network_of, recorded, split_figures
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lit_mnist import MLP, Classifier, MNISTDataModule
from lit_mnist.runs.folder import read_metrics
from lit_mnist.runs.history import METRICS, History
from lit_mnist.views import figures
from lit_mnist.views.bar import EpochBar
from lit_mnist.views.report import compare, overfitting, read_run

Cli = Callable[..., Result]
RUN = Path("lightning_logs/version_0")
STEPS_PER_EPOCH = 9
SMALL = (
    *("--data.dataset", "digits", "--data.batch_size", 128, "--data.eval_batch_size", 100),
    *("--model.network.hidden_sizes", "[16]", "--model.lr", 0.01, "--trainer.accelerator", "cpu"),
    *("--skip", "[history, samples, weights, graph, charts, histograms, hparams]"),
    *("--trainer.callbacks+", "recorder.Recorder", "--trainer.callbacks.folder", "recorded"),
)
EARLY = ("--trainer.callbacks+", "EarlyStopping", "--trainer.callbacks.monitor", "val/loss")
OPTIONS: dict[str, tuple[Any, ...]] = {
    "whole epochs": ("max_epochs", 3),
    "accumulation": ("max_epochs", 3, "accumulate_grad_batches", 2),
    "accumulation and several validations": (
        *("max_epochs", 2, "accumulate_grad_batches", 4, "val_check_interval", 3),
    ),
    "limits": ("max_epochs", 3, "limit_train_batches", 4, "limit_val_batches", 1),
    "no validation": ("max_epochs", 2, "limit_val_batches", 0),
    "several validations, the last before the end": ("max_epochs", 3, "val_check_interval", 0.3),
    "several validations, the last at the end": ("max_epochs", 3, "val_check_interval", 3),
    "validation every second epoch": ("max_epochs", 3, "check_val_every_n_epoch", 2),
    "validation across epochs": ("max_epochs", 4, "check_val_every_n_epoch", "null", "val_check_interval", 14),
    "max_steps": ("max_epochs", 9, "max_steps", 14),
    "max_steps after a validation": ("max_epochs", 9, "max_steps", 14, "val_check_interval", 4),
    "max_time": ("max_epochs", 1000, "max_time", "{seconds: 1}"),
    "overfit_batches": ("max_epochs", 3, "overfit_batches", 2),
    "sanity check": ("max_epochs", 2, "num_sanity_val_steps", 2, "check_val_every_n_epoch", 2),
}


CASES = {
    name: tuple(f"--trainer.{part}" if i % 2 == 0 else part for i, part in enumerate(options))
    for name, options in OPTIONS.items()
}


def near(figures: Figures) -> Any:
    return pytest.approx(figures, rel=1e-5)


def content(name: str) -> dict[str, Any]:
    return torch.load(RUN / "checkpoints" / f"{name}.ckpt", weights_only=True)  # type: ignore[no-any-return]


def metrics_in(checkpoint: dict[str, Any]) -> Figures:
    return {name: value for name, value in checkpoint["metrics"].items() if name in METRICS}


def curve(tag: str, run: Path = RUN) -> dict[int, float]:
    """Values of a curve in TensorBoard by their step."""
    events = EventAccumulator(str(run)).Reload()
    return {point.step: point.value for point in events.Scalars(tag)} if tag in events.Tags()["scalars"] else {}


def assert_every_figure_is_of_its_epoch_and_its_weights(out: str) -> None:
    """Table, lines, curves and checkpoints of the run say what follows from the record, and nothing else."""
    record = recorded(Path("recorded"))
    assert_table_and_lines(record, out)
    assert_curves(record)
    assert_checkpoints(record, out)


def assert_table_and_lines(record: Record, out: str) -> None:
    rows = read_metrics(RUN)
    assert [row["epoch"] for row in rows] == list(record.epochs) == list(range(1, len(rows) + 1))
    for row, expected in zip(rows, record.epochs.values(), strict=True):
        assert {name: value for name, value in row.items() if name in METRICS} == near(expected)
    lines = re.findall(r"^epoch +(\d+)/\S+ +(.*)$", out, re.MULTILINE)
    assert lines
    for epoch, text in lines:
        told = {name: float(value) for name, value in re.findall(r"(\w+) (\d+\.\d{4})", text)}
        expected = record.epochs[int(epoch)]
        assert told == pytest.approx(
            {name.replace("train/", "").replace("/", "_"): value for name, value in expected.items()}, abs=6e-5
        )


def assert_curves(record: Record) -> None:
    """A curve has a point for each validation and each whole epoch, none for a last epoch that ends early."""
    speed = [images / row["seconds"] for images, row in zip(record.images.values(), read_metrics(RUN), strict=True)]
    shown = list(curve("images_per_second").values())
    assert shown == pytest.approx(speed[: len(shown)], rel=1e-6)
    assert len(speed) - len(shown) in (0, 1)
    for name in METRICS:
        whole = list(record.epochs.values())[: len(shown)]
        measured = whole if name.startswith("train/") else [one for _, one in record.validations]
        assert list(curve(name).values()) == pytest.approx([one[name] for one in measured], rel=1e-5)


def assert_checkpoints(record: Record, out: str) -> None:
    last = content("last")
    train = {name: value for name, value in record.epochs[len(record.epochs)].items() if name.startswith("train/")}
    val = dict(record.validations).get(last["global_step"], {})
    inside = len(curve("images_per_second")) < len(record.epochs)  # before or after a validation there
    assert metrics_in(last) in ((near(val), {}) if inside else (near(train | val),))
    if not record.due:
        assert not (RUN / "checkpoints" / "best.ckpt").exists()
        return
    best = content("best")
    expected = split_figures(network_of(best), "val", record.validated)
    assert expected == near(dict(record.validations)[best["global_step"]])
    assert expected["val/loss"] == pytest.approx(min(one["val/loss"] for one in record.due), rel=1e-5)
    assert {name: value for name, value in metrics_in(best).items() if name.startswith("val/")} == near(expected)
    for checkpoint in (best, last):
        state = checkpoint["callbacks"]["RunCheckpoint best"]
        (score,) = (float(value) for name, value in state.items() if name in ("best_score", "best_model_score"))
        assert score == pytest.approx(expected["val/loss"], rel=1e-5)
    assert f"best.ckpt  (val_loss {score:.4f})" in out


@pytest.mark.parametrize("case", CASES)
def test_a_fit_shows_figures_of_their_epoch_and_their_weights(case: str, cli: Cli) -> None:
    done = cli("fit", *SMALL, *CASES[case])
    assert done.status == 0, done.err
    assert_every_figure_is_of_its_epoch_and_its_weights(done.out)


def test_an_epoch_that_early_stopping_ends_has_the_figures_of_its_steps(cli: Cli) -> None:
    several = ("--trainer.max_epochs", 9, "--trainer.val_check_interval", 4, "--trainer.min_steps", 1)
    done = cli("fit", *SMALL, *several, *EARLY, "--trainer.callbacks.stopping_threshold", 1.5)
    assert done.status == 0, done.err
    assert content("last")["global_step"] % STEPS_PER_EPOCH
    assert_every_figure_is_of_its_epoch_and_its_weights(done.out)


@pytest.mark.parametrize("case", ["whole epochs", "several validations, the last before the end", "max_steps"])
def test_a_resumed_fit_shows_figures_of_their_epoch_and_their_weights(case: str, cli: Cli) -> None:
    assert cli("fit", *SMALL, *CASES[case]).status == 0
    done = cli("fit", "--ckpt_path", "last", "--trainer.max_steps", -1, "--trainer.max_epochs", 5)
    assert done.status == 0, done.err
    record = recorded(Path("recorded"))
    assert_table_and_lines(record, done.out)
    assert_checkpoints(record, done.out)


@pytest.mark.parametrize("options", [("check_val_every_n_epoch", 2), ("val_check_interval", 7)])
def test_the_row_of_an_epoch_that_was_resumed_inside_is_that_of_an_unbroken_one(
    options: tuple[str, int], cli: Cli
) -> None:
    step = 3 * STEPS_PER_EPOCH - 1
    every = ("--trainer.callbacks+", "ModelCheckpoint", "--trainer.callbacks.every_n_train_steps", step)
    assert cli("fit", *SMALL, "--trainer.max_epochs", 3, f"--trainer.{options[0]}", options[1], *every).status == 0
    unbroken = read_metrics(RUN)
    (checkpoint,) = RUN.glob(f"checkpoints/*step={step}.ckpt")
    assert cli("fit", "--ckpt_path", checkpoint).status == 0
    for row, expected in zip(read_metrics(RUN), unbroken, strict=True):
        assert row | {"seconds": 0} == expected | {"seconds": 0}


@pytest.mark.parametrize("interval", [3, 4])
def test_a_fit_continues_from_the_best_weights_as_it_did(interval: int, cli: Cli) -> None:
    assert cli("fit", *SMALL, "--trainer.max_epochs", 3, "--trainer.val_check_interval", interval).status == 0
    unbroken, last = read_metrics(RUN), content("last")
    assert content("best")["global_step"] % STEPS_PER_EPOCH  # inside an epoch
    done = cli("fit", "--ckpt_path", "best", "--trainer.max_epochs", 3)
    assert done.status == 0, done.err
    for row, expected in zip(read_metrics(RUN), unbroken, strict=True):
        assert row | {"seconds": 0} == expected | {"seconds": 0}
    torch.testing.assert_close(content("last")["state_dict"], last["state_dict"], rtol=0, atol=0)


def test_several_steps_at_once_show_the_figures_of_single_ones(cli: Cli, tmp_path: Path) -> None:
    tables = []
    for steps in (1, 4):
        options = ("--model.steps_per_execution", steps, "--trainer.max_steps", 14, "--trainer.default_root_dir", steps)
        assert cli("fit", *SMALL[:-4], *options).status == 0
        rows = read_metrics(tmp_path / str(steps) / RUN)
        tables.append([{name: value for name, value in row.items() if name != "seconds"} for row in rows])
    assert tables[0] == tables[1]
    assert len({row["train/loss"] for row in tables[0]}) == 2


@pytest.mark.slow
@pytest.mark.parametrize("case", ["several validations, the last before the end", "max_steps"])
def test_on_two_devices_the_figures_are_of_all_images(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    )
    two = ("--trainer.devices", 2, "--trainer.strategy", "ddp")
    done = run_cli("fit", *SMALL, *CASES[case], *two, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert_every_figure_is_of_its_epoch_and_its_weights(done.stdout)


def test_a_plateau_follows_the_val_loss_of_epochs_that_have_one(cli: Cli) -> None:
    plateau = ("--model.lr_scheduler", "ReduceLROnPlateau", "--model.lr_scheduler_options", "{patience: 0}")
    options = ("--model.lr", 0.001, "--trainer.max_epochs", 6, "--trainer.check_val_every_n_epoch", 2)
    assert cli("fit", *SMALL, *plateau, *options).status == 0
    rows = read_metrics(RUN)
    losses = [row["val/loss"] for row in rows if "val/loss" in row]
    assert losses == sorted(losses, reverse=True)
    assert {row["lr"] for row in rows} == {0.001}


def test_the_report_says_what_was_validated_where_the_last_epoch_was_not(cli: Cli) -> None:
    assert cli("fit", *SMALL, *CASES["validation every second epoch"]).status == 0
    rows = read_metrics(RUN)
    assert "val/loss" not in rows[-1]
    table = dict(compare([read_run(RUN, "one")])[1:])
    assert (table["val loss, best"], table["val loss, last"]) == (f"{rows[1]['val/loss']:.4f}", "-")
    assert f"at {rows[1]['val/loss']:.4f}" in overfitting(rows)
    lines = figures.overlay({"one": rows}).axes[0].get_lines()
    assert [list(line.get_xdata()) for line in lines] == [[1, 2, 3], [2]]


def test_the_bar_shows_metrics_of_its_epoch_only(
    digits: MNISTDataModule, quiet: Callable[..., L.Trainer], tmp_path: Path
) -> None:
    seen: dict[tuple[int, int], set[str]] = {}

    class Bar(EpochBar):
        def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
            super().on_train_batch_end(trainer, pl_module, *args)
            seen[trainer.current_epoch, args[-1]] = set(self.get_metrics(trainer, pl_module))

        def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            seen[trainer.current_epoch, -1] = set(self.get_metrics(trainer, pl_module))

    quiet(
        **{"max_epochs": 3, "check_val_every_n_epoch": 2, "limit_train_batches": 2, "enable_progress_bar": True},
        callbacks=[History(tmp_path, "", show=False), Bar()],
    ).fit(Classifier(network=MLP(hidden_sizes=[16])), digits)
    train, val = {"train/loss", "train/accuracy"}, {"val/loss", "val/accuracy"}
    assert seen == {
        **{(epoch, batch): set() for epoch in range(3) for batch in range(2)},
        **{(0, -1): train, (1, -1): train | val, (2, -1): train},
    }


@pytest.mark.parametrize("stage", ["fit", "validate"])
def test_what_was_broken_off_is_not_counted_again(
    stage: str, digits: MNISTDataModule, quiet: Callable[..., L.Trainer]
) -> None:
    class BreakOff(Callback):
        def on_validation_batch_end(self, *_: Any) -> None:
            raise InterruptedError

        on_train_epoch_end = on_validation_batch_end

    model = Classifier(network=MLP(hidden_sizes=[16]))
    for options in ({}, {"limit_val_batches": 0}):
        with pytest.raises(InterruptedError):
            quiet(max_epochs=1, callbacks=[BreakOff()], **options).fit(model, digits)
    expected = split_figures({k: v.clone() for k, v in model.network.state_dict().items()}, "val")
    trainer = quiet(max_epochs=1, limit_train_batches=1)
    if stage == "validate":
        trainer.validate(model, digits, verbose=False)
        assert {name: value.item() for name, value in trainer.callback_metrics.items()} == near(expected)
    else:
        weights = {name: weight.clone() for name, weight in model.network.state_dict().items()}
        trainer.fit(model, digits)
        images, labels = next(iter(digits.train_dataloader()))
        alone = mean_figures("train", [figures_of(weights, images.flatten(1) / 255, labels)])
        assert trainer.callback_metrics["train/loss"].item() == pytest.approx(alone["train/loss"], rel=1e-5)


# Tests and exported files


def told(run: Path = RUN) -> dict[str, Any]:
    return json.loads((run / "test.json").read_text())  # type: ignore[no-any-return]


@pytest.fixture
def fitted(cli: Cli) -> Path:
    """A run whose best checkpoint is from inside an epoch, tested."""
    assert cli("fit", *SMALL, "--trainer.max_epochs", 2, "--trainer.val_check_interval", 4).status == 0
    assert content("best")["global_step"] % STEPS_PER_EPOCH
    assert cli("test").status == 0
    return RUN


@pytest.mark.parametrize("name", ["best", "last"])
def test_a_test_stands_at_the_step_of_its_checkpoint_with_the_figures_of_its_weights(
    name: str, cli: Cli, fitted: Path
) -> None:
    done = cli("test", "--ckpt_path", name)
    expected = split_figures(network_of(content(name)), "test")
    assert {f"test/{key}": told()[key] for key in ("loss", "accuracy")} == near(expected)
    assert (told()["checkpoint"], told()["dataset"], told()["split"]) == (f"{name}.ckpt", "digits", "test")
    assert told()["images"] == 359
    assert f"test_loss {expected['test/loss']:.4f}  test_accuracy {expected['test/accuracy']:.4f}" in done.out
    for key, value in expected.items():
        assert curve(key)[content(name)["global_step"]] == pytest.approx(value, rel=1e-5)
        assert 0 not in curve(key)
    images = EventAccumulator(str(RUN)).Reload().Images("figures/confusion")
    assert images[-1].step == content(name)["global_step"]


@pytest.mark.parametrize(
    ("options", "images"),
    [
        (("--trainer.limit_test_batches", 1), 100),
        (("--trainer.limit_test_batches", 0.5), 200),
        (("--data.dataset", "fashion_mnist"), 40),
    ],
)
def test_a_test_of_other_images_leaves_the_result_of_the_run_as_it_is(
    options: tuple[Any, ...], images: int, cli: Cli, fitted: Path, fashion_dir: Path
) -> None:
    before = {path: path.read_bytes() for path in RUN.rglob("*") if path.is_file()}
    done = cli("test", "--ckpt_path", RUN / "checkpoints" / "best.ckpt", *options, "--data.data_dir", fashion_dir)
    assert done.status == 0, done.err
    assert {path: path.read_bytes() for path in RUN.rglob("*") if path.is_file()} == before
    other = RUN.with_name("version_1")
    assert f"run folder       {other}\n" in done.out
    assert told(other)["images"] == images
    assert told(other)["dataset"] == ("fashion_mnist" if images == 40 else "digits")
    table = dict(compare([read_run(RUN, "one")])[1:])
    assert table["test images"] == "359"
    assert table["test accuracy"] == f"{told()['accuracy']:.4f}"
    assert cli("test").status == 0  # best is that of the run still
    assert told()["images"] == 359


def test_a_report_shows_no_test_of_another_data_set(fitted: Path) -> None:
    (fitted / "test.json").write_text(json.dumps(told() | {"dataset": "kmnist"}))
    table = dict(compare([read_run(fitted, "one")])[1:])
    assert [value for name, value in table.items() if "test" in name] == ["-"] * 5


@pytest.mark.parametrize("options", [(), ("--trainer.limit_val_batches", 1), ("--data.dataset", "fashion_mnist")])
def test_a_validation_leaves_the_curves_of_the_run_as_they_are(
    options: tuple[Any, ...], cli: Cli, fitted: Path, fashion_dir: Path
) -> None:
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    done = cli("validate", *options, "--data.data_dir", fashion_dir)
    assert done.status == 0, done.err
    assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(("name", "stage"), [("best", "val"), ("last", "train")])
def test_an_exported_model_claims_the_figures_of_its_epoch_and_its_weights(
    name: str, stage: str, cli: Cli, fitted: Path
) -> None:
    assert cli("export", "--ckpt_path", name, "--format", "torch_export").status == 0
    about = {"metrics": ""}
    torch.export.load(RUN / "model.pt2", extra_files=about)
    claimed = json.loads(about["metrics"])
    metrics = (f"{stage}/loss", f"{stage}/accuracy")
    assert set(claimed) == {"epoch", "lr", *metrics, "test/accuracy"}
    if stage == "train":
        row = read_metrics(RUN)[-1]
        assert claimed["epoch"] == row["epoch"]
        assert {key: claimed[key] for key in metrics} == {key: row[key] for key in metrics}
    else:
        assert {key: claimed[key] for key in metrics} == near(split_figures(network_of(content(name)), "val"))
