"""When the text acts: one step of the denoising at a time."""

import numpy as np
import pandas as pd
import pytest

from audioscope.atlas.steps import patch_steps, step_impacts
from audioscope.stats import ratio_of_means


def by_hand(pairs=6, steps=3, seed=0):
    """A table as `patch_steps` gives it, of two concepts, in which step 1 of 3 brings half of the whole."""
    rng = np.random.default_rng(seed)
    lines = []
    for concept in ("one", "two"):
        for pair in range(pairs):
            base, whole = rng.normal(0, 0.1), 4 + rng.normal()
            values = {
                "clean": base + whole,
                "corrupted": base,
                **{n: base + whole * (0.5 if n == 1 else 0.1) for n in range(steps)},
            }
            for cell, value in values.items():
                step = cell if isinstance(cell, int) else -1
                row = "patched" if step >= 0 else cell
                lines.append((concept, pair, pair, row, step, 1 - step / steps, float(step), value, -value, 3.0, 2.0))
    return pd.DataFrame(
        lines,
        columns=[
            "concept",
            "pair",
            "seed",
            "row",
            "step",
            "sigma",
            "log_snr",
            "score",
            "score of judge",
            "calibrated score",
            "calibrated score of judge",
        ],
    )


def test_with_a_single_step_it_is_the_whole(tiny, tmp_path):
    """Swapped at all sites in the only step, the run is the clean one."""
    table = patch_steps(tiny, ["fast"], 2, steps=1, out=tmp_path, progress=False)
    rows = table.pivot(index="pair", columns="row", values="score")
    np.testing.assert_allclose(rows["patched"], rows["clean"], atol=1e-4)
    assert (rows["clean"] - rows["corrupted"]).abs().min() > 0.01
    assert {"score of judge", "sigma", "log_snr"} <= set(table.columns) and (
        table[["calibrated score", "calibrated score of judge"]] == 6
    ).all(axis=None)
    again = patch_steps(tiny, ["fast"], 2, steps=1, out=tmp_path, progress=False)
    parts = patch_steps(tiny, ["fast"], 1, steps=1, batch_size=1, progress=False)
    np.testing.assert_allclose(parts["score"], table["score"][:3], atol=0.05)
    pd.testing.assert_frame_equal(table, again)


def test_one_step_is_patched_and_no_other(tiny, monkeypatch):
    seen, run = [], type(tiny).run
    monkeypatch.setattr(type(tiny), "run", lambda self, rows, **given: seen.append(rows) or run(self, rows, **given))
    table = patch_steps(tiny, ["drums"], 1, steps=3, progress=False)
    clean, corrupted, *patched = seen[-1]
    assert clean.prompt != corrupted.prompt and {row.prompt for row in patched} == {corrupted.prompt}
    assert {row.seed for row in seen[-1]} == {clean.seed}
    assert [edit.steps for row in patched for edit in row.edits] == [(0, 1), (1, 2), (2, 3)]
    assert all(edit.prompt == clean.prompt for row in patched for edit in row.edits)
    assert table["step"].tolist() == [-1, -1, 0, 1, 2] and table["sigma"].iloc[2:].is_monotonic_decreasing


def test_impacts_are_ratios_of_means_with_their_intervals():
    table = by_hand()
    found = step_impacts(table)
    assert found.groupby("concept").size().tolist() == [3, 3, 3]
    one = table[table["concept"] == "one"].pivot_table(index="pair", columns=["row", "step"], values="score")
    base = one["corrupted", -1]
    expected = ratio_of_means((one["patched", 1] - base).to_numpy(), (one["clean", -1] - base).to_numpy())
    row = found.query("concept == 'one' and step == 1").iloc[0]
    assert (row["impact"], row["low"], row["high"]) == pytest.approx((expected.value, expected.low, expected.high))
    assert row["impact"] == pytest.approx(0.5) and found.query("concept == 'mean' and step == 1")[
        "impact"
    ].item() == pytest.approx(0.5)
    mean = found[found["concept"] == "mean"]
    assert mean["impact"].idxmax() == mean.index[mean["step"] == 1].item() and (mean["all_high"] > mean["high"]).all()


def test_scales_and_other_scores_change_it_and_nonsense_is_refused():
    table = by_hand()
    clipped = step_impacts(table, "clipped").query("concept == 'mean'")["impact"]
    assert (clipped > step_impacts(table).query("concept == 'mean'")["impact"]).all(), "4 is cut at 3: the whole shrinks"
    assert not step_impacts(table, score="score of judge")["defined"].any(), "the concept falls there: no share of it can be said"
    with pytest.raises(ValueError, match="'score of nobody'.*score of judge"):
        step_impacts(table, score="score of nobody")
    with pytest.raises(ValueError, match="scale is 'clipped'"):
        step_impacts(table.assign(**{"calibrated score": np.nan}), "clipped")
    falls = step_impacts(table.assign(**{"score of judge": table["score"]}), "clipped", "score of judge").query(
        "concept == 'mean'"
    )
    assert (falls["impact"].to_numpy() > clipped.to_numpy()).all(), "each network is cut at its own end, here 2"


def test_bad_input_is_refused_before_any_work(tiny):
    for keywords in ({"pairs": 0}, {"pairs": 10_000}, {"concepts": ["nothing"]}, {"batch_size": 0}):
        with pytest.raises((ValueError, KeyError)):
            patch_steps(tiny, **{"concepts": ["fast"], **keywords})


@pytest.mark.parametrize(
    "spoil",
    [
        lambda table: pd.concat([table, table.iloc[:1]]),
        lambda table: table.iloc[:0],
        lambda table: table.assign(concept=table["concept"].replace("one", "mean")),
    ],
)
def test_a_table_that_would_be_misread_is_refused(spoil):
    with pytest.raises(ValueError, match="expected what patch_steps returns"):
        step_impacts(spoil(by_hand()))
    with pytest.raises(ValueError, match="score is 'sigma', expected 'score' or 'score of judge'"):
        step_impacts(by_hand(), score="sigma")


def test_how_a_table_is_stored_changes_nothing():
    """Categories, as a small file has them, and another index."""
    table = by_hand()
    stored = table.astype({"concept": "category", "row": "category"}).set_index(table.index[::-1])
    pd.testing.assert_frame_equal(step_impacts(stored), step_impacts(table))


def test_numpy_numbers_and_a_home_folder(tiny, tmp_path, monkeypatch):
    """Settings are kept as JSON, which has no numpy numbers; ~ is the user's home, and no folder of that name."""
    monkeypatch.setenv("HOME", str(tmp_path))
    patch_steps(tiny, ["fast"], np.int64(1), steps=np.int64(1), out="~/steps", progress=False)
    assert (tmp_path / "steps" / "settings.json").exists()
