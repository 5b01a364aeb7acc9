"""Fit and test configs over several seeds and print mean, standard deviation and n."""

import argparse
import csv
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

CONFIGS = Path(__file__).parent.parent / "configs"


def lit_mnist(*args: str, cwd: Path) -> str:
    """Output of one command of the program."""
    command = [sys.executable, "-m", "lit_mnist", *args]
    return subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True).stdout


def measure(config: str, seed: int) -> dict[str, float]:
    """Fit a config with a seed; val figures of the last epoch, test figures of the last and the best checkpoint."""
    with tempfile.TemporaryDirectory() as folder:
        cwd = Path(folder)
        lit_mnist("fit", "--config", str(CONFIGS / f"{config}.yaml"), "--seed_everything", str(seed), cwd=cwd)
        rows = list(csv.DictReader((cwd / "lightning_logs/version_0/metrics.csv").open()))
        figures = {
            "val_loss": float(rows[-1]["val/loss"]),
            "val_accuracy": float(rows[-1]["val/accuracy"]),
            "fit_seconds": sum(float(row["seconds"]) for row in rows),
        }
        for name in ("last", "best"):
            output = lit_mnist("test", "--ckpt_path", name, cwd=cwd)
            loss, accuracy = map(float, re.findall(r"test_\w+ ([\d.]+)", output))
            figures |= {f"test_loss_{name}": loss, f"test_accuracy_{name}": accuracy}
        return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--configs", default="mlp,mlp_dropout,mlp_dropout_30,mlp_weight_decay")
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    for config in options.configs.split(","):
        runs = [measure(config, seed) for seed in range(options.seeds)]
        print(f"{config} (n={len(runs)})")
        for name in runs[0]:
            values = [run[name] for run in runs]
            print(f"  {name:<20} {statistics.mean(values):.4f} +- {statistics.stdev(values):.4f}", flush=True)


if __name__ == "__main__":
    main()
