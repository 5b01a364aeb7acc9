"""What a test leaves: scores, confusion matrix, mistakes, calibration, and TensorBoard's views of them."""

import contextlib
import csv
import io
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torchmetrics.functional import classification

from lit_mnist.atomic import write_whole
from lit_mnist.classifier import Batch
from lit_mnist.data.module import rescale
from lit_mnist.views import figures
from lit_mnist.views.dashboard import leave_figure, writers

TestPart = Literal["confusion", "mistakes", "calibration", "pr_curves", "embedding"]


class Evaluation(Callback):
    """Collects the answers of a test and leaves what they show in the run folder and in TensorBoard.

    It writes test.json (checkpoint, data set, split, number of images, loss, accuracy, expected calibration error),
    per_class.csv (precision, recall, F1 and support of each digit), confusion.png, mistakes.png (the 36 wrong answers
    of the highest probability) and calibration.png.

    Args:
        run: Folder for the files.
        checkpoint: What is tested, as test.json names it.
        skip: What to leave out.
    """

    def __init__(self, run: Path, checkpoint: str, skip: Collection[TestPart] = ()) -> None:
        self.run = run
        self.checkpoint = checkpoint
        self.skip = frozenset(skip)
        self._batches: list[tuple[Tensor, Tensor]] = []

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._batches.append((outputs.float().cpu(), batch[1].cpu()))

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        probabilities, labels = _gather(self._batches, trainer.world_size)  # (N, 10) float32, (N,) int64
        if not trainer.is_global_zero or not probabilities.isfinite().all():  # which leaves nothing to show
            return
        images = trainer.datamodule.images("test")[0][: len(labels)]  # type: ignore[attr-defined]
        error = classification.multiclass_calibration_error(probabilities, labels, 10, n_bins=15).item()
        scores = {name.removeprefix("test/"): value.item() for name, value in trainer.callback_metrics.items()}
        tested = {"checkpoint": self.checkpoint, "dataset": trainer.datamodule.dataset, "split": "test"}  # type: ignore[attr-defined]
        self._write_json({**tested, "images": len(labels), **scores, "calibration_error": error})
        self._write_scores_per_digit(probabilities, labels)
        self._draw(trainer, images, labels, probabilities, error)
        for writer in writers(trainer):
            if "pr_curves" not in self.skip:
                step = trainer.fit_loop.epoch_loop._batches_that_stepped  # where Lightning logs
                for digit in range(10):
                    writer.add_pr_curve(f"test/{digit}", labels == digit, probabilities[:, digit], step)
            if "embedding" not in self.skip:
                _show_embedding(writer, pl_module, images[:2000], labels[:2000])

    def _write_json(self, values: dict[str, Any]) -> None:
        with write_whole(self.run / "test.json") as part:
            part.write_text(json.dumps(values, indent=2) + "\n")

    def _write_scores_per_digit(self, probabilities: Tensor, labels: Tensor) -> None:
        scores = [
            score(probabilities, labels, 10, average="none").tolist()
            for score in (
                classification.multiclass_precision,
                classification.multiclass_recall,
                classification.multiclass_f1_score,
            )
        ]
        with write_whole(self.run / "per_class.csv") as part, part.open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["digit", "precision", "recall", "f1", "support"])
            for digit, row in enumerate(zip(*scores, strict=True)):
                writer.writerow([digit, *(f"{value:.4f}" for value in row), int((labels == digit).sum())])

    def _draw(self, trainer: L.Trainer, images: Tensor, labels: Tensor, probabilities: Tensor, error: float) -> None:
        highest, digits = probabilities.max(1)  # (N, 10) -> (N,), (N,)
        right = digits == labels
        if "confusion" not in self.skip:
            matrix = classification.multiclass_confusion_matrix(probabilities, labels, 10)  # (10, 10) int64
            leave_figure(trainer, figures.confusion(matrix), self.run / "confusion.png")
        if "mistakes" not in self.skip:
            order = highest.masked_fill(right, -1).argsort(descending=True)  # wrong answers first
            worst = order[: min(36, int((~right).sum()))]
            figure = figures.mistakes(images[worst], labels[worst], digits[worst], highest[worst])
            leave_figure(trainer, figure, self.run / "mistakes.png")
        if "calibration" not in self.skip:
            leave_figure(trainer, figures.calibration(highest, right, error), self.run / "calibration.png")


def _show_embedding(writer: Any, module: L.LightningModule, images: Tensor, labels: Tensor) -> None:
    """Add what reaches the last linear layer, if any, from images (N, 28, 28) uint8 to TensorBoard's projector."""
    linear = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
    if not linear:
        return
    with torch.inference_mode():
        seen: list[Tensor] = []
        handle = linear[-1].register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0]))
        module(rescale(images.to(module.device), next(module.parameters()).dtype))
        handle.remove()
    activations = seen[-1].flatten(1).float().cpu()  # (N, units)
    sprites = images[:, None] / 255  # (N, 1, 28, 28) float32 in [0, 1]
    with contextlib.redirect_stdout(io.StringIO()):  # it says so where an earlier test's is replaced
        writer.add_embedding(activations, labels.tolist(), sprites, tag="last_hidden_layer")


def _gather(batches: list[tuple[Tensor, Tensor]], world_size: int) -> tuple[Tensor, Tensor]:
    """Probabilities (N, 10) and labels (N,) of all images in file order, from the shares of all processes."""
    shares: list[Any] = [batches]
    if world_size > 1:
        shares = [None] * world_size
        torch.distributed.all_gather_object(shares, batches)
    whole = [[_interleave(list(parts)) for parts in zip(*batch, strict=True)] for batch in zip(*shares, strict=True)]
    probabilities, labels = zip(*whole, strict=True)
    return torch.cat(probabilities), torch.cat(labels)


def _interleave(shares: list[Tensor]) -> Tensor:
    """Undo the dealing of a batch, of which process r got every world_size-th image from r on."""
    whole = shares[0].new_empty(sum(map(len, shares)), *shares[0].shape[1:])
    for rank, share in enumerate(shares):
        whole[rank :: len(shares)] = share
    return whole
