"""Checks before the first step of a fit, and their messages."""

from collections.abc import Callable
from functools import partial
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from conftest import Cli
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, ReduceLROnPlateau, StepLR
from torchmetrics.classification import MulticlassConfusionMatrix, MulticlassF1Score

from lit_mnist import CNN, MLP, Classifier, MNISTDataModule
from lit_mnist.classifier import ModelError
from lit_mnist.data import DataError
from lit_mnist.runs.checks import FitCheck

Quiet = Callable[..., L.Trainer]


@pytest.fixture
def fit(quiet: Quiet) -> Callable[..., None]:
    """Fit a classifier for one batch of an epoch, with the checks alone."""

    def run(network: nn.Module | None = None, size: int = 32, **options: Any) -> None:
        limits = {
            name: options.pop(name) for name in ("precision", "max_epochs", "limit_train_batches") if name in options
        }
        trainer = quiet(**{"max_epochs": 1, "limit_train_batches": 1, "callbacks": [FitCheck()], **limits})
        trainer.fit(Classifier(network or MLP([16]), **options), MNISTDataModule("digits", batch_size=size))

    return run


class Form(nn.Module):
    """pytorch/examples' form: (B, 1, 28, 28) alone."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.linear = nn.Conv2d(1, 2, 28), nn.Linear(2, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.linear(self.convolution(images).flatten(1))


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "softmax": ({"network": nn.Sequential(MLP([16]), nn.Softmax(1))}, "network: it returns probabilities"),
    "NLLLoss": ({"loss": nn.NLLLoss()}, "loss: NLLLoss needs log-probabilities, but the network returns logits"),
    "smoothing": ({"loss": nn.CrossEntropyLoss(label_smoothing=7)}, "loss: CrossEntropyLoss: label_smoothing must be"),
    "no mean": (
        {"loss": nn.CrossEntropyLoss(reduction="none")},
        r"loss: CrossEntropyLoss returns \(32,\), not one number",
    ),
    "form": ({"network": Form()}, r"network: Form does not accept images \(B, 28, 28\)"),
    "classes": ({"network": MLP([16], num_classes=9)}, r"network: it returns \(32, 9\), not logits \(32, 10\)"),
    "classes of a metric": (
        {"metrics": {"f1": MulticlassF1Score(9)}},
        "metrics: f1: If `preds` have",
    ),
    "many numbers": (
        {"metrics": {"f1": MulticlassF1Score(10, average=None)}},
        "metrics: f1 does not return a tensor of one number",
    ),
    "a matrix": (
        {"metrics": {"cm": MulticlassConfusionMatrix(10)}},
        "metrics: cm does not return a tensor of one number",
    ),
    "worst": ({"lr_scheduler": partial(ReduceLROnPlateau, mode="max")}, "lr_scheduler.mode: max treats"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused_before_the_first_step(name: str, fit: Callable[..., None]) -> None:
    options, words = REFUSED[name]
    with pytest.raises(ModelError, match=f"^{words}"):
        fit(**options)


def test_what_fits_is_taken(fit: Callable[..., None]) -> None:
    fit(nn.Sequential(MLP([16]), nn.LogSoftmax(1)), loss=nn.NLLLoss())
    fit(CNN(2), metrics={"f1": MulticlassF1Score(10)}, lr_scheduler=ReduceLROnPlateau)
    for precision in ("64-true", "bf16-true", "bf16-mixed"):
        fit(loss=nn.CrossEntropyLoss(weight=torch.ones(10)), precision=precision)
    hooked = Form()
    hooked.register_forward_pre_hook(lambda _, inputs: (inputs[0][:, None],))
    fit(hooked)
    constant = MLP([16])
    nn.init.zeros_(constant.layers[-1].weight)
    nn.init.constant_(constant.layers[-1].bias, 0.1)
    fit(constant)


@pytest.mark.filterwarnings("ignore:Found 1 module")  # a frozen layer is meant
def test_the_checks_change_neither_weights_nor_modes(digits: MNISTDataModule, quiet: Quiet) -> None:
    results = []
    for callbacks in ([], [FitCheck()]):
        torch.manual_seed(1)
        model = Classifier(MLP([16], batch_norm=True))
        model.network.layers[1].eval()  # frozen by the user
        quiet(max_epochs=1, callbacks=callbacks).fit(model, digits)
        assert not model.network.layers[1].training
        results.append(model.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(results[0].values(), results[1].values(), strict=True))


@pytest.mark.filterwarnings("ignore:Found 1 module")  # a frozen layer is meant
def test_a_batch_of_one_image_is_refused_where_batch_norm_would_fail(fit: Callable[..., None]) -> None:
    whole = {"limit_train_batches": 1.0}  # 1,151 = 23 * 50 + 1 images
    with pytest.raises(DataError, match=r"^batch_size: 50 leaves a batch of one image"):
        fit(MLP([16], batch_norm=True), size=50, **whole)
    fit(MLP([16]), size=50, **whole)
    fit(CNN(2), size=50, **whole)
    fit(MLP([16], batch_norm=True), size=50, limit_train_batches=3)
    frozen = MLP([16], batch_norm=True)
    frozen.layers[1].eval()
    fit(frozen, size=50, **whole)


def test_a_schedule_that_ends_before_the_fit_gets_a_line(
    fit: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    cosine = partial(CosineAnnealingLR, T_max=2)
    fit(lr_scheduler=cosine, max_epochs=3)
    assert "--model.lr_scheduler.T_max: lr rises again after 2 of 3 epochs; set it to 3" in capsys.readouterr().err
    fit(lr_scheduler=cosine, max_epochs=2)
    assert capsys.readouterr().err == ""


def test_a_schedule_without_an_end_of_the_fit_is_refused(cli: Cli) -> None:
    endless = ("--trainer.max_epochs", -1, "--trainer.max_time", "00:00:00:03", "--data.dataset", "digits")
    one_cycle = ("--model.lr_scheduler", "OneCycleLR", "--model.lr_scheduler.max_lr", 0.1)
    cli("fit", *endless, *one_cycle).refused("--model.lr_scheduler: it needs total_steps, --trainer.max_epochs")


def test_a_schedule_of_period_0_is_refused(fit: Callable[..., None]) -> None:
    with pytest.raises(ModelError, match=r"^lr_scheduler.step_size: 0 is not at least 1"):
        fit(lr_scheduler=partial(StepLR, step_size=0))


def test_bfloat16_on_a_processor_without_it_gets_a_line(
    fit: Callable[..., None], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, told in (("avx512_vnni", True), ("avx512_bf16", False)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda name=name: {name: True, "amx_bf16": False})
        fit(precision="bf16-mixed")
        assert ("--trainer.precision bf16-mixed: this processor has no bfloat16" in capsys.readouterr().err) == told
        fit()
        assert capsys.readouterr().err == ""
