"""Image files in, digits out: on the command line and from Python."""

import csv
import json
import os
import pty
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Result, Trained
from PIL import Image
from reliability import Ended, assert_one_line, fit, run
from test_images import BROKEN, DIFFICULT, photo

from lit_mnist import Classifier, MNISTDataModule
from lit_mnist.errors import printable
from lit_mnist.use.image_files import ImageError
from lit_mnist.use.predict import Prediction, find_images, predict_images

Cli = Callable[..., Result]
CONFIGS = Path(__file__).parents[2] / "configs"
COLUMNS = ["file", "digit", "probability", "runner_up", "runner_up_probability"]


@pytest.fixture(scope="session")
def mnist_checkpoint(tmp_path_factory: pytest.TempPathFactory, mnist_dir: Path) -> Path:
    """The best checkpoint of two epochs on real MNIST."""
    configs = [word for name in ("mlp", "fast") for word in ("--config", CONFIGS / f"{name}.yaml")]
    options = ("--data.data_dir", mnist_dir, "--trainer.max_epochs", 2, "--trainer.accelerator", "cpu")
    return fit(tmp_path_factory.mktemp("on_mnist"), "fit", *configs, *options) / "checkpoints" / "best.ckpt"


@pytest.fixture(scope="module")
def on_mnist(mnist_checkpoint: Path) -> Classifier:
    return Classifier.load_from_checkpoint(mnist_checkpoint, map_location="cpu")


@pytest.fixture(scope="module")
def mnist(mnist_dir: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """The test images (10000, 28, 28) uint8 and labels (10000,)."""
    data = MNISTDataModule(data_dir=str(mnist_dir))
    data.setup("test")
    return data.images("test")


@pytest.fixture
def on_digits(trained: Trained) -> Classifier:
    return Classifier.load_from_checkpoint(trained.run / "checkpoints" / "best.ckpt", map_location="cpu")


@pytest.fixture
def images(digits: MNISTDataModule) -> torch.Tensor:
    """The embedded test images (359, 28, 28) uint8."""
    return digits.images("test")[0]


def answers(classifier: Classifier, images: torch.Tensor) -> torch.Tensor:
    """Probabilities (N, 10) of images (N, 28, 28) uint8, computed without the code under test."""
    with torch.inference_mode():
        return classifier.eval()(images.flatten(1) / 255).softmax(1)


def save(image: torch.Tensor, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image.numpy()).save(path, "PNG")
    return path


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.DictReader(file))


def errors(done: Result, status: int = 1) -> list[str]:
    """The lines on stderr without their start, of a command that ended with that status."""
    assert done.status == status, done.err
    lines = done.err.splitlines()
    assert all(line.startswith("lit-mnist: error: ") for line in lines), done.err
    return [line.removeprefix("lit-mnist: error: ") for line in lines]


# Right answers


def test_mnists_test_images_as_files_give_exactly_the_accuracy_of_test(
    cli: Cli, mnist_checkpoint: Path, mnist_dir: Path, mnist: Any, tmp_path: Path
) -> None:
    images, labels = mnist
    for number, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        save(image, tmp_path / "files" / str(label) / f"{number:05}.png")
    done = cli("predict", "files", "--ckpt_path", mnist_checkpoint, "--output", "all.csv")
    assert (done.status, done.err) == (0, "")
    found = rows(tmp_path / "all.csv")
    assert len(found) == 10_000
    accuracy = sum(row["digit"] == Path(row["file"]).parent.name for row in found) / 10_000
    options = ("--trainer.accelerator", "cpu", "--data.data_dir", mnist_dir)
    tested = cli("test", "--ckpt_path", mnist_checkpoint, *options, "--trainer.default_root_dir", tmp_path)
    said = re.search(r"test_accuracy (\S+)", tested.out)
    assert said, tested.err
    assert f"{accuracy:.4f}" == said[1]
    assert accuracy > 0.94
    counts = [int(count.replace(",", "")) for count in re.findall(r"│ \d +│ +([\d,]+) │", done.out)]
    assert counts == [sum(row["digit"] == str(digit) for row in found) for digit in range(10)]


@pytest.fixture(scope="module")
def sure(on_mnist: Classifier, mnist: Any) -> dict[int, torch.Tensor]:
    """For each digit the image (28, 28) of which the classifier is surest."""
    images, labels = mnist
    probabilities = answers(on_mnist, images)
    return {digit: images[(probabilities[:, digit] * (labels == digit)).topk(20).indices[digit]] for digit in range(10)}


@pytest.mark.parametrize("name", DIFFICULT)
def test_a_difficult_file_gives_the_answer_of_the_clean_image(
    name: str, on_mnist: Classifier, sure: dict[int, torch.Tensor], tmp_path: Path
) -> None:
    files = [tmp_path / str(digit) / name for digit in sure]
    for file, image in zip(files, sure.values(), strict=True):
        file.parent.mkdir()
        DIFFICULT[name](image.numpy(), file)
    assert [one.digit for one in predict_images(on_mnist, files)] == list(sure)


def test_photos_are_read_nearly_as_well_as_the_images_themselves(
    on_mnist: Classifier, mnist: Any, tmp_path: Path
) -> None:
    images, labels = (part[:100] for part in mnist)
    chance = np.random.default_rng(0)
    files = [tmp_path / f"{number}.jpg" for number in range(100)]
    for file, image in zip(files, images.numpy(), strict=True):
        photo(image, chance).save(file, quality=80)
    found = torch.tensor([one.digit for one in predict_images(on_mnist, files)])
    clean = answers(on_mnist, images).argmax(1)
    assert (found == labels).sum() >= (clean == labels).sum() - 3


def test_a_prediction_holds_what_the_classifier_says(
    on_digits: Classifier, images: torch.Tensor, tmp_path: Path
) -> None:
    files = [save(image, tmp_path / f"{number}.png") for number, image in enumerate(images[:30])]
    on_digits.train()
    found = predict_images(on_digits, files)
    assert on_digits.training
    expected = answers(on_digits, images[:30])
    for one, file, row in zip(found, files, expected, strict=True):
        assert (one.probabilities.shape, one.probabilities.dtype) == ((10,), torch.float32)
        torch.testing.assert_close(one.probabilities, row)
        best, second = row.sort(descending=True).indices[:2].tolist()
        values = one.probabilities.tolist()
        assert one == Prediction(file, best, values[best], second, values[second], one.probabilities)


def test_the_command_writes_what_python_gives(
    cli: Cli, on_digits: Classifier, own_run: Path, images: torch.Tensor, tmp_path: Path
) -> None:
    names = ["a.png", "b/[red]c.png", "b/d,\n:smile:.png", os.fsdecode(b"b/no-utf-8-\xff.png")]
    for name, image in zip(names, images, strict=False):
        save(image, tmp_path / "in" / name)
    expected = predict_images(on_digits, ["in"])
    assert [str(one.file) for one in expected] == [f"in/{name}" for name in names]
    for output in ("x.csv", "x.jsonl", "X.CSV"):
        done = cli("predict", "in", "--output", output)
        assert (done.status, done.err) == (0, "")
    values = [[getattr(one, name) for name in COLUMNS] for one in expected]
    assert [list(row) for row in rows(tmp_path / "x.csv")] == [[*COLUMNS, *(f"p{digit}" for digit in range(10))]] * 4
    for row, one, plain in zip(rows(tmp_path / "x.csv"), expected, values, strict=True):
        assert list(row.values()) == list(map(str, [*plain, *one.probabilities.tolist()]))
    lines = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()]
    for line, one, plain in zip(lines, expected, values, strict=True):
        assert line == dict(zip(COLUMNS, [str(plain[0]), *plain[1:]], strict=True)) | {
            "probabilities": one.probabilities.tolist()
        }
    assert (tmp_path / "X.CSV").read_bytes() == (tmp_path / "x.csv").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"in", "x.csv", "x.jsonl", "X.CSV", "lightning_logs"}


def test_the_table_has_a_row_for_each_file(
    cli: Cli, on_digits: Classifier, own_run: Path, images: torch.Tensor, tmp_path: Path
) -> None:
    names = ["a.png", "[bold]b.png", ":smile:.png", "with\nbreak.png", os.fsdecode(b"no-utf-8-\xff.png"), "x" * 150]
    files = [save(image, tmp_path / name) for name, image in zip(names, images, strict=False)]
    done = cli("predict", *files)
    assert (done.status, done.err) == (0, "")
    shown = re.findall(r"│ (.+?) +│ (\d) +│ ([\d.]+) +│ (\d) \(([\d.]+)\) +│", done.out)
    assert shown == [
        (
            printable(one.file),
            str(one.digit),
            f"{one.probability:.4f}",
            str(one.runner_up),
            f"{one.runner_up_probability:.4f}",
        )
        for one in predict_images(on_digits, files)
    ]
    assert printable(Path("with\nbreak.png")) == "with\\nbreak.png"


def test_of_many_files_the_terminal_shows_a_summary_and_says_where_the_rest_is(
    cli: Cli, on_digits: Classifier, own_run: Path, images: torch.Tensor, tmp_path: Path
) -> None:
    for number, image in enumerate(images[:51]):
        save(image, tmp_path / "in" / f"{number:02}.png")
    done = cli("predict", "in")
    assert "51 files; a row for each is with --output predictions.csv" in done.out
    assert "51 files; a row for each is in y.csv" in cli("predict", "in", "--output", "y.csv").out
    found = predict_images(on_digits, ["in"])
    for digit in {one.digit for one in found}:
        of_digit = [one for one in found if one.digit == digit]
        least = min(of_digit, key=lambda one: one.probability)
        mean = sum(one.probability for one in of_digit) / len(of_digit)
        cells = [str(digit), str(len(of_digit)), f"{mean:.4f}", str(least.file), f"{least.probability:.4f}"]
        assert re.search("│ +" + " +│ +".join(map(re.escape, cells)) + " +│", done.out), cells
    (tmp_path / "in" / "50.png").unlink()
    assert "50 files" not in cli("predict", "in").out


# Which files


def test_a_folder_is_read_with_its_folders_in_sorted_order(images: torch.Tensor, tmp_path: Path) -> None:
    taken = ["a.png", "b.JPG", "c/a.jpeg", "c/d.png/e.webp", "c/e.gif", "d.tif", "e.tiff", "f.bmp"]
    others = ["notes.txt", "a", "a.png.txt", "c/labels.csv", ".hidden.png", ".trash/a.png", "c/.thumbs/b.png"]
    for name in (*reversed(taken), *others):
        save(images[0], tmp_path / name)
    assert find_images([tmp_path]) == [tmp_path / name for name in taken]
    assert find_images([tmp_path / ".trash"]) == [tmp_path / ".trash" / "a.png"]


def test_a_file_that_is_named_is_taken_whatever_its_name(
    on_digits: Classifier, images: torch.Tensor, tmp_path: Path
) -> None:
    files = [save(images[0], tmp_path / name) for name in ("z", ".hidden", "a.txt", "b.png")]
    assert [one.file for one in predict_images(on_digits, map(str, files))] == files


def test_a_file_is_taken_once_where_it_first_comes(
    images: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("b/a.png", "b/b.png", "c.png"):
        save(images[0], tmp_path / name)
    given = ["b/b.png", tmp_path / "c.png", "b", "./b/", "c.png", "b/a.png", tmp_path]
    assert find_images(given) == [Path("b/b.png"), tmp_path / "c.png", Path("b/a.png")]


def test_no_file_gives_no_prediction(on_digits: Classifier) -> None:
    assert predict_images(on_digits, []) == []


# What goes wrong


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_files_that_are_none_get_their_line_and_the_others_their_answer(
    cli: Cli, own_run: Path, images: torch.Tensor, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    for name, (content, _) in BROKEN.items():
        (tmp_path / "in" / name).write_bytes(content)
    (tmp_path / "in" / "gone.png").symlink_to("nowhere")
    save(images[0], tmp_path / "in" / "good.png")
    done = cli("predict", "in", "missing.png", "in/empty", "in/good.png/x.png", "--output", "x.csv")
    expected = {name: reason for name, (_, reason) in BROKEN.items() if name not in ("drawing.svg", "script.eps")}
    assert sorted(errors(done)) == sorted(
        [
            *(f"in/{name}: {reason}" for name, reason in expected.items()),
            "in/gone.png: No such file or directory",
            "missing.png: No such file or directory",
            "in/good.png/x.png: Not a directory",
        ]
    )
    assert [row["file"] for row in rows(tmp_path / "x.csv")] == ["in/good.png"]
    assert "in/good.png" in done.out


def test_a_folder_without_images_says_so(cli: Cli, own_run: Path, images: torch.Tensor, tmp_path: Path) -> None:
    (tmp_path / "empty.png" / "deeper").mkdir(parents=True)
    (tmp_path / "empty.png" / "notes.txt").write_text("none here")
    save(images[0], tmp_path / "good.png")
    reason = "empty.png: there is no image in this folder: .bmp, .gif, .jpeg, .jpg, .png, .tif, .tiff, .webp"
    alone = cli("predict", "empty.png")
    assert errors(alone) == [reason]
    assert alone.out == ""
    both = cli("predict", "empty.png", "good.png")
    assert errors(both) == [reason]
    assert "good.png" in both.out


def test_what_may_not_be_read_says_so(cli: Cli, own_run: Path, images: torch.Tensor, tmp_path: Path) -> None:
    save(images[0], tmp_path / "in" / "secret.png").chmod(0)
    save(images[0], tmp_path / "in" / "closed" / "a.png")
    (tmp_path / "in" / "closed").chmod(0)
    save(images[0], tmp_path / "in" / "z.png")
    if os.access("in/secret.png", os.R_OK):
        pytest.skip("this user may read everything")
    done = cli("predict", "in", "in/closed/a.png")
    closed = cli("predict", "in/closed")
    (tmp_path / "in" / "closed").chmod(0o700)
    assert errors(closed) == ["in/closed: Permission denied"]
    names = ("in/closed/a.png", "in/closed", "in/secret.png")
    assert sorted(errors(done)) == [f"{name}: Permission denied" for name in names]
    assert "z.png" in done.out


def test_from_python_the_first_file_that_is_none_raises_unless_it_is_asked_for(
    on_digits: Classifier, images: torch.Tensor, tmp_path: Path
) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    good = save(images[0], tmp_path / "b.png")
    with pytest.raises(ImageError) as caught:
        predict_images(on_digits, [tmp_path])
    assert str(caught.value) == f"{tmp_path / 'a.png'}: the file is empty"
    refused: list[tuple[Path, str]] = []
    found = predict_images(on_digits, [tmp_path], lambda file, error: refused.append((file, str(error))))
    assert [one.file for one in found] == [good]
    assert refused == [(tmp_path / "a.png", "the file is empty")]


@pytest.mark.parametrize("output", ["x.txt", "x", "csv", "x.csv.gz", "x.json"])
def test_an_output_of_another_kind_is_refused_before_any_work(output: str, cli: Cli) -> None:
    done = cli("predict", "missing.png", "--output", output, "--ckpt_path", "missing.ckpt")
    assert errors(done, 2) == [f"--output: {output} does not end in .csv or .jsonl"]


def test_an_output_in_a_folder_that_is_not_there_is_refused_before_any_work(cli: Cli) -> None:
    done = cli("predict", "missing.png", "--output", "none/x.csv", "--ckpt_path", "missing.ckpt")
    assert errors(done, 2) == ["--output: there is no folder none"]


def test_an_output_that_is_an_input_under_whatever_name_is_refused_and_stays_as_it_was(
    cli: Cli, own_run: Path, images: torch.Tensor, tmp_path: Path
) -> None:
    pic = save(images[0], tmp_path / "in" / "pic.csv")
    before = pic.read_bytes()
    (tmp_path / "link.csv").symlink_to(pic)
    (tmp_path / "hard.csv").hardlink_to(pic)
    (tmp_path / "folder").symlink_to("in")
    (tmp_path / "in" / "a.png").symlink_to("pic.csv")  # which makes a file of the folder in an input
    part = save(images[0], tmp_path / "in" / ".new.csv.part")
    for given, output in [
        ("in/pic.csv", "in/pic.csv"),
        ("in/pic.csv", "./in/../in/pic.csv"),
        (pic, "folder/pic.csv"),
        ("in/pic.csv", "link.csv"),
        ("in/pic.csv", "hard.csv"),
        ("hard.csv", "in/pic.csv"),
        ("in", "in/pic.csv"),
        (part, "in/new.csv"),
    ]:
        done = cli("predict", given, "--output", output)
        (line,) = errors(done, 2)
        assert line.startswith(f"--output: {output} would be written over ")
        assert (pic.read_bytes(), part.read_bytes()) == (before, before)
    checkpoint = shutil.copy(own_run / "checkpoints" / "best.ckpt", tmp_path / "model.csv")
    done = cli("predict", "in", "--ckpt_path", "model.csv", "--output", "model.csv")
    assert errors(done, 2) == ["--output: model.csv would be written over model.csv, which is to be read"]
    assert checkpoint.read_bytes() == (own_run / "checkpoints" / "best.ckpt").read_bytes()
    assert cli("predict", "in", "--output", "in/new.jsonl").status == 0


def test_a_pipe_a_socket_and_a_device_get_their_line_and_the_others_their_answer(
    own_run: Path, images: torch.Tensor, tmp_path: Path
) -> None:
    save(images[0], tmp_path / "in" / "z.png")
    os.mkfifo(tmp_path / "in" / "pipe.png")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "in" / "socket.png"))
        (tmp_path / "in" / "zero.png").symlink_to("/dev/zero")
        done = run(tmp_path, "predict", "in", "/dev/random", "--output", "x.csv")
    reason = "it is a pipe, a socket or a device, and no file"
    names = ("in/pipe.png", "in/socket.png", "in/zero.png", "/dev/random")
    assert errors(Result(done.status, done.out, done.err)) == [f"{name}: {reason}" for name in names]
    assert [row["file"] for row in rows(tmp_path / "x.csv")] == ["in/z.png"]


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/null")])
def test_an_output_that_is_no_file_is_refused(make: Callable[[Path], None], cli: Cli, tmp_path: Path) -> None:
    make(tmp_path / "x.csv")
    (line,) = errors(cli("predict", "missing.png", "--output", "x.csv"), 2)
    assert line == "--output: x.csv is a folder, a pipe, a socket or a device, and no file"


@pytest.mark.parametrize("name", ["pipe.ckpt", "best"])
def test_a_checkpoint_that_is_a_pipe_is_not_waited_for(name: str, cli: Cli, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.ckpt")
    (tmp_path / "lightning_logs" / "version_0" / "checkpoints").mkdir(parents=True)
    os.mkfifo(tmp_path / "lightning_logs" / "version_0" / "checkpoints" / "best.ckpt")
    assert len(errors(cli("predict", "x.png", "--ckpt_path", name), 2)) == 1


def test_a_checkpoint_that_is_not_there_or_is_none_gets_one_line(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "x.ckpt").write_text("none")
    for name in ("best", "missing.ckpt", "x.ckpt"):
        done = cli("predict", "x.png", "--ckpt_path", name)
        assert_one_line(Ended(done.status, done.out, done.err), "checkpoint" if name != "best" else "best.ckpt")


@pytest.mark.parametrize("output", ["x.csv", "x.jsonl"])
def test_an_output_that_cannot_be_written_whole_stays_as_it_was(
    output: str, own_run: Path, images: torch.Tensor, tmp_path: Path
) -> None:
    (tmp_path / output).write_text("from before")
    for number, image in enumerate(images[:20]):
        save(image, tmp_path / "in" / f"{number}.png")
    done = run(tmp_path, "predict", "in", "--output", output, max_file=3000)
    assert_one_line(done, output, "File too large", status=1)
    assert (tmp_path / output).read_text() == "from before"
    assert "in/19.png" in done.out
    assert {path.name for path in tmp_path.iterdir()} == {"in", "out", "err", output, "lightning_logs"}


@pytest.mark.slow
def test_a_progress_bar_shows_on_a_terminal(own_run: Path, images: torch.Tensor, tmp_path: Path) -> None:
    save(images[0], tmp_path / "a.png")
    terminal, end = pty.openpty()
    command = [sys.executable, "-m", "lit_mnist", "predict", "a.png"]
    environ = {**os.environ, "OMP_NUM_THREADS": "1", "TERM": "xterm"}
    done = subprocess.run(command, cwd=tmp_path, env=environ, stdout=subprocess.PIPE, stderr=end, timeout=120)
    os.close(end)
    said = os.read(terminal, 100_000).decode()
    os.close(terminal)
    assert (done.returncode, "a.png" in done.stdout.decode()) == (0, True)
    assert "reading" in said
    assert "100%" in said
