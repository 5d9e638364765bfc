"""Interference: a vector and its opposite undo each other, two of different kinds stay, and bad input is said before any work."""

import numpy as np
import pytest

from audioscope import datasets
from audioscope.scoring import listener_scorer
from audioscope.stats import ratio_of_means
from audioscope.steer import interference
from audioscope.tracing import Row

HOW = {"prompts": 3, "steps": 4, "progress": False}


@pytest.fixture(scope="module")
def vectors():
    return {name: datasets.vector(name).unit() for name in ("fast", "happy", "drums")}


def test_what_is_left_of_each_gain(tiny, vectors):
    """By hand for one row; and a vector beside its own negative is undone, so that the two do not fit."""
    table = interference(tiny, vectors, {"fast": 1.0, "happy": 0.8, "drums": 0.5}, **HOW)
    assert table[["one", "other"]].values.tolist() == [["fast", "happy"], ["fast", "drums"], ["happy", "drums"]]
    assert (table["gain_one"] > 1).all() and (table["distance"] > table[["distance_one", "distance_other"]].min(axis=1)).all()
    judge, concepts = listener_scorer("judge"), datasets.concepts()
    units = [(concepts["happy"], pair) for pair in concepts["happy"].neutral_pairs("select")[:2]]
    units += [(concepts["drums"], concepts["drums"].neutral_pairs("select")[0])]
    gains = []
    for concept, pair in units:
        edits = (), (vectors["happy"].edit(0.8),), (vectors["happy"].edit(0.8), vectors["drums"].edit(0.5))
        run = tiny.run([Row(pair.neutral, concept.seed(pair), each) for each in edits], **tiny.sampling(steps=4))
        scores = judge(run.audio, tiny.rate)
        gains.append(((scores["happy"] - scores["sad"]) / 2).to_numpy())
    bare, alone, both = np.transpose(gains)
    row, expected = table.iloc[2], ratio_of_means(both - bare, alone - bare)
    assert row["gain_one"] == pytest.approx((alone - bare).mean(), abs=0.05)
    assert row["kept_one"] == pytest.approx(expected.value, abs=0.05, nan_ok=True)
    assert table["fit"].isna().tolist() == table[["kept_one", "kept_other"]].isna().any(axis=1).tolist()
    drums = vectors["drums"]
    undone = interference(tiny, {"drums": drums, "happy": -1.0 * drums}, 1.0, **HOW | {"prompts": 6}).iloc[0]
    assert abs(undone["kept_one"]) < 0.1 and undone["fit"] is not True, "nothing is left"


def test_steering_away_is_a_gain_too(tiny, vectors):
    """With both strengths turned around, shares are known, and two that leave each other alone fit."""
    both = {name: vectors[name] for name in ("fast", "happy")}
    table = interference(tiny, both, {"fast": -1.0, "happy": 1.0}, prompts=8, steps=4, progress=False)
    (row,) = table.to_dict("records")
    assert row["gain_one"] < 0 < row["gain_other"] and 0.3 < row["kept_one"] < 1.7 and 0.3 < row["kept_other"] < 1.7
    assert row["fit"] is (
        min(row["kept_one"], row["kept_other"]) >= 0.5 and row["distance"] <= row["distance_one"] + row["distance_other"]
    )


def test_bad_input_to_interference(tiny, vectors, stable_audio_3):
    for given, more, said in (
        ({"fast": vectors["fast"]}, {}, "at least two"), (vectors, {"prompts": 1}, "prompts is 1"),
        (vectors, {"strengths": {"fast": 1.0}}, "none for happy, drums"), (vectors, {"strengths": float("nan")}, "strengths is nan"),
        (vectors, {"strengths": dict.fromkeys(vectors, 1.0) | {"hapy": 1.0}}, "hapy"),
        ({"fast": vectors["fast"], "tuba": vectors["happy"]}, {}, "tuba"), ([1, 2], {}, "by concept"),
    ):  # fmt: skip
        with pytest.raises((ValueError, KeyError), match=said):
            interference(tiny, given, **HOW | more)
    with pytest.raises(ValueError, match="re-create it|no such site|has width 32 there"):
        interference(stable_audio_3, vectors, **HOW)
