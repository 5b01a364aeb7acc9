"""The report: a comparison of runs in one self-contained HTML page."""

import base64
import io
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.resources import files
from itertools import chain
from pathlib import Path
from typing import Any

import yaml

from lit_mnist.atomic import write_whole
from lit_mnist.errors import fail, print_error
from lit_mnist.runs.folder import read_metrics, read_options, read_test
from lit_mnist.runs.history import metrics_of
from lit_mnist.views import figures

PICTURES = ("history", "confusion", "mistakes", "calibration")
SHOWN = ("data", "data.dataset", "model.network", "trainer.max_epochs", "seed_everything")  # even if the runs agree
NEVER = ("data.data_dir", "ckpt_path", "figures", "trainer.default_root_dir")  # options without an effect on results
LEVEL = 0.05  # smallest rise of the val loss, as a share of its lowest value, that counts as overfitting


@dataclass(frozen=True)
class Run:
    """Content of a run folder: flat options, a row per epoch, test.json or {}, and PNG figures in base64."""

    name: str
    finished: str  # time of its last epoch
    options: dict[str, Any]
    rows: list[dict[str, float]]
    test: dict[str, Any]
    pictures: dict[str, str]


def report(runs: list[str], output: str = "report.html") -> None:
    """Compare runs in one self-contained HTML page.

    Args:
        runs: Run folders, or folders with runs in them, such as lightning_logs.
        output: Output file, which ends in .html.
    """
    page = Path(output).expanduser()
    if page.suffix != ".html" or not page.parent.is_dir():
        fail(f"--output: {output} does not end in .html, or its folder does not exist")
    folders = list(dict.fromkeys(run for name in runs for run in find_runs(Path(name).expanduser())))
    parent = os.path.commonpath([folder.parent for folder in folders])
    found = []
    for folder in folders:
        try:
            found.append(read_run(folder, str(folder.relative_to(parent))))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
            print_error(f"{folder} is skipped, since it cannot be read: {error}")
    if not found:
        fail("there is no run with a finished epoch to report")
    with write_whole(page) as part:
        part.write_text(_html(found), encoding="utf-8")
    print(f"{len(found)} {'run' if len(found) == 1 else 'runs'} in {page}")
    if len(found) < len(folders):
        sys.exit(1)


def find_runs(folder: Path) -> list[Path]:
    """A run folder itself, or all runs below a folder, version_2 before version_10."""
    # Lightning's CSVLogger has a column "step"
    heads = {path: path.read_bytes().partition(b"\n")[0].split(b",") for path in folder.rglob("metrics.csv")}
    runs = [path.parent.resolve() for path, head in heads.items() if b"step" not in head]
    if not runs:
        fail(f"{folder} {'contains no run' if folder.is_dir() else 'is not a folder'}; fit creates run folders")
    return sorted(runs, key=lambda run: re.sub(r"\d+", lambda digits: digits[0].zfill(9), str(run)))


def read_run(folder: Path, name: str) -> Run:
    """Read a run folder; raises ValueError if it has no finished epoch."""
    rows = read_metrics(folder)
    if not rows or not {"epoch", "seconds"} <= rows[0].keys():
        raise ValueError("it has no finished epoch")
    pictures = {picture: folder / f"{picture}.png" for picture in PICTURES}
    encoded = {n: base64.b64encode(path.read_bytes()).decode() for n, path in pictures.items() if path.is_file()}
    finished = datetime.fromtimestamp((folder / "metrics.csv").stat().st_mtime).strftime("%Y-%m-%d %H:%M")
    return Run(name, finished, read_options(folder), rows, read_test(folder), encoded)


def differing(runs: list[Run]) -> list[str]:
    """Options whose values differ between the runs that have them."""
    names = dict.fromkeys(name for run in runs for name in run.options if name not in NEVER)
    return [name for name in names if len({str(run.options[name]) for run in runs if name in run.options}) > 1]


def compare(runs: list[Run], differ: list[str]) -> tuple[list[list[str]], list[list[str]]]:
    """Rows of a name and a value per run: results with the shown and differing options, and all other options."""
    measured = [_results(run) for run in runs]
    results = sorted(dict.fromkeys(chain(*measured)), key=lambda name: not name.startswith("test/"))
    options = dict.fromkeys(name for run in runs for name in run.options if name not in NEVER)
    rows = [[name, *(found.get(name, "-") for found in measured)] for name in results]
    of_options = [[name, *(str(run.options.get(name, "-")) for run in runs)] for name in options]
    rest = [row for row in of_options if row[0] not in (*SHOWN, *differ)]
    return [*rows, *(row for row in of_options if row not in rest)], rest


def _results(run: Run) -> dict[str, str]:
    """The results of a run by the names of the table's rows."""
    last, best = run.rows[-1], figures.best_row(run.rows)
    tested = sorted(run.test.items(), key=lambda item: not isinstance(item[1], float))  # the metrics first
    numbers: dict[str, Any] = {f"test/{name}": value for name, value in tested}
    if best:
        numbers |= {f"{name}, best epoch": best[name] for name in metrics_of([best]) if name.startswith("val/")}
        numbers["best epoch (lowest val/loss)"] = f"{best['epoch']:.0f}"
    numbers |= {f"{name}, last epoch": last[name] for name in metrics_of([last])}
    numbers |= {"epochs": f"{last['epoch']:.0f}", "seconds": f"{sum(row['seconds'] for row in run.rows):.1f}"}
    numbers["finished"] = run.finished
    return {name: f"{value:.4f}" if isinstance(value, float) else str(value) for name, value in numbers.items()}


def overfitting(rows: list[dict[str, float]]) -> str:
    """A sentence about overfitting: the epoch of the lowest val loss, and its rise since then."""
    measured = [row for row in rows if "val/loss" in row]
    best = figures.best_row(measured)
    if best is None:
        return "Nothing was validated, so overfitting cannot be seen."
    last = measured[-1]
    low, end, epoch = best["val/loss"], last["val/loss"], f"{best['epoch']:.0f}"
    if end > (1 + LEVEL) * low and last["train/loss"] >= best["train/loss"]:
        return (
            f"Not overfitting but unsteady: val loss is lowest in epoch {epoch} at {low:.4f} and ends at {end:.4f},"
            f" and train loss rose as well, from {best['train/loss']:.4f} to {last['train/loss']:.4f}."
        )
    if end <= (1 + LEVEL) * low:
        return f"No clear overfitting: val loss is lowest in epoch {epoch} at {low:.4f} and ends at {end:.4f}."
    return (
        f"It overfits after epoch {epoch}: there val loss turned at {low:.4f} and rose by {end - low:.4f}"
        f" ({end / max(low, 1e-9) - 1:.0%}) to {end:.4f} in epoch {last['epoch']:.0f}, while train loss fell from"
        f" {best['train/loss']:.4f} to {last['train/loss']:.4f}."
    )


def outdated(run: Run) -> str:
    """A sentence if the tested checkpoint has been replaced by one of another epoch; otherwise ""."""
    tested = run.test.get("epoch")
    best = figures.best_row(run.rows) if run.options.get("best") == "val/loss" else None
    now = {"best.ckpt": best, "last.ckpt": run.rows[-1]}.get(str(run.test.get("checkpoint")))
    if tested is None or now is None or now["epoch"] == tested:
        return ""
    return (
        f" Test results and figures are of epoch {tested}; {run.test['checkpoint']} is now of epoch {now['epoch']:.0f}."
    )


def _html(runs: list[Run]) -> str:
    from jinja2 import Template

    differ = differing(runs)
    labels: dict[str, Sequence[dict[str, float]]] = {}
    for run in runs:
        told = ", ".join(f"{name.rpartition('.')[2]} {run.options[name]}" for name in differ if name in run.options)
        labels[figures.shortened(f"{run.name}: {told}" if told else run.name, 70)] = run.rows
    curves = io.StringIO()
    metadata: Any = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figures.overlay(labels).savefig(curves, format="svg", metadata=metadata)
    svg = curves.getvalue()
    svg = svg[svg.index("<svg") :]  # without the XML header, which refers to another host
    table, rest = compare(runs, differ)
    source = files("lit_mnist.views").joinpath("templates/report.html").read_text(encoding="utf-8")
    page: str = Template(source, autoescape=True).render(
        table=table,
        rest=rest,
        curves=svg.replace("<svg", '<svg role="img" aria-label="Loss and accuracy of each run over its epochs"', 1),
        runs=[(run.name, overfitting(run.rows) + outdated(run), run.pictures) for run in runs],
    )
    return page
