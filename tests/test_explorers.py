"""The explorers of JupyterLab without a browser: what is chosen is what is heard, the newest wish wins, and errors are said, not raised."""

from __future__ import annotations

import html
import itertools
import re
import subprocess
import sys
import threading
import time
import warnings
from dataclasses import replace

import ipywidgets
import numpy as np
import pandas as pd
import pytest
from helpers.browsing import LIMIT
from helpers.tones import EVIL, SECONDS, atlas_of_tones, site, steering_of_tones

import audioscope
from audioscope import Ablate, AddVector, MuteWord, PatchOutput, PatchText, SAEEdit
from audioscope.concepts import choose
from audioscope.gates import sound_of
from audioscope.pages.html import sound
from audioscope.scoring.scorers import default_scorer
from audioscope.steer.caa import steering_sites
from audioscope.tracing import Row, Sampling
from audioscope.widgets.base import live_clips
from audioscope.widgets.live import Cancelled, Live
from audioscope.widgets.playground import NOTHING

PROMPT = "a fast techno song with drums"


@pytest.fixture(autouse=True, scope="module")
def impatient():
    """New explorers wait for nothing, as if the machine were slow: what a test needs, it waits for."""
    with pytest.MonkeyPatch.context() as patch:
        for kind in ("atlas", "attention", "sae", "steering"):
            patch.setattr(f"audioscope.widgets.{kind}.PATIENCE", 0.0)
        yield


class Told:
    """What a Live says."""

    def __init__(self):
        self.shares, self.errors, self.results = [], [], []
        self.live = Live(self.shares.append, self.errors.append)


def sounds_of(widget):
    return [each["sound"] for each in widget.sounds]


def together(model, *rows, **settings):
    """The clips of rows that ride in one batch, as a widget asks for them: alone they would differ by rounding."""
    run = model.run([Row(prompt, seed, tuple(edits)) for prompt, seed, *edits in rows], **{**model.sampling(), **settings})
    return [audioscope.Clip(audio.numpy(), 16_000) for audio in run.audio]


def heard_as(*clips):
    return [sound(clip)["sound"] for clip in clips]


# --- work in a thread


def test_the_newest_wish_replaces_what_runs_and_what_waits():
    told, begun, go = Told(), threading.Event(), threading.Event()

    def slow(step):
        begun.set()
        go.wait(LIMIT)
        step(0.5)
        return "slow"

    told.live.ask(slow, told.results.append)
    assert begun.wait(LIMIT)
    told.live.ask(lambda step: "waited", told.results.append)
    told.live.ask(lambda step: "newest", told.results.append)
    go.set()
    assert told.live.wait(LIMIT)
    assert told.results == ["newest"] and not told.errors and told.shares[-1] is None and 0.5 not in told.shares


def test_cancel_ends_a_job_at_its_next_step_and_another_can_follow():
    told, begun, seen = Told(), threading.Event(), []

    def endless(step):
        begun.set()
        try:
            while True:
                step(0.1)
                time.sleep(0.005)
        except Cancelled:
            seen.append("cancelled")
            raise

    told.live.ask(endless, told.results.append)
    assert begun.wait(LIMIT)
    told.live.cancel()
    assert told.live.wait(LIMIT) and seen == ["cancelled"] and not told.results and not told.errors and told.shares[-1] is None
    told.live.ask(lambda step: 1, told.results.append)
    assert told.live.wait(LIMIT) and told.results == [1]


def test_errors_of_jobs_are_told_and_the_worker_lives_on():
    told = Told()
    told.live.ask(lambda step: 1 / 0, told.results.append)
    assert told.live.wait(LIMIT) and [type(error) for error in told.errors] == [ZeroDivisionError] and told.shares[-1] is None
    told.live.ask(lambda step: 2, lambda result: [][result])  # what is done with a result may fail, too
    assert told.live.wait(LIMIT) and [type(error) for error in told.errors] == [ZeroDivisionError, IndexError]
    told.live.ask(lambda step: 3, told.results.append)
    assert told.live.wait(LIMIT) and told.results == [3]


def test_steps_are_counted_and_what_they_raise_ends_the_run(model):
    settings = model.sampling(2, None, None)
    rows = [Row("slow music", 0), Row("music slow", 0, (PatchText(model.sites.cross[0], "slow music"),))]
    for some in (rows[:1], rows):  # without nnsight and with it
        seen = []
        model.run(some, on_step=seen.append, **settings)
        assert seen == [0, 1, 2]

        def stop(number):
            if number == 1:
                raise Cancelled

        with pytest.raises(Cancelled):
            model.run(some, on_step=stop, decode=False, **settings)
        hooks = [part._forward_hooks or part._forward_pre_hooks for part in model.denoiser.modules()]
        assert not any(hooks)


@pytest.mark.slow
def test_a_widget_and_a_cell_take_turns_at_one_model(tiny):
    alone = [tiny.generate(PROMPT, seed=seed).samples for seed in range(3)]
    told = Told()
    rows, settings = [Row("a slow song", 9)], tiny.sampling()
    for _ in range(2):
        told.live.ask(lambda step: live_clips(tiny, rows, settings, step), told.results.append)
        beside = [tiny.generate(PROMPT, seed=seed).samples for seed in range(3)]
        assert told.live.wait(LIMIT)
        assert all(np.array_equal(one, other) for one, other in zip(alone, beside, strict=True))
    assert not told.errors and np.array_equal(told.results[-1][0].samples, tiny.generate("a slow song", seed=9).samples)


def test_looking_up_words_leaves_the_tokenizer_of_a_running_generation_alone(tiny):
    """A fast tokenizer keeps its padding between calls: a look-up from another thread, in the middle of a run, unpadded its prompts."""
    tokenizer = tiny.pipe.tokenizer
    tokenizer("a slow song", padding="max_length", max_length=9)
    before = tokenizer.backend_tokenizer.padding
    assert before is not None and tiny.unknown_words("a slow zither") == ["zither"]
    assert tokenizer.backend_tokenizer.padding == before


def test_a_result_that_is_being_shown_is_not_cancelled_and_a_late_error_is_not_told():
    told, showing, go = Told(), threading.Event(), threading.Event()

    def show(result):
        showing.set()
        go.wait(LIMIT)
        told.results.append(result)

    told.live.ask(lambda step: "old", show)
    assert showing.wait(LIMIT)
    threading.Timer(0.05, go.set).start()
    assert not told.live.cancel(), "it waits until the result is shown"
    assert told.results == ["old"]
    begun, stop = threading.Event(), threading.Event()

    def fails_late(step):
        begun.set()
        stop.wait(LIMIT)
        raise ValueError("nobody asks any more")

    told.live.ask(fails_late, told.results.append)
    assert begun.wait(LIMIT) and told.live.cancel()
    stop.set()
    assert told.live.wait(LIMIT) and not told.errors


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_watcher_that_raises_does_not_end_the_worker():
    def bad(share):
        raise RuntimeError("a user's observer")

    results = []
    live = Live(bad, lambda error: None)
    live.ask(lambda step: 1, results.append)
    assert live.wait(LIMIT), "the thread says that it ended"
    live._told = lambda share: None
    live.ask(lambda step: 2, results.append)
    assert live.wait(LIMIT) and results[-1] == 2


@pytest.mark.parametrize("moment", range(6))
def test_no_wish_is_lost_whenever_it_comes(moment):
    """Asked for in each moment in which the worker lets go of the lock, of which the last is when it ends."""
    told, releases = Told(), itertools.count()

    class Nosy(threading.Condition):
        def __exit__(self, *error):
            super().__exit__(*error)
            if threading.current_thread() is worker and next(releases) == moment:
                told.live.ask(lambda step: 2, told.results.append)

    told.live._lock, worker = Nosy(), None
    with told.live._lock:
        told.live.ask(lambda step: 1, told.results.append)
        worker = told.live._thread
    worker.join(LIMIT)
    assert told.live.wait(LIMIT) and told.results[-1] == (2 if next(releases) > moment else 1)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_what_waits_is_done_even_if_a_watcher_ends_the_thread():
    results = []

    def told(share):
        if share is None and not results:
            live.ask(lambda step: 2, results.append)
            raise SystemExit  # which a thread ends with without a word

    live = Live(told, lambda error: None)
    live.ask(lambda step: 1 / 0, results.append)
    live._thread.join(LIMIT)
    assert live.wait(LIMIT) and results == [2]


def test_controls_that_the_worker_sets_together_do_not_silence_the_hand(playground):
    setting, go = threading.Event(), threading.Event()

    def show(result):
        with playground.together():
            setting.set()
            go.wait(LIMIT)

    playground.ask(lambda step: None, show)
    assert setting.wait(LIMIT)
    assert not playground._quiet
    go.set()
    playground.wait(LIMIT)


# --- the end of Python

ENDLESS = """
import threading
import torch
from audioscope.widgets.live import Live

begun, matrix = threading.Event(), torch.rand(1500, 1500)

def endless(step):
    while True:
        step(0.5)
        begun.set()
        matrix @ matrix

Live(lambda share: None, lambda error: None).ask(endless, print)
begun.wait()
"""
AT_WORK = """
import threading
import audioscope, audioscope.widgets.sae

audioscope.widgets.sae.PATIENCE = 0.0
model, begun = audioscope.load("tiny"), threading.Event()
explorer = MAKE
explorer.sounds.observe(lambda change: begun.set(), "progress")
explorer.prompt.value = "a fast song"
begun.wait()
"""


def ends_well(script):
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0 and "terminate called" not in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_python_ends_a_worker_that_would_never_end_and_is_inside_torch():
    ends_well(ENDLESS)


@pytest.mark.slow
@pytest.mark.parametrize("make", ["model.play('a jazz song')", f"audioscope.datasets.sae('{site(0)}').explore(model)"])
def test_a_script_may_end_with_an_explorer_at_work(make):
    ends_well(AT_WORK.replace("MAKE", make))


# --- playing the model


@pytest.fixture(scope="module")
def playground(tiny):
    return tiny.play(PROMPT, seed=4)


def test_a_typed_prompt_is_heard_as_the_model_generates_it(tiny, playground):
    assert sounds_of(playground.sounds) == heard_as(tiny.generate(PROMPT, seed=4))
    playground.prompt.value = "a slow sad song with cello"
    playground.wait(LIMIT)
    assert sounds_of(playground.sounds) == heard_as(tiny.generate("a slow sad song with cello", seed=4))
    assert playground.sounds.progress == -1 and not playground.sounds.failed
    assert "cello" in playground.sounds.sounds[0]["name"] and "cello" in repr(playground)


@pytest.mark.slow
def test_the_slider_steers_and_strength_0_does_nothing(tiny, playground):
    playground.prompt.value, playground.axis.value, playground.where.value = "a jazz song", "fast", "all layers"
    playground.strength.value = 1.2
    playground.wait(LIMIT)
    vector = audioscope.datasets.vector("fast")
    both = together(tiny, ("a jazz song", 4), ("a jazz song", 4, AddVector(vector, 1.2)))
    assert sounds_of(playground.sounds) == heard_as(*both)
    assert playground.sounds.version == 1, "the steered one is heard"
    assert playground.strength.max == -playground.strength.min > 1.2
    playground.where.value = "own layers"
    playground.wait(LIMIT)
    own = vector.only(steering_sites(tiny, choose(["fast"])[0], "own"))
    assert len(own.paths) < len(vector.paths)
    both = together(tiny, ("a jazz song", 4), ("a jazz song", 4, AddVector(own, 1.2)))
    assert sounds_of(playground.sounds) == heard_as(*both)
    playground.strength.value = 0.0
    plain = heard_as(tiny.generate("a jazz song", seed=4))
    playground.wait(LIMIT)
    assert sounds_of(playground.sounds) == plain and playground.sounds.version == 0
    playground.axis.value = NOTHING
    playground.wait(LIMIT)
    assert playground.strength.disabled


def test_a_dragged_slider_ends_where_it_stopped(tiny, playground):
    playground.axis.value = "fast"
    playground.wait(LIMIT)
    shown = []
    playground.sounds.observe(lambda change: shown.append(len(change["new"])), "sounds")
    with tiny.turn:  # the model is kept busy, so that the slider is faster than any machine
        for number in range(12):
            playground.strength.value = number / 10
    playground.wait(LIMIT)
    assert shown == [2], "wishes that were replaced are not shown"
    assert playground.sounds.sounds[1]["name"].endswith("+1.10")
    playground.axis.value = NOTHING
    playground.wait(LIMIT)


def test_cancel_keeps_what_is_heard(tiny, playground):
    before = sounds_of(playground.sounds)
    with tiny.turn:
        playground.prompt.value = "a happy reggae song with trumpet"
        playground.sounds.cancelled += 1  # what the button does
    playground.wait(LIMIT)
    assert sounds_of(playground.sounds) == before
    assert playground.sounds.message == "canceled" and playground.sounds.progress == -1


def test_waiting_has_an_end_and_hands_the_explorer_on(tiny, playground):
    with tiny.turn:
        playground.prompt.value = "a fast opera song"
        with pytest.raises(TimeoutError, match=r"Play the model: still generating after 0\.01 s"):
            playground.wait(0.01)
    assert playground.wait() is playground and "opera" in playground.sounds.sounds[0]["name"]


def test_errors_and_unknown_words_are_said_in_the_widget(playground):
    before = sounds_of(playground.sounds)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        playground.prompt.value = "   "
        playground.wait(LIMIT)
        assert playground.sounds.failed and "empty" in playground.sounds.message
        assert sounds_of(playground.sounds) == before
        playground.prompt.value = f"a zither {EVIL} song"
        playground.wait(LIMIT)
        assert not playground.sounds.failed and "zither" in playground.sounds.message
    assert EVIL not in playground.still().data


def test_bad_input_of_play_is_refused_at_once(tiny):
    for wrong, said in (({"seed": -1}, "seed is -1"), ({"seed": 2.5}, "whole number"), ({"strength": float("nan")}, "strength is nan"), ({"strength": 1e7}, "strength is 1"), ({"vectors": {"a": 3}}, "vectors has 3"), ({"prompt": " "}, "empty"), ({"steps": 0}, "steps is 0")):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            tiny.play(**wrong)
    seeds = pd.Series([7])
    assert np.array_equal(tiny.generate("a jazz song", seed=seeds.iloc[0]).samples, tiny.generate("a jazz song", seed=7).samples)
    vector = audioscope.datasets.vector("fast")
    with tiny.steer(vector, 1.0), pytest.raises(ValueError, match="being steered"):
        tiny.play()
    with pytest.raises(ValueError, match="weights"):
        tiny.play(vectors=replace(vector, fingerprint="other"))


def test_what_a_widget_makes_is_not_steered_by_a_cell(tiny, playground):
    vector = audioscope.datasets.vector("fast")
    playground.axis.value = NOTHING
    playground.wait(LIMIT)
    with tiny.steer(vector, 1.2):
        playground.prompt.value = "a jazz song with flute"
        playground.wait(LIMIT)
    assert sounds_of(playground.sounds) == heard_as(tiny.generate("a jazz song with flute", seed=playground.seed.value))


def test_play_at_another_length_says_nothing_of_what_is_heard(tiny):
    widget = tiny.play("a jazz song", seconds=2.048, steps=2)
    assert widget.sounds.sounds[0]["seconds"] == pytest.approx(2.048, abs=0.01) and widget.sounds.sounds[0]["caption"] == ""


def test_closing_leaves_nothing_in_the_kernel(tiny):
    before = len(ipywidgets.Widget.widgets) if hasattr(ipywidgets.Widget, "widgets") else None
    widget = tiny.play("a jazz song")
    sounds = widget.sounds
    widget.close()
    assert sounds.comm is None and widget.prompt.comm is None and before is not None


def test_play_takes_vectors_of_ones_own(tiny):
    vector = audioscope.datasets.vector("happy")
    widget = tiny.play("a jazz song", vectors={"mine": vector}, strength=1.5)
    both = together(tiny, ("a jazz song", 0), ("a jazz song", 0, AddVector(vector, 1.5)))
    assert sounds_of(widget.sounds) == heard_as(*both)
    assert widget.axis.value == "mine" and tiny.play("a jazz song", vectors=vector).axis.value == "happy"


# --- the atlas


@pytest.fixture(scope="module")
def tones(tmp_path_factory):
    return tmp_path_factory.mktemp("tones")


def pick(explorer, **cell):
    """What a click in the chart sends."""
    explorer.chart._vl_selections = {"picked": {"value": {"vlPoint": {"or": [cell]}}, "store": []}}
    explorer.wait(LIMIT)


def test_a_click_in_the_atlas_is_heard_from_the_files(tones):
    atlas = atlas_of_tones(tones)
    explorer = atlas.explore().wait(LIMIT)
    pick(explorer, concept="rap", site=site(1))
    pair, seed = explorer.pair.value
    folder = tones / f"clips/0 {pair}#"
    assert sounds_of(explorer.sounds) == heard_as(
        *(audioscope.Clip.load(folder / f"{name}.flac") for name in ("clean", "corrupted", "1"))
    )
    assert (explorer.chart.params.chosen_concept, explorer.chart.params.chosen_site) == ("rap", site(1)) and seed == 100 + pair
    pairs = [value for _, value in explorer.pair.options]
    explorer.pair.value = pairs[1]
    pick(explorer, concept="rap", site=site(3))
    assert explorer.pair.value == pairs[1], "another layer of the same concept keeps the pair"
    explorer.pair.value = (pair, seed)
    explorer.sounds.version = 0
    explorer.site.value = site(2)  # by the menu, for the keyboard
    explorer.wait(LIMIT)
    assert explorer.chart.params.chosen_site == site(2)
    assert explorer.sounds.version == 0, "who listens to the clean clip goes on with it"
    assert explorer.sounds.sounds[2]["sound"] == heard_as(audioscope.Clip.load(folder / "2.flac"))[0]
    first = explorer.pair.value
    explorer.pair.value = next(value for _, value in explorer.pair.options if value != first)
    explorer.wait(LIMIT)
    assert explorer.sounds.sounds[0]["sound"] != heard_as(audioscope.Clip.load(folder / "clean.flac"))[0]
    pick(explorer, concept=EVIL, site=site(0))
    assert EVIL not in explorer.metadata.value and EVIL not in explorer.still().data
    assert explorer.sounds.sounds[0]["seconds"] == SECONDS


@pytest.mark.slow
def test_a_cell_that_was_not_kept_is_made_as_the_sweep_made_it(tiny):
    explorer = audioscope.datasets.atlas().explore(tiny).wait(LIMIT)
    explorer.concept.value, explorer.site.value = "metal", tiny.sites.cross[5].path
    explorer.wait(LIMIT)
    clean, corrupted, seed = explorer.clean.value, explorer.corrupted.value, explorer.pair.value[1]
    three = together(tiny, (clean, seed), (corrupted, seed), (corrupted, seed, PatchText(tiny.sites.cross[5], clean)))
    assert sounds_of(explorer.sounds) == heard_as(*three)
    explorer.clean.value = "a jazz song with drums"
    explorer.wait(LIMIT)
    typed = "a jazz song with drums"
    three = together(tiny, (typed, seed), (corrupted, seed), (corrupted, seed, PatchText(tiny.sites.cross[5], typed)))
    assert sounds_of(explorer.sounds) == heard_as(*three)
    explorer.site.value = tiny.sites.cross[4].path  # with prompts of one's own, another layer is not taken from the files
    explorer.wait(LIMIT)
    three = together(tiny, (typed, seed), (corrupted, seed), (corrupted, seed, PatchText(tiny.sites.cross[4], typed)))
    assert sounds_of(explorer.sounds) == heard_as(*three)
    explorer.clean.value = ""
    explorer.wait(LIMIT)
    assert explorer.sounds.failed and "clean prompt is empty" in explorer.sounds.message
    assert not explorer.sounds.sounds, "what does not fit the words any more is put away"
    third = next(each for each in audioscope.datasets.maps().values() if each.settings["when"] == "middle")
    middle = third.explore(tiny)
    middle.concept.value, middle.site.value = "metal", tiny.sites.cross[0].path
    middle.wait(LIMIT)
    clean, corrupted, seed = middle.clean.value, middle.corrupted.value, middle.pair.value[1]
    window = PatchText(tiny.sites.cross[0], clean, steps=tuple(third.settings["window"]))
    three = together(tiny, (clean, seed), (corrupted, seed), (corrupted, seed, window))
    assert sounds_of(middle.sounds) == heard_as(*three)


def test_a_layer_opens_into_heads_and_steps(tiny, tones):
    """For the prompts in the fields; another cell closes it; without a model it is said what to do."""
    explorer = audioscope.datasets.atlas().explore(tiny).wait(LIMIT)
    explorer.concept.value, explorer.site.value = "flute", tiny.sites[9].path
    explorer.wait(LIMIT)
    explorer.open.click()
    explorer.wait(LIMIT)
    assert explorer.sounds.message.startswith("Heatmap of estimated impact on flute, 4 heads by 10 steps. Largest: head 9.")
    added = re.search(r"add up to (-?[\d.]+), and all heads together bring (-?[\d.]+)\.", explorer.sounds.message)
    seed, run, ear = explorer.pair.value[1], Sampling.of(explorer.atlas.settings), default_scorer(tiny)
    corrupted, clean = explorer.corrupted.value, explorer.clean.value
    rows = [Row(corrupted, seed), Row(clean, seed), Row(corrupted, seed, (PatchOutput(tiny.sites[9].heads, clean),))]
    latents = tiny.run(rows, decode=False, **run).latents
    base, whole, patched = ear.scores(sound_of(tiny, latents, run), tiny.rate)[:, list(ear.concepts).index("flute")].tolist()
    assert float(added[2]) == pytest.approx((patched - base) / (whole - base), abs=0.01)
    (chart,) = explorer.inside.children
    assert chart.embed_options["renderer"] == "canvas"  # as of attention
    assert {row["layer"] for row in next(iter(chart.spec["datasets"].values()))} == {"9.0", "9.1", "9.2", "9.3"}
    with tiny.turn:  # another cell, opened before its clips are there
        explorer.site.value = tiny.sites[8].path
        explorer.open.click()
        assert explorer.sounds.sounds == [], "the clips of another cell are gone"
    explorer.wait(LIMIT)
    explorer.clean.value = ""
    explorer.wait(LIMIT)
    explorer.open.click()
    explorer.wait(LIMIT)
    assert "The clean prompt is empty" in explorer.sounds.message
    explorer.site.value = tiny.sites[7].path
    explorer.wait(LIMIT)
    assert explorer.inside.children == ()
    deaf = atlas_of_tones(tones).explore()
    deaf.open.click()
    assert "pass the model" in deaf.sounds.message


def test_an_atlas_in_which_nothing_is_defined_can_be_explored(tones):
    atlas = atlas_of_tones(tones / "undefined")
    atlas.table["score"] = 0.0
    explorer = atlas.explore().wait(LIMIT)
    assert not explorer.impacts["defined"].any() and "undefined" in explorer.metadata.value and len(explorer.sounds.sounds) == 3


def test_a_damaged_clip_is_said_and_nothing_plays_under_wrong_words(tones):
    atlas = atlas_of_tones(tones / "damaged")
    explorer = atlas.explore().wait(LIMIT)
    pair = explorer.pair.value[0]
    for file in (tones / "damaged" / "clips" / f"0 {pair}#").glob("1.flac"):
        file.write_bytes(b"no sound")
    explorer.concept.value, explorer.site.value = "rap", site(1)
    explorer.wait(LIMIT)
    assert explorer.sounds.failed and not explorer.sounds.sounds
    explorer.site.value = site(2)
    explorer.wait(LIMIT)
    assert not explorer.sounds.failed and len(explorer.sounds.sounds) == 3


def test_explorers_without_clips_say_what_to_do(tones, tiny, stable_audio):
    silent = atlas_of_tones(tones / "silent", 0).explore()
    assert not silent.sounds.sounds and "atlas.explore(model)" in silent.sounds.message
    assert "numbers only" in audioscope.datasets.published("ace-step").explore().sounds.message
    with pytest.raises(ValueError, match="made with weights"):
        audioscope.datasets.atlas().explore(stable_audio)
    with pytest.raises(ValueError, match="made with weights"):
        audioscope.datasets.sae(site(0)).explore(stable_audio)


# --- steering


def test_the_slider_of_a_sweep_plays_the_kept_clips_and_moves_the_ring(tones):
    explorer = steering_of_tones(tones).explore().wait(LIMIT)
    (track,) = explorer.strength.tracks
    files = [
        f"steered fast/{'caa own' if strength else 'unsteered'}{strength:+.0f}.flac" for strength in (-2.0, -1.0, 0.0, 1.0, 2.0)
    ]
    assert [each["sound"] for each in track["sounds"]] == heard_as(*(audioscope.Clip.load(tones / file) for file in files))
    assert explorer.strength.place == 2.0
    explorer.strength.place = 3.5  # half-way from strength 1 to 2
    params = explorer.chart.params
    curve = explorer.sweep.curves().set_index(["cell", "strength"]).loc["caa own"]
    assert params.now_score == pytest.approx((curve.loc[1.0, "score"] + curve.loc[2.0, "score"]) / 2)
    assert params.now_distance == pytest.approx((curve.loc[1.0, "distance"] + curve.loc[2.0, "distance"]) / 2)
    explorer.way.value = "caa all"
    explorer.wait(LIMIT)
    assert explorer.strength.tracks[0]["sounds"][0] != track["sounds"][0]
    explorer.strength.place = 0.0
    assert params.now_distance < 0, "away from the concept runs to the left"
    assert EVIL not in explorer.still().data


@pytest.mark.slow
def test_a_sweep_without_clips_is_made_again(tiny):
    sweep = audioscope.datasets.steering("fast")
    explorer = sweep.explore(tiny).wait(LIMIT)
    strengths = sorted(sweep.table.query("cell == 'caa own'")["strength"].unique())
    text, seed = sweep.table[["text", "seed"]].iloc[0]
    own = audioscope.datasets.vector("fast").unit().only(sweep.settings["methods"]["caa own"]["at"])
    clips = together(
        tiny, *((text, int(seed), *([AddVector(own, float(strength))] if strength else [])) for strength in strengths)
    )
    assert [each["sound"] for each in explorer.strength.tracks[0]["sounds"]] == heard_as(*clips)
    features = audioscope.datasets.steering("fast", name="sae_steering")
    explorer = features.explore(tiny).wait(LIMIT)
    assert explorer.sounds.failed and "cannot be reconstructed" in explorer.sounds.message


# --- features


@pytest.mark.slow
def test_a_feature_is_searched_and_turned(tiny):
    sae = audioscope.datasets.sae(site(0))
    explorer = sae.explore(tiny).wait(LIMIT)
    assert len(explorer.feature.options) == sae.d_sae and explorer.fires.sounds
    explorer.words.value = "METAL"
    explorer.wait(LIMIT)
    assert explorer.feature.options and all("metal" in text for text, _ in explorer.feature.options)
    number = explorer.feature.value
    assert explorer.chart.params.chosen_feature == number and "metal" in explorer.metadata.value
    assert all(each["points"] for each in explorer.fires.sounds)
    still = html.unescape(explorer.still().data)
    assert still.count('<figure class="clip"') == len(explorer.fires.sounds) + 2 and still.count('class="area"') == len(
        explorer.fires.sounds
    )
    explorer.prompt.value, explorer.do.value, explorer.amount.value = "a song with trumpet", "scale", 3.0
    explorer.wait(LIMIT)
    prompt, seed = "a song with trumpet", explorer.seed.value
    both = together(tiny, (prompt, seed), (prompt, seed, SAEEdit(sae, (number,), "scale", 3.0)))
    assert sounds_of(explorer.sounds) == heard_as(*both)
    explorer.feature.value = next(number for _, number in explorer.feature.options if number != explorer.feature.value)
    explorer.wait(LIMIT)
    assert explorer.prompt.value == prompt, "a prompt of one's own stays when another feature is chosen"
    pick(explorer, feature=15)
    assert explorer.feature.value == 15 and explorer.words.value == ""
    explorer.words.value = "nothing is called so"
    assert explorer.feature.options == () and explorer.feature.value is None
    explorer.words.value = "15"
    explorer.wait(LIMIT)
    assert not explorer.sounds.failed
    assert "feature" in repr(explorer)


# --- what is shown


def test_an_explorer_is_shown_still_and_live(playground, monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw: shown.append(data))
    monkeypatch.setattr(type(playground), "__repr__", lambda self: shown.append("a warning") or "said")
    playground._ipython_display_()
    still, live = shown[-2:]  # the page hides one of the two by the other, so that nothing may come between them
    assert "audioscope-still" in still["text/html"] and "srcdoc" in still["text/html"] and still["text/plain"] == "said"
    assert "application/vnd.jupyter.widget-view+json" in live
    for address in ("http://", "https://"):
        assert address not in playground.still().data.replace("http://www.w3.org", "")


def test_controls_have_labels(tiny, playground):
    explorer = audioscope.datasets.atlas().explore(tiny)
    controls = [playground.prompt, playground.seed, playground.axis, playground.where, playground.strength]
    controls += [explorer.concept, explorer.site, explorer.pair, explorer.clean, explorer.corrupted]
    assert all(control.description for control in controls)
    assert explorer.sounds.label and playground.sounds.label


# --- attention


def test_a_word_is_heard_cut_out_where_it_is_chosen(tiny):
    """The picture is that of the chosen layer, head and step, and the clip that of the edit there, to the bit."""
    how = {"steps": 3}
    found = tiny.attention(PROMPT, 2, by=("layer", "head", "step"), kind="values", **how)
    explorer = found.play(tiny).wait()
    assert sounds_of(explorer.sounds) == heard_as(*together(tiny, (PROMPT, 2), **how))
    drums = found.words.index("drums")
    explorer.word.value = drums
    explorer.wait()
    assert sounds_of(explorer.sounds) == heard_as(*together(tiny, (PROMPT, 2), (PROMPT, 2, MuteWord("cross", drums)), **how))
    explorer.layer.value, explorer.head.value, explorer.step.value = "0", "2", "1"
    explorer.wait()
    muted = (PROMPT, 2, MuteWord(tiny.sites[0].heads[2], drums, steps=(1, 2)))
    assert sounds_of(explorer.sounds) == heard_as(*together(tiny, (PROMPT, 2), muted, **how))
    assert "without “drums” at head 2 of layer 0 in step 1" in explorer.sounds.sounds[1]["name"] + explorer.sounds.message
    np.testing.assert_array_equal(found.at(layer=0, head="2", step=1).values, found.values[0, 2, 1])
    assert "layer 0, head 2, step 1" in html.unescape(explorer.still().data)
    assert explorer.picture.children[0].embed_options["renderer"] == "canvas", "legends in SVG would take each other's colors"
    for sites, said in (([2], "at layer 2."), ([2, 5], "at layers 2, 5."), ("cross", "at all layers.")):
        some = tiny.attention(PROMPT, 2, sites, **how).play(tiny).wait()
        some.word.value = drums
        some.wait()
        assert some.sounds.message.endswith(said)
        some.close()
    explorer.prompt.value = "a slow song with flute and flute"
    explorer.wait()
    assert explorer.attention.prompt == explorer.prompt.value and explorer.word.value == -1
    assert [name for name, _ in explorer.word.options[-3:]] == ["flute (4)", "and", "flute (6)"]
    assert sounds_of(explorer.sounds) == heard_as(*together(tiny, (explorer.prompt.value, 2), **how))
    explorer.prompt.value = ""
    explorer.wait()
    assert explorer.sounds.failed and explorer.attention.prompt == "a slow song with flute and flute"
    explorer.close()


def test_what_cannot_be_played_is_said(tiny, stable_audio_3):
    found = tiny.attention(PROMPT, steps=1)
    with pytest.raises(ValueError, match="was made with weights"):
        found.play(stable_audio_3)
    with pytest.raises(ValueError, match="has no words"):
        tiny.attention(PROMPT, sites="self", steps=1).play(tiny)
    explorer = found.play(tiny).wait()
    assert explorer.layer.disabled and explorer.head.disabled and not explorer.prompt.disabled
    assert tiny.attention(PROMPT, steps=1, kind="score", concept="drums").play(tiny).prompt.disabled
    for wrong in ({"layer": 3}, {"tone": "a"}):
        with pytest.raises(KeyError, match="does not tell"):
            found.at(**wrong)
    by_layer = {"by": "layer", "steps": 1}
    for other in (
        tiny.attention(PROMPT, **by_layer).at(layer=3), tiny.attention(PROMPT, **by_layer, edits=Ablate(0)),
        tiny.attention(PROMPT, **by_layer, branch="uncond", negative_prompt="a slow song"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="Only a whole map"):
            other.play(tiny)
    with pytest.raises(KeyError, match="No layer '12'"):
        tiny.attention(PROMPT, by="layer", steps=1).at(layer=12)
