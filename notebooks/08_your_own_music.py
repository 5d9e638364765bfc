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
# - how to do the same with pairs of prompts and no audio at all.
#
# **Time**: 25 minutes; it runs in about 2. **Before this**: [3. The concept atlas](03_concept_atlas.ipynb) and [5. Steer with CAA](05_steer_with_caa.ipynb).

# %%
import os
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import audioscope
from audioscope.arms import random_direction_arm, vector_arm
from audioscope.own import some_prompts
from audioscope.strengths import steering_sweep

audioscope.show_charts()
model = audioscope.load("tiny")
FOLDER = os.environ.get("MY_MUSIC", "")  # or write your folder here: FOLDER = "/home/me/music/brass"

# %% [markdown]
# ## Any folder of audio will do
# WAV, FLAC, MP3, OGG or AIFF, of any rate, mono or stereo, also in subfolders. Here a stand-in is written if you name none: 24 pieces of slow jazz with a saxophone, played by the
# instruments that `tiny` learnt from. With your own recordings the steps are the same, but the listener was never taught to hear them: judge by the AUROC below, and by ear.

# %%
if not FOLDER:
    from audioscope.tiny.bank import NoteBank
    from audioscope.tiny.music import GROUPS, Song, render

    bank, rng = NoteBank(), np.random.default_rng(0)
    FOLDER = tempfile.mkdtemp(prefix="my-music-")
    for number in range(24):
        others = {group: str(rng.choice(GROUPS[group])) for group in ("voice", "mood", "percussion")}
        song = Song(tempo="slow", genre="jazz", lead="saxophone", **others)
        audioscope.Clip(render(song, np.random.default_rng(number), bank)[None], 16_000).save(Path(FOLDER) / f"{number:02}.wav")
stand_in = Path(FOLDER).name.startswith("my-music-")

# %%
mine = audioscope.read_folder(FOLDER, model)  # cut into the model's four seconds, at its rate, through its codec
audioscope.in_a_row(*mine[:3])

# %% [markdown]
# ## A linear probe hears what the pieces have in common
# The listener's network has features for all that is in `tiny`'s music; a linear classifier on them learns your folder from clips that are not of it. Its AUROC is measured on files that it was not
# fitted on. It says how well the folder can be told from those clips, *by whatever tells them apart*: choose the others like yours in all but what you mean.

# %%
others = model.generate(some_prompts(48), seed=list(range(48)))
scorer = audioscope.probe_scorer("mine", mine, others, audioscope.listener_scorer())
scorer

# %%
if stand_in:
    assert scorer.auroc > 0.9

# %% [markdown]
# ## The model has words of its own for your music
# Text is all that this model understands. So 192 prompts are generated, and the probe says which of them come out most like the folder. The best become clean prompts; beside each stands one from
# the lower half with nearly the same words. That makes a concept like any other, with pairs for localising, building, choosing and testing.

# %%
concept = audioscope.pairs_like(model, scorer, "mine")
pd.DataFrame(
    [(pair.split, pair.clean, pair.corrupted) for pair in concept.pairs[:12]], columns=["split", "like the folder", "unlike it"]
)

# %%
words = pd.Series(" ".join(pair.clean for pair in concept.pairs).split()).value_counts()
fewer = pd.Series(" ".join(pair.corrupted for pair in concept.pairs).split()).value_counts()
more = (words - fewer.reindex(words.index).fillna(0)).sort_values(ascending=False)
print("words that bring it:", more.head(8).to_dict())
if stand_in:
    wanted = {"slow", "slow-paced", "jazz", "jazzy", "saxophone", "trumpet", "calm", "sorrowful", "melancholic"}
    assert len(wanted & set(more.head(8).index)) >= 3, more.head(8)

# %% [markdown]
# ## One layer brings most of it
# The same call as for the paper's concepts, with the probe as the scorer. Eight pairs give wide intervals; look before you believe.

# %%
atlas = audioscope.localize(model, [concept], pairs=8, scorer=scorer, progress=False)
atlas.explore(model)

# %%
impacts = atlas.impacts().set_index("layer")
print(impacts[["impact", "low", "high"]].round(2))
if stand_in:  # slow jazz: genre enters at layer 0 (notebook 3)
    assert impacts["impact"].idxmax() == 0

# %% [markdown]
# ## Neutral prompts can be steered towards your music
# The vector is made from the pairs for building, and tried on those for testing, beside a random direction.

# %%
vector = audioscope.caa(model, concept, "cross", pairs=8, against="neutral", progress=False)
arms = [vector_arm(vector, "all"), random_direction_arm(vector, "all")]
strengths = {"caa all": [0.75, 1.5, 2.25], "random direction all": [0.75, 1.5, 2.25]}
sweep = steering_sweep(model, concept, arms, strengths, prompts=6, seeds=1, scorer=scorer, clips=True, progress=False)
sweep.explore(model)

# %%
curves = sweep.curves().pivot(index="alpha", columns="cell", values="score")
print(curves.round(2))
if stand_in:
    assert curves["caa all"].iloc[-1] > curves["caa all"].iloc[0] + 1.5
    assert curves["caa all"].iloc[2] > curves["random direction all"].iloc[2] + 0.5

# %% [markdown]
# ## Features that know slow and jazz know it, too
# For each feature of an SAE, how well it tells the clean prompts from the corrupted ones (AUROC), and which of the paper's concepts that feature tells best.

# %%
sae = audioscope.load_sae("transformer.transformer_blocks.0.cross_attn")
known = (
    sae.scores[sae.scores["sigma"].isna()].sort_values("auroc", ascending=False).drop_duplicates("feature").set_index("feature")
)
scores = audioscope.score_features(sae, model, [concept], split="select")
best = scores[scores["sigma"].isna()].nlargest(6, "auroc")[["feature", "auroc", "mean_with", "mean_without"]]
best = best.join(known[["concept", "auroc"]].rename(columns={"concept": "tells best", "auroc": "by"}), on="feature")
best.round(3)

# %%
if stand_in:
    assert {"slow", "jazz", "trumpet", "saxophone", "harmonica"} & set(best["tells best"].head(3)), best

# %% [markdown]
# ## Pairs of prompts need no audio
# If you can say your concept in the model's words, write the pairs: here *guitar* against *piano*, which the paper does not have. Columns: concept, clean, corrupted; a neutral prompt and a split, if you
# want to steer with it, too. The listener knows both instruments; for a concept that no scorer knows, make a probe from clips of the clean and the corrupted prompts.

# %%
contexts = [
    f"{tempo} {kind}"
    for tempo in ("a slow", "a fast", "a happy", "a sad")
    for kind in ("pop song", "jazz song", "song", "reggae piece")
]
pairs = pd.DataFrame(
    {
        "concept": "guitar",
        "clean": [f"{context} with guitar" for context in contexts],
        "corrupted": [f"{context} with piano" for context in contexts],
        "neutral": contexts,
        "split": ["localise", "build", "select", "test"] * 4,
    }
)
guitar = audioscope.concepts_from(pairs)["guitar"]
clean, corrupted = ([getattr(pair, side) for pair in guitar.pairs] for side in ("clean", "corrupted"))
with_, without = (model.generate(texts, seed=[100 + n for n in range(16)]) for texts in (clean, corrupted))
ear = audioscope.probe_scorer("guitar", with_, without, audioscope.listener_scorer())
ear

# %%
guitars = audioscope.localize(model, [guitar], pairs=4, scorer=ear, clips=False, progress=False)
guitars.impacts()[["layer", "impact", "low", "high", "defined"]].round(2)

# %% [markdown]
# The probe tells the two in about four cases of five, but four pairs do not place the difference in a layer: the intervals are wide. That is an answer, too: the plucked and the struck string of
# `tiny` sound much alike after its codec, and more pairs would have to be written.

# %%
widest = (guitars.impacts()["high"] - guitars.impacts()["low"]).max()
print(f"AUROC {ear.auroc:.2f}, widest interval {widest:.2f}")
assert 0.6 < ear.auroc < 0.95 and widest > 0.5

# %% [markdown]
# ## Exercise: what did the probe learn?
# The stand-in folder is slow jazz with a saxophone. Does `scorer` listen for the slow jazz, or for the saxophone? Find out with two prompts that have only one of them, such as
# *a slow jazz song with violin* and *a fast techno song with saxophone*, eight seeds each.

# %% tags=["answer"]
it_hears = None  # "slow jazz" or "saxophone"

# %% jupyter={"source_hidden": true} tags=["check"]
from audioscope.course import check


def score(prompt):
    """The probe's log-odds for a prompt, mean of eight seeds."""
    clips = model.generate([prompt] * 8, seed=list(range(50, 58)))
    return float(scorer(torch.from_numpy(np.stack([clip.samples for clip in clips])), clips[0].rate)["mine"].mean())


jazz, saxophone = score("a slow jazz song with violin"), score("a fast techno song with saxophone")
if stand_in:
    assert jazz > saxophone + 0.5
check(
    it_hears,
    lambda what: what == "slow jazz",
    well=f"{jazz:+.1f} for slow jazz without a saxophone, {saxophone:+.1f} for a saxophone without slow jazz: a high AUROC does not say what was learnt.",
    wrong=[
        (
            lambda what: what == "saxophone",
            f"A saxophone in a fast techno song has {saxophone:+.1f}, slow jazz on a violin {jazz:+.1f}.",
        )
    ],
    otherwise='Answer with "slow jazz" or "saxophone", whichever alone scores higher.',
)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# for prompt in ("a slow jazz song with violin", "a fast techno song with saxophone"):
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
