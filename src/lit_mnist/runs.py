"""Run folders: lightning_logs/version_N holds what one fit leaves, its config, checkpoints and metrics."""

import csv
from pathlib import Path

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


def read_metrics(run: Path) -> list[dict[str, float]]:
    """The rows of a run's metrics.csv, one per epoch; what was not measured is not in a row."""
    with (run / "metrics.csv").open(newline="") as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]


def find_checkpoint(name: str, logs: Path) -> Path:
    """The file that ``best``, ``last`` or a path means.

    Args:
        name: best or last of the newest run that has one, or the path of a checkpoint.
        logs: Folder of the runs.

    Raises:
        CheckpointError: There is none.
    """
    if name not in ("best", "last"):
        if Path(name).is_file():
            return Path(name)
        raise CheckpointError(f"{name} is no file; give the path of a checkpoint, or best or last for the newest run")
    found = [path for path in logs.glob(f"version_*/checkpoints/{name}.ckpt") if path.is_file()]
    if found:
        return max(found, key=lambda path: _number(path.parent.parent))
    raise CheckpointError(
        f"no run in {logs} has a {name}.ckpt; train one with: python -m lit_mnist fit --config configs/mlp.yaml"
    )


def _number(run: Path) -> int:
    """The N of version_N, -1 for another name."""
    digits = run.name.removeprefix("version_")
    return int(digits) if digits.isdecimal() else -1
