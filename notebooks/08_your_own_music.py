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
# **You will hear** the prompts whose music comes nearest to a folder of yours, and neutral prompts steered towards it.
#
# **You will learn**
#
# - how a folder of audio becomes a scorer, and how good that scorer is;
# - how to find the model's own words for your music;
# - how to localise, steer and look up such a concept in an SAE, like any other;
# - how to begin from pairs of prompts instead, with no audio at all.
#
# **Time**: 25 minutes; it runs in about 1½. **Before this**: [3. The concept atlas](03_concept_atlas.ipynb), [5. Steer with CAA](05_steer_with_caa.ipynb) and [6. Train an SAE](06_train_an_sae.ipynb).

# %%
import os
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import audioscope
from audioscope.arms import random_direction_arm, vector_arm
from audioscope.streams import some_prompts
from audioscope.strengths import steering_sweep

audioscope.show_charts()
model = audioscope.load("tiny")
FOLDER = os.environ.get("MY_MUSIC", "")  # or write your folder here: FOLDER = "/home/me/music/brass"

# %% [markdown]
# ## Any folder of audio will do
# WAV, FLAC, MP3, OGG or AIFF, of any rate, mono or stereo, also in subfolders. Here a stand-in is written if you name none: 24 pieces of slow jazz with a saxophone, played by the
# instruments that `tiny` learnt from. With your own recordings the steps are the same, but the listener was never taught to hear them: judge by the AUROC below, and by ear.

# %%
stand_in = not FOLDER
if stand_in:
    from audioscope.tiny.bank import NoteBank
    from audioscope.tiny.music import GROUPS, Song, render

    bank, rng = NoteBank(), np.random.default_rng(0)
    FOLDER = tempfile.mkdtemp(prefix="my-music-")
    for number in range(24):
        others = {group: str(rng.choice(GROUPS[group])) for group in ("voice", "mood", "percussion")}
        song = Song(tempo="slow", genre="jazz", lead="saxophone", **others)
        audioscope.Clip(render(song, np.random.default_rng(number), bank)[None], 16_000).save(Path(FOLDER) / f"{number:02}.wav")

# %%
mine = audioscope.read_folder(FOLDER, model)  # cut into the model's four seconds, at its rate, through its codec
audioscope.in_a_row(*mine[:3])

# %% [markdown]
# ## A linear probe hears what the pieces have in common
# The listener's network has features for all that is in `tiny`'s music; a linear classifier on them learns your folder from clips that are not of it. Its AUROC is measured on files that it was not
# fitted on. It says how well the folder can be told from those clips, *by whatever tells them apart*: choose the others like yours in all but what you mean.

# %%
texts = some_prompts(240, "build")
others = model.generate(texts[192:], seed=list(range(48)))
scorer = audioscope.probe_scorer("mine", mine, others, audioscope.listener_scorer())
scorer

# %%
if stand_in:
    assert scorer.auroc > 0.9

# %% [markdown]
# ## The model has words of its own for your music
# Text is all that this model understands. So 192 prompts are generated, and the probe says which of them come out most like the folder. The best become clean prompts; beside each stands the one from
# the lower half that shares most words with it. About half are shared, so a pair differs in more than your concept, and what a layer does with it is a mixture. That makes a concept with pairs for localising,
# building, choosing and testing.

# %%
concept = audioscope.pairs_like(model, scorer, "mine", texts[:192])  # not those that the probe was fitted on
pd.DataFrame(
    [(pair.split, pair.clean, pair.corrupted) for pair in concept.pairs[:12]], columns=["split", "like the folder", "unlike it"]
)

# %%
shared = [
    len(set(pair.clean.split()) & set(pair.corrupted.split())) / len(set(pair.clean.split()) | set(pair.corrupted.split()))
    for pair in concept.pairs
]
print(f"words that a pair shares: {np.mean(shared):.0%}")
assert 0.3 < np.mean(shared) < 0.7
words = pd.Series(" ".join(pair.clean for pair in concept.pairs).split()).value_counts()
fewer = pd.Series(" ".join(pair.corrupted for pair in concept.pairs).split()).value_counts()
more = (words - fewer.reindex(words.index).fillna(0)).sort_values(ascending=False)
print("words that bring it:", more.head(8).to_dict())
if stand_in:
    wanted = {"slow", "slow-paced", "jazz", "jazzy", "saxophone", "trumpet", "calm", "sorrowful", "melancholic"}
    assert len(wanted & set(more.head(8).index)) >= 3, more.head(8)

# %% [markdown]
# ## A layer can be found, if only roughly
# The same call as for the paper's concepts, with the probe as the scorer. Eight pairs give wide intervals; look before you believe.

# %%
atlas = audioscope.localize(model, [concept], pairs=8, scorer=scorer, progress=False)
atlas.explore(model).wait()

# %%
impacts = atlas.impacts().set_index("layer")
print(impacts[["impact", "low", "high"]].round(2))
if stand_in:  # slow jazz: genre enters at layer 0 (notebook 3)
    assert impacts["impact"].idxmax() == 0 and (impacts["high"] - impacts["low"]).max() > 0.4

# %% [markdown]
# ## Prompts unlike your music can be steered towards it
# The vector is made from the pairs for building, and tried on those for testing, beside a random direction. What it gains is judged by a second probe, on the judge's network, which took no part in choosing the
# prompts: a scorer that chose is easily pleased.

# %%
judge = audioscope.probe_scorer("mine", mine, others, audioscope.listener_scorer("judge"))
vector = audioscope.caa(model, concept, "cross", pairs=8, against="neutral", progress=False)
arms = [vector_arm(vector, "all"), random_direction_arm(vector, "all")]
strengths = {arm.cell: [0.75, 1.5, 2.25] for arm in arms}
sweep = steering_sweep(model, concept, arms, strengths, prompts=6, seeds=1, scorer=judge, clips=True, progress=False)
sweep.explore(model).wait()

# %%
curves = sweep.curves().pivot(index="alpha", columns="cell", values="score")
print(curves.round(2))
if stand_in:
    assert curves["caa all"].iloc[-1] > curves["caa all"].iloc[0] + 1
    assert curves["caa all"].iloc[2] > curves["random direction all"].iloc[2] + 0.3

# %% [markdown]
# ## Features that know slow or jazz know it, too
# For each feature of an SAE, how well it tells the clean prompts from the corrupted ones (AUROC), and which of the paper's concepts that feature tells best. The best of 512 on eight pairs: that flatters.

# %%
sae = audioscope.load_sae("transformer.transformer_blocks.0.cross_attn")
whole = sae.scores[sae.scores["sigma"].isna()].sort_values("auroc", ascending=False)
known = whole.drop_duplicates("feature").set_index("feature")[["concept", "auroc"]]


def looked_up(concept, count=6):
    """The features that tell a concept best, and what else they tell."""
    scores = audioscope.score_features(sae, model, [concept], split="select", progress=False)
    best = scores[scores["sigma"].isna()].nlargest(count, "auroc")[["feature", "auroc"]]
    return best.join(known.rename(columns={"concept": "tells best", "auroc": "with AUROC"}), on="feature").round(3)


found = looked_up(concept)
found

# %%
if stand_in:
    assert {"slow", "jazz"} & set(found["tells best"]), found

# %% [markdown]
# ## Pairs of prompts need no audio
# If you can say your concept in the model's words, write the pairs: here *guitar* against *piano*, which the paper does not have. Columns: concept, clean, corrupted; a neutral prompt and a split, if you
# want to steer with it, too. Deal the kinds of song evenly over the splits, or you build on jazz and test on reggae.

# %%
contexts = [
    f"{tempo} {kind}"
    for tempo in ("a slow", "a fast", "a happy", "a sad")
    for kind in ("pop song", "jazz song", "song", "reggae piece")
]
splits = ["localise", "build", "select", "test"]
pairs = pd.DataFrame(
    {
        "concept": "guitar",
        "clean": [f"{context} with guitar" for context in contexts],
        "corrupted": [f"{context} with piano" for context in contexts],
        "neutral": contexts,
        "split": [splits[(number + number // 4) % 4] for number in range(16)],
    }
)
guitar = audioscope.concepts_from(pairs)["guitar"]
guitars = audioscope.localize(model, [guitar], pairs=4, progress=False)
there = guitars.impacts()
there[["layer", "impact", "low", "high", "denominator"]].round(2)

# %% [markdown]
# The listener, which knows both instruments, tells the two prompts apart surely; and yet no single layer brings most of the difference, and every interval is wide. Either no single layer does much, as for the
# trombone, or four pairs are too few to see it.

# %%
assert there["denominator"].iloc[0] > 5 and there["impact"].max() < 0.4

# %% [markdown]
# Steering and looking up take the same two lines as before. For a concept that no scorer knows, make a probe from clips of the clean and the corrupted prompts, with the number of the pair as the group.

# %%
strings = audioscope.caa(model, guitar, "cross", pairs=4, against="neutral", progress=False)
model.play("a happy pop song", seed=2, vectors={"guitar": strings}, strength=1.5)

# %%
looked_up(guitar, 3)

# %% [markdown]
# ## Exercise: what did the probe learn?
# The stand-in folder is slow jazz with a saxophone. Does `scorer` listen for the slow jazz, or for the saxophone? Find out with two prompts that have only one of them,
# *a slow jazz song with violin* and *a song with saxophone*, eight seeds each. (With a folder of your own, find two prompts that part what yours has together.)

# %% tags=["answer"]
it_hears = None  # "slow jazz" or "saxophone"

# %% jupyter={"source_hidden": true} tags=["check"]
from audioscope.course import check


def score(prompt):
    """The probe's log-odds for a prompt, mean of eight seeds."""
    clips = model.generate([prompt] * 8, seed=list(range(50, 58)))
    return float(scorer(torch.from_numpy(np.stack([clip.samples for clip in clips])), clips[0].rate)["mine"].mean())


jazz, saxophone = score("a slow jazz song with violin"), score("a song with saxophone")
if stand_in:
    assert jazz > saxophone + 0.5
check(
    it_hears,
    lambda what: what == ("slow jazz" if jazz > saxophone else "saxophone"),
    well=f"{jazz:+.1f} for slow jazz without a saxophone, {saxophone:+.1f} for a saxophone without slow jazz: a high AUROC does not say what was learnt.",
    wrong=[
        (
            lambda what: what == "saxophone",
            f"A song with a saxophone has {saxophone:+.1f}, slow jazz on a violin {jazz:+.1f}.",
        )
    ],
    otherwise='Answer with "slow jazz" or "saxophone", whichever alone scores higher.',
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
# The probe hears what the listener's network hears, and learns whatever tells your folder from the other clips, the recording included. The model can only be asked in words it knows: music that no prompt
# comes near to gets pairs that hardly differ, and impacts that are undefined. Eight pairs are a look, not a result; `audioscope.plan` says how many make one.
#
# ## Read next
# - For a large model, use `Clap()` in the place of the listener, prompts of your own in `pairs_like(..., prompts=...)`, and `load` with its name.
# - `audioscope atlas --concepts pairs.csv` and `audioscope steer --help` run pairs of prompts on the command line.

# %%
import diffusers
import nnsight

print({m.__name__: m.__version__ for m in (audioscope, torch, diffusers, nnsight)})
