"""Where a curve of distances meets a budget."""

import numpy as np
import pytest

from audioscope.steer.sweeps import _strength_at

STRENGTHS = np.array([1.0, 2.0, 4.0])


def test_a_distance_that_grows_with_the_square_is_met_exactly():
    """distance = .04 strength^2: below the smallest strength tried, between two, at one of them, and none beyond the largest."""
    squares = 0.04 * STRENGTHS**2
    for strength in (0.25, 0.5, 1.0, 1.5, 3.0, 4.0):
        found, distance = _strength_at(0.04 * strength**2, STRENGTHS, squares)
        assert found == pytest.approx(strength) and distance == pytest.approx(0.04 * strength**2)
    found, distance = _strength_at(5.0, STRENGTHS, squares)
    assert found == 4.0 and distance == pytest.approx(0.64)


def test_a_curve_that_dips_counts_as_level():
    """Distances of a few clips need not rise: the first strength that reaches a budget is taken."""
    found, _ = _strength_at(0.3, STRENGTHS, np.array([0.1, 0.3, 0.2]))
    assert 2.0 <= found <= 4.0 and _strength_at(0.1, STRENGTHS, np.array([0.1, 0.05, 0.4]))[0] <= 2.0
