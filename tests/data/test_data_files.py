"""The data set files: whatever happens to them, the images are the right ones or one line says why there are none."""

import contextlib
import gzip
import hashlib
import logging
import os
import random
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mirrors
import numpy as np
import pytest
import torch
from conftest import run_cli
from mirrors import Mirror
from reliability import FRESH, Ended, assert_one_line, small_disk, wait_for
from torchvision.datasets import FashionMNIST

from lit_mnist.data import DataError, download, files
from lit_mnist.data.checksums import SHA256

ONE_LINE = r"\A[^\n]+\Z"
Damage = Callable[[bytes], bytes]

DAMAGES: dict[str, Damage] = {
    "truncated": lambda content: content[:-5],
    "cut in the header": lambda content: content[:6],
    "empty": lambda content: b"",
    "html": lambda content: b"<!DOCTYPE html><html><body>404</body></html>",
    "too long": lambda content: content + b"\0",
}


@pytest.fixture(scope="module")
def contents() -> dict[str, bytes]:
    return mirrors.make_contents()


@pytest.fixture(scope="module")
def archives(contents: dict[str, bytes]) -> dict[str, bytes]:
    return mirrors.pack(contents)


@pytest.fixture
def raw(
    tmp_path: Path, contents: dict[str, bytes], archives: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """An empty raw folder of Fashion-MNIST, which the program believes to be the small one, on no mirror."""
    mirrors.know(contents, archives, monkeypatch)
    monkeypatch.setattr(download, "PATIENCE", 0.5)
    folder = tmp_path / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    with mirrors.refusing_url() as url:
        monkeypatch.setattr(FashionMNIST, "mirrors", [url])
        yield folder
    folder.chmod(0o755)


def write(folder: Path, named: dict[str, bytes]) -> None:
    for name, content in named.items():
        (folder / name).write_bytes(content)


def load(raw: Path, split: Any = "train") -> tuple[torch.Tensor, torch.Tensor]:
    return files.load("fashion_mnist", raw.parent.parent, split)


def assert_right(loaded: tuple[torch.Tensor, torch.Tensor], contents: dict[str, bytes], prefix: str = "train") -> None:
    images, labels = loaded
    assert images.numpy().tobytes() == contents[f"{prefix}-images-idx3-ubyte"][16:]
    assert labels.numpy().astype(np.uint8).tobytes() == contents[f"{prefix}-labels-idx1-ubyte"][8:]


def remains(folder: Path) -> list[str]:
    """What lies in a folder apart from good files: the names of parts and of files of no bytes but the lock."""
    return [
        path.name for path in folder.iterdir() if path.name not in {*mirrors.NAMES, ".lock"} and path.suffix != ".gz"
    ]


# Damaged files


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_replaced_from_its_archive_and_that_is_said(
    raw: Path, contents: dict[str, bytes], archives: dict[str, bytes], caplog: Any, name: str, damage: str
) -> None:
    write(raw, archives | contents)
    (raw / name).write_bytes(DAMAGES[damage](contents[name]))
    with caplog.at_level(logging.INFO):
        assert_right(load(raw), contents)
    assert (raw / name).read_bytes() == contents[name]
    (message,) = caplog.messages
    assert str(raw / name) in message
    assert "replacing" in message


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_and_a_damaged_archive_are_replaced_from_a_mirror(
    raw: Path, contents: dict[str, bytes], archives: dict[str, bytes], monkeypatch: Any, damage: str
) -> None:
    write(raw, archives | contents)
    for name, content in (contents | archives).items():
        (raw / name).write_bytes(DAMAGES[damage](content))
    with Mirror(archives) as mirror:
        monkeypatch.setattr(FashionMNIST, "mirrors", [mirror.url])
        assert_right(load(raw), contents)
        assert_right(load(raw, "test"), contents, "t10k")
        assert sorted(mirror.requests) == sorted(archives)
    assert {path.name: path.read_bytes() for path in raw.iterdir() if path.name[0] != "."} == archives | contents


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_in_a_folder_that_cannot_be_written_is_named_in_one_line(
    raw: Path, contents: dict[str, bytes], damage: str
) -> None:
    name = "train-labels-idx1-ubyte"
    write(raw, contents | {name: DAMAGES[damage](contents[name])})
    raw.chmod(0o555)
    with pytest.raises(DataError, match=ONE_LINE) as caught:
        load(raw)
    for words in (f"{raw / name} is damaged", "LIT_MNIST_DATA_DIR", "cannot be written"):
        assert words in str(caught.value)
    assert (raw / name).read_bytes() == DAMAGES[damage](contents[name])


def test_a_damaged_file_in_a_folder_that_cannot_be_written_gives_way_to_its_archive(
    raw: Path, contents: dict[str, bytes], archives: dict[str, bytes]
) -> None:
    write(raw, archives | dict.fromkeys(contents, b""))
    raw.chmod(0o555)
    assert_right(load(raw), contents)


@pytest.mark.parametrize("label", [10, 11, 255])
def test_a_label_that_is_no_digit_is_stopped_before_training(raw: Path, contents: dict[str, bytes], label: int) -> None:
    name = "train-labels-idx1-ubyte"
    write(raw, contents | {name: contents[name][:-1] + bytes([label])})
    with pytest.raises(DataError, match=ONE_LINE) as caught:
        load(raw)
    assert name in str(caught.value)


def test_images_and_labels_that_do_not_belong_together_are_stopped(raw: Path, contents: dict[str, bytes]) -> None:
    write(raw, contents | {"train-images-idx3-ubyte": contents["t10k-images-idx3-ubyte"]})
    with pytest.raises(DataError, match=ONE_LINE) as caught:
        load(raw)
    assert "train-images-idx3-ubyte" in str(caught.value)


# Real MNIST


@pytest.fixture
def mnist_raw(mnist_dir: Path, tmp_path: Path) -> Iterator[Path]:
    """A raw folder with the archives of real MNIST; mnist_dir's own are not touched."""
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for archive in (mnist_dir / "MNIST" / "raw").glob("*.gz"):
        (folder / archive.name).symlink_to(archive)
    yield folder
    folder.chmod(0o755)


def flip_a_byte(raw: Path) -> str:
    path = raw / "t10k-images-idx3-ubyte"
    content = bytearray(path.read_bytes())
    content[5_000_000] ^= 1
    path.write_bytes(content)
    return path.name


def swap_test_for_train(raw: Path) -> str:
    (raw / "t10k-images-idx3-ubyte").unlink()
    with gzip.open(raw / "train-images-idx3-ubyte.gz") as archive:
        (raw / "t10k-images-idx3-ubyte").write_bytes(archive.read())
    return "t10k-images-idx3-ubyte"


def relabel_as_11(raw: Path) -> str:
    path = raw / "t10k-labels-idx1-ubyte"
    path.write_bytes(path.read_bytes()[:-1] + b"\x0b")
    return path.name


def swap_two_labels(raw: Path) -> str:
    path = raw / "t10k-labels-idx1-ubyte"
    content = path.read_bytes()
    path.write_bytes(content[:8] + content[9:10] + content[8:9] + content[10:])
    return path.name


@pytest.mark.parametrize("damage", [flip_a_byte, swap_test_for_train, relabel_as_11, swap_two_labels])
def test_mnist_with_other_content_is_replaced_where_it_can_be_and_refused_where_not(
    mnist_raw: Path, caplog: Any, damage: Callable[[Path], str]
) -> None:
    images, labels = files.load("mnist", mnist_raw.parent.parent, "test")
    name = damage(mnist_raw)
    damaged = (mnist_raw / name).read_bytes()

    archive = (mnist_raw / f"{name}.gz").readlink()
    (mnist_raw / f"{name}.gz").unlink()
    mnist_raw.chmod(0o555)
    with pytest.raises(DataError, match=ONE_LINE) as caught:
        files.load("mnist", mnist_raw.parent.parent, "test")
    assert f"{mnist_raw / name} is damaged: its SHA-256 differs" in str(caught.value)
    assert (mnist_raw / name).read_bytes() == damaged

    mnist_raw.chmod(0o755)
    (mnist_raw / f"{name}.gz").symlink_to(archive)
    again = files.load("mnist", mnist_raw.parent.parent, "test")
    assert torch.equal(again[0], images)
    assert torch.equal(again[1], labels)
    assert caplog.messages == [f"{mnist_raw / name} is damaged: its SHA-256 differs; replacing it"]


def test_mnist_comes_from_a_mirror_once_and_then_from_its_folder(
    mnist_dir: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    from torchvision.datasets import MNIST

    archives = {path.name: path.read_bytes() for path in (mnist_dir / "MNIST" / "raw").glob("t10k*.gz")}
    with Mirror(archives) as mirror:
        monkeypatch.setattr(MNIST, "mirrors", [mirror.url])
        for _ in range(2):
            images, labels = files.load("mnist", tmp_path, "test")
        assert sorted(mirror.requests) == sorted(archives)
    assert (len(images), len(labels)) == (10_000, 10_000)


def test_the_command_line_trains_on_no_damaged_file(mnist_raw: Path, tmp_path: Path) -> None:
    files.load("mnist", tmp_path, "test")
    name = flip_a_byte(mnist_raw)
    (mnist_raw / f"{name}.gz").unlink()
    mnist_raw.chmod(0o555)
    done = run_cli("fit", "--data.data_dir", tmp_path, cwd=tmp_path)
    assert_one_line(Ended(done.returncode, done.stdout, done.stderr), f"{mnist_raw / name} is damaged")


# Downloading


@pytest.mark.parametrize(
    "answer",
    [
        mirrors.not_found,
        mirrors.short_body,
        mirrors.short_chunks,
        mirrors.wrong_content,
        mirrors.no_http,
        mirrors.no_answer,
        mirrors.stalls,
        mirrors.endless,
        mirrors.trickling,
        mirrors.trickling_headers,
    ],
)
def test_after_a_mirror_that_fails_the_next_one_is_used(
    raw: Path, contents: dict[str, bytes], archives: dict[str, bytes], monkeypatch: Any, answer: mirrors.Answer
) -> None:
    with Mirror(archives, answer) as bad, Mirror(archives) as good:
        monkeypatch.setattr(FashionMNIST, "mirrors", [bad.url, good.url])
        assert_right(load(raw), contents)
        assert good.requests == ["train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"]
    assert remains(raw) == []


def test_after_a_mirror_that_refuses_the_connection_the_next_one_is_used(
    raw: Path, contents: dict[str, bytes], archives: dict[str, bytes], monkeypatch: Any
) -> None:
    with Mirror(archives) as good:
        monkeypatch.setattr(FashionMNIST, "mirrors", [*FashionMNIST.mirrors, good.url])
        assert_right(load(raw), contents)


def test_without_any_mirror_one_line_says_what_was_tried_and_what_to_do(
    raw: Path, archives: dict[str, bytes], monkeypatch: Any
) -> None:
    with Mirror(archives, mirrors.not_found) as bad:
        tried = [bad.url, *FashionMNIST.mirrors, "http://no-such-host.invalid/"]
        monkeypatch.setattr(FashionMNIST, "mirrors", tried)
        with pytest.raises(DataError, match=ONE_LINE) as caught:
            load(raw)
    for words in (*tried, "LIT_MNIST_DATA_DIR", "--config configs/quickstart.yaml"):
        assert words in str(caught.value)
    assert remains(raw) == []


def test_the_command_line_says_in_one_line_that_there_is_no_data(
    raw: Path, cli: Callable[..., Any], caplog: Any
) -> None:
    done = cli("fit", "--data.dataset", "fashion_mnist", "--data.data_dir", raw.parent.parent)
    assert_one_line(Ended(done.status, done.out, done.err), "LIT_MNIST_DATA_DIR", "quickstart", *FashionMNIST.mirrors)


@pytest.mark.parametrize("size", [120_000, 180_000])
def test_a_disk_that_is_full_while_downloading_or_unpacking_is_named_and_leaves_nothing_half_written(
    cli: Callable[..., Any], tmp_path: Path, monkeypatch: Any, size: int
) -> None:
    large = mirrors.make_contents(train=200)  # 157 kB, packed and unpacked
    archives = mirrors.pack(large)
    mirrors.know(large, archives, monkeypatch)
    with small_disk(tmp_path / "disk", size) as disk, Mirror(archives) as mirror, Mirror(archives) as other:
        monkeypatch.setattr(FashionMNIST, "mirrors", [mirror.url, other.url])
        done = cli("fit", "--data.dataset", "fashion_mnist", "--data.data_dir", disk, "--trainer.accelerator", "cpu")
        raw = disk / "FashionMNIST" / "raw"
        assert_one_line(Ended(done.status, done.out, done.err), f"{raw}/train-", "No space left on device", status=1)
        assert other.requests == []
        assert remains(raw) == []
        left = {path.name: path.read_bytes() for path in raw.iterdir() if path.name != ".lock"}
        assert left.items() <= (archives | large).items()


@pytest.mark.parametrize("answer", [mirrors.endless, mirrors.trickling, mirrors.trickling_headers])
def test_of_a_mirror_that_sends_too_much_or_too_slowly_the_line_says_so(
    raw: Path, archives: dict[str, bytes], monkeypatch: Any, answer: mirrors.Answer
) -> None:
    with Mirror(archives, answer) as bad:
        monkeypatch.setattr(FashionMNIST, "mirrors", [bad.url])
        with pytest.raises(DataError, match=ONE_LINE) as caught:
            load(raw)
        assert len(bad.requests) == 1
    reason = "it sent more than 50 MB" if answer is mirrors.endless else "it sent less than 10 kB/s"
    assert f"{bad.url}train-images-idx3-ubyte.gz: {reason}" in str(caught.value)
    assert remains(raw) == []


# What each data set is


def true_form(dataset: str, folder: Path, patch: pytest.MonkeyPatch) -> dict[str, list[int]]:
    """Write archives of a data set's true names, types and dimensions, of a few images; returns the labels."""
    labels = {"train": [index * 7 % 10 for index in range(50)], "test": [index * 3 % 10 for index in range(20)]}
    hashes = {}
    for split, values in labels.items():
        raw, found = files._files(dataset, folder, split)
        raw.mkdir(parents=True, exist_ok=True)
        images = np.random.default_rng(0).integers(0, 256, (len(values), 28, 28))
        contents = [mirrors.idx(images), mirrors.idx(np.array(values))]
        if dataset == "qmnist":  # class, series, writer, number and more of each, in four bytes each
            table = np.arange(len(values) * 8).reshape(-1, 8) * 100_000
            table[:, 0] = values
            contents[1] = struct.pack(">HBB2I", 0, 0x0C, 2, *table.shape) + table.astype(">i4").tobytes()
        for file, content in zip(found, contents, strict=True):
            archive = gzip.compress(content)
            (raw / file.archive).write_bytes(archive)
            hashes[file.archive] = hashlib.sha256(archive).hexdigest()
    patch.setitem(SHA256, dataset, hashes)
    return labels


@pytest.mark.parametrize("dataset", SHA256)
def test_a_data_set_in_its_true_form_trains_and_tests(
    dataset: str, cli: Callable[..., Any], tmp_path: Path, monkeypatch: Any
) -> None:
    labels = true_form(dataset, tmp_path, monkeypatch)
    for split in ("train", "test"):
        images, found = files.load(dataset, tmp_path, split)
        assert (images.shape, images.dtype) == ((len(found), 28, 28), torch.uint8)
        assert (found.tolist(), found.dtype) == (labels[split], torch.int64)
    data = ("--data.dataset", dataset, "--data.data_dir", tmp_path, "--trainer.accelerator", "cpu")
    assert cli("fit", *data, "--trainer.max_epochs", 1, "--data.batch_size", 20).status == 0
    done = cli("test", *data)
    assert (done.status, done.err) == (0, "")


KNOWN = {dataset: dict(hashes) for dataset, hashes in SHA256.items()}  # before a test has others know its own files


@pytest.mark.parametrize("dataset", KNOWN)
def test_of_each_data_set_all_archives_are_known_and_one_that_differs_in_a_byte_is_refused(
    dataset: str, tmp_path: Path, monkeypatch: Any
) -> None:
    known = KNOWN[dataset]
    true_form(dataset, tmp_path, monkeypatch)
    assert SHA256[dataset].keys() == {name for name in known if name.endswith(".gz")}
    raw, (images, _) = files._files(dataset, tmp_path, "train")
    (raw / images.name).write_bytes(gzip.decompress((raw / images.archive).read_bytes()))
    archive = bytearray((raw / images.archive).read_bytes())
    archive[-1] ^= 1  # of the length at its end
    (raw / images.archive).write_bytes(archive)
    raw.chmod(0o555)
    with pytest.raises(DataError, match=ONE_LINE) as caught:
        files.load(dataset, tmp_path, "train")
    raw.chmod(0o755)
    assert f"{raw / images.archive} is damaged: its SHA-256 differs" in str(caught.value)


BAD_FORM = {
    "int32 images": ("train-images-idx3-ubyte", struct.pack(">HBB3I", 0, 0x0C, 3, 60, 28, 28) + bytes(4 * 60 * 784)),
    "images without dimensions": ("train-images-idx3-ubyte", struct.pack(">HBB", 0, 8, 0) + b"\0"),
    "labels without dimensions": ("train-labels-idx1-ubyte", struct.pack(">HBB", 0, 8, 0) + b"\0"),
    "labels of no columns": ("train-labels-idx1-ubyte", struct.pack(">HBB2I", 0, 8, 2, 60, 0)),
    "labels of three dimensions": ("train-labels-idx1-ubyte", struct.pack(">HBB3I", 0, 8, 3, 60, 1, 1) + bytes(60)),
    "labels of 255 dimensions": ("train-labels-idx1-ubyte", struct.pack(">HBB", 0, 8, 255) + bytes(4 * 255)),
    "labels below 0": ("train-labels-idx1-ubyte", struct.pack(">HBBI", 0, 0x0C, 1, 60) + b"\xff" * 240),
    "floats": ("train-labels-idx1-ubyte", struct.pack(">HBBI", 0, 0x0D, 1, 60) + bytes(240)),
    "no images": ("train-images-idx3-ubyte", struct.pack(">HBB3I", 0, 8, 3, 0, 28, 28)),
}


@pytest.mark.parametrize("what", BAD_FORM)
def test_an_idx_file_of_another_form_gets_one_line(
    what: str, raw: Path, contents: dict[str, bytes], monkeypatch: Any
) -> None:
    name, content = BAD_FORM[what]
    mirrors.know(contents | {name: content}, {}, monkeypatch)
    monkeypatch.setattr(FashionMNIST, "resources", [(f"{name}.gz", "") for name in contents])
    write(raw, contents | {name: content})
    with pytest.raises(DataError, match=ONE_LINE):
        load(raw)


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_a_pipe_or_device_in_place_of_a_file_is_not_read(
    make: Callable[[Path], None], raw: Path, contents: dict[str, bytes]
) -> None:
    name = "train-labels-idx1-ubyte"
    write(raw, contents)
    (raw / name).unlink()
    make(raw / name)
    raw.chmod(0o555)
    with pytest.raises(DataError, match="it is no file"):
        load(raw)


# Several processes, killed ones


def test_of_two_runs_that_start_at_once_one_downloads_and_the_other_waits(
    tmp_path: Path, contents: dict[str, bytes], archives: dict[str, bytes]
) -> None:
    with Mirror(archives, mirrors.slowly) as mirror:
        logs = [tmp_path / "log0", tmp_path / "log1"]
        runs = [
            FRESH.Process(target=mirrors.load, args=(tmp_path / "data", contents, [mirror.url], log)) for log in logs
        ]
        for process in runs:
            process.start()
        for process in runs:
            process.join(60)
        assert [process.exitcode for process in runs] == [0, 0], [log.read_text() for log in logs]
        assert mirror.requests == ["train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"]
    said = [log.read_text() for log in logs]
    assert any("Waiting for another run that downloads" in text for text in said)
    assert remains(tmp_path / "data" / "FashionMNIST" / "raw") == []


def test_a_process_killed_while_unpacking_leaves_no_bad_file(tmp_path: Path, monkeypatch: Any) -> None:
    zeros = np.zeros((40_000, 28, 28), np.uint8)
    contents = mirrors.make_contents() | {
        "train-images-idx3-ubyte": mirrors.idx(zeros),
        "train-labels-idx1-ubyte": mirrors.idx(zeros[:, 0, 0]),
    }
    archives = mirrors.pack(contents)
    mirrors.know(contents, archives, monkeypatch)
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    write(raw, archives)

    def half_written() -> bool:
        with contextlib.suppress(FileNotFoundError):  # moved to its place between being seen and being looked at
            sizes = [path.stat().st_size for path in raw.glob(".train-images-idx3-ubyte.part")]
            return any(size < len(contents["train-images-idx3-ubyte"]) for size in sizes)
        return False

    chance = random.Random(0)
    caught_writing = 0
    for kill in range(10):
        process = FRESH.Process(target=mirrors.load, args=(tmp_path, contents, [], None, True))
        process.start()
        wait_for(lambda: (raw / "train-labels-idx1-ubyte").exists())
        if kill % 2:
            time.sleep(chance.random() / 2)
        else:
            wait = time.monotonic() + 5
            while not half_written() and time.monotonic() < wait:
                pass
        process.kill()
        process.join()
        caught_writing += half_written()
        for name in mirrors.NAMES[:2]:
            assert not (raw / name).exists() or (raw / name).read_bytes() == contents[name]
    assert caught_writing >= 1
    assert len(load(raw)[0]) == 40_000
    (raw / "train-images-idx3-ubyte").unlink()
    assert len(load(raw)[0]) == 40_000
    assert remains(raw) == []
