"""Image files in, digits out: the predict command, and the same from Python."""

import csv
import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor

from lit_mnist.atomic import part_of, write_whole
from lit_mnist.checkpoint import CheckpointError
from lit_mnist.classifier import Classifier
from lit_mnist.data.module import rescale
from lit_mnist.errors import fail, print_error, printable
from lit_mnist.runs.folder import LOGS, find_checkpoint
from lit_mnist.use.image_files import SUFFIXES, ImageError, load_image
from lit_mnist.use.images import prepare

BATCH = 2000  # images that the network takes at once
ROWS = 50  # of the table on the terminal; of more files it shows a summary

OnError = Callable[[Path, ImageError], None]


@dataclass(frozen=True)
class Prediction:
    """What a classifier says of an image file."""

    file: Path
    digit: int
    probability: float  # of the digit
    runner_up: int  # the second most probable digit
    runner_up_probability: float
    probabilities: Tensor = field(compare=False, repr=False)  # (10,) float32, on the CPU


def predict(images: list[str], ckpt_path: str = "best", output: str | None = None) -> None:
    """Say which digit each image file shows.

    PNG, JPEG, BMP, TIFF, WebP and GIF files of any size and colour are made what MNIST's images are. A file that cannot
    be read gets a line of its own on stderr, and then the exit status is 1.

    Args:
        images: Image files, and folders, of which all image files are taken, those in folders inside them, too.
        ckpt_path: A checkpoint: its path, or best or last for the newest run.
        output: A file for all answers, one row per image, which ends in .csv or .jsonl (JSON Lines).

    Raises:
        CheckpointError: There is no such checkpoint, or it cannot be used.
        OSError: The file cannot be written.
    """
    if output and Path(output).suffix.lower() not in (".csv", ".jsonl"):
        fail(f"--output: {output} does not end in .csv or .jsonl")
    if output and not Path(output).parent.is_dir():
        fail(f"--output: there is no folder {Path(output).parent}")
    if output and Path(output).exists() and not Path(output).is_file():
        fail(f"--output: {output} is a folder, a pipe, a socket or a device, and no file")
    checkpoint = find_checkpoint(ckpt_path, Path(LOGS))
    failed = 0

    def report(file: Path, error: ImageError) -> None:
        nonlocal failed
        failed += 1
        print_error(f"{file}: {error}")

    found = find_images(images, report)
    if output and (same := first_same([checkpoint, *found], Path(output))):
        fail(f"--output: {output} would be written over {same}, which is to be read")
    classifier = Classifier.load_from_checkpoint(checkpoint)
    predictions = predict_images(classifier, found, report, show_progress=sys.stderr.isatty())
    if predictions:
        show(predictions, output)
    if output:
        save(predictions, Path(output))
    if failed:
        sys.exit(1)


def first_same(inputs: Iterable[Path], output: Path) -> Path | None:
    """The first of the inputs that writing the output would change: the same file under whatever name."""
    written = [path for path in (output, part_of(output)) if path.exists()]
    existing = (path for path in inputs if written and os.access(path, os.F_OK))
    return next((path for path in existing if any(path.samefile(one) for one in written)), None)


def stop(file: Path, error: ImageError) -> NoReturn:
    """Raise the error with the name of the file in its message."""
    raise ImageError(f"{file}: {error}") from error


def predict_images(
    classifier: Classifier,
    images: Iterable[str | Path],
    on_error: OnError = stop,
    show_progress: bool = False,
) -> list[Prediction]:
    """Read image files, prepare them as `lit_mnist.use.images.prepare` does, and classify them.

    Args:
        classifier: Used in evaluation mode, on the device where it is.
        images: Files and folders, as `find_images` takes them.
        on_error: Called with each file that cannot be used and why; by default it raises that.
        show_progress: Show a progress bar on stderr.

    Returns:
        One prediction for each image, in the order of `find_images`.

    Raises:
        ImageError: A file cannot be used; the message is one line that names it.
    """
    from rich.console import Console
    from rich.progress import track

    files, prepared = [], []
    found = find_images(images, on_error)
    for file in track(found, "reading", console=Console(stderr=True), transient=True, disable=not show_progress):
        try:
            prepared.append(prepare(load_image(file)))  # (28, 28) uint8
        except ImageError as error:
            on_error(file, error)
        else:
            files.append(file)
    if not files:
        return []
    was_training = classifier.training
    classifier.eval()
    with torch.inference_mode():
        batches = torch.stack(prepared).split(BATCH)  # (N, 28, 28) -> (B, 28, 28) each
        logits = torch.cat([classifier(rescale(batch.to(classifier.device))) for batch in batches])
        probabilities = logits.softmax(1).float().cpu()  # (N, 10)
    if not probabilities.isfinite().all():
        raise CheckpointError("the answers of the model are not numbers: its training diverged")
    classifier.train(was_training)
    highest, digits = (two.tolist() for two in probabilities.topk(2))  # (N, 2) each
    return [
        Prediction(file, digit, high, runner_up, second, row)
        for file, (digit, runner_up), (high, second), row in zip(files, digits, highest, probabilities, strict=True)
    ]


def find_images(images: Iterable[str | Path], on_error: OnError = stop) -> list[Path]:
    """The files that are meant by files and folders, each once, in the order given and sorted within a folder.

    Args:
        images: A file is taken whatever its name. Of a folder and the folders in it those files are taken whose
            suffix is one of an image, without hidden ones and hidden folders.
        on_error: Called with each folder that holds no image or cannot be read, and why.
    """
    found: dict[Path, Path] = {}  # by absolute path
    for path in map(Path, images):
        inside = _inside(path, on_error) if _is_folder(path) else [path]
        found |= {file.absolute(): file for file in inside if file.absolute() not in found}
    return list(found.values())


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # which opening it will report
        return False


def _inside(folder: Path, on_error: OnError) -> list[Path]:
    """The image files in a folder and its folders, sorted."""
    failures: list[OSError] = []
    files = []
    for where, folders, names in os.walk(folder, onerror=failures.append):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths = [Path(where, name) for name in names if not name.startswith(".")]
        files += [path for path in paths if path.suffix.lower() in SUFFIXES]
    for failure in failures:
        on_error(Path(failure.filename), ImageError(failure.strerror or str(failure)))
    if not files and not failures:
        on_error(folder, ImageError(f"there is no image in this folder: {', '.join(sorted(SUFFIXES))}"))
    return sorted(files)


def show(predictions: Sequence[Prediction], output: str | None) -> None:
    """Print a table of the predictions, or of many a summary that says where all of them are."""
    from rich.console import Console
    from rich.table import Column, Table

    width = None if sys.stdout.isatty() else 1000  # in a file or pipe no name is folded
    console = Console(width=width, markup=False, emoji=False, highlight=False)  # names are shown as they are
    if len(predictions) <= ROWS:
        table = Table(Column("file", overflow="fold"), "digit", "probability", "runner-up")
        for one in predictions:
            runner_up = f"{one.runner_up} ({one.runner_up_probability:.4f})"
            table.add_row(printable(one.file), str(one.digit), f"{one.probability:.4f}", runner_up)
    else:
        least_certain = Column("least certain", overflow="fold")
        table = Table("digit", Column("files", justify="right"), "mean probability", least_certain, "probability")
        for digit in range(10):
            if of_digit := [one for one in predictions if one.digit == digit]:
                mean = sum(one.probability for one in of_digit) / len(of_digit)
                least = min(of_digit, key=lambda one: one.probability)
                count = f"{len(of_digit):,}"
                table.add_row(str(digit), count, f"{mean:.4f}", printable(least.file), f"{least.probability:.4f}")
    console.print(table)
    if len(predictions) > ROWS:
        where = f"in {printable(output)}" if output else "with --output predictions.csv"
        print(f"{len(predictions):,} files; a row for each is {where}")


def save(predictions: Sequence[Prediction], path: Path) -> None:
    """Write the predictions to a CSV or JSON Lines file.

    Raises:
        OSError: The file cannot be written; one of that name from before is as it was.
    """
    with write_whole(path) as part, part.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        columns = ["file", "digit", "probability", "runner_up", "runner_up_probability"]
        writer = csv.writer(file, lineterminator="\n")
        if path.suffix.lower() == ".csv":
            writer.writerow([*columns, *(f"p{digit}" for digit in range(10))])
        for one in predictions:
            values = [str(one.file), one.digit, one.probability, one.runner_up, one.runner_up_probability]
            probabilities = one.probabilities.tolist()
            if path.suffix.lower() == ".csv":
                writer.writerow([*values, *probabilities])
            else:
                row = dict(zip(columns, values, strict=True)) | {"probabilities": probabilities}
                file.write(json.dumps(row) + "\n")
