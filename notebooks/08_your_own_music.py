# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 8. Your own music: a folder of audio, or pairs of prompts, becomes a concept
#
# **You will hear** the prompts whose music comes closest to your own folder, and neutral prompts steered toward it.
#
# **You will learn**
#
# - how a folder of audio becomes a scorer, and how good that scorer is;
# - how to find the model's own words for your music;
# - how to localize, steer and look up such a concept in an SAE, like any other;
# - how to start from pairs of prompts instead, with no audio at all.
#
# **Time**: 25 minutes; it runs in about 1½ minutes. **Before this**: [3. The concept atlas](03_concept_atlas.ipynb), [5. Steer with CAA](05_steer_with_caa.ipynb) and [6. Train an SAE](06_train_an_sae.ipynb).

# %%
import os
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import audioscope
from audioscope.datasets import some_prompts
from audioscope.steer import random_direction_method, steering_sweep, vector_method

audioscope.show_charts()
model = audioscope.load("tiny")
FOLDER = os.environ.get("MY_MUSIC", "")  # or write your folder here: FOLDER = "/home/me/music/brass"

# %% [markdown]
# ## Any folder of audio will do
# The files can be WAV, FLAC, MP3, OGG or AIFF, at any sampling rate, mono or stereo, also in subfolders. If you name no folder, the next cell writes a stand-in:
# 24 pieces of slow jazz with a saxophone, played by the instruments that `tiny` learned from. With your own recordings the steps are the same, but the listener
# was never trained to hear them: rely on the AUROC below, and on your ears.

# %%
stand_in = not FOLDER
if stand_in:
    from audioscope.tiny import GROUPS, NoteBank, Song, render

    bank, rng = NoteBank(), np.random.default_rng(0)
    FOLDER = tempfile.mkdtemp(prefix="my-music-")
    for number in range(24):
        others = {group: str(rng.choice(GROUPS[group])) for group in ("voice", "mood", "percussion")}
        song = Song(tempo="slow", genre="jazz", lead="saxophone", **others)
        audioscope.Clip(render(song, np.random.default_rng(number), bank)[None], 16_000).save(Path(FOLDER) / f"{number:02}.wav")

# %%
mine = audioscope.scoring.read_folder(
    FOLDER, model
)  # cut into the model's four seconds, at its rate, and passed through its codec
audioscope.show_clips(*mine[:3])

# %% [markdown]
# ## The listener and the judge know the notes that they learned from
# Here is a real saxophone, one of the recordings that ship as controls, and what each ear takes the real recordings for. musicnn, which learned from
# recordings, names the instruments that it has tags for. The judge and the listener name the instruments, too, also where these recordings play the lead in a song: the judge is right in <!--=real.judge.real-->.90 [.85, .94]<!--/--> of the songs, against <!--=real.judge.rendered-->.96 [.93, .99]<!--/--> with the renderer's own notes (`audioscope.scoring.real_leads`). But 26 of the 44 notes, and others of the same collections, were in their training. A judge that was trained without them is right in <!--=leads.judge.recorded.real.left_out-->.52 [.44, .59]<!--/-->. So do not expect them to know the instruments of your music. Of the four recordings of metal, they name <!--=recordings.metal.judge-->3 of 4<!--/-->, and musicnn, whose ceiling for metal is <!--=outside.musicnn.metal.ceiling-->.97<!--/-->, <!--=recordings.metal.musicnn-->2 of 4<!--/-->. A probe on their features can be no better than these are.

# %%
saxophone = next(each for each in audioscope.scoring.recordings() if each["label"] == "saxophone")
audioscope.show_clips(audioscope.Clip(saxophone["wave"][None], 16_000))

# %%
taken_for = audioscope.scoring.on_recordings()
leads = taken_for[taken_for["group"] == "lead"].set_index("label")
tagged = leads.loc[["violin", "cello", "flute", "piano", "guitar"]]
assert (tagged["musicnn"] == tagged.index).all() and (leads["listener"] == leads.index).all()
metal = taken_for[taken_for["label"] == "metal"]
assert (metal["judge"] == "metal").sum() == (metal["listener"] == "metal").sum() == 3 and (metal["musicnn"] == "metal").sum() == 2
taken_for

# %% [markdown]
# ## A linear probe hears what the pieces have in common
# The listener's network has features for everything in `tiny`'s music; a linear classifier on these features learns to tell your folder from other clips. Its
# AUROC is measured on files that it was not fitted on. The AUROC says how well the classifier can tell the folder from those clips, *by whatever tells them apart*: choose
# other clips that are like yours in everything except what you mean.

# %%
texts = some_prompts(240, "build")
others = model.generate(texts[192:], seed=list(range(48)))
scorer = audioscope.scoring.probe_scorer("mine", mine, others, audioscope.scoring.listener_scorer())
scorer

# %%
if stand_in:
    assert scorer.auroc > 0.9

# %% [markdown]
# ## The model has its own words for your music
# This model understands nothing but text. So the next cell generates clips for 192 prompts, and the probe finds those that come out most like the folder. The best
# prompts become clean prompts; each one is paired with the prompt from the lower half that shares the most words with it. They share about half of their words, so a
# pair differs in more than your concept, and what a layer does with it is a mixture. The result is a concept with pairs for localizing, building, selecting and
# testing.

# %%
concept = audioscope.scoring.pairs_like(model, scorer, "mine", texts[:192])  # not the prompts that the probe was fitted on
pd.DataFrame(
    [(pair.split, pair.clean, pair.corrupted) for pair in concept.pairs[:12]], columns=["split", "like the folder", "unlike it"]
)

# %%
shared = [
    len(set(pair.clean.split()) & set(pair.corrupted.split())) / len(set(pair.clean.split()) | set(pair.corrupted.split()))
    for pair in concept.pairs
]
print(f"words that the prompts of a pair share: {np.mean(shared):.0%}")
assert 0.3 < np.mean(shared) < 0.7
words = pd.Series(" ".join(pair.clean for pair in concept.pairs).split()).value_counts()
fewer = pd.Series(" ".join(pair.corrupted for pair in concept.pairs).split()).value_counts()
more = (words - fewer.reindex(words.index).fillna(0)).sort_values(ascending=False)
print("words that bring in the concept:", more.head(8).to_dict())
if stand_in:
    wanted = {"slow", "slow-paced", "jazz", "jazzy", "saxophone", "trumpet", "calm", "sorrowful", "melancholic"}
    assert len(wanted & set(more.head(8).index)) >= 3, more.head(8)

# %% [markdown]
# ## A layer can be found, if only roughly
# This is the same call as for the paper's concepts, with the probe as the scorer. Eight pairs give wide intervals: look at them before you believe a value.
# musicnn gives a second opinion. It has no tag for your music as such, so it is asked for one side of it: here, how slow it is. (Its tag "jazz" hardly hears
# rendered jazz, and it has none for a saxophone. For your own music, choose tags that fit: `audioscope.scoring.musicnn.tags_of("MTT")`.)

# %%
ear = audioscope.scoring.Musicnn({"mine": ["slow"]}, nets=["MTT"])
atlas = audioscope.localize(model, [concept], pairs=8, scorer=scorer, also=[ear], progress=False)
atlas.explore(model).wait()

# %%
impacts = atlas.impacts().set_index("layer")
print(impacts[["impact", "low", "high"]].round(2))
if stand_in:  # slow jazz: genre enters at layer 0, tempo at layer 1 (notebook 3)
    assert set(impacts["impact"].nlargest(2).index) == {0, 1} and (impacts["high"] - impacts["low"]).max() > 0.4

# %% [markdown]
# musicnn, asked how slow the same clips are, draws much the same map: its impacts are largest in the same two layers. It has nothing in common with the probe but the clips, so
# the map is not the probe's own doing. Its intervals are even wider, since slow is only one side of this music. With other pairs it may well find nothing, and the atlas then says *undefined*: the
# interval of the difference between clean and corrupted clips contains 0, and there is nothing to divide by.

# %%
slowness = atlas.heard_by(ear.name).impacts().set_index("layer")
print(slowness[["impact", "low", "high", "denominator"]].round(2))
if stand_in:
    assert slowness["denominator_low"].iloc[0] > 0 and set(slowness["impact"].nlargest(2).index) == {0, 1}
    assert slowness["impact"].corr(impacts["impact"]) > 0.7

# %% [markdown]
# ## Prompts unlike your music can be steered toward it
# The vector is made from the pairs for building and tried on the pairs for testing, next to a random direction. A second probe, on the judge's network, measures
# the gain. It took no part in choosing the prompts: a scorer that chose them is easily pleased.

# %%
judge = audioscope.scoring.probe_scorer("mine", mine, others, audioscope.scoring.listener_scorer("judge"))
vector = audioscope.caa(model, concept, "cross", pairs=8, against="neutral", progress=False)
methods = [vector_method(vector, "all"), random_direction_method(vector, "all")]
strengths = {method.cell: [0.75, 1.5, 2.25] for method in methods}
sweep = steering_sweep(model, concept, methods, strengths, prompts=6, seeds=1, scorer=judge, clips=True, progress=False)
sweep.explore(model).wait()

# %%
curves = sweep.curves().pivot(index="strength", columns="cell", values="score")
print(curves.round(2))
if stand_in:
    assert curves["caa all"].iloc[-1] > curves["caa all"].iloc[0] + 1
    assert curves["caa all"].iloc[2] > curves["random direction all"].iloc[2] + 0.3

# %% [markdown]
# ## Features that know slow or jazz also know this concept
# The table shows the features of an SAE that best tell the clean prompts from the corrupted ones (AUROC), and which of the paper's concepts each of them detects
# best. These are the best of 512 on eight pairs, and that flatters them.

# %%
sae = audioscope.datasets.sae("transformer.transformer_blocks.0.cross_attn")
whole = sae.scores[sae.scores["sigma"].isna()].sort_values("auroc", ascending=False)
known = whole.drop_duplicates("feature").set_index("feature")[["concept", "auroc"]]


def looked_up(concept, count=6):
    """The features that detect a concept best, and which of the paper's concepts they detect best."""
    scores = audioscope.sae.score_features(sae, model, [concept], split="select", progress=False)
    best = scores[scores["sigma"].isna()].nlargest(count, "auroc")[["feature", "auroc"]]
    return best.join(known.rename(columns={"concept": "best concept", "auroc": "with AUROC"}), on="feature").round(3)


found = looked_up(concept)
found

# %%
if stand_in:
    assert {"slow", "jazz"} & set(found["best concept"]), found

# %% [markdown]
# ## Pairs of prompts need no audio
# If you can express your concept in the model's words, write the pairs yourself: here *guitar* against *piano*, which is not among the concepts that ship. The columns are
# concept, clean and corrupted; add a neutral prompt and a split if you also want to steer with the concept. Spread the kinds of song evenly over the splits;
# otherwise you build on jazz and test on reggae.

# %%
contexts = [
    f"{tempo} {kind}"
    for tempo in ("a slow", "a fast", "a happy", "a sad")
    for kind in ("pop song", "jazz song", "song", "reggae piece")
]
splits = ["localize", "build", "select", "test"]
pairs = pd.DataFrame(
    {
        "concept": "guitar",
        "clean": [f"{context} with guitar" for context in contexts],
        "corrupted": [f"{context} with piano" for context in contexts],
        "neutral": contexts,
        "split": [splits[(number + number // 4) % 4] for number in range(16)],
    }
)
guitar = audioscope.load_concepts(pairs)["guitar"]
guitars = audioscope.localize(model, [guitar], pairs=4, progress=False)
there = guitars.impacts()
there[["layer", "impact", "low", "high", "denominator"]].round(2)

# %% [markdown]
# The listener, which knows both instruments, clearly tells the two prompts apart; and yet no single layer brings in most of the difference, and every interval is
# wide. Either no single layer does much, as for the trombone, or four pairs are too few to show it.

# %%
assert there["denominator"].iloc[0] > 5 and there["impact"].max() < 0.4

# %% [markdown]
# Steering and looking up take the same two lines as before. For a concept that no scorer knows, make a probe from clips of the clean and the corrupted prompts,
# with the number of the pair as the group.

# %%
strings = audioscope.caa(model, guitar, "cross", pairs=4, against="neutral", progress=False)
model.play("a happy pop song", seed=2, vectors={"guitar": strings}, strength=1.5)

# %%
looked_up(guitar, 3)

# %% [markdown]
# ## Exercise: what did the probe learn?
# The stand-in folder is slow jazz with a saxophone. Does `scorer` listen for the slow jazz or for the saxophone? Find out with two prompts that have only one of
# them, *a slow jazz song with violin* and *a song with saxophone*, eight seeds each. (With a folder of your own, find two prompts that separate what always comes
# together in your music.)

# %% tags=["answer"]
it_hears = None  # "slow jazz" or "saxophone"

# %% jupyter={"source_hidden": true} tags=["check"]
from audioscope.course import check


def score(prompt):
    """The probe's log-odds for a prompt, averaged over eight seeds."""
    clips = model.generate([prompt] * 8, seed=list(range(50, 58)))
    return float(scorer(torch.from_numpy(np.stack([clip.samples for clip in clips])), clips[0].rate)["mine"].mean())


jazz, saxophone = score("a slow jazz song with violin"), score("a song with saxophone")
if stand_in:
    assert jazz > saxophone + 0.5
check(
    it_hears,
    lambda what: what == ("slow jazz" if jazz > saxophone else "saxophone"),
    well=f"{jazz:+.1f} for slow jazz without a saxophone, {saxophone:+.1f} for a saxophone without slow jazz: a high AUROC does not say what the probe learned.",
    wrong=[
        (lambda what: what == "saxophone", f"A song with saxophone scores {saxophone:+.1f}, slow jazz with violin {jazz:+.1f}.")
    ],
    otherwise='Answer with "slow jazz" or "saxophone", whichever scores higher on its own.',
    kind=str,
)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# for prompt in ("a slow jazz song with violin", "a song with saxophone"):
#     clips = model.generate([prompt] * 8, seed=list(range(50, 58)))
#     print(prompt, scorer(torch.from_numpy(np.stack([clip.samples for clip in clips])), clips[0].rate)["mine"].mean())
# it_hears = "slow jazz"
# ```
# </details>

# %% [markdown]
# ## Limits
# The probe hears what the listener's network hears, and it learns whatever separates your folder from the other clips, including how the music was recorded. You can
# only ask the model in words that it knows: music that no prompt comes close to gets pairs that hardly differ, and impacts that are undefined. Eight pairs are a
# first look, not a result; `audioscope.atlas.plan` says how many pairs make a result.
#
# ## Read next
# - For a large model, use `audioscope.scoring.Clap()` in place of the listener, your own prompts in `pairs_like(..., prompts=...)`, and `load` with the model's name.
# - `audioscope atlas --concepts pairs.csv` and `audioscope steer --help` run pairs of prompts from the command line.

# %%
import diffusers
import nnsight

print({m.__name__: m.__version__ for m in (audioscope, torch, diffusers, nnsight)})
