"""Gain of a second host: seconds per epoch for several global batches, and of one gradient all-reduce.

python benchmarks/hosts.py
torchrun --nnodes 2 --nproc_per_node 1 --rdzv_backend c10d --rdzv_endpoint HOST:29500 benchmarks/hosts.py  # on both
"""

import os
import statistics
import time

import torch
from scale import BATCH_SIZES, one

PARAMETERS = 235_146  # of the tutorial's network, as many float32 gradients


def seconds_of_all_reduce() -> float:
    """The median of 100 sums of all gradients over the hosts."""
    gradients, seconds = torch.ones(PARAMETERS), []
    for _ in range(100):
        torch.distributed.barrier()
        start = time.perf_counter()
        torch.distributed.all_reduce(gradients)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def main() -> None:
    hosts = int(os.environ.get("WORLD_SIZE", 1))
    for batch_size in BATCH_SIZES[1:]:
        if os.environ.get("RANK", "0") == "0":
            print(f"hosts {hosts}, batch {batch_size}", flush=True)
        one(48_000, batch_size, 256, 1, hosts)
    if hosts > 1:
        seconds = seconds_of_all_reduce()
        if os.environ["RANK"] == "0":
            print(f"all_reduce of {4 * PARAMETERS:,} bytes: {1000 * seconds:.1f} ms")


if __name__ == "__main__":
    main()
