"""The fair look at single features: what counts as an example, how units are chosen, and how sure a paired difference is."""

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from sklearn.metrics import roc_auc_score

import audioscope
from audioscope import SAE, datasets
from audioscope.sae.comparison import choose_units, column, compare_features, compare_units, wins
from audioscope.sae.features import NEGATIVES, ConceptActivations, labels_in, with_and_without
from audioscope.sae.pipeline import auroc_table, report_saes
from audioscope.stats import paired_difference

CONCEPTS = audioscope.datasets.concepts()
CHOSEN = ["concept", "method", "unit", "sign", "selected", "negatives", "sigma"]


def test_a_pair_names_the_same_labels_but_for_its_concept_and_the_counterfactual():
    for concept in CONCEPTS.values():
        for pair in concept.pairs:
            context = labels_in(pair.neutral)
            assert labels_in(pair.clean) == context | {concept.name} and concept.name not in context
            assert labels_in(pair.corrupted) == context | {concept.counterfactual} and concept.counterfactual not in context


def test_every_phrase_names_its_label_and_no_other(root):
    groups = yaml.safe_load((root / "data" / "concepts.yaml").read_text())["groups"]
    for label, words in ((label, words) for classes in groups.values() for label, words in classes.items()):
        for phrase in words.get("adjectives", []):
            assert labels_in(f"a {phrase} song with the sea") == {label}
        for phrase in words.get("items", []):
            assert labels_in(f"music with {phrase}") == {label}
    assert labels_in("A Slow, jazzy song with a woman singing and violin melody") == {"slow", "jazz", "female", "violin"}
    assert labels_in("the drum kit under one male voice") == {"drums", "male"}
    assert labels_in("music with an organ, in steadfast breakfast mood, for men") == frozenset()


def shipped_rows(split, names=None):
    return pd.DataFrame(
        [
            {"concept": name, "pair": pair.index, "has": has, "text": text}
            for name in names or CONCEPTS for pair in CONCEPTS[name].split(split)
            for text, has in ((pair.clean, True), (pair.corrupted, False))
        ]
    )  # fmt: skip


def test_examples_without_a_concept_are_all_that_do_not_name_it():
    rows = shipped_rows("test")
    labels = rows["text"].map(labels_in)
    for name in CONCEPTS:
        names_it = np.array([name in found for found in labels])
        with_, without = with_and_without(rows, name, "all")
        assert with_.sum() == 50 and names_it[with_].all() and not names_it[without].any()
        left = ~with_ & ~without
        assert names_it[left].all() and (rows["concept"][left] != name).all()
        assert without.sum() > 1000 and set(rows["concept"][without]) == set(CONCEPTS)
        fixed = with_and_without(rows, name)
        assert (fixed[0] == with_).all() and rows[fixed[1]].index.tolist() == rows.query(
            "concept == @name and not has"
        ).index.tolist()
    with pytest.raises(ValueError, match="negatives is 'hard', expected 'all' or 'counterfactual'"):
        with_and_without(rows, "fast", "hard")


def test_a_concept_of_ones_own_is_told_from_the_prompts_of_the_others():
    own = [
        ("organ", 0, True, "a song with an organ"),
        ("organ", 0, False, "a song with a harp"),
        ("organ", 1, False, "slow harps"),
    ]
    more = [("harp", 0, True, "a song with a harp"), ("harp", 0, False, "a song with an organ"), ("harp", 1, True, "a slow harp")]
    rows = pd.DataFrame(own + more, columns=["concept", "pair", "has", "text"])
    with_, without = with_and_without(rows, "organ", "all")
    assert with_.tolist() == [True] + [False] * 5  # and the other concept's "a song with an organ" is on neither side
    assert without.tolist() == [False, True, True, True, False, True]
    said = [
        ("fast", 0, True, "a brisk song"),
        ("fast", 0, False, "a song that is anything but fast"),
        ("x", 0, True, "a fast song"),
    ]
    rows = pd.DataFrame(said, columns=["concept", "pair", "has", "text"])
    assert with_and_without(rows, "fast", "all")[1].tolist() == [False, True, False]  # a counterfactual stays one


def made(values, names, split):
    """Readings of these concepts' pairs from a function of rows and levels."""
    rows = shipped_rows(split, names)
    return ConceptActivations(
        rows, torch.tensor([1.0, 0.5]), {name: value(rows).astype("float32") for name, value in values.items()}
    )


def planted(rng, unit=5, level=1, width=12, strength=3.0, names=("fast",)):
    """Feature `unit` says "fast" at one level, neurons only together, the random SAE nothing."""
    signs = np.sign(np.random.default_rng(3).normal(size=(width, width))) / width**0.5

    def feature(rows):
        x = np.random.default_rng(rng).normal(size=(len(rows), 2, width))
        x[:, level, unit] += strength * rows["text"].map(lambda text: "fast" in labels_in(text))
        return x

    noise = np.random.default_rng(rng + 100)
    return {
        "feature s": feature, "s": lambda rows: feature(rows) @ signs + 0.1 * noise.normal(size=(len(rows), 2, width)),
        "random SAE s": lambda rows: noise.normal(size=(len(rows), 2, width)),
    }  # fmt: skip


def splits(names=("fast",), **choices):
    """Readings in all three splits; choices: split -> keywords of `planted`."""
    return {
        split: made(planted(i, **choices.get(split, {})), names, split) for i, split in enumerate(("build", "select", "test"))
    }


def compared(readings, names=("fast",), **keywords):
    sae = SAE(12, 12, 2)
    return compare_features(None, {"s": sae}, {"s": sae}, names, readings=readings, progress=False, **keywords)


@pytest.mark.parametrize("negatives", NEGATIVES)
def test_the_comparison_finds_what_was_planted(negatives):
    table = compared(splits(("fast", "slow", "violin")), ("fast",), negatives=negatives)
    by = table.set_index("method")
    assert by.loc["feature", "unit"] == 5 and by.loc["feature", "sigma"] == 0.5 and by.loc["feature", "auroc"] > 0.95
    assert by.loc["probe", "auroc"] > 0.9 and by.loc["random SAE", "low"] < 0.6
    assert pd.isna(by.loc["feature", "p"]) and by.loc["random SAE", "p"] < 0.001
    found = wins(table).set_index("other")
    assert found.loc["random SAE", ["better", "worse", "tied"]].tolist() == [1, 0, 0] and found.loc["probe", "worse"] == 0
    assert (found["mean"] == by.loc[found.index, "difference"]).all()


@pytest.mark.parametrize("negatives", NEGATIVES)
def test_units_and_the_probe_are_chosen_on_the_selection_split_alone(negatives):
    """On the test split another unit at another level is better by far: nothing may know."""
    weak = {"unit": 5, "level": 1, "strength": 1.2}
    readings = splits(("fast", "slow"), build=weak, select=weak)
    for name, unit in (("feature s", 8), ("s", 8), ("random SAE s", 8)):
        test = readings["test"]
        test.values[name][:, 0, unit] += 30 * test.rows["text"].map(lambda text: "fast" in labels_in(text)).to_numpy()
        test.values[name][:, 1] = np.random.default_rng(9).normal(size=test.values[name][:, 1].shape)
        readings["build"].values[name][:, 0, unit] += readings["build"].rows["has"].to_numpy()  # a probe of level 0 knows of it
    by = compared(readings, negatives=negatives).set_index("method")
    assert by.loc["feature", "unit"] == 5
    assert (by["sigma"][["feature", "probe"]] == 0.5).all() and (by["auroc"] < 0.75).all()


def test_neither_the_choice_nor_the_fit_knows_how_the_test_split_is_labelled():
    readings = splits()
    by = compared(readings, negatives="counterfactual").set_index("method")
    test = readings["test"]
    turned = ConceptActivations(test.rows.assign(has=~test.rows["has"]), test.sigmas, test.values)
    again = compared({**readings, "test": turned}, negatives="counterfactual").set_index("method")
    assert (again[["unit", "sigma", "sign", "selected"]] == by[["unit", "sigma", "sign", "selected"]]).all(axis=None)
    assert again["auroc"].to_numpy() == pytest.approx(1 - by["auroc"].to_numpy())


def test_ties_go_to_the_largest_effect_and_signs_are_turned():
    """Three units tell all selection prompts; the last, which is low with the concept, by the most deviations."""
    readings = splits()
    for found in readings.values():
        has, values = found.rows["has"].to_numpy(), found.values["feature s"]
        values[:, 1, 5] = 0
        noise = np.random.default_rng(4).uniform(-1, 1, len(has))
        for (level, unit), (gap, sign) in {(0, 2): (4, 1), (1, 0): (7, 1), (1, 7): (9, -1)}.items():
            values[:, level, unit] = sign * gap * has + noise
    best = compared(readings).set_index("method").loc["feature"]
    assert (best["unit"], best["sigma"], best["sign"], best["selected"], best["auroc"]) == (7, 0.5, -1, 1.0, 1.0)


def two_orderings(rng, n=50, others=40, gap=1.5, shared=0.5, cut=None, loud=1.0):
    """Values of two equally good orderings; each pair shares some of its noise, and the orderings share some. cut: ties below it."""
    pairs = np.r_[np.arange(n), np.arange(n), n + np.repeat(np.arange(others), 2)]
    has = np.r_[np.ones(n, bool), np.zeros(n + 2 * others, bool)]
    found = []
    both = rng.normal(size=len(pairs))
    for _ in range(2):
        own = rng.normal(size=n + others)[pairs] * shared**0.5 + rng.normal(size=len(pairs)) * (1 - shared) ** 0.5
        values = (0.5 * both + 0.75**0.5 * own) * np.where(has, loud, 1.0) + gap * has
        found.append(values if cut is None else np.maximum(values, cut))
    return *found, has, pairs


def test_a_paired_difference_is_that_of_scikit_learn_and_turns_with_the_order():
    rng = np.random.default_rng(0)
    for cut in (None, 0.5):
        one, other, has, pairs = two_orderings(rng, cut=cut)
        one = one + has
        difference, low, high, p = paired_difference(one, other, has, pairs)
        assert difference == pytest.approx(roc_auc_score(has, one) - roc_auc_score(has, other))
        assert low < difference < high and p < 0.05
        assert (low + high) / 2 == pytest.approx(difference * 50 / 52)  # two pairs more, which say nothing about which is better
        turned = paired_difference(other, one, has, pairs)
        assert turned == pytest.approx((-difference, -high, -low, p))
        assert paired_difference(np.exp(one), 3 * other - 7, has, pairs) == pytest.approx((difference, low, high, p))


def test_prompts_of_one_pair_said_again_are_no_new_evidence():
    one, other, has, pairs = two_orderings(np.random.default_rng(1))
    once = paired_difference(one, other + 0.4 * has, has, pairs)
    again = paired_difference(*(np.tile(x, 3) for x in (one, other + 0.4 * has, has, pairs)))
    assert again == pytest.approx(once)
    apart = paired_difference(*(np.tile(x, 3) for x in (one, other + 0.4 * has, has)), np.arange(3 * len(pairs)))
    assert apart[3] < once[3] and apart[2] - apart[1] < 0.7 * (once[2] - once[1])


def test_where_nothing_was_seen_to_differ_the_interval_has_a_width():
    has, pairs = np.repeat([True, False], 50), np.tile(np.arange(50), 2)
    for other in (5.0 * has + np.linspace(0, 1, 100), 5.0 * has):  # two that tell all, in other ways
        difference, low, high, p = paired_difference(5.0 * has - np.linspace(0, 1, 100), other, has, pairs)
        assert difference == 0 and p == 1 and low == pytest.approx(-high) and 0.01 < high < 0.05
    few = paired_difference(*(x[::10] for x in (5.0 * has, 3.0 * has, has, pairs)))
    assert few[2] > 3 * high


@pytest.mark.parametrize(
    "shape", [{"gap": 1.5}, {"gap": 3.0, "loud": 2.0}, {"gap": 2.5, "cut": 1.0}, {"gap": 1.5, "others": 0, "shared": 0.8}]
)
def test_a_true_null_is_sure_as_rarely_as_it_says_and_the_interval_holds_it(shape):
    """In the middle, near the ceiling, with ties below it, and with pairs that share most of their noise."""
    rng, sure, held = np.random.default_rng(2), 0, 0
    for _ in range(400):
        _, low, high, p = paired_difference(*two_orderings(rng, **shape), flips=400)
        sure, held = sure + (p < 0.05), held + (low <= 0 <= high)
    assert sure / 400 < 0.083 and held / 400 > 0.917  # 0.05 and 0.95 by three standard errors
    assert sure > 0


def test_wins_are_counted_after_holm_with_the_mean_and_the_signs():
    concepts = [f"c{i}" for i in range(8)]
    difference = np.array([0.3, 0.2, 0.1, 0.05, 0.02, 0.01, 0.0, -0.2])
    p = np.array(
        [0.001, 0.008, 0.009, 0.02, 0.5, 0.9, 1.0, 0.002]
    )  # by themselves 5 are below 0.05; times 8, 7, 6, 5: .008 .014 .048 .048 .1
    table = pd.concat(
        [
            pd.DataFrame({"site": "s", "method": "feature", "concept": concepts}),
            pd.DataFrame({"site": "s", "method": "neuron", "concept": concepts, "difference": difference, "p": p}),
            pd.DataFrame({"site": "s", "method": "probe", "concept": concepts, "difference": -difference, "p": p}),
        ]
    )
    neuron, probe = wins(table).to_dict("records")
    assert (neuron["one"], neuron["other"], probe["other"]) == ("feature", "neuron", "probe")
    assert (neuron["better"], neuron["worse"], neuron["tied"]) == (3, 1, 4) and (probe["better"], probe["worse"]) == (1, 3)
    assert (neuron["ups"], neuron["downs"]) == (6, 1) and neuron["p_signs"] == pytest.approx(16 / 128)
    assert neuron["mean"] == pytest.approx(0.06) and neuron["low"] < 0 < neuron["high"] and probe["high"] == -neuron["low"]
    assert wins(table, level=0.04).loc[0, ["better", "worse"]].tolist() == [1, 1]
    with pytest.raises(ValueError, match="no column .p., expected the table that .compare_features"):
        wins(table.drop(columns="p"))


def test_a_report_carries_what_its_comparison_follows_from(tmp_path):
    names = ("fast", "slow", "violin")
    sae = SAE(12, 12, 2)
    sae.save_pretrained(tmp_path / "s")
    table = report_saes(None, tmp_path, ["s"], names, readings=splits(names), progress=False)
    back = SAE.from_pretrained(tmp_path / "s")
    assert auroc_table({"s": back}).equals(table) and len(table) == 3 * 4
    for negatives in NEGATIVES:
        found = compared(splits(names), names, negatives=negatives)
        shipped = auroc_table({"s": back}, negatives)
        pd.testing.assert_frame_equal(shipped[found.columns], found, rtol=0, atol=1e-5, check_dtype=False)
        recomputed = compare_units(shipped[CHOSEN], back.units)
        pd.testing.assert_frame_equal(recomputed, found.drop(columns="site"), rtol=0, atol=1e-5, check_dtype=False)
    SAE(12, 12, 2).save_pretrained(tmp_path / "s")  # another SAE in the same folder
    assert not (tmp_path / "s" / "units.parquet").exists()


def test_units_keep_order_and_ties_and_leave_out_what_was_not_used():
    readings = splits(("fast", "slow", "violin"))
    values = readings["test"].values["feature s"]
    values[:, 1, 5] = np.round(values[:, 1, 5])
    chosen, units = choose_units(readings, "s", ["fast"], progress=False)
    place = units[column("fast", "feature", "all")].to_numpy()
    with_, without = with_and_without(readings["test"].rows, "fast", "all")
    assert (place == 0).tolist() == (~with_ & ~without).tolist() and 0 < (place == 0).sum() < len(place)
    expected = pd.Series(values[with_ | without, 1, 5]).rank()
    assert (place[place > 0] == 2 * expected.to_numpy()).all() and place.dtype == np.uint16
    assert chosen.loc[0, "unit"] == 5


@pytest.mark.parametrize("site", sorted(datasets.saes()))
def test_the_shipped_comparison_follows_from_the_shipped_units(site):
    sae = datasets.sae(site)
    for negatives in NEGATIVES:
        shipped = auroc_table({site: sae}, negatives)
        some = shipped[shipped["concept"].isin(["fast", "violin", "opera"])].reset_index(drop=True)
        chosen = some[CHOSEN]
        found = compare_units(chosen, sae.units)
        pd.testing.assert_frame_equal(found, some[found.columns], rtol=0, atol=1e-5, check_dtype=False)
    assert (datasets.saes()[site] / "units.parquet").stat().st_size < 450_000
