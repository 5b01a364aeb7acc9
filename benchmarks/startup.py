"""Start-up time: processes from start to end, compared with the import of Lightning."""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench import HERE, fix_data_dir, processor, write_table

from lit_mnist.runs.folder import read_metrics

ROUNDS = 5
PROGRAM = [sys.executable, "-m", "lit_mnist"]
COMMANDS = {
    "import lightning.pytorch": [sys.executable, "-c", "import lightning.pytorch"],
    "lit-mnist --version": [*PROGRAM, "--version"],
    "lit-mnist --help": [*PROGRAM, "--help"],
    "lit-mnist fit --help": [*PROGRAM, "fit", "--help"],
    "lit-mnist fit --data.wrong 1": [*PROGRAM, "fit", "--data.wrong", "1"],
    "lit-mnist fit --config mlp": [*PROGRAM, "fit", "--config", "mlp"],
}


def seconds_of(command: list[str], folder: str) -> tuple[float, float]:
    """Seconds of a process in an empty folder, and of the epochs of its fit."""
    start = time.perf_counter()
    subprocess.run(command, cwd=folder, capture_output=True, check=False)
    seconds = time.perf_counter() - start
    return seconds, sum(row["seconds"] for row in read_metrics(Path(folder) / "lightning_logs/version_0"))


def elsewhere(command: list[str]) -> tuple[float, float]:
    """The same in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        return seconds_of(command, folder)


def main() -> None:
    fix_data_dir()
    measured = {name: [elsewhere(COMMANDS[name])] for name in COMMANDS}
    for _ in range(ROUNDS):
        for name, command in COMMANDS.items():
            measured[name].append(elsewhere(command))
    rows, base = [], 0.0
    for name, runs in measured.items():
        whole, epochs = zip(*runs[1:], strict=True)  # without the first, which reads from the disk
        rest = statistics.median(a - b for a, b in zip(whole, epochs, strict=True))
        base = base or rest
        spread = f"{min(whole):.1f}..{max(whole):.1f}"
        rows.append([name, f"{statistics.median(whole):.1f}", spread, f"{rest:.1f}", f"{rest - base:+.1f}"])
    write_table(
        HERE / "results" / f"{processor()}-startup.md",
        "Start and end",
        f"`python benchmarks/startup.py`: each process once per round, in turn, n={ROUNDS}.",
        ["command", "median s", "min..max s", "without the epochs", "over the import"],
        rows,
    )


if __name__ == "__main__":
    main()
