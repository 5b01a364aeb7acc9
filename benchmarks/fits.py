"""Seconds of a fit in one thread: a short fit of each config that states them, in which they are then written anew."""

import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import yaml
from bench import HERE, fix_data_dir, processor, write_table

from lit_mnist.launch import has_bfloat16
from lit_mnist.runs.folder import read_metrics
from lit_mnist.trials.reproduce import words_of

CONFIGS = HERE.parent / "configs"
EPOCHS = 4  # of a short fit; the first is not counted
FLOAT32 = ("--float32_precision", "highest")


def epochs_of(configs: list[Path], environ: dict[str, str], options: Sequence[str] = ()) -> list[float]:
    """Seconds of the epochs of a short fit in a process of its own."""
    command = [sys.executable, "-m", "lit_mnist", "fit", *words_of(configs)]
    command += ["--trainer.max_epochs", str(EPOCHS), "--figures", "false", "--trainer.logger", "false", *options]
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(command, cwd=folder, env={**os.environ, **environ}, check=True, stdout=subprocess.DEVNULL)
        return [row["seconds"] for row in read_metrics(Path(folder) / "lightning_logs/version_0")][1:]


def main() -> None:
    fix_data_dir()
    os.environ["OMP_NUM_THREADS"] = "1"
    rows: list[list[object]] = []
    for path in sorted(CONFIGS.glob("**/*.yaml")):
        text = path.read_text()
        if "; fit " not in text:
            continue
        configs = [path] if "\ntrainer:" in text else [CONFIGS / "mlp.yaml", path]  # one that goes on top of another
        whole = yaml.safe_load(configs[0].read_text())["trainer"]["max_epochs"]
        seconds = epochs_of(configs, {})
        fit = whole * statistics.median(seconds)
        spread = f"{whole * min(seconds):.0f}..{whole * max(seconds):.0f}"
        name, median = str(path.relative_to(CONFIGS.parent)), f"{statistics.median(seconds):.2f}"
        is_reduced = "\nfloat32_precision:" in text
        in_float32 = f"{statistics.median(epochs_of(configs, {}, FLOAT32)):.2f}" if is_reduced else ""
        rows.append([name, whole, median, f"{fit:.0f}", spread, in_float32])
        print(*rows[-1], flush=True)
        precision = f", in {'bf16-mixed' if has_bfloat16() else 'float32'}" if is_reduced else ""
        path.write_text(re.sub("; fit .*", f"; fit {fit:.0f} s in one thread ({processor()}{precision})", text))
    write_table(
        HERE / "results" / f"{processor()}-fits.md",
        "Seconds of a fit in one thread",
        f"`python benchmarks/fits.py`: the median of {EPOCHS - 1} epochs times the number in the config, and the same"
        " of the fastest and the slowest. Validation and checkpoints are included, start and figures are not. The"
        " last column is for configs with another float32_precision.",
        ["config", "epochs", "s an epoch", "s a fit", "min..max s", "s an epoch with --float32_precision highest"],
        rows,
    )


if __name__ == "__main__":
    main()
