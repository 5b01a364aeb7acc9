"""Seconds of a fit of each config in one thread: the median epoch of a short fit, times the epochs of the config.

It also writes them into the first lines of the configs; docs/ladder/ladder.py takes them into its tables.
"""

import csv
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml
from bench import HERE, fix_data_dir, processor

from lit_mnist.runs.folder import read_metrics

CONFIGS = HERE.parent / "configs"
EPOCHS = 6  # of a short fit; the first is not counted
COLUMNS = ["config", "processor", "epochs", "seconds_of_an_epoch", "lowest", "highest", "seconds"]


def epochs_of(config: Path) -> int:
    """Epochs of the whole fit."""
    return int(yaml.safe_load(config.read_text()).get("trainer", {}).get("max_epochs", 10))


def measure(config: Path, options: list[str]) -> list[float]:
    """Seconds of the epochs of a short fit."""
    fit = [sys.executable, "-m", "lit_mnist", "fit", "--config", str(config), "--figures", "false", *options]
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([*fit, "--trainer.max_epochs", str(EPOCHS)], cwd=folder, capture_output=True, check=True)
        rows = read_metrics(Path(folder) / "lightning_logs/version_0")
    return [float(row["seconds"]) for row in rows[1:]]


def main() -> None:
    fix_data_dir()  # run it with OMP_NUM_THREADS=1
    path = HERE / "results" / f"{processor()}-fits.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for config in sorted(CONFIGS.rglob("*.yaml")):
            if "; fit " not in config.read_text():
                continue
            options = ["--config", str(CONFIGS / "mlp.yaml")] if config.stem == "fast" else []
            seconds, epochs = measure(config, options), epochs_of(config)
            whole = epochs * statistics.median(seconds)
            numbers = [f"{value:.2f}" for value in (statistics.median(seconds), min(seconds), max(seconds))]
            writer.writerow([config.stem, processor(), epochs, *numbers, f"{whole:.0f}"])
            file.flush()
            name = processor().replace("_", " ")
            text = re.sub(r"; fit .*", f"; fit {whole:.0f} s in one thread ({name})", config.read_text(), count=1)
            config.write_text(text)
            print(config.stem, epochs, *numbers, f"{whole:.0f}", flush=True)


if __name__ == "__main__":
    main()
