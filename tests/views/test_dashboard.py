"""What TensorBoard shows of a fit, the figures that it leaves, and that a person sees them."""

import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import lightning.pytorch as L
import pytest
from browser import chromium, visit
from conftest import DIGITS, Result, Trained, run_cli
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lit_mnist import MLP, Classifier, MNISTDataModule
from lit_mnist.runs.history import History
from lit_mnist.views.dashboard import Dashboard

Cli = Callable[..., Result]
FIGURES = {"history.png", "history.svg", "samples.png", "weights.png"}
PARTS = ("history", "samples", "weights", "graph", "charts", "histograms", "throughput", "hparams")


def events_of(run: Path) -> EventAccumulator:
    events = EventAccumulator(str(run))
    events.Reload()
    return events


def shown(run: Path) -> set[str]:
    """Which of the parts a run folder has."""
    events = events_of(run)
    tags = events.Tags()
    has = {
        "history": (run / "history.png").is_file() and (run / "history.svg").is_file(),
        "samples": (run / "samples.png").is_file() and "figures/samples" in tags["images"],
        "weights": (run / "weights.png").is_file() and "figures/weights" in tags["images"],
        "graph": bool(tags["graph"]),
        "charts": "custom_scalars__config__" in tags["tensors"],
        "histograms": "layers.0.weight" in tags["histograms"],
        "throughput": {"lr", "images_per_second"} <= set(tags["scalars"]),
        "hparams": "_hparams_/session_start_info" in events.summary_metadata,
    }
    return {name for name, there in has.items() if there}


def test_a_fit_leaves_its_figures_and_fills_tensorboard(trained: Trained) -> None:
    assert {path.name for path in trained.run.iterdir()} >= FIGURES
    assert shown(trained.run) == set(PARTS)


@pytest.mark.parametrize("part", PARTS)
def test_each_part_can_be_left_out(cli: Cli, tmp_path: Path, part: str) -> None:
    result = cli("fit", *DIGITS, "--trainer.max_epochs", 1, "--skip", f"[{part}]")
    assert (result.status, result.err) == (0, "")
    assert set(PARTS) - shown(tmp_path / "lightning_logs" / "version_0") == {part}


def test_an_unknown_part_is_refused(cli: Cli, tmp_path: Path) -> None:
    result = cli("fit", *DIGITS, "--skip", "[grpah]")
    assert result.status == 2
    assert result.err.startswith("lit-mnist: error: --skip: ")
    assert result.err.count("\n") == 1
    assert not any(tmp_path.iterdir())


def test_without_a_logger_the_figures_are_left_all_the_same(cli: Cli, tmp_path: Path) -> None:
    assert cli("fit", *DIGITS, "--trainer.max_epochs", 1, "--trainer.logger", "false").status == 0
    run = tmp_path / "lightning_logs" / "version_0"
    assert {path.name for path in run.iterdir()} == FIGURES | {"checkpoints", "config.yaml", "metrics.csv"}


def test_the_rate_of_images_is_that_of_the_seconds_in_the_table(trained: Trained) -> None:
    scalars = events_of(trained.run).Scalars("images_per_second")
    with (trained.run / "metrics.csv").open() as file:
        seconds = [float(line.split(",")[-1]) for line in file.readlines()[1:]]
    assert [scalar.value for scalar in scalars] == pytest.approx([1151 / value for value in seconds], rel=1e-6)


def test_a_resumed_fit_draws_the_epochs_of_before_as_well(cli: Cli, own_run: Path) -> None:
    before = (own_run / "history.png").read_bytes()
    assert cli("fit", "--ckpt_path", "last", "--trainer.max_epochs", 3).status == 0
    assert (own_run / "history.png").read_bytes() != before
    events = events_of(own_run)
    assert [event.step for event in events.Scalars("lr")] == [35, 71, 107]
    assert [event.step for event in events.Scalars("val/loss")] == [35, 71, 107]


@pytest.mark.slow
def test_a_second_process_writes_nothing_of_its_own(tmp_path: Path) -> None:
    devices = ("--trainer.devices", 2, "--trainer.strategy", "ddp", "--trainer.accelerator", "cpu")
    done = run_cli("fit", *DIGITS, *devices, "--trainer.max_epochs", 1, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    (run,) = (tmp_path / "lightning_logs").iterdir()
    assert shown(run) == set(PARTS)
    assert len(list(run.glob("events.out*"))) == 1


def test_hyperparameters_stand_once_beside_the_metrics(
    digits: MNISTDataModule, quiet: Callable[..., L.Trainer], tmp_path: Path
) -> None:
    logger = TensorBoardLogger(tmp_path, "logs", "run", default_hp_metric=False)
    history = History(tmp_path, "")
    shown = Dashboard(tmp_path, history, {"hidden_sizes": [16], "seed": 5, "lr_scheduler": None})
    quiet(max_epochs=2, limit_train_batches=2, logger=logger, callbacks=[history, shown]).fit(
        Classifier(network=MLP(hidden_sizes=[16]), lr=0.01), digits
    )
    events = EventAccumulator(str(tmp_path / "logs" / "run"))
    events.Reload()
    plugin = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    told = HParamsPluginData.FromString(plugin).session_start_info.hparams
    assert told["seed"].number_value == 5
    assert told["hidden_sizes"].string_value == "[16]"
    assert told["lr_scheduler"].string_value == "None"
    assert told["optimizer/lr"].number_value == 0.01
    assert told["optimizer/alpha"].number_value == 0.9
    assert told["optimizer/eps"].number_value == 1e-7


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory, trained: Trained) -> Iterator[str]:
    """A real TensorBoard on loopback that shows a run which was fitted and tested."""
    import shutil

    folder = tmp_path_factory.mktemp("shown")
    shutil.copytree(trained.run, folder / "lightning_logs" / "version_0")
    assert run_cli("test", cwd=folder).returncode == 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", "lightning_logs", "--host", "127.0.0.1"]
    server = subprocess.Popen([*command, "--port", str(port)], cwd=folder, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    for _ in range(600):
        try:
            with urllib.request.urlopen(f"{address}/data/runs", timeout=5) as answer:
                if b"version_0" in answer.read():
                    break
        except OSError:
            pass
        assert server.poll() is None
        time.sleep(0.1)
    yield address
    server.terminate()
    server.wait()


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    with chromium() as browser:
        yield browser


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tab", "words"),
    [
        ("custom_scalars", ["loss", "accuracy"]),
        ("timeseries", ["images_per_second", "lr", "train", "val", "test"]),
        ("images", ["figures/history", "figures/samples", "figures/weights", "figures/confusion", "figures/mistakes"]),
        ("histograms", ["layers.0.weight", "layers.0.bias"]),
        ("graphs", ["Classifier"]),
        ("pr_curves", ["test/0", "test/9"]),
        ("hparams", ["hidden_sizes", "test/accuracy", "val/loss"]),
    ],
)
def test_a_person_finds_each_view_in_tensorboard(browser, address: str, tab: str, words: list[str]) -> None:
    with visit(browser, f"{address}/#{tab}", width=1400, height=1000) as seen:
        for word in words:
            seen.page.get_by_text(re.compile(re.escape(word))).first.wait_for(state="attached")
        assert seen.outside() == []


@pytest.mark.slow
def test_a_person_finds_the_images_drawn_in_tensorboard(browser, address: str) -> None:
    with visit(browser, f"{address}/#images", width=1400, height=1000) as seen:
        picture = seen.page.locator("img[src*='plugin/images']").first
        picture.wait_for()
        picture.evaluate("image => image.decode()")
        assert picture.evaluate("image => image.naturalWidth") >= 600


@pytest.mark.slow
def test_a_person_finds_the_embedding_in_the_projector(browser, address: str) -> None:
    with visit(browser, f"{address}/#projector", width=1400, height=1000) as seen:
        projector = seen.page.frame_locator("iframe").frame_locator("iframe")
        projector.get_by_text("359", exact=True).first.wait_for()  # points
        projector.locator("canvas").first.wait_for()
