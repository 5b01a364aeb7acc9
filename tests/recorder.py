"""What a fit did, kept by a callback on disk, and the figures that follow from it in plain PyTorch."""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.nn import functional as F

from lit_mnist import MNISTDataModule
from lit_mnist.runs.checkpoints import validation_follows

Figures = dict[str, float]


class Recorder(Callback):
    """Keeps the weights and the batch of every training step, and the weights and the extent of every validation.

    Args:
        folder: Where a file for each of them goes.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def _keep(self, trainer: L.Trainer, module: L.LightningModule, kind: str, **more: Any) -> None:
        self.folder.mkdir(exist_ok=True)
        number = len(list(self.folder.glob(f"*_{trainer.global_rank}.pt")))
        kept = {"kind": kind, "epoch": trainer.current_epoch + 1, "step": trainer.global_step, **more}
        kept["weights"] = module.network.state_dict()  # type: ignore[union-attr, operator]
        torch.save(kept, self.folder / f"{number:05}_{trainer.global_rank}.pt")

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._keep(trainer, pl_module, "train", batch=batch)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.sanity_checking:
            batches = trainer.num_val_batches[0] * trainer.datamodule.eval_batch_size  # type: ignore[attr-defined]
            due = validation_follows(trainer)  # not by the end of the fit alone
            self._keep(trainer, pl_module, "val", images=batches, due=due, inside=not trainer.is_last_batch)


def figures_of(weights: dict[str, Tensor], pixels: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Losses (N,) and whether each answer is right (N,) of a network without dropout; pixels (N, 28, 28) in [0, 1]."""
    pixels = pixels.flatten(1)
    names = sorted({name.rpartition(".")[0] for name in weights}, key=lambda name: int(name.split(".")[1]))
    for name in names:
        pixels = pixels @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]
        if name != names[-1]:
            pixels = pixels.clamp(min=0)
    return F.cross_entropy(pixels, labels, reduction="none"), pixels.argmax(1) == labels


def mean_figures(stage: str, parts: list[tuple[Tensor, Tensor]]) -> Figures:
    """Mean loss and accuracy over all images of some parts."""
    losses, right = map(torch.cat, zip(*parts, strict=True))
    return {f"{stage}/loss": losses.double().mean().item(), f"{stage}/accuracy": right.double().mean().item()}


def split_figures(weights: dict[str, Tensor], split: str, count: int | None = None) -> Figures:
    """Figures of weights on the first so many digits of a split."""
    data = MNISTDataModule(dataset="digits")
    data.setup()
    images, labels = (part[:count] for part in data.images(split))  # type: ignore[arg-type]
    return mean_figures(split, [figures_of(weights, images.flatten(1) / 255, labels)])


def network_of(checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    """The weights of the network in a checkpoint."""
    return {
        name.removeprefix("network."): weight
        for name, weight in checkpoint["state_dict"].items()
        if name.startswith("network.")
    }


@dataclass
class Record:
    """What a fit did.

    Args:
        epochs: Figures of each epoch by its number: over its training steps, with the weights that each began with, and
            of its last validation where it has one.
        validations: The step of each validation and its figures.
        due: Figures of those that were due, and not brought by the end of the fit alone.
        images: Number of images that each epoch trained on.
        validated: Number of images of each validation, at most.
    """

    epochs: dict[int, Figures]
    validations: list[tuple[int, Figures]]
    due: list[Figures]
    images: dict[int, int]
    validated: int


def recorded(folder: Path) -> Record:
    """Compute what a Recorder kept, from all processes."""
    steps: defaultdict[int, list[tuple[Tensor, Tensor]]] = defaultdict(list)
    last: dict[int, Figures] = {}
    validations: list[tuple[int, Figures]] = []
    due: list[Figures] = []
    count = 0
    for path in sorted(folder.iterdir()):
        kept = torch.load(path, weights_only=True)
        if kept["kind"] == "train":
            steps[kept["epoch"]].append(figures_of(kept["weights"], *kept["batch"]))
        elif path.stem.endswith("_0"):
            count = kept["images"]
            figures = split_figures(kept["weights"], "val", count)
            validations.append((kept["step"], figures))
            due += [figures] if kept["due"] else []
            if kept["due"] or kept["inside"]:
                last[kept["epoch"]] = figures
    epochs = {epoch: {**mean_figures("train", parts), **last.get(epoch, {})} for epoch, parts in steps.items()}
    images = {epoch: sum(len(right) for _, right in parts) for epoch, parts in steps.items()}
    return Record(epochs, validations, due, images, count)
