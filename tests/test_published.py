"""The paper's atlas: its numbers, its functional layers by our rule, and comparing."""

import numpy as np
import pandas as pd
import pytest

import audioscope
from audioscope import Atlas, published
from audioscope.atlas_charts import _cells
from audioscope.paper import NAMES

PAPER = {  # functional layers, counted from 0
    "ace-step": [6, 7],
    "stable-audio-open": [11, 12, 13],
    "audioldm2-large": [44, 45, 46, 47, 48, 49, 50],
}


@pytest.mark.parametrize("name", NAMES)
def test_our_rule_finds_the_papers_functional_layers(name):
    atlas = published(name)
    means = atlas.layer_means()
    assert means.loc[means["functional"], "layer"].tolist() == PAPER[name]
    assert [site.path for site in atlas.sites if site.layer in PAPER[name]] == atlas.functional


def test_all_1296_impacts_are_there_with_their_digits(root):
    source = pd.read_csv(root / "data/published/tada_localization.csv")
    atlases = [published(name) for name in NAMES]
    assert sum(len(atlas.impacts()) for atlas in atlases) == len(source) == 1296
    for atlas, short in zip(atlases, NAMES.values(), strict=True):
        assert sorted(atlas.impacts()["impact"]) == sorted(source.loc[source["model"] == short, "impact"])
    stable = published("stable-audio-open").impacts().set_index(["concept", "layer"])["impact"]
    assert stable["sad", 12] == pytest.approx(1.3125) and stable.max() == pytest.approx(1.3125)


def test_what_was_not_published_is_said():
    atlas = published("audioldm2-large")
    impacts = atlas.impacts()
    assert impacts[["low", "high", "control", "denominator"]].isna().all().all()
    assert "no intervals" in repr(atlas) and "56 sites were measured with others together" in repr(atlas)
    coarse = impacts[impacts["coarse"]]
    stage = coarse["site"].str.extract(r"unet\.(\w+?_block(?:s\.\d)?)\.")[0]
    outside = coarse[~stage.eq("up_blocks.1")]
    assert (outside.groupby([stage, "concept"])["impact"].nunique() == 1).all(), "a coarse stage repeats one number"
    assert not published("ace-step").impacts()["coarse"].any()
    with pytest.raises(ValueError, match="raw scores alone"):
        atlas.impacts("probability")
    with pytest.raises(KeyError, match="ace-step"):
        published("musicgen")


def test_charts_and_tables_take_it():
    atlas = published("stable-audio-open")
    chart = atlas.heatmap()
    assert "Neither intervals nor controls were published" in str(chart.to_dict()["title"])
    coarse = _cells(published("audioldm2-large").impacts(), narrow=False)
    assert coarse["reading"].str.contains("measured together").sum() == 56 * 12
    cells = _cells(atlas.impacts(), narrow=False)
    assert cells["clear"].sum() == (atlas.impacts()["impact"] >= 2.5 / 24).sum() and set(cells["control"]) == {"not published"}
    assert atlas.own_layers("flute") == [f"transformer.transformer_blocks.{n}.attn2" for n in (12, 13)]
    assert atlas.examples().empty


def test_an_atlas_compared_with_itself_and_with_its_mirror():
    atlas = published("ace-step")
    same = atlas.compare(atlas).set_index("concept")
    assert np.allclose(same["rank_correlation"].dropna(), 1) and (same["overlap"].dropna() == 1).all()
    mirrored = published("ace-step")
    mirrored.table["impact"] = -mirrored.table["impact"]
    assert atlas.compare(mirrored)["rank_correlation"].dropna().to_numpy() == pytest.approx(-1)
    assert atlas.compare(mirrored).set_index("concept")["overlap"]["layer means"] == 0


def test_a_cell_that_is_undefined_is_left_out():
    atlas, other = published("ace-step"), published("ace-step")
    other.table.loc[(other.table["concept"] == "violin") & (other.table["layer"] == 7), ["defined", "impact"]] = False, np.nan
    row = atlas.compare(other).set_index("concept").loc["violin"]
    assert row["rank_correlation"] == pytest.approx(1)


def test_layers_are_matched_by_relative_depth():
    """Layers 6 and 7 of 24 cover the depth from .25 to .33, layers 11 to 13 that from .46 to .58: nothing in common."""
    compared = published("ace-step").compare(published("stable-audio-open")).set_index("concept")
    assert compared["overlap"]["layer means"] == 0
    assert set(compared.index) == {"layer means", "fast", "female", "happy", "male", "reggae", "sad", "slow", "violin"}
    # layers 44 to 50 of 64 cover .6875 to .796875
    other = published("stable-audio-open").compare(published("audioldm2-large")).set_index("concept")
    assert other["overlap"]["layer means"] == 0
    tiny = Atlas.load()
    own = tiny.compare(audioscope.published("stable-audio-open"))
    assert own["rank_correlation"].between(-1, 1).all() and len(own) >= 8
