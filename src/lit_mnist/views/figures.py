"""Figures: learning curves, samples, and the results of a test."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lit_mnist.atomic import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TRAIN, VAL = "#7a8794", "#d95f02"
FEW = 10  # images: a share of fewer says little
METRICS = ("loss", "accuracy")  # with curves in every figure; TensorBoard and the report have all metrics


def new_figure(width: float, height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple["Figure", Any]:
    """A figure and its axes, with width and height in inches; pyplot would keep every figure in memory."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, **options)


def save(figure: "Figure", path: Path) -> None:
    """Write a figure atomically, in the format of the suffix; equal figures give equal files."""
    from matplotlib import rc_context

    with write_whole(path) as part, rc_context({"svg.hashsalt": path.stem}):
        figure.savefig(part, format=path.suffix[1:], dpi=160, metadata={"Date": None} if path.suffix == ".svg" else {})


def plain_axes(axes: "Axes", below: str = "") -> None:
    """Remove the upper and right frame, add a faint grid, and label the x axis; epochs get integer ticks."""
    from matplotlib.ticker import MaxNLocator

    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)
    axes.set_xlabel(below)
    if below == "epoch":
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))


def best_row(rows: Sequence[dict[str, float]]) -> dict[str, float] | None:
    """The epoch with the lowest val loss; None if nothing was validated."""
    return min((row for row in rows if "val/loss" in row), key=lambda row: row["val/loss"], default=None)


def curve(rows: Sequence[dict[str, float]], name: str) -> tuple[list[float], list[float]]:
    """Epochs with a metric and its values; a line connects them across epochs without it."""
    measured = [row for row in rows if name in row]
    return [row["epoch"] for row in measured], [row[name] for row in measured]


def history(rows: Sequence[dict[str, float]]) -> "Figure":
    """Loss above accuracy over the epochs, for train and val, with the best epoch marked."""
    figure, both = new_figure(7, 5.6, rows=2, sharex=True)
    best = best_row(rows)
    for axes, metric in zip(both, METRICS, strict=True):
        for stage, color, marker in (("train", TRAIN, "o"), ("val", VAL, "s")):
            axes.plot(*curve(rows, f"{stage}/{metric}"), color=color, marker=marker, markersize=4, label=stage)
        if best:
            axes.axvline(best["epoch"], color="black", linestyle=":", linewidth=1, zorder=0)
        if best and f"val/{metric}" in best:
            axes.plot(best["epoch"], best[f"val/{metric}"], "o", markersize=11, mfc="none", mec="black")
        axes.set_ylabel(metric)
        plain_axes(axes, "epoch" if axes is both[1] else "")
    both[0].legend(frameon=False)
    if best:
        text = ", ".join(f"val {name} {best[f'val/{name}']:.4f}" for name in METRICS if f"val/{name}" in best)
        both[0].set_title(f"best epoch {best['epoch']:.0f}: {text}", fontsize="medium")
    return figure


def overlay(histories: dict[str, Sequence[dict[str, float]]]) -> "Figure":
    """Loss and accuracy of several runs by name: val solid, train dashed in the same colour."""
    from matplotlib import colormaps
    from matplotlib.lines import Line2D

    count = len(histories)
    few = count <= 10
    colors = colormaps["tab10" if few else "turbo"](range(count) if few else torch.linspace(0, 1, count).numpy())
    figure, both = new_figure(10, 4.2, columns=2)
    for axes, metric in zip(both, METRICS, strict=True):
        for color, rows in zip(colors, histories.values(), strict=True):
            for stage, style in (("train", "--"), ("val", "-")):
                axes.plot(*curve(rows, f"{stage}/{metric}"), style, color=color)
        axes.set_title(metric, fontsize="medium")
        plain_axes(axes, "epoch")
    handles = [Line2D([], [], color=color) for color in colors]
    handles += [Line2D([], [], color="gray"), Line2D([], [], color="gray", linestyle="--")]
    names = [name.replace("$", r"\$") for name in histories]  # not a formula
    columns = max(1, min(len(handles), 120 // (max(map(len, names)) + 8)))
    place: Any = {"loc": "outside lower center", "ncols": columns, "frameon": False}
    figure.legend(handles, [*names, "val", "train"], **place)
    return figure


def samples(images: Tensor, labels: Tensor, classes: Sequence[str]) -> "Figure":
    """Images (N, H, W) or (N, C, H, W) uint8 below the names of their classes; labels (N,) int64."""
    names = [shortened(classes[label], 11) for label in labels.tolist()]
    return _gallery(images, names, columns=9 if max(map(len, names)) < 8 else 6)


def shortened(name: str, length: int) -> str:
    """A name of at most `length` letters; a longer one keeps its start and its end, since starts may be equal."""
    half = length // 2
    return name if len(name) <= length else f"{name[:half]}…{name[half + 1 - length :]}"


def confusion(matrix: Tensor, classes: Sequence[str]) -> "Figure":
    """Confusion matrix (C, C) int64 with true classes in rows; cells show counts and shares for up to 20 classes."""
    from matplotlib.colors import PowerNorm
    from matplotlib.ticker import PercentFormatter

    few = len(classes) <= 20  # the numbers of more would overlap
    names = [shortened(name, 14) for name in classes]
    long = max(map(len, names)) > 3
    side = max(6, 0.6 * len(classes)) if few else 0.22 * len(classes) + 3
    figure, axes = new_figure(side + 1 + 0.7 * long, side + 0.7 * long)
    shares = matrix / matrix.sum(1, keepdim=True).clamp(min=1)  # (C, C), each row adds up to 1
    drawn = axes.imshow(shares.numpy(), cmap="Blues", norm=PowerNorm(0.35, vmin=0, vmax=1))  # so single errors show
    scale: Any = {"shrink": 0.5, "aspect": 25, "ticks": [0, 0.01, 0.1, 0.5, 1], "format": PercentFormatter(1, 0)}
    figure.colorbar(drawn, ax=axes, label="share of the true class", **scale)
    for i, row in enumerate(matrix.tolist() if few else []):
        for j, count in enumerate(row):
            if count:
                color = "white" if shares[i, j] > 0.25 else "black"
                axes.text(j, i - 0.12, f"{count:,}", ha="center", va="center", color=color, fontsize=9)
                axes.text(j, i + 0.24, f"{shares[i, j]:.1%}", ha="center", va="center", color=color, fontsize=6.5)
    size = None if few else 7
    upright = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if long else {}
    axes.set_xticks(range(len(names)), names, fontsize=size, parse_math=False, **upright)
    axes.set_yticks(range(len(names)), names, fontsize=size, parse_math=False)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    right = int(matrix.trace())
    axes.set_title(f"{right:,} of {int(matrix.sum()):,} right", fontsize="medium")
    return figure


def mistakes(
    images: Tensor, labels: Tensor, predicted: Tensor, probabilities: Tensor, classes: Sequence[str], title: str
) -> "Figure":
    """Images (N, H, W) or (N, C, H, W) uint8, each below its true class, predicted class and probability, (N,)."""
    if not len(images):
        figure, axes = new_figure(7, 1.5)
        axes.set_axis_off()
        axes.text(0.5, 0.5, "no mistakes", ha="center", va="center")
        return figure
    names = [shortened(name, 11) for name in classes]
    form = "{} as\n{}\n{}" if max(map(len, names)) > 3 else "{} as {}, {}"
    given = zip(labels.tolist(), predicted.tolist(), probabilities.tolist(), strict=True)
    titles = [form.format(names[label], names[other], percent(p)) for label, other, p in given]
    return _gallery(images, titles, columns=6, title=f"{title}: true class as predicted class, probability")


def percent(probability: float) -> str:
    """A probability in per cent: 97%, but 99.98% where rounding would give 100%."""
    return f"{probability:.0%}" if probability < 0.995 else f"{min(probability, 0.9999):.2%}"


def calibration(probabilities: Tensor, right: Tensor, error: float, bins: int = 15) -> "Figure":
    """Reliability diagram: share of right predictions and number of images per bin of probability; inputs are (N,)."""
    from matplotlib.colors import to_rgba
    from matplotlib.ticker import ScalarFormatter

    counts = torch.histc(probabilities, bins, 0, 1)  # (bins,)
    hits = torch.histc(probabilities[right], bins, 0, 1)
    edges = torch.linspace(0, 1, bins + 1)
    middles = ((edges[:-1] + edges[1:]) / 2).tolist()
    figure, (above, below) = new_figure(6, 5.5, rows=2, sharex=True, height_ratios=(3, 1))
    above.plot([0, 1], [0, 1], color=TRAIN, linestyle="--", linewidth=1, label="perfectly calibrated")
    colors = [to_rgba(VAL, 1 if count >= FEW else 0.3) for count in counts.tolist()]
    above.bar(middles, (hits / counts).nan_to_num().tolist(), width=0.9 / bins, color=colors)
    none_right = [middle for middle, count, hit in zip(middles, counts, hits, strict=True) if count and not hit]
    above.plot(none_right, [0] * len(none_right), "_", color=VAL, markersize=15, markeredgewidth=4, clip_on=False)
    above.bar([0], [0], color=VAL, label="share right")
    if any(0 < count < FEW for count in counts.tolist()):
        above.bar([0], [0], color=to_rgba(VAL, 0.3), label=f"of fewer than {FEW} images")
    above.set_xlim(0, 1)
    above.set_ylabel("share right")
    above.legend(frameon=False)
    above.set_title(f"expected calibration error {error:.4f}", fontsize="medium")
    below.bar(middles, counts.tolist(), width=0.9 / bins, color=TRAIN)
    below.set_yscale("symlog", linthresh=1)
    below.yaxis.set_major_formatter(ScalarFormatter())  # 1, 10, 100
    below.set_ylabel("images")
    plain_axes(above)
    plain_axes(below, "probability of the predicted class")
    return figure


def _gallery(images: Tensor, titles: Sequence[str], columns: int, title: str = "") -> "Figure":
    """Images in a grid, each below its title; all in one image, since axes for each would be slow."""
    if images.ndim == 4:  # colour: (N, 3, H, W) -> (N, H, W, 3); one plane of others
        pixels = images.movedim(1, -1) if images.shape[1] == 3 else images[:, :1].movedim(1, -1).expand(-1, -1, -1, 3)
    else:  # (N, H, W) -> (N, H, W, 3); those of MNIST's form as ink on paper
        pixels = (255 - images if images.shape[1:] == (28, 28) else images)[..., None].expand(-1, -1, -1, 3)
    height, width = pixels.shape[1:3]
    lines = 1 + max(title.count("\n") for title in titles)
    small = max(len(line) for title in titles for line in title.split("\n")) > 70 // columns  # to fit above an image
    cell, top = round(width * 34 / 28), round(width * 9 / 28 * lines)  # width of a cell, height of titles
    rows = math.ceil(len(images) / columns)
    sheet = torch.full((rows * (height + 6 + top), columns * cell, 3), 255, dtype=torch.uint8)
    figure, axes = new_figure(7, 7 / columns * rows * (height + 6 + top) / cell + 0.3 * bool(title))
    figure.suptitle(title, fontsize="medium")
    for i, (image, text) in enumerate(zip(pixels.cpu(), titles, strict=True)):
        y, x = i // columns * (height + 6 + top) + top, i % columns * cell + (cell - width) // 2
        sheet[y : y + height, x : x + width] = image
        place = {"ha": "center", "va": "bottom", "fontsize": 7 if small else 9}
        axes.text(x + width / 2, y - 2, text, parse_math=False, **place)
    axes.imshow(sheet.numpy(), interpolation="nearest")
    axes.set_axis_off()
    return figure
