"""Batches gathered at once from tensors in memory, in an order that follows from seed and epoch alone."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler, SequentialSampler


class EpochSampler(Sampler[int]):
    """A new order of the images for every epoch.

    Args:
        num_samples: Number of images.
        seed: Draws the orders, together with the epoch.
    """

    def __init__(self, num_samples: int, seed: int) -> None:
        self.num_samples = num_samples
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next; Lightning calls this."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        return iter(np.random.default_rng((self.seed, self.epoch)).permutation(self.num_samples).tolist())


class BatchLoader:
    """Yields (images, labels) batch by batch, by indexing the tensors once per batch.

    Lightning leaves it alone: it replaces samplers only of loaders with a ``dataset``.

    Args:
        images: All images, (N, 28, 28) uint8.
        labels: All labels, (N,) int64, on the same device.
        batch_size: Images in a batch over all devices; the last one of an epoch may be smaller.
        seed: Draws a new order for every epoch; None keeps that of the file.
        rank: Which of the devices this is; each gets its own share of every batch.
        world_size: Number of devices.
    """

    batch_sampler = None

    def __init__(
        self, images: Tensor, labels: Tensor, batch_size: int, seed: int | None = None, rank: int = 0, world_size: int = 1
    ) -> None:
        self.images, self.labels, self.batch_size = images, labels, batch_size
        self.rank, self.world_size = rank, world_size
        self.sampler = SequentialSampler(labels) if seed is None else EpochSampler(len(labels), seed)

    def __len__(self) -> int:
        return math.ceil(len(self.labels) / self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.tensor(list(self.sampler), device=self.images.device)
        for batch in order.split(self.batch_size):
            share = batch[self.rank :: self.world_size]  # (B,) -> (B / world_size,)
            yield self.images.index_select(0, share), self.labels.index_select(0, share)
