"""Features against CAA, both tuned: the same material for both, equally many choices, and the better one is taken."""

from dataclasses import replace

import pandas as pd
import pytest
import torch

import audioscope
from audioscope import SteeringVector
from audioscope.sae.tuning import WIDER, caa_choices, feature_choices, mean_length, score_contrast, tuned_methods
from audioscope.steer.methods import vector_method
from audioscope.steer.results import SteeringSweep
from audioscope.steer.sweeps import calibrate
from audioscope.steer.tables import FEATURE_PAIRS

pytestmark = pytest.mark.filterwarnings("ignore:.*(gate|evaluation)")
BLOCKS = "transformer.transformer_blocks"
SITES = [f"{BLOCKS}.0.cross_attn", f"{BLOCKS}.6.cross_attn"]


@pytest.fixture(scope="module")
def saes():
    return [audioscope.datasets.sae(site) for site in SITES]


def random_vector(model, sites=SITES):
    generator = torch.Generator().manual_seed(0)
    directions = {path: (2.0 + n) * torch.rand(2, 128, generator=generator) for n, path in enumerate(sites)}
    return SteeringVector(directions, {p: torch.ones(2) for p in sites}, torch.tensor([1.0, 0.5]), model.name, model.fingerprint)


@pytest.mark.parametrize("name", ["fast", "violin"])
def test_features_are_scored_on_what_caa_is_made_of(tiny, saes, name, monkeypatch):
    concept, seen, run = audioscope.datasets.concepts()[name], [], type(tiny).run
    monkeypatch.setattr(type(tiny), "run", lambda self, rows, **given: seen.append(rows) or run(self, rows, **given))
    before = [sae.scores for sae in saes]
    scored = score_contrast(tiny, saes, concept, 3, progress=False)
    features = {(row.prompt, row.seed) for rows in seen for row in rows}
    seen.clear()
    audioscope.caa(tiny, concept, SITES, 3, progress=False)
    assert features == {(row.prompt, row.seed) for rows in seen for row in rows} and len(features) == 6
    assert all(sae.scores is kept for sae, kept in zip(saes, before, strict=True)), "the caller's SAEs are left as they were"
    for sae in scored:
        assert set(sae.scores["concept"]) == {name, concept.opposite} - {""}
    if concept.opposite:
        ends = [scored[0].scores.query("concept == @end").set_index(["feature", "sigma"]) for end in (name, concept.opposite)]
        pd.testing.assert_series_equal(ends[0]["mean_with"], ends[1]["mean_without"], check_names=False)
        pd.testing.assert_series_equal(ends[0]["difference"], -ends[1]["difference"], check_names=False)


def test_both_have_equally_many_choices_and_no_two_are_alike(tiny, saes):
    vector = random_vector(tiny)
    choices = {
        "sae": feature_choices(audioscope.datasets.concepts()["violin"], saes),
        "caa": caa_choices(vector, tiny.sites.select(SITES)),
    }
    assert {name: len(found) for name, found in choices.items()} == {"sae": 7, "caa": 7}
    assert [tuple(choice.metadata.values()) for choice in choices["sae"]] == [
        (1, False), (2, False), (2, True), (5, False), (5, True), (20, False), (20, True)
    ]  # fmt: skip
    for found in choices.values():
        assert len({choice.method.metadata["numbers"] for choice in found}) == len({choice.method.cell for choice in found}) == 7


def test_lengths_are_what_they_are_called(tiny):
    vector = random_vector(tiny)
    pair = audioscope.datasets.concepts()["violin"].split("test")[0]
    made = {c.method.sites: c.method.edits(pair, 1.0, 0)[0].vector for c in caa_choices(vector, tiny.sites.select(SITES))}
    assert set(made) == {"unit 0", "natural 0", "unit 6", "natural 6", "unit 0+6", "natural 0+6", "balanced 0+6"}
    assert made["natural 6"].paths == (SITES[1],) and torch.equal(
        made["natural 6"].directions[SITES[1]], vector.directions[SITES[1]]
    )
    for path in SITES:
        torch.testing.assert_close(made["unit 0+6"].directions[path].norm(dim=1), torch.ones(2))
        balanced, natural = made["balanced 0+6"].directions[path].norm(dim=1), vector.directions[path].norm(dim=1)
        torch.testing.assert_close(balanced[0] / balanced[1], natural[0] / natural[1])
    one, other = (mean_length(made["balanced 0+6"].only([path])) for path in SITES)
    assert one == pytest.approx(other) and mean_length(vector.only(SITES[:1])) < mean_length(vector.only(SITES[1:]))


def test_the_best_on_the_selection_split_is_taken(tiny, saes, tmp_path, monkeypatch):
    """Also where another one would be better on the test split: it is not looked at."""
    concept = replace(audioscope.datasets.concepts()["violin"])
    asked = {}

    def tried(model, concept, methods, *, prompts, without, out, **keywords):
        asked.update(cells=[method.cell for method in methods], prompts=prompts, without=set(without), out=out, **keywords)

    best = {"sae 5 weighted": 2.0, "caa natural 6": 3.0}
    # it would win, but hardly moves: its area is near 0 whatever it does
    cheap = {"caa natural 0": 9.0}

    def areas(self):
        auc = {cell: (best | cheap).get(cell, 1.0) for cell in asked["cells"]}
        return pd.DataFrame({"auc": auc, "reached": {cell: 0.4 if cell in cheap else 1.0 for cell in auc}})

    swept = type("Swept", (), {"areas": areas})()
    monkeypatch.setattr("audioscope.sae.tuning.calibrate", tried)
    monkeypatch.setattr(SteeringSweep, "load", classmethod(lambda cls, folder: swept))
    methods = tuned_methods(tiny, concept, saes, tmp_path, pairs=2, prompts=4, without=["seen"], progress=False)
    assert (
        asked["prompts"] == 4 and asked["without"] == {"seen"} and asked["out"] == tmp_path / "choices" and "split" not in asked
    )
    assert [method.cell for method in methods] == [
        "sae tuned",
        "caa tuned",
        "sae untuned",
        "caa untuned",
        "random features tuned",
        "pci all",
    ]
    assert {cell for pair in FEATURE_PAIRS for cell in pair} == {method.cell for method in methods}
    assert [method.metadata.get("choice") for method in methods[:4]] == ["5 weighted", "natural 6", "20 alike", "unit 0+6"]
    assert asked["grid"] == WIDER
    table = pd.read_parquet(tmp_path / "choices.parquet")
    assert table.loc[table["reached"] < 1, "choice"].tolist() == ["natural 0"]
    assert table.loc[table["chosen"], "choice"].tolist() == ["5 weighted", "natural 6"] and len(table) == 14
    assert methods[4].metadata["saes"][0]["features"] == 5 and methods[4].metadata["saes"][0]["weighted"] is True


def test_prompts_that_were_seen_are_left_out(tiny):
    from audioscope.steer.sweeps import bench_of

    concept = audioscope.datasets.concepts()["violin"]
    bench = bench_of(tiny, concept, None, None, 16, None, {"steps": 1, "guidance": None, "seconds": None})
    first, second, third = (pair.neutral for pair in bench.pairs("test", 3))
    assert [pair.neutral for pair in bench.pairs("test", 2, [first])] == [second, third]
    seen = set(audioscope.datasets.concept_prompts())
    assert not {pair.neutral for pair in bench.pairs("test", 12, seen)} & seen
    with pytest.raises(ValueError, match="prompts is .*expected a whole number from 1 to"):
        bench.pairs("test", 10_000, seen)


def test_where_nothing_reaches_the_price_the_best_is_taken_all_the_same(tiny, saes, tmp_path, monkeypatch):
    cells = []
    monkeypatch.setattr(
        "audioscope.sae.tuning.calibrate", lambda model, concept, methods, **keywords: cells.extend(a.cell for a in methods)
    )
    table = lambda self: pd.DataFrame({"auc": {c: -float(i) for i, c in enumerate(cells)}, "reached": dict.fromkeys(cells, 0.5)})  # noqa: E731
    monkeypatch.setattr(SteeringSweep, "load", classmethod(lambda cls, folder: type("Swept", (), {"areas": table})()))
    methods = tuned_methods(tiny, audioscope.datasets.concepts()["violin"], saes, tmp_path, pairs=2, progress=False)
    assert [method.metadata["choice"] for method in methods[:2]] == ["1 alike", "unit 0"]


def test_two_sites_of_one_layer_have_names_of_their_own(tiny):
    """Else two vectors would stand under one name, and be averaged."""
    pair = [f"transformer.transformer_blocks.0.{kind}_attn" for kind in ("cross", "self")]
    vector = random_vector(tiny, pair)
    names = [choice.method.cell for choice in caa_choices(vector, tiny.sites.select(pair))]
    assert len(set(names)) == 7 and "caa unit 0 cross" in names and "caa unit 0 self+0 cross" in names
    twice = [vector_method(vector, "here"), vector_method(-vector, "here")]
    with pytest.raises(ValueError, match="Duplicate method names"):
        calibrate(tiny, "fast", twice, prompts=1, progress=False)


def test_bad_input_is_refused(tiny, saes):
    with pytest.raises(ValueError, match="pairs is 0"):
        score_contrast(tiny, saes, audioscope.datasets.concepts()["violin"], 0)
    with pytest.raises(ValueError, match="at least one"):
        feature_choices(audioscope.datasets.concepts()["violin"], [])
