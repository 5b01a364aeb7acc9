"""The study's report: mean and spread of each recipe, beside the published figures and other implementations."""

import csv
import io
import json
import math
import os
import platform
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lit_mnist.atomic import write_whole
from lit_mnist.runs.folder import read_metrics
from lit_mnist.views import figures

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CURVES = ("train_loss", "train_accuracy", "val_loss", "val_accuracy")
FINAL = ("test_accuracy", "test_loss", "val_accuracy", "val_loss")
PUBLISHED_TEST = {  # as the tutorial prints them, one run each; two digits are no figure to measure a distance from
    "mlp": {"test_accuracy": "0.9774", "test_loss": "0.1080"},
    "mlp_dropout": {"test_accuracy": "0.97", "test_loss": "0.0828"},
    "mlp_dropout_30": {"test_accuracy": "0.98", "test_loss": "0.1123"},
}
IMPLEMENTATIONS = {
    "lit_mnist": "lit_mnist",
    "torch_loop": "PyTorch, loop by hand",
    "keras3_jax": "Keras 3 on JAX (eps inside the square root)",
}

Rows = list[dict[str, str]]  # one per run, implementation, seed and epoch; test figures stand in the last epoch's


def write(folder: Path, names: list[str], seeds: int, command: str) -> None:
    """Write README.md, curves.png, curves.svg and results.csv from the runs below a folder.

    Args:
        folder: Where runs/NAME/seed_N lie and the files go.
        names: Recipes.
        seeds: Number of seeds of each.
        command: What was run, as the report states it.
    """
    rows = [row for name in names for seed in range(seeds) for row in _read_run(folder, name, seed)]
    with write_whole(folder / "results.csv") as part, part.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    figure = bands(rows, names)
    for suffix in ("png", "svg"):
        figures.save(figure, folder / f"curves.{suffix}")
    with write_whole(folder / "README.md") as part:
        part.write_text("\n".join(_lines(rows, names, seeds, command)) + "\n")


def _read_run(folder: Path, name: str, seed: int) -> Rows:
    run = folder / "runs" / name / f"seed_{seed}"
    test = json.loads((run / "test.json").read_text())
    rows: list[dict[str, Any]] = []
    for row in read_metrics(run):
        curves = {metric: f"{row[metric.replace('_', '/')]:.6f}" for metric in CURVES}
        head = {"run": name, "implementation": "lit_mnist", "seed": seed, "epoch": int(row["epoch"])}
        rows.append({**head, **curves, "test_loss": "", "test_accuracy": ""})
    rows[-1] |= {"test_loss": f"{test['loss']:.6f}", "test_accuracy": f"{test['accuracy']:.6f}"}
    return [{key: str(value) for key, value in row.items()} for row in rows]


def read_reference(name: str) -> Rows:
    """A table that comes with the package: keras_r_history.csv or peer_runs.csv."""
    return list(csv.DictReader(io.StringIO(files("lit_mnist.trials").joinpath(f"reference/{name}").read_text())))


def curves_of(rows: Rows, run: str, metric: str, implementation: str = "lit_mnist") -> np.ndarray:
    """A metric of a recipe in an implementation: (seeds, epochs) float64, the seeds in rising order."""
    seeds: dict[int, list[float]] = {}
    for row in rows:
        if row["run"] == run and row.get("implementation") == implementation:
            seeds.setdefault(int(row["seed"]), []).append(float(row[metric] or "nan"))
    return np.array([seeds[seed] for seed in sorted(seeds)])


def final_of(rows: Rows, run: str, metric: str, implementation: str = "lit_mnist") -> np.ndarray:
    """The metric after the last epoch: (seeds,) float64."""
    curves = curves_of(rows, run, metric, implementation)
    return curves[:, -1] if len(curves) else np.empty(0)


def published_of(run: str, metric: str) -> str | None:
    """A figure after the last epoch as the tutorial prints it, None where it has none."""
    history = [row for row in read_reference("keras_r_history.csv") if row["run"] == run]
    if metric in CURVES:
        return history[-1][metric] if history else None
    return PUBLISHED_TEST.get(run, {}).get(metric)


def distance(value: float, sample: np.ndarray) -> float:
    """How many standard deviations of a sample a value lies above its mean."""
    return float((value - sample.mean()) / sample.std(ddof=1))


def paired(rows: Rows, treated: str, control: str, metric: str) -> tuple[float, float, float, float]:
    """Difference of two recipes over the same seeds: mean, both ends of the 95 % confidence interval, and p.

    By Student's paired t-test, two-sided.
    """
    from scipy import stats

    a, b = final_of(rows, treated, metric), final_of(rows, control, metric)
    result = stats.ttest_rel(a, b)
    interval = result.confidence_interval(0.95)
    return float((a - b).mean()), float(interval.low), float(interval.high), float(result.pvalue)


def spread(sample: np.ndarray) -> str:
    """Mean and standard deviation, with four digits."""
    return f"{sample.mean():.4f} ± {sample.std(ddof=1):.4f}"


def _lines(rows: Rows, names: list[str], seeds: int, command: str) -> list[str]:
    """The report in Markdown, line by line."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "lightning", "torchmetrics"))
    heads = "test accuracy | test loss | val accuracy | val loss"
    means = [
        f"| `{name}` | {seeds} | {' | '.join(spread(final_of(rows, name, metric)) for metric in FINAL)} |"
        for name in names
    ]
    published = [name for name in names if name in PUBLISHED_TEST]
    return [
        "# The tutorial, reproduced",
        "",
        f"`{command}`",
        "",
        f"{versions}, Python {platform.python_version()}, {os.cpu_count()} CPU cores. Weights after the last epoch, as"
        " the tutorial reports them; mean ± standard deviation over the seeds. Every epoch of every seed is in"
        " [results.csv](results.csv).",
        "",
        f"| recipe | n | {heads} |",
        "|---|---|---|---|---|---|",
        *means,
        "",
        *_published_lines(rows, published, seeds),
        "![Curves of every recipe, with the published ones over them](curves.png)",
        "",
        "Lines are means and bands one standard deviation over the seeds; the published run is dashed.",
        "",
        *_verdict_lines(rows, names, seeds),
        *_peer_lines(rows, names, heads),
    ]


def _published_lines(rows: Rows, names: list[str], seeds: int) -> list[str]:
    """The published figures beside ours, and in a sentence those that lie far away."""
    if not names:
        return []
    lines, outside = [], []
    for name in names:
        for metric in FINAL:
            figure, sample = published_of(name, metric), final_of(rows, name, metric)
            if figure is None:
                continue
            words = metric.replace("_", " ")
            exact = len(figure) >= len("0.9774")
            away = distance(float(figure), sample) if exact else math.nan
            shown = f"{round(away, 1) + 0:+.1f}" if exact else "printed with two digits"
            lines.append(f"| `{name}` | {words} | {figure} | {spread(sample)} | {shown} |")
            if abs(away) > 2:
                side = "above" if away > 0 else "below"
                outside.append(
                    f"the {words} of `{name}`, {figure}, lies {abs(away):.1f} standard deviations {side} our mean"
                )
    verdict = (
        f"Outside two standard deviations of our seeds: {'; '.join(outside)}."
        if outside
        else "Every published figure lies within two standard deviations of our mean."
    )
    return [
        "## Beside the published figures",
        "",
        "One run each was published, without a seed. The distance is in standard deviations over our seeds.",
        "",
        "| recipe | figure | published | ours | distance |",
        "|---|---|---|---|---|",
        *lines,
        "",
        f"{verdict} Of {len(lines)} figures of single runs, about one in twenty would lie that far by chance"
        f" if both came from the same distribution, and somewhat more with a spread estimated from {seeds} seeds.",
        "",
    ]


def _verdict_lines(rows: Rows, names: list[str], seeds: int) -> list[str]:
    """Whether dropout helps, by the paired test."""
    if not {"mlp", "mlp_dropout"} <= set(names):
        return []
    sentences = []
    for metric in ("test_loss", "test_accuracy"):
        mean, low, high, p = paired(rows, "mlp_dropout", "mlp", metric)
        words = metric.replace("_", " ")
        facts = f"{mean:+.4f} (95 % confidence interval {low:+.4f} to {high:+.4f}, p = {p:.2g})"
        if low <= 0 <= high:
            sentences.append(f"Whether dropout changes {words} does not show: {facts}.")
        else:
            verb = "raises" if mean > 0 else "lowers"
            sentences.append(f"**Dropout {verb} {words}** by {abs(mean):.4f}: {facts}.")
    return [
        "## Does dropout help?",
        "",
        f"`mlp_dropout` less `mlp` after 10 epochs, by a paired t-test over {seeds} seeds, each with the same order of"
        " images and the same first weights in both.",
        "",
        *(f"- {sentence}" for sentence in sentences),
        "",
    ]


def _peer_lines(rows: Rows, names: list[str], heads: str) -> list[str]:
    """The same recipes in other implementations."""
    every = rows + read_reference("peer_runs.csv")
    lines = []
    for name in names:
        for implementation, words in IMPLEMENTATIONS.items():
            samples = [final_of(every, name, metric, implementation) for metric in FINAL]
            if len(samples[0]):
                cells = " | ".join(spread(sample) for sample in samples)
                lines.append(f"| `{name}` | {words} | {len(samples[0])} | {cells} |")
    return [
        "## The same recipe in other hands",
        "",
        f"| recipe | implementation | n | {heads} |",
        "|---|---|---|---|---|---|---|",
        *lines,
    ]


def bands(rows: Rows, names: list[str]) -> "Figure":
    """A column per recipe, loss above accuracy: mean and standard deviation over seeds, the published run dashed."""
    figure, grid = figures.new_figure(
        1 + 2.6 * len(names), 5.6, rows=2, columns=len(names), squeeze=False, sharex="col", sharey="row"
    )
    history = read_reference("keras_r_history.csv")
    for column, name in zip(grid.T, names, strict=True):
        column[0].set_title(name, fontsize="medium")
        for axes, metric in zip(column, ("loss", "accuracy"), strict=True):
            for stage, color in (("train", figures.TRAIN), ("val", figures.VAL)):
                curves = curves_of(rows, name, f"{stage}_{metric}")  # (seeds, epochs)
                epochs, mean, sd = range(1, curves.shape[1] + 1), curves.mean(0), curves.std(0, ddof=1)
                axes.plot(epochs, mean, color=color, label=stage)
                axes.fill_between(epochs, mean - sd, mean + sd, color=color, alpha=0.3, linewidth=0)
                values = [float(row[f"{stage}_{metric}"]) for row in history if row["run"] == name]
                label = "published" if stage == "val" else None
                axes.plot(range(1, len(values) + 1), values, "--", color="black", linewidth=0.9, label=label)
            figures.plain_axes(axes)
        figures.epochs_below(column[1])
    grid[0, 0].set_ylabel("loss")
    grid[1, 0].set_ylabel("accuracy")
    grid[0, 0].set_ylim(0, 0.35)  # the first epochs with dropout would squeeze all the others
    grid[1, 0].set_ylim(0.9, 1)
    grid[0, 0].legend(frameon=False)
    return figure
