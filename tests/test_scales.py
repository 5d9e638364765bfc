"""Scales and scorers of an atlas: what clipping hides, what two networks agree on, controls, false cells and fragile sets."""

import json
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import audioscope
from audioscope import datasets
from audioscope.atlas.atlas import Atlas
from audioscope.atlas.charts import agreement_heatmap, agreement_table, heatmap
from audioscope.stats import holm

LAYERS = 4


def atlas_of(swaps, pairs=12, calibrated=6.0, noise=0.0, judge=None, seed=0):
    """An atlas made by hand. swaps: {(swapped, scored): (corrupted score, clean score, impact of each layer)}; judge: a factor on its
    impacts, which else are the listener's.
    """
    rng = np.random.default_rng(seed)
    sites = [{"path": f"t.{i}.attn", "kind": "cross", "layer": i, "width": 8, "stream": ""} for i in range(LAYERS)]
    names = list(dict.fromkeys(name for name, _ in swaps))
    lines = []
    for (swapped, scored), (low, high, impacts) in swaps.items():
        for pair in range(pairs):
            own = low + noise * rng.normal(), high + noise * rng.normal()
            shifts = np.asarray(impacts) * (own[1] - own[0]) + noise * rng.normal(size=LAYERS)
            for row, layer, score in [
                ("clean", -1, own[1]),
                ("corrupted", -1, own[0]),
                *(("patched", i, own[0] + s) for i, s in enumerate(shifts)),
            ]:
                site = f"t.{layer}.attn" if layer >= 0 else ""
                other = own[0] + (judge or 1.0) * (score - own[0]) if row == "patched" else score
                lines.append((swapped, pair, pair, row, site, layer, scored, score, other, "", False, "a", "b"))
    columns = [
        "concept",
        "pair",
        "seed",
        "row",
        "site",
        "layer",
        "scored",
        "score",
        "score of judge",
        "clip",
        "failed",
        "clean_prompt",
        "corrupted_prompt",
    ]
    also = {"judge": {"fingerprint": "j", "units": "log-odds", "calibrated": calibrated}} if judge is not None else {}
    settings = {
        "model": "made", "patch": "text", "direction": "sufficient", "sites": sites, "units": "log-odds", "calibrated": calibrated, "scorer": "listener",
        "scorer_fingerprint": "l", "also": also, "concepts": names, "pairs": pairs, "swaps_all_text": True, "fingerprint": "f",
        "groups": {name: {"group": name[0], "changes": [name[0]]} for name in names},
    }  # fmt: skip
    table = pd.DataFrame(lines, columns=columns).assign(model="made")
    return Atlas(table if also else table.drop(columns="score of judge"), settings, None)


def test_a_clip_hides_what_raw_scores_show():
    """From -20 to 10: a layer that brings a third moves the score to -10, which clipped at 6 is no move at all, and is called censored."""
    atlas = atlas_of({("x1", "x1"): (-20.0, 10.0, [1 / 3, 0.9, 0.0, 1.0])})
    raw, clipped, chance = (atlas.impacts(scale).set_index("layer") for scale in ("raw", "clipped", "probability"))
    np.testing.assert_allclose(raw["impact"], [1 / 3, 0.9, 0.0, 1.0], atol=1e-9)
    np.testing.assert_allclose(clipped["impact"], [0.0, 1.0, 0.0, 1.0], atol=1e-9)
    assert raw["censored"].tolist() == [0, 0, 0, 0] and clipped["censored"].tolist() == chance["censored"].tolist() == [
        1,
        0,
        1,
        0,
    ]
    assert (clipped["high"] - clipped["low"] > 0.05).all(), "a censored cell is not known to be 0"
    pd.testing.assert_frame_equal(atlas.impacts(), atlas.impacts("raw"))
    assert atlas.additivity("raw")["sum_of_single"].iloc[0] == pytest.approx(1 / 3 + 0.9 + 1.0)
    assert atlas.additivity("clipped")["censored"].iloc[0] == 0.5


def test_a_censored_cell_has_a_mark_of_its_own_and_no_number():
    atlas = atlas_of({("x1", "x1"): (-20.0, 10.0, [1 / 3, 0.9, 0.0, 1.0])})
    cells = {}
    for scale in ("raw", "clipped"):
        spec = atlas.chart(scale).to_dict()
        rows = next(rows for rows in spec["datasets"].values() if "reading" in rows[0] and "censored" in rows[0])
        cells[scale] = {row["layer"]: row for row in rows}
        assert ("censored" in json.dumps(spec["title"])) == (scale == "clipped") == ("Censored" in spec["description"])
    assert [cells["clipped"][i]["censored"] for i in range(4)] == [True, False, True, False]
    assert not cells["clipped"][0]["clear"] and "censored: in 100% of the pairs" in cells["clipped"][0]["reading"]
    assert not any(cells["raw"][i]["censored"] for i in range(4))


@pytest.mark.parametrize("units", ["log-odds", "cosine similarity"])
def test_scales_that_there_are_not_are_refused(units):
    atlas = atlas_of({("x1", "x1"): (-2.0, 3.0, [0, 0, 0, 1])}, calibrated=None)
    atlas.settings["units"] = units
    assert atlas.scales == (("raw", "probability") if units == "log-odds" else ("raw",))
    for ask in (
        atlas.impacts,
        atlas.layer_means,
        atlas.chart,
        atlas.additivity,
        atlas.functional_on,
        atlas.false_cells,
        atlas.examples,
    ):
        with pytest.raises(ValueError, match="scale is 'clipped', expected"):
            ask("clipped")


@pytest.mark.slow
def test_a_sweep_keeps_scores_beyond_the_clip_by_two_networks(tiny, tmp_path):
    atlas = audioscope.localize(tiny, ["happy"], pairs=2, steps=4, out=tmp_path, progress=False)
    assert atlas.scorers == ["listener", "judge"] and (atlas.table["score"].abs() > 6).any()
    clips = [audioscope.Clip.load(tmp_path / name) for name in atlas.table.query("scored == 'happy'")["clip"]]
    import torch

    heard = audioscope.scoring.listener_scorer("judge")(torch.from_numpy(np.stack([clip.samples for clip in clips])), 16_000)[
        "happy"
    ]
    theirs = atlas.heard_by("judge")
    np.testing.assert_allclose(theirs.table.query("scored == 'happy'")["score"], heard, atol=0.3)  # 16 bits
    assert theirs.settings["scorer"] == "judge" and theirs.heard_by("listener").impacts().equals(atlas.impacts())
    with pytest.raises(KeyError, match="'clap' did not score"):
        atlas.heard_by("clap")
    alone = audioscope.localize(tiny, ["happy"], pairs=1, steps=2, also=[], clips=False, progress=False)
    assert alone.scorers == ["listener"]
    with pytest.raises(ValueError, match="Duplicate scorer names"):
        audioscope.localize(tiny, ["happy"], pairs=1, also=[audioscope.scoring.listener_scorer()])


def test_the_control_does_not_cancel():
    """Two unrelated swaps that move the score by +.3 and -.3 of its swing: the control is .3, not 0. One of its own group is no control."""
    swaps = {("x1", "x1"): (-4.0, 4.0, [1.0, 0, 0, 0]), ("y1", "x1"): (-4.0, 4.0, [0.3, 0, 0, 0]), ("z1", "x1"): (-4.0, 4.0, [-0.3, 0, 0, 0]),
             ("x2", "x1"): (-4.0, 4.0, [0.9, 0.9, 0.9, 0.9])}  # fmt: skip
    for one in ("y1", "z1", "x2"):
        swaps[one, one] = (-4.0, 4.0, [0, 1.0, 0, 0])
    atlas = atlas_of(swaps)
    for each in atlas.concepts:  # every concept is scored on every swap
        for other in atlas.concepts:
            swaps.setdefault((each, other), (-4.0, 4.0, [0, 0, 0, 0]))
    atlas = atlas_of(swaps)
    mine = atlas.impacts().query("concept == 'x1'").set_index("layer")
    np.testing.assert_allclose(mine["control"], [0.3, 0, 0, 0], atol=1e-9)


def test_an_examples_impact_is_of_pairs_that_did_not_choose_its_layer():
    """Layer 0 brings everything on even pairs and nothing on odd ones: it is chosen on the even ones, and reported as nothing."""
    atlas = atlas_of({("x1", "x1"): (-4.0, 4.0, [0, 0, 0, 0.2])}, noise=0.01)
    lucky = (atlas.table["layer"] == 0) & (atlas.table["pair"] % 2 == 0)
    atlas.table.loc[lucky, "score"] = 4.0
    atlas.table["clip"] = "some.flac"
    shown = atlas.examples().iloc[0]
    assert shown["layer"] == 0 and abs(shown["impact"]) < 0.05 and shown["pair"] % 2 == 1


def test_what_two_networks_and_two_scales_agree_on():
    """Held: layer 0, seen by all. Not held: layer 1, which the judge does not hear, and layer 2, which the clipped scale cannot see."""
    swaps = {("x1", "x1"): (-20.0, 5.0, [0.95, 0.0, 0.3, 0.0]), ("y1", "y1"): (-3.0, 5.0, [0.0, 0.0, 0.0, 0.06]),
             ("x1", "y1"): (-3.0, 5.0, [0, 0, 0, 0]), ("y1", "x1"): (-20.0, 5.0, [0, 0, 0, 0])}  # fmt: skip
    atlas = atlas_of(swaps, pairs=20, noise=0.2, judge=1.0)
    deaf = (atlas.table["layer"] == 1) & (atlas.table["concept"] == "x1") & (atlas.table["scored"] == "x1")
    atlas.table.loc[deaf, "score"] += 24.0
    found = atlas.agreement()
    assert found.loc[found["holds"], ["concept", "layer"]].to_numpy().tolist() == [["x1", 0]]
    mine = found.query("concept == 'x1'").set_index("layer")
    assert mine.loc[1, "p listener, raw"] < 1e-6 < 0.05 < mine.loc[1, "p judge, raw"]
    assert mine.loc[2, "p judge, raw"] < 1e-6 < 0.05 < mine.loc[2, "p judge, clipped"]
    # what clipping cannot see is not what is refuted: layer 2 is undecided, layer 1 is not
    # nor is what it sees and is not sure of, as of y1's last layer
    assert found.loc[found["holds_raw"], ["concept", "layer"]].to_numpy().tolist() == [["x1", 0], ["x1", 2], ["y1", 3]]
    assert found.query("concept == 'y1' and layer == 3")[["p listener, clipped", "p judge, clipped"]].max(axis=None) > 0.05
    assert found.loc[found["undecided"], ["concept", "layer"]].to_numpy().tolist() == [["x1", 2]] and (found["views"] == 4).all()
    alone = atlas_of(swaps, pairs=20, noise=0.2).agreement()
    assert (alone["views"] == 2).all(), "two scales of one network"


def views_of(pairs=20):
    """x1: layer 0 is heard by all, 1 not by the judge, 2 not beyond the clip, 3 by none; the judge does not know y1; z1 is undefined."""
    swaps = {("x1", "x1"): (-20.0, 5.0, [0.95, 0.0, 0.3, 0.0]), ("y1", "y1"): (-3.0, 5.0, [0.9, 0.0, 0.0, 0.0]),
             ("z1", "z1"): (0.0, 0.0, [0.0, 0.0, 0.0, 0.0])}  # fmt: skip
    swaps |= {(a, b): (-20.0 if b == "x1" else -3.0, 5.0 if b != "z1" else -3.0, [0, 0, 0, 0]) for a in ("x1", "y1", "z1")
              for b in ("x1", "y1", "z1") if a != b}  # fmt: skip
    atlas = atlas_of(swaps, pairs=pairs, noise=0.2, judge=1.0)
    deaf = (atlas.table["layer"] == 1) & (atlas.table["concept"] == "x1") & (atlas.table["scored"] == "x1")
    atlas.table.loc[deaf, "score"] += 24.0
    atlas.table.loc[atlas.table["scored"] == "y1", "score of judge"] = np.nan
    return atlas


def test_how_many_views_agree_of_those_that_could_be_asked():
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of means of nothing, for what a scorer does not know
        found = views_of().agreement()
    assert found["kind"].unique().tolist() == ["cross"]
    counted = found.set_index(["concept", "layer"])[["views", "asked", "agree"]]
    assert counted.loc["x1"].to_numpy().tolist() == [[4, 4, 4], [4, 3, 2], [4, 2, 2], [4, 2, 0]]
    assert counted.loc["y1"].to_numpy().tolist() == [[2, 2, 2], [2, 2, 0], [2, 2, 0], [2, 2, 0]], "one scorer knows it"
    assert (counted.loc["z1", ["asked", "agree"]] == 0).all(axis=None), "undefined: nobody can be asked"
    said = found.set_index(["concept", "layer"])["agreeing"]
    assert said["x1", 1] == "listener, raw; listener, clipped" and said["x1", 2] == "listener, raw; judge, raw"
    assert said["y1", 0] == "listener, raw; listener, clipped" and said["x1", 3] == ""
    assert found.loc[found["holds"], ["concept", "layer"]].to_numpy().tolist() == [["x1", 0], ["y1", 0]]
    assert (found["holds"] == (found["agree"] == found["views"])).all() and (found["agree"] <= found["asked"]).all()


def test_what_the_first_scorer_cannot_define_others_may_agree_on():
    """The listener hears no difference of the prompts, the judge does: its sign is then the one that counts."""
    atlas = atlas_of({("x1", "x1"): (-4.0, 4.0, [0.9, 0.0, 0.0, 0.0])}, pairs=20, noise=0.2, judge=1.0)
    atlas.table["score"] = 0.3 * np.random.default_rng(5).normal(size=len(atlas.table))
    first = atlas.agreement().set_index("layer")
    assert first["asked"].tolist() == [2, 2, 2, 2] and first["agree"].tolist() == [2, 0, 0, 0]
    assert first.loc[0, "agreeing"] == "judge, raw; judge, clipped" and not first["holds"].any()


def test_a_cell_below_its_control_does_not_hold():
    """Swaps of x move y at layer 0 as much as y's own do: nothing tells that y enters there."""
    for other, holds in ((0.0, 2), (0.4, 0)):
        swaps = {("x1", "x1"): (-3.0, 3.0, [0.9, 0, 0, 0]), ("y1", "y1"): (-3.0, 3.0, [0.3, 0, 0, 0]),
                 ("x1", "y1"): (-3.0, 3.0, [other, 0, 0, 0]), ("y1", "x1"): (-3.0, 3.0, [0, 0, 0, 0])}  # fmt: skip
        cells = atlas_of(swaps, pairs=20, noise=0.05).agreement().set_index(["concept", "layer"])
        assert cells.loc[("y1", 0), "agree"] == holds and cells.loc[("x1", 0), "agree"] == 2


def test_scorers_that_hear_opposite_effects_do_not_agree():
    atlas = atlas_of({("x1", "x1"): (-3.0, 3.0, [0.9, 0, 0, 0])}, pairs=20, noise=0.05, judge=-1.0)
    cell = atlas.agreement().set_index("layer").loc[0]
    assert cell["asked"] == 4 and cell["agreeing"] == "listener, raw; listener, clipped"


def test_the_agreement_as_a_chart_and_as_a_table():
    cells = views_of().agreement()
    spec = agreement_heatmap(cells).to_dict()
    drawn = next(rows for rows in spec["datasets"].values() if "agree" in rows[0])
    by_cell = {(row["concept"], row["layer"]): row for row in drawn}
    assert by_cell["x1", 1]["digits"] == "2/3" and by_cell["x1", 0]["digits"] == "4" and by_cell["y1", 0]["digits"] == "2/2"
    assert by_cell["x1", 1]["reading"] == "2 of 3 views agree (listener, raw; listener, clipped)"
    assert by_cell["z1", 0]["reading"] == "not asked: undefined or censored"
    assert "All agree: x1 at 0; y1 at 0." in spec["description"] and "up to 4 views" in spec["description"]
    table = agreement_table(cells)
    assert table.loc["x1"].tolist() == [("4", "of 4"), ("2", "of 3"), ("2", "of 2"), ("0", "of 2")]
    assert table.loc["z1"].tolist() == [("", "")] * 4
    with pytest.raises(ValueError, match="no cells yet"):
        agreement_heatmap(cells[:0])


def test_a_side_taken_from_the_data_is_paid_for():
    """p is two-sided: of cells that do nothing, hardly any has one below .05 before the correction, which is twice one side's."""
    from audioscope.stats import beyond

    swaps = {("x1", "x1"): (-3.0, 3.0, [0.02, -0.02, 0.5, 0.0])}
    atlas = atlas_of(swaps, noise=0.5)
    shift, whole, _ = atlas.shifts("raw")["x1", "x1"]
    found = atlas.agreement()["p listener, raw"].to_numpy()
    sides = np.array([beyond(np.sign(shift[:, i].mean()) * shift[:, i], whole[:, i], 0.0) for i in range(4)])
    assert found == pytest.approx(holm(np.minimum(1, 2 * sides)))


def test_false_cells_are_those_that_chance_makes():
    """Where no layer carries anything, about as many cells are expected beyond their control as are; where some do, far fewer."""
    names = [f"{letter}1" for letter in "abcdefgh"]
    nothing = {(one, two): (-4.0, 4.0, [0, 0, 0, 0]) for one in names for two in names}
    found = [atlas_of(nothing, noise=1.0, seed=seed).false_cells() for seed in range(6)]
    beyond, expected = (np.mean([each[name] for each in found]) for name in ("beyond", "expected"))
    assert expected < 0.1 * found[0]["defined"] and abs(beyond - expected) < 1.5
    real = {**nothing, **{(name, name): (-4.0, 4.0, [1.0, 1.0, 0, 0]) for name in names}}
    carried = atlas_of(real, noise=1.0).false_cells()
    assert carried["beyond"] >= 16 and carried["expected"] < 4


def test_a_functional_set_says_what_it_hangs_on():
    """Layer 0 passes by one concept of four: leaving it out undoes the set, and draws of concepts often miss it; layer 1 passes by all."""
    names = ["a1", "b1", "c1", "d1"]
    swaps = {(one, two): (-4.0, 4.0, [0, 0, 0, 0]) for one in names for two in names}
    swaps |= {(name, name): (-4.0, 4.0, [2.6 if name == "a1" else 0.0, 0.9, 0.0, 0.0]) for name in names}
    atlas = atlas_of(swaps, noise=0.05)
    assert [path for path in atlas.functional] == ["t.0.attn", "t.1.attn"] == atlas.functional
    rows = atlas.functional.fragility.set_index("layer")
    assert rows.loc[0, "without"] == ["a1"] and rows.loc[1, "without"] == []
    # at least one of four draws must be the one that carries it: 1 - (3/4)^4
    assert rows.loc[0, "share"] == pytest.approx(1 - 0.75**4, abs=0.05) and rows.loc[1, "share"] > 0.99
    said = repr(atlas.functional)
    assert "leaving out any of: a1" in said and "layer 1" in said
    named = [f"{group}{number}" for group in "gh" for number in range(4)]
    grouped = {(one, two): (-4.0, 4.0, [0, 0, 0, 0]) for one in named for two in named}
    grouped |= {(name, name): (-4.0, 4.0, [0.85 if name[0] == "g" else 0.5, 0.7, 0.0, 0.0]) for name in named}
    by_group = atlas_of(grouped, noise=0.05).functional.fragility.set_index("layer")
    assert by_group.loc[0, "without"] == ["all of g"] and by_group.loc[1, "without"] == []
    means = atlas.layer_means().set_index("layer")
    assert means.loc[0, "all_high"] - means.loc[0, "all_low"] > 3 * (means.loc[0, "high"] - means.loc[0, "low"])


@pytest.mark.slow
def test_a_correlation_of_maps_resamples_pairs():
    """Two noisy sweeps of one map, many times: the interval holds the correlation that such sweeps have in 88 to 100 % of them."""
    truth = {f"a{number}": np.random.default_rng(number).uniform(0, 1, LAYERS) for number in range(6)}
    swaps = {(name, name): (-4.0, 4.0, impacts) for name, impacts in truth.items()}
    found = []
    for seed in range(60):
        one, two = (atlas_of(swaps, noise=3.0, seed=seed + 1000 * number) for number in range(2))
        # as sweeps of other prompts, and of fewer pairs
        fewer = two.table[two.table["pair"] < two.table["pair"].max()].assign(clean_prompt="another")
        two = replace(two, table=fewer)
        found.append(one.correlation(two))
    table = pd.DataFrame(found)
    usual = np.tanh(np.arctanh(table["pearson"]).mean())
    inside = ((table["pearson_low"] <= usual) & (usual <= table["pearson_high"])).mean()
    assert 0.8 < usual < 0.97 and 0.88 <= inside <= 1.0, (usual, inside)
    assert (table["pearson_high"] - table["pearson_low"]).median() < 0.4 and (table["cells"] == 24).all()
    assert one.correlation(one)["pearson"] == pytest.approx(1.0)
    with pytest.raises(ValueError, match="share no defined concept"):
        one.correlation(atlas_of({("q1", "q1"): (-4.0, 4.0, [1, 0, 0, 0])}))


@pytest.mark.slow
def test_the_shipped_map_by_two_networks():
    """What the README says: both networks and all scales name layer 0, and their raw maps are much alike."""
    atlas = datasets.atlas()
    assert atlas.scorers == ["listener", "judge"] and atlas.scales == ("raw", "clipped", "probability")
    for view in (atlas, atlas.heard_by("judge")):
        for scale in view.scales:
            assert view.functional_on(scale) == [atlas.sites[0].path], (view.scorers[0], scale)
    assert (atlas.table["score"].abs() > 6).mean() > 0.5 and np.isfinite(atlas.table["score"]).all()


def test_heatmap_takes_impacts_without_the_column():
    atlas = atlas_of({("x1", "x1"): (-4.0, 4.0, [0, 0, 0, 1])})
    heatmap(atlas.impacts().drop(columns="censored"), atlas.layer_means()).to_dict()
