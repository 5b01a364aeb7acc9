"""The fast path gives what the default path gives."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from lit_mnist import MLP, MNISTDataModule
from lit_mnist.fast import FastClassifier, FlatRMSprop

DIGITS = ("fit", "--data.dataset", "digits", "--data.batch_size", 32, "--model.network.dropout", "[0.4, 0.3]")
DIGITS += ("--trainer.accelerator", "cpu", "--trainer.enable_model_summary", "false")
RUNS = Path("lightning_logs")


def checkpoint(run: str, name: str = "last") -> dict[str, Any]:
    return torch.load(RUNS / run / "checkpoints" / f"{name}.ckpt", weights_only=True)


def rows(run: str) -> list[dict[str, str]]:
    with (RUNS / run / "metrics.csv").open() as file:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


def curves(run: str) -> dict[str, list[tuple[int, float]]]:
    """Steps and values of each curve in TensorBoard but that of the speed."""
    events = EventAccumulator(str(RUNS / run), size_guidance={"scalars": 0}).Reload()
    tags = set(events.Tags()["scalars"]) - {"images_per_second"}
    return {tag: [(point.step, point.value) for point in events.Scalars(tag)] for tag in tags}


def assert_same_training(one: dict[str, Any], other: dict[str, Any]) -> None:
    for name, weight in one["state_dict"].items():
        assert torch.equal(weight, other["state_dict"][name]), name
    states, others = (checkpoint["optimizer_states"][0]["state"] for checkpoint in (one, other))
    for number, state in states.items():
        for name, value in state.items():
            assert torch.equal(value, others[number][name]), (number, name)
    assert one["global_step"] == other["global_step"]


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--model.weight_decay", 1e-3),
        ("--model.lr_scheduler", "ExponentialLR", "--model.lr_scheduler_options.gamma", 0.5),
        ("--model.lr_scheduler=LinearLR", "--model.lr_scheduler_interval=step"),
        ("--model.lr_scheduler=ReduceLROnPlateau", "--model.lr_scheduler_options.patience=0"),
        ("--model.optimizer", "Adam"),
        ("--model.optimizer_options.momentum", 0.5),
        ("--trainer.precision", "bf16-mixed"),
        ("--trainer.max_steps", 50),
    ],
    ids=["recipe", "decay", "by-epoch", "by-step", "plateau", "adam", "momentum", "bf16", "max-steps"],
)
def test_weights_optimizer_state_steps_and_metrics_are_those_of_the_default_path(cli, options):
    for steps in (1, 7):
        done = cli(*DIGITS, "--trainer.max_epochs", 2, "--model.steps_per_execution", steps, *options)
        assert done.status == 0, done.err
    assert_same_training(checkpoint("version_0"), checkpoint("version_1"))
    assert rows("version_0") == rows("version_1")
    assert curves("version_0") == curves("version_1") != {}


def test_a_fast_run_stopped_inside_an_epoch_continues_as_if_it_had_not(cli):
    every = ("--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.every_n_train_steps=18")
    fast = (*DIGITS, "--trainer.max_epochs", 3, "--model.steps_per_execution", 6, *every)
    assert cli(*fast, "--trainer.callbacks.save_top_k=-1").status == 0
    unbroken, curve = checkpoint("version_0"), rows("version_0")
    inside = RUNS / "version_0" / "checkpoints" / "epoch=1-step=54.ckpt"
    assert cli("fit", "--ckpt_path", inside).status == 0
    assert_same_training(checkpoint("version_0"), unbroken)
    assert rows("version_0") == curve


@pytest.mark.parametrize(
    "options",
    [
        ("--trainer.devices=2", "--trainer.strategy=ddp"),
        ("--trainer.gradient_clip_val", 1.0),
        ("--trainer.accumulate_grad_batches", 2),
        ("--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.every_n_train_steps=10"),
    ],
    ids=["two-devices", "clipping", "accumulation", "checkpoints-between"],
)
def test_what_does_not_combine_is_refused_in_one_line(cli, options):
    done = cli(*DIGITS, "--model.steps_per_execution", 25, *options)
    assert done.status == 2
    assert done.err.startswith("lit-mnist: error: ")
    assert len(done.err.splitlines()) == 1


def gradients(model: nn.Module, seed: int) -> None:
    torch.manual_seed(seed)
    for param in model.parameters():
        gradient = torch.randn_like(param) * 1e-2
        if param.grad is None:
            param.grad = gradient
        else:
            param.grad.copy_(gradient)


def pair(**options: float) -> tuple[nn.Module, torch.optim.Optimizer, nn.Module, torch.optim.Optimizer]:
    one, other = MLP(), MLP()
    other.load_state_dict(one.state_dict())
    options = {"lr": 1e-3, "alpha": 0.9, "eps": 1e-7, **options}
    return one, torch.optim.RMSprop(one.parameters(), **options), other, FlatRMSprop(other.parameters(), **options)


def assert_same_weights(one: nn.Module, other: nn.Module) -> None:
    assert all(map(torch.equal, one.parameters(), other.parameters()))


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_flat_rmsprop_takes_the_steps_of_rmsprop_bit_for_bit(weight_decay):
    one, rmsprop, other, flat = pair(weight_decay=weight_decay)
    for step in range(5):
        for model, optimizer in ((one, rmsprop), (other, flat)):
            optimizer.zero_grad()
            gradients(model, step)
            optimizer.step()
    assert_same_weights(one, other)


def test_rmsprop_and_flat_rmsprop_continue_from_each_others_state():
    one, rmsprop, other, flat = pair()
    for model, optimizer in ((one, rmsprop), (other, flat)):
        optimizer.zero_grad()
        gradients(model, 0)
        optimizer.step()
    states = rmsprop.state_dict(), flat.state_dict()
    one, rmsprop, other, flat = pair()
    rmsprop.load_state_dict(states[1])
    flat.load_state_dict(states[0])
    for model, optimizer in ((one, rmsprop), (other, flat)):
        optimizer.zero_grad()
        gradients(model, 1)
        optimizer.step()
    assert_same_weights(one, other)
    assert rmsprop.state_dict()["state"][0]["step"] == flat.state_dict()["state"][0]["step"] == 2


def test_a_diverging_fast_run_names_the_step_within_its_batch_of_steps(cli):
    done = cli(*DIGITS, "--model.steps_per_execution", 25, "--model.lr", 1e30)
    assert done.status == 1
    assert "epoch 1, step 2;" in done.err


@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.01}, {"optimizer": "Adam"}, {"lr_scheduler": "StepLR"}])
def test_several_steps_per_execution_give_the_same_bits(
    digits: MNISTDataModule, quiet: Callable[..., L.Trainer], options: dict[str, Any]
) -> None:
    if "lr_scheduler" in options:
        options = {**options, "lr_scheduler_options": {"step_size": 5}, "lr_scheduler_interval": "step"}
    results = []
    for steps in (1, 7):
        L.seed_everything(3, verbose=False)
        model = FastClassifier(network=MLP(hidden_sizes=[16], dropout=0.2), steps_per_execution=steps, **options)
        trainer = quiet(max_epochs=2)
        trainer.fit(model, digits)
        results.append(
            (
                torch.nn.utils.parameters_to_vector(model.parameters()).detach().clone(),
                trainer.global_step,
                trainer.callback_metrics,
            )
        )
    one, seven = results
    assert torch.equal(one[0], seven[0])
    assert one[1] == seven[1] == 2 * 36
    assert {**one[2]} == {**seven[2]}


def test_steps_per_execution_below_one_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^steps_per_execution: 0 is not at least 1$"):
        FastClassifier(steps_per_execution=0)
