"""Even strengths: a lopsided slider becomes even, an even one stays, and what cannot be even is said."""

import numpy as np
import pandas as pd
import pytest

from audioscope import AddVector, datasets
from audioscope.steer import (
    EvenStrengths,
    SteeringMethod,
    blend_text_method,
    even_strengths,
    free_sliders_method,
    prompt_switch_method,
)

HOW = {"count": 5, "prompts": 4, "steps": 4, "progress": False}


def test_a_lopsided_slider_becomes_even(tiny):
    """Its strength is cubed, so that nothing happens near 0; the table is of prompts that had no part in it."""
    vector = datasets.vector("fast").unit()
    lopsided = SteeringMethod("cubed", "all", lambda pair, strength, seed: [AddVector(vector, strength**3)])
    found = even_strengths(tiny, "fast", lopsided, -1.1, 1.1, **HOW)
    assert found.strengths[0] == -1.1 and found.strengths[-1] == 1.1 and list(found.strengths) == sorted(found.strengths)
    assert found.variation < 0.7 * found.before and found.rising > 0.9
    assert found.table["strength"].tolist() == list(found.strengths) and np.isnan(found.table["step"][0])
    assert f"equidistant ones by {found.before:.2f}" in repr(found)
    assert abs(found.strengths[1]) > 0.6, "most of the way is where the strength is large"


def test_what_is_not_even_is_said():
    def of(steps, scores):
        return EvenStrengths(
            (0.0, 1.0, 2.0), pd.DataFrame({"strength": [0, 1, 2], "step": [np.nan, *steps], "score": scores}), 0.5
        )

    assert of((1.0, 1.1), (0, 1, 2)).even and ": even;" in repr(of((1.0, 1.1), (0, 1, 2)))
    assert not of((1.0, 3.0), (0, 1, 2)).even and ": not even;" in repr(of((1.0, 3.0), (0, 1, 2)))
    assert not of((1.0, 1.1), (0, 2, 1)).even and ": not monotone;" in repr(of((1.0, 1.1), (0, 2, 1)))


@pytest.mark.parametrize(
    ("method", "low", "high", "more", "said"),
    [
        (None, 1.0, -1.0, {}, "expected low < high"), (None, 0.0, float("nan"), {}, "high is nan"), (None, 0.0, 1.0, {"count": 2}, "count is 2"),
        (None, 0.0, 1.0, {"prompts": 1}, "prompts is 1"), (prompt_switch_method(4), 0.0, 2.0, {}, "strength 1 at most"),
        ("caa", 0.0, 1.0, {}, "methods"),
    ],
)  # fmt: skip
def test_bad_input_to_even_strengths(tiny, method, low, high, more, said):
    with pytest.raises((ValueError, TypeError), match=said):
        even_strengths(tiny, "fast", datasets.vector("fast") if method is None else method, low, high, **HOW | more)


def test_what_needs_an_opposite_is_refused_where_there_is_none(tiny):
    for method, low in ((prompt_switch_method(4), -1.0), (blend_text_method(), -1.0), (free_sliders_method(), 0.0)):
        with pytest.raises(ValueError, match="'violin' has no opposite"):
            even_strengths(tiny, "violin", method, low, 1.0, **HOW)
    with pytest.raises(ValueError, match="There are 2 methods"):
        even_strengths(tiny, "fast", [prompt_switch_method(4), blend_text_method()], 0.0, 1.0, **HOW)
