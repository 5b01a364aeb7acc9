"""The splits, their batches and what the network gets."""

import shutil
from collections.abc import Callable
from pathlib import Path

import lightning.pytorch as L
import numpy as np
import pytest
import torch

from lit_mnist import MNISTDataModule
from lit_mnist.data import rescale


@pytest.fixture(scope="module")
def mnist(mnist_dir: Path) -> MNISTDataModule:
    data = MNISTDataModule(data_dir=str(mnist_dir))
    data.setup()
    return data


@pytest.fixture
def fashion(fashion_dir: Path) -> Callable[..., MNISTDataModule]:
    def make(**options: object) -> MNISTDataModule:
        data = MNISTDataModule(dataset="fashion_mnist", data_dir=str(fashion_dir), **options)
        data.setup()
        return data

    return make


def all_labels(loader: object) -> list[int]:
    return torch.cat([labels for _, labels in loader]).tolist()


def test_mnist_is_split_into_48000_12000_and_10000(mnist: MNISTDataModule) -> None:
    loaders = mnist.train_dataloader(), mnist.val_dataloader(), mnist.test_dataloader()
    assert [len(loader.images) for loader in loaders] == [48_000, 12_000, 10_000]


def test_training_and_validation_are_disjoint_and_cover_the_60000_in_file_order(
    mnist: MNISTDataModule, mnist_dir: Path
) -> None:
    raw = (mnist_dir / "MNIST/raw/train-images-idx3-ubyte").read_bytes()
    images = torch.from_numpy(np.frombuffer(raw, np.uint8, offset=16).reshape(60_000, 28, 28).copy())
    raw = (mnist_dir / "MNIST/raw/train-labels-idx1-ubyte").read_bytes()
    labels = torch.from_numpy(np.frombuffer(raw, np.uint8, offset=8).astype(np.int64))
    train, val = mnist.train_dataloader(), mnist.val_dataloader()
    assert torch.equal(train.images, images[:48_000])
    assert torch.equal(train.labels, labels[:48_000])
    assert torch.equal(val.images, images[48_000:])
    assert torch.equal(val.labels, labels[48_000:])


def test_mnist_begins_with_5_0_4_1(mnist: MNISTDataModule) -> None:
    assert mnist.train_dataloader().labels[:4].tolist() == [5, 0, 4, 1]


def test_validation_and_test_keep_the_file_order(mnist: MNISTDataModule) -> None:
    for loader in (mnist.val_dataloader(), mnist.test_dataloader()):
        assert all_labels(loader) == loader.labels.tolist()


def test_images_stay_uint8_in_memory(mnist: MNISTDataModule) -> None:
    for loader in (mnist.train_dataloader(), mnist.val_dataloader(), mnist.test_dataloader()):
        assert loader.images.dtype == torch.uint8
        assert loader.labels.dtype == torch.int64
        assert set(loader.labels.tolist()) == set(range(10))


def test_setup_any_number_of_times_changes_nothing(fashion: Callable[..., MNISTDataModule]) -> None:
    data = fashion()
    before = data.train_dataloader(), data.val_dataloader(), data.test_dataloader()
    data.prepare_data()
    for stage in ("fit", "validate", "test", "predict", None):
        data.setup(stage)
    after = data.train_dataloader(), data.val_dataloader(), data.test_dataloader()
    for first, second in zip(before, after, strict=True):
        assert first.images.data_ptr() == second.images.data_ptr()
        assert torch.equal(first.labels, second.labels)


def test_a_folder_that_cannot_be_written_serves_from_archives_alone(mnist_dir: Path, tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for archive in (mnist_dir / "MNIST/raw").glob("t10k*.gz"):
        shutil.copy(archive, raw)
    before = sorted(raw.iterdir())
    raw.chmod(0o555)
    try:
        data = MNISTDataModule(data_dir=str(tmp_path))
        data.setup("test")
    finally:
        raw.chmod(0o755)
    assert data.test_dataloader().labels[:4].tolist() == [7, 2, 1, 0]
    assert sorted(raw.iterdir()) == before


@pytest.mark.parametrize("val_size", [1, 50, 299])
def test_val_size_takes_that_many_from_the_end(fashion: Callable[..., MNISTDataModule], val_size: int) -> None:
    every = fashion().train_dataloader().labels.tolist() + fashion().val_dataloader().labels.tolist()
    data = fashion(val_size=val_size)
    assert data.train_dataloader().labels.tolist() == every[:-val_size]
    assert data.val_dataloader().labels.tolist() == every[-val_size:]


def test_a_fifth_is_held_out_by_default(fashion: Callable[..., MNISTDataModule]) -> None:
    assert len(fashion().val_dataloader().labels) == 60


@pytest.mark.parametrize("val_size", [300, 301])
def test_a_val_size_that_leaves_nothing_to_train_on_is_refused(
    fashion: Callable[..., MNISTDataModule], val_size: int
) -> None:
    with pytest.raises(ValueError, match=rf"^val_size: {val_size} is not in 1\.\.299$"):
        fashion(val_size=val_size)


@pytest.mark.parametrize("name", ["val_size", "batch_size", "eval_batch_size"])
@pytest.mark.parametrize("value", [0, -1])
def test_a_size_below_one_is_refused(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"^{name}: {value} is not at least 1$"):
        MNISTDataModule(**{name: value})


def test_a_stage_loads_only_its_own_files(fashion_dir: Path, tmp_path: Path) -> None:
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for file in (fashion_dir / "FashionMNIST/raw").glob("t10k*"):
        shutil.copy(file, raw)
    data = MNISTDataModule(dataset="fashion_mnist", data_dir=str(tmp_path))
    data.setup("test")
    assert len(data.test_dataloader().labels) == 40


def test_the_data_folder_comes_from_the_environment_unless_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIT_MNIST_DATA_DIR", "/elsewhere")
    assert MNISTDataModule().data_dir == Path("/elsewhere")
    assert MNISTDataModule(data_dir="here").data_dir == Path("here")
    monkeypatch.delenv("LIT_MNIST_DATA_DIR")
    assert MNISTDataModule().data_dir == Path("data")


def test_batches_have_128_images_by_default_and_the_partial_one_is_kept(
    fashion: Callable[..., MNISTDataModule],
) -> None:
    assert [len(labels) for _, labels in fashion().train_dataloader()] == [128, 112]


def test_batch_sizes_can_be_chosen(fashion: Callable[..., MNISTDataModule]) -> None:
    data = fashion(batch_size=100, eval_batch_size=25)
    assert [len(labels) for _, labels in data.train_dataloader()] == [100, 100, 40]
    assert [len(labels) for _, labels in data.val_dataloader()] == [25, 25, 10]
    assert [len(labels) for _, labels in data.test_dataloader()] == [25, 15]


def test_training_batches_are_shuffled_by_the_seed_of_the_run(fashion: Callable[..., MNISTDataModule]) -> None:
    orders = []
    for seed in (1, 2, 1):
        L.seed_everything(seed, verbose=False)
        orders.append(all_labels(fashion().train_dataloader()))
    assert orders[0] == orders[2] != orders[1]
    assert orders[0] != fashion().train_dataloader().labels.tolist()


def test_a_batch_that_does_not_divide_among_the_devices_is_refused(
    fashion: Callable[..., MNISTDataModule], quiet: Callable[..., L.Trainer]
) -> None:
    data = fashion(batch_size=33)
    data.trainer = quiet(devices=2, strategy="ddp")
    with pytest.raises(ValueError, match=r"^batch_size: 33 does not divide evenly among 2 devices$"):
        data.train_dataloader()


def test_a_device_gets_its_share_of_each_global_batch(
    fashion: Callable[..., MNISTDataModule], quiet: Callable[..., L.Trainer]
) -> None:
    data = fashion(batch_size=100)
    data.trainer = quiet(devices=2, strategy="ddp")
    assert [len(labels) for _, labels in data.train_dataloader()] == [50, 50, 20]


def test_pixels_are_divided_by_255_and_nothing_else() -> None:
    images = torch.arange(256, dtype=torch.uint8).repeat(4)[:784].reshape(1, 28, 28)
    pixels = rescale(images)
    assert pixels.dtype == torch.float32
    assert pixels.shape == (1, 28, 28)
    np.testing.assert_array_equal(pixels[0].numpy(), images.numpy()[0].astype(np.float32) / np.float32(255))
    assert (pixels.min(), pixels.max()) == (0, 1)


def test_a_batch_is_rescaled_with_or_without_labels() -> None:
    images, labels = torch.full((3, 28, 28), 51, dtype=torch.uint8), torch.tensor([1, 2, 3])
    data = MNISTDataModule(dataset="digits")
    pixels, same = data.on_after_batch_transfer((images, labels), 0)
    assert same is labels
    torch.testing.assert_close(pixels, torch.full((3, 28, 28), 0.2))
    assert torch.equal(data.on_after_batch_transfer(images, 0), pixels)


def test_the_digits_are_1797_images_of_28x28(digits: MNISTDataModule) -> None:
    loaders = digits.train_dataloader(), digits.val_dataloader(), digits.test_dataloader()
    assert [len(loader.images) for loader in loaders] == [1151, 287, 359]
    for loader in loaders:
        assert loader.images.shape[1:] == (28, 28)
        assert loader.images.dtype == torch.uint8
        assert (loader.images.min(), loader.images.max()) == (0, 255)


def test_the_last_fifth_of_the_digits_is_the_test_set(digits: MNISTDataModule) -> None:
    from sklearn.datasets import load_digits

    labels = load_digits().target
    assert digits.train_dataloader().labels.tolist() == labels[:1151].tolist()
    assert digits.val_dataloader().labels.tolist() == labels[1151:1438].tolist()
    assert digits.test_dataloader().labels.tolist() == labels[1438:].tolist()
