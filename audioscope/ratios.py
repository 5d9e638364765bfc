"""Ratios of means with honest intervals: the arithmetic of impacts.

Every interval here is that of the pairs and two pseudo-pairs: one that did not move (0 of its swing) and one that moved all the way
(its whole swing). Few pairs often agree by chance, above all where nearly every shift is 0, and would then claim a certainty that
they do not have. The estimate itself is that of the pairs alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

# The weight of each pseudo-pair, in pairs. A clipped score or a probability hides most shifts, so pairs that all stay at 0 say little
# about the next one: with 1, n zeros give an upper end of about 3 / n, the rule of three. Other scores show the shift of every pair:
# a hundredth, a spread of a tenth of the swing in one pair, only keeps few pairs that agree by chance from a width near 0.
BOUNDED, UNBOUNDED = 1.0, 0.01
CONCEPTS = 0.5  # the same for concepts, whose impacts lie less far apart than 0 and 1


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


def _known(numerators: np.ndarray, denominators: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(numerators, float), np.asarray(denominators, float)
    keep = np.isfinite(a) & np.isfinite(b)
    return a[keep], b[keep]


def _moments(a: np.ndarray, b: np.ndarray, weight: float) -> tuple[float, float, np.ndarray, float]:
    """Both means, the covariance of the means [2, 2] and the degrees of freedom, with the two pseudo-pairs among the pairs."""
    swing = b.mean()
    both = np.array([np.append(a, [0.0, swing]), np.append(b, [swing, swing])])
    weights = np.append(np.ones(len(a)), [weight, weight])
    size = weights.sum()
    means = both @ weights / size
    rest = both - means[:, None]
    return float(means[0]), float(means[1]), (weights * rest) @ rest.T / (size - 1) / size, float(size - 1)


def ratio_of_means(numerators: np.ndarray, denominators: np.ndarray, level: float = 0.95, bounded: bool = False) -> Ratio:
    """mean(numerators) / mean(denominators) with Fieller's interval of the pairs and two pseudo-pairs, pairs as units.

    Both are float [pairs]; a pair with a NaN in either is left out. bounded: whether the scores saturate (probabilities, clipped
    log-odds): the pseudo-pairs, 0 and 1 of the mean denominator, then weigh a pair each, else a hundredth. The width is never 0.
    The ratio is undefined, with NaN bounds, when the denominator's own t-interval, of the pairs alone, holds 0, where Fieller's
    set may be unbounded, or is negative: then the clean prompts brought less of the concept than the corrupted ones, and a share of
    that says nothing. Sources: E. C. Fieller, "Some problems in interval estimation", JRSS B 16 (1954); A. Agresti and B. Caffo,
    The American Statistician 54 (2000), for one pseudo-observation of each kind.
    """
    a, b = _known(numerators, denominators)
    n = len(a)
    if n < 2:
        top, bottom = (float(a[0]), float(b[0])) if n else (np.nan, np.nan)
        return Ratio(np.nan, np.nan, np.nan, top, bottom, np.nan, np.nan, n, False)
    top, bottom = float(a.mean()), float(b.mean())
    half = float(stats.t.ppf(0.5 + level / 2, n - 1) * b.std(ddof=1) / np.sqrt(n))
    if not bottom > max(half, 0.0):
        return Ratio(np.nan, np.nan, np.nan, top, bottom, bottom - half, bottom + half, n, False)
    mean_a, mean_b, ((saa, sab), (_, sbb)), freedom = _moments(a, b, BOUNDED if bounded else UNBOUNDED)
    t = stats.t.ppf(0.5 + level / 2, freedom)
    g = t**2 * sbb / mean_b**2  # below 1: the pseudo-pairs add nothing to the denominator's spread
    ratio = mean_a / mean_b
    centre = (ratio - t**2 * sab / mean_b**2) / (1 - g)
    inside = saa - 2 * ratio * sab + ratio**2 * sbb - t**2 / mean_b**2 * (saa * sbb - sab**2)
    width = t / mean_b * np.sqrt(max(inside, 0.0)) / (1 - g)
    return Ratio(top / bottom, float(centre - width), float(centre + width), top, bottom, bottom - half, bottom + half, n, True)


def mean_of_ratios(
    numerators: Sequence[np.ndarray], denominators: Sequence[np.ndarray], level: float = 0.95, bounded: bool = False
) -> tuple[float, float, float]:
    """Mean over concepts of their ratios of means, with an interval (value, low, high); concepts are fixed, pairs are units.

    The error of each ratio is its linearised one (delta method), errors of concepts are independent, and the degrees of
    freedom are Welch and Satterthwaite's, since concepts differ in variance. The weight of the pseudo-pairs is shared out among the
    concepts: all of them together missed no more than one cell may have.
    """
    if not len(numerators):
        return np.nan, np.nan, np.nan
    weight = (BOUNDED if bounded else UNBOUNDED) / len(numerators)
    values, centres, spreads, parts = [], [], [], []
    for a, b in zip(numerators, denominators, strict=True):
        a, b = _known(a, b)
        mean_a, mean_b, ((saa, sab), (_, sbb)), freedom = _moments(a, b, weight)
        ratio = mean_a / mean_b
        spread = (saa - 2 * ratio * sab + ratio**2 * sbb) / mean_b**2
        values.append(a.mean() / b.mean())
        centres.append(ratio)
        spreads.append(spread)
        parts.append(spread**2 / freedom)
    half = stats.t.ppf(0.5 + level / 2, max(sum(spreads) ** 2 / sum(parts), 1.0)) * np.sqrt(sum(spreads)) / len(values)
    centre = np.mean(centres)
    return float(np.mean(values)), float(centre - half), float(centre + half)


def mean_of_ratios_random_concepts(
    numerators: Sequence[np.ndarray], denominators: Sequence[np.ndarray], level: float = 0.95
) -> tuple[float, float, float]:
    """Mean over concepts of their ratios of means, with an interval (value, low, high) in which concepts and pairs are both random.

    It speaks of concepts like these, not of these. Student's t over the concepts' ratios, whose spread holds that of the pairs,
    since every concept has pairs of its own; two pseudo-concepts, 0 and 1, of half a concept's weight each stand for the few that one
    layer carries nearly alone, which a choice of concepts easily misses. NaN bounds for fewer than two concepts.
    """
    values = np.array([np.divide(*(part.mean() for part in _known(a, b))) for a, b in zip(numerators, denominators, strict=True)])
    if len(values) < 2:
        return (float(values[0]) if len(values) else np.nan), np.nan, np.nan
    weights = np.append(np.ones(len(values)), [CONCEPTS, CONCEPTS])
    points, size = np.append(values, [0.0, 1.0]), weights.sum()
    centre = weights @ points / size
    half = stats.t.ppf(0.5 + level / 2, size - 1) * np.sqrt(weights @ (points - centre) ** 2 / (size - 1) / size)
    return float(values.mean()), float(centre - half), float(centre + half)


def beyond(numerators: np.ndarray, denominators: np.ndarray, bound: float, bounded: bool = False) -> float:
    """The one-sided p-value of the ratio of means not exceeding `bound`: that whose interval would begin there, pseudo-pairs included."""
    a, b = _known(numerators, denominators)
    mean_a, mean_b, covariance, freedom = _moments(a, b, BOUNDED if bounded else UNBOUNDED)
    direction = np.array([1.0, -bound])
    error = float(np.sqrt(direction @ covariance @ direction))
    return float(stats.t.sf((mean_a - bound * mean_b) / error, freedom))
