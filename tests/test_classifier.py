"""The training system: loss, metrics, optimizer, scheduler, and what follows from the seed."""

import inspect
import math
from collections.abc import Callable
from typing import Any

import lightning.pytorch as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lit_mnist import MLP, Classifier, MNISTDataModule

Quiet = Callable[..., L.Trainer]


def small(**options: Any) -> Classifier:
    return Classifier(network=MLP(hidden_sizes=[16]), **options)


def weights(model: Classifier) -> Tensor:
    return torch.nn.utils.parameters_to_vector(model.parameters()).detach().clone()


def optimizer_of(model: Classifier) -> Any:
    made = model.configure_optimizers()
    return made["optimizer"] if isinstance(made, dict) else made


def step(model: Classifier) -> None:
    optimizer = optimizer_of(model)
    F.cross_entropy(model(torch.rand(8, 28, 28)), torch.arange(8)).backward()
    optimizer.step()


class Recorder(Callback):
    """The mean loss of each batch without dropout, with the weights of that moment, and who trained how."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.rights: list[int] = []
        self.counts: list[int] = []
        self.lrs: list[float] = []
        self.training: set[bool] = set()

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.training.add(pl_module.training)
        self.lrs.append(trainer.optimizers[0].param_groups[0]["lr"])
        pixels, labels = batch
        pl_module.eval()
        with torch.no_grad():
            logits = pl_module(pixels)
        pl_module.train()
        self.losses.append(F.cross_entropy(logits, labels).item())
        self.rights.append(int((logits.argmax(1) == labels).sum()))
        self.counts.append(len(labels))


def test_the_defaults_are_the_recipes() -> None:
    defaults = {name: parameter.default for name, parameter in inspect.signature(Classifier).parameters.items()}
    network = Classifier().network
    assert (type(network), network.hidden_sizes, network.dropout) == (MLP, (256, 128), 0)
    assert defaults["lr"] == 1e-3
    assert defaults["weight_decay"] is None
    assert defaults["lr_scheduler"] is None
    assert sum(p.numel() for p in Classifier().parameters()) == 235_146


def test_the_optimizer_is_the_recipes_rmsprop() -> None:
    optimizer = optimizer_of(Classifier())
    assert type(optimizer) is torch.optim.RMSprop
    expected = {"lr": 1e-3, "alpha": 0.9, "eps": 1e-7, "momentum": 0, "centered": False, "weight_decay": 0}
    assert {name: optimizer.defaults[name] for name in expected} == expected


@pytest.mark.parametrize("size", [1.0, 1e-7])
def test_rmsprop_steps_follow_the_formula(size: float) -> None:
    model = small()
    weight = model.network.layers[0].weight
    optimizer = optimizer_of(model)
    w = weight.detach().double().numpy().copy()
    start, v, inside = w.copy(), np.zeros_like(w), w.copy()
    for _ in range(3):
        g = size * torch.randn_like(weight)
        weight.grad = g
        optimizer.step()
        g = g.double().numpy()
        v = 0.9 * v + 0.1 * g**2
        w -= 1e-3 * g / (np.sqrt(v) + 1e-7)
        inside -= 1e-3 * g / np.sqrt(v + 1e-7)
    np.testing.assert_allclose(weight.detach().numpy() - start, w - start, rtol=1e-3, atol=1e-7)
    if size < 1e-3:
        assert np.abs(inside - start).max() < 0.1 * np.abs(w - start).max(), "eps inside would be another rule"


def test_the_loss_is_the_cross_entropy_of_the_softmax_of_the_logits(quiet: Quiet) -> None:
    model = small()
    pixels, labels = torch.rand(50, 28, 28), torch.randint(10, (50,))
    logits = model(pixels).detach().double().numpy()
    softmax = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    one_hot = np.eye(10)[labels.numpy()]
    expected = -(one_hot * np.log(softmax)).sum(axis=1).mean()
    batches = DataLoader(TensorDataset(pixels, labels), batch_size=20)
    (metrics,) = quiet().validate(model, batches, verbose=False)
    assert metrics["val/loss"] == pytest.approx(expected, rel=1e-5)
    assert metrics["val/accuracy"] == pytest.approx((logits.argmax(axis=1) == labels.numpy()).mean())


def test_accuracy_is_the_share_of_all_samples(quiet: Quiet) -> None:
    model = small()
    torch.nn.init.zeros_(model.network.layers[-1].weight)
    model.network.layers[-1].bias.data[0] = 1
    labels = torch.tensor([0] * 9 + [1])
    (metrics,) = quiet().test(model, DataLoader(TensorDataset(torch.rand(10, 28, 28), labels), 4), verbose=False)
    macro = np.mean([1.0, 0.0])
    assert metrics["test/accuracy"] == pytest.approx(0.9)
    assert metrics["test/accuracy"] != pytest.approx(macro)


def test_train_metrics_are_averages_over_the_batches_while_the_weights_move(
    digits: MNISTDataModule, quiet: Quiet
) -> None:
    model, seen = small(), Recorder()
    trainer = quiet(max_epochs=1, callbacks=[seen])
    trainer.fit(model, digits)
    assert seen.counts == [32] * 35 + [31]
    assert trainer.callback_metrics["train/loss"].item() == pytest.approx(
        np.average(seen.losses, weights=seen.counts), rel=1e-5
    )
    assert trainer.callback_metrics["train/accuracy"].item() == pytest.approx(sum(seen.rights) / 1151)
    with torch.no_grad():
        batches = digits.train_dataloader()
        final = F.cross_entropy(model(batches.images.flatten(1) / 255), batches.labels).item()
    assert trainer.callback_metrics["train/loss"].item() > 1.1 * final


def test_dropout_is_active_in_train_metrics_and_not_in_validation(digits: MNISTDataModule, quiet: Quiet) -> None:
    model, seen = Classifier(network=MLP(hidden_sizes=[16], dropout=0.8), lr=0.0), Recorder()
    trainer = quiet(max_epochs=1, callbacks=[seen])
    trainer.fit(model, digits)
    assert seen.training == {True}
    without = np.average(seen.losses, weights=seen.counts)
    assert trainer.callback_metrics["train/loss"].item() > 1.03 * without
    model.eval()
    batches = digits.val_dataloader()
    expected = F.cross_entropy(model(batches.images.flatten(1) / 255), batches.labels).item()
    assert trainer.callback_metrics["val/loss"].item() == pytest.approx(expected, rel=1e-5)


def test_each_epochs_metrics_are_its_own(digits: MNISTDataModule, quiet: Quiet) -> None:
    seen = Recorder()
    trainer = quiet(max_epochs=2, callbacks=[seen])
    trainer.fit(small(), digits)
    last = trainer.callback_metrics["train/loss"].item()
    assert last == pytest.approx(np.average(seen.losses[36:], weights=seen.counts[36:]), rel=1e-5)


def test_one_batch_can_be_overfit(digits: MNISTDataModule, quiet: Quiet) -> None:
    trainer = quiet(max_epochs=60, overfit_batches=1)
    trainer.fit(Classifier(), digits)
    assert trainer.callback_metrics["train/loss"] < 0.01
    assert trainer.callback_metrics["train/accuracy"] == 1


def fitted(seed: int, digits: MNISTDataModule, quiet: Quiet) -> Tensor:
    L.seed_everything(seed, verbose=False)
    model = Classifier(network=MLP(hidden_sizes=[16], dropout=0.2))
    quiet(max_epochs=2, limit_train_batches=5).fit(model, digits)
    return weights(model)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(digits: MNISTDataModule, quiet: Quiet) -> None:
    first, again, other = (fitted(seed, digits, quiet) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_validation_leaves_the_weights_as_they_are(digits: MNISTDataModule, quiet: Quiet) -> None:
    with_validation = fitted(1, digits, quiet)
    without = fitted(1, digits, lambda **options: quiet(limit_val_batches=0, **options))
    assert torch.equal(with_validation, without)


def test_predictions_are_probabilities_in_file_order(digits: MNISTDataModule, quiet: Quiet) -> None:
    model = small()
    probabilities = torch.cat(quiet().predict(model, digits))
    assert probabilities.shape == (359, 10)
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(359))
    expected = model(digits.test_dataloader().images.flatten(1) / 255).softmax(dim=1)
    torch.testing.assert_close(probabilities, expected)


@pytest.mark.parametrize("name", ["RMSprop", "Adadelta", "Adagrad", "Adamax", "Adam", "AdamW", "NAdam", "RAdam", "SGD"])
def test_an_optimizer_of_torch_is_chosen_by_name_and_takes_a_step(name: str) -> None:
    model = small(optimizer=name, lr=0.05)
    before = weights(model)
    optimizer = optimizer_of(model)
    assert type(optimizer) is getattr(torch.optim, name)
    assert optimizer.param_groups[0]["lr"] == 0.05
    step(model)
    assert not torch.equal(weights(model), before)


@pytest.mark.parametrize("name", ["RMSprop", "Adadelta", "Adagrad", "Adamax", "Adam", "AdamW", "NAdam", "SGD"])
def test_weight_decay_reaches_the_optimizer(name: str) -> None:
    model = small(optimizer=name, weight_decay=0.25)
    optimizer = optimizer_of(model)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.25]


def test_weight_decay_shrinks_weights_that_have_no_gradient() -> None:
    model = small(optimizer="SGD", lr=0.1, weight_decay=0.5)
    before = weights(model)
    optimizer = optimizer_of(model)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    torch.testing.assert_close(weights(model), before * (1 - 0.1 * 0.5))


def test_no_weight_decay_leaves_the_optimizers_own_default() -> None:
    assert optimizer_of(small(optimizer="AdamW")).defaults["weight_decay"] == 0.01


def test_a_weight_decay_of_zero_is_none_whatever_the_optimizers_own_default() -> None:
    model = small(optimizer="AdamW", weight_decay=0.0)
    assert optimizer_of(model).defaults["weight_decay"] == 0
    assert model.hparams["weight_decay"] == 0


@pytest.mark.parametrize("name", ["lr", "weight_decay"])
def test_an_optimizer_takes_what_has_an_option_of_its_own_from_there_alone(name: str) -> None:
    model = small(optimizer="AdamW", optimizer_options={name: 0.1})
    with pytest.raises(ValueError, match=f"optimizer_options: {name} has an option of its own, --model.{name}"):
        model.configure_optimizers()


def test_optimizer_options_reach_the_optimizer_and_win_over_the_recipe() -> None:
    optimizer = optimizer_of(small(optimizer_options={"alpha": 0.5, "momentum": 0.3}))
    assert (optimizer.defaults["alpha"], optimizer.defaults["momentum"], optimizer.defaults["eps"]) == (0.5, 0.3, 1e-7)


def test_other_optimizers_keep_torchs_defaults() -> None:
    assert optimizer_of(small(optimizer="Adam")).defaults["eps"] == 1e-8


def test_no_scheduler_keeps_the_learning_rate(digits: MNISTDataModule, quiet: Quiet) -> None:
    seen = Recorder()
    quiet(max_epochs=2, limit_train_batches=3, callbacks=[seen]).fit(small(), digits)
    assert seen.lrs == [1e-3] * 6


@pytest.mark.parametrize(
    ("options", "lrs"),
    [
        (
            {"lr_scheduler": "StepLR", "lr_scheduler_options": {"step_size": 1, "gamma": 0.5}},
            [1e-3] * 2 + [5e-4] * 2 + [2.5e-4] * 2,
        ),
        (
            {
                "lr_scheduler": "ExponentialLR",
                "lr_scheduler_options": {"gamma": 0.1},
                "lr_scheduler_interval": "step",
            },
            [10.0**-exponent for exponent in range(3, 9)],
        ),
        (  # a threshold that only the first epoch passes
            {
                "lr_scheduler": "ReduceLROnPlateau",
                "lr_scheduler_options": {"patience": 0, "threshold": 1e9, "threshold_mode": "abs", "factor": 0.1},
            },
            [1e-3] * 4 + [1e-4] * 2,
        ),
    ],
    ids=["epoch", "step", "plateau"],
)
def test_a_scheduler_of_torch_is_chosen_by_name_and_followed(
    digits: MNISTDataModule, quiet: Quiet, options: dict[str, Any], lrs: list[float]
) -> None:
    seen = Recorder()
    quiet(max_epochs=3, limit_train_batches=2, callbacks=[seen]).fit(small(**options), digits)
    assert seen.lrs == pytest.approx(lrs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": "Adamm"}, "optimizer: Adamm is not one of .*Adam, .*RMSprop"),
        ({"optimizer": "Optimizer"}, "optimizer: Optimizer is not one of"),
        ({"optimizer": "lr_scheduler"}, "optimizer: lr_scheduler is not one of"),
        ({"optimizer_options": {"alhpa": 1}}, "optimizer_options: RMSprop refuses .*alhpa"),
        ({"optimizer": "SGD", "optimizer_options": {"momentum": -3}}, "optimizer_options: SGD refuses .*-3"),
        ({"lr_scheduler": "StepLRR"}, "lr_scheduler: StepLRR is not one of .*StepLR"),
        ({"lr_scheduler": "LRScheduler"}, "lr_scheduler: LRScheduler is not one of"),
        ({"lr_scheduler": "StepLR"}, "lr_scheduler_options: StepLR refuses .*step_size"),
        (
            {"lr_scheduler": "StepLR", "lr_scheduler_options": {"step_sise": 1}},
            "lr_scheduler_options: StepLR refuses .*step_sise",
        ),
    ],
)
def test_what_torch_does_not_have_or_refuses_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        small(**options).configure_optimizers()


@pytest.mark.parametrize("name", ["lr", "weight_decay"])
@pytest.mark.parametrize("value", [-1e-9, -1.0, math.nan])
def test_a_rate_below_zero_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"^{name}: {value} is not at least 0$"):
        Classifier(**{name: value})
