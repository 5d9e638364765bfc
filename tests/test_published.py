"""Published atlases: their numbers, their functional layers by our rule, what they cannot say, and comparing."""

import numpy as np
import pandas as pd
import pytest
from helpers.tones import atlas_of_tones

import audioscope
from audioscope import datasets
from audioscope.atlas.charts import _cells, side_by_side
from audioscope.atlas.published import MEANS, NAMES
from audioscope.datasets import published
from audioscope.loading import read_sites

PAPER = {  # functional layers, counted from 0, as their authors name them
    "ace-step": [6, 7],
    "stable-audio-open": [11, 12, 13],
    "audioldm2-large": [44, 45, 46, 47, 48, 49, 50],
    "stable-audio-3": [3, 6, 7],
}


@pytest.mark.parametrize("name", NAMES)
def test_our_rule_finds_the_functional_layers_of_the_authors(name):
    atlas = published(name)
    means = atlas.layer_means()
    assert means.loc[means["functional"], "layer"].tolist() == PAPER[name]
    paths = [site.path for site in atlas.sites if site.layer in PAPER[name]]
    assert list(atlas.functional) == paths


def test_all_1296_impacts_are_there_with_their_digits(root):
    source = pd.read_csv(root / "data/published/tada_localization.csv")
    atlases = {short: published(name) for name, short in NAMES.items() if name != "stable-audio-3"}
    assert sum(len(atlas.impacts()) for atlas in atlases.values()) == len(source) == 1296
    for short, atlas in atlases.items():
        assert sorted(atlas.impacts()["impact"]) == sorted(source.loc[source["model"] == short, "impact"])
    stable = published("stable-audio-open").impacts().set_index(["concept", "layer"])["impact"]
    assert stable["sad", 12] == pytest.approx(1.3125) and stable.max() == pytest.approx(1.3125)


def test_what_was_not_published_is_said():
    atlas = published("audioldm2-large")
    impacts = atlas.impacts()
    assert impacts[["low", "high", "control", "denominator"]].isna().all().all()
    assert "no intervals" in repr(atlas) and "56 sites were measured together with others" in repr(atlas)
    coarse = impacts[impacts["coarse"]]
    stage = coarse["site"].str.extract(r"unet\.(\w+?_block(?:s\.\d)?)\.")[0]
    outside = coarse[~stage.eq("up_blocks.1")]
    assert (outside.groupby([stage, "concept"])["impact"].nunique() == 1).all(), "a coarse stage repeats one number"
    assert not published("ace-step").impacts()["coarse"].any()
    assert "(MIT)" in repr(atlas)
    for scale in ("probability", "clipped"):
        for ask in (atlas.impacts, atlas.layer_means, atlas.additivity, atlas.chart):
            with pytest.raises(ValueError, match=f"scale is '{scale}'.*expected .*raw"):
                ask(scale)
    with pytest.raises(ValueError, match="only impacts were published"):
        atlas.agreement()
    with pytest.raises(KeyError, match="ace-step"):
        published("musicgen")


def test_charts_and_tables_take_it():
    atlas = published("stable-audio-open")
    chart = atlas.chart()
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
    tiny = datasets.atlas()
    own = tiny.compare(audioscope.datasets.published("stable-audio-open"))
    assert own["rank_correlation"].between(-1, 1).all() and len(own) >= 8


def test_the_tables_have_the_columns_of_our_own(tmp_path):
    ours = atlas_of_tones(tmp_path, 0)
    for name in NAMES:
        atlas = published(name)
        assert set(ours.impacts().columns) <= set(atlas.impacts().columns)
        assert list(ours.layer_means().columns) == list(atlas.layer_means().columns)
        assert list(ours.additivity().columns) == list(atlas.additivity().columns)


def test_a_concept_that_decides_over_a_layer_is_named():
    """Without "techno", layer 13 of Stable Audio Open has a mean of 1.082 / 11 = .098 < 2.5 / 24; the paper names it functional."""
    fragility = published("stable-audio-open").functional.fragility.set_index("layer")
    means = published("stable-audio-open").impacts().query("concept != 'techno' and layer == 13")["impact"]
    assert len(means) == 11 and means.mean() < 2.5 / 24 <= published("stable-audio-open").layer_means()["impact"][13]
    assert (
        fragility["without"][13] == ["techno", "all of genre", "all of mood"]
        and fragility["without"][12] == []
        and fragility["share"].isna().all()
    )
    assert not published("stable-audio-3").functional.fragility["without"].any(), "there is no concept to leave out"


def test_the_replication_on_stable_audio_3_is_24_means_at_the_models_own_sites(root):
    """Two of the numbers, read off the source by eye; and every site of the real configuration, with its width."""
    atlas = published("stable-audio-3")
    means = atlas.layer_means().set_index("layer")["impact"]
    assert means[7] == 0.253 and means[23] == 0.003 and len(means) == 24
    source = pd.read_csv(root / "data/published/sa3_layer_means.csv")
    assert source["impact"].tolist() == means.tolist() and source["layer"].tolist() == means.index.tolist()
    assert tuple(atlas.sites) == read_sites(root / "tests/fixtures/stable-audio-3-medium")[1].cross


@pytest.mark.slow
def test_an_atlas_of_means_alone_says_so_wherever_it_is_shown(tmp_path):
    atlas = published("stable-audio-3")
    assert atlas.concepts == [MEANS] and atlas.only_means and not published("ace-step").only_means
    said = repr(atlas)
    assert (
        "no impacts of single concepts" in said
        and "d158cef0" in said
        and "AGPL-3.0" in said
        and "3 (0.18), 6 (0.16), 7 (0.25)" in said
    )
    spec = atlas.chart().to_dict()
    assert "Only the means over 10 concepts were published" in " ".join(spec["title"]["subtitle"])
    assert "Only the means" not in str(published("ace-step").chart().to_dict()["title"])
    cells = _cells(atlas.impacts(), narrow=False)
    assert set(cells["concept"]) == {MEANS} and cells.loc[cells["clear"], "layer"].tolist() == [3, 6, 7]
    with pytest.raises(KeyError, match="fast"):
        atlas.own_layers("fast")
    for other in ("ace-step", "stable-audio-open"):
        for table in (atlas.compare(published(other)), published(other).compare(atlas)):
            assert table["concept"].tolist() == ["layer means"]
    page = atlas.save_html(tmp_path / "alone.html", progress=False).read_text()
    assert "3 layers reach" in page and "Only the means over 10 concepts were published" in page
    with pytest.raises(ValueError, match="no scores were published"):
        atlas.save(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()
    explorer = atlas.explore()
    assert explorer.concept.options == (MEANS,) and "layer 7" in explorer.metadata.value


@pytest.mark.slow
def test_all_published_atlases_stand_on_one_page_and_side_by_side(tmp_path):
    """As `page_extras` puts them there, each with its chart; the means have a row of their own among the concepts."""
    atlases = {name: published(name) for name in NAMES}
    first, *others = atlases.values()
    page = first.save_site(tmp_path, others, progress=False).read_text()
    assert all(f"{name}: text swap, published" in page for name in NAMES)
    spec = side_by_side(atlases).to_dict()
    rows = {row["concept"]: row["by_group"] for data in spec["datasets"].values() for row in data if "by_group" in row}
    assert len(spec["hconcat"]) == len(NAMES) and rows[MEANS] == len(rows) - 1 == len(set(rows.values())) - 1
