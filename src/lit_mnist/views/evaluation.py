"""Results of a test: scores, confusion matrix, mistakes and calibration."""

import csv
import json
from itertools import chain
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torchmetrics.functional import classification

from lit_mnist.atomic import write_whole
from lit_mnist.classifier import Classifier
from lit_mnist.data import name_of
from lit_mnist.views import figures
from lit_mnist.views.dashboard import leave_figure


class Evaluation(Callback):
    """Collects the predictions of a test, and writes scores and figures to the run folder and TensorBoard.

    Scores: test.json (checkpoint, data set, number of images, metrics, expected calibration error) and per_class.csv
    (precision, recall, F1 and support of each class). Predictions: probabilities.npz (probabilities (N, C) float16,
    labels (N,) int64). With `draw`, figures: confusion.png, calibration.png, and mistakes.png, the 36 most probable
    wrong predictions.
    """

    def __init__(self, run: str | Path, tested: dict[str, Any], draw: bool = True) -> None:
        self.run, self.draw = Path(run).expanduser(), draw
        self.tested = tested  # name, epoch and global step of the checkpoint
        # (B, *image_shape) uint8, (B, C) probabilities, (B,) labels
        self._batches: list[tuple[Tensor, Tensor, Tensor]] = []

    def on_test_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self._batches = []

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if not isinstance(pl_module, Classifier):
            return
        images, labels = (batch[0] * 255).round().to(torch.uint8), batch[1]
        self._batches.append((images.cpu(), outputs["logits"].float().softmax(1).cpu(), labels.cpu()))

    def on_test_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        shares: list[Any] = [self._batches]
        if trainer.world_size > 1:
            shares = [None] * trainer.world_size
            torch.distributed.all_gather_object(shares, self._batches)
        if not trainer.is_global_zero:
            return
        self.run.mkdir(parents=True, exist_ok=True)
        scores = {name.removeprefix("test/"): value.item() for name, value in trainer.callback_metrics.items()}
        tested = self.tested | {"dataset": name_of(getattr(trainer, "datamodule", None))}
        if not isinstance(pl_module, Classifier):
            return self._write_scores(tested | scores)
        classes: list[str] = pl_module.classes
        images, probabilities, labels = (torch.cat(part) for part in zip(*chain(*shares), strict=True))  # N in all
        highest, predicted = probabilities.max(1)  # (N, C) -> (N,), (N,)
        right = predicted == labels
        error = classification.multiclass_calibration_error(probabilities, labels, len(classes), n_bins=15).item()
        self._write_scores({**tested, "images": len(labels), **scores, "calibration_error": error})
        self._write_per_class(labels, predicted, classes)
        with write_whole(self.run / "probabilities.npz") as part, part.open("wb") as file:
            np.savez(file, probabilities=probabilities.half().numpy(), labels=labels.numpy())
        if not self.draw:
            return
        matrix = classification.multiclass_confusion_matrix(probabilities, labels, len(classes))  # (C, C) int64
        leave_figure(trainer, figures.confusion(matrix, classes), self.run / "confusion.png")
        order = highest.masked_fill(right, -1).argsort(descending=True)  # wrong ones first
        wrong = int((~right).sum())
        worst, title = order[: min(36, wrong)], f"{wrong:,} of {len(labels):,} wrong{', the 36 surest' * (wrong > 36)}"
        shown = figures.mistakes(images[worst], labels[worst], predicted[worst], highest[worst], classes, title)
        leave_figure(trainer, shown, self.run / "mistakes.png")
        leave_figure(trainer, figures.calibration(highest, right, error), self.run / "calibration.png")

    def _write_scores(self, content: dict[str, Any]) -> None:
        with write_whole(self.run / "test.json") as part:
            part.write_text(json.dumps(content, indent=2) + "\n")

    def _write_per_class(self, labels: Tensor, predicted: Tensor, classes: list[str]) -> None:
        from sklearn.metrics import precision_recall_fscore_support

        scores = precision_recall_fscore_support(labels, predicted, labels=range(len(classes)), zero_division=0)
        with write_whole(self.run / "per_class.csv") as part, part.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["class", "precision", "recall", "f1", "support"])
            for name, *shares, support in zip(classes, *scores, strict=True):
                writer.writerow([name, *(f"{share:.4f}" for share in shares), support])
