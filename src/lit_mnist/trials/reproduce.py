"""The same fit and test over several seeds: how results spread."""

import contextlib
import csv
import io
import json
import platform
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from lit_mnist.atomic import write_whole
from lit_mnist.cli import run_command
from lit_mnist.errors import fail
from lit_mnist.runs.folder import LOGS, find_config, read_metrics, read_test
from lit_mnist.runs.history import metrics_of
from lit_mnist.views import figures

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = dict[str, Any]  # config, seed, epoch and the metrics of that epoch; of the last one those of the test, too


def reproduce(configs: list[str], seeds: int = 5, layer: str | None = None, output: str = "reproduction") -> None:
    """Fit and test configs over several seeds, and report mean and spread.

    A call that was stopped continues where it was; seeds that are finished are not repeated.

    Args:
        configs: YAML files of fits, or names of shipped configs, such as mlp.
        seeds: Number of seeds, at least 2: 0, 1, 2, ...
        layer: A config on top of each, such as keras_loss.
        output: Folder for README.md, results.csv, curves.png and the run folder of every seed.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    files = {Path(config).stem: Path(find_config(config)).expanduser() for config in configs}
    if len(files) < len(set(configs)):
        fail(f"{' '.join(configs)}: two configs have the same name, so their results would collide; rename one")
    if seeds < 2:
        fail(f"--seeds: {seeds} is not at least 2")
    layers = [Path(find_config(layer)).expanduser()] if layer else []
    folder = Path(output).expanduser()
    rows: list[Row] = []
    columns = (TextColumn("{task.description:<26}"), BarColumn(), MofNCompleteColumn(), TextColumn("fits"))
    with Progress(*columns, TimeRemainingColumn(), redirect_stdout=False) as progress:
        task = progress.add_task("", total=seeds * len(files))
        for seed in range(seeds):
            for name, file in files.items():
                progress.update(task, description=f"{name}, seed {seed}")
                run = fit_and_test(folder / "runs" / name / f"seed_{seed}", [file, *layers], seed)
                rows += [{"config": name, "seed": seed, **row} for row in read_run(run)]
                progress.advance(task)
    write(
        folder,
        rows,
        f"python -m lit_mnist reproduce {' '.join(configs)} --seeds {seeds}{f' --layer {layer}' if layer else ''}",
    )
    print(f"the results are in {folder / 'README.md'}; the run of every seed is below {folder / 'runs'}")


def fit_and_test(root: Path, configs: list[Path], seed: int) -> Path:
    """Fit configs, each on top of the one before, and test, or resume where that was stopped: the run below root."""
    run = root / LOGS / "version_0"
    try:
        asked = json.dumps([yaml.safe_load(config.read_text()) for config in configs], sort_keys=True)
    except yaml.YAMLError as error:
        fail(f"{' '.join(map(str, configs))}: {error}")
    last = run / "checkpoints" / "last.ckpt"
    if last.is_file() and (not (root / "configs.json").is_file() or (root / "configs.json").read_text() != asked):
        fail(f"--output: {root} is not of {' '.join(map(str, configs))} as they are now; choose another folder")
    if (run / "test.json").is_file():
        return run
    quiet = ["--trainer.default_root_dir", str(root), "--figures", "false"]
    for part in ("logger", "enable_progress_bar", "enable_model_summary"):
        quiet += [f"--trainer.{part}", "false"]
    fit = ["--ckpt_path", str(last)]
    if not last.is_file():
        shutil.rmtree(root, ignore_errors=True)  # what was stopped before there was anything to resume
        root.mkdir(parents=True)
        (root / "configs.json").write_text(asked)
        fit = [word for config in configs for word in ("--config", str(config))] + ["--seed_everything", str(seed)]
    with contextlib.redirect_stdout(io.StringIO()):
        run_command(["fit", *fit, *quiet])
        run_command(["test", "--ckpt_path", str(last), "--config", str(run / "config.yaml"), *quiet])
    return run


def read_run(run: Path) -> list[Row]:
    """The epochs of a run; the last one has the metrics of the test, too."""
    rows: list[Row] = list(read_metrics(run))
    rows[-1] |= {f"test/{name}": value for name, value in read_test(run).items() if isinstance(value, float)}
    return rows


def write(folder: Path, rows: list[Row], command: str) -> None:
    """Write README.md, results.csv and curves.png of the rows of all runs."""
    names = dict.fromkeys(name for row in rows for name in row)
    with write_whole(folder / "results.csv") as part, part.open("w", newline="") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    figures.save(bands(rows), folder / "curves.png")
    with write_whole(folder / "README.md") as part:
        part.write_text("\n".join(_lines(rows, command)) + "\n")


def curves_of(rows: list[Row], config: str, metric: str) -> "np.ndarray[Any, np.dtype[np.float64]]":
    """A metric of a config: (seeds, epochs) float64, NaN where it was not measured."""
    seeds: dict[int, list[float]] = {}
    for row in rows:
        if row["config"] == config:
            seeds.setdefault(row["seed"], []).append(float(row.get(metric, "nan")))
    return np.array([seeds[seed] for seed in sorted(seeds)])


def _lines(rows: list[Row], command: str) -> list[str]:
    configs = list(dict.fromkeys(row["config"] for row in rows))
    metrics = [name for name in metrics_of(rows) if name.startswith(("test/", "val/"))]
    metrics.sort(key=lambda name: not name.startswith("test/"))
    table = [["config", "n", *metrics]]
    for config in configs:
        samples = [curves_of(rows, config, metric)[:, -1] for metric in metrics]
        cells = ["-" if np.isnan(s).any() else f"{s.mean():.4f} ± {s.std(ddof=1):.4f}" for s in samples]
        table.append([f"`{config}`", str(len(samples[0])), *cells])
    lines = [f"| {' | '.join(cells)} |" for cells in table]
    lines.insert(1, "|---" * len(table[0]) + "|")
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "lightning", "torchmetrics"))
    about = f"{versions}, Python {platform.python_version()}. After the last epoch; mean ± standard deviation."
    sentence = f"Each config below was fitted and tested over {len(samples[0])} seeds:"
    head = ["# Results over seeds", "", sentence, "", "```sh", command, "```", "", about, ""]
    return [*head, *lines, "", "![Curves of every config](curves.png)", ""]


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
                curves = curves_of(rows, config, f"{stage}/{metric}")  # (seeds, epochs)
                epochs, mean, sd = range(1, curves.shape[1] + 1), curves.mean(0), curves.std(0, ddof=1)
                axes.plot(epochs, mean, color=color, label=stage)
                axes.fill_between(epochs, mean - sd, mean + sd, color=color, alpha=0.3, linewidth=0)
            figures.plain_axes(axes, "epoch" if axes is column[1] else "")
    grid[0, 0].set_ylabel("loss")
    grid[1, 0].set_ylabel("accuracy")
    grid[0, 0].legend(frameon=False)
    figure.suptitle(f"mean ± standard deviation over {len(curves)} seeds", fontsize="medium")
    return figure
