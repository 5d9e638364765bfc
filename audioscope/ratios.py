"""Ratios of means with honest intervals: the arithmetic of impacts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Ratio:
    """A ratio of two means over the same pairs, with a 95 % interval; `defined` is False where the denominator may be 0."""

    value: float
    low: float
    high: float
    numerator: float
    denominator: float
    denominator_low: float
    denominator_high: float
    pairs: int
    defined: bool


def ratio_of_means(numerators: np.ndarray, denominators: np.ndarray, level: float = 0.95) -> Ratio:
    """mean(numerators) / mean(denominators) with Fieller's interval, pairs as units.

    Both are float [pairs]; a pair with a NaN in either is left out. The ratio is undefined, with NaN bounds, when the
    denominator's own t-interval holds 0, where Fieller's set is unbounded, or is negative: then the clean prompts brought
    less of the concept than the corrupted ones, and a share of that says nothing. Source: E. C. Fieller,
    "Some problems in interval estimation", JRSS B 16 (1954).
    """
    keep = np.isfinite(numerators) & np.isfinite(denominators)
    a, b = np.asarray(numerators, float)[keep], np.asarray(denominators, float)[keep]
    n = len(a)
    if n < 2:
        top, bottom = (float(a[0]), float(b[0])) if n else (np.nan, np.nan)
        return Ratio(np.nan, np.nan, np.nan, top, bottom, np.nan, np.nan, n, False)
    top, bottom = float(a.mean()), float(b.mean())
    (saa, sab), (_, sbb) = np.cov(a, b) / n
    t = stats.t.ppf(0.5 + level / 2, n - 1)
    half = t * np.sqrt(sbb)
    defined = bool(bottom > half and bottom > 0)
    if not defined:
        return Ratio(np.nan, np.nan, np.nan, top, bottom, bottom - half, bottom + half, n, False)
    g = t**2 * sbb / bottom**2
    value = top / bottom
    centre = (value - t**2 * sab / bottom**2) / (1 - g)
    inside = saa - 2 * value * sab + value**2 * sbb - t**2 / bottom**2 * (saa * sbb - sab**2)
    width = t / bottom * np.sqrt(max(inside, 0.0)) / (1 - g)
    return Ratio(value, centre - width, centre + width, top, bottom, bottom - half, bottom + half, n, True)


def mean_of_ratios(
    numerators: list[np.ndarray], denominators: list[np.ndarray], level: float = 0.95
) -> tuple[float, float, float]:
    """Mean over concepts of their ratios of means, with an interval (value, low, high); concepts are fixed, pairs are units.

    The error of each ratio is its linearised one (delta method), errors of concepts are independent, and the degrees of
    freedom are Welch and Satterthwaite's, since concepts differ in variance.
    """
    values, variances, counts = [], [], []
    for a, b in zip(numerators, denominators, strict=True):
        keep = np.isfinite(a) & np.isfinite(b)
        a, b = a[keep], b[keep]
        value = a.mean() / b.mean()
        values.append(value)
        variances.append(np.var(a - value * b, ddof=1) / len(a) / b.mean() ** 2)
        counts.append(len(a))
    if not values:
        return np.nan, np.nan, np.nan
    mean, spread = float(np.mean(values)), np.array(variances)
    freedom = spread.sum() ** 2 / max(float((spread**2 / (np.array(counts) - 1)).sum()), 1e-300)
    half = float(stats.t.ppf(0.5 + level / 2, max(freedom, 1.0)) * np.sqrt(spread.sum()) / len(values))
    return mean, mean - half, mean + half
