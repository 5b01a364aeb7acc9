"""Makes docs/ladder.md's table and figure: python docs/ladder/ladder.py [OUTPUT_OF_REPRODUCE...].

The run folders of each OUTPUT are added to results.csv: a row per config and seed, and one for its seeds together. Then
table and figure are made anew.
"""

import csv
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import yaml
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from lit_mnist import networks
from lit_mnist.runs.folder import read_metrics
from lit_mnist.trials.paired import half_interval
from lit_mnist.trials.results import together

FOLDER = Path(__file__).parent
ROOT = FOLDER.parent.parent
COLUMNS = ["config", "seed", "epochs", "val_loss", "val_accuracy", "test_loss", "test_accuracy"]
TUTORIAL = {"mlp": "1_mlp", "mlp_dropout": "2_dropout"}  # the first two rungs, of docs/reproduction
MLP, CNN = "#7a8794", "#d95f02"  # colours in the figure
WORSE = ("2_dropout",)  # than the rung below, and not in the README


def collect(output: Path) -> list[dict[str, object]]:
    """A row for each finished fit of `reproduce`, and one for all seeds of a config together."""
    rows: list[dict[str, object]] = []
    runs: dict[str, list[Path]] = {}
    for file in sorted(output.glob("runs/*/seed_*/lightning_logs/version_0/test.json")):
        config, seed = TUTORIAL.get(file.parts[-5], file.parts[-5]), int(file.parts[-4].removeprefix("seed_"))
        epochs, test = read_metrics(file.parent), json.loads(file.read_text())
        last = epochs[-1]
        values = [int(last["epoch"]), last["val/loss"], last["val/accuracy"]]
        rows.append(dict(zip(COLUMNS, [config, seed, *values, test["loss"], test["accuracy"]], strict=True)))
        runs.setdefault(config, []).append(file.parent)
    both = {config: together(found) for config, found in runs.items()}
    return rows + [{"config": config, "seed": "all", "test_accuracy": one} for config, one in both.items() if one]


def tutorial() -> list[dict[str, object]]:
    """The same rows for the tutorial's own configs, from the results of docs/reproduction."""
    with (FOLDER.parent / "reproduction/results.csv").open(newline="") as file:
        epochs = [row for row in csv.DictReader(file) if row["config"] in TUTORIAL]
    rows = []
    for last in (row for row in epochs if row["test/loss"]):
        run = [row for row in epochs if (row["config"], row["seed"]) == (last["config"], last["seed"])]
        measured = [float(last[name.replace("_", "/")]) for name in COLUMNS[3:]]
        values = [TUTORIAL[last["config"]], int(last["seed"]), len(run), *measured]
        rows.append(dict(zip(COLUMNS, values, strict=True)))
    return rows


def read() -> list[dict[str, object]]:
    path = FOLDER / "results.csv"
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write(rows: list[dict[str, object]]) -> None:
    rows.sort(key=lambda row: (str(row["config"]), str(row["seed"]).zfill(3)))
    with (FOLDER / "results.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def rungs(rows: list[dict[str, object]]) -> Iterator[tuple[str, dict[str, float], float]]:
    """The name of each config, its test accuracies in percent by seed, and the seconds of a fit, which it states."""
    for config in dict.fromkeys(row["config"] for row in rows):
        mine = [row for row in rows if row["config"] == config and row["seed"] != "all"]
        found = {row["seed"]: 100 * float(row["test_accuracy"]) for row in mine}
        yield config, found, float(re.findall(r"; fit (\d+) s", path_of(config).read_text())[0])


def spread(found: dict[str, float], digits: int) -> str:
    """Mean and standard deviation over the seeds."""
    sample = np.array(list(found.values()))
    return f"{sample.mean():.{digits}f}" + (f" ± {sample.std(ddof=1):.{digits}f}" if len(sample) > 1 else "")


def path_of(config: str) -> Path:
    """The file of a rung; the first two are the tutorial's."""
    names = {rung: name for name, rung in TUTORIAL.items()}
    return ROOT / "configs" / (f"{names[config]}.yaml" if config in names else f"ladder/{config}.yaml")


def options(config: str) -> dict[str, dict]:
    """What a rung decides."""
    return yaml.safe_load(path_of(config).read_text())


def images(config: str) -> int:
    """Images that a rung trains on."""
    return 60_000 - options(config).get("data", {}).get("val_size", 12_000)


def parameters(config: str) -> int:
    """Parameters of a config's network."""
    spec = options(config).get("model", {}).get("network", {})
    network = getattr(networks, spec.get("class_path", "MLP"))(**spec.get("init_args", {}))
    return sum(parameter.numel() for parameter in network.parameters())


def table(rows: list[dict[str, object]]) -> list[str]:
    head = ["rung", "parameters", "images", "epochs", "seconds", "n", "test accuracy, %", "over the rung below"]
    epochs = {row["config"]: row["epochs"] for row in rows if row["epochs"]}
    ensembles = {row["config"]: f"{100 * float(row['test_accuracy']):.2f}" for row in rows if row["seed"] == "all"}
    head += ["seeds together"] if ensembles else []
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    below: dict[str, float] = {}  # accuracies of the rung below
    for config, found, seconds in rungs(rows):
        both = np.array([found[seed] - below[seed] for seed in found if seed in below])
        gain = f"{both.mean():+.2f} ± {half_interval(both):.2f}" if len(both) > 1 else ""
        cells = [config, f"{parameters(config):,}", f"{images(config):,}", epochs[config], f"{seconds:.0f}", len(found)]
        cells += [spread(found, 2), gain, *([ensembles.get(config, "")] if ensembles else [])]
        lines.append(f"| {' | '.join(map(str, cells))} |")
        below = found
    return lines


def short_table(rows: list[dict[str, object]]) -> list[str]:
    """The README's: the rungs that are worth their time."""
    lines = ["| rung | parameters | test accuracy, % | one fit |", "|---|---|---|---|"]
    for config, found, seconds in rungs(rows):
        took = f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
        if config not in WORSE:
            lines.append(f"| `{config}` | {parameters(config):,} | {spread(found, 2)} (n={len(found)}) | {took} |")
    return lines


def figure(rows: list[dict[str, object]]) -> Figure:
    """Test error with its 95 % confidence interval, from three seeds on, against the seconds of a fit."""
    made = Figure(figsize=(7, 4.5), layout="constrained")
    axes = made.subplots()
    for config, found, seconds in rungs(rows):
        errors = 100 - np.array(list(found.values()))
        interval = half_interval(errors) if len(errors) > 2 else 0
        color = CNN if "cnn" in config else MLP
        axes.errorbar(seconds, errors.mean(), yerr=interval, fmt="o", color=color, capsize=3)
        place, side = ((-8, -3), "right") if config[0] in "15" else ((8, -3), "left")  # so that no label meets another
        axes.annotate(config, (seconds, errors.mean()), place, textcoords="offset points", fontsize=8, ha=side)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(6, 3000)
    axes.set_xticks(seconds_shown := [10, 20, 50, 100, 200, 500, 1000, 2000], map(str, seconds_shown))
    axes.set_yticks(errors_shown := [0.3, 0.4, 0.5, 0.7, 1, 1.5, 2], map(str, errors_shown))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(NullLocator())
    axes.set_xlabel("seconds of a fit")
    axes.set_ylabel("test error, %")
    axes.legend(handles=[Line2D([], [], color=c, marker="o", ls="", label=n) for c, n in ((MLP, "MLP"), (CNN, "CNN"))])
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return made


def main() -> None:
    rows: list[dict[str, object]] = read()
    for output in map(Path, sys.argv[1:]):
        rows += collect(output)
    rows += tutorial()
    write(list({(row["config"], str(row["seed"])): row for row in rows}.values()))  # the newest of each
    known = read()
    figure(known).savefig(FOLDER / "ladder.png", dpi=160)
    for page, lines in ((FOLDER.parent / "ladder.md", table(known)), (ROOT / "README.md", short_table(known))):
        text = "\n".join(lines)
        old = page.read_text()
        page.write_text(re.sub(r"(<!-- table -->\n).*?(\n<!-- end -->)", rf"\g<1>{text}\g<2>", old, flags=re.DOTALL))


if __name__ == "__main__":
    main()
