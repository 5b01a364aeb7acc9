"""Whether one config is better than another, by the differences between fits of the same seeds."""

import statistics
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats


class Difference(NamedTuple):
    """Mean difference of a metric between two configs over n pairs, with half the width of the 95 % interval."""

    mean: float
    half: float
    better_in: int
    n: int
    lower_is_better: bool

    def __str__(self) -> str:
        return f"{self.mean:+.4f} ± {self.half:.4f}"

    @property
    def verdict(self) -> str:
        """The difference in words; there is none if the interval contains 0 or has no width."""
        if not abs(self.mean) > self.half > 0:
            return f"no difference that {self.n} seeds can show"
        return "better" if (self.mean < 0) == self.lower_is_better else "worse"


def lower_is_better(metric: str) -> bool:
    """Whether a lower value of a metric is better, by its name: that of a loss or an error."""
    return metric.endswith(("loss", "error"))


def half_interval(sample: "Sequence[float] | np.ndarray[tuple[int], np.dtype[np.float64]]") -> float:
    """Half of the 95 % confidence interval of the mean of at least two numbers, by the t distribution."""
    return float(stats.t.ppf(0.975, len(sample) - 1) * np.std(sample, ddof=1) / len(sample) ** 0.5)


def difference(metric: str, before: Sequence[float], after: Sequence[float]) -> Difference:
    """Compare a metric of two configs with the same seeds in the same order.

    Args:
        metric: Its name; if it ends in loss or error, lower is better.
        before: Values of the first config, one per seed.
        after: Values of the second config.
    """
    lower = lower_is_better(metric)
    gaps = [float(second - first) for first, second in zip(before, after, strict=True)]
    better = sum(gap < 0 if lower else gap > 0 for gap in gaps)
    return Difference(statistics.mean(gaps), half_interval(gaps), better, len(gaps), lower)
