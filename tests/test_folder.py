"""A folder of image files becomes images of one shape, split by class."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Cli
from PIL import Image

from lit_mnist.data import DataError
from lit_mnist.folder import ImageFolderDataModule

MODES = ("L", "RGB", "RGBA", "P", "I;16", "1")


def write_images(folder: Path, color: tuple[int, int, int], count: int) -> None:
    """Images of a colour in all modes and many sizes."""
    folder.mkdir(parents=True)
    for i in range(count):
        image = Image.new("RGB", (20 + i, 40 - i), color)
        if (mode := MODES[i % len(MODES)]) == "I;16":
            image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
        else:
            image = image.convert(mode)
        image.save(folder / f"{i}.png")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Ten red, ten blue and three white images, a file that is no image, and folders that are no class."""
    folder = tmp_path / "flags"
    for name, color, count in (("red", (250, 0, 0), 10), ("blue", (0, 0, 250), 10), ("white", (255, 255, 255), 3)):
        write_images(folder / name, color, count)
    (folder / "red" / "notes.txt").write_text("no image")
    (folder / ".ipynb_checkpoints").mkdir()
    write_images(folder / "blue" / ".ipynb_checkpoints", (0, 0, 250), 2)
    (folder / "blue" / "._0.png").write_bytes(b"of macOS")
    return folder


def test_every_class_is_in_every_split_and_no_file_in_two(root: Path) -> None:
    data = ImageFolderDataModule(str(root), size=8)
    data.setup()
    assert (data.classes, data.num_classes, data.image_shape) == (["blue", "red", "white"], 3, (3, 8, 8))
    counts = {split: torch.bincount(labels).tolist() for split, (_, labels) in data.splits.items()}
    assert counts == {"train": [6, 6, 1], "val": [2, 2, 1], "test": [2, 2, 1]}
    files = [path for split in data._files().values() for path, _ in split]
    assert len(set(files)) == len(files) == 23
    again = ImageFolderDataModule(str(root), size=8)
    again.setup()
    assert all(torch.equal(again.splits[split][0], data.splits[split][0]) for split in data.splits)


def test_folders_of_splits_are_taken_as_they_are(tmp_path: Path) -> None:
    for split, count in (("train", 5), ("val", 2)):
        for name in ("a", "b"):
            write_images(tmp_path / split / name, (9, 9, 9), count)
    data = ImageFolderDataModule(str(tmp_path), size=4, grey=True, test_share=0.4)
    data.setup()
    assert {split: len(labels) for split, (_, labels) in data.splits.items()} == {"train": 6, "val": 4, "test": 4}


def test_an_image_is_scaled_in_proportion_padded_with_black_and_turned_as_exif_says(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_images(tmp_path / name, (9, 9, 9), 3)
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.new("RGB", (40, 20), (0, 200, 100)).save(tmp_path / "a" / "0.png", exif=exif)
    data = ImageFolderDataModule(str(tmp_path), size=8)
    image = data._read((tmp_path / "a" / "0.png", 0))
    expected = torch.zeros(3, 8, 8, dtype=torch.uint8)
    expected[1, :, 2:6], expected[2, :, 2:6] = 200, 100
    assert image is not None
    assert torch.equal(image, expected)


@pytest.mark.parametrize("grey", [True, False])
def test_files_of_every_mode_have_the_same_pixels(tmp_path: Path, grey: bool) -> None:
    for name in ("a", "b"):
        write_images(tmp_path / name, (255, 255, 255), 6)
    data = ImageFolderDataModule(str(tmp_path), size=20, grey=grey)
    images = [data._read((tmp_path / "a" / f"{i}.png", 0)) for i in range(6)]
    assert all(image is not None and image.shape == data.image_shape for image in images)
    assert all(image[..., 10, 10].eq(255).all() for image in images if image is not None)


def test_a_file_that_cannot_be_read_is_named_and_left_out(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("10.png", "11.jpg"):
        (root / "red" / name).write_bytes(b"no image")
    data = ImageFolderDataModule(str(root), size=8)
    data.setup()
    assert sum(len(labels) for _, labels in data.splits.values()) == 23
    err = capsys.readouterr().err
    assert err.count("is skipped: the file is not an image") == 2
    assert "25 images" not in err


def test_images_that_memory_cannot_hold_are_refused_with_the_size_that_fits(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bytes_of = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 30}  # 122,880
    monkeypatch.setattr("os.sysconf", bytes_of.get)
    with pytest.raises(DataError, match=r"size: 18 images take .* GB of memory; size 33 would fit"):
        ImageFolderDataModule(str(root), size=64).setup("fit")
    ImageFolderDataModule(str(root), size=33).setup("fit")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--data.root", "nowhere"), "--data.root: nowhere is not a folder"),
        (("--data.root", "few/a"), "--data.root: few/a has fewer than two folders of images, one per class"),
        (("--data.root", "valid"), "--data.root: valid has train, valid; name the splits train, val and test"),
        (("--data.root", "typo"), "--data.root: typo has too few images of dogs for train; use at least 3"),
        (("--data.root", "broken"), "--data.root: no image of b for train can be read"),
        ((), "--data.root is missing"),
        (("--data.root", "flags", "--data.size", 0), "--data.size: 0 is not at least 1"),
        (("--data.root", "flags", "--data.val_share", 1), "--data.val_share: 1.0 is not in (0, 1)"),
        (("--data.root", "flags", "--data.test_share", 0.9), "--data.test_share: 0.9 is not in (0, 0.8)"),
        (("--data.root", "few"), "--data.root: few has too few images of b for train"),
    ],
    ids=str,
)
def test_a_folder_or_share_that_is_wrong_is_refused(root: Path, cli: Cli, options: tuple[str, ...], words: str) -> None:
    write_images(root.parent / "few" / "a", (9, 9, 9), 5)
    write_images(root.parent / "few" / "b", (9, 9, 9), 2)
    for folder in ("valid/train/a", "valid/valid/a", "typo/train/dog", "typo/train/cat", "typo/test/dogs", "broken/a"):
        write_images(root.parent / folder, (9, 9, 9), 5)
    (root.parent / "broken" / "b").mkdir()
    for i in range(5):
        (root.parent / "broken" / "b" / f"{i}.png").touch()
    done = cli("fit", "--data", "ImageFolderDataModule", *options)
    assert (done.status, done.err.splitlines()[-1].startswith(f"lit-mnist: error: {words}")) == (2, True), done.err
