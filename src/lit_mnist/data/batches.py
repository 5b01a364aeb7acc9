"""Batches gathered at once from tensors, in an order that follows from (seed, epoch) and can be resumed."""

import itertools
import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor


class BatchSampler:
    """Indices of the images of each batch; of every batch, each device gets its own share.

    Args:
        num_samples: Number of images.
        batch_size: Images in a batch over all devices; the last batch of an epoch may be smaller.
        shuffle: Draw a new order for every epoch, from seed and epoch alone.
        seed: Seed of the order.
        rank: Which of the devices this is.
        world_size: Number of devices.
        device: Where the indices are used; they move there once per epoch.
    """

    def __init__(
        self,
        num_samples: int,
        batch_size: int,
        shuffle: bool,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | None = None,
    ) -> None:
        self.num_samples = num_samples
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.device = device
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next; Lightning calls this."""
        self.epoch = epoch

    def __len__(self) -> int:
        return math.ceil(self.num_samples / self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        if self.shuffle:
            order = torch.from_numpy(np.random.default_rng((self.seed, self.epoch)).permutation(self.num_samples))
        else:
            order = torch.arange(self.num_samples)
        for batch in order.to(self.device).split(self.batch_size):
            yield batch[self.rank :: self.world_size]  # (B,) -> (B / world_size,)


Batch = tuple[Tensor, Tensor]


class BatchLoader:
    """Yields (images, labels) batch by batch, by indexing the tensors once per batch.

    Args:
        images: All images, (N, 28, 28) uint8.
        labels: All labels, (N,) int64.
        sampler: The indices of each batch.
        steps: Batches given out together, as a list; 1 gives each on its own.
    """

    def __init__(self, images: Tensor, labels: Tensor, sampler: BatchSampler, steps: int = 1) -> None:
        self.images = images
        self.labels = labels
        self.sampler = sampler
        self.steps = steps
        self.batch_sampler = None  # as in a DataLoader whose sampler gives whole batches
        self.position = 0  # batches given out in this epoch; the fast path gives back those that it does not take
        self._resume: dict[str, int] = {}

    def __len__(self) -> int:
        return math.ceil(len(self.sampler) / self.steps)

    def __iter__(self) -> Iterator[Batch | list[Batch]]:
        start = self._resume.get("position", 0) if self._resume.get("epoch") == self.sampler.epoch else 0
        self._resume = {}
        indices = itertools.islice(self.sampler, start, None)
        self.position = start
        count = self.steps - start % self.steps  # the first list may be the rest of one
        while together := list(itertools.islice(indices, count)):
            self.position += len(together)
            count = self.steps
            # (B,) -> (B, 28, 28) uint8, (B,) int64; indexing, as in images[i], takes far longer on a CPU
            batches = [(self.images.index_select(0, i), self.labels.index_select(0, i)) for i in together]
            yield batches if self.steps > 1 else batches[0]

    def state_dict(self) -> dict[str, int]:
        """Seed, epoch and the position in it, for a checkpoint."""
        return {"seed": self.sampler.seed, "epoch": self.sampler.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue at the position of a checkpoint if its epoch comes next; Lightning calls this before iterating."""
        self.sampler.seed = state["seed"]
        self._resume = state
