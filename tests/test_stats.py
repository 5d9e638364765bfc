"""Statistics of many comparisons against worked examples and other ways to the same number."""

import numpy as np
import pytest
from scipy import stats as scipy_stats

from audioscope.stats import holm, mean_with_interval, sign_test


def test_holm_is_the_worked_example_of_the_encyclopedia():
    """Wikipedia, "Holm-Bonferroni method": of .01, .04, .03, .005 the fourth and the first are sure at .05; R's p.adjust gives the same."""
    # ordered .005 .01 .03 .04 -> times 4 3 2 1: .02 .03 .06 .04, and never below the one before: .02 .03 .06 .06
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_is_its_definition_in_words():
    """Sure at a level: from the smallest on, as long as p <= level / (how many are left)."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        p, level = rng.uniform(size=8) ** 3, 0.05
        sure = np.zeros(8, bool)
        for rank, index in enumerate(np.argsort(p)):
            if p[index] > level / (8 - rank):
                break
            sure[index] = True
        assert ((holm(p) <= level) == sure).all()


def test_holm_leaves_out_what_was_not_measured_and_names_what_is_no_probability():
    found = holm([np.nan, 0.02, np.nan, 0.01, 1.0])
    assert found == pytest.approx([np.nan, 0.04, np.nan, 0.03, 1.0], nan_ok=True)
    assert holm([]).shape == (0,) and np.isnan(holm([np.nan])).all() and holm([0.9, 0.9]).tolist() == [1.0, 1.0]
    assert holm([0.01, 0.01]).tolist() == [0.02, 0.02]
    for wrong in ([1.2], [-0.1], [np.inf], [[0.1]]):
        with pytest.raises(ValueError, match="expected a list of probabilities"):
            holm(wrong)


def test_holm_errs_in_any_of_many_only_as_often_as_it_says():
    rng = np.random.default_rng(1)
    wrong = np.mean([(holm(rng.uniform(size=21)) < 0.05).any() for _ in range(2000)])
    assert 0.035 < wrong < 0.065  # 1 - 0.95 ** 21 = 0.66 without it


def test_the_sign_test_counts_signs():
    ups, downs, p = sign_test([0.1] * 15 + [-0.2] + [0.0] * 3 + [np.nan])
    assert (ups, downs) == (15, 1) and p == pytest.approx(2 * 17 / 2**16)  # (16 choose 0) + (16 choose 1), both sides
    assert sign_test([-x for x in [0.1] * 15 + [-0.2]]) == (1, 15, pytest.approx(p))
    assert sign_test([0.0, np.nan]) == (0, 0, 1.0) and sign_test([0.3]) == (1, 0, 1.0)


def test_a_mean_comes_with_students_interval():
    values = [0.3, -0.1, 0.4, 0.2, np.nan]
    mean, low, high = mean_with_interval(values)
    expected = scipy_stats.ttest_1samp(values[:4], 0).confidence_interval()
    assert mean == pytest.approx(0.2) and (low, high) == pytest.approx((expected.low, expected.high))
    assert mean_with_interval([2.0]) == pytest.approx((2.0, np.nan, np.nan), nan_ok=True)
    assert np.isnan(mean_with_interval([np.nan])).all()
    rng = np.random.default_rng(2)
    held = np.mean([low < 1 < high for _, low, high in (mean_with_interval(rng.normal(1, 3, 5)) for _ in range(1000))])
    assert 0.93 < held < 0.97
