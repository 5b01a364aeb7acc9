"""The data: splits, rescaling, downloads, and one line where they cannot be had."""

import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import lightning.pytorch as L
import numpy as np
import pytest
import torch
from conftest import ROOT, Cli, write_idx
from torch import Tensor, nn

from lit_mnist import MLP, Classifier, ImageDataModule, MNISTDataModule
from lit_mnist.data import DataError, rescale
from lit_mnist.data import mnist as data_module
from lit_mnist.use.predict import predict_images

Quiet = Callable[..., L.Trainer]


@pytest.fixture
def archives(mnist_dir: Path, tmp_path: Path) -> Path:
    """A data folder with MNIST's archives alone."""
    folder = tmp_path / "archives"
    (folder / "MNIST" / "raw").mkdir(parents=True)
    for archive in (mnist_dir / "MNIST" / "raw").glob("*.gz"):
        shutil.copy(archive, folder / "MNIST" / "raw")
    return folder


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No address of a network can be found."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise socket.gaierror("Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_mnist_is_split_into_48000_12000_and_10000_in_file_order(mnist: MNISTDataModule) -> None:
    sizes = {name: (images.shape, labels.shape) for name, (images, labels) in mnist.splits.items()}
    assert sizes == {
        "train": ((48_000, 28, 28), (48_000,)),
        "val": ((12_000, 28, 28), (12_000,)),
        "test": ((10_000, 28, 28), (10_000,)),
    }
    whole, labels = mnist.load("train")
    assert torch.equal(torch.cat([mnist.splits["train"][0], mnist.splits["val"][0]]), whole)
    assert torch.equal(torch.cat([mnist.splits["train"][1], mnist.splits["val"][1]]), labels)
    assert labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert labels.bincount().tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]


def test_pixels_are_rescaled_to_0_to_1_and_nothing_else() -> None:
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 16, 16)
    torch.testing.assert_close(rescale(pixels), torch.arange(256.0).view(1, 16, 16) / 255)
    assert rescale(pixels, torch.float64).dtype == torch.float64


def test_the_digits_are_those_of_scikit_learn(digits: MNISTDataModule) -> None:
    assert [len(digits.splits[name][1]) for name in ("train", "val", "test")] == [1151, 287, 359]
    images, labels = digits.splits["train"]
    assert (images.dtype, images.max().item(), labels[:10].tolist()) == (torch.uint8, 255, list(range(10)))


@pytest.mark.parametrize(
    ("dataset", "first"),
    [("mnist", "0"), ("qmnist", "0"), ("digits", "0"), ("fashion_mnist", "T-shirt/top"), ("kmnist", "o")],
)
def test_the_names_of_the_classes_come_from_the_data_set(dataset: str, first: str) -> None:
    assert MNISTDataModule(dataset).classes[0] == first
    assert MNISTDataModule(dataset).num_classes == 10


@pytest.mark.parametrize("argument", ["val_size", "batch_size", "eval_batch_size"])
def test_a_size_below_1_is_refused(argument: str) -> None:
    with pytest.raises(ValueError, match=f"^{argument}: 0 is not at least 1$"):
        MNISTDataModule(**{argument: 0})


def test_a_val_size_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^val_size: 1438 is not in 1..1437$"):
        MNISTDataModule("digits", val_size=1438).setup()


def test_home_is_meant_by_a_tilde(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert MNISTDataModule(data_dir="~/here").data_dir == tmp_path / "here"
    monkeypatch.setenv("LIT_MNIST_DATA_DIR", "~/there")
    assert MNISTDataModule().data_dir == tmp_path / "there"


def test_archives_are_unpacked_once(archives: Path) -> None:
    data = MNISTDataModule(data_dir=str(archives))
    data.prepare_data()
    data.setup("test")
    assert len(data.splits["test"][1]) == 10_000
    written = (archives / "MNIST/raw/train-images-idx3-ubyte").stat().st_mtime_ns
    MNISTDataModule(data_dir=str(archives)).prepare_data()
    assert (archives / "MNIST/raw/train-images-idx3-ubyte").stat().st_mtime_ns == written


@pytest.mark.usefixtures("offline")
def test_without_a_network_a_line_says_what_can_be_done(cli: Cli, tmp_path: Path) -> None:
    done = cli("fit", "--data.data_dir", tmp_path / "empty")
    done.refused(str(tmp_path / "empty"), "LIT_MNIST_DATA_DIR", "--data.dataset digits")
    assert list((tmp_path / "empty/MNIST/raw").glob("*ubyte*")) == []
    assert not (tmp_path / "lightning_logs").exists() or not list((tmp_path / "lightning_logs").iterdir())


@pytest.mark.usefixtures("offline")
def test_an_archive_that_is_damaged_is_not_used(archives: Path) -> None:
    file = archives / "MNIST/raw/t10k-images-idx3-ubyte.gz"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(DataError, match="no t10k-images-idx3-ubyte"):
        MNISTDataModule(data_dir=str(archives)).prepare_data()


@pytest.mark.usefixtures("offline")
def test_a_folder_that_cannot_be_written_and_has_only_archives_says_so(
    archives: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, *args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    (archives / "MNIST/raw").chmod(0o555)
    if os.access(archives / "MNIST/raw", os.W_OK):  # as root
        monkeypatch.setattr(data_module, "FileLock", refuse)
    with pytest.raises(DataError, match=r"no train-images.*Permission denied.*LIT_MNIST_DATA_DIR"):
        MNISTDataModule(data_dir=str(archives)).prepare_data()


@pytest.mark.parametrize("damage", ["flipped", "truncated", "empty"])
def test_a_damaged_file_is_never_trained_on(damage: str, archives: Path) -> None:
    data = MNISTDataModule(data_dir=str(archives))
    data.prepare_data()
    file = archives / "MNIST/raw/train-labels-idx1-ubyte"
    content = bytearray(file.read_bytes())
    content[5000] ^= 1
    file.write_bytes({"flipped": bytes(content), "truncated": bytes(content[:9000]), "empty": b""}[damage])
    with pytest.raises(DataError, match=r"MNIST/raw: missing or damaged .*; delete the files"):
        data.setup("fit")
    data.setup("test")


def test_a_truncated_file_of_another_data_set_is_named(fashion_dir: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(fashion_dir, tmp_path / "cut"))
    file = folder / "FashionMNIST/raw/train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(DataError, match=r"FashionMNIST/raw: .*damaged"):
        MNISTDataModule("fashion_mnist", str(folder)).setup("fit")


def test_qmnist_takes_the_class_from_its_rows(tmp_path: Path) -> None:
    raw = tmp_path / "QMNIST/raw"
    for kind, count in (("train", 5), ("test", 3)):
        write_idx(raw / f"qmnist-{kind}-images-idx3-ubyte", np.zeros((count, 28, 28)))
        rows = np.arange(2 * count - 2, -2, -0.25).astype(">i4").reshape(count, 8)
        (raw / f"qmnist-{kind}-labels-idx2-int").write_bytes(
            b"\0\0\x0c\x02" + count.to_bytes(4, "big") + (8).to_bytes(4, "big") + rows.tobytes()
        )
    data = MNISTDataModule("qmnist", str(tmp_path))
    data.prepare_data()
    data.setup()
    assert data.splits["test"][1].tolist() == [4, 2, 0]
    assert data.splits["test"][1].dtype == torch.int64


class Darker(nn.Module):
    """An augmentation that can be recognised."""

    def forward(self, images: Tensor) -> Tensor:
        return images * 0.5


def test_only_images_that_train_are_augmented(digits: MNISTDataModule, quiet: Quiet) -> None:
    brightest: dict[str, set[float]] = {"train": set(), "val": set()}

    class Seen(Classifier):
        def _step(self, batch: tuple[Tensor, Tensor], metrics: object) -> dict[str, Tensor]:
            brightest["train" if self.training else "val"].add(batch[0].max().item())
            return super()._step(batch, metrics)

    digits.augment = Darker()
    quiet(max_epochs=1, limit_train_batches=2).fit(Seen(MLP([4])), digits)
    assert brightest == {"train": {0.5}, "val": {1.0}}


def test_devices_that_do_not_share_a_batch_evenly_are_refused(digits: MNISTDataModule) -> None:
    class Three:
        world_size, global_rank, overfit_batches, strategy = 3, 0, 0, SimpleNamespace(root_device="cpu")

    digits.trainer = Three()  # type: ignore[assignment]
    with pytest.raises(ValueError, match=r"^batch_size: 32 does not divide evenly among 3 devices$"):
        digits.train_dataloader()


class Loaded(MNISTDataModule):
    def __init__(self, images: Tensor, labels: Tensor) -> None:
        super().__init__(batch_size=10)
        self.loaded = images, labels

    def load(self, split: str) -> tuple[Tensor, Tensor]:
        return self.loaded


IMAGES, LABELS = torch.zeros(20, 28, 28, dtype=torch.uint8), torch.arange(20) % 10


@pytest.mark.parametrize(
    ("images", "labels", "words"),
    [
        (IMAGES / 255, LABELS, "images of torch.float32"),
        (IMAGES.flatten(1), LABELS, r"images of torch.uint8 \(20, 784\)"),
        (IMAGES[:, None].expand(-1, 3, -1, -1), LABELS, r"images of torch.uint8 \(20, 3, 28, 28\), .* \(28, 28\)"),
        (IMAGES, LABELS.int(), "labels of torch.int32"),
        (IMAGES, LABELS[:, None], r"labels of torch.int64 \(20, 1\)"),
        (IMAGES, LABELS[:19], r"labels of torch.int64 \(19,\)"),
        (IMAGES, LABELS + 1, "labels in 1..10, not in 0..9"),
        (IMAGES, LABELS - 1, "labels in -1..8, not in 0..9"),
        (IMAGES, LABELS.tolist(), "something other than a tuple of two tensors, images and labels"),
    ],
)
def test_images_or_labels_of_another_form_are_refused(images: Tensor, labels: Tensor, words: str) -> None:
    for stage, split in (("fit", "train"), ("test", "test")):
        with pytest.raises(DataError, match=rf"load\('{split}'\) returns {words}"):
            Loaded(images, labels).setup(stage)


def test_images_sorted_by_class_are_refused_since_a_class_would_be_held_out_whole() -> None:
    with pytest.raises(DataError, match="images sorted by class, so the last 4 have a class without training images"):
        Loaded(IMAGES, LABELS.sort().values).setup("fit")
    Loaded(IMAGES, LABELS).setup("fit")
    Loaded(IMAGES, torch.zeros_like(LABELS)).setup("fit")


def test_a_subclass_needs_its_classes_and_images_and_no_more() -> None:
    class Bare(ImageDataModule):
        pass

    with pytest.raises(DataError, match="classes: Bare does not name its classes"):
        _ = Bare().num_classes
    with pytest.raises(NotImplementedError, match=r"Bare needs a method load\(split\)"):
        Bare().setup()


def test_a_loader_needs_no_setup_in_a_notebook() -> None:
    data = MNISTDataModule("digits", batch_size=100)
    sizes = [len(loader.labels) for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader())]
    assert sizes == [1151, 287, 359]


def test_the_digits_have_mnists_form(digits: MNISTDataModule) -> None:
    digits.setup("test")
    for images, _ in digits.splits.values():
        numbers = images.double()
        for axis in (1, 2):
            spans = (images > 0).any(axis)
            assert spans.sum(1).max() <= 20
            centres = (numbers.sum(axis) * torch.arange(28)).sum(1) / numbers.sum((1, 2))
            assert ((centres - 14).abs() <= 0.5 + 1e-6).all()
        assert ((images > 0).any(1).sum(1).maximum((images > 0).any(2).sum(1)) >= 18).all()


def test_the_quickstart_reads_digits_that_are_drawn(mnist_dir: Path, cli: Cli) -> None:
    from PIL import Image

    cli("fit", "--config", ROOT / "configs/quickstart.yaml", "--figures", "false", "--trainer.logger", "false").worked()
    images, labels = MNISTDataModule(data_dir=str(mnist_dir)).load("test")
    folder = Path("drawn")
    folder.mkdir()
    for number, image in enumerate(images[:300]):
        Image.fromarray(255 - image.numpy()).resize((200, 200)).save(folder / f"{number:03}.png")
    classifier = Classifier.load_from_checkpoint("lightning_logs/version_0/checkpoints/best.ckpt")
    answers = [int(prediction.answer) for prediction in predict_images(classifier, [folder])]
    assert (torch.tensor(answers) == labels[:300]).float().mean() >= 0.75
