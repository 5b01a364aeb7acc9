"""Growth of cost: time per image and peak memory against samples, batch size, hidden width and devices."""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

from bench import processor, write_table

HERE = Path(__file__).parent
SAMPLES = (12_000, 24_000, 48_000, 96_000, 192_000, 480_000)
BATCH_SIZES = (32, 128, 512, 2048, 8192)
WIDTHS = (64, 256, 1024, 4096)
DEVICES = (1, 2)


def one(samples: int, batch_size: int, width: int, devices: int, hosts: int = 1) -> None:
    """Fit noise in this process; print the median seconds of the epochs after the first, and the peak memory."""
    import lightning.pytorch as L
    import torch
    from lightning.pytorch.callbacks import Callback

    from lit_mnist import MLP, Classifier, MNISTDataModule

    torch.set_flush_denormal(True)  # as the program does
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    class Clock(Callback):
        def on_fit_start(self, *_: object) -> None:
            self.seconds: list[float] = []

        def on_train_epoch_start(self, *_: object) -> None:
            self.start = time.perf_counter()

        def on_train_epoch_end(self, *_: object) -> None:
            self.seconds.append(time.perf_counter() - self.start)

    class Noise(MNISTDataModule):
        def prepare_data(self) -> None:
            pass

        def load(self, split: str) -> tuple[torch.Tensor, torch.Tensor]:
            count = samples + 2000
            return torch.randint(0, 256, (count, 28, 28), dtype=torch.uint8), torch.randint(0, 10, (count,))

    clock = Clock()
    trainer = L.Trainer(
        max_epochs=4,
        accelerator="cpu",
        devices=devices,
        num_nodes=hosts,
        strategy="ddp" if devices * hosts > 1 else "auto",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[clock],
    )
    trainer.fit(Classifier(network=MLP(hidden_sizes=(width, 128))), Noise(val_size=2000, batch_size=batch_size))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if trainer.is_global_zero:
        seconds = statistics.median(clock.seconds[1:])
        print(json.dumps([seconds, seconds / samples * 1e6, peak / 1024, (peak - before) / 1024]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", type=int, nargs=4, metavar=("SAMPLES", "BATCH_SIZE", "WIDTH", "DEVICES"))
    options = parser.parse_args()
    if options.one:
        return one(*options.one)
    cases = {
        *((samples, 128, 256, 1) for samples in SAMPLES),
        *((48_000, batch_size, 256, 1) for batch_size in BATCH_SIZES),
        *((48_000, 128, width, 1) for width in WIDTHS),
        *((48_000, 128, 256, devices) for devices in DEVICES),
    }
    rows: list[list[object]] = []
    for case in sorted(cases):
        environment = {**os.environ, "OMP_NUM_THREADS": "1"} if case[3] > 1 else {**os.environ}
        command = [sys.executable, __file__, "--one", *map(str, case)]
        output = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
        figures = json.loads(output.strip().splitlines()[-1])
        rows.append(
            [*(f"{number:,}" for number in case), f"{figures[0]:.2f}", *(f"{value:.0f}" for value in figures[1:])]
        )
        print(*rows[-1], flush=True)
    write_table(
        HERE / "results" / f"{processor()}-scale.md",
        "How cost grows",
        "`python benchmarks/scale.py`: a network of two hidden layers, the second of 128, on noise of MNIST's form;"
        " the median of the last three of four epochs. Two devices are two processes of one thread each.",
        ["samples", "batch size", "first width", "devices", "s an epoch", "us an image", "peak MB", "MB over import"],
        rows,
    )


if __name__ == "__main__":
    main()
