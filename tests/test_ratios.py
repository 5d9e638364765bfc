"""Intervals of impacts cover their truth on data shaped like tiny's: most scores beyond the clip, shifts zero-inflated and one-sided."""

from functools import cache

import numpy as np
import pytest

from audioscope.stats import beyond, mean_of_ratios, ratio_of_means
from audioscope.stats import mean_of_ratios_random_concepts as random_concepts

SHARES = np.array([0.0, 0.01, 0.03, 0.06, 0.15, 0.3, 0.5, 0.7])  # of the swing that a layer carries; two cells a size class
CONCEPTS = np.array([0.02] * 12 + [0.1] * 4 + [0.3] * 3 + [0.6] * 2)  # one layer's share of 21 concepts: few carry most
SIZES = (3, 4, 8, 12, 34)
DRAWS = 120


def draw(rng: np.random.Generator, pairs: int, bounded: bool, shares: np.ndarray = SHARES) -> tuple[np.ndarray, np.ndarray]:
    """Shifts and swings [pairs, shares] as tiny's atlas has them; each share is a concept or a layer of its own.

    Log-odds of corrupted clips are N(-15, 6); swings are gamma with mean 24 and coefficient of variation .3. The share that a layer
    carries differs between pairs: gamma, with a coefficient of variation of .8 below .4 and of .35 above, and noise of 3 % of the
    swing (Student's t, 5 degrees of freedom). Bounded: scores are clipped to +-6, so that 3 shifts in 4 are 0.
    """
    size = (pairs, len(shares))
    corrupted, swings = rng.normal(-15, 6, size), rng.gamma(11, 24 / 11, size)
    shape = np.where(shares < 0.4, 1.5, 8.0)
    patched = corrupted + swings * (shares * rng.gamma(shape, 1 / shape, size) + 0.03 * rng.standard_t(5, size))
    clean = corrupted + swings
    if bounded:
        corrupted, patched, clean = (np.clip(x, -6, 6) for x in (corrupted, patched, clean))
    return patched - corrupted, clean - corrupted


@cache
def truths(bounded: bool, of_concepts: bool = False) -> np.ndarray:
    shifts, swings = draw(np.random.default_rng(0), 100_000, bounded, CONCEPTS if of_concepts else SHARES)
    return shifts.mean(axis=0) / swings.mean(axis=0)


def test_the_data_are_shaped_like_ours():
    shifts, swings = draw(np.random.default_rng(1), 5_000, bounded=True)
    assert 0.65 < (shifts == 0).mean() < 0.85 and (shifts < -1).mean() < 0.02 < 0.1 < (shifts > 1).mean()
    assert 0.4 < (swings == 12).mean() < 0.8


@pytest.mark.parametrize("bounded", [False, True])
@pytest.mark.parametrize("pairs", SIZES)
def test_interval_of_a_cell_covers(pairs, bounded):
    rng = np.random.default_rng(pairs)
    inside: list[list[bool]] = [[] for _ in SHARES]
    for _ in range(DRAWS):
        for held, truth, shifts, swings in zip(inside, truths(bounded), *(x.T for x in draw(rng, pairs, bounded)), strict=True):
            ratio = ratio_of_means(shifts, swings, bounded=bounded)
            if ratio.defined:
                assert ratio.value == shifts.mean() / swings.mean(), "of the pairs alone"
                assert ratio.low < ratio.value < ratio.high, "no interval is a point, and each holds its estimate"
                held.append(ratio.low <= truth <= ratio.high)
    cells = np.array([np.mean(held) for held in inside])
    assert cells.mean() >= 0.93, "on average"
    assert cells.reshape(4, 2).mean(axis=1).min() >= 0.9, "in each class of size"
    if not bounded and pairs >= 8:
        assert cells.mean() <= 0.98, "and not by being far too wide"


@pytest.mark.parametrize("bounded", [False, True])
@pytest.mark.parametrize("pairs", SIZES)
def test_interval_of_a_layers_mean_covers(pairs, bounded):
    """Over these concepts, and over concepts like these, which are drawn anew."""
    rng = np.random.default_rng(pairs)
    truth = truths(bounded, of_concepts=True)
    fixed, random = [], []
    for _ in range(DRAWS):
        for held, chosen in ((fixed, np.arange(21)), (random, rng.integers(21, size=21))):
            shifts, swings = draw(rng, pairs, bounded, CONCEPTS[chosen])
            swings = np.maximum(swings, 0.5)  # keeps every concept defined: dropping some is another question
            function = mean_of_ratios if held is fixed else random_concepts
            value, low, high = function(list(shifts.T), list(swings.T), **({"bounded": bounded} if held is fixed else {}))
            assert low < value < high
            held.append(low <= truth[chosen if held is fixed else slice(None)].mean() <= high)
    assert np.mean(fixed) >= 0.9
    assert np.mean(random) >= 0.93


@pytest.mark.parametrize("pairs", [12, 34, 100])
def test_pairs_that_all_stay_leave_room_for_one_that_moves(pairs):
    """The rule of three: n zeros have a chance of 5 % where 1 - .05 ** (1 / n), about 3 / n, of the pairs move all the way."""
    clipped, raw = (ratio_of_means(np.zeros(pairs), np.full(pairs, 12.0), bounded=bounded) for bounded in (True, False))
    assert clipped.high == pytest.approx(1 - 0.05 ** (1 / pairs), abs=0.005)
    assert raw.low < 0 < raw.high < 0.25 / pairs


def test_three_zeros_by_hand():
    """Two pseudo-pairs, 0 and 1: the mean of 5 is .2, its variance .8 / 4 / 5; so for concepts of half a weight: 4, .125, .4375 / 3 / 4."""
    cell = ratio_of_means(np.zeros(3), np.ones(3), bounded=True)
    assert (cell.low, cell.value, cell.high) == pytest.approx((0.2 - 2.7764 * 0.2, 0, 0.2 + 2.7764 * 0.2), abs=1e-4)
    half = 3.1824 * (0.4375 / 12) ** 0.5
    assert random_concepts([np.zeros(3)] * 3, [np.ones(3)] * 3) == pytest.approx((0, 0.125 - half, 0.125 + half), abs=1e-4)
    assert np.isnan(random_concepts([np.zeros(3)], [np.ones(3)])[1:]).all(), "one concept says nothing of others"


@pytest.mark.parametrize("bounded", [False, True])
def test_intervals_do_not_depend_on_the_unit(bounded):
    shifts, swings = (x[:, 4] for x in draw(np.random.default_rng(2), 8, bounded=False))
    ratio, tiny = (ratio_of_means(unit * shifts, unit * swings, bounded=bounded) for unit in (1, 1e-6))
    assert (tiny.low, tiny.value, tiny.high) == pytest.approx((ratio.low, ratio.value, ratio.high))


@pytest.mark.parametrize("bounded", [False, True])
def test_the_p_value_is_that_of_the_interval(bounded):
    shifts, swings = (x[:, 4] for x in draw(np.random.default_rng(3), 8, bounded=False))
    low = ratio_of_means(shifts, swings, bounded=bounded).low
    assert beyond(shifts, swings, low, bounded=bounded) == pytest.approx(0.025)
    assert beyond(shifts, swings, low - 0.1, bounded=bounded) < 0.025


def test_the_mean_over_one_concept_is_its_cell():
    shifts, swings = (x[:, 5] for x in draw(np.random.default_rng(4), 34, bounded=True))
    cell, mean = ratio_of_means(shifts, swings, bounded=True), mean_of_ratios([shifts], [swings], bounded=True)
    assert mean == pytest.approx((cell.value, cell.low, cell.high), abs=0.01)
