"""The shipped results of steering: complete, of the shipped weights, and following from the clips they come with."""

import numpy as np
import pandas as pd
import pytest

from audioscope import Steering, shipped_steering
from audioscope.axes import PAIRS, axes, write_results

CELLS = ["caa shared", "caa own", "caa all", "caa all but shared", "caa random layers", "random direction own", "pci all"]
COLUMNS = {"concept", "method", "sites", "auc", "auc_low", "auc_high", "spearman", "prompts", "seeds"}


def test_the_table_is_complete():
    table = shipped_steering()
    assert set(table.columns) >= COLUMNS and table.columns[0] == "concept"
    assert table["concept"].unique().tolist() == axes()
    for _, rows in table.groupby("concept"):
        assert (rows["method"] + " " + rows["sites"]).tolist() == CELLS
        assert (rows["prompts"] >= 8).all() and (rows["seeds"] == 2).all()
    assert table[["auc", "auc_low", "auc_high"]].notna().all().all()


@pytest.mark.parametrize("concept", axes())
def test_the_tables_follow_from_the_clips(tiny, root, concept):
    sweep = shipped_steering(concept)
    assert sweep.settings["fingerprint"] == tiny.fingerprint, "the results are of other weights: run make results"
    assert sweep.settings["scorer"] == "judge" and sweep.settings["split"] == "test"
    units = sweep.table[sweep.table["alpha"] != 0].groupby(["cell", "prompt", "seed"])["alpha"].nunique()
    assert (units == 6).all(), "seven strengths, with 0"
    mine = sweep.summary()
    shipped = shipped_steering().query("concept == @concept").reset_index(drop=True)
    for column in ("auc", "auc_low", "auc_high", "gain", "spearman"):
        assert np.allclose(mine[column], shipped[column], atol=0.01), column
    pairs = pd.read_parquet(root / "data" / "results" / "steering_pairs.parquet").query("concept == @concept")
    for row in pairs.itertuples():
        assert np.allclose(sweep.compare(row.one, row.other), (row.more, row.low, row.high, row.p), atol=0.01)


def test_writing_and_reading_give_the_same_sweep(tmp_path, monkeypatch):
    one, two = shipped_steering("fast"), shipped_steering("jazz")
    write_results([one, two], tmp_path / "results")
    monkeypatch.setattr("audioscope.axes.data_folder", lambda: tmp_path)
    again = shipped_steering("jazz")
    assert isinstance(again, Steering)
    pd.testing.assert_frame_equal(again.table, two.table, check_dtype=False)
    pairs = pd.read_parquet(tmp_path / "results" / "steering_pairs.parquet")
    asked = [pair for pair in PAIRS if set(pair) <= set(two.cells)]
    assert len(asked) > 5 and pairs.groupby("concept").size().tolist() == [len(asked)] * 2
    areas = two.summary().assign(cell=lambda table: table["method"] + " " + table["sites"]).set_index("cell")["auc"]
    for row in pairs.query("concept == 'jazz'").itertuples():
        assert row.more == pytest.approx(areas[row.one] - areas[row.other]) and (row.p < 0.05) == (row.low > 0 or row.high < 0)
    with pytest.raises(KeyError, match=r"violin.*There are: fast, jazz"):
        shipped_steering("violin")
