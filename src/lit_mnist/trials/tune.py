"""A search for better options, and a comparison of the best with the start over fresh seeds."""

import contextlib
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lit_mnist.atomic import write_whole
from lit_mnist.errors import fail
from lit_mnist.runs.folder import find_config
from lit_mnist.trials.paired import lower_is_better
from lit_mnist.trials.reproduce import check_least, config_of, fit_all, words_of
from lit_mnist.trials.results import write, write_table
from lit_mnist.trials.search import Search, parsed
from lit_mnist.trials.space import options, read_space
from lit_mnist.trials.workers import available_cores, run_all
from lit_mnist.views import figures

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from optuna import Study


def tune(
    configs: list[str],
    space: str,
    trials: int = 20,
    seeds: int = 5,
    monitor: str = "val/loss",
    workers: int | None = None,
    storage: str | None = None,
    output: str = "tuning",
) -> None:
    """Search for better options, and compare the best with the start over fresh seeds.

    The same command resumes a stopped search or joins a running one; more --trials extend it.

    Args:
        configs: YAML files, or names of shipped configs, each applied on top of the one before: the start.
        space: YAML file of options to vary; each has a list of values, or {low, high} with optional log or step.
        trials: Number of trials, of which the first is the start.
        seeds: Number of fresh seeds, at least 2, for the comparison.
        monitor: Validation metric after the last epoch; if it ends in loss or error, lower is better.
        workers: Number of parallel fits, by default one per core; if there are several, each has one thread.
        storage: Database URL for a search on several hosts; by default a file in the output folder.
        output: Folder for README.md, best.yaml, trials.csv, figures and the run folders.
    """
    try:
        import optuna  # noqa: F401
    except ModuleNotFoundError as error:
        fail(f"tune needs {error.name}; install it with: pip install optuna")
    check_least(seeds=(seeds, 2), trials=(trials, 1), workers=(workers, 1))
    if not monitor.startswith("val/"):
        fail(f"--monitor: {monitor} is not a validation metric, such as val/loss")
    base = words_of([Path(find_config(config)).expanduser() for config in configs])
    folder = Path(output).expanduser().resolve()
    search = Search(base, read_space(Path(space).expanduser()), trials, monitor, storage, folder)
    start = search.begin()
    if sum(trial.state.is_finished() for trial in search.study().trials) < trials:
        for _ in run_all([search.work] * (workers or available_cores()), workers):
            pass
    fresh = [seed for seed in range(1, seeds + 2) if seed != start["seed_everything"]]
    compare(search, fresh[:seeds], workers)


def compare(search: Search, seeds: list[int], workers: int | None) -> None:
    """Write the results of the search, and compare the best trial with the start over fresh seeds."""
    study, folder = search.study(), search.folder
    trials, rows = study.get_trials(deepcopy=False)[: search.trials], []
    for trial in trials:
        about = {"trial": trial.number, "state": trial.state.name.lower(), search.monitor: trial.value}
        about |= {"epochs": max(trial.intermediate_values, default=-1) + 1, "outcome": trial.user_attrs.get("outcome")}
        rows.append(about | dict(word[2:].split("=", 1) for word in options(trial.params)))
    write_table(folder / "trials.csv", list(dict.fromkeys(name for row in rows for name in row)), rows)
    if any(row["state"] == "running" for row in rows):
        print("other processes still run trials; the last one to end makes the comparison")
        return
    done = [trial for trial in trials if trial.state.name == "COMPLETE"]
    if not done:
        fail(f"no trial was completed; {folder / 'trials.csv'} says why", status=1)
    figures.save(figure(done, search.monitor, study), folder / "search.png")
    best = best_of(done, search.monitor)
    name, words = f"trial_{best.number}", options(best.params)
    files = {"start": folder / "start.yaml", name: folder / "best.yaml"}
    for path, point in zip(files.values(), ([], words), strict=True):
        with write_whole(path) as part:
            part.write_text(config_of([*search.base, *point]))
    outcome = f"`{name}` is the start with `{' '.join(words)}`: `fit --config best.yaml`."
    if parsed([*search.base, *words]) == parsed(search.base):
        outcome = "No trial is better than the start."
        del files[name]
    found = fit_all(folder / "fresh", {name: [path] for name, path in files.items()}, seeds, workers)
    head = [f"# The best trial of {len(rows)}, and the start, over {len(seeds)} fresh seeds", ""]
    head += [outcome, "", "![Each trial with the best so far, and the importance of each option](search.png)", ""]
    write(folder, found, head)


def best_of(trials: list[Any], monitor: str) -> Any:
    """The trial with the best value."""
    return (min if lower_is_better(monitor) else max)(trials, key=lambda trial: trial.value)


def figure(trials: list[Any], monitor: str, study: "Study") -> "Figure":
    """The value of each trial with the best so far, and the importance of each option."""
    from optuna.importance import get_param_importances

    made, (left, right) = figures.new_figure(9, 3.6, columns=2)
    numbers, values = [trial.number for trial in trials], [trial.value for trial in trials]
    left.plot(numbers, values, "o", color=figures.TRAIN, markersize=4, label="a trial that was not pruned")
    bests = [best_of(trials[: place + 1], monitor).value for place in range(len(trials))]
    left.step(numbers, bests, where="post", color=figures.VAL, label="the best so far")
    left.set_yscale("log" if monitor.endswith("loss") else "linear")
    for formatter in (left.yaxis.set_major_formatter, left.yaxis.set_minor_formatter):
        formatter("{x:.2g}")
    left.set_ylabel(monitor)
    left.legend(frameon=False)
    figures.plain_axes(left, "trial")
    with contextlib.suppress(ValueError, RuntimeError, UserWarning), warnings.catch_warnings():
        warnings.simplefilter("error")  # Optuna warns of too few trials, or of equal ones
        shares = get_param_importances(study)
        right.barh(list(shares)[::-1], list(shares.values())[::-1], color=figures.TRAIN)
    figures.plain_axes(right, "importance")
    return made
