"""When localizing pays: its benefit beside how concentrated a concept is, for tiny, planted truth and the paper."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from audioscope import datasets
from audioscope.stats import rank_correlation
from audioscope.steer import (
    benefit_by_concentration,
    localization_benefits,
    localization_chart,
    published_benefits,
    steer_planted,
)


def test_the_benefit_is_the_difference_of_areas_as_a_share_of_rewriting():
    names, atlas, table = ["fast", "metal", "bongos"], datasets.atlas(), datasets.steering_table()
    found = localization_benefits([datasets.steering(name) for name in names], atlas).query("lengths == 'unit'").set_index("axis")
    pairs = pd.read_parquet(datasets.data_folder() / "results" / "steering_pairs.parquet")
    pairs = pairs[(pairs["one"] == "caa own") & (pairs["other"] == "caa all")].set_index("concept")
    rewritten = table[table["method"] == "pci"].set_index("concept")["auc"]
    for name in names:
        row = found.loc[name]
        for ours, theirs in (("benefit", "more"), ("low", "low"), ("high", "high")):
            assert row[ours] == pytest.approx(pairs.loc[name, theirs] / rewritten[name], abs=2e-3)
    shares, impacts = atlas.concentration(), atlas.impacts().query("defined").set_index("concept")["impact"].clip(lower=0)
    assert found.loc["fast", "concentration"] == pytest.approx((shares["fast"] + shares["slow"]) / 2)
    assert shares["metal"] == pytest.approx(impacts["metal"].max() / impacts["metal"].sum())
    assert found.loc["fast", "layers"] == len(atlas.own_layers("fast"))


def test_the_paper_s_five_axes():
    found = published_benefits().set_index("axis")
    assert found.loc["tempo", "benefit"] == pytest.approx((0.105 - 0.084) / 0.063)
    impacts = datasets.published("ace-step").impacts().set_index("concept")["impact"]
    assert found.loc["violin", "concentration"] == pytest.approx(impacts["violin"].max() / impacts["violin"].sum())
    assert found[["low", "high"]].isna().all().all() and "5 above 0" in localization_chart(published_benefits()).description


def test_whether_concentration_pays_is_a_rank_correlation_per_model():
    paper = published_benefits()
    table = pd.concat([paper, paper.assign(model="upside down", benefit=-paper["benefit"]), paper[:3].assign(model="few")])
    found = benefit_by_concentration(table).set_index("model")
    assert found["spearman"]["ace-step"] == pytest.approx(paper["concentration"].corr(paper["benefit"], "spearman"))
    assert (
        found["spearman"]["upside down"] == pytest.approx(-found["spearman"]["ace-step"]) and found["better"]["upside down"] == 0
    )
    assert np.isnan(found["spearman"]["few"]) and found["axes"].tolist() == [5, 5, 3]


def test_what_does_not_belong_together_is_refused():
    sweep, atlas = datasets.steering("fast"), datasets.atlas()
    other = replace(sweep, settings={**sweep.settings, "fingerprint": "other"})
    with pytest.raises(ValueError, match="other weights"):
        localization_benefits([other], atlas)
    with pytest.raises(ValueError, match="No cell 'caa own'"):
        localization_benefits([replace(sweep, table=sweep.table[sweep.table["cell"] != "caa own"])], atlas)
    with pytest.raises(ValueError, match="No cell 'pci all'"):
        localization_benefits([replace(sweep, table=sweep.table[sweep.table["cell"] != "pci all"])], atlas)
    half = atlas.table[(atlas.table["concept"] != "slow") & (atlas.table["scored"] != "slow")]
    with pytest.raises(ValueError, match="The atlas has no 'slow'"):
        localization_benefits(
            sweep, replace(atlas, table=half, settings={**atlas.settings, "concepts": [c for c in atlas.concepts if c != "slow"]})
        )
    with pytest.raises(ValueError, match="expected an Atlas"):
        localization_benefits([sweep], datasets.planted())
    with pytest.raises(ValueError, match="nothing to draw"):
        localization_chart(published_benefits()[:0])


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.8])
def test_the_interval_of_a_rank_correlation_covers_it(rho):
    """18 axes, as in our tables; of a normal pair with correlation r, Spearman's is 6 / pi asin(r / 2)."""
    rng, truth = np.random.default_rng(0), 6 / np.pi * np.arcsin(rho / 2)
    inside = 0
    for _ in range(1000):
        one, noise = rng.standard_normal((2, 18))
        value, low, high = rank_correlation(one, rho * one + np.sqrt(1 - rho**2) * noise)
        inside += low <= truth <= high
        assert low <= value <= high
    assert 0.93 <= inside / 1000 <= 0.98
    assert np.isnan(rank_correlation([1, 2, 3, np.nan], [1, 2, 3, 4])).all()


@pytest.mark.slow
@pytest.mark.parametrize("layers", [[0], [0, 6]])
def test_a_planted_concept_is_as_concentrated_as_it_was_planted(tiny, tmp_path, layers):
    quick = {"pairs": 4, "prompts": 1, "seeds": 1, "steps": 2, "grid": [2.0], "progress": False}
    rows = steer_planted(tiny, "metal", layers, tmp_path, **quick)
    assert set(rows["model"]) == {f"planted in {len(layers)}"} and set(rows["layers"]) == {len(layers)}
    assert rows["lengths"].tolist() == ["unit", "natural"]
    (share,) = set(rows["concentration"])
    assert share == pytest.approx(1, abs=1e-3) if len(layers) == 1 else 0.5 <= share < 1
    again = steer_planted(tiny, "metal", layers, tmp_path, **quick)
    pd.testing.assert_frame_equal(rows, again)
    with pytest.raises(ValueError, match="layer"):
        steer_planted(tiny, "metal", [12], tmp_path / "other", **quick)
    with pytest.raises(ValueError, match="layers is empty"):
        steer_planted(tiny, "metal", [], tmp_path / "other", **quick)
    with pytest.raises(ValueError, match="prompts is 4000"):
        steer_planted(tiny, "metal", [0], tmp_path / "other", **{**quick, "prompts": 4000})
    assert not (tmp_path / "other").exists()
