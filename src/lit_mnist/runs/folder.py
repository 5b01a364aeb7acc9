"""Run folders: lightning_logs/version_N holds what one fit leaves, its config, checkpoints and metrics."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from lit_mnist.classifier import CheckpointError

LOGS = "lightning_logs"


def new_run(logs: Path) -> Path:
    """Create the next free version_N folder; two runs that start at once get two."""
    logs.mkdir(parents=True, exist_ok=True)
    number = max(map(_number, logs.glob("version_*")), default=-1) + 1
    while True:
        try:
            (run := logs / f"version_{number}").mkdir()
            return run
        except FileExistsError:
            number += 1


def find_checkpoint(name: str, logs: Path | str = LOGS) -> Path:
    """The file that ``best`` or ``last``, of the newest run in a folder of runs and no older one, or a path means."""
    if name not in ("best", "last"):
        if (path := Path(name).expanduser()).is_file():
            return path
        raise CheckpointError(f"{name} is no file; give the path of a checkpoint, or best or last for the newest run")
    fits = {path.parent for path in Path(logs).glob("version_*/checkpoints") if any(path.iterdir())}
    if not fits:
        raise CheckpointError(
            f"no run in {logs} has a checkpoint; train one with: python -m lit_mnist fit --config configs/mlp.yaml"
        )
    folder = max(fits, key=_number) / "checkpoints"
    if (path := folder / f"{name}.ckpt").is_file():
        return path
    others = ", ".join(sorted(path.name for path in folder.iterdir()))
    raise CheckpointError(f"the newest run, {folder.parent}, has no {name}.ckpt; it has {others}")


def run_of(checkpoint: Path) -> Path | None:
    """The run folder that a checkpoint lies in, at whatever depth, or None where it lies elsewhere."""
    folders = list(checkpoint.resolve().parents)[1:4]  # a name such as {epoch}-{val/loss:.3f} makes folders
    return next((folder for folder in folders if (folder / "config.yaml").is_file()), None)


def read_metrics(run: Path) -> list[dict[str, float]]:
    """The rows of a run's metrics.csv, one per epoch; what was not measured is not in a row."""
    path = run / "metrics.csv"
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]


def _number(run: Path) -> int:
    """The N of version_N, -1 for another name."""
    digits = run.name.removeprefix("version_")
    return int(digits) if digits.isdecimal() else -1


def read_options(run: Path) -> dict[str, Any]:
    """All options of a fit, from its config.yaml, by the names that the command line has for them; {} without one."""
    path = run / "config.yaml"
    return dict(flat(yaml.safe_load(path.read_text()))) if path.is_file() else {}


def flat(options: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested options as pairs of the name that the command line has for them and the value.

    {"network": {"class_path": "a.MLP", "init_args": {"dropout": 0.4}}} -> ("network", "MLP"), ("network.dropout", 0.4)
    """
    for name, value in options.items():
        if name == "class_path":
            yield prefix[:-1], str(value).rpartition(".")[2]
        elif isinstance(value, dict) and value:
            yield from flat(value, prefix if name == "init_args" else f"{prefix}{name}.")
        elif name != "init_args":
            yield prefix + name, value
