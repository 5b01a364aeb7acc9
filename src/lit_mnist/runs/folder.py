"""Run folders: lightning_logs/version_N or lightning_logs/NAME has the config, checkpoints and metrics of one fit."""

import csv
import json
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import get_loader

from lit_mnist.checkpoint import PRETRAINED, CheckpointError
from lit_mnist.errors import fail, flat, nearest, program

LOGS = "lightning_logs"


def new_run(logs: Path) -> Path:
    """Create the next free version_N folder; two runs that start at once get different ones."""
    logs.mkdir(parents=True, exist_ok=True)
    number = max(map(_number, logs.glob("version_*")), default=-1) + 1
    while True:
        try:
            run = logs / f"version_{number}"
            run.mkdir()
            return run
        except FileExistsError:
            number += 1


def find_checkpoint(name: str | None, logs: Path | str = LOGS, run: Path | None = None) -> Path:
    """Path of a checkpoint that is given by its path, as ``best`` or ``last`` of a run, or as ``pretrained``.

    Args:
        name: None is best, or last where nothing was validated.
        logs: Folder of runs; the run is the one that was started or resumed last.
        run: Another run in place of that one.
    """
    if name == "pretrained":
        return PRETRAINED
    if name not in ("best", "last", None):
        path = Path(name).expanduser()
        if path.is_file():
            return path
        raise CheckpointError(f"{name} is not a file; give the path of a checkpoint, or best, last or pretrained")
    runs = [path.parent for path in Path(logs).glob("*/config.yaml")]
    if run is None and not runs:
        raise CheckpointError(f"no run in {logs}; train one with: {program()} fit --config mlp")
    run = run or max(runs, key=lambda run: ((run / "config.yaml").stat().st_mtime_ns, _number(run)))
    found = sorted(path.name for path in (run / "checkpoints").glob("*"))
    for stem in (name,) if name else ("best", "last"):
        if f"{stem}.ckpt" in found:
            if stem != (name or "best"):
                print(f"{run} has no best.ckpt, since nothing was validated; its last.ckpt is used")
            return run / "checkpoints" / f"{stem}.ckpt"
    raise CheckpointError(f"{run} has no {name or 'best'}.ckpt; it has {', '.join(found) or 'no checkpoint'}")


def find_config(name: str) -> str:
    """Resolve a value of --config: YAML in braces, a path, or the name of a shipped config, such as mlp."""
    path = Path(name).expanduser()
    if name.startswith("{"):
        return name
    if path.is_file():
        read_yaml(path)
        return name
    package = Path(__file__).parents[1]
    folders = [folder / "configs" for folder in (package, package.parents[1])]  # in a wheel, in a clone
    shipped = {str(path.relative_to(folder))[:-5]: path for folder in folders for path in folder.rglob("*.yaml")}
    found = shipped.get(name.removesuffix(".yaml"))
    return str(found) if found else fail(f"{name}: there is no such config{nearest(name, shipped)}")


def read_yaml(path: Path) -> Any:
    """The content of a YAML file, parsed like a config: 1e-4 is a number."""
    try:
        return get_loader("yaml")(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        fail(f"{path}: {getattr(error, 'strerror', None) or error}")


def run_of(checkpoint: Path) -> Path | None:
    """The run folder that contains a checkpoint, or None."""
    folders = list(checkpoint.resolve().parents)[1:4]  # a file name such as {epoch}-{val/loss:.3f} creates subfolders
    return next((folder for folder in folders if (folder / "config.yaml").is_file()), None)


def read_metrics(run: Path) -> list[dict[str, float]]:
    """The rows of a run's metrics.csv, one per epoch; a row has only the metrics that were measured."""
    path = run / "metrics.csv"
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]


def read_test(run: Path) -> dict[str, Any]:
    """The content of a run's test.json; {} without one."""
    path = run / "test.json"
    return dict(json.loads(path.read_text())) if path.is_file() else {}


def _number(run: Path) -> int:
    """The N of version_N, -1 for another name."""
    digits = run.name.removeprefix("version_")
    return int(digits) if digits.isdecimal() else -1


def read_options(run: Path) -> dict[str, Any]:
    """All options of a fit by their names on the command line, from its config.yaml; {} without one."""
    path = run / "config.yaml"
    return dict(flat(yaml.safe_load(path.read_text()))) if path.is_file() else {}
