"""Checkpoints: written whole or not at all, and read as data that cannot run code."""

import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Result, Trained
from reliability import CHECKPOINTS, DIGITS, Ended, assert_one_line, content, differences, fill, fit, run, small_disk

from lit_mnist.checkpoint import CheckpointError, read_checkpoint
from lit_mnist.runs.checkpoints import WholeCheckpointIO

Cli = Callable[..., Result]
ONE_LINE = r"\A[^\n]+\Z"


class Malicious:
    """What makes a folder when a pickle of it is loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.mkdir, (self.marker,)


def malicious_zip(path: Path, good: dict[str, Any], marker: Path) -> None:
    torch.save({**good, "callbacks": Malicious(marker)}, path)


def malicious_legacy(path: Path, good: dict[str, Any], marker: Path) -> None:
    torch.save({**good, "callbacks": Malicious(marker)}, path, _use_new_zipfile_serialization=False)


def malicious_pickle(path: Path, good: dict[str, Any], marker: Path) -> None:
    path.write_bytes(pickle.dumps({"lit_mnist": "0.1.0", "state_dict": Malicious(marker)}))


def malicious_protocol_0(path: Path, good: dict[str, Any], marker: Path) -> None:
    path.write_bytes(pickle.dumps({"lit_mnist": "0.1.0", "state_dict": Malicious(marker)}, protocol=0))


def truncated(path: Path, good: dict[str, Any], marker: Path) -> None:
    torch.save(good, path)
    path.write_bytes(path.read_bytes()[:-1000])


def cut_in_half(path: Path, good: dict[str, Any], marker: Path) -> None:
    torch.save(good, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path, good: dict[str, Any], marker: Path) -> None:
    path.write_bytes(b"")


def text(path: Path, good: dict[str, Any], marker: Path) -> None:
    path.write_text("epoch,loss\n1,0.5\n")


def html(path: Path, good: dict[str, Any], marker: Path) -> None:
    path.write_text("<!DOCTYPE html><html><body>404</body></html>")


def other_program(path: Path, good: dict[str, Any], marker: Path) -> None:
    torch.save({"state_dict": good["state_dict"]}, path)


def bare_tensor(path: Path, good: dict[str, Any], marker: Path) -> None:
    torch.save(torch.zeros(3), path)


CODE = "holds code or objects other than plain data, and is not loaded"
DAMAGED = "is damaged or no checkpoint"
OTHER = "is a checkpoint of another program, not one that lit_mnist wrote"
BAD = [
    (malicious_zip, CODE),
    (malicious_legacy, DAMAGED),
    (malicious_pickle, DAMAGED),
    (malicious_protocol_0, DAMAGED),
    (truncated, DAMAGED),
    (cut_in_half, DAMAGED),
    (empty, DAMAGED),
    (text, DAMAGED),
    (html, DAMAGED),
    (other_program, OTHER),
    (bare_tensor, OTHER),
]


@pytest.fixture
def good(trained: Trained) -> dict[str, Any]:
    return torch.load(trained.run / "checkpoints" / "last.ckpt", weights_only=True)


# Reading


@pytest.mark.parametrize("make", [malicious_zip, malicious_legacy, malicious_pickle, malicious_protocol_0])
def test_these_files_do_run_code_where_they_are_trusted(
    make: Callable[..., None], good: dict[str, Any], tmp_path: Path
) -> None:
    make(tmp_path / "bad.ckpt", good, tmp_path / "marker")
    if "zip" in make.__name__ or "legacy" in make.__name__:
        torch.load(tmp_path / "bad.ckpt", weights_only=False)
    else:
        pickle.loads((tmp_path / "bad.ckpt").read_bytes())
    assert (tmp_path / "marker").exists()


@pytest.mark.parametrize(("make", "reason"), BAD)
def test_a_checkpoint_that_is_none_is_refused_with_a_line_that_says_what_it_is(
    make: Callable[..., None], reason: str, good: dict[str, Any], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    path = tmp_path / "bad.ckpt"
    make(path, good, tmp_path / "marker")
    for read in (read_checkpoint, lambda path: WholeCheckpointIO().load_checkpoint(path, weights_only=False)):
        with pytest.raises(CheckpointError, match=ONE_LINE) as caught:
            read(path)
        assert str(caught.value) == f"{path}: {reason}"
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict x.png", "export", "demo"])
@pytest.mark.parametrize(("make", "reason"), BAD)
def test_no_command_takes_such_a_checkpoint(
    make: Callable[..., None], reason: str, command: str, good: dict[str, Any], own_run: Path, cli: Cli
) -> None:
    path = own_run / "checkpoints" / "last.ckpt"
    make(path, good, own_run / "marker")
    done = cli(*command.split(), "--ckpt_path", "last")
    assert_one_line(Ended(done.status, done.out, done.err), f"last.ckpt: {reason}")
    assert not (own_run / "marker").exists()


@pytest.mark.parametrize("cut", range(0, 100, 4))
def test_wherever_a_checkpoint_was_cut_off_it_is_refused(cut: int, good: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "cut.ckpt"
    torch.save(good, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * cut // 100])
    with pytest.raises(CheckpointError, match=ONE_LINE):
        read_checkpoint(path)


def test_whatever_bytes_a_file_holds_it_is_refused_in_one_line(good: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "noise.ckpt"
    chance = random.Random(0)
    for _ in range(300):
        path.write_bytes(chance.randbytes(chance.randrange(1, 60)))
        with pytest.raises(CheckpointError, match=ONE_LINE):
            read_checkpoint(path)
    torch.save({"state_dict": {"weight": torch.zeros(3)}}, path, _use_new_zipfile_serialization=False)
    legacy = path.read_bytes()
    for size in range(len(legacy)):
        path.write_bytes(legacy[:size])
        with pytest.raises(CheckpointError, match=ONE_LINE):
            read_checkpoint(path)


def test_a_folder_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=ONE_LINE):
        read_checkpoint(tmp_path)


def test_hyperparameters_of_a_checkpoint_name_no_class_to_run(good: dict[str, Any], own_run: Path, cli: Cli) -> None:
    marker = own_run / "marker"
    start = {"class_path": "subprocess.Popen", "init_args": {"args": ["mkdir", str(marker)]}}
    for group in ("hyper_parameters", "datamodule_hyper_parameters"):
        torch.save({**good, group: start}, own_run / "checkpoints" / "best.ckpt")
        done = cli("test")
        assert_one_line(Ended(done.status, done.out, done.err))
    assert not marker.exists()


@pytest.mark.parametrize("command", ["fit", "test"])
def test_a_checkpoint_of_other_hidden_sizes_is_named_with_both(command: str, own_run: Path, cli: Cli) -> None:
    done = cli(command, "--ckpt_path", "last", "--model.network.hidden_sizes", "[64, 16]")
    assert_one_line(
        Ended(done.status, done.out, done.err), "--model.network.hidden_sizes: [64, 16]", "[32, 16]", "last.ckpt"
    )


# Writing


def test_a_checkpoint_reads_as_it_was_written(good: dict[str, Any], tmp_path: Path) -> None:
    WholeCheckpointIO().save_checkpoint(good, tmp_path / "new" / "a.ckpt")
    assert differences(read_checkpoint(tmp_path / "new" / "a.ckpt"), good) == []
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.ckpt"]


def test_whatever_goes_wrong_while_saving_the_previous_checkpoint_stays(
    good: dict[str, Any], tmp_path: Path, monkeypatch: Any
) -> None:
    path = tmp_path / "a.ckpt"
    WholeCheckpointIO().save_checkpoint(good, path)
    before = path.read_bytes()
    with pytest.raises((AttributeError, pickle.PicklingError)):
        WholeCheckpointIO().save_checkpoint({**good, "unpicklable": lambda: None}, path)
    monkeypatch.setattr("os.fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        WholeCheckpointIO().save_checkpoint({**good, "epoch": 99}, path)
    assert path.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.ckpt"]


def interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def assert_stays_whole(folder: Path, before: dict[str, bytes], done: Ended) -> None:
    assert_one_line(done, ".ckpt", status=1)
    assert {path.name: path.read_bytes() for path in (folder / CHECKPOINTS).iterdir()} == before
    read_checkpoint(folder / CHECKPOINTS / "last.ckpt")


def test_a_file_that_cannot_grow_leaves_the_previous_checkpoint_whole(tmp_path: Path) -> None:
    fit(tmp_path, *DIGITS, "--trainer.max_epochs", 1)
    before = {path.name: path.read_bytes() for path in (tmp_path / CHECKPOINTS).iterdir()}
    resume = ("fit", "--ckpt_path", "last", "--trainer.max_epochs", 2)
    assert_stays_whole(tmp_path, before, run(tmp_path, *resume, max_file=1_000_000))
    fit(tmp_path, *resume)
    assert content(tmp_path / CHECKPOINTS / "last.ckpt")["epoch"] == 2 - 1


def test_a_full_disk_leaves_the_previous_checkpoint_whole(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 8_000_000) as disk:
        fit(disk, *DIGITS, "--trainer.max_epochs", 1)
        before = {path.name: path.read_bytes() for path in (disk / CHECKPOINTS).iterdir()}
        fill(disk, left=400_000)
        resume = ("fit", "--ckpt_path", "last", "--trainer.max_epochs", 2)
        assert_stays_whole(disk, before, run(disk, *resume))
        (disk / "filler").unlink()
        fit(disk, *resume)
