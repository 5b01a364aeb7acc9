"""Fit and test of configs over several seeds."""

import contextlib
import io
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from filelock import FileLock

from lit_mnist.cli import run_command
from lit_mnist.errors import fail
from lit_mnist.runs.folder import LOGS, find_config
from lit_mnist.trials.results import Runs, write
from lit_mnist.trials.workers import run_all

QUIET = ["--figures=false", *(f"--trainer.{part}=false" for part in ("logger", "enable_progress_bar"))]
QUIET += ["--trainer.enable_model_summary=false"]


def reproduce(
    configs: list[str],
    seeds: int = 5,
    layer: str | None = None,
    workers: int | None = None,
    output: str = "reproduction",
) -> None:
    """Fit and test configs over several seeds, and report mean, spread and differences.

    The same command resumes after a stop; finished seeds are not repeated.

    Args:
        configs: YAML files of fits, or names of shipped configs, such as mlp.
        seeds: Number of seeds, at least 2: 0, 1, 2, ...
        layer: A config applied on top of each, such as keras_loss.
        workers: Number of parallel fits, by default one per core; if there are several, each has one thread.
        output: Folder for README.md, results.csv, curves.png and the run folders.
    """
    paths = [Path(find_config(config)).expanduser() for config in configs]
    files = {path.stem: path for path in paths}
    if len(files) < len(configs):
        fail(f"{' '.join(configs)}: two configs have the same name, so their results would collide; rename one")
    check_least(seeds=(seeds, 2), workers=(workers, 1))
    layers = [Path(find_config(layer)).expanduser()] if layer else []
    folder = Path(output).expanduser()
    runs = fit_all(folder / "runs", {name: [file, *layers] for name, file in files.items()}, range(seeds), workers)
    command = f"reproduce {' '.join(configs)} --seeds {seeds}{f' --layer {layer}' if layer else ''}"
    write(folder, runs, ["# Results over seeds", "", f"```sh\npython -m lit_mnist {command}\n```", ""])


def check_least(**options: tuple[int | None, int]) -> None:
    """Refuse an option that is below its minimum."""
    for name, (value, least) in options.items():
        if value is not None and value < least:
            fail(f"--{name}: {value} is not at least {least}")


def fit_all(folder: Path, configs: dict[str, list[Path]], seeds: Sequence[int], workers: int | None) -> Runs:
    """Fit and test configs over seeds, several at once, each in its own folder."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    asked = {name: config_of(words_of(paths), where=f"{paths[0]}: ") for name, paths in configs.items()}
    runs = {(name, n): folder / name / f"seed_{n}" / LOGS / "version_0" for n in seeds for name in configs}
    jobs = [job_of(run, configs[name], seed, asked[name]) for (name, seed), run in runs.items()]
    todo = [job for job, run in zip(jobs, runs.values(), strict=True) if not (run / "test.json").is_file()]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"), Progress(*columns, redirect_stdout=False) as progress:  # one call after another
        task = progress.add_task("fits", total=len(jobs), completed=len(jobs) - len(todo))
        for _ in run_all(todo, workers):
            progress.advance(task)
    return runs


def words_of(configs: Sequence[Path]) -> list[str]:
    """Options of a command line for configs, each applied on top of the one before."""
    return [word for config in configs for word in ("--config", str(config))]


def config_of(words: list[str], wanted: str = "skip_default", where: str = "") -> str:
    """The config of a fit with these options, as YAML; an error is printed as one line, after `where`."""
    text, errors = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(text), contextlib.redirect_stderr(errors):
            run_command(["fit", *words, f"--print_config={wanted}"])
    except SystemExit as end:
        if end.code:
            fail(where + errors.getvalue().rpartition("lit-mnist: error: ")[2])
    return text.getvalue()


def job_of(run: Path, configs: list[Path], seed: int, asked: str) -> Callable[[], None]:
    """A fit and test in a run folder; a fit that has begun must have the same config."""
    known = run.parents[1] / "config.yaml"
    if (run / "checkpoints" / "last.ckpt").is_file() and (not known.is_file() or known.read_text() != asked):
        why = f"has a fit whose options differ from those of {' '.join(map(str, configs))}; choose another folder"
        fail(f"--output: {known.parent} {why}")
    return partial(fit_and_test, run, configs, seed, asked)


def fit_and_test(run: Path, configs: list[Path], seed: int, asked: str) -> None:
    """Fit configs, each applied on top of the one before, and test; resume if there is a checkpoint."""
    root, last = run.parents[1], run / "checkpoints" / "last.ckpt"
    if (run / "test.json").is_file():
        return
    quiet = ["--trainer.default_root_dir", str(root), *QUIET]
    fit = ["--ckpt_path", str(last)]
    if not last.is_file():
        shutil.rmtree(root, ignore_errors=True)  # left by a stop before the first checkpoint
        root.mkdir(parents=True)
        (root / "config.yaml").write_text(asked)
        fit = [*words_of(configs), "--seed_everything", str(seed)]
    with contextlib.redirect_stdout(io.StringIO()):
        run_command(["fit", *fit, *quiet], study=[])
        run_command(["test", "--ckpt_path", str(last), "--config", str(run / "config.yaml"), *quiet])
