"""What a test leaves: scores, confusion matrix, mistakes, calibration, and TensorBoard's views of them."""

import csv
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torchmetrics.functional import classification

from lit_mnist.atomic import write_whole
from lit_mnist.views import figures
from lit_mnist.views.dashboard import Part, leave_figure, show_hparams, writers


class Evaluation(Callback):
    """Collects the answers of a test and leaves what they show in the run folder and in TensorBoard.

    It writes test.json (checkpoint, data set, number of images, loss, accuracy and what else was measured, expected
    calibration error), per_class.csv (precision, recall, F1 and support of each class), confusion.png, mistakes.png
    (the 36 wrong answers of the highest probability) and calibration.png.

    Args:
        run: Folder for the files.
        checkpoint: What is tested, as test.json names it.
        skip: What to leave out.
    """

    def __init__(self, run: str | Path, checkpoint: str, skip: Collection[Part] = ()) -> None:
        self.run = Path(run).expanduser()
        self.checkpoint = checkpoint
        self.skip = frozenset(skip)
        self._batches: list[tuple[Tensor, Tensor]] = []
        self._embedded: Tensor | None = None  # (B, units), what reached the last linear layer called in the first batch
        self._hooks: list[Any] = []

    def on_test_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self._batches, self._embedded = [], None
        if "embedding" not in self.skip and writers(trainer):
            linear = [layer for layer in pl_module.network.modules() if isinstance(layer, nn.Linear)]
            self._hooks = [layer.register_forward_pre_hook(self._remember) for layer in linear]

    def _remember(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._last = inputs[0]

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._batches.append((outputs["logits"].float().softmax(1).cpu(), batch[1].cpu()))
        if self._hooks and batch_idx == 0:
            self._embedded = self._last[:2000].flatten(1).float().cpu()

    def on_test_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        for hook in self._hooks:
            hook.remove()
        probabilities, labels = _gather(self._batches, trainer.world_size)  # (N, C) float32, (N,) int64
        if not trainer.is_global_zero:
            return
        self.run.mkdir(parents=True, exist_ok=True)
        data: Any = getattr(trainer, "datamodule", None)
        classes: list[str] = pl_module.classes
        error = classification.multiclass_calibration_error(probabilities, labels, len(classes), n_bins=15).item()
        metrics = {name: value.item() for name, value in trainer.callback_metrics.items()}
        scores = {name.removeprefix("test/"): value for name, value in metrics.items()}
        tested = {"checkpoint": self.checkpoint, "dataset": getattr(data, "dataset", type(data).__name__)}
        with write_whole(self.run / "test.json") as part:
            content = {**tested, "images": len(labels), **scores, "calibration_error": error}
            part.write_text(json.dumps(content, indent=2) + "\n")
        self._write_per_class(probabilities, labels, classes)
        images = data.splits["test"][0][: len(labels)] if hasattr(data, "splits") else None
        self._draw(trainer, images, labels, probabilities, classes, error)
        for writer in writers(trainer):
            if "pr_curves" not in self.skip:
                for label, name in enumerate(classes):
                    writer.add_pr_curve(f"test/{name}", labels == label, probabilities[:, label], trainer.global_step)
            if self._embedded is not None and images is not None:
                share = slice(0, len(self._embedded) * trainer.world_size, trainer.world_size)  # that this process had
                names = [classes[label] for label in labels[share]]
                writer.add_embedding(self._embedded, names, images[share, None] / 255, tag="last_hidden_layer")
            if "hparams" not in self.skip:
                show_hparams(writer, self.run, metrics, trainer.global_step)

    def _write_per_class(self, probabilities: Tensor, labels: Tensor, classes: list[str]) -> None:
        measures = (
            classification.multiclass_precision,
            classification.multiclass_recall,
            classification.multiclass_f1_score,
        )
        scores = [measure(probabilities, labels, len(classes), average="none").tolist() for measure in measures]
        with write_whole(self.run / "per_class.csv") as part, part.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["class", "precision", "recall", "f1", "support"])
            for label, (name, *row) in enumerate(zip(classes, *scores, strict=True)):
                writer.writerow([name, *(f"{value:.4f}" for value in row), int((labels == label).sum())])

    def _draw(
        self,
        trainer: L.Trainer,
        images: Tensor | None,
        labels: Tensor,
        probabilities: Tensor,
        classes: list[str],
        error: float,
    ) -> None:
        highest, answers = probabilities.max(1)  # (N, C) -> (N,), (N,)
        right = answers == labels
        if "confusion" not in self.skip:
            matrix = classification.multiclass_confusion_matrix(probabilities, labels, len(classes))  # (C, C) int64
            leave_figure(trainer, figures.confusion(matrix, classes), self.run / "confusion.png")
        if "mistakes" not in self.skip and images is not None:
            order = highest.masked_fill(right, -1).argsort(descending=True)  # wrong answers first
            worst = order[: min(36, int((~right).sum()))]
            figure = figures.mistakes(images[worst], labels[worst], answers[worst], highest[worst], classes)
            leave_figure(trainer, figure, self.run / "mistakes.png")
        if "calibration" not in self.skip:
            leave_figure(trainer, figures.calibration(highest, right, error), self.run / "calibration.png")


def _gather(batches: list[tuple[Tensor, Tensor]], world_size: int) -> tuple[Tensor, Tensor]:
    """Probabilities (N, C) and labels (N,) of all images in file order, from the shares of all processes."""
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
