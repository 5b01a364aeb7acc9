"""What a run folder holds, read as a folder from elsewhere has to be: each file bounded, plain and its own."""

import base64
import io
import json
import math
import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from lit_mnist.runs.folder import flat, read_metrics

LIMIT = 1_000_000  # bytes of a file, ten times what is usual
LIMIT_OF_OPTIONS = 100_000  # bytes that take YAML seconds
DEPTH = 20  # of lists and dicts inside each other


class RunError(Exception):
    """A run, or a picture of it, cannot be shown; the message is one line that says why."""


def read_options(run: Path) -> dict[str, Any]:
    """All options of the fit from config.yaml, flat: model.lr, trainer.max_epochs."""
    content = _content(run / "config.yaml", LIMIT_OF_OPTIONS)
    depth = 0
    for event in yaml.parse(content, yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEPTH or isinstance(event, yaml.AliasEvent):
            raise RunError(f"config.yaml has aliases, or values nested more than {DEPTH} deep")  # few can be billions
    return dict(flat(yaml.safe_load(content)))


def read_rows(run: Path) -> list[dict[str, float]]:
    """The rows of metrics.csv as `lit_mnist.runs.folder.read_metrics` gives them, of numbers that can be drawn."""
    _content(run / "metrics.csv")
    rows = read_metrics(run)
    epochs = [row["epoch"] for row in rows]
    if not all(first < second for first, second in pairwise([0, *epochs, 1e9])):
        raise RunError("the epochs in metrics.csv do not rise from row to row")
    if any(1e39 < abs(value) < math.inf for row in rows for value in row.values()):  # float32 ends before
        raise RunError("metrics.csv holds a number that is too large")
    return rows


def read_test(run: Path) -> dict[str, Any]:
    """What test.json holds, empty where the run was not tested."""
    path = run / "test.json"
    return dict(json.loads(_content(path))) if os.path.lexists(path) else {}


def read_picture(path: Path) -> str:
    """A PNG picture, base64."""
    content = _content(path)
    with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
        image.verify()
    return base64.b64encode(content).decode()


def _content(path: Path, limit: int = LIMIT) -> bytes:
    """The bytes of a file, unless it is a link, a device or too large to be of a run."""
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise RunError(f"{path.name} is a link or no file")
    if path.stat().st_size > limit:
        raise RunError(f"{path.name} is larger than {limit // 1000:,} kB")
    return path.read_bytes()
