"""Tempo over its whole range."""

import pytest
from test_scorers import RATE, clicks

from audioscope.scoring.measures import _tempo


@pytest.mark.slow
def test_tempo_is_found_from_slow_to_fast_and_none_beyond_the_range():
    """No tempo of the range is preferred. `tiny`'s fast songs have 152 to 185 BPM; 220 is beyond the range and counts as its half."""
    truth = {60: 60, 75: 75, 140: 140, 170: 170, 185: 185, 220: 110}
    found = [_tempo(clicks(bpm).numpy(), RATE) for bpm in truth]
    assert found == pytest.approx(list(truth.values()), rel=0.03)
