"""The fast path: the same weights and figures in fewer calls, and one line for what it cannot do."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from conftest import DIGITS, ROOT, Cli
from torch import Tensor, nn
from torch.optim import SGD, Adam

from lit_mnist import CNN, MLP, MNISTDataModule
from lit_mnist.fast import FastClassifier
from lit_mnist.runs.callbacks import run_callbacks
from lit_mnist.runs.folder import read_metrics

Quiet = Callable[..., L.Trainer]


class Frozen(nn.Module):
    """A network with a body that does not train, and a layer that is not called."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.unused, self.head = nn.Linear(784, 16), nn.Linear(3, 3), nn.Linear(16, 10)
        self.body.requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images.flatten(1)).relu())


CASES: dict[str, dict[str, Any]] = {
    "recipe": {"network": partial(MLP, [32, 16], dropout=[0.4, 0.3])},
    "batch norm, Adam": {"network": partial(CNN, 2), "optimizer": Adam},
    "weight decay of frozen and unused parts": {
        "network": Frozen,
        "optimizer": partial(SGD, lr=0.1, weight_decay=0.01),
    },
}


@pytest.mark.parametrize("steps", [5, 25, 1000])
@pytest.mark.parametrize("case", CASES)
def test_weights_and_figures_are_those_of_the_default_path(
    case: str, steps: int, digits: MNISTDataModule, quiet: Quiet, tmp_path: Path
) -> None:
    results = []
    for steps_per_execution in (1, steps):
        L.seed_everything(4, verbose=False)
        options = {**CASES[case], "network": CASES[case]["network"]()}
        digits.batch_size = 32
        run = tmp_path / str(steps_per_execution)
        trainer = quiet(max_epochs=3, callbacks=run_callbacks(run, show=False))
        trainer.fit(FastClassifier(steps_per_execution=steps_per_execution, **options), digits)
        assert trainer.global_step == 108
        results.append((torch.load(run / "checkpoints/best.ckpt", weights_only=True)["state_dict"], read_metrics(run)))
    (weights, rows), (fast, fast_rows) = results
    assert all(torch.equal(a, b) for a, b in zip(weights.values(), fast.values(), strict=True))
    for row, other in zip(rows, fast_rows, strict=True):
        assert {**other, "seconds": 0} == pytest.approx({**row, "seconds": 0}, rel=1e-5)


def test_it_goes_on_exactly(cli: Cli, tmp_path: Path) -> None:
    layers = ("--config", ROOT / "configs/mlp.yaml", *DIGITS, "--config", ROOT / "configs/fast.yaml")
    cli("fit", *layers, "--trainer.max_epochs", 3, "--model.network.dropout", 0.2).worked()
    cli("fit", *layers, "--trainer.max_epochs", 2, "--model.network.dropout", 0.2).worked()
    cli("fit", "--ckpt_path", "last", "--trainer.max_epochs", 3).worked()
    paths = [tmp_path / f"lightning_logs/version_{number}/checkpoints/last.ckpt" for number in (0, 1)]
    first, second = (torch.load(path, weights_only=True)["state_dict"] for path in paths)
    assert all(torch.equal(a, b) for a, b in zip(first.values(), second.values(), strict=True))


@pytest.mark.parametrize(
    "options",
    [
        "--trainer.max_steps 10",
        "--trainer.limit_train_batches 3",
        "--trainer.limit_train_batches 0.5",
        "--trainer.overfit_batches 1",
        "--trainer.accumulate_grad_batches 2",
        "--trainer.gradient_clip_val 1",
        "--trainer.val_check_interval 0.5",
        "--trainer.max_time 00:00:01:00",
        "--trainer.callbacks+=EMAWeightAveraging",
        '--trainer.callbacks+=GradientAccumulationScheduler --trainer.callbacks.scheduling {"1":2}',
        "--data.augment torch.nn.Identity",
        "--model.lr_scheduler OneCycleLR --model.lr_scheduler.max_lr 0.01",
    ],
)
def test_what_needs_each_step_on_its_own_is_refused_in_one_line(options: str, cli: Cli, tmp_path: Path) -> None:
    done = cli(
        "fit",
        *DIGITS,
        "--model",
        "FastClassifier",
        "--model.steps_per_execution",
        5,
        *options.split(),
        "--trainer.enable_model_summary",
        "false",
    )
    done.refused()
    assert not list(tmp_path.glob("lightning_logs/*"))


@pytest.mark.parametrize(
    ("option", "named"),
    [
        ("--model.optimizer LBFGS", "LBFGS"),
        ("--trainer.gradient_clip_val 0.5", "--trainer.gradient_clip_val"),
        ("--trainer.accumulate_grad_batches 2", "--trainer.accumulate_grad_batches"),
    ],
)
def test_what_lightning_would_refuse_as_manual_optimization_is_named(option: str, named: str, cli: Cli) -> None:
    done = cli("fit", *DIGITS, "--model", "FastClassifier", "--model.steps_per_execution", 5, *option.split())
    done.refused(f"--model.steps_per_execution: 5 cannot be used with {named}")
