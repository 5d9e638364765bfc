"""The shipped SAEs: of the shipped weights, past the gate when measured anew, with complete reports; and what steering with them gave."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

import audioscope
from audioscope import datasets
from audioscope.sae import TokenStream
from audioscope.sae.comparison import METHODS
from audioscope.sae.evaluation import evaluate_sae
from audioscope.sae.pipeline import auroc_table, strongest_sites
from audioscope.sae.tuning import REACHED
from audioscope.stats import auroc_interval
from audioscope.steer.tables import FEATURE_PAIRS, axes

BLOCKS = "transformer.transformer_blocks"
STRONGEST = [f"{BLOCKS}.0.cross_attn", f"{BLOCKS}.6.cross_attn"]
CELLS = ["sae tuned", "caa tuned", "sae untuned", "caa untuned", "random features tuned", "pci all"]


def test_there_is_one_for_each_of_the_two_strongest_layers():
    """Of the clipped map and of the raw one."""
    atlas = audioscope.datasets.atlas()
    assert atlas.layer_means("clipped").nlargest(2, "impact")["site"].tolist() == STRONGEST
    assert strongest_sites(atlas, 3) == [*STRONGEST, f"{BLOCKS}.9.cross_attn"]
    assert set(STRONGEST) <= set(datasets.saes())


@pytest.mark.slow
@pytest.mark.parametrize("site", [*STRONGEST, f"{BLOCKS}.6.self_attn", f"{BLOCKS}.0.self_attn"])
def test_the_report_is_complete_and_true(tiny, site):
    sae = datasets.sae(site)
    report = dict(sae.report)
    assert sae.metadata["fingerprint"] == tiny.fingerprint and sae.metadata["site"] == site
    assert torch.allclose(sae.decoder.norm(dim=1), torch.ones(sae.d_sae), atol=1e-5)
    assert set(report["auroc"]) == set(audioscope.datasets.concepts()) == set(report["scores"])
    for methods in report["auroc"].values():
        assert set(methods) == set(METHODS)
        for found in methods.values():
            assert found["low"] <= found["auroc"] <= found["high"]
            assert (found["low"], found["high"]) == pytest.approx(auroc_interval(found["auroc"], 50, 50), abs=0.03)
    held_out = [text for text in audioscope.datasets.concept_prompts(split="test")][5::100]
    found = evaluate_sae(
        sae, TokenStream(tiny, site), held_out, progress=False, fitted_on=audioscope.datasets.concept_prompts()[::150]
    )
    np.testing.assert_allclose(found.levels["fvu"], report["fvu_per_level"], rtol=0.35)
    np.testing.assert_allclose(found.levels["l0"], report["l0_per_level"], rtol=0.3)  # of other prompts


@pytest.mark.parametrize("site", STRONGEST)
def test_the_bars_hold(site):
    """At k = 8 less is unexplained than by each token's 8 best principal directions at every level, and at most 10 % of the features are
    dead; as many random tokens as a dictionary are beaten at the cleaner levels of layer 6, and elsewhere better by less than .01.
    """
    report = datasets.sae(site).report
    assert datasets.sae(site).k == 8 and min(report["pca_components"]) >= 8 and len(report["sigmas"]) == 10
    fvu, pca, tokens = (np.array(report[name]) for name in ("fvu_per_level", "topk_pca_fvu", "tokens_fvu"))
    assert (fvu < pca).all() and report["dead_share"] <= 0.1 and (fvu < tokens + 0.01).all()
    assert report["passes"] is bool((fvu < tokens).all()) is False and (site == STRONGEST[0] or (fvu < tokens)[-3:].all())


def test_the_comparison_is_one_table():
    table = auroc_table({path: datasets.sae(path) for path in datasets.saes()})
    assert len(table) == 21 * len(METHODS) * len(datasets.saes())
    assert table["auroc"].between(0, 1).all() and (table["selected"] >= 0.5).all()


def test_steering_with_features_was_compared_on_every_axis(root):
    table = datasets.steering_table("sae_steering")
    assert table["concept"].unique().tolist() == axes()
    for _, rows in table.groupby("concept"):
        assert (rows["method"] + " " + rows["sites"]).tolist() == CELLS and (rows["prompts"] == 12).all()
        assert (rows["seeds"] == 2).all()
    pairs = pd.read_parquet(root / "data" / "results" / "sae_steering_pairs.parquet")
    assert len(pairs) == len(axes()) * len(FEATURE_PAIRS)
    settings = json.loads((root / "data" / "results" / "sae_steering_settings.json").read_text())
    assert all(found["split"] == "test" for found in settings.values())
    choices = pd.read_parquet(root / "data" / "results" / "sae_steering_choices.parquet")
    for concept, rows in choices.groupby("concept"):
        for method, tried in rows.groupby("method"):
            dear = tried[tried["reached"] >= REACHED]
            assert len(tried) == 7 and tried.loc[tried["chosen"], "auc"].item() == dear["auc"].max()
            assert settings[concept]["methods"][f"{method} tuned"]["choice"] == tried.loc[tried["chosen"], "choice"].item()
    assert choices["concept"].unique().tolist() == axes()


def test_that_comparison_is_of_these_weights(tiny, root):
    settings = json.loads((root / "data" / "results" / "sae_steering_settings.json").read_text())
    assert all(found["fingerprint"] == tiny.fingerprint for found in settings.values())


def test_no_clip_of_that_comparison_starts_from_a_prompt_that_the_saes_learnt_from(root):
    clips = pd.read_parquet(root / "data" / "results" / "sae_steering_clips.parquet", columns=["text"])
    assert not set(clips["text"].astype(str)) & set(audioscope.datasets.concept_prompts())


@pytest.mark.parametrize("concept", ["fast", "violin"])
def test_the_table_follows_from_the_clips(root, concept):
    sweep = datasets.steering(concept, "sae_steering")
    mine = sweep.summary()
    shipped = datasets.steering_table("sae_steering").query("concept == @concept").reset_index(drop=True)
    for column in ("auc", "auc_low", "auc_high", "gain"):
        assert np.allclose(mine[column], shipped[column], atol=0.01), column
    pairs = pd.read_parquet(root / "data" / "results" / "sae_steering_pairs.parquet").query("concept == @concept")
    for row in pairs.itertuples():
        assert np.allclose(sweep.compare(row.one, row.other), (row.more, row.low, row.high, row.p), atol=0.01)
