"""Run folders: lightning_logs/version_N holds what one fit leaves, its config, checkpoints and metrics."""

import csv
import sys
from collections.abc import Iterator, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from lit_mnist.checkpoint import CheckpointError

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


def run_of(checkpoint: Path) -> Path | None:
    """The run folder that a checkpoint lies in, or None where it lies elsewhere."""
    run = checkpoint.resolve().parent.parent
    return run if (run / "config.yaml").is_file() else None


class _NothingFrom(MetaPathFinder):
    """Finds no module itself, and refuses those that lie in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        spec = PathFinder.find_spec(name, path)
        if spec and spec.has_location and Path(str(spec.origin)).resolve().is_relative_to(self.folder):
            raise ImportError(f"{spec.origin} lies in a run folder, from which nothing is imported")


def refuse_imports_from(run: Path) -> None:
    """Keep this process from importing what lies in a run folder, whatever its config.yaml names."""
    sys.meta_path.insert(0, _NothingFrom(run))


def read_metrics(run: Path) -> list[dict[str, float]]:
    """The rows of a run's metrics.csv, one per epoch; what was not measured is not in a row."""
    with (run / "metrics.csv").open(newline="") as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]


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


def find_checkpoint(name: str, logs: Path) -> Path:
    """The file that ``best``, ``last`` or a path means.

    Args:
        name: best or last of the newest run, or the path of a checkpoint.
        logs: Folder of the runs.

    Raises:
        CheckpointError: There is none; an older run's is named, not taken for that of the newest.
    """
    if name not in ("best", "last"):
        if Path(name).is_file():
            return Path(name)
        raise CheckpointError(f"{name} is no file; give the path of a checkpoint, or best or last for the newest run")
    fits = {path.parent for part in ("config.yaml", "checkpoints") for path in logs.glob(f"version_*/{part}")}
    found = [path for run in sorted(fits, key=_number) if (path := run / "checkpoints" / f"{name}.ckpt").is_file()]
    if found and found[-1].parent.parent == (newest := max(fits, key=_number)):
        return found[-1]
    if found:
        raise CheckpointError(
            f"the newest run, {newest}, has no {name}.ckpt; give the path of another, such as {found[-1]}"
        )
    raise CheckpointError(
        f"no run in {logs} has a {name}.ckpt; train one with: python -m lit_mnist fit --config configs/mlp.yaml"
    )


def _number(run: Path) -> int:
    """The N of version_N, -1 for another name."""
    digits = run.name.removeprefix("version_")
    return int(digits) if digits.isdecimal() else -1
