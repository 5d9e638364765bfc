"""Statistics of many comparisons: Holm's correction, the sign test, and a mean with its interval. Values in, values out."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import binomtest, t


def holm(p: ArrayLike) -> np.ndarray:
    """Adjusted p-values of comparisons reported together: calling those below a level sure is then wrong at most that often, in any one.

    p: [n], in [0, 1]; NaN (not measured) stays NaN and does not count. Returns float64 [n]. It needs no assumption about how the
    comparisons depend on one another. Raises ValueError for values that are no probabilities. Source: Holm (1979), Scandinavian
    Journal of Statistics 6, 65-70; scipy has none.
    """
    raw = np.asarray(p, float)
    known = np.isfinite(raw)
    if raw.ndim != 1 or np.isinf(raw).any() or (raw[known] < 0).any() or (raw[known] > 1).any():
        raise ValueError(f"p is {p!r}, expected a list of probabilities from 0 to 1, or NaN where there is none.")
    ordered = np.sort(raw[known])
    stepped = np.minimum(1.0, np.maximum.accumulate(ordered * np.arange(len(ordered), 0, -1)))
    adjusted = np.full(len(raw), np.nan)
    adjusted[known] = stepped[raw[known].argsort().argsort()]
    return adjusted


def sign_test(differences: ArrayLike) -> tuple[int, int, float]:
    """How many differences are above 0, how many below, and the two-sided p-value of that split if both were as likely.

    differences: any shape; zeros and NaN do not count. With none left p is 1. It asks only for the signs, so it holds
    for differences of any shape, but takes them as independent.
    """
    values = np.asarray(differences, float)
    ups, downs = int((values > 0).sum()), int((values < 0).sum())
    return ups, downs, float(binomtest(ups, ups + downs).pvalue) if ups + downs else 1.0


def mean_with_interval(values: ArrayLike, level: float = 0.95) -> tuple[float, float, float]:
    """The mean and its interval by Student's t, with the values as independent units: (mean, low, high).

    values: [n]; NaN does not count. With one value the interval is unknown (NaN), with none the mean is, too.
    """
    known = np.asarray(values, float)
    known = known[~np.isnan(known)]
    if not len(known):
        return np.nan, np.nan, np.nan
    mean = float(known.mean())
    if len(known) < 2:
        return mean, np.nan, np.nan
    half = float(t.ppf(0.5 + level / 2, len(known) - 1) * known.std(ddof=1) / len(known) ** 0.5)
    return mean, mean - half, mean + half
