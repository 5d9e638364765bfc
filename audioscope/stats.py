"""Statistics: many comparisons, means, ratios of means, the jackknife and AUROCs, with intervals. Values in, values out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats
from scipy.optimize import brentq
from scipy.stats import binomtest, norm, rankdata

from audioscope.errors import said

TINY = 1e-6  # a spread below this counts as none
FLIPS = 10_000  # draws of random signs per p-value: the smallest is 0.0001, which survives a correction over 500 concepts
EDGE = 1e-9  # at 0 and 1 the variance vanishes, which must not count as a root


def holm(p: ArrayLike) -> np.ndarray:
    """Adjusted p-values of comparisons reported together: the chance of any false positive below a level is at most that level.

    p: [n], in [0, 1]; NaN (not measured) stays NaN and does not count. Returns float64 [n]. The correction needs no assumption
    about how the comparisons depend on one another. Raises ValueError for values that are not probabilities. Source: Holm (1979),
    Scandinavian Journal of Statistics 6, 65-70; scipy does not have it.
    """
    raw = np.asarray(p, float)
    known = np.isfinite(raw)
    if raw.ndim != 1 or np.isinf(raw).any() or (raw[known] < 0).any() or (raw[known] > 1).any():
        raise ValueError(f"p is {said(p)}, expected a list of probabilities from 0 to 1, or NaN where there is none.")
    ordered = np.sort(raw[known])
    stepped = np.minimum(1.0, np.maximum.accumulate(ordered * np.arange(len(ordered), 0, -1)))
    adjusted = np.full(len(raw), np.nan)
    adjusted[known] = stepped[raw[known].argsort().argsort()]
    return adjusted


def sign_test(differences: ArrayLike) -> tuple[int, int, float]:
    """How many differences are above 0, how many are below, and the two-sided p-value of that split if both are equally likely.

    differences: any shape; zeros and NaN do not count. With none left, p is 1. The test uses only the signs, so it holds for
    differences with any distribution, but it assumes that they are independent.
    """
    values = np.asarray(differences, float)
    ups, downs = int((values > 0).sum()), int((values < 0).sum())
    return ups, downs, float(binomtest(ups, ups + downs).pvalue) if ups + downs else 1.0


def mean_with_interval(values: ArrayLike) -> tuple[float, float, float]:
    """The mean and its interval by Student's t, with the values as independent units: (mean, low, high).

    values: [n]; NaN does not count. With one value, the interval is unknown (NaN); with none, so is the mean.
    """
    known = np.asarray(values, float)
    known = known[~np.isnan(known)]
    if len(known) < 2:
        return (float(known[0]) if len(known) else np.nan), np.nan, np.nan
    return float(known.mean()), *interval(known)


def rank_correlation(one: ArrayLike, other: ArrayLike) -> tuple[float, float, float]:
    """Spearman's correlation of two columns with its 95 % interval, by Fisher's z with Bonett and Wright's error; NaN below 4 rows."""
    known = pd.DataFrame({"one": np.asarray(one, float), "other": np.asarray(other, float)}).dropna()
    if len(known) < 4:
        return np.nan, np.nan, np.nan
    rho = float(stats.spearmanr(known["one"], known["other"]).statistic)
    half = float(norm.ppf(0.975)) * np.sqrt((1 + rho**2 / 2) / (len(known) - 3))
    center = np.arctanh(np.clip(rho, -1 + 1e-12, 1 - 1e-12))
    return rho, float(np.tanh(center - half)), float(np.tanh(center + half))


# The weight of each pseudo-pair, in pairs. A clipped score or a probability hides most shifts, so pairs that all stay at 0 say
# little about the next one: with a weight of 1, n zeros give an upper end of about 3 / n, the rule of three. Other scores show
# the shift of every pair: a weight of a hundredth, a spread of a tenth of the swing in one pair, only keeps the width from
# coming near 0 when a few pairs agree by chance.
BOUNDED, UNBOUNDED = 1.0, 0.01
CONCEPTS = 0.5  # the same for concepts, whose impacts are less far apart than 0 and 1


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
    """Both means, the covariance of the means [2, 2] and the degrees of freedom, with the two pseudo-pairs included."""
    swing = b.mean()
    both = np.array([np.append(a, [0.0, swing]), np.append(b, [swing, swing])])
    weights = np.append(np.ones(len(a)), [weight, weight])
    size = weights.sum()
    means = both @ weights / size
    rest = both - means[:, None]
    return float(means[0]), float(means[1]), (weights * rest) @ rest.T / (size - 1) / size, float(size - 1)


def ratio_of_means(numerators: np.ndarray, denominators: np.ndarray, bounded: bool = False) -> Ratio:
    """mean(numerators) / mean(denominators) with Fieller's interval from the pairs and two pseudo-pairs; pairs are the units.

    Both are float [pairs]; a pair with NaN in either is left out. bounded: whether the scores saturate (probabilities, clipped
    log-odds); the pseudo-pairs, whose ratios are 0 and 1 at the mean denominator, then weigh as much as a pair each, else a
    hundredth of one. The width is never 0. The ratio is undefined, with NaN bounds, if the denominator's own t-interval, from the
    pairs alone, contains 0, since Fieller's set may then be unbounded, or is negative, since the clean prompts then brought
    less of the concept than the corrupted ones, and a share of that says nothing. Sources: E. C. Fieller, "Some problems in
    interval estimation", JRSS B 16 (1954); A. Agresti and B. Caffo, The American Statistician 54 (2000), for one
    pseudo-observation of each kind.
    """
    a, b = _known(numerators, denominators)
    n = len(a)
    if n < 2:
        top, bottom = (float(a[0]), float(b[0])) if n else (np.nan, np.nan)
        return Ratio(np.nan, np.nan, np.nan, top, bottom, np.nan, np.nan, n, False)
    top, bottom = float(a.mean()), float(b.mean())
    half = float(stats.t.ppf(0.975, n - 1) * b.std(ddof=1) / np.sqrt(n))
    if not bottom > max(half, 0.0):
        return Ratio(np.nan, np.nan, np.nan, top, bottom, bottom - half, bottom + half, n, False)
    mean_a, mean_b, ((saa, sab), (_, sbb)), freedom = _moments(a, b, BOUNDED if bounded else UNBOUNDED)
    t = stats.t.ppf(0.975, freedom)
    g = t**2 * sbb / mean_b**2  # below 1: the pseudo-pairs add nothing to the denominator's spread
    ratio = mean_a / mean_b
    center = (ratio - t**2 * sab / mean_b**2) / (1 - g)
    inside = saa - 2 * ratio * sab + ratio**2 * sbb - t**2 / mean_b**2 * (saa * sbb - sab**2)
    width = t / mean_b * np.sqrt(max(inside, 0.0)) / (1 - g)
    return Ratio(top / bottom, float(center - width), float(center + width), top, bottom, bottom - half, bottom + half, n, True)


def mean_of_ratios(
    numerators: Sequence[np.ndarray], denominators: Sequence[np.ndarray], bounded: bool = False
) -> tuple[float, float, float]:
    """Mean over concepts of their ratios of means, with an interval (value, low, high); concepts are fixed, pairs are units.

    The error of each ratio is linearized (delta method), the errors of concepts are taken as independent, and the degrees of
    freedom are those of Welch and Satterthwaite, since concepts differ in variance. The weight of the pseudo-pairs is divided
    among the concepts: all of them together missed no more than one cell may have missed.
    """
    if not len(numerators):
        return np.nan, np.nan, np.nan
    weight = (BOUNDED if bounded else UNBOUNDED) / len(numerators)
    values, centers, spreads, parts = [], [], [], []
    for a, b in zip(numerators, denominators, strict=True):
        a, b = _known(a, b)
        mean_a, mean_b, ((saa, sab), (_, sbb)), freedom = _moments(a, b, weight)
        ratio = mean_a / mean_b
        spread = (saa - 2 * ratio * sab + ratio**2 * sbb) / mean_b**2
        values.append(a.mean() / b.mean())
        centers.append(ratio)
        spreads.append(spread)
        parts.append(spread**2 / freedom)
    half = stats.t.ppf(0.975, max(sum(spreads) ** 2 / sum(parts), 1.0)) * np.sqrt(sum(spreads)) / len(values)
    center = np.mean(centers)
    return float(np.mean(values)), float(center - half), float(center + half)


def mean_of_ratios_random_concepts(
    numerators: Sequence[np.ndarray], denominators: Sequence[np.ndarray]
) -> tuple[float, float, float]:
    """Mean over concepts of their ratios of means, with an interval (value, low, high) for random concepts and random pairs.

    The interval is about concepts like these, not about these. It is Student's t over the concepts' ratios, whose spread includes
    that of the pairs, since every concept has its own pairs. Two pseudo-concepts with ratios 0 and 1, each with half a concept's
    weight, stand for the few that one layer carries nearly alone, which a choice of concepts easily misses. NaN bounds for fewer
    than two concepts.
    """
    values = np.array([np.divide(*(part.mean() for part in _known(a, b))) for a, b in zip(numerators, denominators, strict=True)])
    if len(values) < 2:
        return (float(values[0]) if len(values) else np.nan), np.nan, np.nan
    weights = np.append(np.ones(len(values)), [CONCEPTS, CONCEPTS])
    points, size = np.append(values, [0.0, 1.0]), weights.sum()
    center = weights @ points / size
    half = stats.t.ppf(0.975, size - 1) * np.sqrt(weights @ (points - center) ** 2 / (size - 1) / size)
    return float(values.mean()), float(center - half), float(center + half)


def beyond(numerators: np.ndarray, denominators: np.ndarray, bound: float, bounded: bool = False) -> float:
    """The one-sided p-value of the ratio of means not exceeding `bound`, pseudo-pairs included.

    An interval at that level would begin at `bound`.
    """
    a, b = _known(numerators, denominators)
    mean_a, mean_b, covariance, freedom = _moments(a, b, BOUNDED if bounded else UNBOUNDED)
    direction = np.array([1.0, -bound])
    error = float(np.sqrt(direction @ covariance @ direction))
    return float(stats.t.sf((mean_a - bound * mean_b) / error, freedom))


def pseudo_values(table: pd.DataFrame, statistic: Callable[[pd.DataFrame], pd.Series], unit: str = "prompt") -> pd.DataFrame:
    """The jackknife: what each unit contributes to a statistic, [units, statistics].

    statistic: the table, or the table without one unit -> named numbers. Student's t over the rows gives intervals, and over
    differences of columns those of differences, since the units are the same (Tukey, 1958; Efron and Tibshirani, ch. 11).
    """
    units = sorted(table[unit].unique())
    whole = statistic(table)
    if len(units) < 2:
        return pd.DataFrame(columns=whole.index, dtype=float)
    rows = {u: len(units) * whole - (len(units) - 1) * statistic(table[table[unit] != u]) for u in units}
    return pd.DataFrame(rows).T


def interval(values: np.ndarray, center: float | None = None) -> tuple[float, float]:
    """Student's t-interval from independent values, around their mean or a given center; infinite for fewer than two.

    For pseudo-values, the center is the statistic itself: their mean also carries the jackknife's correction of bias, which
    for curves with few points is more noise than help.
    """
    values = np.asarray(values, float)
    values = values[np.isfinite(values)]
    if len(values) < 2:
        return -np.inf, np.inf
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    middle = values.mean() if center is None else center
    return float(middle - half), float(middle + half)


def chance_of(values: np.ndarray, center: float) -> float:
    """The two-sided p-value of a true value of 0, consistent with `interval`; NaN for fewer than two values."""
    values = np.asarray(values, float)
    values = values[np.isfinite(values)]
    if len(values) < 2:
        return np.nan
    error = values.std(ddof=1) / len(values) ** 0.5
    return float(2 * stats.t.sf(abs(center) / error, len(values) - 1)) if error > 0 else float(center == 0)


def auroc(with_: np.ndarray, without: np.ndarray) -> np.ndarray:
    """The chance that a value with the concept is larger than one without, with ties as half: [n, ...], [m, ...] -> [...]."""
    n, m = len(with_), len(without)
    ranks = rankdata(np.concatenate([with_, without]), axis=0)[:n].sum(0)
    return np.asarray((ranks - n * (n + 1) / 2) / (n * m))


def cohens_d(with_: np.ndarray, without: np.ndarray) -> np.ndarray:
    """The difference of two means over their pooled standard deviation: [n, ...], [m, ...] -> [...]."""
    spread = np.sqrt((with_.var(0, ddof=1) + without.var(0, ddof=1)) / 2) if len(with_) > 1 else np.zeros_like(with_.mean(0))
    return np.asarray((with_.mean(0) - without.mean(0)) / np.maximum(spread, TINY))


def auroc_interval(value: float, n: int, m: int) -> tuple[float, float]:
    """The interval of an AUROC from n values with a concept and m without: the true values from which it is not too far.

    Newcombe's method 5 (2006), which has a width even at 0 and 1, where a bootstrap has none.
    """
    z, half = norm.ppf(0.975), (n + m) / 2 - 1

    def too_far(theta: float) -> float:
        variance = theta * (1 - theta) * (1 + half * ((1 - theta) / (2 - theta) + theta / (1 + theta))) / (n * m)
        return float(abs(value - theta) - z * np.sqrt(variance))

    low = 0.0 if value <= 0 else float(brentq(too_far, 0.0, value - EDGE))
    high = 1.0 if value >= 1 else float(brentq(too_far, value + EDGE, 1.0))
    return low, high


def paired_difference(
    one: np.ndarray, other: np.ndarray, has: np.ndarray, pairs: np.ndarray, flips: int = FLIPS, seed: int = 0
) -> tuple[float, float, float, float]:
    """How much better one ordering of prompts detects a concept than another: the difference of AUROCs, low, high and p.

    one, other: [prompts], higher where the concept is predicted. has: bool [prompts]. pairs: int [prompts], the pair of each
    prompt; its two prompts share their noise and most of their words, so pairs are the independent units. The difference is a
    sum of parts, one per pair (DeLong's components, by cluster as in Obuchowski 1997, Biometrics 53, 567). p, two-sided, is how
    often the difference is as large when the signs of the parts are random. The 95 % interval comes from the size of the parts
    and of those of two more pairs, one for each ordering that it alone leaves undecided: without them, the interval would have
    no width where both orderings detect the concept in all prompts. In simulations with 50 pairs, the interval contained the
    truth in 93 to 100 %, and a true null was significant at 5 % in 0 to 6 %; a bootstrap, which cannot draw errors that were
    not seen, contained it in 87 to 95 % and erred in up to 12 %.
    """
    (a, parts), (b, others) = (_parts(values, has, pairs) for values in (one, other))
    difference, each = a - b, parts - others
    each = each[each != 0]
    signs = np.random.default_rng(seed).integers(0, 2, (flips, len(each)), np.int8) * 2 - 1
    as_large = np.abs(signs @ each) >= abs(difference) - EDGE
    n = len(np.unique(pairs[has]))
    middle, half = difference * n / (n + 2), norm.ppf(0.975) * np.sqrt(each @ each + 2 * (0.5 / n) ** 2) * n / (n + 2)
    return difference, float(middle - half), float(middle + half), float((1 + as_large.sum()) / (1 + flips))


def _parts(values: np.ndarray, has: np.ndarray, pairs: np.ndarray) -> tuple[float, np.ndarray]:
    """An AUROC and what each pair adds to it, [pairs]: its prompts' ranks with the concept among those without, and the reverse."""
    ranks, n, m = rankdata(values), int(has.sum()), int((~has).sum())
    area = float(auroc(values[has], values[~has]))
    part = np.empty(len(values))
    part[has] = (ranks[has] - rankdata(values[has])) / (m * n)
    part[~has] = (1 - (ranks[~has] - rankdata(values[~has])) / n - area) / m
    return area, np.bincount(pairs, part)
