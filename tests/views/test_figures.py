"""Figures show what they are given; the numbers are read back from what was drawn."""

import math
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.text import Text

from lit_mnist.views import figures

ROWS = [
    {"epoch": 1.0, "train/loss": 0.5, "train/accuracy": 0.80, "val/loss": 0.4, "val/accuracy": 0.85},
    {"epoch": 2.0, "train/loss": 0.3, "train/accuracy": 0.90, "val/loss": 0.2, "val/accuracy": 0.92},
    {"epoch": 3.0, "train/loss": 0.1, "train/accuracy": 0.97, "val/loss": 0.3, "val/accuracy": 0.93},
]


DIGITS = tuple("0123456789")


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in (*axes.texts, axes.title) if text.get_text()]


def lines(axes: Any) -> dict[str, tuple[list[float], list[float]]]:
    return {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines}


def test_history_draws_loss_above_accuracy_with_the_best_epoch_marked() -> None:
    figure = figures.history(ROWS)
    above, below = figure.axes
    assert (above.get_ylabel(), below.get_ylabel(), below.get_xlabel()) == ("loss", "accuracy", "epoch")
    assert lines(above)["train"] == ([1, 2, 3], [0.5, 0.3, 0.1])
    assert lines(above)["val"] == ([1, 2, 3], [0.4, 0.2, 0.3])
    assert lines(below)["val"] == ([1, 2, 3], [0.85, 0.92, 0.93])
    assert texts(figure) == ["best epoch 2: val loss 0.2000, val accuracy 0.9200"]
    assert all(line.get_xdata()[0] == 2 for line in above.lines[2:])


def test_history_without_validation_draws_train_alone() -> None:
    rows = [{name: value for name, value in row.items() if not name.startswith("val")} for row in ROWS]
    figure = figures.history(rows)
    assert lines(figure.axes[0])["train"][1] == [0.5, 0.3, 0.1]
    assert texts(figure) == []


@pytest.mark.parametrize("count", [1, 3, 25])
def test_an_overlay_has_a_colour_per_run_and_both_stages(count: int) -> None:
    figure = figures.overlay({f"run {i}": ROWS for i in range(count)})
    loss, _ = figure.axes
    assert len(loss.lines) == 2 * count
    assert len({tuple(line.get_color()) for line in loss.lines}) == count
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == [*(f"run {i}" for i in range(count)), "val", "train"]


def test_samples_show_the_images_dark_on_light_with_their_labels() -> None:
    images = torch.arange(4, dtype=torch.uint8)[:, None, None].expand(4, 28, 28)
    figure = figures.samples(images, torch.tensor([5, 0, 4, 1]), DIGITS)
    assert texts(figure) == ["5", "0", "4", "1"]
    sheet = 255 - figure.axes[0].images[0].get_array().astype(int)
    for i, text in enumerate(figure.axes[0].texts):
        x, y = text.get_position()
        assert (sheet[int(y) + 2 : int(y) + 30, int(x) - 14 : int(x) + 14] == i).all()  # each below its label


def test_the_confusion_matrix_has_counts_and_shares_of_the_rows() -> None:
    matrix = torch.zeros(10, 10, dtype=torch.int64)
    matrix[3, 3], matrix[3, 5], matrix[9, 4] = 1500, 500, 7
    figure = figures.confusion(matrix, DIGITS)
    assert texts(figure) == ["1,500", "75.0%", "500", "25.0%", "7", "100.0%", "1,500 of 2,007 right"]
    field = next(text for text in figure.axes[0].texts if text.get_text() == "500")
    assert field.get_position()[0] == 5  # the predicted class is the column
    scale = figure.axes[1]
    assert scale.get_ylabel() == "share of the true class"
    assert [label.get_text() for label in scale.get_yticklabels()] == ["0%", "1%", "10%", "50%", "100%"]


FASHION = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]
NAMES = {
    "five": ["square", "$x_1$", "<b>star</b>", "two words, a comma", "_"],
    "digits": list(DIGITS),
    "fashion": FASHION,
    "twenty": [f"species {i}" for i in range(20)],
    "forty-seven": list("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghnqrt"),
    "long": [f"a class of a long name, {i}" for i in range(47)],
}


def covered(figure: Figure, found: list[Text]) -> list[str]:
    """Texts that lie over each other, run into each other or reach out of the figure."""
    FigureCanvasAgg(figure).draw()
    boxes = [(one.get_text(), one.get_window_extent()) for one in found if one.get_text()]
    outside = [text for text, box in boxes if not (figure.bbox.containsx(box.x0) and figure.bbox.containsx(box.x1))]
    outside += [text for text, box in boxes if not (figure.bbox.containsy(box.y0) and figure.bbox.containsy(box.y1))]
    pairs = [(a, b) for i, (_, a) in enumerate(boxes) for _, b in boxes[i + 1 :] if a.padded(3, 0).overlaps(b)]
    return outside + [f"{a} over {b}" for a, b in pairs]


@pytest.mark.parametrize("kind", NAMES)
def test_no_text_of_the_confusion_matrix_lies_over_another(kind: str) -> None:
    classes = NAMES[kind]
    figure = figures.confusion(torch.full((len(classes), len(classes)), 1234), classes)
    axes, _ = figure.axes
    assert covered(figure, [*axes.texts, *axes.get_yticklabels(), axes.title, axes.xaxis.label, axes.yaxis.label]) == []
    below = axes.get_xticklabels()
    distance = below[1].get_window_extent().x1 - below[0].get_window_extent().x1
    if below[0].get_rotation():
        assert [one for one in below if figure.bbox.y0 > one.get_window_extent().y0] == []
        for one in below:
            one.set_rotation(0)
        assert distance / math.sqrt(2) > max(one.get_window_extent().height for one in below)
    else:
        assert covered(figure, below) == []


@pytest.mark.parametrize("kind", NAMES)
def test_no_title_of_an_image_lies_over_another(kind: str) -> None:
    classes, images = NAMES[kind], torch.zeros(36, 28, 28, dtype=torch.uint8)
    labels = torch.arange(36) * len(classes) // 36  # in a row
    for figure in (
        figures.samples(images, labels, classes),
        figures.mistakes(images, labels, labels.flip(0), torch.ones(36), classes, "36 of 99 wrong"),
    ):
        assert covered(figure, list(figure.axes[0].texts)) == []


def test_names_that_begin_alike_or_look_like_formulas_are_told_apart() -> None:
    for kind, classes in NAMES.items():
        figure = figures.confusion(torch.eye(len(classes), dtype=torch.int64), classes)
        labels = [one.get_text() for one in figure.axes[0].get_yticklabels()]
        assert len(set(labels)) == len(classes), kind
        assert max(map(len, labels)) <= 14
        assert [one for one in labels if len(one) < 14] == [one for one in classes if len(one) < 14]
        assert not any(one.get_parse_math() for one in figure.axes[0].get_yticklabels())


def test_mistakes_name_true_class_predicted_class_and_probability() -> None:
    images = torch.zeros(2, 28, 28, dtype=torch.uint8)
    figure = figures.mistakes(
        images, torch.tensor([4, 2]), torch.tensor([9, 7]), torch.tensor([0.994, 0.61]), DIGITS, "2 of 9 wrong"
    )
    assert texts(figure) == ["4 as 9, 99%", "2 as 7, 61%"]
    assert figure.get_suptitle() == "2 of 9 wrong: true class as predicted class, probability"
    assert [figures.percent(p) for p in (0.61, 0.9949, 0.9998, 1.0)] == ["61%", "99%", "99.98%", "99.99%"]
    figure = figures.mistakes(
        images, torch.tensor([0, 9]), torch.tensor([6, 7]), torch.tensor([0.994, 0.61]), FASHION, ""
    )
    assert texts(figure) == ["T-shirt/top as\nShirt\n99%", "Ankle boot as\nSneaker\n61%"]


def test_images_in_colour_and_of_any_size_are_shown_as_they_are() -> None:
    images = torch.zeros(2, 3, 10, 20, dtype=torch.uint8)
    images[0, 0], images[1, 2] = 200, 100
    for shown, red, blue in ((images, [200, 0, 0], [0, 0, 100]), (images[:, :1], [200] * 3, [0] * 3)):
        figure = figures.samples(shown, torch.tensor([0, 1]), ["red", "blue"])
        (picture,) = figure.axes[0].images
        pixels = torch.from_numpy(picture.get_array().copy()).flatten(0, 1)
        counts = [int((pixels == torch.tensor(color)).all(1).sum()) for color in (red, blue)]
        assert counts == [200, 200]
    grey = figures.samples(images[:, 0], torch.tensor([0, 1]), ["red", "blue"]).axes[0].images[0].get_array()
    assert int((grey == 200).all(-1).sum()) == 200


def test_no_mistakes_are_said_to_be_none() -> None:
    nothing = torch.empty(0)
    assert texts(figures.mistakes(torch.empty(0, 28, 28), nothing, nothing, nothing, DIGITS, "")) == ["no mistakes"]


def test_the_reliability_diagram_shows_the_share_that_is_right_in_each_interval() -> None:
    probabilities = torch.tensor([0.55, 0.55, 0.95, 0.95])
    right = torch.tensor([True, False, True, True])
    above, below = figures.calibration(probabilities, right, 0.05, bins=10).axes
    heights = {round(bar.get_x() + bar.get_width() / 2, 2): bar.get_height() for bar in above.patches}
    assert all(bar.get_facecolor()[3] < 1 for bar in above.patches[:10]), "bars of few images are pale"
    assert heights[0.55] == 0.5
    assert heights[0.95] == 1
    assert heights[0.15] == 0
    assert sum(bar.get_height() for bar in below.patches) == 4
    assert above.get_title() == "expected calibration error 0.0500"


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_equal_figures_are_equal_files(tmp_path: Path, suffix: str) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        figures.save(figures.history(ROWS), tmp_path / name / f"history.{suffix}")
    assert (tmp_path / f"a/history.{suffix}").read_bytes() == (tmp_path / f"b/history.{suffix}").read_bytes()
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [f"history.{suffix}"]


def test_a_saved_figure_is_an_image_of_readable_size(tmp_path: Path) -> None:
    figures.save(figures.history(ROWS), tmp_path / "history.png")
    height, width, _ = imread(tmp_path / "history.png").shape
    assert (width, height) == (1120, 896)  # 7 x 5.6 inches at 160 dpi


def test_drawing_leaves_no_figure_open_in_pyplot() -> None:
    figures.history(ROWS)
    assert mpl._pylab_helpers.Gcf.figs == {}
