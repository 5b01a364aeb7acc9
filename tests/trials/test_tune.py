"""tune: trials that are ordinary fits, resumed where they were killed, and the best beside the start."""

import csv
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import lightning.pytorch as L
import pytest
import torch
import yaml
from conftest import ROOT, Cli
from lightning.pytorch.callbacks import Callback
from torch import nn

from lit_mnist.runs.folder import find_config
from lit_mnist.trials.search import Search
from lit_mnist.trials.space import ends, kind_of, of_floats, options, point_of, read_space
from lit_mnist.trials.workers import run_all

START = {"trainer": {"max_epochs": 3}, "data": {"dataset": "digits", "batch_size": 64}}
SPACE = {
    "model.optimizer.lr": {"low": 1e-4, "high": 1e-2, "log": True},
    "model.network.dropout": {"low": 0.0, "high": 0.4, "step": 0.1},
    "model.network.hidden_sizes": [[16], [256, 128]],
    "data.batch_size": {"low": 32, "high": 64},
}


class Kill(Callback):
    """Kills its own process after two epochs of a fit, once."""

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.current_epoch == 2 and Path("kill").exists():
            Path("kill").unlink()
            os.kill(os.getpid(), signal.SIGKILL)


class Broken(nn.Module):
    """A network that fails, as long as it is broken."""

    broken = True

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.layer = nn.Linear(784, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if Broken.broken:
            raise RuntimeError("this network is broken")
        return self.layer(images.flatten(1))


@pytest.fixture
def files(tmp_path: Path, one_thread: None) -> list[str]:
    """The start and the space of a small search."""
    (tmp_path / "start.yaml").write_text(yaml.safe_dump(START))
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(SPACE))
    return ["start.yaml", "--space", "space.yaml", "--seeds", "2"]


def table(folder: str) -> list[dict[str, str]]:
    with Path(folder, "trials.csv").open() as file:
        return list(csv.DictReader(file))


def weights(folder: str, number: int) -> list[torch.Tensor]:
    path = Path(folder, f"trials/{number}/lightning_logs/version_0/checkpoints/last.ckpt")
    return list(torch.load(path, weights_only=True)["state_dict"].values())


def test_a_search_that_was_killed_in_a_trial_equals_an_uninterrupted_one(cli: Cli, files: list[str]) -> None:
    Path("start.yaml").write_text(yaml.safe_dump(START | {"trainer": {"max_epochs": 3, "callbacks": "test_tune.Kill"}}))
    cli("tune", *files, "--trials", 3, "--workers", 1, "--output", "whole").worked()
    Path("kill").touch()
    cli("tune", *files, "--trials", 3, "--workers", 2).refused("a worker was killed", status=1)
    assert not Path("kill").exists()
    cli("tune", *files, "--trials", 3, "--workers", 1).worked()
    assert table("tuning") == table("whole")
    for number in range(3):
        pairs = zip(weights("tuning", number), weights("whole", number), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs), number
    assert Path("tuning/README.md").read_text() == Path("whole/README.md").read_text()


def test_a_search_leaves_its_trials_the_best_and_a_comparison(cli: Cli, files: list[str]) -> None:
    slow = {"model": {"optimizer": {"class_path": "KerasRMSprop", "init_args": {"lr": 1e-4}}}}  # others are better
    Path("start.yaml").write_text(yaml.safe_dump(START | slow))
    done = cli("tune", *files, "--trials", 3, "--workers", 1).worked()
    rows = table("tuning")
    assert [line.split()[:2] for line in done.out.splitlines()[:3]] == [["trial", str(i)] for i in range(3)]
    assert rows[0]["model.optimizer.lr"] == "0.0001", "the first is the start"
    assert {row["state"] for row in rows} == {"complete"}
    assert all(row["model.network.hidden_sizes"] in ("[16]", "[256, 128]") for row in rows[1:])
    best = min(rows, key=lambda row: float(row["val/loss"]))
    text = Path("tuning/README.md").read_text()
    assert f"trial_{best['trial']}" in text
    assert "| `start` | 2 |" in text
    assert "| metric | config | difference | better in | it is |" in text
    assert text.count(" of 2 |") == 5, "metrics of test and validation"
    assert Path("tuning/search.png").stat().st_size > 10_000
    cli("fit", "--config", "tuning/best.yaml", "--trainer.fast_dev_run", 1).worked()
    config = yaml.safe_load(Path("tuning/best.yaml").read_text())
    assert "default_root_dir" not in str(config)
    assert not list(Path("tuning/trials").rglob("test.json")), "the test set stays closed"
    cli("report", "tuning/trials").worked()
    cli("tune", *files, "--trials", 4, "--workers", 1).worked()
    assert table("tuning")[:3] == rows
    assert len(table("tuning")) == 4
    Path("tuning").rename("moved")
    moved = cli("tune", *files, "--trials", 4, "--workers", 1, "--output", "moved").worked()
    assert moved.out.splitlines()[0].endswith("moved continues; it has 4 trials")
    Path("moved/study.log").rename("study.log")
    cli("tune", *files, "--output", "moved").refused("--output: ", "moved has trials but no search")
    Path("moved/study.log").unlink()
    Path("study.log").rename("moved/study.log")
    Path("moved").rename("tuning")
    cli("tune", *files, "--monitor", "val/accuracy").refused("contains a search with another space, config or monitor")
    Path("space.yaml").write_text(yaml.safe_dump({"data.batch_size": [32]}))
    cli("tune", *files).refused("--output", "contains a search with another space, config or monitor")


def test_trials_that_diverge_or_fail_are_told_and_do_not_stop_the_others(cli: Cli, files: list[str]) -> None:
    refused = {"class_path": "MLP", "init_args": {"dropout": 1.5}}
    space = {"model.network": ["MLP", refused, "test_tune.Broken"], "model.optimizer.lr": [0.001, 1e30]}
    Path("space.yaml").write_text(yaml.safe_dump(space))
    cli("tune", *files, "--trials", 9, "--workers", 1).worked()
    ends = {(row["state"], row["outcome"].partition(" 0.")[0]) for row in table("tuning")}
    assert ends == {
        ("complete", "val/loss"),
        ("pruned", "diverged"),
        ("fail", "--model.network.dropout: 1.5 is not in [0, 1)"),
        ("fail", "ModelError: network: Broken does not accept images (B, 28, 28): this network is broken"),
    }
    assert "No trial is better than the start" in Path("tuning/README.md").read_text()


def test_a_start_that_does_not_lie_in_the_space_is_told(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space = {"model.optimizer.lr": {"low": 0.002, "high": 0.003}}
    Search(["--config", str(tmp_path / "start.yaml")], space, 1, "val/loss", None, tmp_path / "tuning").begin()
    assert capsys.readouterr().err == (
        "lit-mnist: warning: --space: model.optimizer.lr of the start, 0.001, is not in the space;"
        " the first trial samples another value\n"
    )


def test_a_trial_that_is_worse_than_the_others_is_pruned(cli: Cli, files: list[str]) -> None:
    Path("space.yaml").write_text(yaml.safe_dump({"model.optimizer.lr": [0.001, 1e-7]}))
    cli("tune", *files, "--trials", 7, "--workers", 1).worked()
    pruned = [row for row in table("tuning") if row["state"] == "pruned"]
    assert pruned
    assert {(row["model.optimizer.lr"], row["epochs"]) for row in pruned} == {("1e-07", "2")}


@pytest.mark.filterwarnings("ignore")  # so that what is refused is refused without pytest
@pytest.mark.parametrize(
    ("space", "words"),
    [
        ({"model.network.dropuot": [0.1]}, ["--model.network.dropuot", "did you mean --model.network.dropout?"]),
        ({"data.batch_size": {"low": 1, "high": "many"}}, ["--space: data.batch_size"]),
        ({"data.batch_size": {"low": 9, "high": 3}}, ["--space: data.batch_size", "low"]),
        ({"data.batch_size": {"low": 1.5, "high": 8.0}}, ["--data.batch_size", "1.5"]),
        ({"model.optimizer.lr": {"low": 0, "high": 1.0, "log": True}}, ["--space: model.optimizer.lr"]),
        ({"model.optimizer.lr": {"low": 0.1}}, ["--space: model.optimizer.lr", "neither a list"]),
        ({"data.batch_size": {"low": 1, "high": 3, "step": 0.5}}, ["--data.batch_size", "1.0"]),
        ({"data.batch_size": {"low": 10, "high": 35, "step": 10}}, ["--space: data.batch_size", "not divisible"]),
        ({"model": {"optimizer": [1]}}, ["--space: model: ", "write full names, e.g. data.batch_size"]),
        ({"seed_everything": [0, 1]}, ["--space: seed_everything"]),
        ({"trainer.max_epochs": [3, "x"]}, ["--trainer.max_epochs", "x"]),
        ([], ["--space: space.yaml names no option"]),
    ],
)
def test_a_bad_space_is_refused_before_the_first_trial(
    space: object, words: list[str], cli: Cli, files: list[str]
) -> None:
    Path("space.yaml").write_text(yaml.safe_dump(space))
    cli("tune", *files).refused(*words)
    assert not Path("tuning").exists()


def test_numbers_of_a_space_are_those_of_a_config(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(
        "a: {low: 1e-4, high: 1e-2, log: true}\nb: {low: 1, high: 3}\nc: [x, [1, 2]]\n"
    )
    space = read_space(tmp_path / "space.yaml")
    assert [ends(space[name]) for name in "abc"] == [[1e-4, 1e-2], [1, 3], ['"x"', "[1, 2]"]]
    point = {"a": 0.00123456789, "b": 2, "c": '"x"'}
    assert options(point) == ["--a=0.00123457", "--b=2", "--c=x"]
    assert point_of(space, {"a": 0.01, "b": 4, "c": [1, 2]}) == {"a": 0.01, "c": "[1, 2]"}
    assert point_of(space, {"a": 1, "b": 1.5, "c": "y"}) == {}
    grid = {"a": {"low": 0.0, "high": 0.4, "step": 0.1}, "b": {"low": 32, "high": 512, "step": 96}}
    assert point_of(grid, {"a": 0.3, "b": 128}) == {"a": 0.3, "b": 128}
    assert point_of(grid, {"a": 0.35, "b": 129}) == {}
    whole = {"a": {"low": 0, "high": 1}, "b": {"low": 0, "high": 1}}
    assert list(map(kind_of, of_floats(whole, {"a": 0.0, "b": 0}).values())) == [float, int]


def test_the_spaces_of_the_page_are_taken_by_mlp_dropout(cli: Cli, tmp_path: Path) -> None:
    page = (ROOT / "docs/tuning.md").read_text().partition("```yaml\n")[2].partition("```")[0]
    for text in (page, (ROOT / "docs/tuning/space.yaml").read_text()):
        (tmp_path / "space.yaml").write_text(text)
        search = Search(
            ["--config", find_config("mlp_dropout")], read_space(Path("space.yaml")), 1, "val/loss", None, tmp_path
        )
        assert search.begin()["seed_everything"] == 0
        (tmp_path / "study.log").unlink()


def test_bad_options_are_refused(cli: Cli, files: list[str]) -> None:
    cli("tune", *files, "--trials", 0).refused("--trials: 0 is not at least 1")
    cli("tune", *files, "--monitor", "test/loss").refused("--monitor: test/loss is not a validation metric")
    cli("tune", "start.yaml", "--space", "none.yaml").refused("none.yaml: No such file")
    cli("tune", *files, "--storage", "nonsense").refused("--storage: ")
    monitored = cli("tune", *files, "--workers", 1, "--monitor", "val/acuracy")
    monitored.refused("--monitor: val/acuracy is not measured; did you mean val/accuracy?")


def test_a_start_that_fails_ends_the_search_which_the_same_command_resumes(cli: Cli, files: list[str]) -> None:
    Path("start.yaml").write_text(yaml.safe_dump(START | {"model": {"network": "test_tune.Broken"}}))
    Path("space.yaml").write_text("data.batch_size: [32, 64]")
    cli("tune", *files, "--trials", 2, "--workers", 1).refused("this network is broken")
    Broken.broken = False
    try:
        cli("tune", *files, "--trials", 2, "--workers", 1).worked()
    finally:
        Broken.broken = True
    assert [row["state"] for row in table("tuning")] == ["complete"] * 2


@pytest.fixture
def postgresql() -> Iterator[str]:
    """The URL of a PostgreSQL on loopback."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not programs or os.geteuid() != 0:
        pytest.skip("needs PostgreSQL, and root to start it")
    folder = Path(tempfile.mkdtemp())
    shutil.chown(folder, "postgres", "postgres")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    def run(program: str, *words: str) -> None:
        command = ["runuser", "-u", "postgres", "--", str(programs[-1] / program), "-D", str(folder / "data"), *words]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)

    run("initdb", "--auth=trust")
    run("pg_ctl", "-w", "-l", str(folder / "log"), "-o", f"-p {port} -k {folder} -h 127.0.0.1", "start")
    yield f"postgresql+psycopg://postgres@127.0.0.1:{port}/postgres"
    run("pg_ctl", "-m", "immediate", "stop")
    shutil.rmtree(folder)


def test_workers_on_a_database_make_as_many_trials_as_were_asked_for(
    cli: Cli, files: list[str], postgresql: str
) -> None:
    def search(trials: int, folder: str) -> Search:
        space = read_space(Path("space.yaml"))
        return Search(["--config", "start.yaml"], space, trials, "val/loss", postgresql, Path(folder).resolve())

    first = search(4, "tuning")
    first.begin()
    assert len(list(run_all([first.work, first.work], 2))) == 2
    other = search(5, "other_host/tuning")
    other.begin()
    other.work()
    trials = other.study().get_trials()
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 5
    assert len({str(trial.params) for trial in trials}) == 5
    folders = [{path.name for path in Path(name, "trials").glob("[0-9]")} for name in ("tuning", "other_host/tuning")]
    assert folders == [{"0", "1", "2", "3"}, {"4"}]
