"""The bench: precision and recall of atlases and screens where the truth was planted."""

import numpy as np
import pandas as pd
import pytest

from audioscope import datasets
from audioscope.atlas import known_answers, precision_recall

HOW = {"steps": 5, "progress": False, "workers": 1}


def best():
    """The concept that one layer moves most in the shipped map, and that layer: not the first, a switch that screens are blind to."""
    cell = datasets.atlas().impacts().query("defined and layer > 0").nlargest(1, "impact").iloc[0]
    return datasets.concepts()[cell["concept"]], int(cell["layer"])


def test_precision_and_recall_are_counted_over_layers_of_defined_concepts():
    table = pd.DataFrame({
        "kind": "text sufficient", "concept": ["a", "b", "c", "d"], "pairs": [4, 4, 4, 8], "defined": [True, True, False, True],
        "planted": [1, 2, 1, 1], "found": [2, 1, 0, 0], "right": [1, 1, 0, 0],
    })  # fmt: skip
    four, eight = (row for _, row in precision_recall(table, ["kind", "pairs"]).iterrows())
    assert (four["concepts"], four["undefined"]) == (3, 1)
    assert (
        four["precision"] == pytest.approx(2 / 3)
        and four["recall"] == pytest.approx(2 / 3)
        and four["f1"] == pytest.approx(2 / 3)
    )
    assert four["false_discovery"] == pytest.approx(1 / 3)
    assert four["precision_low"] == pytest.approx(0.0943, abs=1e-4) and four["precision_high"] == pytest.approx(0.9916, abs=1e-4)
    assert eight["recall"] == 0 and np.isnan(eight["precision"]) and eight["f1"] == 0


@pytest.mark.slow
def test_text_patches_find_exactly_what_was_planted(tiny, tmp_path):
    concept, layer = best()
    sites = [layer, (layer + 3) % 12, (layer + 7) % 12]
    kinds = ["text sufficient", "text necessary", "screen"]
    table = known_answers(tiny, {concept: [layer]}, [4, 6], kinds, out=tmp_path, sites=sites, **HOW)
    assert len(table) == 2 * (2 * 2 + 1) and (table["planted"] == 1).all()
    assert table.loc[(table["scale"] == "raw") & (table["pairs"] == 6), "defined"].all(), (
        "on the clipped scale, both ends may lie beyond the range"
    )
    seen = table[table["defined"]]
    assert (seen["right"] == 1).all() and (seen["found"] == 1).all() and seen["layers"].map(lambda each: each == [layer]).all()
    again = known_answers(tiny, {concept: [layer]}, [4, 6], kinds, out=tmp_path, sites=sites, **HOW)
    pd.testing.assert_frame_equal(table, again)
    summary = precision_recall(table, ["kind", "scale", "pairs"])
    summary = summary[summary["undefined"] == 0]
    with pytest.raises(ValueError, match="occurs twice"):
        precision_recall(table, ["kind"])
    assert (summary[["precision", "recall"]] == 1).all().all()


@pytest.mark.slow
def test_a_kind_that_cannot_see_an_and_finds_nothing(tiny):
    cell = datasets.atlas().impacts().query("defined and layer > 5").nlargest(1, "impact").iloc[0]
    concept, last = datasets.concepts()[cell["concept"]], int(cell["layer"])
    table = known_answers(
        tiny, {concept: [2, last]}, [6], ["text sufficient", "text necessary"], needs="all", sites=[2, last, 4], **HOW
    )
    found = table[table["defined"]].set_index(["kind", "scale"])["right"]
    assert (found["text sufficient"] == 0).all() and (found["text necessary"] == 2).all()
    assert len(found) >= 2


def test_what_cannot_be_asked_is_refused(tiny):
    concept, layer = best()
    for keywords, said in (
        ({"kinds": ["text"]}, "kinds contains 'text'"), ({"pairs": [3]}, "pairs"), ({"pairs": [4000]}, "fewer than 4000"),
        ({"needs": "both", "kinds": ["text sufficient"]}, "needs is 'both'"), ({"needs": "all"}, "the last layer's alone matters"),
        ({"sites": [(layer + 1) % 12]}, "leaves out"), ({"kinds": ["screen"], "when": "early"}, "no argument 'when'"),
        ({"kinds": ["screen"], "pairs": [34]}, "for screens at least one number up to 12"), ({"pairs": []}, "pairs is \\[\\]"),
        ({"needs": "bogus"}, "needs is 'bogus'"), ({"part": "1/2"}, "no argument 'part'"), ({"until_stable": 4}, "no argument 'until_stable'"),
        ({"mode": "quick"}, "no argument 'mode'"), ({"stepz": 2}, "no argument 'stepz'"),
    ):  # fmt: skip
        with pytest.raises((ValueError, TypeError), match=said):
            known_answers(tiny, {concept: [layer]}, **{"pairs": [4], **keywords, **HOW})
    with pytest.raises(ValueError, match="0 to 11"):
        known_answers(tiny, {concept: [12]}, [4], ["text sufficient"], **HOW)
    with pytest.raises(ValueError, match="twice"):
        known_answers(tiny, {concept: [layer], concept.name: [layer]}, [4], ["text sufficient"], **HOW)


def test_a_summary_drops_no_rows_and_counts_undefined_ones():
    table = pd.DataFrame({"kind": "k", "needs": None, "scale": "raw", "pairs": 4, "concept": ["a", "b"], "planted": 1, "found": [1, 2], "right": 1,
                          "defined": pd.Series([True, False], dtype=object)})  # fmt: skip
    (row,) = precision_recall(table).to_dict("records")
    assert (row["concepts"], row["undefined"], row["precision"]) == (2, 1, 1.0)
    for by, said in (([], "by is empty"), (["nope"], "no column 'nope'"), ("kind", "by is 'kind'")):
        with pytest.raises(ValueError, match=said):
            precision_recall(table, by)
    with pytest.raises(ValueError, match="no column 'found'"):
        precision_recall(table.drop(columns="found"))
