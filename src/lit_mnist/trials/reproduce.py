"""The study: every recipe of the tutorial, fitted and tested over several seeds."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import lightning.pytorch as L
import yaml
from lightning.pytorch.callbacks import Callback

from lit_mnist.data import MNISTDataModule
from lit_mnist.errors import fail, printable
from lit_mnist.fast import FastClassifier
from lit_mnist.networks import MLP
from lit_mnist.runs.checkpoints import RunCheckpoint, WholeCheckpointIO
from lit_mnist.runs.divergence import StopOnDivergence
from lit_mnist.runs.history import History
from lit_mnist.runs.profiler import NoProfiler
from lit_mnist.runs.resume import ExactResume
from lit_mnist.trials import study
from lit_mnist.views.evaluation import Evaluation, TestPart

RECIPES: dict[str, tuple[int, dict[str, Any], dict[str, Any]]] = {  # epochs, options of MLP and model, as in configs/
    "mlp": (10, {}, {}),
    "mlp_dropout": (10, {"dropout": [0.4, 0.3]}, {}),
    "mlp_dropout_30": (30, {"dropout": [0.4, 0.3]}, {}),
    "mlp_weight_decay": (10, {}, {"weight_decay": 1e-4}),
}
STEPS_PER_EXECUTION = 25  # the fast path gives the same weights bit for bit


def reproduce(seeds: int = 5, runs: str = ",".join(RECIPES), output: str = "reproduction") -> None:
    """Fit and test the tutorial's recipes over several seeds, and report how the published figures compare.

    A call that was stopped continues where it was; seeds that are finished are not repeated.

    Args:
        seeds: Number of seeds, at least 2: 0, 1, 2, ...
        runs: Recipes, with commas between them.
        output: Folder for the report, README.md, its figures and the run folder of every seed.
    """
    names = runs.split(",")
    if seeds < 2:
        fail(f"--seeds: {seeds} is not at least 2")
    for name in names:
        if name not in RECIPES:
            fail(f"--runs: {name} is not one of {', '.join(RECIPES)}")
    folder = Path(output)
    data = MNISTDataModule()
    data.setup()  # before anything is written
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description:<26}"), BarColumn(), MofNCompleteColumn(), TextColumn("epochs,"))
    with Progress(*columns, TimeRemainingColumn(), TextColumn("left")) as progress:
        task = progress.add_task("", total=seeds * sum(RECIPES[name][0] for name in names))
        for seed in range(seeds):
            for name in names:
                epochs, network, options = RECIPES[name]
                run = folder / "runs" / name / f"seed_{seed}"
                progress.update(task, description=f"{name}, seed {seed}")
                if (run / "test.json").is_file():
                    progress.advance(task, epochs)
                else:
                    fit_and_test(run, network, options, data, epochs, seed, lambda: progress.advance(task))
    study.write(folder, names, seeds, f"python -m lit_mnist reproduce --seeds {seeds} --runs {runs}")
    print(printable(f"the report is {folder / 'README.md'}; the run of every seed is below {folder / 'runs'}"))


class EachEpoch(Callback):
    """Calls a function after every epoch, and once for each of those that a resumed fit finished before."""

    def __init__(self, call: Callable[[], None]) -> None:
        self.call = call

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for _ in range(trainer.current_epoch):
            self.call()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.call()


def fit_and_test(
    run: Path,
    network: dict[str, Any],
    options: dict[str, Any],
    data: MNISTDataModule,
    epochs: int,
    seed: int,
    each_epoch: Callable[[], None],
) -> None:
    """Fit and test with one seed as `fit` and `test --ckpt_path last` do, or continue where that was stopped.

    Args:
        run: The run folder: config.yaml, metrics.csv, last.ckpt and, at the end, test.json and per_class.csv.
        network: Options of MLP.
        options: Of the model.
        data: The images.
        epochs: Number of epochs.
        seed: Of everything.
        each_epoch: Called after every epoch.
    """
    run.mkdir(parents=True, exist_ok=True)
    L.seed_everything(seed, verbose=False)
    model = FastClassifier(network=MLP(**network), **options, steps_per_execution=STEPS_PER_EXECUTION)
    config = {
        "seed_everything": seed,
        "model": {name: list(value) if isinstance(value, tuple) else value for name, value in model.hparams.items()},
        "data": dict(data.hparams),
        "trainer": {"max_epochs": epochs},
    }
    quiet: dict[str, Any] = {
        "devices": 1,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "profiler": NoProfiler(),
        "plugins": [WholeCheckpointIO()],
    }
    history = History(run, yaml.safe_dump(config, sort_keys=False), show=False)
    kept = [history, StopOnDivergence(), ExactResume(history), RunCheckpoint(run, "last"), EachEpoch(each_epoch)]
    last = run / "checkpoints" / "last.ckpt"
    trainer = L.Trainer(max_epochs=epochs, callbacks=kept, **quiet)
    trainer.fit(model, data, ckpt_path=last if last.is_file() else None)
    evaluation = Evaluation(run, last.name, skip=get_args(TestPart))
    L.Trainer(callbacks=[evaluation], enable_checkpointing=False, **quiet).test(model, data, verbose=False)
