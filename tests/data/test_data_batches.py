"""The order of the samples, their shares among devices, and continuing within an epoch."""

import itertools

import pytest
import torch
from torch import Tensor

from lit_mnist.data.batches import BatchLoader, BatchSampler


def epoch_order(epoch: int = 0, seed: int = 0, count: int = 1000) -> list[int]:
    sampler = BatchSampler(count, batch_size=128, shuffle=True, seed=seed)
    sampler.set_epoch(epoch)
    return torch.cat(list(sampler)).tolist()


def loader(count: int = 100, batch_size: int = 32, shuffle: bool = True, seed: int = 0, steps: int = 1) -> BatchLoader:
    """Images whose pixels, and labels which, say the image's number."""
    numbers = torch.arange(count)
    images = numbers.to(torch.uint8)[:, None, None].expand(count, 28, 28)
    return BatchLoader(images, numbers, BatchSampler(count, batch_size, shuffle, seed), steps)


def labels(batches: list[tuple[Tensor, Tensor]]) -> list[list[int]]:
    return [batch[1].tolist() for batch in batches]


def at_epoch(epoch: int) -> BatchLoader:
    batches = loader()
    batches.sampler.set_epoch(epoch)
    return batches


def test_every_epoch_visits_every_image_once() -> None:
    for epoch in range(3):
        assert sorted(epoch_order(epoch)) == list(range(1000))


def test_the_order_follows_from_seed_and_epoch() -> None:
    assert epoch_order(epoch=3, seed=5) == epoch_order(epoch=3, seed=5)


def test_the_order_ignores_the_state_of_torchs_generator() -> None:
    torch.manual_seed(1)
    first = epoch_order()
    torch.manual_seed(2)
    assert epoch_order() == first


def test_the_order_differs_between_epochs_and_seeds() -> None:
    orders = {tuple(epoch_order(epoch, seed)) for epoch in range(4) for seed in range(4)}
    assert len(orders) == 16


def test_the_order_is_shuffled_over_all_images() -> None:
    first_batch = epoch_order(count=10_000)[:128]
    assert max(first_batch) > 9000
    assert min(first_batch) < 1000


def test_without_shuffling_the_order_is_the_files_in_every_epoch() -> None:
    sampler = BatchSampler(10, batch_size=4, shuffle=False)
    for epoch in range(2):
        sampler.set_epoch(epoch)
        assert [batch.tolist() for batch in sampler] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_the_last_partial_batch_is_kept() -> None:
    sampler = BatchSampler(300, batch_size=128, shuffle=True)
    assert [len(batch) for batch in sampler] == [128, 128, 44]
    assert len(sampler) == 3


def test_mnist_has_375_batches_of_128() -> None:
    sampler = BatchSampler(48_000, batch_size=128, shuffle=True)
    assert len(sampler) == len(list(sampler)) == 375


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
@pytest.mark.parametrize("count", [1, 5, 100])
def test_the_shares_of_the_devices_are_disjoint_and_cover_each_global_batch(world_size: int, count: int) -> None:
    whole = [batch.tolist() for batch in BatchSampler(count, 42, shuffle=True, seed=9)]
    shares = [list(BatchSampler(count, 42, True, 9, rank, world_size)) for rank in range(world_size)]
    assert {len(share) for share in shares} == {len(whole)}
    for number, batch in enumerate(whole):
        together = [index for share in shares for index in share[number].tolist()]
        assert sorted(together) == sorted(batch)
        sizes = [len(share[number]) for share in shares]
        assert max(sizes) - min(sizes) <= 1


def test_the_loader_gives_images_with_their_own_labels() -> None:
    for images, numbers in loader():
        assert images.dtype == torch.uint8
        assert images.shape == (len(numbers), 28, 28)
        assert torch.equal(images[:, 0, 0].long(), numbers)


def test_the_loader_has_as_many_batches_as_it_says() -> None:
    assert len(loader()) == len(list(loader())) == 4


def test_several_steps_at_once_hold_the_same_batches() -> None:
    together = list(loader(steps=3))
    assert [len(batches) for batches in together] == [3, 1]
    assert len(loader(steps=3)) == 2
    assert labels([batch for batches in together for batch in batches]) == labels(list(loader()))


def test_set_epoch_reshuffles_the_loader() -> None:
    batches = loader()
    first = labels(list(batches))
    batches.sampler.set_epoch(1)
    assert labels(list(batches)) != first


@pytest.mark.parametrize("given", [1, 2, 3, 4])
def test_a_resumed_loader_gives_exactly_the_rest_of_the_epoch(given: int) -> None:
    first = loader(seed=4)
    first.sampler.set_epoch(2)
    iterator = iter(first)
    before = labels(list(itertools.islice(iterator, given)))
    state = first.state_dict()
    rest = labels(list(iterator))

    resumed = loader(seed=0)
    resumed.sampler.set_epoch(2)
    resumed.load_state_dict(state)
    assert labels(list(resumed)) == rest
    assert len(before) + len(rest) == 4


def test_the_epoch_after_a_resumed_one_is_whole() -> None:
    first = loader()
    next(iter(first))
    resumed = loader()
    resumed.load_state_dict(first.state_dict())
    assert len(list(resumed)) == 3
    resumed.sampler.set_epoch(1)
    assert len(list(resumed)) == 4


def test_a_loader_resumed_between_epochs_gives_a_whole_epoch() -> None:
    first = loader()
    list(first)
    resumed = loader()
    resumed.load_state_dict(first.state_dict())
    resumed.sampler.set_epoch(1)
    assert labels(list(resumed)) == labels(list(at_epoch(1)))
