"""A fit of the program itself with all it does by default, timed from the first to the last training hook.

The figures alone are left out, which are drawn when training is over; startup.py times them.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import lightning.pytorch as L
from bench import fix_data_dir
from lightning.pytorch.callbacks import Callback

from lit_mnist import Classifier, MNISTDataModule
from lit_mnist.__main__ import main as lit_mnist

CONFIGS = Path(__file__).parent.parent / "configs"


class FitTimer(Callback):
    """Takes the seconds from on_train_start to on_train_end, and the last val loss."""

    result: dict[str, float] = {}  # noqa: RUF012

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.start = time.perf_counter()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        FitTimer.result["fit_seconds"] = time.perf_counter() - self.start
        FitTimer.result["val_loss"] = trainer.callback_metrics["val/loss"].item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("options", nargs="*", help="further arguments of fit, after --")
    options = parser.parse_args()
    fix_data_dir()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        sys.stdout.isatty = lambda: True  # type: ignore[method-assign]  # with the progress bar, as on a terminal
        fit = ["fit", "--config", str(CONFIGS / "mlp.yaml"), "--seed_everything", str(options.seed)]
        fit += ["--figures", "false", "--trainer.callbacks+", f"{__name__}.FitTimer"]
        lit_mnist(args=[*fit, *options.options])
        model = Classifier.load_from_checkpoint("lightning_logs/version_0/checkpoints/last.ckpt")
        trainer = L.Trainer(logger=False, enable_progress_bar=False, enable_model_summary=False)
        (metrics,) = trainer.test(model, MNISTDataModule(), verbose=False)
        print(json.dumps({**FitTimer.result, "test_accuracy": metrics["test/accuracy"]}))


if __name__ == "__main__":
    main()
