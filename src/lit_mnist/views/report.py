"""The report: runs side by side, in one self-contained HTML page and a Markdown file."""

import base64
import html
import io
import json
import os
import re
import sys
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from lit_mnist.atomic import write_whole
from lit_mnist.errors import fail, print_error
from lit_mnist.runs.folder import read_metrics, read_options
from lit_mnist.runs.history import metrics_of
from lit_mnist.views import figures

PICTURES = ("history", "confusion", "mistakes", "calibration")
ALWAYS = ("model.network", "trainer.max_epochs", "seed_everything")  # how the names of options of every report begin
NEVER = ("data.data_dir", "ckpt_path", "skip", "trainer.default_root_dir")  # options that change no result
TESTED = {"checkpoint": "tested checkpoint", "images": "test images", "calibration_error": "test calibration error"}
LEVEL = 0.05  # a smaller rise of the val loss, as a share of its lowest value, is no overfitting


@dataclass(frozen=True)
class Run:
    """What a run folder tells.

    Args:
        name: What the report calls it.
        options: All options of the fit, flat: model.optimizer.lr, trainer.max_epochs.
        rows: One dict per epoch, as `lit_mnist.runs.folder.read_metrics` gives them; at least one.
        test: What test.json holds, empty where the run was not tested.
        pictures: Its PNG pictures by their names, base64.
    """

    name: str
    options: dict[str, Any]
    rows: list[dict[str, float]]
    test: dict[str, Any]
    pictures: dict[str, str]


def report(runs: list[str], output: str = "report.html") -> None:
    """Compare runs in one HTML page that needs no other file, and in a Markdown file beside it.

    Args:
        runs: Run folders, or folders with runs in them, such as lightning_logs.
        output: The page, with the suffix .html; the Markdown file has the suffix .md instead.
    """
    page = Path(output).expanduser()
    if page.suffix != ".html":
        fail(f"--output: {output} does not end in .html")
    if not page.parent.is_dir():
        fail(f"--output: there is no folder {page.parent}")
    folders = [run for name in runs for run in find_runs(Path(name).expanduser())]
    parent = os.path.commonpath([folder.parent for folder in folders])
    found, left_out = [], False
    for folder in dict.fromkeys(folders):
        try:
            found.append(read_run(folder, str(folder.relative_to(parent))))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
            print_error(f"{folder}: is left out, since it cannot be read: {error}")
            left_out = True
    if not found:
        fail("there is no run with a finished epoch to report")
    table = compare(found)
    sentences = {run.name: overfitting(run.rows) for run in found}
    with write_whole(page) as part:
        part.write_text(_html(found, table, sentences), encoding="utf-8")
    with write_whole(page.with_suffix(".md")) as part:
        part.write_text(_markdown(table, sentences), encoding="utf-8")
    print(f"{len(found)} {'run' if len(found) == 1 else 'runs'} in {page} and {page.with_suffix('.md')}")
    if left_out:
        sys.exit(1)


def find_runs(folder: Path) -> list[Path]:
    """A run folder itself, or all runs below a folder, version_2 before version_10."""
    runs = [path.parent.resolve() for path in folder.rglob("metrics.csv")]
    if not runs:
        fail(f"{folder}: {'has no run in it' if folder.is_dir() else 'is no folder'}; a run is what fit leaves")
    return sorted(
        runs, key=lambda run: [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", str(run))]
    )


def read_run(folder: Path, name: str) -> Run:
    """Read what a run folder tells; ValueError where it has no finished epoch."""
    rows = read_metrics(folder)
    if not rows:
        raise ValueError("it has no finished epoch")
    test = json.loads((folder / "test.json").read_text()) if (folder / "test.json").is_file() else {}
    pictures = {picture: folder / f"{picture}.png" for picture in PICTURES}
    encoded = {n: base64.b64encode(path.read_bytes()).decode() for n, path in pictures.items() if path.is_file()}
    return Run(name, read_options(folder), rows, test, encoded)


def compare(runs: list[Run]) -> list[list[str]]:
    """The table: a header, then a row per quantity with a column per run."""
    names = dict.fromkeys(name for run in runs for name in run.options)
    differ = [name for name in names if len({str(run.options.get(name)) for run in runs}) > 1]
    shown = [name for name in names if (name.startswith(ALWAYS) or name in differ) and name not in NEVER]
    table = [["", *(run.name for run in runs)]]
    table += [[name, *(str(run.options.get(name, "-")) for run in runs)] for name in shown]
    columns = [_figures(run) for run in runs]
    quantities = dict.fromkeys(name for column in columns for name in column)
    return table + [[name, *(column.get(name, "-") for column in columns)] for name in quantities]


def _figures(run: Run) -> dict[str, str]:
    """The numbers of a run by their names, whatever was measured."""
    last, best = run.rows[-1], figures.best_row(run.rows) or {}
    numbers = {"epochs": f"{last['epoch']:.0f}", "seconds": f"{sum(row['seconds'] for row in run.rows):.1f}"}
    if best:
        numbers["best epoch (lowest val/loss)"] = f"{best['epoch']:.0f}"
        numbers |= {f"{name}, best epoch": f"{best[name]:.4f}" for name in metrics_of([best]) if name[:4] == "val/"}
    numbers |= {f"{name}, last epoch": f"{last[name]:.4f}" for name in metrics_of([last])}
    for name in ("loss", "accuracy"):
        if f"train/{name}" in last and f"val/{name}" in last:
            numbers[f"{name}, train - val"] = f"{last[f'train/{name}'] - last[f'val/{name}']:+.4f}"
    for name, value in run.test.items():
        if name != "dataset":
            numbers[TESTED.get(name, f"test/{name}")] = f"{value:.4f}" if isinstance(value, float) else str(value)
    return numbers


def overfitting(rows: list[dict[str, float]]) -> str:
    """A sentence on whether, where and by how much the val loss turned."""
    best, last = figures.best_row(rows), next((row for row in reversed(rows) if "val/loss" in row), None)
    if best is None or last is None:
        return "Nothing was validated, so overfitting does not show."
    low, end, epoch = best["val/loss"], last["val/loss"], f"{best['epoch']:.0f}"
    if best["epoch"] == last["epoch"]:
        return f"No overfitting yet: val loss is lowest in the last epoch, {epoch}, at {low:.4f}."
    rise = f"{end - low:.4f}" + (f" ({(end - low) / low:.0%})" if low >= 0.0001 else "")
    if end - low <= LEVEL * low:
        return f"No clear overfitting: val loss is lowest in epoch {epoch} at {low:.4f} and ends only {rise} above it."
    return (
        f"It overfits after epoch {epoch}: there val loss turned at {low:.4f} and rose by {rise} to {end:.4f} in epoch"
        f" {last['epoch']:.0f}, while train loss went on from {best['train/loss']:.4f} to {last['train/loss']:.4f}."
    )


def _markdown(table: list[list[str]], sentences: dict[str, str]) -> str:
    lines = [f"| {' | '.join(map(_as_text, row))} |" for row in table]
    lines.insert(1, "|---" * len(table[0]) + "|")
    sections = [f"- **{_as_text(name)}**: {text}" for name, text in sentences.items()]
    return "\n".join(["# Report", "", *lines, "", *sections, ""])


def _as_text(cell: str) -> str:
    """A text such that Markdown shows it as it is, without links, HTML and other marks."""
    marks = r"[\\`*\[\]|~$]|(?<![^\W_])_|_(?![^\W_])"  # an underscore inside a word is none
    return re.sub(marks, r"\\\g<0>", html.escape(cell, quote=False))


def _html(runs: list[Run], table: list[list[str]], sentences: dict[str, str]) -> str:
    from jinja2 import Template

    curves = io.StringIO()
    figures.overlay({run.name: run.rows for run in runs}).savefig(
        curves, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type"))
    )
    svg = curves.getvalue()
    source = files("lit_mnist.views").joinpath("templates/report.html").read_text(encoding="utf-8")
    page: str = Template(source, autoescape=True).render(
        table=table,
        curves=svg[svg.index("<svg") :],  # without the XML header, which names a document type elsewhere
        runs=[(run.name, sentences[run.name], run.pictures) for run in runs],
    )
    return page
