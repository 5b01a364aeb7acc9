"""predict: image files in, a table, CSV or JSON Lines out, and a line for each file that cannot be read."""

import csv
import json
from pathlib import Path

import pytest
import torch
from conftest import Cli
from PIL import Image

from lit_mnist import Classifier, MNISTDataModule
from lit_mnist.data import rescale
from lit_mnist.image_files import ImageError, find_images
from lit_mnist.use.predict import predict_images


@pytest.fixture
def scans(tmp_path: Path, mnist: MNISTDataModule) -> tuple[Path, list[int]]:
    """Twenty test images as files in a folder with others, and their labels."""
    images, labels = mnist.splits["test"]
    for number, image in enumerate(images[:20]):
        path = tmp_path / "scans" / ("sub" if number % 2 else "") / f"{number:02}.{('png', 'JPG')[number % 2]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(255 - image.numpy()).resize((150, 150)).save(path, format=("PNG", "JPEG")[number % 2])
    (tmp_path / "scans/notes.txt").write_text("no image")
    (tmp_path / "scans/.hidden.png").write_text("hidden")
    return tmp_path / "scans", labels[:20].tolist()


def test_the_answers_of_a_folder_are_the_digits(scans: tuple[Path, list[int]], on_mnist: Path, cli: Cli) -> None:
    folder, labels = scans
    done = cli("predict", folder, "--ckpt_path", on_mnist, "--output", "all.csv").worked()
    with Path("all.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 20
    right = [int(row["class"]) == labels[int(Path(row["file"]).stem)] for row in rows]
    assert sum(right) >= 18
    for row in rows:
        assert sum(float(row[f"p_{digit}"]) for digit in range(10)) == pytest.approx(1, abs=1e-5)
        assert float(row["probability"]) >= float(row["runner_up_probability"])
        assert row["file"] in done.out
    cli("predict", folder, "--ckpt_path", on_mnist, "--output", "all.jsonl").worked()
    lines = [json.loads(line) for line in Path("all.jsonl").read_text().splitlines()]
    assert [line["class"] for line in lines] == [row["class"] for row in rows]
    assert sorted(lines[0]["probabilities"]) == list("0123456789")


def test_of_many_files_the_least_certain_are_shown(
    scans: tuple[Path, list[int]], on_mnist: Path, cli: Cli, mnist: MNISTDataModule
) -> None:
    for number, image in enumerate(mnist.splits["test"][0][:60]):
        Image.fromarray(image.numpy()).save(scans[0] / f"x{number}.png")
    out = cli("predict", scans[0], "--ckpt_path", on_mnist).worked().out
    assert "the 50 least certain of 80 files; --output all.csv writes a row for each" in out


def test_a_file_that_cannot_be_read_gets_its_line_and_the_others_are_read(photo: Path, own_run: Path, cli: Cli) -> None:
    Path("broken.png").write_bytes(photo.read_bytes()[:300])
    Image.new("L", (50, 50), 255).save("blank.png")
    done = cli("predict", "broken.png", photo, "missing.png", "blank.png", "--output", "x.csv")
    assert done.status == 1
    assert [line.split(": ")[2] for line in done.err.splitlines()] == ["broken.png", "missing.png", "blank.png"]
    assert len(Path("x.csv").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("x.png --output x.txt", "--output: x.txt does not end in .csv or .jsonl"),
        ("x.png --output no/x.csv", "--output: no/x.csv does not end in .csv or .jsonl, or its folder does not exist"),
        ("empty", "empty: no file in this folder has a suffix of"),
        ("", "images"),
        ("x.png --ckpt_path x.png", "x.png is not a file"),
    ],
)
def test_bad_input_gets_one_line(options: str, words: str, own_run: Path, cli: Cli) -> None:
    Path("empty").mkdir()
    cli("predict", *options.split()).refused(words)


def test_from_python_predictions_are_those_of_the_classifier(
    photo: Path, on_mnist: Path, mnist: MNISTDataModule
) -> None:
    classifier = Classifier.load_from_checkpoint(on_mnist)
    (one,) = predict_images(classifier, [photo])
    assert one.probabilities[one.answer] == max(one.probabilities.values()) == one.row[2]
    with pytest.raises(ImageError, match=r"^missing.png: "):
        predict_images(classifier, ["missing.png"])
    images, labels = mnist.splits["test"]
    with torch.no_grad():
        assert (classifier(rescale(images)).argmax(1) == labels).float().mean() > 0.95


def test_classes_have_the_names_of_the_data_set(cli: Cli, fashion_dir: Path, photo: Path) -> None:
    cli("fit", "--data.dataset", "fashion_mnist", "--data.data_dir", fashion_dir, "--trainer.max_epochs", 1).worked()
    cli("predict", photo, "--output", "x.csv").worked()
    with Path("x.csv").open() as file:
        assert "p_T-shirt/top" in next(csv.DictReader(file))


def test_files_are_found_once_each_in_the_order_given(tmp_path: Path, scans: tuple[Path, list[int]]) -> None:
    first = scans[0] / "sub/01.JPG"
    found = find_images([first, scans[0], first])
    assert found[0] == first
    assert found[1:] == sorted(set(found) - {first})
    assert len(found) == 20


def test_where_nothing_was_read_an_older_file_stays(cli: Cli, own_run: Path) -> None:
    Path("text.png").write_text("no image")
    Path("out.csv").write_text("older")
    cli("predict", "text.png", "--output", "out.csv").refused("text.png", status=1)
    assert Path("out.csv").read_text() == "older"


def test_without_a_run_of_ones_own_the_pretrained_model_is_used_and_named(cli: Cli, tmp_path: Path) -> None:
    image = Image.new("L", (100, 100), "white")
    image.paste(0, (46, 20, 54, 80))
    image.save("one.png")
    done = cli("predict", "one.png")
    assert done.status == 0
    assert done.err == (
        "lit-mnist: note: there is no run in lightning_logs, so the pretrained model for MNIST is used\n"
    )
    assert cli("predict", "one.png", "--ckpt_path", "pretrained").worked().out == done.out
    assert cli("predict", "one.png", "--ckpt_path", "last").out == done.out
    cli("fit", "--ckpt_path", "pretrained").refused("cannot be resumed")
    cli("test").refused("no run in lightning_logs; train one with: ")
