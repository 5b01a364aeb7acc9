"""Prediction of image files: the predict command and its function for Python."""

import csv
import json
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from lit_mnist.atomic import write_whole
from lit_mnist.checkpoint import CheckpointError
from lit_mnist.classifier import Classifier
from lit_mnist.data import rescale
from lit_mnist.errors import fail, print_error
from lit_mnist.image_files import ImageError, find_images, load_image, show_progress
from lit_mnist.runs.parts import load_classifier
from lit_mnist.use.images import preparation

BATCH = 2000 * 28 * 28  # pixels in a batch
ROWS = 50  # largest number of rows in the table on the terminal
COLUMNS = ("file", "class", "probability", "runner_up", "runner_up_probability")


@dataclass(frozen=True)
class Prediction:
    """Prediction for an image file: the probability of every class by name, the highest first."""

    file: Path
    probabilities: dict[str, float]

    @property
    def answer(self) -> str:
        """The predicted class."""
        return next(iter(self.probabilities))

    @property
    def row(self) -> tuple[str, str, float, str, float]:
        """File, class and its probability, the second most probable class and its probability."""
        (first, high), (second, low), *_ = self.probabilities.items()
        return str(self.file), first, high, second, low


def predict(
    images: list[str], ckpt_path: str = "best", output: str | None = None, network: nn.Module | None = None
) -> None:
    """Predict the class of each image file, such as its digit.

    PNG, JPEG, BMP, TIFF, WebP and GIF files of any size and colour are converted to the form of the training images. A
    file that cannot be read gives a line on stderr and exit status 1.

    Args:
        images: Image files, and folders, which are searched recursively for image files.
        ckpt_path: A checkpoint: its path, best or last of the newest run, or pretrained.
        output: Output file with one row per image; it ends in .csv or .jsonl (JSON Lines).
        network: Import path of your own network, needed if ckpt_path is the path of one of its checkpoints.
    """
    path = Path(output).expanduser() if output else None
    if path and (path.suffix.lower() not in (".csv", ".jsonl") or not path.parent.is_dir()):
        fail(f"--output: {output} does not end in .csv or .jsonl, or its folder does not exist")
    classifier, _ = load_classifier(ckpt_path, network)
    failures: list[ImageError] = []
    try:
        predictions = predict_images(classifier, images, failures.append)
    except ImageError as error:
        fail(error)
    for failure in failures:
        print_error(failure)
    if predictions:
        show(predictions, output)
        if path:
            save(predictions, classifier.classes, path)
    if failures:
        sys.exit(1)


def predict_images(
    classifier: Classifier, images: Iterable[str | Path], on_error: Callable[[ImageError], object] | None = None
) -> list[Prediction]:
    """Read image files, convert them to the form of the training images, and classify them.

    Args:
        classifier: Classifier, which is used in evaluation mode on its device.
        images: Files and folders, as for `find_images`.
        on_error: Called with an error for each file that cannot be used; None raises it.

    Returns:
        One prediction for each image, in the order of `find_images`.
    """
    prepare = preparation(classifier.dataset, classifier.image_shape)
    files, prepared = [], []
    found = find_images(images)
    for file in show_progress(found, len(found)):
        try:
            prepared.append(prepare(load_image(file)))  # image_shape, uint8
            files.append(file)
        except ImageError as error:
            line = ImageError(f"{file}: {error}")
            if on_error is None:
                raise line from error
            on_error(line)
    rows = probabilities_of(classifier, torch.stack(prepared)).tolist() if files else []  # -> (N, C)
    named = [zip(classifier.classes, row, strict=True) for row in rows]
    ordered = [dict(sorted(row, key=lambda item: -item[1])) for row in named]
    return [Prediction(file, row) for file, row in zip(files, ordered, strict=True)]


def probabilities_of(classifier: Classifier, images: Tensor) -> Tensor:
    """Probabilities of the classes, in evaluation mode: (N, *image_shape) uint8 -> (N, C) float32 on the CPU.

    Raises:
        CheckpointError: The logits are not finite, or not one per class.
    """
    classifier.eval()
    with torch.inference_mode():
        logits = torch.cat([classifier(rescale(batch.to(classifier.device))) for batch in batches(images)])
    if logits.shape[1] != len(classifier.classes) or not logits.isfinite().all():
        raise CheckpointError(f"the network must give a finite number for each of {len(classifier.classes)} classes")
    return logits.float().softmax(1).cpu()


def batches(images: Tensor) -> tuple[Tensor, ...]:
    """Split images (N, *image_shape) into batches that fit into the memory of any machine."""
    split: tuple[Tensor, ...] = images.split(max(1, BATCH // math.prod(images.shape[1:])))
    return split


def show(predictions: Sequence[Prediction], output: str | None) -> None:
    """Print a table of the predictions; of many, only the least certain ones."""
    from rich.console import Console
    from rich.table import Column, Table

    width = None if sys.stdout.isatty() else 1000  # no name is folded in a file or pipe
    console = Console(width=width, markup=False, emoji=False, highlight=False)  # names are printed as they are
    table = Table(Column("file", overflow="fold"), "class", "probability", "runner-up")
    many = len(predictions) > ROWS
    shown = sorted(predictions, key=lambda one: one.row[2])[:ROWS] if many else predictions
    for file, first, high, second, low in (one.row for one in shown):
        table.add_row(file, first, f"{high:.4f}", f"{second} ({low:.4f})")
    console.print(table)
    if many:
        where = f"{output} has" if output else "--output all.csv writes"
        print(f"the {ROWS} least certain of {len(predictions):,} files; {where} a row for each")


def save(predictions: Sequence[Prediction], classes: Sequence[str], path: Path) -> None:
    """Write the predictions to a CSV or JSON Lines file, atomically."""
    with write_whole(path) as part, part.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        if path.suffix.lower() == ".csv":
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow([*COLUMNS, *(f"p_{name}" for name in classes)])
            writer.writerows([*one.row, *map(one.probabilities.get, classes)] for one in predictions)
        else:
            for one in predictions:
                row = dict(zip(COLUMNS, one.row, strict=True)) | {"probabilities": one.probabilities}
                file.write(json.dumps(row) + "\n")
