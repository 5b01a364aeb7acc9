"""Whether one config is better than another, by the differences between fits of the same seeds."""

import statistics
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats


class Difference(NamedTuple):
    """How a metric of one config differs from that of another: over n pairs, with half of the 95 % interval."""

    mean: float
    half: float
    better_in: int
    n: int
    lower_is_better: bool

    def __str__(self) -> str:
        return f"{self.mean:+.4f} ± {self.half:.4f}"

    @property
    def verdict(self) -> str:
        """The difference in words; an interval that holds 0 allows none, and one of no width means too few seeds."""
        if not abs(self.mean) > self.half > 0:
            return f"no difference that {self.n} seeds can tell"
        return "better" if (self.mean < 0) == self.lower_is_better else "worse"


def lower_is_better(metric: str) -> bool:
    """Whether a lower value of a metric is the better one: by its name, of a loss or an error."""
    return metric.endswith(("loss", "error"))


def half_interval(sample: "Sequence[float] | np.ndarray[tuple[int], np.dtype[np.float64]]") -> float:
    """Half of the 95 % confidence interval of the mean of at least two numbers, by the t distribution."""
    return float(stats.t.ppf(0.975, len(sample) - 1) * np.std(sample, ddof=1) / len(sample) ** 0.5)


def difference(metric: str, before: Sequence[float], after: Sequence[float]) -> Difference:
    """Compare a metric of two configs, which have the same seeds in the same order.

    Args:
        metric: Its name; lower is better for one that ends in loss or error.
        before: The values of the first config, one a seed.
        after: The values of the other.
    """
    lower = lower_is_better(metric)
    gaps = [float(second - first) for first, second in zip(before, after, strict=True)]
    better = sum(gap < 0 if lower else gap > 0 for gap in gaps)
    return Difference(statistics.mean(gaps), half_interval(gaps), better, len(gaps), lower)
