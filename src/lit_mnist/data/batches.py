"""Batches indexed from tensors in memory, in an order that depends only on the seed and the epoch."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler, SequentialSampler


@dataclass(eq=False)
class EpochSampler(Sampler[int]):
    """A new random order of the images in every epoch; Lightning sets the epoch."""

    num_samples: int
    seed: int
    epoch: int = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        return iter(np.random.default_rng((self.seed, self.epoch)).permutation(self.num_samples).tolist())


@dataclass
class BatchLoader:
    """Yields (images (B, *image_shape) uint8, labels (B,) int64) by indexing the tensors of all images once per batch.

    It has no ``dataset``, so Lightning does not replace its sampler on several devices. ``batch_size`` is the global
    batch: each device gets every world_size-th image of it. The last batch of an epoch may be smaller. A DataLoader
    with a BatchSampler is slower, and loses rows on two devices.
    """

    images: Tensor
    labels: Tensor
    batch_size: int
    seed: int | None = None  # of the order; None keeps the order of the tensors
    rank: int = 0
    world_size: int = 1
    batch_sampler: None = None  # Lightning reads it

    def __post_init__(self) -> None:
        count = len(self.labels)
        self.sampler = SequentialSampler(self.labels) if self.seed is None else EpochSampler(count, self.seed)

    def __len__(self) -> int:
        return math.ceil(len(self.labels) / self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.tensor(list(self.sampler), device=self.images.device)
        for batch in order.split(self.batch_size):
            share = batch[self.rank :: self.world_size]  # (B,) -> (B / world_size,)
            yield self.images.index_select(0, share), self.labels.index_select(0, share)
