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
# # 5. Steer with CAA
#
# **What you will hear and learn** (about 2 minutes to run)
#
# - How to make a steering vector from pairs of prompts, and hear a slider of it.
# - How to measure steering so that you cannot fool yourself: what it gains, what it costs, beside controls.
# - What holds in `tiny` for 18 axes, and what does not: steering works; that it must be done at the functional layers does not.

# %%
import altair as alt
import numpy as np
import torch

import audioscope
from audioscope import AddVector, caa, shipped_steering
from audioscope.arms import prompt_switch_arm, random_direction_arm, vector_arm
from audioscope.charts import axes_chart
from audioscope.slider import slider
from audioscope.strengths import steering_sweep
from audioscope.tiny.music import BPM

alt.renderers.enable("jupyter", offline=True)  # charts without a network
model = audioscope.load("tiny")
judge = audioscope.listener_scorer("judge")


def heard(clips):
    """The judge's log-odds of every concept, a row for each clip."""
    return judge(torch.from_numpy(np.stack([clip.samples for clip in clips])), clips[0].rate)


# %% [markdown]
# ## A steering vector is a difference of means
# Generate fifty fast sentences and the same fifty said slow, from the same noise. At each site and each noise level, average the output over
# time and prompts, and subtract: that is Contrastive Activation Addition (CAA). Half as many pairs will do here. The vector acts at tempo's own
# layer, which the atlas of notebook 3 found.

# %%
fast = caa(model, "fast", "own", pairs=25)
fast

# %%
assert fast.paths == ("transformer.transformer_blocks.2.cross_attn",) and fast.facts["against"] == "slow"

# %% [markdown]
# ## Steering is one line, and at strength 0 it is nothing
# Strength 1 adds a vector as long as the site's own output is on average. Outside the block, nothing acts.

# %%
prompt = "a jazz song with trumpet and drums"
with model.steer(fast, strength=3.0):
    up = model.generate(prompt, seed=3)
with model.steer(fast, strength=0.0):
    same = model.generate(prompt, seed=3)
bare = model.generate(prompt, seed=3)
assert np.array_equal(same.samples, bare.samples) and not np.array_equal(up.samples, bare.samples)
audioscope.in_a_row(bare, up)

# %% [markdown]
# ## Hear the slider
# A sweep steers prompts that never name a tempo at several strengths, all as rows of one batch. Press play and drag: all strengths run in phase, and the slider
# fades from one to the next. The same page comes from `audioscope steer --concept fast --strengths -2:2:9 --out steered`.

# %%
strengths = [-3.0, -2.0, -1.0, 1.0, 2.0, 3.0]
sweep = steering_sweep(model, "fast", [vector_arm(fast, "own")], strengths, prompts=6, seeds=1, clips=True)
slider(*sweep.tracks()[:2])

# %% [markdown]
# ## Tempo goes up and down, by the judge and by the clock
# The judge is a classifier that took no part in making or tuning the vector. The clock is a plain measurement: the strongest beat between 55 and 195 BPM. It
# cannot tell a beat from its half or double, but no band of `tiny`'s music holds the double of another's, so each beat has one place.


# %%
def in_bands(bpm):
    """The beat, halved or doubled until it lies within 5 % of one of the bands of tempo; NaN if it never does."""
    beats = [bpm * factor for factor in (1, 0.5, 2) for low, high in BPM.values() if 0.95 * low <= bpm * factor <= 1.05 * high]
    return beats[0] if beats else np.nan


table = sweep.table.assign(bpm=sweep.table["tempo"].map(in_bands))
by_strength = table.groupby("alpha")[["score", "bpm", "onsets", "lpaps", "chroma"]].mean()
by_strength.round(2)

# %%
measured = alt.Chart(table, title="Measured tempo").encode(x=alt.X("alpha:Q", title="strength"))
(
    measured.mark_circle(opacity=0.35).encode(y=alt.Y("bpm:Q", title="BPM", scale=alt.Scale(zero=False)))
    + measured.mark_line(point=True, color="#a84a08").encode(y="mean(bpm):Q")
).properties(width=380, height=220, description="Measured BPM of each clip over steering strength, with their mean")

# %%
rising = by_strength[["score"]].assign(strength=by_strength.index).corr("spearman").iloc[0, 1]
print(f"rank correlation of strength and score: {rising:.2f}")
assert rising > 0.95 and by_strength.loc[3.0, "score"] - by_strength.loc[-3.0, "score"] > 6
assert by_strength.loc[3.0, "bpm"] > by_strength.loc[-3.0, "bpm"] + 40
assert by_strength["onsets"].iloc[-1] > by_strength["onsets"].iloc[0]

# %% [markdown]
# ## The judge of a method is its price
# Any push changes the music, and a stronger one changes it more. So a gain counts beside its cost: how different the clip sounds from the unsteered one
# (`lpaps`: distance of the judge's features, layer by layer, pooled over time). Four ways to steer, live, on the same prompts: the vector at tempo's own layer, at all layers, a
# random direction of equal length, and rewriting the prompt late in sampling (PCI).

# %%
everywhere = caa(model, "fast", "cross", pairs=25)
own = everywhere.only(fast.paths)
arms = [vector_arm(own, "own"), vector_arm(everywhere, "all"), random_direction_arm(own, "own"), prompt_switch_arm(10)]
small = steering_sweep(
    model, "fast", arms,
    {"caa own": [-2.5, -1.5, 1.5, 3.5], "caa all": [-0.6, -0.3, 0.4, 0.9], "random direction own": [-2.5, 2.5], "pci all": [-1.0, -0.3, 0.3, 1.0]},
    prompts=4, seeds=1,
)  # fmt: skip
small.chart()

# %%
few = small.summary()
area = few.set_index(few["method"] + " " + few["sites"])["auc"]
print(area.round(3))
assert area["caa own"] > area["random direction own"] and area["caa all"] > area["random direction own"]

# %% [markdown]
# ## The full table: 18 axes, seven ways, 12,000 clips
# Eight prompts of the test split and two seeds for each axis; strengths were set on other prompts so that every way reaches the price of rewriting the prompt. The
# area under gain over price, up to that price, is the score of a way to steer (the paper's AUC). Whiskers are intervals with prompts as units.

# %%
full = shipped_steering()
axes_chart(full)

# %%
full["way"] = full["method"] + " " + full["sites"]
full.pivot(index="concept", columns="way", values="auc").round(2)

# %% [markdown]
# CLAIMS

# %% [markdown]
# ## Two vectors at once
# Vectors add. Faster and female, from one prompt that says neither; and the second made orthogonal to the first, so that it does not undo it.

# %%
female = caa(model, "female", "own", pairs=25)
prompts = [pair.neutral for pair in audioscope.shipped_concepts()["fast"].neutral_pairs("test")]
prompts = [text for text in prompts if not {"male", "female", "man", "woman"} & set(text.split())][:6]
both = [AddVector(fast, 2.5), AddVector(female.orthogonal_to(fast), 1.5)]
plain, mixed = (model.generate(prompts, seed=list(range(len(prompts))), edits=edits) for edits in ((), both))
moved = (heard(mixed) - heard(plain)).mean()
print(moved[["fast", "slow", "female", "male"]].round(2))
assert moved["fast"] > 1 and moved["female"] > 1
audioscope.in_a_row(plain[0], mixed[0])

# %% [markdown]
# ## Only from second 2 on
# An edit can keep to a stretch of time: here the second half of the clip. The judge hears each half by itself, played twice. The steered half turns fast; the
# other moves less, though self-attention carries some of the beat back to it.

# %%
base = model.generate(prompts, seed=list(range(len(prompts))))
late = model.generate(prompts, seed=list(range(len(prompts))), edits=AddVector(fast, 3.0, seconds=(2.048, 4.1)))


def halves(clips):
    """The judge's log-odds of fast in the first and second half of the clips, on average."""
    audio = torch.from_numpy(np.stack([clip.samples for clip in clips]))
    return [float(judge(torch.cat([half, half], -1), 16_000)["fast"].mean()) for half in audio.chunk(2, -1)]


gains = np.subtract(halves(late), halves(base))
print("gain of fast in the first and the second half:", gains.round(2))
assert gains[1] > 3 and gains[1] > gains[0] + 1.5
audioscope.in_a_row(base[0], late[0])

# %% [markdown]
# ## What breaks at high strength
# More is not better for ever. Beyond the price of rewriting the prompt the music drifts, then it is noise that the classifier still calls fast: look at
# the price and at the harmony shared with the unsteered clip, never at the score alone.

# %%
hard = steering_sweep(model, "fast", [vector_arm(fast, "own")], [2.0, 4.0, 8.0, 16.0], prompts=3, seeds=1, clips=True)
broken = hard.curves().set_index("alpha")[["score", "lpaps", "chroma", "beat", "off"]]
broken.round(2)

# %%
assert broken["lpaps"].is_monotonic_increasing and broken.loc[16.0, "lpaps"] > 5 * broken.loc[2.0, "lpaps"]
assert broken.loc[16.0, "chroma"] < broken.loc[2.0, "chroma"]
slider(*hard.tracks()[:1])

# %% [markdown]
# ## Exercise
# Steer mood. Which layers are its own by the atlas's rule? Make a vector for *happy* at `"own"` and one at `"cross"`, and compare their areas on three prompts.
#
# <details><summary>Solution</summary>
#
# ```python
# from audioscope import steering_sites
# steering_sites(model, audioscope.shipped_concepts()["happy"], "own")   # none passes, so the three strongest stand in
# both = caa(model, "happy", "cross", pairs=25)
# own = both.only(steering_sites(model, audioscope.shipped_concepts()["happy"], "own"))
# arms = [vector_arm(own, "own"), vector_arm(both, "all"), prompt_switch_arm(10)]
# steering_sweep(model, "happy", arms, prompts=3, seeds=1).chart()
# ```
# </details>

# %% [markdown]
# **Limits.** One small model of rendered music; a judge that is a classifier; eight prompts an axis. The price is measured by the judge's own features, which hear
# what it was trained to hear. Localisation won in the paper's ACE-Step and lost in a replication on Stable Audio 3: measure it on your model.

# %%
import diffusers
import nnsight

print({m.__name__: m.__version__ for m in (audioscope, torch, diffusers, nnsight, alt)})
