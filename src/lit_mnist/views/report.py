"""The report: runs side by side, in one self-contained HTML page and a Markdown file."""

import html
import io
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lit_mnist.atomic import write_whole
from lit_mnist.errors import fail, print_error, printable
from lit_mnist.views import figures
from lit_mnist.views.run_files import RunError, read_options, read_picture, read_rows, read_test

PICTURES = ("history", "confusion", "mistakes", "calibration")
ALWAYS = ("model.network", "trainer.max_epochs", "seed_everything")  # how the names of options of every report begin
NEVER = ("data.data_dir", "ckpt_path", "skip", "trainer.default_root_dir")  # options that change no result
LEVEL = 0.05  # a smaller rise of the val loss, as a share of its lowest value, is no overfitting


@dataclass(frozen=True)
class Run:
    """What a run folder tells.

    Args:
        folder: The run folder.
        name: What the report calls it.
        options: All options of the fit, flat: model.lr, trainer.max_epochs.
        rows: One dict per epoch, as `lit_mnist.runs.folder.read_metrics` gives them; at least one.
        test: What test.json holds, empty where the run was not tested.
    """

    folder: Path
    name: str
    options: dict[str, Any]
    rows: list[dict[str, float]]
    test: dict[str, Any]


def report(runs: list[str], output: str = "report.html") -> None:
    """Compare runs in one HTML page that needs no other file, and in a Markdown file beside it.

    A run that is damaged gets a line of its own on stderr, and then the exit status is 1.

    Args:
        runs: Run folders, or folders with runs in them, such as lightning_logs.
        output: The page, with the suffix .html; the Markdown file has the suffix .md instead.
    """
    page = Path(output)
    if page.suffix != ".html":
        fail(f"--output: {output} does not end in .html")
    if not page.parent.is_dir():
        fail(f"--output: there is no folder {page.parent}")
    folders = find_runs(runs)
    parent = os.path.commonpath([folder.parent for folder in folders])
    found: list[Run] = []
    pictures: dict[str, dict[str, str]] = {}
    problems = []
    for folder in folders:
        try:
            run = read_run(folder, printable(folder.relative_to(parent)))
        except RunError as error:
            problems.append(error)
        else:
            found.append(run)
            pictures[run.name] = read_pictures(folder, problems)
    for problem in problems:
        print_error(str(problem))
    if not found:
        sys.exit(2)
    table = [[printable(cell) for cell in row] for row in compare(found)]
    sentences = {run.name: overfitting(run.rows) for run in found}
    with write_whole(page) as part:
        part.write_text(_html(found, table, sentences, pictures), encoding="utf-8")
    with write_whole(page.with_suffix(".md")) as part:
        part.write_text(_markdown(table, sentences), encoding="utf-8")
    count = f"{len(found)} {'run' if len(found) == 1 else 'runs'}"
    print(printable(f"{count} in {page} and {page.with_suffix('.md')}"))
    if problems:
        sys.exit(1)


def find_runs(names: list[str]) -> list[Path]:
    """The run folders that are meant, each once: the folders themselves, or all runs inside them in their order."""
    found: dict[Path, None] = {}
    for name in names:
        folder = Path(name)
        inside = [folder] if (folder / "config.yaml").is_file() else _inside(folder)
        if not inside:
            fail(f"{name}: {'has no run in it' if folder.is_dir() else 'is no folder'}; a run is what fit leaves")
        found |= dict.fromkeys(run.resolve() for run in inside)
    return list(found)


def _inside(folder: Path) -> list[Path]:
    """Runs below a folder that finished an epoch, version_2 before version_10."""
    runs = [path.parent for path in folder.rglob("metrics.csv") if (path.parent / "config.yaml").is_file()]
    return sorted(
        runs, key=lambda run: [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", str(run))]
    )


def read_run(folder: Path, name: str) -> Run:
    """Read what a run folder tells.

    Raises:
        RunError: The run has no finished epoch, or its files are damaged.
    """
    try:
        run = Run(folder, name, read_options(folder), read_rows(folder), read_test(folder))
        if run.rows:
            compare([run])  # here, so that what is made of this run cannot fail beside the others
            overfitting(run.rows)
            return run
    except FileNotFoundError:
        pass
    except Exception as error:  # whatever the readers and the table make of a damaged file
        reason = str(error) if isinstance(error, RunError) else f"{type(error).__name__}: {error}"
        raise RunError(f"{folder}: config.yaml, metrics.csv or test.json is damaged: {reason}") from error
    raise RunError(f"{folder}: has no finished epoch to report")


def compare(runs: list[Run]) -> list[list[str]]:
    """The table: a header, then a row per quantity with a column per run."""
    names = dict.fromkeys(name for run in runs for name in run.options)
    differ = [name for name in names if len({str(run.options.get(name)) for run in runs}) > 1]
    shown = [name for name in names if (name.startswith(ALWAYS) or name in differ) and name not in NEVER]
    table = [["", *(run.name for run in runs)]]
    table += [[name, *(str(run.options.get(name, "-")) for run in runs)] for name in shown]
    columns = [_figures(run) for run in runs]
    return table + [[name, *(column[name] for column in columns)] for name in columns[0]]


def _figures(run: Run) -> dict[str, str]:
    """The numbers of a run by their names, a dash where there is none."""
    last, best = run.rows[-1], figures.best_row(run.rows) or {}
    test = run.test if run.test.get("dataset") == run.options.get("data.dataset") else {}

    def number(row: dict[str, float], name: str) -> str:
        return f"{row[name]:.4f}" if name in row else "-"

    def difference(upper: str, lower: str) -> str:
        return f"{last[upper] - last[lower]:+.4f}" if upper in last and lower in last else "-"

    return {
        "epochs": f"{last['epoch']:.0f}",
        "seconds": f"{sum(row['seconds'] for row in run.rows):.1f}",
        "best epoch (lowest val loss)": f"{best['epoch']:.0f}" if best else "-",
        "val loss, best": number(best, "val/loss"),
        "val accuracy, best": number(best, "val/accuracy"),
        "train loss, last": number(last, "train/loss"),
        "val loss, last": number(last, "val/loss"),
        "train accuracy, last": number(last, "train/accuracy"),
        "val accuracy, last": number(last, "val/accuracy"),
        "gap of loss, train - val": difference("train/loss", "val/loss"),
        "gap of accuracy, train - val": difference("train/accuracy", "val/accuracy"),
        "tested checkpoint": str(test.get("checkpoint", "-")),
        "test images": f"{test['images']:,}" if test else "-",
        "test loss": number(test, "loss"),
        "test accuracy": number(test, "accuracy"),
        "test calibration error": number(test, "calibration_error"),
    }


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
    return "\n".join(
        ["# Report", "", *lines, "", *(f"- **{_as_text(name)}**: {text}" for name, text in sentences.items()), ""]
    )


def _as_text(cell: str) -> str:
    """A printable text such that Markdown shows it as it is, without links, HTML and other marks."""
    marks = r"[\\`*\[\]|~$]|(?<![^\W_])_|_(?![^\W_])"  # an underscore inside a word is none
    return re.sub(marks, r"\\\g<0>", html.escape(cell, quote=False))


def _html(
    runs: list[Run], table: list[list[str]], sentences: dict[str, str], pictures: dict[str, dict[str, str]]
) -> str:
    from importlib.resources import files

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
        runs=[(run.name, sentences[run.name], pictures[run.name]) for run in runs],
    )
    return page


def read_pictures(folder: Path, problems: list[RunError]) -> dict[str, str]:
    """A run's pictures by their names, base64; why one is left out is added to the problems."""
    pictures = {}
    for name in PICTURES:
        path = folder / f"{name}.png"
        if os.path.lexists(path):
            try:
                pictures[name] = read_picture(path)
            except Exception as error:  # whatever Pillow makes of a file that is no picture
                problems.append(RunError(f"{path}: is no picture of the run and is left out: {error}"))
    return pictures
