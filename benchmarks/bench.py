"""Time every contender in turn, several rounds, and write table, figures and chart."""

import argparse
import csv
import datetime
import importlib.metadata
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from lit_mnist import MNISTDataModule

HERE = Path(__file__).parent
PEERS = HERE / ".venv-peers" / "bin" / "python"
FAST = ["--config", str(HERE.parent / "configs" / "fast.yaml")]
SLOW = ("Keras 3 on TensorFlow", "Keras 3 on PyTorch", "Lightning, DataLoader idiom", "Lightning, batched DataLoader")
LEAST_ACCURACY = 0.970  # on test, after 10 epochs; the mean is 0.979 with a standard deviation of 0.001


def contenders(data: Path) -> dict[str, list[str]]:
    """Command of each contender; its last line of output is JSON."""
    ours = [sys.executable, str(HERE / "lit.py")]
    keras = [str(PEERS), str(HERE / "keras_peer.py"), str(data)]
    return {
        "bare PyTorch loop": [sys.executable, str(HERE / "bare_loop.py"), str(data)],
        "lit_mnist": ours,
        "lit_mnist fast": [*ours, "--", *FAST],
        "Keras 3 on JAX": ["env", "KERAS_BACKEND=jax", *keras],
        "Keras 3 on JAX, with files": ["env", "KERAS_BACKEND=jax", *keras, "--files"],
        "Keras 3 on TensorFlow": ["env", "KERAS_BACKEND=tensorflow", *keras],
        "Keras 3 on PyTorch": ["env", "KERAS_BACKEND=torch", *keras],
        "Lightning, DataLoader idiom": [sys.executable, str(HERE / "dataloader_idiom.py")],
        "Lightning, batched DataLoader": [sys.executable, str(HERE / "dataloader_idiom.py"), "--batched"],
    }


def run(command: list[str], seed: int) -> dict[str, float]:
    """One fit of a contender."""
    position = command.index("--") if "--" in command else len(command)
    command = [*command[:position], "--seed", str(seed), *command[position:]]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    output = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    return json.loads(output.strip().splitlines()[-1])


def save_data(path: Path) -> None:
    """The images and labels as the peers read them."""
    data = MNISTDataModule()
    data.setup()
    loaders = {"train": data.train_dataloader(), "val": data.val_dataloader(), "test": data.test_dataloader()}
    arrays = {f"{split}_images": loader.images.numpy() for split, loader in loaders.items()}
    np.savez(path, **arrays, **{f"{split}_labels": loader.labels.numpy() for split, loader in loaders.items()})


def fix_data_dir() -> None:
    """Let fits in other folders find the data, too."""
    os.environ["LIT_MNIST_DATA_DIR"] = str(Path(os.environ.get("LIT_MNIST_DATA_DIR", "data")).resolve())


AMD, INTEL = "AuthenticAMD", "GenuineIntel"
GENERATIONS = [  # (vendor, family), models, name
    ((AMD, 23), range(0x30, 0x100), "amd_zen2"),
    ((AMD, 25), [*range(0x10), *range(0x20, 0x60)], "amd_zen3"),
    ((AMD, 25), [*range(0x10, 0x20), *range(0x60, 0x80), *range(0xA0, 0xB0)], "amd_zen4"),
    ((AMD, 26), range(0x100), "amd_zen5"),
    ((INTEL, 6), [85], "intel_skylake_or_cascade_lake"),
    ((INTEL, 6), [106, 108], "intel_ice_lake"),
    ((INTEL, 6), [143], "intel_sapphire_rapids"),
    ((INTEL, 6), [207], "intel_emerald_rapids"),
    ((INTEL, 6), [173, 174], "intel_granite_rapids"),
]


def processor() -> str:
    """Generation and instruction set of the processor as one word, such as amd_zen4_avx512_bf16."""
    known = dict(re.findall(r"^(\S[^:\t]*?)\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE))
    family, model = int(known.get("cpu family", 0)), int(known.get("model", 0))
    names = [name for key, models, name in GENERATIONS if key == (known.get("vendor_id"), family) and model in models]
    generation = names[0] if names else re.sub(r"\W+", "_", known.get("model name", "unknown processor").lower())
    flags = known.get("flags", "").split()
    return "_".join([generation, *[isa for isa in ("amx_bf16", "avx512_bf16", "avx512f", "avx2") if isa in flags][:1]])


def machine() -> str:
    """Date, processor, cores, threads, versions and commit."""
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    versions = [
        f"{name} {importlib.metadata.version(name)}" for name in ("torch", "lightning", "torchmetrics", "numpy")
    ]
    peers = re.findall(r"^(.*==.*)$", (HERE / "peers.txt").read_text(), re.MULTILINE)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=HERE, capture_output=True, text=True).stdout
    parts = [
        datetime.date.today().isoformat(),
        f"{cpu[1] if cpu else 'unknown processor'} ({processor()})",
        f"{len(os.sched_getaffinity(0))} of {os.cpu_count()} cores",
        f"OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'unset')}",
        f"Python {platform.python_version()}",
        *versions,
        f"peers: {', '.join(peers)}",
        f"commit {commit.strip()}",
    ]
    return "; ".join(parts)


def write_table(path: Path, title: str, about: str, header: list[str], rows: list[list[object]]) -> None:
    """Write a table as Markdown, with what was measured and where, and print it."""
    lines = [f"| {' | '.join(map(str, row))} |" for row in (header, ["---"] * len(header), *rows)]
    text = "\n".join([f"# {title}", "", f"{about} {machine()}.", "", *lines, ""])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    print(text)


def chart(rows: list[dict[str, Any]], path: Path) -> None:
    """A bar per contender: the median of its seconds, with whiskers from the fastest round to the slowest."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 3.6), layout="constrained")
    rows = rows[::-1]
    unit = 0.012 * max(row["max"] for row in rows)
    colors = ["#d95f02" if "lit_mnist" in row["contender"] else "#9aa5b1" for row in rows]
    whiskers = [[row["median"] - row["min"] for row in rows], [row["max"] - row["median"] for row in rows]]
    medians = [row["median"] for row in rows]
    axes.barh([row["contender"] for row in rows], medians, xerr=whiskers, color=colors, ecolor="#1f2933", capsize=3)
    for place, row in enumerate(rows):
        axes.text(row["max"] + unit, place, f"{row['median']:.1f} s, n={row['n']}", va="center")
    axes.set_xlim(right=max(row["max"] for row in rows) * 1.15)
    axes.set_xlabel("seconds of ten epochs: median, fastest and slowest round")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=160)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--slow_rounds", type=int, default=3, help="rounds of the contenders that are twice as slow")
    parser.add_argument("--cores", type=int, help="use this many cores; by default all", default=os.cpu_count())
    parser.add_argument("--out", type=Path, default=HERE / "results")
    options = parser.parse_args()
    os.sched_setaffinity(0, range(options.cores))  # which the contenders inherit
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "mnist.npz"
        save_data(data)
        rounds = {name: options.slow_rounds if name in SLOW else options.rounds for name in contenders(data)}
        commands = {name: command for name, command in contenders(data).items() if rounds[name]}
        commands = {name: command for name, command in commands.items() if PEERS.exists() or str(PEERS) not in command}
        results: dict[str, list[dict[str, float]]] = {name: [] for name in commands}
        for seed in range(options.rounds):
            for name, command in commands.items():
                if seed < rounds[name]:
                    results[name].append(run(command, seed))
                    print(f"round {seed + 1}  {name:<28} {results[name][-1]['fit_seconds']:.2f} s", flush=True)

    rows: list[dict[str, Any]] = []
    for name, runs in results.items():
        accuracies = [run["test_accuracy"] for run in runs]
        if min(accuracies) < LEAST_ACCURACY:
            raise SystemExit(f"{name} reached a test accuracy of {min(accuracies):.4f} only: nothing is written")
        seconds = [run["fit_seconds"] for run in runs]
        base = [run["fit_seconds"] for run in next(iter(results.values()))]
        ratios = [one / other for one, other in zip(seconds, base, strict=False)]  # fewer rounds of the slow ones
        rows.append(
            {
                "contender": name,
                "n": len(runs),
                "median": statistics.median(seconds),
                "min": min(seconds),
                "max": max(seconds),
                "ratio": statistics.median(ratios),
                "least_ratio": min(ratios),
                "greatest_ratio": max(ratios),
                "test_accuracy": statistics.mean(accuracies),
            }
        )
    name = processor() + (f"-{options.cores}_core" if options.cores < (os.cpu_count() or 1) else "")
    options.out.mkdir(parents=True, exist_ok=True)
    with (options.out / f"{name}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    write_table(
        options.out / f"{name}.md",
        "Ten epochs of the MNIST fit",
        f"`python benchmarks/bench.py --cores {options.cores}`: each contender once per round, in turn, n rounds."
        " Seconds of the fit alone, without start-up. Ratio to the bare loop of the same round: median and range.",
        ["contender", "n", "median s", "min..max s", "ratio", "range", "test accuracy, %"],
        [
            [
                row["contender"],
                row["n"],
                f"{row['median']:.1f}",
                f"{row['min']:.1f}..{row['max']:.1f}",
                f"{row['ratio']:.2f}",
                f"{row['least_ratio']:.2f}..{row['greatest_ratio']:.2f}",
                f"{100 * row['test_accuracy']:.2f}",
            ]
            for row in rows
        ],
    )
    if name == processor():
        chart(rows, options.out / f"{name}.png")


if __name__ == "__main__":
    main()
