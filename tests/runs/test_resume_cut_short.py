"""A fit that ended inside an epoch, by whatever limit, continues as one that was never stopped."""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
from lightning.pytorch.callbacks import Callback, EarlyStopping
from reliability import DIGITS, RUN, assert_one_line, assert_same_run, content, differences, fit, rows, run
from test_resume import TWO, curves, every, fit_on_two

from lit_mnist import MLP, Classifier, MNISTDataModule
from lit_mnist.runs.checkpoints import WholeCheckpointIO
from lit_mnist.runs.history import History
from lit_mnist.runs.resume import ExactResume
from lit_mnist.runs.stop import StopInsideEpoch

ACCUMULATE = ("--trainer.accumulate_grad_batches", 2)
VALIDATE_OFTEN = ("--trainer.val_check_interval", 4)
EARLY = ("--trainer.callbacks+", "EarlyStopping", "--trainer.callbacks.monitor", "val/loss")

# Of 9 batches an epoch
CASES: dict[str, tuple[Any, ...]] = {
    "constant": (),
    "plateau": (
        *("--model.lr_scheduler", "ReduceLROnPlateau"),
        *("--model.lr_scheduler_options", "{patience: 0, factor: 0.5, threshold: 0.4}"),
    ),
    "plateau, validated every other epoch": (
        *("--model.lr_scheduler", "ReduceLROnPlateau", "--trainer.check_val_every_n_epoch", 2),
        *("--model.lr_scheduler_options", "{patience: 0, factor: 0.5, threshold: 0.4}"),
    ),
    "by step": (
        *("--model.lr_scheduler", "StepLR", "--model.lr_scheduler_options", "{step_size: 5, gamma: 0.9}"),
        *("--model.lr_scheduler_interval", "step"),
    ),
    "by epoch": ("--model.lr_scheduler", "ExponentialLR", "--model.lr_scheduler_options", "{gamma: 0.7}"),
    "accumulation": ACCUMULATE,
    "validation inside": VALIDATE_OFTEN,
    "early stopping": (*EARLY, "--trainer.callbacks.patience", 1, *VALIDATE_OFTEN),
    "part of the batches": ("--trainer.limit_train_batches", 7),
    "several steps at once": ("--model.steps_per_execution", 4),
}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Run folders of 4 epochs never stopped, by the name of the case."""
    made: dict[str, Path] = {}

    def make(case: str) -> Path:
        if case not in made:
            folder = tmp_path_factory.mktemp("unbroken")
            made[case] = fit(folder, *DIGITS, *CASES[case], "--trainer.max_epochs", 4)
        return made[case]

    return make


@pytest.mark.parametrize(
    ("case", "steps"),
    [
        *(("constant", steps) for steps in (1, 9, 14, 17, 18)),
        *((case, 14) for case in CASES if case not in ("constant", "accumulation")),
        ("accumulation", 7),
        ("accumulation", 10),
        ("validation inside", 13),
        ("validation inside", 17),
        ("early stopping", 13),
        ("plateau, validated every other epoch", 20),
        *(("several steps at once", steps) for steps in (3, 8, 9, 10, 13, 15, 26)),
    ],
)
def test_a_fit_ended_by_max_steps_continues_as_one_never_stopped(
    case: str, steps: int, unbroken: Callable[[str], Path], tmp_path: Path
) -> None:
    options = (*DIGITS, *CASES[case], "--trainer.max_epochs", 4)
    fit(tmp_path, *options, "--trainer.max_steps", steps)
    resumed = fit(tmp_path, "fit", "--ckpt_path", "last", "--trainer.max_steps", -1)
    assert_same_run(resumed, unbroken(case))
    assert curves(resumed) == curves(unbroken(case))


def test_a_fit_that_goes_from_max_steps_to_max_steps_equals_one_never_stopped(
    unbroken: Callable[[str], Path], tmp_path: Path
) -> None:
    """Also from the end of an epoch, which Lightning then takes for one that has not ended."""
    fit(tmp_path, *DIGITS, "--trainer.max_epochs", 4, "--trainer.max_steps", 7)
    for steps in (9, 15, 18, 30, 36):
        fit(tmp_path, "fit", "--ckpt_path", "last", "--trainer.max_steps", steps)
    assert_same_run(tmp_path / RUN, unbroken("constant"))
    assert curves(tmp_path / RUN) == curves(unbroken("constant"))


def test_a_fit_resumed_at_its_max_steps_trains_nothing(tmp_path: Path) -> None:
    made = fit(tmp_path, *DIGITS, "--trainer.max_steps", 14)
    before = content(made / "checkpoints" / "last.ckpt")["global_step"], rows(made)
    fit(tmp_path, "fit", "--ckpt_path", "last")
    assert (content(made / "checkpoints" / "last.ckpt")["global_step"], rows(made)) == before
    assert "nothing is left to train after 14 steps" in (tmp_path / "out").read_text()


@pytest.mark.parametrize("case", ["constant", "accumulation", "validation inside", "several steps at once"])
def test_a_fit_ended_by_max_time_continues_as_one_never_stopped(case: str, tmp_path: Path) -> None:
    options = (*DIGITS, *CASES[case], "--trainer.max_epochs", 300)
    fit(tmp_path, *options, "--trainer.max_time", "00:00:00:01")
    steps = content(tmp_path / RUN / "checkpoints" / "last.ckpt")["global_step"]
    epochs = len(rows(tmp_path / RUN)) + 1
    assert 0 < steps < 300 * 5
    limits = ("--trainer.max_time", "01:00:00:00", "--trainer.max_epochs", epochs)
    resumed = fit(tmp_path, "fit", "--ckpt_path", "last", *limits)
    unbroken = fit(tmp_path / "unbroken", *DIGITS, *CASES[case], *limits)
    assert_same_run(resumed, unbroken)


def test_a_checkpoint_of_a_callback_at_the_end_of_an_epoch_cut_short_is_refused(tmp_path: Path) -> None:
    own = ("--trainer.callbacks+", "ModelCheckpoint", "--trainer.callbacks.filename", "mine")
    own += ("--trainer.callbacks.save_on_train_epoch_end", "true")
    fit(tmp_path, *DIGITS, *own, "--trainer.max_steps", 14)
    done = run(tmp_path, "fit", "--ckpt_path", RUN / "checkpoints" / "mine.ckpt", "--trainer.max_steps", -1)
    assert_one_line(done, "at the end of epoch 2, which was cut short", "last.ckpt")


def test_a_fit_that_a_callback_stopped_early_stays_stopped(tmp_path: Path) -> None:
    options = (*DIGITS, *EARLY, "--trainer.callbacks.patience", 0, "--trainer.callbacks.min_delta", 1)
    made = fit(tmp_path, *options, "--trainer.max_epochs", 10)
    before = rows(made)
    assert len(before) < 10
    fit(tmp_path, "fit", "--ckpt_path", "last", "--trainer.max_epochs", 20)
    assert rows(made) == before
    assert "nothing is left to train" in (tmp_path / "out").read_text()


def test_a_fit_that_a_callback_wants_stopped_before_min_steps_stops_where_one_never_stopped_does(
    tmp_path: Path,
) -> None:
    options = (*DIGITS, *EARLY, "--trainer.callbacks.patience", 0, "--trainer.callbacks.min_delta", 1)
    options += ("--trainer.max_epochs", 10, "--trainer.min_steps", 32, *every(7))
    unbroken = fit(tmp_path / "unbroken", *options)
    assert content(unbroken / "checkpoints" / "last.ckpt")["global_step"] == 32
    fit(tmp_path, *options, "--trainer.max_steps", 28)
    resumed = fit(tmp_path, "fit", "--ckpt_path", "last", "--trainer.max_steps", -1)
    assert_same_run(resumed, unbroken)


def test_a_checkpoint_of_a_callback_before_a_validation_inside_an_epoch_is_refused(tmp_path: Path) -> None:
    fit(tmp_path, *DIGITS, *VALIDATE_OFTEN, *every(4), "--trainer.max_epochs", 1)
    done = run(tmp_path, "fit", "--ckpt_path", RUN / "checkpoints" / "epoch=0-step=4.ckpt", "--trainer.max_epochs", 2)
    assert_one_line(done, "after a step of epoch 1 and before the validation that follows it", "last.ckpt")


@pytest.mark.slow
def test_on_two_devices_a_fit_ended_by_max_steps_continues_as_one_never_stopped(tmp_path: Path) -> None:
    options = (*DIGITS, *TWO, *ACCUMULATE, "--trainer.max_epochs", 3)
    unbroken = fit_on_two(tmp_path / "unbroken", *options)
    fit_on_two(tmp_path, *options, "--trainer.max_steps", 7)
    assert_same_run(fit_on_two(tmp_path, "fit", "--ckpt_path", "last", "--trainer.max_steps", -1), unbroken)


class SignalInside(Callback):
    """Gets the process a SIGTERM within a batch of the second epoch."""

    def __init__(self, batch: int) -> None:
        self.batch = batch

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.current_epoch == 1 and batch_idx == self.batch:
            signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize("batch", range(1, 9))
def test_a_signal_within_any_batch_loses_no_gradient_and_no_validation(
    batch: int, digits: MNISTDataModule, quiet: Callable[..., L.Trainer], tmp_path: Path
) -> None:
    path = tmp_path / "stopped.ckpt"

    def train(*callbacks: Callback, **options: Any) -> tuple[dict[str, Any], list[str]]:
        seen = EarlyStopping("val/loss", patience=100)  # which remembers the best of all validations
        L.seed_everything(0)
        history = History(tmp_path, "", show=False)
        own = [history, ExactResume(history), StopInsideEpoch(path), seen]
        model = Classifier(network=MLP(hidden_sizes=[16], dropout=0.5))
        limits = {"max_epochs": 3, "accumulate_grad_batches": 3, "val_check_interval": 4, "limit_train_batches": 10}
        trainer = quiet(
            **limits, enable_checkpointing=True, callbacks=[*callbacks, *own], plugins=[WholeCheckpointIO()]
        )
        trainer.fit(model, digits, **options)
        return model.state_dict(), [str(seen.state_dict()), str(trainer.callback_metrics)]

    unbroken, metrics = train()
    with pytest.raises(SystemExit) as end:
        train(SignalInside(batch))
    assert end.value.code == 143
    resumed, resumed_metrics = train(ckpt_path=path)
    assert not differences(unbroken, resumed)
    assert resumed_metrics == metrics
