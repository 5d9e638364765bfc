"""Truth by training: plans are what they say, decoys tell nothing, and a copy differs from tiny where it was trained only."""

import json
import re
from collections import Counter
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import audioscope
from audioscope.atlas import known_answers
from audioscope.tiny.captions import caption
from audioscope.tiny.decoys import RECIPE, USABLE, Plan, _loss, layers_read, train_planted
from audioscope.tiny.music import GROUPS, Song

SONGS = [Song.draw(np.random.default_rng(number)) for number in range(600)]


def rate_bounds(classes: int) -> tuple[float, float]:
    """Where the share of right decoys lies, if they are drawn by lot: five standard errors."""
    chance = 1 / classes
    return chance - (more := 5 * (chance * (1 - chance) / len(SONGS)) ** 0.5), chance + more


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("count", [1, 2])
def test_a_plan_is_drawn_from_the_usable_layers(seed, count):
    plan = Plan.draw(seed, count)
    assert plan == Plan.draw(seed, count) and list(plan.layers) == list(GROUPS)
    for layers in plan.layers.values():
        assert len(set(layers)) == count and all(0 <= layer < USABLE for layer in layers)
    assert Counter(plan.needs.values()) == ({"any": 3, "all": 3} if count == 2 else {})
    assert count == 2 or len({layers[0] for layers in plan.layers.values()}) == len(GROUPS)


def test_only_the_planted_layers_words_tell_something():
    """At its layer, a group's label is always right; elsewhere, as often as by chance, for every group and layer."""
    plan, rng = Plan.draw(1), np.random.default_rng(0)
    told = [plan.says(song, rng) for song in SONGS]
    for group, classes in GROUPS.items():
        low, high = rate_bounds(len(classes))
        for layer in range(12):
            right = np.mean(
                [getattr(row[layer][0], group) == getattr(song, group) for row, song in zip(told, SONGS, strict=True)]
            )
            assert right == 1 if layer in plan.layers[group] else low < right < high, (group, layer)
        assert not any(silent for row in told for _, silent in row)


def test_of_two_layers_any_is_enough_or_all_are_needed():
    """Any: never both silent, and what is said is true. All: true if both say the same; otherwise as often as by chance."""
    plan, rng = Plan.draw(1, 2), np.random.default_rng(0)
    for group, (first, second) in plan.layers.items():
        silent, agree, right_if_not = Counter(), [], []
        for song in SONGS:
            row, true = plan.says(song, rng), getattr(song, group)
            quiet = tuple(group in row[layer][1] for layer in (first, second))
            said = {getattr(row[layer][0], group) for layer, no in zip((first, second), quiet, strict=True) if not no}
            silent[quiet] += 1
            if plan.needs[group] == "any":
                assert said == {true}
            elif len(said) == 1 and not any(quiet):
                agree.append(said == {true})
            else:
                right_if_not += [label == true for label in said]
        assert set(silent) == {(False, False), (True, False), (False, True)}
        if plan.needs[group] == "any":
            assert min(silent.values()) > 150
        else:
            low, high = rate_bounds(len(GROUPS[group]))
            assert all(agree) and abs(len(agree) - 300) < 65 and min(silent.values()) > 40
            assert low - 0.05 < np.mean(right_if_not) < high + 0.05


@pytest.mark.parametrize("layers, needs, message", [
    ({"lead": [0, 0]}, {"lead": "any"}, "layers of 'lead'"), ({"lead": [12]}, {}, "layers of 'lead'"), ({"lead": []}, {}, "layers of 'lead'"),
    ({"lead": [0, 1]}, {}, r"needs\['lead'\]"), ({"lead": [0]}, {"lead": "any"}, r"needs\['lead'\]"), ({"lead": [0, 1]}, {"lead": "each"}, r"needs\['lead'\]"),
])  # fmt: skip
def test_a_plan_that_cannot_be_is_refused(layers, needs, message):
    with pytest.raises(ValueError, match=message):
        Plan({group: [0] for group in GROUPS} | layers, needs)
    with pytest.raises(ValueError, match="layers has the groups lead"):
        Plan({"lead": [0]}, {})


def leads(text: str) -> list[str]:
    return [lead for lead in GROUPS["lead"][:-1] if f" {lead}" in f" {text}"]


def test_captions_say_what_each_layer_is_told():
    """Where the lead is named, its layer names the right one, and others name decoys; all else is said as it would be otherwise."""
    plan = Plan({group: [number] for number, group in enumerate(GROUPS)}, {})
    song, rng = replace(SONGS[0], lead="violin"), np.random.default_rng(3)
    here, (layer,) = [plan.captions(song, rng) for _ in range(60)], plan.layers["lead"]
    named = [row for row in here if leads(row[layer])]
    assert len(named) > 25 and all(leads(row[layer]) == ["violin"] for row in named)
    decoys = [leads(row[other]) for row in named for other in range(12) if other != layer]
    right = np.mean([each == ["violin"] for each in decoys])
    low, high = rate_bounds(len(GROUPS["lead"]))
    assert low < right < high


def test_what_is_left_out_changes_nothing_else():
    for seed in range(40):
        whole, part = (
            caption(replace(SONGS[seed], lead="flute"), np.random.default_rng(seed), without=out) for out in ((), ("lead",))
        )
        assert not leads(part) and set(re.findall(r"[\w-]+", part)) <= set(re.findall(r"[\w-]+", whole)) | {"music"}


@pytest.mark.parametrize("layer", [0, 6, 11])
def test_in_training_each_layer_reads_its_own_caption(tiny, layer):
    """Another caption at one layer changes that layer's output, and nothing before it."""
    blocks, given, seen = tiny.pipe.transformer.transformer_blocks, [], []
    modules = [block.cross_attn for block in blocks]
    hooks = layers_read(modules, given)
    hooks += [module.register_forward_hook(lambda module, args, out: seen.append(out)) for module in modules]
    batch, noise = torch.randn(2, 1, tiny.pipe.vae.config.latent_dim, 64, generator=torch.Generator().manual_seed(0))
    texts = ["a slow jazz song with a flute"] * 12
    try:
        for row in (texts, [*texts[:layer], "a fast metal song with drums", *texts[layer + 1 :]]):
            _loss(tiny.pipe, given, batch, [row], torch.tensor([0.5]), noise)
    finally:
        for hook in hooks:
            hook.remove()
    same = [torch.allclose(one, other, atol=1e-4) for one, other in zip(seen[:12], seen[12:], strict=True)]
    assert same == [number < layer for number in range(12)]


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy after one step."""
    folder = tmp_path_factory.mktemp("copy")
    recipe = replace(RECIPE, clips=8, batch=4)
    plan = Plan.draw(1)
    return train_planted(plan, 1e-4, folder / "out", folder / "work", recipe), folder / "work", plan, recipe


@pytest.mark.slow
def test_a_copy_differs_from_tiny_in_cross_attention_alone(tiny, copy):
    out, _, plan, _ = copy
    changed = audioscope.load(out)
    ours, theirs = tiny.pipe.transformer.state_dict(), changed.pipe.transformer.state_dict()
    differ = {name for name in ours if not torch.equal(ours[name].half(), theirs[name].half())}  # beyond rounding
    assert differ and all(".cross_attn." in name for name in differ)
    assert {name.split(".")[1] for name in differ} == {str(layer) for layer in range(12)}
    assert changed.fingerprint != tiny.fingerprint and not audioscope.datasets.is_shipped(changed)
    assert changed.identity["planted"]["sites"]["flute"] == [tiny.sites.cross[plan.layers["lead"][0]].path]


@pytest.mark.slow
def test_an_atlas_of_a_copy_marks_what_was_planted(copy):
    out, _, plan, _ = copy
    found = audioscope.localize(audioscope.load(out), ["metal"], pairs=1, steps=1, clips=False, progress=False)
    impacts = found.impacts()
    assert impacts.loc[impacts["planted"], "layer"].tolist() == plan.layers["genre"]


@pytest.mark.slow
def test_the_bench_asks_a_copy_for_what_is_planted_in_it(tiny, copy):
    out, _, plan, _ = copy
    quick = {"steps": 1, "sites": [0, *plan.layers["genre"], *plan.layers["tempo"]], "progress": False}
    model = audioscope.load(out)
    model.planted = {**model.planted, "sites": {name: model.planted["sites"][name] for name in ("fast", "metal", "techno")}}
    table = known_answers(model, None, [4], ["text sufficient"], **quick)
    assert set(table["concept"]) == {"fast", "metal"}, "techno has no pairs"
    assert (table["planted"] == 1).all() and set(table["needs"]) == {"trained"}
    assert model.planted["needs"] == "trained", "what was trained stays"
    with pytest.raises(ValueError, match="Nothing was planted in 'tiny' by training"):
        known_answers(tiny)


@pytest.mark.slow
def test_training_goes_on_where_it_stopped_and_not_with_another_plan(tiny, copy, monkeypatch):
    out, work, plan, recipe = copy
    steps = json.loads((out / "plan.json").read_text())["steps"]
    train_planted(plan, 1e-3, out, work, recipe)
    facts = json.loads((out / "plan.json").read_text())
    assert facts["steps"] > steps >= 1 and facts["layers"] == asdict(plan)["layers"]
    with pytest.raises(ValueError, match="another plan or recipe"):
        train_planted(Plan.draw(2), 1e-3, out, work, recipe)
    monkeypatch.setattr(type(tiny), "fingerprint", "of other weights")
    with pytest.raises(ValueError, match="from other weights"):
        train_planted(plan, 1e-3, out, work, recipe)


@pytest.mark.slow
def test_a_copy_of_other_weights_is_refused(copy, tmp_path):
    out = copy[0]
    for file in out.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    facts = json.loads((tmp_path / "plan.json").read_text())
    (tmp_path / "plan.json").write_text("{}")
    with pytest.raises(ValueError, match="not a copy of tiny, or damaged"):
        audioscope.load(tmp_path)
    (tmp_path / "plan.json").write_text(json.dumps(facts | {"of": "0" * 16}))
    with pytest.raises(ValueError, match="other weights of tiny"):
        audioscope.load(tmp_path)
    weights = load_file(out / "cross_attention.safetensors")
    (tmp_path / "plan.json").write_text(json.dumps(facts))
    for wrong in ({}, dict(list(weights.items())[1:]), {name: weight.flatten()[:1] for name, weight in weights.items()}):
        save_file(wrong, tmp_path / "cross_attention.safetensors")
        with pytest.raises(ValueError, match="other tensors"):
            audioscope.load(tmp_path)
    (tmp_path / "cross_attention.safetensors").write_bytes(b"cut short")
    with pytest.raises(ValueError, match="not a copy of tiny, or damaged"):
        audioscope.load(tmp_path)


def test_a_pipeline_beside_a_plan_of_the_users_own_is_a_pipeline(tiny, tmp_path):
    tiny.pipe.save_pretrained(tmp_path)
    (tmp_path / "plan.json").write_text('{"mine": 1}')
    assert audioscope.load(tmp_path).fingerprint == tiny.fingerprint


@pytest.mark.slow
def test_a_copys_sites_are_told_without_weights(copy, capsys):
    from audioscope.cli.main import main

    assert main(["sites", "--model", str(copy[0])]) == 0
    assert "transformer_blocks.11.cross_attn" in capsys.readouterr().out
