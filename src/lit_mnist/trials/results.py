"""Results of fits over several seeds: a page with tables and curves."""

import csv
import itertools
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lit_mnist.atomic import write_whole
from lit_mnist.runs.folder import read_metrics, read_test
from lit_mnist.runs.history import metrics_of
from lit_mnist.trials.paired import difference
from lit_mnist.views import figures

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Runs = dict[tuple[str, int], Path]  # config and seed -> run folder
Row = dict[str, Any]  # config, seed, epoch and the metrics of that epoch; the last epoch also has those of the test


def read_run(run: Path) -> list[Row]:
    """The epochs of a run; the last one also has the metrics of the test."""
    rows: list[Row] = list(read_metrics(run))
    rows[-1] |= {f"test/{name}": value for name, value in read_test(run).items() if isinstance(value, float)}
    return rows


def together(runs: Sequence[Path]) -> float | None:
    """Test accuracy of the mean probabilities of these runs (a deep ensemble); None if a run has saved none."""
    paths = [run / "probabilities.npz" for run in runs]
    if not all(path.is_file() for path in paths):
        return None
    saved = [np.load(path) for path in paths]
    mean = np.mean([one["probabilities"] for one in saved], axis=0, dtype=np.float32)  # (N, C)
    return float(np.mean(mean.argmax(1) == saved[0]["labels"]))


def write(folder: Path, runs: Runs, head: list[str]) -> None:
    """Write results.csv, curves.png, and README.md, which begins with `head`."""
    rows = [{"config": name, "seed": seed, **row} for (name, seed), run in runs.items() for row in read_run(run)]
    write_table(folder / "results.csv", list(dict.fromkeys(name for row in rows for name in row)), rows)
    figures.save(bands(rows), folder / "curves.png")
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "lightning", "torchmetrics"))
    about = f"Mean ± standard deviation after the last epoch ({versions}, Python {platform.python_version()}):"
    means, gaps = summary(rows)
    means[0].append("seeds together: test/accuracy")
    for cells in means[1:]:
        accuracy = together([run for (name, _), run in runs.items() if f"`{name}`" == cells[0]])
        cells.append("-" if accuracy is None else f"{accuracy:.4f}")
    lines = [*head, about, "", *markdown(means)]
    if gaps[1:]:
        lines += ["", "Difference from the first with the same seed, mean and 95 % interval:", "", *markdown(gaps)]
    with write_whole(folder / "README.md") as part:
        part.write_text("\n".join([*lines, "", "![Curves of every config](curves.png)", "", ""]))
    for metric, config, gap, won, verdict in (cells for cells in gaps if cells[0].startswith("test/")):
        print(f"{metric}  {config}  {gap}, better in {won}: {verdict}")
    print(f"the results are in {folder / 'README.md'}, and the run folders beside it")


def write_table(path: Path, names: list[str], rows: Sequence[Row]) -> None:
    """Write rows as a CSV file."""
    with write_whole(path) as part, part.open("w", newline="") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def curves_of(rows: list[Row], config: str, metric: str) -> "np.ndarray[Any, np.dtype[np.float64]]":
    """A metric of a config: (seeds, epochs) float64; NaN where it was not measured or the fit had ended."""
    seeds: dict[int, list[float]] = {}
    for row in rows:
        if row["config"] == config:
            seeds.setdefault(row["seed"], []).append(float(row.get(metric, "nan")))
    longest = max(map(len, seeds.values()))
    return np.array([seeds[seed] + [np.nan] * (longest - len(seeds[seed])) for seed in sorted(seeds)])


def summary(rows: list[Row]) -> tuple[list[list[str]], list[list[str]]]:
    """Two tables with header rows: mean and spread of every config, and its differences from the first."""
    configs = list(dict.fromkeys(row["config"] for row in rows))
    metrics = [name for stage in ("test/", "val/") for name in metrics_of(rows) if name.startswith(stage)]
    last = {}  # (config, metric) -> the last measured value of each seed, or NaN
    for key in itertools.product(configs, metrics):
        measured = [curve[~np.isnan(curve)] for curve in curves_of(rows, *key)]
        last[key] = np.array([curve[-1] if len(curve) else np.nan for curve in measured])
    means, gaps = [["config", "n", *metrics]], [["metric", "config", "difference", "better in", "it is"]]
    for config in configs:
        samples = [last[config, name] for name in metrics]
        cells = ["-" if np.isnan(s).any() else f"{s.mean():.4f} ± {s.std(ddof=1):.4f}" for s in samples]
        means.append([f"`{config}`", str(len(samples[0])), *cells])
    for name, config in itertools.product(metrics, configs[1:]):
        pair = [last[configs[0], name], last[config, name]]
        if not np.isnan(pair).any():
            gap = difference(name, *(one.tolist() for one in pair))
            gaps.append([name, f"`{config}`", str(gap), f"{gap.better_in} of {gap.n}", gap.verdict])
    return means, gaps


def markdown(table: list[list[str]]) -> list[str]:
    """Lines of Markdown for a table whose first row is the header."""
    lines = [f"| {' | '.join(cells)} |" for cells in table]
    return [lines[0], "|---" * len(table[0]) + "|", *lines[1:]]


def bands(rows: list[Row]) -> "Figure":
    """Mean and standard deviation over seeds: a column per config, with loss above accuracy."""
    configs = list(dict.fromkeys(row["config"] for row in rows))
    figure, grid = figures.new_figure(
        1 + 2.6 * len(configs), 5.6, rows=2, columns=len(configs), squeeze=False, sharex="col", sharey="row"
    )
    for column, config in zip(grid.T, configs, strict=True):
        column[0].set_title(config, fontsize="medium")
        for axes, metric in zip(column, figures.METRICS, strict=True):
            for stage, color in (("train", figures.TRAIN), ("val", figures.VAL)):
                curves = np.ma.masked_invalid(curves_of(rows, config, f"{stage}/{metric}"))  # (seeds, epochs)
                epochs, mean, sd = range(1, curves.shape[1] + 1), curves.mean(0), curves.std(0, ddof=1)
                axes.plot(epochs, mean, color=color, label=stage)
                axes.fill_between(epochs, mean - sd, mean + sd, color=color, alpha=0.3, linewidth=0)
            figures.plain_axes(axes, "epoch" if axes is column[1] else "")
    grid[0, 0].set_ylabel("loss")
    grid[1, 0].set_ylabel("accuracy")
    grid[0, 0].legend(frameon=False)
    figure.suptitle(f"mean ± standard deviation over {len(curves)} seeds", fontsize="medium")
    return figure
