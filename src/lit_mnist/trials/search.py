"""A study in a folder, whose trials are ordinary fits in run folders of their own."""

import contextlib
import io
import math
import shutil
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as L
import yaml
from filelock import FileLock, Timeout

from lit_mnist.cli import run_command
from lit_mnist.errors import fail, flat, nearest, print_error
from lit_mnist.runs.checks import metrics_by_name
from lit_mnist.runs.folder import LOGS, read_metrics
from lit_mnist.runs.history import DivergedError
from lit_mnist.trials.paired import lower_is_better
from lit_mnist.trials.reproduce import QUIET, config_of
from lit_mnist.trials.space import Space, draw, ends, of_floats, options, point_of

if TYPE_CHECKING:
    from optuna import Study, Trial


@dataclass
class Search:
    """A study in a folder and the work of each worker; it holds plain data, so that it can be sent to them."""

    base: list[str]  # options of the start
    space: Space
    trials: int
    monitor: str
    storage: str | None
    folder: Path
    warm_up: int = 1  # epochs of a trial before it can be pruned

    @property
    def where(self) -> str:
        """Host and folder; processes that share both see each other's locks."""
        return f"{socket.gethostname()}:{self.folder}"

    @property
    def name(self) -> str:
        """The name of the study; hosts that share a database find it by that name."""
        return self.folder.name if self.storage else "search"

    def database(self) -> Any:
        """Storage of the study."""
        from optuna.storages import JournalStorage, get_storage
        from optuna.storages.journal import JournalFileBackend

        return get_storage(self.storage or JournalStorage(JournalFileBackend(str(self.folder / "study.log"))))

    def study(self) -> "Study":
        """The study in its database."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        (self.folder / "trials").mkdir(parents=True, exist_ok=True)
        try:
            return optuna.create_study(
                storage=self.database(),
                study_name=self.name,
                direction="minimize" if lower_is_better(self.monitor) else "maximize",
                pruner=optuna.pruners.MedianPruner(n_warmup_steps=self.warm_up),
                load_if_exists=True,
            )
        except Exception as error:  # of many types: databases differ
            where = "--storage" if self.storage else self.folder / "study.log"
            fail(f"{where}: {(str(error).splitlines() or [type(error).__name__])[0]}")

    def begin(self) -> dict[str, Any]:
        """Check the space, and create the study or check that it is of this search; return the options of the start."""
        start = parsed(self.base)
        for name in self.space.keys() & {"seed_everything", "trainer.default_root_dir", "ckpt_path", "name"}:
            fail(f"--space: {name}: the search itself chooses it")  # including seeds that no trial has used
        self.space = of_floats(self.space, start)
        for name, values in self.space.items():
            for value in ends(values):
                config_of([*self.base, *options({name: value})], where="--space: ")
        self.warm_up = max(1, (start["trainer.max_epochs"] or 0) // 4)
        asked = [config_of(self.base), self.space, self.monitor]
        study = self.study()
        with FileLock(self.folder / "study.lock"):
            if not study.trials:
                if any(path.is_dir() for path in (self.folder / "trials").iterdir()):
                    fail(f"--output: {self.folder} has trials but no search; choose another folder, or delete it")
                study.set_user_attr("asked", asked)
                study.enqueue_trial(point := point_of(self.space, start))
                for name in self.space.keys() - point.keys():
                    why = f"of the start, {start.get(name)}, is not in the space; the first trial samples another value"
                    print_error(f"--space: {name} {why}", "warning")
            elif study.user_attrs.get("asked") != asked:
                why = "contains a search with another space, config or monitor; choose another folder, or delete it"
                fail(f"--output: {self.folder} {why}")
            else:
                print(f"the search in {self.folder} continues; it has {len(study.trials)} trials")
        return start

    def work(self) -> None:
        """Run trials until the requested number has begun."""
        study = self.study()
        while True:
            with contextlib.ExitStack() as locks:
                with FileLock(self.folder / "study.lock"):  # so that no other worker sees a trial before it is locked
                    trial = self.take(study, locks)
                    if not trial:
                        return
                    draw(trial, self.space)
                self.run(study, trial)

    def take(self, study: "Study", locks: contextlib.ExitStack) -> "Trial | None":
        """A trial whose process was killed, else a new one; a process locks its trial while it lives."""
        import optuna

        folder, trials = self.folder / "trials", study.get_trials(deepcopy=False)
        for running in trials[: self.trials]:
            here = not self.storage or running.user_attrs.get("where") == self.where  # else its lock is elsewhere
            if running.state.name == "RUNNING" and here:
                with contextlib.suppress(Timeout):
                    locks.enter_context(FileLock(folder / f"{running.number}.lock", timeout=0))
                    database = self.database()
                    place = database.get_study_id_from_name(self.name), running.number
                    return optuna.Trial(study, database.get_trial_id_from_study_id_trial_number(*place))
        begun = sum(trial.state.name != "WAITING" for trial in trials)
        if begun >= self.trials:
            return None
        # The seed is the number of the trial: with a constant one, every process would sample the same values.
        study.sampler = optuna.samplers.TPESampler(seed=begun, constant_liar=True)
        trial = study.ask()
        if trial.number >= self.trials:  # another host was first
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            return None
        trial.set_user_attr("where", self.where)
        locks.enter_context(FileLock(folder / f"{trial.number}.lock"))
        return trial

    def run(self, study: "Study", trial: "Trial") -> None:
        """Run or resume the fit of a trial, and report its outcome to the study."""
        from optuna.trial import TrialState

        number, words, began = trial.number, options(trial.params), time.perf_counter()
        root = self.folder / "trials" / str(number)
        run = root / LOGS / "version_0"
        last = run / "checkpoints" / "last.ckpt"
        if not last.is_file():
            shutil.rmtree(root, ignore_errors=True)  # left by a process that was killed before the first checkpoint
        report = Report(trial, self.monitor, run)
        args = ["--ckpt_path", str(last)] if last.is_file() else [*self.base, *words]
        state, value, errors = TrialState.FAIL, None, io.StringIO()
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors):
                run_command(["fit", *args, *QUIET, f"--trainer.default_root_dir={root}"], study=[report])
            report.catch_up()
            if report.value is None:
                measured = read_metrics(run)[-1]
                fail(f"--monitor: {self.monitor} is not measured{nearest(self.monitor, map(str, measured))}")
            state, value, outcome = TrialState.COMPLETE, report.value, f"{self.monitor} {report.value:.4f}"
            if report.pruned or not math.isfinite(report.value):
                state, value, outcome = TrialState.PRUNED, None, f"{outcome}, pruned"
        except DivergedError:
            state, outcome = TrialState.PRUNED, "diverged"
        except OSError:  # a full disk fails every trial; once there is space, the same command resumes this one
            raise
        except SystemExit as end:
            if number == 0 or end.code not in (1, 2):  # the start failed, or Ctrl-C
                print(errors.getvalue(), end="", file=sys.stderr)
                raise
            outcome = errors.getvalue().strip().rpartition("lit-mnist: error: ")[2]
        except Exception as error:  # any error of a user's class; other trials continue
            if number == 0:
                raise
            outcome = f"{type(error).__name__}: {error}".partition("\n")[0]
        trial.set_user_attr("outcome", outcome)
        study.tell(trial, value, state=state)
        took = f"{report.epoch:>3} epochs {time.perf_counter() - began:6.1f} s"
        print(f"trial {number:>3}  {outcome:<24}  {took}  {' '.join(words)}", flush=True)


def parsed(words: list[str]) -> dict[str, Any]:
    """All options of a fit with their values."""
    return dict(flat(yaml.safe_load(config_of(words, ""))))


class Report(L.Callback):
    """Reports every epoch to the study, and stops a fit that is worse than the median of the others."""

    def __init__(self, trial: "Trial", monitor: str, run: Path) -> None:
        self.trial, self.metric, self.run = trial, monitor, run
        self.epoch, self.pruned = 0, False
        self.known = set(trial.study.trials[trial.number].intermediate_values)  # epochs of a resumed trial
        self.value: float | None = None  # of the last epoch that has measured it

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Called by Lightning before the first epoch; a resumed fit reports its earlier epochs."""
        known = metrics_by_name(pl_module)
        if known and self.metric not in known:
            fail(f"--monitor: {self.metric} is not measured{nearest(self.metric, known)}")
        self.on_train_epoch_end(trainer, pl_module)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Called by Lightning after every epoch, once its row is written."""
        self.catch_up()
        if 0 < self.epoch < (trainer.max_epochs or 0) and self.trial.should_prune():
            self.pruned = trainer.should_stop = True

    def catch_up(self) -> None:
        """Report all epochs that are not reported yet."""
        for row in read_metrics(self.run):
            if row["epoch"] > self.epoch and self.metric in row:
                self.epoch, self.value = int(row["epoch"]), row[self.metric]
                if self.epoch - 1 not in self.known:  # Optuna counts from 0
                    self.trial.report(self.value, self.epoch - 1)
