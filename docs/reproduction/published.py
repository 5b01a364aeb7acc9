"""Sets results.csv of `reproduce` beside published.csv, what the tutorial printed: README.md from there on."""

import csv
import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy import stats

from lit_mnist.trials.paired import difference

FOLDER = Path(__file__).parent
SEEDS = 5  # with fewer a standard deviation says too little for a distance
FINAL = {  # what the tutorial's evaluate printed; accuracies of two digits are left out
    ("mlp", "test_loss"): 0.1080,
    ("mlp", "test_accuracy"): 0.9774,
    ("mlp_dropout", "test_loss"): 0.0828,
    ("mlp_dropout_30", "test_loss"): 0.1123,
}


def read(name: str) -> list[dict[str, str]]:
    with (FOLDER / name).open(newline="") as file:
        return list(csv.DictReader(file))


def ours(rows: list[dict[str, str]], config: str, epoch: int, metric: str) -> np.ndarray:
    """A metric of every seed after an epoch, (seeds,) float64, with losses as Keras 2 printed them."""
    column = metric.replace("_", "/", 1).replace("/loss", "/keras_loss")
    return column_of(rows, config, epoch, column)


def column_of(rows: list[dict[str, str]], config: str, epoch: int, column: str) -> np.ndarray:
    found = [row[column] for row in rows if row["config"] == config and float(row["epoch"]) == epoch]
    return np.array(found, dtype=float)


def final(published: list[dict[str, str]]) -> Iterator[tuple[str, int, str, float]]:
    """The published figures after the last epoch: config, epoch, metric, value."""
    for config in dict.fromkeys(row["run"] for row in published):
        last = [row for row in published if row["run"] == config][-1]
        for metric in ("val_loss", "val_accuracy"):
            yield config, int(last["epoch"]), metric, float(last[metric])
        for metric in ("test_loss", "test_accuracy"):
            if (config, metric) in FINAL:
                yield config, int(last["epoch"]), metric, FINAL[config, metric]


def interval(sample: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Where one more run lies with a probability of level, by the t distribution."""
    n = len(sample)
    half = stats.t.ppf((1 + level) / 2, n - 1) * sample.std(ddof=1) * np.sqrt(1 + 1 / n)
    return sample.mean() - half, sample.mean() + half


def beside(rows: list[dict[str, str]], published: list[dict[str, str]]) -> list[str]:
    lines = [
        "| config | figure | published | ours | plain loss | 95 % of single runs | distance |",
        "|---|---|---|---|---|---|---|",
    ]
    for config, epoch, metric, value in final(published):
        sample = ours(rows, config, epoch, metric)
        plain = column_of(rows, config, epoch, metric.replace("_", "/", 1))
        low, high = interval(sample)
        mark = "" if low <= value <= high else " **outside**"
        other = f"{plain.mean():.4f} ± {plain.std(ddof=1):.4f}" if metric.endswith("loss") else "-"
        distance = f"{(value - sample.mean()) / sample.std(ddof=1):+.1f}" if len(sample) >= SEEDS else "-"
        mine = f"{sample.mean():.4f} ± {sample.std(ddof=1):.4f}"
        cells = [f"`{config}`", metric.replace("_", "/"), f"{value:.4f}", mine, other]
        lines.append(f"| {' | '.join(cells)} | {low:.4f} to {high:.4f}{mark} | {distance} |")
    return lines


def within(rows: list[dict[str, str]], published: list[dict[str, str]], plain: bool) -> dict[str, tuple[int, int]]:
    """How many published figures of epochs lie within two standard deviations of our mean, and of how many."""
    counts = {}
    for metric in ("train_loss", "train_accuracy", "val_loss", "val_accuracy"):
        near = 0
        for row in published:
            which = metric.replace("_", "/", 1)
            epoch = int(row["epoch"])
            sample = column_of(rows, row["run"], epoch, which) if plain else ours(rows, row["run"], epoch, metric)
            near += abs(float(row[metric]) - sample.mean()) <= 2 * sample.std(ddof=1)
        counts[metric.replace("_", "/")] = (int(near), len(published))
    return counts


def dropout(rows: list[dict[str, str]]) -> str:
    """What dropout changes after 10 epochs, over the same seeds."""
    texts = []
    for metric in ("test/loss", "test/accuracy"):
        pair = (column_of(rows, config, 10, metric).tolist() for config in ("mlp", "mlp_dropout"))
        found = difference(metric, *pair)
        texts.append(f"{metric} changes by {found} (95 % interval), better in {found.better_in} of {found.n} seeds")
    return "; ".join(texts)


def text() -> str:
    rows, published = read("results.csv"), read("published.csv")
    n = len({row["seed"] for row in rows})
    chance = 2 * stats.t.cdf(2 / np.sqrt(1 + 1 / n), n - 1) - 1
    clipped, plain = within(rows, published, plain=False), within(rows, published, plain=True)
    near, whole = (sum(counts) for counts in zip(*clipped.values(), strict=True))
    each = ", ".join(f"{name} {count} of {of}" for name, (count, of) in clipped.items())
    paragraphs = [
        f"""One run of each recipe was published, without a seed. Keras 2 computed the loss of a softmax clipped to
        [1e-7, 1 - 1e-7], so no image costs more than 16.1. `keras_loss` is this loss, and *ours* is measured by it. The
        distance is in standard deviations over our {n} seeds, shown from {SEEDS} seeds on. The interval holds 95 of 100
        further single runs, by the t distribution. Accuracies printed with two digits are omitted.""",
        f"""**Every epoch.** Of the {whole} published figures of single epochs, {near} lie within two standard
        deviations of our mean of their epoch: {each}. If the published runs were three more of ours,
        {chance * whole:.0f} would be expected there. (Epochs of one run are correlated, so this count varies
        a lot.) By the plain loss it is {plain["val/loss"][0]} of {plain["val/loss"][1]} for val/loss: the
        difference comes from the few images of the highest loss.""",
        f"""`mlp_dropout` less `mlp` after 10 epochs, over {n} seeds; both fits of a seed have the
        same order of images and the same first weights: {dropout(rows)}.""",
    ]
    about, epochs, help = (textwrap.fill(" ".join(one.split()), 125, break_on_hyphens=False) for one in paragraphs)
    table = "\n".join(beside(rows, published))
    return f"## Beside the published figures\n\n{about}\n\n{table}\n\n{epochs}\n\n## Does dropout help?\n\n{help}\n"


def write() -> None:
    """Replace what follows the table of `reproduce` in README.md."""
    path = FOLDER / "README.md"
    path.write_text(path.read_text().partition("## Beside")[0] + text())


if __name__ == "__main__":
    write()
