"""The training system: loss, metrics, optimizer, schedule, and what follows from the seed."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import ExponentialLR, OneCycleLR, ReduceLROnPlateau, StepLR
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassF1Score

from lit_mnist import CNN, MLP, Classifier, MNISTDataModule
from lit_mnist.checkpoint import CheckpointError, read_checkpoint
from lit_mnist.data import rescale
from lit_mnist.fast import FastClassifier
from lit_mnist.metrics import ClippedCrossEntropy, CrossEntropy
from lit_mnist.optim import KerasRMSprop

Quiet = Callable[..., L.Trainer]


def small(**options: Any) -> Classifier:
    return Classifier(network=MLP(hidden_sizes=[16]), **options)


def weights(model: nn.Module) -> Tensor:
    return torch.nn.utils.parameters_to_vector(model.parameters()).detach().clone()


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
        images, labels = batch
        pl_module.eval()
        with torch.no_grad():
            logits = pl_module(images)
        pl_module.train()
        self.losses.append(F.cross_entropy(logits, labels).item())
        self.rights.append(int((logits.argmax(1) == labels).sum()))
        self.counts.append(len(labels))


def test_the_defaults_are_the_recipes() -> None:
    model = Classifier()
    assert (type(model.network), model.network.hidden_sizes, model.network.dropout) == (MLP, (256, 128), 0)
    assert sum(p.numel() for p in model.parameters()) == 235_146
    optimizer = model.configure_optimizers()
    assert type(optimizer) is KerasRMSprop
    expected = {"lr": 1e-3, "alpha": 0.9, "eps": 1e-7, "momentum": 0, "centered": False, "weight_decay": 0}
    assert {name: optimizer.defaults[name] for name in expected} == expected
    data = MNISTDataModule()
    assert (data.dataset, data.batch_size, data.val_size) == ("mnist", 128, None)


def test_rmsprop_keeps_its_averages_above_zero_and_the_weights_of_torch() -> None:
    ours, theirs = torch.randn(100, requires_grad=True), torch.empty(100, requires_grad=True)
    theirs.data.copy_(ours.data)
    optimizers = [KerasRMSprop([ours]), torch.optim.RMSprop([theirs], lr=1e-3, alpha=0.9, eps=1e-7)]
    for step in range(200):
        ours.grad = torch.randn(100) * torch.logspace(-15, 0, 100) * (step < 20)
        ours.grad[::2] = 0  # as for pixels that are always black
        theirs.grad = ours.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    assert torch.equal(ours, theirs)
    assert (optimizers[0].state[ours]["square_avg"] > 0).all()
    assert not (optimizers[1].state[theirs]["square_avg"] > 0).all()


@pytest.mark.parametrize("size", [1.0, 1e-7])
def test_rmsprop_steps_follow_the_formula(size: float) -> None:
    model = small()
    weight = model.network.layers[0].weight
    optimizer = model.configure_optimizers()
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
    images, labels = torch.rand(50, 28, 28), torch.randint(10, (50,))
    logits = model(images).detach().double().numpy()
    softmax = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = -(np.eye(10)[labels.numpy()] * np.log(softmax)).sum(axis=1).mean()
    batches = DataLoader(TensorDataset(images, labels), batch_size=20)
    (metrics,) = quiet().validate(model, batches, verbose=False)
    assert metrics["val/loss"] == pytest.approx(expected, rel=1e-5)
    assert metrics["val/accuracy"] == pytest.approx((logits.argmax(axis=1) == labels.numpy()).mean())


def test_what_is_measured_is_the_cross_entropy_whatever_trains(digits: MNISTDataModule, quiet: Quiet) -> None:
    smoothed = small(loss=nn.CrossEntropyLoss(label_smoothing=0.9))
    smoothed.network.load_state_dict((plain := small()).network.state_dict())
    both = [quiet().validate(model, digits, verbose=False)[0] for model in (plain, smoothed)]
    assert both[0] == both[1]
    batch = torch.rand(4, 28, 28), torch.arange(4)
    steps = [model._step(batch, model.train_metrics)["loss"].item() for model in (plain, smoothed)]
    assert steps[0] != pytest.approx(steps[1], rel=0.01)


def test_accuracy_is_the_share_of_all_samples(quiet: Quiet) -> None:
    model = small()
    torch.nn.init.zeros_(model.network.layers[-1].weight)
    model.network.layers[-1].bias.data[0] = 1
    labels = torch.tensor([0] * 9 + [1])
    (metrics,) = quiet().test(model, DataLoader(TensorDataset(torch.rand(10, 28, 28), labels), 4), verbose=False)
    assert metrics["test/accuracy"] == pytest.approx(0.9)  # and not .5, the mean over the classes


def test_train_metrics_are_averages_over_the_batches_while_the_weights_move(
    digits: MNISTDataModule, quiet: Quiet
) -> None:
    model, seen = small(), Recorder()
    trainer = quiet(max_epochs=2, callbacks=[seen])
    trainer.fit(model, digits)
    assert seen.counts[36:] == [32] * 35 + [31]
    mean = np.average(seen.losses[36:], weights=seen.counts[36:])  # of this epoch alone
    assert trainer.callback_metrics["train/loss"].item() == pytest.approx(mean, rel=1e-5)
    assert trainer.callback_metrics["train/accuracy"].item() == pytest.approx(sum(seen.rights[36:]) / 1151)
    images, labels = digits.splits["train"]
    final = F.cross_entropy(model(rescale(images)), labels).item()
    assert trainer.callback_metrics["train/loss"].item() > 1.1 * final


def test_dropout_is_active_in_train_metrics_and_not_in_validation(digits: MNISTDataModule, quiet: Quiet) -> None:
    model, seen = Classifier(MLP([16], dropout=0.8), optimizer=partial(SGD, lr=0.0)), Recorder()
    trainer = quiet(max_epochs=1, callbacks=[seen])
    trainer.fit(model, digits)
    assert seen.training == {True}
    assert trainer.callback_metrics["train/loss"].item() > 1.03 * np.average(seen.losses, weights=seen.counts)
    images, labels = digits.splits["val"]
    expected = F.cross_entropy(model.eval()(rescale(images)), labels).item()
    assert trainer.callback_metrics["val/loss"].item() == pytest.approx(expected, rel=1e-5)


def test_a_metric_of_ones_own_is_measured_beside_loss_and_accuracy(digits: MNISTDataModule, quiet: Quiet) -> None:
    model = small(metrics={"f1": MulticlassF1Score(10)})
    trainer = quiet(max_epochs=1)
    trainer.fit(model, digits)
    assert {"train/f1", "val/f1"} <= trainer.callback_metrics.keys()
    (metrics,) = trainer.test(model, digits, verbose=False)
    images, labels = digits.splits["test"]
    assert metrics["test/f1"] == pytest.approx(MulticlassF1Score(10)(model(rescale(images)), labels).item())


def test_one_batch_can_be_overfit(digits: MNISTDataModule, quiet: Quiet) -> None:
    trainer = quiet(max_epochs=60, overfit_batches=1)
    trainer.fit(Classifier(), digits)
    assert trainer.callback_metrics["train/loss"] < 0.01
    assert trainer.callback_metrics["train/accuracy"] == 1


def fitted(seed: int, digits: MNISTDataModule, quiet: Quiet, **options: Any) -> Tensor:
    L.seed_everything(seed, verbose=False)
    model = Classifier(MLP(hidden_sizes=[16], dropout=0.2))
    quiet(max_epochs=2, limit_train_batches=5, **options).fit(model, digits)
    return weights(model)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(digits: MNISTDataModule, quiet: Quiet) -> None:
    first, again, other = (fitted(seed, digits, quiet) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_validation_leaves_the_weights_as_they_are(digits: MNISTDataModule, quiet: Quiet) -> None:
    assert torch.equal(fitted(1, digits, quiet), fitted(1, digits, quiet, limit_val_batches=0))


def test_predictions_are_probabilities_in_file_order(digits: MNISTDataModule, quiet: Quiet) -> None:
    model = small()
    probabilities = torch.cat(quiet().predict(model, digits))
    torch.testing.assert_close(probabilities, model(rescale(digits.splits["test"][0])).softmax(dim=1))


@pytest.mark.parametrize(
    ("options", "lrs"),
    [
        ({}, [1e-3] * 6),
        ({"lr_scheduler": partial(StepLR, step_size=1, gamma=0.5)}, [1e-3] * 2 + [5e-4] * 2 + [2.5e-4] * 2),
        (
            {"lr_scheduler": partial(ExponentialLR, gamma=0.1), "lr_scheduler_interval": "step"},
            [10.0**-exponent for exponent in range(3, 9)],
        ),
    ],
    ids=["none", "epoch", "step"],
)
def test_a_schedule_is_followed(
    digits: MNISTDataModule, quiet: Quiet, options: dict[str, Any], lrs: list[float]
) -> None:
    seen = Recorder()
    quiet(max_epochs=3, limit_train_batches=2, callbacks=[seen]).fit(small(**options), digits)
    assert seen.lrs == pytest.approx(lrs)


def test_a_plateau_of_the_val_loss_lowers_the_learning_rate(digits: MNISTDataModule, quiet: Quiet) -> None:
    seen = Recorder()
    never = partial(ReduceLROnPlateau, patience=0, threshold=1e9, threshold_mode="abs", factor=0.1)
    trainer = quiet(max_epochs=3, limit_train_batches=1, callbacks=[seen])
    trainer.fit(small(lr_scheduler=never), digits)
    assert seen.lrs == pytest.approx([1e-3, 1e-3, 1e-4])
    assert trainer.lr_scheduler_configs[0].monitor == "val/loss"


def test_one_cycle_takes_the_steps_of_the_fit(digits: MNISTDataModule, quiet: Quiet) -> None:
    seen = Recorder()
    model = small(optimizer=partial(SGD, lr=0.1, momentum=0.9), lr_scheduler=partial(OneCycleLR, max_lr=0.1))
    quiet(max_epochs=2, callbacks=[seen]).fit(model, digits)
    assert len(seen.lrs) == 72
    assert max(seen.lrs) == pytest.approx(0.1, rel=0.01)
    assert seen.lrs[-1] < 1e-4


def saved(model: Classifier, digits: MNISTDataModule, quiet: Quiet, path: Path) -> Path:
    trainer = quiet(max_epochs=1, limit_train_batches=2)
    trainer.fit(model, digits)
    trainer.save_checkpoint(path)
    return path


@pytest.mark.parametrize("network", [MLP([8], dropout=[0.5]), CNN(channels=2)], ids=["MLP", "CNN"])
def test_a_checkpoint_gives_back_network_weights_and_classes(
    network: nn.Module, digits: MNISTDataModule, quiet: Quiet, tmp_path: Path
) -> None:
    model = Classifier(network, optimizer=Adam)
    again = Classifier.load_from_checkpoint(saved(model, digits, quiet, tmp_path / "a.ckpt"))
    images = torch.rand(5, 28, 28)
    assert torch.equal(again(images), model.eval()(images))
    assert again.hparams["network"] == model.hparams["network"]
    assert again.classes == list("0123456789")
    assert not again.training


class Own(nn.Module):
    """A network that is not of the package."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(784, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(images.flatten(1))


def test_another_network_has_to_be_given_with_its_checkpoint(
    digits: MNISTDataModule, quiet: Quiet, tmp_path: Path
) -> None:
    path = saved(model := Classifier(Own()), digits, quiet, tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError, match=r"a.ckpt: its network, .*Own, is not one of lit_mnist.networks"):
        Classifier.load_from_checkpoint(path)
    assert torch.equal(weights(Classifier.load_from_checkpoint(path, network=Own())), weights(model))
    with pytest.raises(CheckpointError, match="its weights are of"):
        Classifier.load_from_checkpoint(path, network=MLP())


def test_a_checkpoint_holds_plain_data_and_nothing_that_it_names_is_imported(
    digits: MNISTDataModule, quiet: Quiet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(small(lr_scheduler=partial(StepLR, step_size=1)), digits, quiet, tmp_path / "a.ckpt")
    checkpoint = torch.load(path, weights_only=True)
    (tmp_path / "evil.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("evil.Net", "lit_mnist.networks.mlp", "lit_mnist.networks.__builtins__"):
        spec = {"class_path": name, "init_args": {}}
        checkpoint["hyper_parameters"]["network"] = spec
        checkpoint["hyper_parameters"]["_instantiator"] = "evil.make"
        torch.save(checkpoint, path)
        with pytest.raises(CheckpointError, match=r"is not one of lit_mnist.networks"):
            Classifier.load_from_checkpoint(path)


@pytest.mark.parametrize("content", [None, b"", b"no checkpoint", {"weights": 1}, {"state_dict": {}}])
def test_what_is_no_checkpoint_gets_one_line(content: Any, tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content:
        torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"x.ckpt is not a checkpoint"):
        read_checkpoint(path)


def test_a_new_fit_starts_from_the_weights_of_a_checkpoint(
    digits: MNISTDataModule, quiet: Quiet, tmp_path: Path
) -> None:
    path = saved(trained := small(), digits, quiet, tmp_path / "a.ckpt")
    model = small(weights=str(path), optimizer=partial(SGD, lr=0.0))
    quiet(max_epochs=1, limit_train_batches=1).fit(model, digits)
    assert torch.equal(weights(model), weights(trained))
    with pytest.raises(CheckpointError, match="its weights are of"):
        quiet(max_epochs=1).fit(Classifier(CNN(), weights=str(path)), digits)


def test_the_cross_entropy_is_the_mean_over_all_images_whatever_their_batches() -> None:
    logits, labels = torch.randn(10, 10), torch.arange(10)
    metric = CrossEntropy()
    for part in (slice(0, 7), slice(7, 10), slice(10, 10)):
        metric.update(logits[part], labels[part])
    assert metric.compute().item() == pytest.approx(F.cross_entropy(logits, labels).item())


def test_the_clipped_loss_is_that_of_keras_2_and_stands_beside_the_plain_one() -> None:
    logits = torch.tensor([[30.0, 0.0, 0.0], [1.0, 2.0, 3.0]])
    labels = torch.tensor([1, 1])
    metric = ClippedCrossEntropy()
    metric.update(logits, labels)
    cost = -math.log(math.exp(2) / sum(math.exp(x) for x in (1, 2, 3)))
    assert metric.compute().item() == pytest.approx((-math.log(1e-7) + cost) / 2, rel=1e-5)
    plain = CrossEntropy()
    plain.update(logits, labels)
    assert plain.compute().item() == pytest.approx((30 + cost) / 2, rel=1e-5)


def test_a_compiled_network_is_saved_under_its_own_names(digits: MNISTDataModule, quiet: Quiet, tmp_path: Path) -> None:
    calls = []

    def backend(graph: Any, inputs: Any) -> Any:
        calls.append(len(inputs))
        return graph.forward

    compiled = Classifier(torch.compile(MLP([8]), backend=backend))
    trainer = quiet(max_epochs=1)
    trainer.fit(compiled, digits)
    assert calls
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    again = Classifier.load_from_checkpoint(tmp_path / "x.ckpt")
    images = digits.splits["val"][0][:5] / 255
    assert torch.equal(again(images), compiled.eval()(images))
    assert again.network.hidden_sizes == [8]
    quiet(max_epochs=2).fit(Classifier(torch.compile(MLP([8]), backend=backend)), digits, ckpt_path=tmp_path / "x.ckpt")


@pytest.mark.filterwarnings("ignore:Found 1 module")  # a frozen layer is meant
def test_a_loaded_classifier_trains_again_with_dropout_and_what_was_frozen_stays_frozen(
    digits: MNISTDataModule, quiet: Quiet, tmp_path: Path
) -> None:
    path = saved(Classifier(MLP([16, 8], dropout=0.5)), digits, quiet, tmp_path / "a.ckpt")
    model = Classifier.load_from_checkpoint(path)
    assert not model.training
    model.network.train().layers[2].eval()
    model.training = False
    quiet(max_epochs=1, limit_train_batches=1).fit(model, digits)
    assert all(layer.training for layer in model.network.layers)
    model.network.layers[2].eval()
    quiet(max_epochs=1, limit_train_batches=1).fit(model, digits)
    assert [layer.training for layer in model.network.layers].count(False) == 1


class Fixed(Classifier):
    """A subclass that creates its network itself."""

    def __init__(self, width: int = 16) -> None:
        super().__init__(MLP([width]))


class Wider(Classifier):
    def __init__(self, width: int = 16, **options: Any) -> None:
        super().__init__(**options)
        self.width = width


@pytest.mark.parametrize("kind", [Classifier, FastClassifier, Fixed, Wider])
def test_a_subclass_loads_a_checkpoint_and_so_do_lightnings_arguments(
    kind: type[Classifier], digits: MNISTDataModule, quiet: Quiet, tmp_path: Path
) -> None:
    path = saved(trained := small(), digits, quiet, tmp_path / "a.ckpt")
    options: dict[str, Any] = {"width": 16} if kind in (Fixed, Wider) else {}
    model = kind.load_from_checkpoint(path, "cpu", strict=True, weights_only=True, hparams_file=None, **options)
    assert type(model) is kind
    assert torch.equal(weights(model), weights(trained))
    loose = torch.load(path, weights_only=True)
    del loose["state_dict"]["network.layers.2.bias"]
    torch.save(loose, path)
    with pytest.raises(CheckpointError, match="its weights are of"):
        kind.load_from_checkpoint(path)
    kind.load_from_checkpoint(path, strict=False)


CHANGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "an unknown argument": lambda saved: saved["hyper_parameters"]["network"]["init_args"].update(more=1),
    "no arguments": lambda saved: saved["hyper_parameters"]["network"].pop("init_args"),
    "a list for the network": lambda saved: saved["hyper_parameters"].update(network=[1]),
    "a list for the hyperparameters": lambda saved: saved.update(hyper_parameters=[1, 2]),
    "a list for those of the data": lambda saved: saved.update(datamodule_hyper_parameters=[1]),
    "a list for the weights": lambda saved: saved.update(state_dict=[1]),
    "a number for the classes": lambda saved: saved.update(classes=3),
    "no epoch": lambda saved: saved.pop("epoch"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_checkpoint_of_another_form_gets_one_line(
    change: str, digits: MNISTDataModule, quiet: Quiet, tmp_path: Path
) -> None:
    path = saved(small(), digits, quiet, tmp_path / "a.ckpt")
    content = torch.load(path, weights_only=True)
    CHANGES[change](content)
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"a\.ckpt is not a checkpoint of a fit, or is damaged"):
        read_checkpoint(path)


def test_one_flipped_bit_in_the_weights_of_a_checkpoint_is_noticed(
    digits: MNISTDataModule, quiet: Quiet, tmp_path: Path
) -> None:
    path = saved(model := small(), digits, quiet, tmp_path / "a.ckpt")
    content = bytearray(path.read_bytes())
    content[content.index(model.network.layers[0].weight.detach().numpy().tobytes()[:64]) + 100] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"the checksum of .* does not match"):
        Classifier.load_from_checkpoint(path)


@pytest.mark.parametrize("name", ["loss", "accuracy"])
def test_a_metric_of_the_name_of_one_that_is_measured_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"^metrics: {name} is measured already"):
        Classifier(metrics={name: MulticlassF1Score(10)})


def test_a_summary_with_an_example_input_works(digits: MNISTDataModule, quiet: Quiet) -> None:
    model = small()
    model.example_input_array = torch.rand(2, 28, 28)
    quiet(max_epochs=1, limit_train_batches=1, enable_model_summary=True).fit(model, digits)


def test_a_network_that_is_compiled_in_place_is_saved_under_its_own_names(
    digits: MNISTDataModule, quiet: Quiet, tmp_path: Path
) -> None:
    calls: list[int] = []
    network = MLP([8])
    network.compile(backend=lambda graph, inputs: calls.append(len(inputs)) or graph.forward)
    path = saved(model := Classifier(network), digits, quiet, tmp_path / "x.ckpt")
    assert calls
    assert torch.equal(weights(Classifier.load_from_checkpoint(path)), weights(model))
