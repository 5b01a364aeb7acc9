"""Image files in, classes out: the predict command, and the same from Python."""

import csv
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from lit_mnist.atomic import write_whole
from lit_mnist.classifier import CheckpointError, Classifier
from lit_mnist.data import rescale
from lit_mnist.errors import fail, print_error
from lit_mnist.runs.folder import find_checkpoint
from lit_mnist.use.image_files import ImageError, find_images, load_image
from lit_mnist.use.images import prepare

BATCH = 2000  # images that the network takes at once
ROWS = 50  # of the table on the terminal; of more files it shows a summary


@dataclass(frozen=True)
class Prediction:
    """What a classifier says of an image file."""

    file: Path
    answer: str  # name of the most probable class
    probability: float  # of the answer
    runner_up: str  # name of the second most probable class
    runner_up_probability: float
    probabilities: dict[str, float] = field(compare=False, repr=False)  # of every class, by its name


def predict(
    images: list[str], ckpt_path: str = "best", output: str | None = None, network: nn.Module | None = None
) -> None:
    """Say which digit, or other class, each image file shows.

    PNG, JPEG, BMP, TIFF, WebP and GIF files of any size and colour are made what MNIST's images are. A file that cannot
    be read gets a line of its own on stderr, and then the exit status is 1.

    Args:
        images: Image files, and folders, of which all image files are taken, those in folders inside them, too.
        ckpt_path: A checkpoint: its path, or best or last for the newest run.
        output: A file for all answers, one row per image, which ends in .csv or .jsonl (JSON Lines).
        network: The network of the checkpoint, where it is one of your own, by its import path.
    """
    path = Path(output).expanduser() if output else None
    if path and path.suffix.lower() not in (".csv", ".jsonl"):
        fail(f"--output: {output} does not end in .csv or .jsonl")
    if path and not path.parent.is_dir():
        fail(f"--output: there is no folder {path.parent}")
    classifier = Classifier.load_from_checkpoint(find_checkpoint(ckpt_path), network=network)
    failures = []

    def report(file: Path, error: ImageError) -> None:
        failures.append(file)
        print_error(f"{file}: {error}")

    try:
        found = find_images(images)
    except ImageError as error:
        fail(error)
    if path and path.resolve() in {file.resolve() for file in found}:
        fail(f"--output: {output} is one of the images")
    predictions = predict_images(classifier, found, report, show_progress=sys.stderr.isatty())
    if predictions:
        show(predictions, output)
    if path:
        save(predictions, path)
    if failures:
        sys.exit(1)


def predict_images(
    classifier: Classifier,
    images: Iterable[str | Path],
    on_error: Callable[[Path, ImageError], None] | None = None,
    show_progress: bool = False,
) -> list[Prediction]:
    """Read image files, prepare them as `lit_mnist.use.images.prepare` does, and classify them.

    Args:
        classifier: Used in evaluation mode, on the device where it is.
        images: Files and folders, as `find_images` takes them.
        on_error: Called with each file that cannot be used and why; None raises that.
        show_progress: Show a progress bar on stderr.

    Returns:
        One prediction for each image, in the order of `find_images`.

    Raises:
        ImageError: A file cannot be used; the message is one line that names it.
    """
    from rich.console import Console
    from rich.progress import track

    files, prepared = [], []
    found = find_images(images)
    for file in track(found, "reading", console=Console(stderr=True), transient=True, disable=not show_progress):
        try:
            prepared.append(prepare(load_image(file)))  # (28, 28) uint8
            files.append(file)
        except ImageError as error:
            if on_error is None:
                raise ImageError(f"{file}: {error}") from error
            on_error(file, error)
    rows = probabilities_of(classifier, torch.stack(prepared)).tolist() if files else []  # (N, 28, 28) -> (N, C)
    named = [dict(zip(classifier.classes, row, strict=True)) for row in rows]
    return [Prediction(file, *_two_best(one), one) for file, one in zip(files, named, strict=True)]


def probabilities_of(classifier: Classifier, images: Tensor) -> Tensor:
    """Probabilities of the classes, in evaluation mode: (N, 28, 28) uint8 -> (N, C) float32 on the CPU.

    Raises:
        CheckpointError: The answers are not numbers, or not one for each class.
    """
    classifier.eval()
    with torch.inference_mode():
        logits = torch.cat([classifier(rescale(batch.to(classifier.device))) for batch in images.split(BATCH)])
    if logits.shape[1] != len(classifier.classes) or not logits.isfinite().all():
        raise CheckpointError(f"the network does not give a number for each of {len(classifier.classes)} classes")
    return logits.float().softmax(1).cpu()


def _two_best(probabilities: dict[str, float]) -> tuple[str, float, str, float]:
    """The two most probable classes, each with its probability."""
    (first, high), (second, low) = sorted(probabilities.items(), key=lambda item: -item[1])[:2]
    return first, high, second, low


def show(predictions: Sequence[Prediction], output: str | None) -> None:
    """Print a table of the predictions, or of many a summary that says where all of them are."""
    from rich.console import Console
    from rich.table import Column, Table

    width = None if sys.stdout.isatty() else 1000  # in a file or pipe no name is folded
    console = Console(width=width, markup=False, emoji=False, highlight=False)  # names are shown as they are
    if len(predictions) <= ROWS:
        table = Table(Column("file", overflow="fold"), "class", "probability", "runner-up")
        for one in predictions:
            runner_up = f"{one.runner_up} ({one.runner_up_probability:.4f})"
            table.add_row(str(one.file), one.answer, f"{one.probability:.4f}", runner_up)
    else:
        least_certain = Column("least certain", overflow="fold")
        table = Table("class", Column("files", justify="right"), "mean probability", least_certain, "probability")
        for name in predictions[0].probabilities:
            if of_class := [one for one in predictions if one.answer == name]:
                mean = sum(one.probability for one in of_class) / len(of_class)
                least = min(of_class, key=lambda one: one.probability)
                table.add_row(name, f"{len(of_class):,}", f"{mean:.4f}", str(least.file), f"{least.probability:.4f}")
    console.print(table)
    if len(predictions) > ROWS:
        print(f"{len(predictions):,} files; a row for each is {f'in {output}' if output else 'with --output all.csv'}")


def save(predictions: Sequence[Prediction], path: Path) -> None:
    """Write the predictions to a CSV or JSON Lines file, whole or not at all."""
    with write_whole(path) as part, part.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        columns = ["file", "class", "probability", "runner_up", "runner_up_probability"]
        writer = csv.writer(file, lineterminator="\n")
        if path.suffix.lower() == ".csv":
            classes = predictions[0].probabilities if predictions else {}
            writer.writerow([*columns, *(f"p_{name}" for name in classes)])
        for one in predictions:
            values = [str(one.file), one.answer, one.probability, one.runner_up, one.runner_up_probability]
            if path.suffix.lower() == ".csv":
                writer.writerow([*values, *one.probabilities.values()])
            else:
                row = dict(zip(columns, values, strict=True)) | {"probabilities": one.probabilities}
                file.write(json.dumps(row) + "\n")
