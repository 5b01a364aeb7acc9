"""The order of batches: each image once an epoch, from seed and epoch alone, shared among devices."""

import itertools

import pytest
import torch
from torch import Tensor

from lit_mnist.data.batches import BatchLoader

IMAGES = torch.arange(10, dtype=torch.uint8)[:, None, None].expand(10, 28, 28)
LABELS = torch.arange(10)


def order(epoch: int = 0, **options: int) -> list[list[int]]:
    loader = BatchLoader(IMAGES, LABELS, 4, **options)
    if hasattr(loader.sampler, "set_epoch"):
        loader.sampler.set_epoch(epoch)
    return [labels.tolist() for _, labels in loader]


def test_without_a_seed_batches_are_in_file_order_and_the_last_one_is_kept() -> None:
    assert order() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert len(BatchLoader(IMAGES, LABELS, 4)) == 3


def test_with_a_seed_each_epoch_has_an_order_of_its_own_that_comes_again() -> None:
    orders = {(seed, epoch): order(epoch, seed=seed) for seed in range(3) for epoch in range(3)}
    assert all(sorted(itertools.chain(*batches)) == list(range(10)) for batches in orders.values())
    assert len(set(map(str, orders.values()))) == 9
    assert order(2, seed=1) == orders[1, 2]


def test_an_image_stays_with_its_label() -> None:
    images: Tensor
    for images, labels in BatchLoader(IMAGES, LABELS, 4, seed=3):
        assert torch.equal(images[:, 5, 5].long(), labels)


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_devices_share_every_batch_without_loss_or_double(world_size: int) -> None:
    shares = [order(1, seed=5, rank=rank, world_size=world_size) for rank in range(world_size)]
    for whole, *parts in zip(order(1, seed=5), *shares, strict=True):
        assert sorted(itertools.chain(*parts)) == sorted(whole)
        assert [part[0] for part in parts if part] == whole[:world_size]
