"""What a steering sweep says, on tables made by hand: the criterion and its controls, two networks, what is off, what is specific."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import wilcoxon

from audioscope.stats import chance_of, interval
from audioscope.steer.results import SteeringSweep
from audioscope.steer.tables import compared, counts, over_axes, steerable, sweep_views

ALPHAS = (0.0, 0.5, 1.0, 1.5, 2.0)
BUDGET = 0.4  # of rewriting the prompt


def sweep_of(ways, prompts=12, noise=0.5, opposite="", seed=0, concept="metal", others=None):
    """A sweep made by hand. ways: cell -> the gain at strength 1, or a function of the strength; the price is .2 times the strength.

    others: cell -> how far unrelated concepts move per unit of strength.
    """
    rng = np.random.default_rng(seed)
    lines = []
    for cell, gain in ways.items():
        method, _, sites = cell.partition(" ")
        curve = gain if callable(gain) else (lambda strength, gain=gain: gain * strength)
        for prompt in range(prompts):
            for strength in ALPHAS:
                score = -8 + curve(strength) + noise * rng.normal() * (strength > 0)
                lines.append({
                    "cell": cell, "method": method, "sites": sites, "prompt": prompt, "seed": prompt, "strength": strength, "score": score, "distance": 0.2 * strength,
                    "scored metal": score, "scored violin": -5 + (others or {}).get(cell, 0.0) * strength, "scored jazz": 3 - 9 * strength, "level": -20.0,
                    "failed": False, "silent": False, "clipped": 0.0, "distance of judge": 0.1 * strength, "listener scored metal": 2 * score, "clip": "",
                    **dict.fromkeys(("chroma", "beat", "tempo", "onsets", "mode", "register", "centroid"), 1.0),
                })  # fmt: skip
    settings = {"concept": concept, "opposite": opposite, "group": "genre", "scorer": "judge", "price": "listener", "calibrated": 6.0, "model": "made",
                "methods": {cell: {"at": [cell], "numbers": 1} for cell in ways}}  # fmt: skip
    return SteeringSweep(pd.DataFrame(lines), settings, None)


def verdicts(sweep):
    rows = sweep.summary()
    return dict(zip(rows["method"] + " " + rows["sites"], rows["steerable"], strict=True))


def test_the_criterion_passes_what_steers_and_fails_what_does_not():
    """Rewriting the prompt passes though its curve saturates; so does a steady push. A push that does nothing, that falls or that rises
    only as a random one does fails; a random direction is not judged.
    """
    found = verdicts(sweep_of({
        "pci all": lambda strength: 12 * min(strength, 0.5), "caa own": 4.0, "caa nothing": 0.0, "caa falling": -4.0, "caa like chance": 1.0, "random direction own": 1.0,
    }, noise=0.3))  # fmt: skip
    assert found["pci all"] is True and found["caa own"] is True and found["random direction own"] is None
    assert [found[cell] for cell in ("caa nothing", "caa falling", "caa like chance")] == [False] * 3


def test_each_part_of_the_criterion_is_needed():
    """A step that is there at once and then falls is beyond chance and does not rise; a tiny sure gain is no tenth of the rewritten."""
    sweep = sweep_of(
        {
            "pci all": 40.0,
            "caa step": lambda strength: (strength > 0) * (20 - 10 * strength),
            "caa tiny": 1.5,
            "random direction own": 0.0,
        },
        noise=0.1,
    )
    rows = sweep.summary().assign(cell=lambda t: t["method"] + " " + t["sites"]).set_index("cell")
    assert (
        rows.loc["caa step", "p_beyond"] < 1e-4
        and rows.loc["caa step", "p_rising"] > 0.5
        and rows.loc["caa step", "share"] > 0.1
        and not rows.loc["caa step", "steerable"]
    )
    assert (
        rows.loc["caa tiny", "p_beyond"] < 1e-4
        and rows.loc["caa tiny", "p_rising"] < 1e-4
        and rows.loc["caa tiny", "share"] < 0.1
    )
    assert not rows.loc["caa tiny", "steerable"] and rows.loc["pci all", "share"] == 1


@pytest.mark.slow
def test_the_criterion_is_rarely_met_by_chance():
    """40 axes on which nothing steers: few pass one by one, and after Holm's correction hardly any axis does."""
    tables = [
        sweep_of({"pci all": 10.0, "caa own": 0.0, "random direction own": 0.0}, noise=2.0, seed=n, concept=f"c{n}").summary()
        for n in range(40)
    ]
    table = pd.concat(tables)
    alone = table[table["method"] == "caa"]["steerable"].astype(bool)
    assert alone.mean() <= 0.1
    corrected = counts(table).set_index("cell")
    assert corrected.loc["caa own", "steers"] <= 1 and corrected.loc["pci all", "steers"] == 40
    assert corrected.loc["pci all", "low"] > 36 and corrected.loc["caa own", "high"] < 6
    assert "random direction own" not in corrected.index


def test_holm_counts_the_axes():
    """A p of .01 is sure on one axis and not on eighteen."""
    rows = pd.DataFrame({"concept": [f"c{i}" for i in range(18)], "method": "caa", "sites": "own", "p_beyond": [0.01] + [0.5] * 17,
                         "p_rising": 0.0, "share": 1.0})  # fmt: skip
    assert steerable(rows[:1])["steerable"].tolist() == [True] and not any(steerable(rows)["steerable"])
    assert steerable(rows)["p"].iloc[0] == pytest.approx(0.18)


def test_a_comparison_over_axes_is_corrected_and_leaves_out_what_is_the_same():
    pairs = pd.DataFrame({"concept": list("abcd"), "one": "x", "other": "y", "more": [1.0, 0.4, -0.2, 5.0], "low": 0.0, "high": 0.0,
                          "p": [0.001, 0.04, 0.9, 1e-9], "same": [False, False, False, True]})  # fmt: skip
    found = over_axes(pairs, "x", "y")
    assert (found["axes"], found["better"], found["worse"], found["tied"]) == (3, 1, 0, 2) and found["better_on"] == ["a"]
    assert found["mean_difference"] == pytest.approx(0.4) and found["low"] < 0 < found["high"]
    assert (found["ups"], found["downs"], found["sign_p"]) == (2, 1, 1.0)


def test_arms_that_act_alike_are_said_to_be_the_same():
    sweep = sweep_of({"pci all": 10.0, "caa own": 4.0, "caa shared": 4.0, "caa all": 3.0})
    sweep.settings["methods"] |= {
        "caa own": {"at": ["l0"], "numbers": 7},
        "caa shared": {"at": ["l0"], "numbers": 7},
        "caa all": {"at": ["l0", "l1"], "numbers": 9},
    }
    found = compared(sweep, [("caa own", "caa shared"), ("caa own", "caa all"), ("caa own", "caa nowhere")])
    assert found["same"].tolist() == [True, False]


def test_numbered_cells_stand_together():
    """Three sets of random layers are compared as their mean, whose interval is narrower than one set's."""
    sweep = sweep_of({"pci all": 10.0, "caa own": 4.0, **{f"caa random layers {n}": float(n) for n in (1, 2, 3)}}, noise=1.0)
    together, alone = sweep.compare("caa own", "caa random layers"), sweep.compare("caa own", "caa random layers 2")
    assert together.more == pytest.approx(alone.more, abs=0.1) and together.high - together.low < alone.high - alone.low
    assert sweep.family("caa own") == ["caa own"] and len(sweep.family("caa random layers")) == 3
    with pytest.raises(ValueError, match="No cell 'caa random'"):
        sweep.compare("caa own", "caa random")


def test_a_p_value_belongs_to_its_interval():
    values = np.random.default_rng(0).normal(0.5, 1, 12)
    low, _ = interval(values, values.mean())
    assert (chance_of(values, values.mean()) < 0.05) == (low > 0)
    shifted = values - low
    assert chance_of(shifted, shifted.mean()) == pytest.approx(0.05, abs=1e-9)


def test_gain_and_price_change_places():
    """The listener doubles all scores and the judge halves all distances: each view has its own areas, and swapping twice is nothing."""
    sweep = sweep_of({"pci all": 10.0, "caa own": 4.0}, noise=0.0)
    area = {
        name: view.summary()["auc"].to_numpy()
        for name, view in (("as it is", sweep), ("swapped", sweep.swapped()), ("repriced", sweep.repriced()))
    }
    np.testing.assert_allclose(area["as it is"], 0.5 * np.array([10, 4]) * 2 * BUDGET, rtol=1e-4)
    np.testing.assert_allclose(area["repriced"], area["as it is"] / 2, rtol=1e-4)
    np.testing.assert_allclose(area["swapped"], area["as it is"], rtol=1e-4)  # twice the gain at half the price
    assert sweep.swapped().settings["scorer"] == "listener" and sweep.swapped().settings["price"] == "judge"
    alone = sweep_of({"pci all": 10.0})
    alone.table = alone.table.drop(columns="distance of judge")
    for view in (alone.swapped, alone.repriced):
        with pytest.raises(ValueError, match="did not measure the distance"):
            view()


def test_a_clipped_view_stops_at_the_calibrated_range():
    sweep = sweep_of({"pci all": 20.0}, noise=0.0)
    assert sweep.on("raw") is sweep
    clipped = sweep.on("clipped").table
    assert clipped["score"].min() == -6 and clipped["score"].max() == 6 and sweep.table["score"].max() == 32
    sweep.settings["calibrated"] = None
    with pytest.raises(ValueError, match="has no calibrated range"):
        sweep.on("clipped")


def test_what_is_off():
    """Off: failed, silent, clipped in more than 1 % of samples, or more than 6 dB off the unsteered level; not: 5.9 dB, or .9 %."""
    for column, value, off in (
        ("failed", True, 1), ("silent", True, 1), ("clipped", 0.011, 1), ("clipped", 0.009, 0), ("level", -13.9, 1), ("level", -26.1, 1), ("level", -14.1, 0),
    ):  # fmt: skip
        sweep = sweep_of({"pci all": 10.0}, prompts=2)
        sweep.table.loc[sweep.table["strength"] == 2.0, column] = value
        curves = sweep.curves().set_index("strength")
        assert curves.loc[2.0, "off"] == off and curves.loc[1.0, "off"] == 0, (column, value)


def test_specificity_counts_unrelated_concepts_either_way():
    """A violin that moves by -1 a unit of strength, beside a gain of 4: a quarter. Jazz is of metal's group and does not count."""
    for move in (1.0, -1.0):
        rows = sweep_of({"pci all": 4.0}, noise=0.0, others={"pci all": move}).summary()
        assert rows["specificity"].iloc[0] == pytest.approx(0.25)


def test_a_sweep_that_does_not_name_its_networks_is_summed_up_all_the_same():
    sweep = sweep_of({"pci all": 10.0, "caa own": 4.0})
    older = SteeringSweep(sweep.table.drop(columns=["distance of judge"]), {k: v for k, v in sweep.settings.items() if k not in ("scorer", "price")}, None)  # fmt: skip
    assert not older.two_networks and older.summary()["auc_repriced"].isna().all() and "caa own" in repr(older)
    assert older.summary()["auc"].tolist() == sweep.summary()["auc"].tolist() and sweep.summary()["auc_repriced"].notna().all()
    with pytest.raises(ValueError, match="nothing to exchange"):
        older.swapped()


def test_networks_are_exchanged_only_where_both_heard_the_concept():
    """A network of the price that does not know the concept scores nothing: the other views are there all the same."""
    sweep = sweep_of({"pci all": 12.0, "caa own": 4.0})
    assert set(sweep_views(sweep)) == {"clipped", "repriced", "exchanged"}
    back = sweep.swapped().swapped()
    pd.testing.assert_series_equal(back.table["score"], sweep.table["score"].astype("float32"), check_names=False)
    assert back.areas()["auc"].to_numpy() == pytest.approx(sweep.areas()["auc"].to_numpy(), rel=1e-5)
    deaf = replace(sweep, table=sweep.table.drop(columns="listener scored metal"))
    assert set(sweep_views(deaf)) == {"clipped", "repriced"}
    with pytest.raises(ValueError, match="listener measured the price, but did not score metal"):
        deaf.swapped()


def test_a_mean_that_hangs_on_one_axis_is_seen():
    more = [0.02, -0.01, 0.03, 0.01, -0.02, 0.04, 0.0, -2.3]
    table = pd.DataFrame({"concept": list("abcdefgh"), "one": "x", "other": "y", "more": more, "p": 1.0, "same": False})
    found = over_axes(table, "x", "y")
    assert found["without"] == "h" and abs(found["mean_without"]) < 0.02 < abs(found["mean_difference"])
    assert found["low"] < -0.9 < found["low_without"] < found["high_without"] < 0.05
    assert found["median"] == pytest.approx(0.005) and found["rank_p"] == pytest.approx(wilcoxon(more).pvalue)


def test_a_comparison_that_is_not_there_or_twice_is_refused():
    table = pd.DataFrame({"concept": ["a", "b"], "one": "x", "other": "y", "more": 1.0, "p": 0.5, "same": False})
    for wrong in (("y", "x"), ("x", "nothing")):
        with pytest.raises(ValueError, match="x / y"):
            over_axes(table, *wrong)
    with pytest.raises(ValueError, match="once for each axis"):
        over_axes(pd.concat([table, table]), "x", "y")
    rows = sweep_of({"pci all": 12.0, "caa own": 4.0, "random direction own": 1.0}).summary()
    with pytest.raises(ValueError, match="an axis twice"):
        counts(pd.concat([rows, rows]))
    kept = rows.astype({"method": "category", "sites": "category"})
    pd.testing.assert_frame_equal(counts(kept), counts(rows))


def test_what_was_not_judged_is_no_failure():
    """One prompt has no error to divide by: neither steerable nor not."""
    rows = sweep_of({"pci all": 12.0, "caa own": 4.0, "random direction own": 1.0}, prompts=1).summary()
    assert rows["steerable"].isna().all() and steerable(rows)["steerable"].isna().all()
    with pytest.raises(ValueError, match="empty"):
        replace(sweep_of({"pci all": 12.0}), table=sweep_of({"pci all": 12.0}).table.iloc[:0]).areas()
