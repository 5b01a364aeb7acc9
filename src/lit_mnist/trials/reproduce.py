"""The same fit and test over several seeds: how results spread."""

import contextlib
import csv
import io
import itertools
import platform
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock

from lit_mnist.atomic import write_whole
from lit_mnist.cli import run_command
from lit_mnist.errors import fail
from lit_mnist.runs.folder import LOGS, find_config, read_metrics, read_test
from lit_mnist.runs.history import metrics_of
from lit_mnist.trials.paired import difference
from lit_mnist.trials.workers import run_all
from lit_mnist.views import figures

if TYPE_CHECKING:
    from matplotlib.figure import Figure

QUIET = ["--figures=false", *(f"--trainer.{part}=false" for part in ("logger", "enable_progress_bar"))]
QUIET += ["--trainer.enable_model_summary=false"]
Row = dict[str, Any]  # config, seed, epoch and the metrics of that epoch; of the last one those of the test, too


def reproduce(
    configs: list[str],
    seeds: int = 5,
    layer: str | None = None,
    workers: int | None = None,
    output: str = "reproduction",
) -> None:
    """Fit and test configs over several seeds, and report mean, spread and differences.

    A call that was stopped continues where it was; seeds that are finished are not repeated.

    Args:
        configs: YAML files of fits, or names of shipped configs, such as mlp.
        seeds: Number of seeds, at least 2: 0, 1, 2, ...
        layer: A config on top of each, such as keras_loss.
        workers: Number of fits at once, by default one for each core. Of several, each has one thread.
        output: Folder for README.md, results.csv, curves.png and the run folder of every seed.
    """
    paths = [Path(find_config(config)).expanduser() for config in configs]
    files = {path.stem: path for path in paths}
    if len(files) < len(set(configs)):
        fail(f"{' '.join(configs)}: two configs have the same name, so their results would collide; rename one")
    check_least(seeds=(seeds, 2), workers=(workers, 1))
    layers = [Path(find_config(layer)).expanduser()] if layer else []
    folder = Path(output).expanduser()
    rows = fit_all(folder / "runs", {name: [file, *layers] for name, file in files.items()}, range(seeds), workers)
    command = f"reproduce {' '.join(configs)} --seeds {seeds}{f' --layer {layer}' if layer else ''}"
    write(folder, rows, ["# Results over seeds", "", f"```sh\npython -m lit_mnist {command}\n```", ""])


def check_least(**options: tuple[int | None, int]) -> None:
    """Refuse options that are less than what they must be at least."""
    for name, (value, least) in options.items():
        if value is not None and value < least:
            fail(f"--{name}: {value} is not at least {least}")


def fit_all(folder: Path, configs: dict[str, list[Path]], seeds: Sequence[int], workers: int | None) -> list[Row]:
    """Fit and test configs over seeds, each in a folder of its own, several at once; the rows of all of them."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    places = [(name, seed) for seed in seeds for name in configs]
    asked = {name: config_of(words_of(files)) for name, files in configs.items()}
    jobs = [job_of(folder / name / f"seed_{seed}", configs[name], seed, asked[name]) for name, seed in places]
    runs: dict[int, Path] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"), Progress(*columns, redirect_stdout=False) as progress:  # one call after another
        task = progress.add_task("fits", total=len(jobs))
        for place, run in run_all(jobs, workers):
            runs[place] = run
            progress.advance(task)
    found = zip(places, (runs[place] for place in range(len(jobs))), strict=True)
    return [{"config": name, "seed": seed, **row} for (name, seed), run in found for row in read_run(run)]


def words_of(configs: Sequence[Path]) -> list[str]:
    """Configs, each on top of the one before, as options of a command line."""
    return [word for config in configs for word in ("--config", str(config))]


def config_of(words: list[str], wanted: str = "skip_default") -> str:
    """The config of a fit with these options, as YAML; what is wrong with it ends in one line."""
    text = io.StringIO()
    try:
        with contextlib.redirect_stdout(text):
            run_command(["fit", *words, f"--print_config={wanted}"])
    except SystemExit as end:
        if end.code:
            raise
    return text.getvalue()


def job_of(root: Path, configs: list[Path], seed: int, asked: str) -> Callable[[], Path]:
    """A fit and test below root, which must be of this config where it has begun."""
    begun, known = (root / LOGS / "version_0" / "checkpoints" / "last.ckpt").is_file(), root / "config.yaml"
    if begun and (not known.is_file() or known.read_text() != asked):
        fail(f"--output: {root} is not of {' '.join(map(str, configs))} as they are now; choose another folder")
    return partial(fit_and_test, root, configs, seed, asked)


def fit_and_test(root: Path, configs: list[Path], seed: int, asked: str) -> Path:
    """Fit configs, each on top of the one before, and test, or resume where that was stopped: the run below root."""
    run = root / LOGS / "version_0"
    last = run / "checkpoints" / "last.ckpt"
    if (run / "test.json").is_file():
        return run
    quiet = ["--trainer.default_root_dir", str(root), *QUIET]
    fit = ["--ckpt_path", str(last)]
    if not last.is_file():
        shutil.rmtree(root, ignore_errors=True)  # what was stopped before there was anything to resume
        root.mkdir(parents=True)
        (root / "config.yaml").write_text(asked)
        fit = [*words_of(configs), "--seed_everything", str(seed)]
    with contextlib.redirect_stdout(io.StringIO()):
        run_command(["fit", *fit, *quiet], study=[])
        run_command(["test", "--ckpt_path", str(last), "--config", str(run / "config.yaml"), *quiet])
    return run


def read_run(run: Path) -> list[Row]:
    """The epochs of a run; the last one has the metrics of the test, too."""
    rows: list[Row] = list(read_metrics(run))
    rows[-1] |= {f"test/{name}": value for name, value in read_test(run).items() if isinstance(value, float)}
    return rows


def write(folder: Path, rows: list[Row], head: list[str]) -> None:
    """Write README.md, which begins with some lines, results.csv and curves.png of the rows of all runs."""
    write_table(folder / "results.csv", list(dict.fromkeys(name for row in rows for name in row)), rows)
    figures.save(bands(rows), folder / "curves.png")
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "lightning", "torchmetrics"))
    about = f"Mean ± standard deviation after the last epoch ({versions}, Python {platform.python_version()}):"
    means, gaps = summary(rows)
    lines = [*head, about, "", *markdown(means)]
    if gaps[1:]:
        lines += ["", "Difference from the first with the same seed, mean and 95 % interval:", "", *markdown(gaps)]
    with write_whole(folder / "README.md") as part:
        part.write_text("\n".join([*lines, "", "![Curves of every config](curves.png)", "", ""]))
    for metric, config, gap, won, verdict in (cells for cells in gaps if cells[0].startswith("test/")):
        print(f"{metric}  {config}  {gap}, better in {won}: {verdict}")
    print(f"the results are in {folder / 'README.md'}, and the run of every fit in a folder beside it")


def write_table(path: Path, names: list[str], rows: Sequence[Row]) -> None:
    """Write rows as a CSV file."""
    with write_whole(path) as part, part.open("w", newline="") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def curves_of(rows: list[Row], config: str, metric: str) -> "np.ndarray[Any, np.dtype[np.float64]]":
    """A metric of a config: (seeds, epochs) float64, NaN where it was not measured, or a fit had ended earlier."""
    seeds: dict[int, list[float]] = {}
    for row in rows:
        if row["config"] == config:
            seeds.setdefault(row["seed"], []).append(float(row.get(metric, "nan")))
    longest = max(map(len, seeds.values()))
    return np.array([seeds[seed] + [np.nan] * (longest - len(seeds[seed])) for seed in sorted(seeds)])


def last_of(curve: "np.ndarray[Any, np.dtype[np.float64]]") -> float:
    """The last value that was measured, NaN where there is none."""
    measured = curve[~np.isnan(curve)]
    return float(measured[-1]) if len(measured) else np.nan


def summary(rows: list[Row]) -> tuple[list[list[str]], list[list[str]]]:
    """Mean and spread of every config, and how each differs from the first: two tables, each with its head."""
    configs = list(dict.fromkeys(row["config"] for row in rows))
    metrics = [name for name in metrics_of(rows) if name.startswith(("test/", "val/"))]
    metrics.sort(key=lambda name: not name.startswith("test/"))
    pairs = itertools.product(configs, metrics)
    last = {pair: np.array([last_of(curve) for curve in curves_of(rows, *pair)]) for pair in pairs}
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
    """A table, the first row its head, as lines of Markdown."""
    lines = [f"| {' | '.join(cells)} |" for cells in table]
    return [lines[0], "|---" * len(table[0]) + "|", *lines[1:]]


def bands(rows: list[Row]) -> "Figure":
    """A column per config, loss above accuracy: mean and standard deviation over seeds."""
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
