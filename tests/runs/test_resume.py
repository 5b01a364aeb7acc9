"""A fit that stopped, for whatever reason, continues as if it had never stopped."""

import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from reliability import (
    CHECKPOINTS,
    DIGITS,
    RUN,
    assert_fitted,
    assert_one_line,
    assert_same_run,
    content,
    differences,
    ended,
    fit,
    rows,
    run,
    shell,
    wait_for,
)
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

STEPS_PER_EPOCH = 9  # of the digits, the last with fewer images


def every(steps: int) -> tuple[Any, ...]:
    """Options that keep a checkpoint after every so many steps."""
    options = ("--trainer.callbacks.every_n_train_steps", steps, "--trainer.callbacks.save_top_k", -1)
    return ("--trainer.callbacks+", "ModelCheckpoint", *options)


def curves(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Steps and values of each curve but that of the speed, as TensorBoard shows them after what was logged again."""
    events = EventAccumulator(str(run), size_guidance={"scalars": 0}).Reload()
    tags = set(events.Tags()["scalars"]) - {"images_per_second"}
    return {tag: [(point.step, point.value) for point in events.Scalars(tag)] for tag in tags}


def assert_one_curve(resumed: Path, unbroken: Path) -> None:
    """The curves are those of the unbroken run, in one folder: no gap, no step twice."""
    assert [path.name for path in resumed.parent.iterdir()] == ["version_0"]
    assert curves(resumed) == curves(unbroken) != {}


def stopped_at(step: int, unbroken: Path, folder: Path) -> Path:
    """A copy of a run as it was after a step: without the checkpoints from later on; returns that step's checkpoint."""
    copy = Path(shutil.copytree(unbroken, folder / RUN))
    (copy / "metrics.csv").unlink()
    for path in (copy / "checkpoints").iterdir():
        saved = torch.load(path, weights_only=True)["global_step"]
        if saved > step:
            path.unlink()
        elif saved == step:
            found = path
    return found


# One device

CASES = {
    "constant": [],
    "plateau": [
        *("--model.lr_scheduler", "ReduceLROnPlateau"),
        *("--model.lr_scheduler_options", "{patience: 0, factor: 0.5, threshold: 0.4}"),
    ],
    "step": [
        *("--model.lr_scheduler", "StepLR", "--model.lr_scheduler_options", "{step_size: 5, gamma: 0.9}"),
        *("--model.lr_scheduler_interval", "step"),
    ],
    "epoch": ["--model.lr_scheduler", "ExponentialLR", "--model.lr_scheduler_options", "{gamma: 0.7}"],
    "momentum": ["--model.optimizer", "Adam"],
    "several steps at once": ["--model.steps_per_execution", 3],
}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Run folders of 4 epochs never stopped, by the name of the case."""
    made: dict[str, Path] = {}

    def make(case: str) -> Path:
        if case not in made:
            options = (*DIGITS, *CASES[case], "--trainer.max_epochs", 4)
            steps = 6 if case == "several steps at once" else 7
            made[case] = fit(tmp_path_factory.mktemp("unbroken"), *options, *every(steps))
        return made[case]

    return make


def test_the_schedulers_of_these_tests_do_change_the_learning_rate(unbroken: Callable[[str], Path]) -> None:
    for case in ("plateau", "step", "epoch"):
        assert len({row["lr"] for row in rows(unbroken(case))}) >= 2


@pytest.mark.parametrize(
    ("case", "step"),
    [
        *(("constant", step) for step in (7, 14, 21, 28, 35)),
        *((case, step) for case in ("plateau", "step", "epoch", "momentum") for step in (14, 28)),
        ("several steps at once", 12),
    ],
)
def test_a_fit_resumed_inside_an_epoch_equals_one_never_stopped(
    case: str, step: int, unbroken: Callable[[str], Path], tmp_path: Path
) -> None:
    checkpoint = stopped_at(step, unbroken(case), tmp_path)
    assert step % STEPS_PER_EPOCH
    resumed = fit(tmp_path, "fit", "--ckpt_path", checkpoint.relative_to(tmp_path))
    assert_same_run(resumed, unbroken(case))
    names = [{path.name for path in (made / "checkpoints").iterdir()} for made in (resumed, unbroken(case))]
    assert names[0] == names[1]


@pytest.mark.parametrize("case", CASES)
def test_a_fit_resumed_after_an_epoch_equals_one_never_stopped(
    case: str, unbroken: Callable[[str], Path], tmp_path: Path
) -> None:
    steps = 6 if case == "several steps at once" else 7
    fit(tmp_path, *DIGITS, *CASES[case], "--trainer.max_epochs", 2, *every(steps))
    resumed = fit(tmp_path, "fit", "--ckpt_path", "last", "--trainer.max_epochs", 4)
    assert_same_run(resumed, unbroken(case))
    assert_one_curve(resumed, unbroken(case))


def test_a_fit_resumed_any_number_of_times_equals_one_never_stopped(
    unbroken: Callable[[str], Path], tmp_path: Path
) -> None:
    fit(tmp_path, *DIGITS, "--trainer.max_epochs", 1, *every(7))
    for epochs in (2, 3, 4):
        fit(tmp_path, "fit", "--ckpt_path", "last", "--trainer.max_epochs", epochs)
    assert_same_run(tmp_path / RUN, unbroken("constant"))
    assert_one_curve(tmp_path / RUN, unbroken("constant"))


def test_a_checkpoint_callback_of_ones_own_continues_where_it_was(tmp_path: Path) -> None:
    lowest = ("--trainer.callbacks.monitor", "val/loss", "--trainer.callbacks.filename", "mine")
    fit(tmp_path, *DIGITS, "--trainer.max_epochs", 1, "--trainer.callbacks+", "ModelCheckpoint", *lowest)
    done = run(tmp_path, "fit", "--ckpt_path", "last", "--trainer.max_epochs", 2)
    assert (done.status, done.err) == (0, "")


def test_a_checkpoint_between_the_last_step_and_validation_is_refused(tmp_path: Path) -> None:
    made = fit(tmp_path, *DIGITS, "--trainer.max_epochs", 2, *every(STEPS_PER_EPOCH))
    checkpoint = next((made / "checkpoints").glob(f"epoch=0-step={STEPS_PER_EPOCH}.ckpt"))
    before = {path: path.read_bytes() for path in made.rglob("*") if path.is_file()}
    done = run(tmp_path, "fit", "--ckpt_path", checkpoint)
    assert_one_line(done, "after the last step of epoch 1", "before its validation")
    after = {path: path.read_bytes() for path in made.rglob("*") if path.is_file() and "events" not in path.name}
    assert after.items() <= before.items()


# Signals

LONG = (*DIGITS, "--trainer.max_epochs", 40)


@pytest.fixture(scope="module")
def long_unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit(tmp_path_factory.mktemp("long"), *LONG)


def stop(folder: Path, number: signal.Signals, *args: Any) -> Any:
    """Start a fit in a shell, signal it once it has trained for three epochs, and wait for its end."""
    process = shell(folder, *args)
    wait_for(lambda: len(rows(folder / RUN)) >= 3 or process.poll() is not None)
    process.send_signal(number)
    return ended(process.wait(60), folder)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_leaves_a_checkpoint_of_the_moment_and_says_how_to_resume(
    number: signal.Signals, status: int, long_unbroken: Path, tmp_path: Path
) -> None:
    done = stop(tmp_path, number, *LONG)
    assert done.status == status, done.err
    (line,) = done.err.split("\n")[1:-1]
    assert line == (
        f"stopped by {number.name};"
        " continue with: python -m lit_mnist fit --ckpt_path lightning_logs/version_0/checkpoints/last.ckpt"
    )
    saved = content(tmp_path / CHECKPOINTS / "last.ckpt")["global_step"]
    trained = len(rows(tmp_path / RUN))
    assert 3 <= trained < 40
    assert trained * STEPS_PER_EPOCH <= saved < (trained + 1) * STEPS_PER_EPOCH
    resumed = fit(tmp_path, *line.split()[line.split().index("fit") :])
    assert_same_run(resumed, long_unbroken)
    assert_one_curve(resumed, long_unbroken)


FIGURES = ("history.svg", "history.png", "samples.png", "weights.png")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("moment", ["metrics.csv", "history.svg"])
def test_a_fit_stopped_while_its_last_figures_are_drawn_leaves_a_checkpoint_and_draws_them_when_it_is_resumed(
    number: signal.Signals, moment: str, unbroken: Callable[[str], Path], tmp_path: Path
) -> None:
    process = shell(tmp_path, *DIGITS, "--trainer.max_epochs", 4, *every(7))
    wait_for(lambda: len(rows(tmp_path / RUN)) == 4 and (tmp_path / RUN / moment).exists())
    process.send_signal(number)
    done = ended(process.wait(60), tmp_path)
    assert done.status == (-number if number == signal.SIGKILL else 128 + number), done.err
    assert "Traceback" not in done.err
    assert not (tmp_path / RUN / "weights.png").exists()
    resumed = fit(tmp_path, "fit", "--ckpt_path", "last")
    assert all((resumed / name).stat().st_size for name in FIGURES)
    assert_same_run(resumed, unbroken("constant"))


def test_a_resumed_fit_with_nothing_left_to_train_says_so(unbroken: Callable[[str], Path], tmp_path: Path) -> None:
    shutil.copytree(unbroken("constant"), tmp_path / RUN)
    fit(tmp_path, "fit", "--ckpt_path", "last")
    assert "nothing is left to train after 36 steps" in (tmp_path / "out").read_text()
    assert_same_run(tmp_path / RUN, unbroken("constant"))


# Divergence


def test_training_that_diverges_at_once_ends_in_one_line(tmp_path: Path) -> None:
    done = run(tmp_path, *DIGITS, "--model.lr", "1e30")
    assert_one_line(done, "the loss became", "in epoch 1, step 2", "--model.lr", status=1)
    assert not list(tmp_path.rglob("*.ckpt"))


def test_training_that_diverges_later_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    growing = ("--model.lr_scheduler", "ExponentialLR", "--model.lr_scheduler_options", "{gamma: 1e30}")
    done = run(tmp_path, *DIGITS, *growing, "--trainer.max_epochs", 4)
    assert_one_line(done, "the loss became", f"in epoch 2, step {STEPS_PER_EPOCH + 2}", status=1)
    saved = content(tmp_path / CHECKPOINTS / "last.ckpt")
    assert saved["global_step"] == STEPS_PER_EPOCH
    assert all(weight.isfinite().all() for weight in saved["state_dict"].values())
    assert run(tmp_path, "test", "--ckpt_path", "last").status == 0


# Two devices

TWO = ("--trainer.devices", 2, "--trainer.strategy", "ddp")
TWO_LONG = (*DIGITS, *TWO, "--trainer.max_epochs", 20, *every(7))


def fit_on_two(folder: Path, *args: Any) -> Path:
    process = shell(folder, *args)
    return assert_fitted(folder, ended(process.wait(120), folder))


@pytest.fixture(scope="module")
def two_unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit_on_two(tmp_path_factory.mktemp("two"), *TWO_LONG)


@pytest.mark.slow
@pytest.mark.parametrize("step", [14, 10 * STEPS_PER_EPOCH])
def test_on_two_devices_a_resumed_fit_equals_one_never_stopped(step: int, two_unbroken: Path, tmp_path: Path) -> None:
    if step % STEPS_PER_EPOCH:
        resume = stopped_at(step, two_unbroken, tmp_path).relative_to(tmp_path)
    else:
        fit_on_two(tmp_path, *DIGITS, *TWO, *every(7), "--trainer.max_epochs", step // STEPS_PER_EPOCH)
        resume = "last"
    resumed = fit_on_two(tmp_path, "fit", "--ckpt_path", resume, "--trainer.max_epochs", 20)
    assert_same_run(resumed, two_unbroken)
    random = [process["random"] for process in content(resumed / "checkpoints" / "last.ckpt")["resume"]["processes"]]
    assert differences(*random)  # each drops other activations


@pytest.mark.slow
def test_on_two_devices_sigterm_stops_both_and_the_resumed_fit_equals_one_never_stopped(
    two_unbroken: Path, tmp_path: Path
) -> None:
    done = stop(tmp_path, signal.SIGTERM, *TWO_LONG)
    assert done.status == 143, done.err
    assert [line[:19] for line in done.err.split("\n") if line] == ["stopped by SIGTERM;"]
    assert 3 <= len(rows(tmp_path / RUN)) < 20
    resumed = fit_on_two(tmp_path, "fit", "--ckpt_path", "last")
    assert_same_run(resumed, two_unbroken)
    assert_one_curve(resumed, two_unbroken)
