"""Time to accuracy: whole processes from their start to a tested model, one for each config of configs/time_to."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench import HERE, processor, write_table

from lit_mnist.runs.folder import read_metrics

SEEDS = 5
CONFIGS = sorted((HERE.parent / "configs/time_to").glob("*.yaml"))
PROGRAM = """
import sys
from lit_mnist.__main__ import main
main(args=["fit", *sys.argv[1:]])
main(args=["test", "--ckpt_path", "last", "--figures", "false"])
"""


def run(config: Path, seed: int) -> tuple[float, float, float]:
    """Seconds of the process, seconds of its epochs, and test accuracy in percent."""
    command = [sys.executable, "-c", PROGRAM, "--config", str(config), "--seed_everything", str(seed)]
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        subprocess.run(command, cwd=folder, capture_output=True, check=True)
        seconds, left = time.perf_counter() - start, Path(folder) / "lightning_logs/version_0"
        epochs = sum(row["seconds"] for row in read_metrics(left))
        return seconds, epochs, 100 * json.loads((left / "test.json").read_text())["accuracy"]


def main() -> None:
    os.environ["LIT_MNIST_DATA_DIR"] = str(Path(os.environ.get("LIT_MNIST_DATA_DIR", "data")).resolve())
    measured: dict[Path, list[tuple[float, float, float]]] = {config: [] for config in CONFIGS}
    for seed in range(SEEDS):
        for config in CONFIGS:
            measured[config].append(run(config, seed))
            print(f"seed {seed}  {config.name}  {measured[config][-1]}", flush=True)
    rows: list[list[object]] = []
    for config, runs in measured.items():
        seconds, epochs, accuracies = zip(*runs, strict=True)
        accuracy = f"{statistics.mean(accuracies):.2f} ± {statistics.stdev(accuracies):.2f}"
        spread, of_epochs = f"{min(seconds):.1f}..{max(seconds):.1f}", f"{statistics.median(epochs):.1f}"
        command = f"configs/time_to/{config.name}"
        rows.append(
            [command, f"{statistics.median(seconds):.1f}", spread, of_epochs, accuracy, f"{min(accuracies):.2f}"]
        )
    write_table(
        HERE / "results" / f"{processor()}-time_to.md",
        "Time to accuracy",
        f"`python benchmarks/time_to.py`: fit and test in one process, from start to end, in turn, n={SEEDS} seeds.",
        ["config", "median s", "min..max s", "of these epochs", "test accuracy, %", "lowest"],
        rows,
    )


if __name__ == "__main__":
    main()
