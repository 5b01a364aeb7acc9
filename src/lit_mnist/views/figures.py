"""The figures: learning curves, samples, weights, and what a test shows."""

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
METRICS = ("loss", "accuracy")  # that have curves in every figure; those of one's own stand in TensorBoard and report


def new_figure(width: float, height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple["Figure", Any]:
    """A figure of so many inches and its axes, outside of pyplot, which would keep every figure alive."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, **options)


def save(figure: "Figure", path: Path) -> None:
    """Write a figure, whole or not at all, in the format that the suffix names; equal figures are equal files."""
    from matplotlib import rc_context

    with write_whole(path) as part, rc_context({"svg.hashsalt": path.stem}):
        figure.savefig(part, format=path.suffix[1:], dpi=110, metadata={"Date": None} if path.suffix == ".svg" else {})


def plain_axes(axes: "Axes", below: str = "") -> None:
    """Take away the frame above and to the right, put a faint grid behind the curves, and count epochs if asked to."""
    from matplotlib.ticker import MaxNLocator

    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)
    axes.set_xlabel(below)
    if below == "epoch":
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def best_row(rows: Sequence[dict[str, float]]) -> dict[str, float] | None:
    """The epoch with the lowest val loss, None where nothing was validated."""
    return min((row for row in rows if "val/loss" in row), key=lambda row: row["val/loss"], default=None)


def curve(rows: Sequence[dict[str, float]], name: str) -> tuple[list[float], list[float]]:
    """The epochs that have a metric, and its values there: a line goes on over the epochs without it."""
    measured = [row for row in rows if name in row]
    return [row["epoch"] for row in measured], [row[name] for row in measured]


def history(rows: Sequence[dict[str, float]]) -> "Figure":
    """Loss above and accuracy below over the epochs, train and val, with the best epoch marked."""
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
    """Loss and accuracy of several runs by their names: val as lines, train dashed in the same colour."""
    from matplotlib import colormaps
    from matplotlib.lines import Line2D

    count = len(histories)
    colors = (
        colormaps["tab10"](range(count)) if count <= 10 else colormaps["turbo"](torch.linspace(0, 1, count).numpy())
    )
    figure, both = new_figure(10, 4.2, columns=2)
    for axes, metric in zip(both, METRICS, strict=True):
        for color, rows in zip(colors, histories.values(), strict=True):
            for stage, style in (("train", "--"), ("val", "-")):
                axes.plot(*curve(rows, f"{stage}/{metric}"), style, color=color)
        axes.set_title(metric, fontsize="medium")
        plain_axes(axes, "epoch")
    handles = [Line2D([], [], color=color) for color in colors]
    handles += [Line2D([], [], color="gray"), Line2D([], [], color="gray", linestyle="--")]
    names = [name.replace("$", r"\$") for name in histories]  # which is no formula
    place = {"loc": "outside lower center", "ncols": min(6, len(handles)), "frameon": False}
    figure.legend(handles, [*names, "val", "train"], **place)
    return figure


def samples(images: Tensor, labels: Tensor, classes: Sequence[str]) -> "Figure":
    """Images (N, H, W) or (N, C, H, W) uint8 with the names of their classes (N,) int64 above."""
    names = [shortened(classes[label], 11) for label in labels.tolist()]
    return _gallery(images, names, columns=9 if max(map(len, names)) < 8 else 6)


def shortened(name: str, length: int) -> str:
    """A name of at most so many letters: of a longer one the first and the last, since names may begin alike."""
    half = length // 2
    return name if len(name) <= length else f"{name[:half]}…{name[half + 1 - length :]}"


def weights(weight: Tensor) -> "Figure":
    """What each of the first 64 units of a layer looks for, (units, H, W): light excites it, dark inhibits."""
    from torchvision.utils import make_grid

    kept = weight[:64].detach().float().cpu()
    columns = math.ceil(math.sqrt(len(kept)))
    grid = make_grid(kept[:, None], nrow=columns, padding=2, pad_value=math.nan)[0]  # (rows, columns) px
    figure, axes = new_figure(7, 6)
    limit = kept.abs().quantile(0.99).item()
    drawn = axes.imshow(grid.numpy(), cmap="PuOr_r", vmin=-limit, vmax=limit, interpolation="nearest")
    axes.set_axis_off()
    axes.set_title(f"weights of {len(kept)} of the {len(weight)} units in the first layer", fontsize="medium")
    figure.colorbar(drawn, ax=axes, shrink=0.6, extend="both")
    return figure


def confusion(matrix: Tensor, classes: Sequence[str]) -> "Figure":
    """True classes in rows, answers in columns, (C, C) int64: the count and, of a few classes, its share of the row."""
    from matplotlib.colors import PowerNorm

    few = len(classes) <= 20  # more, and figures would lie over each other
    names = [shortened(name, 14) for name in classes]
    long = max(map(len, names)) > 3
    side = max(6, 0.6 * len(classes)) if few else 0.22 * len(classes) + 3
    figure, axes = new_figure(side + 1 + 0.7 * long, side + 0.7 * long)
    shares = matrix / matrix.sum(1, keepdim=True).clamp(min=1)  # (C, C), each row adds up to 1
    axes.imshow(shares.numpy(), cmap="Blues", norm=PowerNorm(0.35, vmin=0, vmax=1))  # so that single errors show
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
    axes.set_xlabel("answer")
    axes.set_ylabel("true class")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    right = int(matrix.trace())
    axes.set_title(f"{right:,} of {int(matrix.sum()):,} right", fontsize="medium")
    return figure


def mistakes(
    images: Tensor, labels: Tensor, answers: Tensor, probabilities: Tensor, classes: Sequence[str]
) -> "Figure":
    """Images (N, H, W) or (N, C, H, W) uint8 with the true class, the answer and its probability, each (N,), above."""
    if not len(images):
        figure, axes = new_figure(7, 1.5)
        axes.set_axis_off()
        axes.text(0.5, 0.5, "no mistakes", ha="center", va="center")
        return figure
    names = [shortened(name, 11) for name in classes]
    form = "{} as\n{}\n{}" if max(map(len, names)) > 3 else "{} as {}, {}"
    given = zip(labels.tolist(), answers.tolist(), probabilities.tolist(), strict=True)
    titles = [form.format(names[label], names[answer], percent(p)) for label, answer, p in given]
    return _gallery(images, titles, columns=6)


def percent(probability: float) -> str:
    """A probability as a person reads it: 97 %, but 99.98 % where a whole number would say 100 %."""
    return f"{probability:.0%}" if probability < 0.995 else f"{min(probability, 0.9999):.2%}"


def calibration(probabilities: Tensor, right: Tensor, error: float, bins: int = 15) -> "Figure":
    """How often answers of a given probability are right, both (N,), and how many there are."""
    counts = torch.histc(probabilities, bins, 0, 1)  # (bins,)
    hits = torch.histc(probabilities[right], bins, 0, 1)
    edges = torch.linspace(0, 1, bins + 1)
    middles = ((edges[:-1] + edges[1:]) / 2).tolist()
    figure, (above, below) = new_figure(6, 5.5, rows=2, sharex=True, height_ratios=(3, 1))
    above.plot([0, 1], [0, 1], color=TRAIN, linestyle="--", linewidth=1, label="perfectly calibrated")
    above.bar(middles, (hits / counts).nan_to_num().tolist(), width=0.9 / bins, color=VAL, label="share right")
    above.set_ylabel("share of answers that are right")
    above.legend(frameon=False)
    above.set_title(f"expected calibration error {error:.4f}", fontsize="medium")
    below.bar(middles, counts.tolist(), width=0.9 / bins, color=TRAIN)
    below.set_yscale("symlog", linthresh=1)
    below.set_ylabel("answers")
    plain_axes(above)
    plain_axes(below, "probability that the model gives its answer")
    return figure


def _gallery(images: Tensor, titles: Sequence[str], columns: int) -> "Figure":
    """Images in a grid, each with a title above; one picture, since axes for each would take long."""
    if images.ndim == 4:  # colour: (N, 3, H, W) -> (N, H, W, 3); one plane of others
        pixels = images.movedim(1, -1) if images.shape[1] == 3 else images[:, :1].movedim(1, -1).expand(-1, -1, -1, 3)
    else:  # (N, H, W) -> (N, H, W, 3); those of MNIST's form as ink on paper
        pixels = (255 - images if images.shape[1:] == (28, 28) else images)[..., None].expand(-1, -1, -1, 3)
    height, width = pixels.shape[1:3]
    lines = 1 + max(title.count("\n") for title in titles)
    small = max(len(line) for title in titles for line in title.split("\n")) > 70 // columns  # to fit above an image
    cell, top = round(width * 34 / 28), round(width * 9 / 28 * lines)  # pixels of a cell, and of the space for titles
    rows = math.ceil(len(images) / columns)
    sheet = torch.full((rows * (height + 6 + top), columns * cell, 3), 255, dtype=torch.uint8)
    figure, axes = new_figure(7, 7 / columns * rows * (height + 6 + top) / cell)
    for i, (image, title) in enumerate(zip(pixels.cpu(), titles, strict=True)):
        y, x = i // columns * (height + 6 + top) + top, i % columns * cell + (cell - width) // 2
        sheet[y : y + height, x : x + width] = image
        place = {"ha": "center", "va": "bottom", "fontsize": 7 if small else 9}
        axes.text(x + width / 2, y - 2, title, parse_math=False, **place)
    axes.imshow(sheet.numpy(), interpolation="nearest")
    axes.set_axis_off()
    return figure
