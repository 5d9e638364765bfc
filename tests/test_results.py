"""The shipped results of steering: complete, of the shipped weights, and following from the clips they come with."""

import numpy as np
import pandas as pd
import pytest

import audioscope
from audioscope import datasets
from audioscope.scoring import trusted
from audioscope.steer import SteeringSweep
from audioscope.steer.tables import PAIRS, axes, compared, counts, sweep_views, write_results
from audioscope.store import save_small

CELLS = [
    "caa shared", "caa own", "caa all", "caa own, natural lengths", "caa all, natural lengths", "caa own, music alone",
    "caa all, music alone", "caa random layers 1", "caa random layers 2", "caa random layers 3", "random direction own", "fixed direction own", "shuffled labels own", "pci all",
]  # fmt: skip
COLUMNS = {
    "concept",
    "method",
    "sites",
    "auc",
    "auc_low",
    "auc_high",
    "auc_repriced",
    "p_beyond",
    "p_rising",
    "share",
    "spearman",
    "prompts",
    "seeds",
}


def test_the_table_is_complete():
    table = datasets.steering_table()
    assert set(table.columns) >= COLUMNS and table.columns[0] == "concept"
    assert table["concept"].unique().tolist() == axes()
    for _, rows in table.groupby("concept"):
        assert (rows["method"] + " " + rows["sites"]).tolist() == CELLS
        assert (rows["prompts"] >= 8).all() and (rows["seeds"] == 2).all()
    assert table[["auc", "auc_low", "auc_high"]].notna().all().all()


@pytest.mark.parametrize("concept", axes())
def test_the_tables_follow_from_the_clips(tiny, root, concept):
    sweep = datasets.steering(concept)
    assert sweep.settings["fingerprint"] == tiny.fingerprint, "the results are of other weights: run make results"
    assert sweep.settings["scorer"] == "judge" and sweep.settings["split"] == "test"
    assert sweep.settings["price"] == "listener", "the network of the gain measured the price"
    units = sweep.table[sweep.table["strength"] != 0].groupby(["cell", "prompt", "seed"])["strength"].nunique()
    assert (units == (6 if sweep.settings["opposite"] else 5)).all()
    own = sweep.settings["methods"]["caa own"]["at"]
    drawn = [set(sweep.settings["methods"][f"caa random layers {n}"]["at"]) for n in (1, 2, 3)]
    assert {len(layers) for layers in drawn} == {len(own)} and not any(layers & set(own) for layers in drawn)
    mine = sweep.summary()
    shipped = datasets.steering_table().query("concept == @concept").reset_index(drop=True)
    for column in ("auc", "auc_low", "auc_high", "auc_repriced", "gain", "spearman", "share"):
        assert np.allclose(mine[column], shipped[column], atol=0.01), column
    pairs = pd.read_parquet(root / "data" / "results" / "steering_pairs.parquet").query("concept == @concept")
    for row in pairs.itertuples():
        assert np.allclose(sweep.compare(row.one, row.other), (row.more, row.low, row.high, row.p), atol=0.01)


def test_the_area_of_a_sweeps_own_table_needs_no_arguments():
    sweep, table = datasets.steering("fast"), datasets.steering_table().query("concept == 'fast'")
    found = audioscope.steer.steering_auc(sweep.table).set_index("cell")["auc"]
    assert found[sweep.cells].to_numpy() == pytest.approx(table["auc"].to_numpy(), abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("concept", ["happy", "flute"])
def test_other_views_follow_from_the_clips_too(root, concept):
    seen = sweep_views(datasets.steering(concept))
    assert list(seen) == ["clipped", "repriced", "exchanged"] + (["musicnn"] if concept in trusted() else [])
    shipped = pd.read_parquet(root / "data" / "results" / "steering_views.parquet").query("concept == @concept")
    for view, sweep in seen.items():
        mine, theirs = compared(sweep), shipped[shipped["view"] == view]
        assert mine[["one", "other"]].to_numpy().tolist() == theirs[["one", "other"]].to_numpy().tolist()
        assert np.allclose(mine[["more", "low", "high", "p"]], theirs[["more", "low", "high", "p"]], atol=0.01)


def test_the_criterion_passes_its_positive_control_and_fails_chance():
    """Rewriting the prompt steers, a fixed random direction does not; what shuffled labels do is told in notebook 5."""
    found = counts(datasets.steering_table()).set_index("cell")
    assert found.loc["pci all", "steers"] >= 16 and found.loc["fixed direction own", "steers"] <= 2
    assert "random direction own" not in found.index, "what the others are compared with is not judged"
    assert (found["axes"] == 18).all() and (found["low"] <= found["steers"]).all() and (found["steers"] <= found["high"]).all()


@pytest.mark.slow
def test_writing_and_reading_give_the_same_sweep(tmp_path, monkeypatch):
    one, two = datasets.steering("fast"), datasets.steering("jazz")
    write_results([one, two], tmp_path / "results")
    monkeypatch.setattr("audioscope.datasets.data_folder", lambda: tmp_path)
    again = datasets.steering("jazz")
    assert isinstance(again, SteeringSweep)
    pd.testing.assert_frame_equal(again.table, two.table, check_dtype=False)
    pairs = pd.read_parquet(tmp_path / "results" / "steering_pairs.parquet")
    told = len(compared(two))  # of sweeps made before a cell was added, fewer than PAIRS
    assert 10 <= told <= len(PAIRS) and pairs.groupby("concept").size().tolist() == [told] * 2
    others = pd.read_parquet(tmp_path / "results" / "steering_views.parquet")
    assert others.groupby(["concept", "view"]).size().tolist() == [told] * 7  # an ear from outside knows "fast", too
    areas = two.summary().assign(cell=lambda table: table["method"] + " " + table["sites"]).set_index("cell")["auc"]
    for row in pairs.query("concept == 'jazz'").itertuples():
        one, other = (areas[two.family(name)].mean() for name in (row.one, row.other))
        assert row.more == pytest.approx(one - other) and (row.p < 0.05) == (row.low > 0 or row.high < 0)
    with pytest.raises(KeyError, match=r"violin.*Available: fast, jazz"):
        datasets.steering("violin")


def test_a_small_table_is_right_to_1_part_in_2048_at_any_size_and_smaller(tmp_path):
    rng = np.random.default_rng(0)
    scores = (rng.standard_normal(5000) * 10.0 ** rng.integers(-30, 30, 5000)).astype("float32")
    scores[:7] = np.nan, np.inf, -np.inf, 0, 1, -2047, 2048
    table = pd.DataFrame({"score": scores, "strength": rng.standard_normal(5000), "pair": np.arange(5000, dtype="int16")})
    table["site"] = pd.Categorical(rng.choice(["one", "other"], 5000))
    save_small(table, tmp_path / "small.parquet")
    table.to_parquet(tmp_path / "whole.parquet", compression="zstd", compression_level=19)
    again = pd.read_parquet(tmp_path / "small.parquet")
    np.testing.assert_allclose(again["score"], scores, rtol=1 / 2048)
    np.testing.assert_array_equal(again["score"][:7], scores[:7])
    pd.testing.assert_frame_equal(again.drop(columns="score"), table.drop(columns="score"))
    assert (tmp_path / "small.parquet").stat().st_size < 0.9 * (tmp_path / "whole.parquet").stat().st_size
    save_small(again, tmp_path / "twice.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "twice.parquet"), again)
