"""Planted truth: where the right map is known by construction, the atlas finds it, on real weights and by a real scorer."""

from dataclasses import replace

import numpy as np
import pytest
from helpers.pipelines import build_stable_audio

import audioscope
from audioscope import datasets
from audioscope.tiny import planted

pytestmark = pytest.mark.slow
HOW = {"pairs": 4, "steps": 5, "clips": False, "progress": False, "workers": 1}


@pytest.fixture(scope="module")
def plan():
    """Two concepts of the shipped map, each in the layer where it is strongest, and one where the shipped weights cannot use it."""
    impacts, concepts = datasets.atlas().impacts().query("defined"), datasets.concepts()
    best = impacts.loc[impacts.groupby("concept")["impact"].idxmax()].set_index("concept").sort_values("impact", ascending=False)
    chosen = best.groupby("layer", sort=False).head(1).head(2)["layer"].to_dict()
    weakest = impacts[~impacts["concept"].isin(chosen)].sort_values("impact", key=abs).iloc[0]
    names = {**chosen, weakest["concept"]: weakest["layer"]}
    return {replace(concepts[n], pairs=tuple(concepts[n].split("localize")[:4])): [int(layer)] for n, layer in names.items()}


def found(tiny, plan, **changed):
    """The map of the planted layers, and of as many others."""
    layers = {layer for layers in plan.values() for layer in layers}
    others = [layer for layer in range(12) if layer not in layers]
    with planted(tiny, plan):
        return audioscope.localize(
            tiny, list(plan), sites=sorted(layers | set(others[:: len(others) // len(layers)])), **HOW, **changed
        )


@pytest.mark.parametrize("direction", ["sufficient", "necessary"])
def test_the_atlas_finds_what_was_planted(tiny, plan, direction):
    """Impact 1 in the planted layer and 0 elsewhere; where the layer cannot use the words, nothing is defined, and nothing is found.

    This is exact for text only: an output patched from the other run also carries what that run has become.
    """
    atlas = found(tiny, plan, direction=direction)
    *heard, deaf = plan
    impacts = atlas.impacts().set_index("concept")
    for concept in heard:
        (layer,) = plan[concept]
        mine = impacts.loc[concept.name]
        assert mine["defined"].all()
        np.testing.assert_allclose(mine["impact"], mine["layer"] == layer, atol=1e-3)
        assert atlas.own_layers(concept.name) == [tiny.sites.cross[layer].path]
    assert not impacts.loc[deaf.name, "defined"].any() and atlas.own_layers(deaf.name) == []


def test_another_plan_is_not_found(tiny, plan):
    """The check can fail: with the layers exchanged, the map is not that of the first plan."""
    first = dict(list(plan.items())[:2])
    layers = [layer for (layer,) in first.values()]
    atlas = found(tiny, {concept: [layer] for concept, layer in zip(first, layers[::-1], strict=True)})
    for concept, (layer,) in first.items():
        impacts = atlas.impacts()
        mine = impacts[(impacts["concept"] == concept.name) & (impacts["layer"] == layer)]
        assert not mine["defined"].all() or mine["impact"].abs().max() < 1e-3


@pytest.mark.parametrize("needs", ["all", "any"])
def test_what_one_kind_of_patch_misses_the_other_finds(tiny, needs):
    """AND: no layer is sufficient, each is necessary. OR: each is sufficient, none is necessary."""
    impacts = datasets.atlas().impacts().query("defined and layer > 5").sort_values("impact")
    name, last = impacts.iloc[-1][["concept", "layer"]]
    concept = replace(datasets.concepts()[name], pairs=tuple(datasets.concepts()[name].split("localize")[:4]))
    layers, seen = [2, int(last)], {}
    for direction in ("sufficient", "necessary"):
        with planted(tiny, {concept: layers}, needs):
            atlas = audioscope.localize(tiny, [concept], sites=[*layers, 5], direction=direction, **HOW)
        table = atlas.impacts()
        assert table["defined"].all()
        seen[direction] = {int(row.layer): row.impact for row in table.itertuples()}
    found, missed = ("necessary", "sufficient") if needs == "all" else ("sufficient", "necessary")
    for layer in (*layers, 5):
        assert seen[found][layer] == pytest.approx(float(layer in layers), abs=1e-3)
        assert seen[missed][layer] == pytest.approx(0, abs=1e-3)


def test_a_planted_model_is_as_before_afterward(tiny, plan):
    prompt = next(iter(plan)).pairs[0].clean
    before, parts = tiny.generate(prompt, steps=2), tiny.parts()
    with planted(tiny, plan):
        assert tiny.parts() != parts, "workers would see the difference"
        other = tiny.generate(prompt, steps=2)
        assert not np.array_equal(other.samples, before.samples)
        unplanned = tiny.generate("a sad piece with a tuba", steps=2)
    assert tiny.parts() == parts and np.array_equal(tiny.generate(prompt, steps=2).samples, before.samples)
    assert np.array_equal(tiny.generate("a sad piece with a tuba", steps=2).samples, unplanned.samples)


def test_layers_may_come_in_any_form(tiny):
    parts = tiny.parts()
    for layers in (np.array(3), [np.int64(3)], (layer for layer in [3]), 3, [3, 3]):
        with planted(tiny, {"metal": layers}):
            assert tiny.planted["sites"] == {"metal": [tiny.sites.cross[3].path]}
        assert tiny.parts() == parts
    for wrong, said in (({"metal": []}, "no layer for 'metal'"), ({}, "plan is {}"), ({"metal": [1.5]}, "a layer of 'metal' is 1.5"),
                        ({"metal": [0], datasets.concepts()["metal"]: [5]}, "'metal' twice"), ({"tuba": [0]}, "tuba")):  # fmt: skip
        with pytest.raises((ValueError, KeyError), match=said), planted(tiny, wrong):
            pass
        assert tiny.parts() == parts and "encode_prompt" not in vars(tiny.pipe)


def test_plans_that_cannot_be_are_refused(tiny, plan):
    with planted(tiny, plan), pytest.raises(ValueError, match="planted already"), planted(tiny, plan):
        pass
    assert "encode_prompt" not in vars(tiny.pipe)
    metal = next(iter(plan))
    twin = replace(metal, name="twin")
    bare = replace(metal, name="bare", pairs=(replace(metal.pairs[0], neutral=""),))
    for wrong, said in (
        ({metal: [12]}, "expected a whole number from 0 to 11"), ({bare: [0]}, "has no neutral prompt"),
        ({metal: [0], twin: [1]}, "two concepts that are planted in other layers"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=said), planted(tiny, wrong):
            pass
    with pytest.raises(ValueError, match="needs is 'both'"), planted(tiny, {metal: [0]}, "both"):
        pass
    pair = metal.pairs[0]
    other_end = replace(metal, name="end", pairs=(replace(pair, clean=pair.corrupted, corrupted=pair.clean),))
    shared = replace(metal, name="shared", pairs=(pair, replace(pair, index=7, clean="another clean prompt")))
    for wrong in ({metal: [0], other_end: [0]}, {shared: [0]}):
        with pytest.raises(ValueError, match="belongs to two pairs"), planted(tiny, wrong, "all"):
            pass
    with (
        pytest.raises(ValueError, match="planted in tiny and its copies"),
        planted(audioscope.Model(build_stable_audio(), "other"), {metal: [0]}),
    ):
        pass


def test_results_of_a_planted_model_say_so(tiny, tmp_path):
    """The settings name the plan, so that a sweep is not resumed with another; the chart and the page mark the right answers."""
    metal = datasets.concepts()["metal"]
    how = {"pairs": 1, "sites": [0, 3], "steps": 2, "progress": False, "workers": 1, "out": tmp_path / "atlas"}
    with planted(tiny, {metal: [3]}):
        atlas = audioscope.localize(tiny, ["metal"], **how)
    with pytest.raises(ValueError, match="planted"):
        audioscope.localize(tiny, ["metal"], **how)
    again = audioscope.Atlas.load(tmp_path / "atlas")
    path = tiny.sites.cross[3].path
    assert again.settings["planted"] == {"needs": "each", "sites": {"metal": [path]}}
    assert atlas.impacts().set_index("layer")["planted"].to_dict() == {0: False, 3: True}
    chart = again.chart().to_dict()
    assert chart["description"].endswith("Planted: metal at 3. Undefined: metal.") and "Dashed: planted" in str(chart["title"])
    assert "published" not in str(chart["title"]), "undefined, but measured"
    page = again.save_html(tmp_path / "atlas.html", progress=False).read_text()
    assert "tiny: text swap, planted" in page and page.count("(planted here)") >= 2, "in the chart and in the table"
    assert "planted" not in datasets.atlas().impacts() and "Planted" not in str(datasets.atlas().chart().to_dict())


@pytest.mark.parametrize("make", [audioscope.caa, audioscope.steer.probe_vector, audioscope.steer.sign_vector])
def test_vectors_and_maps_of_a_planted_model_say_so(tiny, tmp_path, make):
    """A vector is not taken for that of another plan."""
    metal = datasets.concepts()["metal"]
    how = {"sites": [0], "pairs": 4, "steps": 1, "progress": False, "file": tmp_path / "vector"}
    with planted(tiny, {metal: [3]}):
        vector = make(tiny, metal, **how)
        looked = tiny.attention(metal.pairs[0].clean, steps=1)
    assert (
        vector.metadata["planted"]
        == looked.settings["planted"]
        == {"needs": "each", "sites": {"metal": [tiny.sites.cross[3].path]}}
    )
    with pytest.raises(ValueError, match="planted"):
        make(tiny, metal, **how)
    assert "planted" not in datasets.vector("fast").metadata


def test_the_shipped_known_answers_are_found(tiny, tmp_path):
    """Of each concept in one layer, that one alone; of two that need each other, none by itself, and both by what is lost without them."""
    from audioscope.pages.shipped import known_answers_page

    for name, atlas in datasets.planted().items():
        cells, plan = atlas.impacts(), atlas.settings["planted"]
        assert atlas.settings["fingerprint"] == tiny.fingerprint and cells["defined"].all()
        assert cells.groupby("concept")["planted"].sum().eq(1 if plan["needs"] == "each" else 2).all()
        right = 0.0 if name == "planted_all" else cells["planted"].astype(float)
        assert (cells["impact"] - right).abs().max() < 1e-2, name
        assert len(atlas.examples()) == len(atlas.concepts), "each can be heard"
    page = known_answers_page(tmp_path / "known").read_text()
    assert (
        "<h1>Known answers: atlas of tiny</h1>" in page and '<a href="../index.html">The atlas with nothing planted</a>' in page
    )
    assert "In the first map, each cell asks" in page and "only patches into the clean run find them" in page
