"""The comparison of two configs over the same seeds."""

import pytest
from scipy import stats

from lit_mnist.trials.paired import difference, half_interval


def test_a_made_up_difference_is_found_where_the_spread_of_the_seeds_hides_it() -> None:
    before = [0.10, 0.20, 0.30, 0.40, 0.50]
    after = [value - gap for value, gap in zip(before, (0.009, 0.010, 0.011, 0.010, 0.010), strict=True)]
    assert stats.ttest_ind(before, after).pvalue > 0.9, "unpaired, these seeds tell nothing"
    found = difference("val/loss", before, after)
    assert found.mean == pytest.approx(-0.010)
    interval = stats.ttest_rel(after, before).confidence_interval(0.95)
    assert (found.mean - found.half, found.mean + found.half) == pytest.approx(tuple(interval))
    assert (found.better_in, found.n, found.verdict) == (5, 5, "better")
    assert str(found) == "-0.0100 ± 0.0009"
    assert difference("val/accuracy", before, after).verdict == "worse"
    assert difference("val/accuracy", before, after).better_in == 0
    assert difference("test/calibration_error", before, after).verdict == "better"


@pytest.mark.parametrize("gaps", [(0.01, -0.02, 0.015, -0.005, 0.001), (0.0,) * 5, (0.25,) * 5])
def test_no_difference_is_said_to_be_none(gaps: tuple[float, ...]) -> None:
    before = [1.0, 2.0, 3.0, 4.0, 5.0]
    found = difference("val/loss", before, [value + gap for value, gap in zip(before, gaps, strict=True)])
    assert found.verdict == "no difference that 5 seeds can show"


def test_the_interval_is_that_of_the_t_distribution() -> None:
    sample = [1.0, 2.0, 4.0]
    low, high = stats.t.interval(0.95, 2, loc=7 / 3, scale=stats.sem(sample))
    assert half_interval(sample) == pytest.approx((high - low) / 2)
