"""What each thing that a fit shows costs: seconds in its hooks over ten epochs, and as a share of the fit."""

import argparse
import datetime
import logging
import statistics
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any, get_args

import lightning.pytorch as L
from bench import write_table
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger

from lit_mnist import Classifier, MNISTDataModule
from lit_mnist.runs.history import History
from lit_mnist.views.dashboard import Dashboard, FitPart

PARTS = get_args(FitPart)
STEPS = 3  # of an epoch; the cost does not depend on their number


class Timed(Dashboard):
    """The dashboard with a stop watch."""

    seconds = 0.0


def _timed(name: str) -> Any:
    def hook(self: Timed, *args: Any) -> None:
        start = time.perf_counter()
        getattr(Dashboard, name)(self, *args)
        self.seconds += time.perf_counter() - start

    return hook


for name in ("on_train_start", "on_train_epoch_end", "on_train_end"):
    setattr(Timed, name, _timed(name))


class Graph(Callback):
    """A stop watch around the logger's graph, which Lightning writes between these two hooks."""

    seconds = 0.0

    def on_fit_start(self, *_: Any) -> None:
        self.seconds -= time.perf_counter()

    def on_train_start(self, *_: Any) -> None:
        self.seconds += time.perf_counter()


def cost(part: str, data: MNISTDataModule) -> float:
    """Seconds that a part takes in a fit of ten epochs, nothing else being shown."""
    with tempfile.TemporaryDirectory() as folder:
        history = History(Path(folder), "", show=False)
        shown, graph = Timed(Path(folder), history, {"lr": 0.001}, [name for name in PARTS if name != part]), Graph()
        L.Trainer(
            max_epochs=10,
            limit_train_batches=STEPS,
            limit_val_batches=1,
            num_sanity_val_steps=0,
            logger=TensorBoardLogger(folder, log_graph=part == "graph", default_hp_metric=False),
            callbacks=[graph, history, shown],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        ).fit(Classifier(), data)
        return shown.seconds + graph.seconds


def main() -> None:
    logging.disable()
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--fit", type=float, default=11.0, help="seconds of the fit that the share is of")
    options = parser.parse_args()
    data = MNISTDataModule()
    data.setup()
    cost("none", data)  # imports
    nothing = statistics.median(cost("none", data) for _ in range(options.rounds))
    rows: list[list[object]] = []
    for part in PARTS:
        cost(part, data)
        seconds = [cost(part, data) - nothing for _ in range(options.rounds)]
        median = statistics.median(seconds)
        spread = f"{min(seconds):.3f}..{max(seconds):.3f}"
        rows.append([part, f"{median:.3f}", spread, f"{median / options.fit:.1%}"])
    today = datetime.date.today().isoformat()
    write_table(
        Path(__file__).parent / "results" / f"{today}-dashboard.md",
        f"What a fit shows, and what that costs, {today}",
        f"`python benchmarks/dashboard.py`: seconds in a fit of ten epochs, each part on its own, n={options.rounds},"
        f" and their share of the {options.fit:.0f} s of `configs/mlp.yaml`.",
        ["part", "median s", "min..max s", "share of the fit"],
        rows,
    )


if __name__ == "__main__":
    main()
