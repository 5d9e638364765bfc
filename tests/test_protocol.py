"""A foreign way to steer, on the protocol of all others, in one row."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from audioscope import Apply, PatchText, datasets
from audioscope.scoring import Musicnn
from audioscope.stats import holm
from audioscope.steer import axes, benchmark, counts, over_axes, steer_all, steer_planted
from audioscope.steer.protocol import exchanged, price, random_layers, scored
from audioscope.steer.sweeps import for_several

QUICK = {"prompts": 2, "seeds": 1, "strengths": [-1.0, 1.0], "steps": 2, "progress": False, "draws": 1}


def test_the_row_of_caa_is_what_the_shipped_tables_say():
    table, sweeps = datasets.steering_table(), {axis: datasets.steering(axis) for axis in axes()}
    row = scored(sweeps, table, "caa").iloc[0]
    own = table[(table["method"] == "caa") & (table["sites"] == "own")]
    pairs = pd.read_parquet(datasets.data_folder() / "results" / "steering_pairs.parquet")
    found = [over_axes(pairs, "caa own", other) for other in ("shuffled labels own", "caa all", "caa random layers")]
    known = counts(table).set_index("cell").loc["caa own"]
    assert row["axes"] == 18 and row["steers"] == known["steers"]
    assert row["gain"] == pytest.approx(own["auc"].mean(), abs=1e-4) and row["gain_low"] < row["gain"] < row["gain_high"]
    assert row["specificity"] == pytest.approx(own["specificity"].mean()) and 0 < row["price"] < 1
    assert row["localization"] == pytest.approx(found[1]["mean_difference"], abs=1e-4)
    assert row["localization_high"] == pytest.approx(found[1]["high"], abs=1e-4)
    p = holm(np.array([each["rank_p"] for each in found]))
    assert row[["gain_p", "localization_p", "choice_p"]].tolist() == pytest.approx(p.tolist())
    one = scored({"fast": sweeps["fast"]}, table[table["concept"] == "fast"], "caa").iloc[0]
    assert one["gain_low"] == pytest.approx(own.set_index("concept").loc["fast", "auc_low"], abs=1e-3)
    assert one["localization_low"] < one["localization"] < one["localization_high"]


def test_a_method_that_makes_nothing_of_its_pairs_is_held_against_the_random_direction():
    """Then shuffled labels are the method itself, and a difference of 0 would say that it gains nothing."""
    table, axis = datasets.steering_table(), "fast"
    sweep = datasets.steering(axis)
    clips = sweep.table[~sweep.table["cell"].eq("shuffled labels own")]
    copied = clips[clips["cell"] == "caa own"].assign(cell="shuffled labels own", method="shuffled labels")
    twin = replace(sweep, table=pd.concat([clips, copied], ignore_index=True))
    row = scored({axis: twin}, table[table["concept"] == axis], "caa").iloc[0]
    raw = [twin.compare("caa own", other).p for other in ("random direction own", "caa all", "caa random layers")]
    assert row["gain_p"] == pytest.approx(holm(np.array(raw))[0]) and row["gain_p"] < 0.05


def sweep_of(**scores):
    """A sweep of which only the points are asked: score by strength, at a distance that is the strength's size."""
    lines = [(cell, s, abs(s), score) for cell, each in scores.items() for s, score in each.items()]
    return SimpleNamespace(points=lambda: pd.DataFrame(lines, columns=["cell", "strength", "distance", "score"]))


@pytest.mark.parametrize("scores, expected", [
    ({0: 0, 1: 8}, 0.5), ({0: 0, 0.25: 8, 1: 8}, 0.125), ({0: 0, 1: 3}, 1.0), ({0: 0, 1: -8}, 1.0), ({0: 0, 3: 8}, 1.0),
    ({0: 0, 1: 8, -1: -8}, 0.5), ({0: 0, 1: 8, -1: 0}, 0.75), ({0: 0, 0.5: -4, 1: 8}, 0.5 + 0.5 * 8 / 12),
])  # fmt: skip
def test_the_price_is_where_half_of_the_gain_is(scores, expected):
    pci = {0: 0, 0.5: 1, 1: 8} | ({-0.5: -1, -1: -8} if -1 in scores else {})
    assert price(sweep_of(**{"pci all": pci, "mine own": scores}), "mine own") == pytest.approx(expected)
    assert np.isnan(price(sweep_of(**{"pci all": {0: 0, 1: -1}, "mine own": {0: 0, 1: 1}}), "mine own"))


@pytest.mark.parametrize("name", ["fast", "violin"])
def test_shuffled_labels_are_half_of_the_pairs_that_vectors_are_made_from(name):
    concept = datasets.concepts()[name]
    changed = exchanged(concept)
    build, there = concept.split("build"), changed.split("build")
    other = [not concept.opposite or one.clean == two.corrupted for one, two in zip(build, there, strict=True) if one != two]
    assert len(other) == len(build) // 2 and all(other)
    same = [one == two for one, two in zip(build, there, strict=True)]
    assert all(sum(same[:even]) == even // 2 for even in range(0, len(same) + 1, 2)), "a method may use the first few pairs"
    assert 5 < sum(same[::2]) < 20, "drawn by lot"
    if not concept.opposite:
        assert all(
            (two.clean, two.neutral) == (one.neutral, one.clean) for one, two in zip(build, there, strict=True) if one != two
        )
    assert all(concept.split(part) == changed.split(part) for part in ("localize", "select", "test"))


def test_random_layers_are_others_as_long_as_there_are_enough(tiny):
    cross = tiny.sites.select("cross")
    own = tiny.sites.select([1, 2])
    sets = random_layers(cross, own, 3, 0)
    assert sets == random_layers(cross, own, 3, 0) != random_layers(cross, own, 3, 1)
    assert all(len(each) == 2 and not set(each) & set(own) and list(each) == sorted(each, key=cross.index) for each in sets)
    assert len(random_layers(cross, cross[:9], 1, 0)[0]) == 9


@pytest.mark.slow
def test_a_method_of_prompts_resumes_only_as_itself_and_where_it_may_act(tiny, tmp_path):
    def rewriting(model, concept, sites):
        return lambda pair, strength, seed: [PatchText(sites, pair.clean if strength > 0 else pair.corrupted)]

    row = benchmark(tiny, rewriting, ["fast"], name="rewriting", out=tmp_path, **QUICK)
    assert row.index.tolist() == ["rewriting"] and row["axes"].item() == 1
    assert row["localization"].item() < 0, "at all layers it is the prompt rewritten"
    again = benchmark(tiny, rewriting, ["fast"], name="rewriting", out=tmp_path, **QUICK)
    pd.testing.assert_frame_equal(row, again)

    def scaled(by):
        return lambda model, concept, sites: lambda pair, strength, seed: [Apply(sites, lambda output, here: by * output)]

    benchmark(tiny, scaled(0.5), ["fast"], name="scaled", out=tmp_path / "other", **QUICK)
    with pytest.raises(ValueError, match="another|differ|holds"):
        benchmark(tiny, scaled(-5.0), ["fast"], name="scaled", out=tmp_path / "other", **QUICK)

    def elsewhere(model, concept, sites):
        return lambda pair, strength, seed: [PatchText("cross", pair.clean)]

    with pytest.raises(ValueError, match="acts at .* which is not among"):
        benchmark(tiny, elsewhere, ["fast"], out=tmp_path / "third", **QUICK)


def test_what_several_sweeps_are_given_serves_all_of_them(tiny):
    """An iterator is used up by whoever reads it first; a part of a sweep is no result."""
    given = {
        "also": iter([Musicnn()]),
        "without": (text for text in ["a song"]),
        "strengths": {"x": iter([1, 2])},
        "grid": iter([2.0]),
        "steps": 3,
    }
    kept = for_several("steer_all", given)
    for _ in range(2):
        assert [each.name for each in kept["also"]] == ["musicnn"] and list(kept["without"]) == ["a song"] and kept["steps"] == 3
        assert list(kept["strengths"]["x"]) == [1, 2] and list(kept["grid"]) == [2.0]
    assert [each.name for each in for_several("steer_all", {"also": Musicnn()})["also"]] == ["musicnn"]
    for call in (lambda: steer_all(tiny, "x", part="1/2"), lambda: steer_planted(tiny, "metal", [0], "x", part="1/2")):
        with pytest.raises(TypeError, match="has no argument 'part'"):
            call()


def test_what_is_no_method_is_refused(tiny, tmp_path):
    with pytest.raises(TypeError, match="expected a function of"):
        benchmark(tiny, "caa", ["fast"], out=tmp_path)
    with pytest.raises(ValueError, match="one of the controls"):
        benchmark(tiny, lambda *_: None, ["fast"], name="random thing", out=tmp_path)
    with pytest.raises(TypeError, match="expected a SteeringVector or a function"):
        benchmark(tiny, lambda *_: 3, ["fast"], out=tmp_path)
    with pytest.raises(ValueError, match="one of the controls"):
        benchmark(tiny, lambda *_: None, "fast", name="pci mine", out=tmp_path)
    with pytest.raises(TypeError, match="no argument 'prompt'"):
        benchmark(tiny, lambda *_: None, "fast", prompt=3, out=tmp_path)
    with pytest.raises(KeyError, match="tuba"):
        benchmark(tiny, lambda *_: pytest.fail("work before the check"), ["fast", "tuba"], out=tmp_path)
    with pytest.raises(KeyError, match="tuba"):
        benchmark(tiny, lambda *_: 3, ["tuba"], out=tmp_path)
    file = tmp_path / "file"
    file.write_text("mine")
    for wrong, said in (
        ({"prompts": 5000}, "prompts is 5000"), ({"seeds": 0}, "seeds is 0"), ({"strengths": [float("nan")]}, "strengths is nan"),
        ({"scorer": 3}, "scorer"), ({"out": file}, "is a file"), ({"part": "1/2"}, "no argument 'part'"), ({"name": 5}, "name is 5"),
        ({"grid": [0]}, "grid"), ({"concepts": datasets.more_pairs("fast", 60)}, "pairs of its own"),
    ):  # fmt: skip
        with pytest.raises((ValueError, TypeError), match=said):
            benchmark(
                tiny, lambda *_: pytest.fail("work before the check"), **{"concepts": "fast", "out": tmp_path / "new"} | wrong
            )
    with pytest.raises(ValueError, match="steer"), tiny.steer(datasets.vector("fast"), 1.0):
        benchmark(tiny, lambda *_: pytest.fail("work before the check"), "fast", out=tmp_path / "new")
    with pytest.raises(ValueError, match="draws"):
        benchmark(tiny, lambda *_: 3, ["fast"], draws=0, out=tmp_path)
