"""Time to accuracy: whole processes from their start to a tested model, one for each config of configs/time_to."""

import json
import statistics
import sys
import tempfile
from pathlib import Path

from bench import HERE, fix_data_dir, processor, write_table
from startup import seconds_of

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
        seconds, epochs = seconds_of(command, folder)
        test = json.loads((Path(folder) / "lightning_logs/version_0/test.json").read_text())
    return seconds, epochs, 100 * test["accuracy"]


def main() -> None:
    fix_data_dir()
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
