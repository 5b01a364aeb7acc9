"""The statistics of the study, against hand-made samples and the published table."""

import math
from pathlib import Path

import numpy as np
import pytest

from lit_mnist.trials import study
from lit_mnist.views import figures

CURVES = ("train_loss", "train_accuracy", "val_loss", "val_accuracy")


def made(run: str, test_losses: list[float], epochs: int = 2) -> study.Rows:
    """Rows of a recipe with given test losses; the test accuracy is 1 less that."""
    rows = []
    for seed, loss in enumerate(test_losses):
        for epoch in range(1, epochs + 1):
            last = epoch == epochs
            curves = dict.fromkeys(CURVES, f"{0.5 + seed / 10 + epoch / 100}")
            tests = {"test_loss": f"{loss}" if last else "", "test_accuracy": f"{1 - loss}" if last else ""}
            head = {"run": run, "implementation": "lit_mnist", "seed": f"{seed}", "epoch": f"{epoch}"}
            rows.append(head | curves | tests)
    return rows


def test_curves_have_a_row_per_seed_and_a_column_per_epoch() -> None:
    curves = study.curves_of(made("mlp", [0.1, 0.2, 0.3]), "mlp", "val_loss")
    assert curves == pytest.approx(np.array([[0.51, 0.52], [0.61, 0.62], [0.71, 0.72]]))
    assert study.final_of(made("mlp", [0.1, 0.2]), "mlp", "test_loss").tolist() == [0.1, 0.2]


def test_a_distance_counts_standard_deviations_of_the_sample() -> None:
    assert study.distance(4.0, np.array([1.0, 2.0, 3.0])) == 2.0
    assert study.distance(0.0, np.array([1.0, 2.0, 3.0])) == -2.0


def test_the_paired_test_is_students() -> None:
    rows = made("mlp", [0.10, 0.12, 0.09, 0.11]) + made("mlp_dropout", [0.08, 0.09, 0.085, 0.07])
    mean, low, high, p = study.paired(rows, "mlp_dropout", "mlp", "test_loss")
    differences = np.array([-0.02, -0.03, -0.005, -0.04])
    error = differences.std(ddof=1) / 2
    assert mean == pytest.approx(differences.mean())
    assert (low, high) == pytest.approx((mean - 3.182446 * error, mean + 3.182446 * error), abs=1e-7)  # t at 97.5 %, 3
    assert 0 < p < 0.1


def test_the_published_figures_are_those_of_the_tutorial() -> None:
    assert study.published_of("mlp", "test_loss") == "0.1080"
    assert study.published_of("mlp", "val_loss") == "0.1046"
    assert study.published_of("mlp_dropout_30", "val_loss") == "0.1066"
    assert study.published_of("mlp_weight_decay", "val_loss") is None
    assert study.published_of("mlp_weight_decay", "test_loss") is None


def test_the_peers_have_ten_seeds_of_the_three_published_recipes() -> None:
    rows = study.read_reference("peer_runs.csv")
    for run in ("mlp", "mlp_dropout", "mlp_dropout_30"):
        for implementation in ("torch_loop", "keras3_jax"):
            assert study.final_of(rows, run, "test_loss", implementation).shape == (10,)
    sample = study.final_of(rows, "mlp", "test_loss", "torch_loop")
    assert sample.mean() == pytest.approx(0.0924, abs=5e-5)
    assert study.distance(0.1080, sample) == pytest.approx(2.7, abs=0.05)


def report_of(rows: study.Rows, names: list[str]) -> str:
    return "\n".join(study._lines(rows, names, 4, "the command"))


def test_the_report_says_what_lies_far_from_the_publication_and_whether_dropout_helps() -> None:
    rows = made("mlp", [0.100, 0.101, 0.099, 0.100]) + made("mlp_dropout", [0.083, 0.084, 0.082, 0.083])
    text = report_of(rows, ["mlp", "mlp_dropout"])
    assert "the test loss of `mlp`, 0.1080, lies 9.8 standard deviations above our mean" in text
    assert "| `mlp_dropout` | test accuracy | 0.97 | 0.9170 ± 0.0008 | printed with two digits |" in text
    assert "**Dropout lowers test loss** by 0.0170" in text
    assert "**Dropout raises test accuracy** by 0.0170" in text
    assert "| `mlp` | 4 | 0.9000 ± 0.0008 | 0.1000 ± 0.0008 |" in text


def test_a_harm_of_dropout_is_said_and_so_is_a_draw() -> None:
    worse = made("mlp", [0.083, 0.084, 0.082, 0.083]) + made("mlp_dropout", [0.100, 0.101, 0.099, 0.101])
    assert "**Dropout raises test loss** by 0.0173" in report_of(worse, ["mlp", "mlp_dropout"])
    draw = made("mlp", [0.08, 0.09, 0.08, 0.09]) + made("mlp_dropout", [0.09, 0.08, 0.09, 0.08])
    assert "Whether dropout changes test loss does not show: +0.0000" in report_of(draw, ["mlp", "mlp_dropout"])


def test_without_both_recipes_there_is_no_verdict() -> None:
    assert "Does dropout help" not in report_of(made("mlp", [0.1, 0.2]), ["mlp"])


def test_bands_are_means_with_a_standard_deviation_and_the_published_run_over_them() -> None:
    rows = made("mlp", [0.1, 0.2, 0.3], epochs=10) + made("mlp_weight_decay", [0.1, 0.2, 0.3], epochs=10)
    figure = study.bands(rows, ["mlp", "mlp_weight_decay"])
    loss = figure.axes[0]
    lines = {line.get_label(): line.get_ydata() for line in loss.lines}
    assert list(lines["val"]) == pytest.approx([0.6 + epoch / 100 for epoch in range(1, 11)])
    assert list(lines["published"])[:3] == [0.1641, 0.1064, 0.0913]
    assert len(loss.collections) == 2
    assert not any(len(line.get_ydata()) and line.get_linestyle() == "--" for line in figure.axes[1].lines)


def test_equal_seeds_have_no_spread_and_no_false_verdict(tmp_path: Path) -> None:
    assert math.isinf(study.distance(1.0, np.array([0.5, 0.5]))) or math.isnan(
        study.distance(1.0, np.array([0.5, 0.5]))
    )
    figures.save(study.bands(made("mlp", [0.1, 0.1]), ["mlp"]), tmp_path / "curves.png")
