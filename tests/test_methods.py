"""Further ways to steer: predictions that slide, words whose states are moved, and prompts switched at some layers only."""

from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import pytest
import torch

from audioscope import AddText, MuteWord, PatchText, Row, datasets, tracing
from audioscope.edits import Edit
from audioscope.steer import (
    blend_text_method,
    compared,
    free_sliders_method,
    further_methods,
    prompt_switch_method,
    steering_sites,
    steering_sweep,
    strengths_from,
    token_method,
)
from audioscope.steer.cells import LOCALIZED
from audioscope.steer.methods import method_again

PROMPT = "a slow song with violin and drums"


@dataclass(frozen=True, eq=False)
class Watch(Edit):
    """Keeps the text that a site gets, after the edits before it."""

    target = "text"
    seen: dict = field(default_factory=dict, kw_only=True)

    def change(self, own, other, here):
        self.seen.setdefault(here.site.path, own.clone())
        return own

    def mask(self, own, other):
        return own


def settings(model):
    return {**model.sampling(2, 3.0, None), "decode": False}


def test_text_is_added_to_the_tokens_of_words_alone(model, monkeypatch):
    site = next(each for each in model.sites.cross if each.stream != "gpt2")
    asked, finder = [], tracing._finder

    def listening(*args):
        inner = finder(*args)
        return lambda *what: asked.append(what) or inner(*what)

    monkeypatch.setattr(tracing, "_finder", listening)
    plain, all_words, one_word, nothing = (Watch(site) for _ in range(4))
    model.run([Row(PROMPT, 0, (replace(plain, branch="cond"),))], **settings(model))
    width = plain.seen[site.path].shape[1]
    direction = torch.randn(width, generator=torch.Generator().manual_seed(0))
    added = [
        (AddText(site, {site.path: direction}, 2.0), all_words),
        (AddText(site, {site.path: direction}, word="violin"), one_word),
        (AddText(site, {site.path: direction}, 0.0), nothing),
    ]
    rows = [Row(PROMPT, 0, (edit, replace(watch, branch="cond"))) for edit, watch in added]
    latents = model.run([Row(PROMPT, 0), *rows], **settings(model)).latents
    before = plain.seen[site.path]
    places = [finder(model.pipe, model.adapter, settings(model)["seconds"])(*what) for what in asked[:2]]
    for watch, strength, words in ((all_words, 2.0, places[0]), (one_word, 1.0, places[1])):
        change = watch.seen[site.path][: len(before)] - before
        expected = torch.zeros_like(before)
        expected[list(words)] = strength * direction
        torch.testing.assert_close(change, expected, rtol=1e-4, atol=1e-5)
    assert set(places[1]) < set(places[0]) and len(places[1]) < len(before)
    assert not torch.equal(latents[1], latents[0]) and not torch.equal(latents[2], latents[1])
    torch.testing.assert_close(latents[3], latents[0], rtol=1e-5, atol=1e-5)
    asked.clear()
    model.run([Row(PROMPT, 0, (MuteWord(site, "violin"),)), rows[1]], **settings(model))
    assert len({what[3:] for what in asked}) == 1 and len(asked) > 1, "both count the tokens that the mask lets through alike"


def test_text_that_cannot_be_added_is_refused(tiny):
    path, short = tiny.sites[0].path, {tiny.sites[0].path: torch.zeros(5)}
    right = {path: torch.zeros(128)}
    for edits, message in (
        ((AddText(0, short),), r"is \[5\], expected \[128\]"),
        ((AddText([0, 1], right),), "directions has nothing for .*blocks.1"),
        ((AddText(0, right, word="tuba"),), "no word 'tuba'"),
        ((AddText("self", {}),), "nothing for"),
        ((AddText(tiny.sites.select("self")[0], {tiny.sites.select("self")[0].path: torch.zeros(128)}),), "needs the text"),
        ((AddText(0, right), PatchText(0, "a song")), "AddText is about the prompt's words"),
    ):
        with pytest.raises((ValueError, KeyError), match=message):
            tiny.run([Row(PROMPT, 0, edits)], **settings(tiny))
    with pytest.raises(ValueError, match="expected 'cond'"):
        AddText(0, right, branch="both")


def test_tokens_move_as_the_concept_moves_words_beside_it(tiny):
    """The direction is the mean difference of the states of words that both prompts have."""
    pairs = [("a fast song", "a slow song"), ("quick music with drums", "slow music with drums")]
    method = token_method(tiny, pairs, sites=[3])
    (edit,) = method.on(datasets.concepts()["fast"].split("test")[0], 1.5, 0)
    path, states = tiny.sites[3].path, []
    for prompt, words in ((pairs[0][0], (0, 2)), (pairs[0][1], (0, 2)), (pairs[1][0], (1, 2, 3)), (pairs[1][1], (1, 2, 3))):
        watch = Watch(3, branch="cond")
        tiny.run([Row(prompt, 0, (watch,))], **settings(tiny))
        tokens = np.array(
            tracing.tokens_of(tiny.pipe, tiny.adapter, prompt, tiny.sites[3], len(watch.seen[path]), 0, 4.0), object
        )
        states.append(torch.stack([watch.seen[path][tokens == word].mean(0) for word in words]).mean(0))
    expected = (states[0] - states[1] + states[2] - states[3]) / 2
    torch.testing.assert_close(edit.directions[path], expected, rtol=1e-4, atol=1e-5)
    assert edit.strength == 1.5 and method.on(datasets.concepts()["fast"].split("test")[0], 0.0, 0) == ()
    with pytest.raises(ValueError, match="share no word"):
        token_method(tiny, [("fast", "slow"), ("quick", "slow")])
    with pytest.raises(ValueError, match="none of which reads the words"):
        token_method(tiny, "fast", sites="self")


def test_sliders_at_strength_1_beside_the_neutral_prompt_are_the_rewritten_prompt(tiny):
    pair = datasets.concepts()["fast"].split("test")[0]
    own = tiny.sites.select([1, 2])
    methods = [free_sliders_method(against="neutral"), free_sliders_method(own, "own", against="neutral")]
    edits = [*(method.on(pair, 1.0, 0) for method in methods), (PatchText(own, pair.clean, branch="cond"),)]
    rewritten, everywhere, here, patched = tiny.run(
        [Row(pair.clean, 0), *(Row(pair.neutral, 0, each) for each in edits)], **{**tiny.sampling(3, 1.0, None), "decode": False}
    ).latents
    torch.testing.assert_close(everywhere, rewritten, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(here, patched, rtol=1e-4, atol=1e-5)
    assert methods[0].on(pair, 0.0, 0) == ()
    with pytest.raises(ValueError, match="against"):
        free_sliders_method(against="both")
    with pytest.raises(ValueError, match="'metal' has no opposite, which 'free sliders all' moves away from"):
        steering_sweep(tiny, "metal", [free_sliders_method()], [1.0], prompts=1, progress=False)


def test_a_prompt_switched_at_some_layers_is_a_patch_of_these(tiny):
    pair = datasets.concepts()["fast"].split("test")[0]
    method = prompt_switch_method(4, [1, 2], "own")
    (edit,) = method.on(pair, -0.5, 0)
    assert edit == PatchText([1, 2], pair.corrupted, steps=(2, 4)) and method.cell == "pci own"
    again = method_again(method.cell, method.metadata, datasets.vector("fast"))
    assert again is not None and again.cell == "pci own" and again.on(pair, -0.5, 0) == (edit,)
    (blend,) = blend_text_method([1, 2], "own").on(pair, 0.25, 0)
    assert list(blend.sites) == [1, 2] and blend.amount == 0.25
    found = strengths_from(pd.DataFrame({"cell": ["pci own"], "strength": [1.0]}), 10)["pci own"]
    assert np.allclose(np.array(found) * 10 % 1, 0) and max(found) == 1.0, "steps are whole"


@pytest.mark.slow
def test_all_of_them_run_on_one_protocol(tiny, tmp_path):
    concept = datasets.concepts()["fast"]
    methods = further_methods(tiny, concept, tmp_path, pairs=4, steps=3, progress=False)
    own = {site.path for site in steering_sites(tiny, concept, "own")}
    for method in methods:
        for edit in method.on(concept.split("test")[0], 1.0, 0):
            paths = {site.path for site in edit.where(tiny.sites) if not site.is_memory}
            assert paths == own if method.sites == "own" else len(paths) == 12
        assert method.on(concept.split("test")[0], 0.0, 0) == ()
    cells = {method.cell: [-1.0, 1.0] for method in methods}
    sweep = steering_sweep(tiny, "fast", methods, cells, prompts=1, seeds=1, steps=3, progress=False)
    assert sorted(sweep.cells) == sorted(cells) and not sweep.table["failed"].any()
    moved = sweep.table[sweep.table["strength"] != 0]
    assert (moved["distance"] > 0).all()
    assert set(LOCALIZED) <= {(row.one, row.other) for row in compared(sweep).itertuples()}
