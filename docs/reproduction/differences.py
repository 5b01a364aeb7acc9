"""Measures what each of the tutorial's choices changes: mlp.yaml with PyTorch's usual choice in its place."""

import csv
import sys
from pathlib import Path

import lightning.pytorch as L
import numpy as np
import torch
from torch import nn
from torch.optim import RMSprop

from lit_mnist import MLP, Classifier, MNISTDataModule

FILE = Path(__file__).with_name("differences.csv")
VARIANTS = (
    "as the tutorial",
    "PyTorch's first weights",
    "PyTorch's alpha and eps",
    "PyTorch's RMSprop",
    "random split",
)


class RandomSplit(MNISTDataModule):
    """Holds out 12,000 images by chance, not the last ones."""

    def setup(self, stage: str | None = None) -> None:
        new = "train" not in self.splits
        super().setup(stage)
        if new and "train" in self.splits:
            (images, labels), (val_images, val_labels) = self.splits["train"], self.splits["val"]
            order = torch.randperm(60_000, generator=torch.Generator().manual_seed(1))
            images, labels = torch.cat([images, val_images])[order], torch.cat([labels, val_labels])[order]
            self.splits["train"], self.splits["val"] = (
                (images[:-12_000], labels[:-12_000]),
                (images[-12_000:], labels[-12_000:]),
            )


def run(variant: str, seed: int) -> dict[str, float]:
    """Fit for 10 epochs and test."""
    L.seed_everything(seed, verbose=False)
    network = MLP()
    if variant == "PyTorch's first weights":
        for layer in network.layers:
            if isinstance(layer, nn.Linear):
                layer.reset_parameters()
    options = {
        "PyTorch's alpha and eps": {"optimizer": lambda parameters: RMSprop(parameters, lr=1e-3)},
        "PyTorch's RMSprop": {"optimizer": RMSprop},
    }
    model = Classifier(network, **options.get(variant, {}))
    data = RandomSplit() if variant == "random split" else MNISTDataModule()
    trainer = L.Trainer(
        max_epochs=10,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        accelerator="cpu",
    )
    trainer.fit(model, data)
    found = {name: value.item() for name, value in trainer.callback_metrics.items()}
    data.splits["test"] = data.splits["train"]
    (after,) = trainer.test(model, data, verbose=False)
    found |= {name.replace("test/", "train/after_the_epoch_"): value for name, value in after.items()}
    del data.splits["test"]
    (tested,) = trainer.test(model, data, verbose=False)
    return found | tested


def table() -> str:
    """Mean and standard deviation over the seeds, as Markdown."""
    with FILE.open(newline="") as file:
        rows = list(csv.DictReader(file))
    columns = ("test/accuracy", "test/loss", "val/accuracy", "val/loss")
    lines = ["| choice | n | test accuracy, % | test loss | val accuracy, % | val loss |", "|---" * 6 + "|"]
    for variant in VARIANTS:
        samples = [np.array([float(row[name]) for row in rows if row["variant"] == variant]) for name in columns]
        percents = [f"{100 * sample.mean():.2f} ± {100 * sample.std(ddof=1):.2f}" for sample in samples[::2]]
        losses = [f"{sample.mean():.4f} ± {sample.std(ddof=1):.4f}" for sample in samples[1::2]]
        cells = [percents[0], losses[0], percents[1], losses[1]]
        lines.append(f"| {variant} | {len(samples[0])} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    for seed in range(int(sys.argv[1])):
        for variant in VARIANTS:
            row = {"variant": variant, "seed": seed, **run(variant, seed)}
            with FILE.open("a", newline="") as file:
                writer = csv.DictWriter(file, row, lineterminator="\n")
                if not file.tell():
                    writer.writeheader()
                writer.writerow(row)
    print(table())
