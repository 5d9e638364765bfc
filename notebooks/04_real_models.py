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
# # 4. Real models: few layers matter in each, but not the same ones
#
# **You will see** four published atlases next to ours, and hear what a patch does to the clean run of `tiny`; large models are too large to play here.
#
# **You will learn**
#
# - what the paper found in three large models, and what its numbers cannot tell you;
# - the difference between sufficient and necessary;
# - how to run the same sweep on Stable Audio Open, and what it will cost you.
#
# **Time**: 20 minutes; it runs in about 1. **Before this**: [3. The concept atlas](03_concept_atlas.ipynb).

# %%
import warnings

import altair as alt
import pandas as pd

import audioscope
from audioscope import datasets
from audioscope.datasets import published

audioscope.show_charts()
REAL = False  # True runs the last part on the real weights of Stable Audio Open: it needs a GPU, 5 GB, and a license accepted on the hub

# %% [markdown]
# ## Three large models, three narrow places
# The paper (TADA, arXiv 2602.11910) published 1,296 impacts: for each concept and layer, how far this one layer moves a run of the corrupted prompt when it
# reads the clean prompt. `published` returns them in the form of our own atlases. The paper published no intervals and cut off values below zero.

# %%
papers = {name: published(name) for name in ("ace-step", "stable-audio-open", "audioldm2-large")}
for atlas in papers.values():
    print(atlas, "\n")

# %% [markdown]
# Another group repeated the swap on Stable Audio 3, which has the same architecture as `tiny`, and published the means over ten concepts. Its functional layers are <!--=published.stable-audio-3.functional-->3, 6 and 7<!--/-->.

# %%
third = published("stable-audio-3")
assert third.layer_means().query("functional")["layer"].tolist() == [3, 6, 7]
third

# %% [markdown]
# A layer counts as functional when its mean impact over the concepts is at least 2.5 / L for L layers. At L = 24, that is the paper's threshold of .10.
# On all three models, the rule gives exactly the layers that the paper names.

# %%
functional = {name: atlas.layer_means().query("functional")["layer"].tolist() for name, atlas in papers.items()}
assert functional == {
    "ace-step": [6, 7], "stable-audio-open": [11, 12, 13], "audioldm2-large": [44, 45, 46, 47, 48, 49, 50],
}  # fmt: skip
functional

# %%
papers["stable-audio-open"].chart()

# %% [markdown]
# ## By relative depth, each model has its own place
# Layer 12 of 24 and layer 6 of 12 are both halfway. Each bar is a mean impact times the number of layers, so 1 would be an equal share.

# %%
mine = datasets.atlas()
everyone = {"tiny": mine, "stable-audio-3": third, **papers}
depth = pd.concat(
    means.assign(
        model=name, start=means["layer"] / len(means), end=(means["layer"] + 1) / len(means), share=means["impact"] * len(means)
    )
    for name, means in ((name, atlas.layer_means()) for name, atlas in everyone.items())
)
alt.Chart(depth).mark_rect().encode(
    x=alt.X("start:Q", title="relative depth", scale=alt.Scale(domain=[0, 1])), x2="end:Q",
    y=alt.Y("share:Q", title="impact × layers"), y2=alt.datum(0),
    color=alt.Color("functional:N", title="functional", scale=alt.Scale(domain=[True, False], range=["#dc8434", "#8a8f98"])),
    row=alt.Row("model:N", title=None, sort=list(everyone)), tooltip=["model", "layer", "site", "impact"],
).properties(width=520, height=80, title="At which relative depth the text acts")  # fmt: skip

# %% [markdown]
# How similar are they? `compare` matches layers by relative depth. It gives Spearman's correlation of the impacts, and how much of the depth that functional
# layers cover is common to both.

# %%
alike = pd.DataFrame(
    {
        (one, other): everyone[one].compare(everyone[other]).set_index("concept").loc["layer means"]
        for i, one in enumerate(everyone)
        for other in list(everyone)[i + 1 :]
    }
).T
alike

# %%
between_papers = alike.loc[[(a, b) for a, b in alike.index if a in papers and b in papers], "overlap"]
assert (between_papers == 0).all(), "each model has its functional layers at a depth of its own"
assert (alike.loc["tiny", "overlap"] == 0).all(), "tiny shares none with any of them, its own architecture included"

# %% [markdown]
# The paper's three models agree that few layers matter, but not on which ones: their functional layers do not overlap at all. `tiny` shares none with Stable Audio 3 (rank correlation of the layer means <!--=published.stable-audio-3.rank-->.01<!--/-->), although the two are built alike. (On the ten concepts that the paper published for ACE-Step, `tiny`'s layer <!--=atlas.functional-->0<!--/--> has <!--=atlas.ten.listener.raw-->.24<!--/--> by the listener and <!--=atlas.ten.judge.raw-->.21<!--/--> by the judge, or clipped <!--=atlas.ten.listener.clipped-->.17<!--/--> and <!--=atlas.ten.judge.clipped-->.18<!--/-->. That
# is above or below the threshold of <!--=atlas.threshold-->.21<!--/-->, depending on how you look at it.) So an atlas is a fact about one set of weights, and the first thing to make for a new set.
#
# ## A number without an interval says little
# - **The denominators are small.** The paper's scores are similarities to a text, rounded to three decimals. Where clean and corrupted prompts differ by
#   .011 (ACE-Step, happy), one unit of rounding is 9 % of a full impact.
# - **There are no intervals.** On ACE-Step, 34 pairs per concept were enough for a stable set of layers; for a single cell, nobody knows.
# - **The rulers differ.** MuQ-MuLan scored most of ACE-Step's concepts; CLAP scored the others and both other models.
# - **AudioLDM2's map is coarse**: outside one block, many layers were patched together and share one number.

# %%
coarse = papers["audioldm2-large"].impacts().drop_duplicates("site")["coarse"]
assert coarse.sum() == 56
f"{coarse.sum()} of {len(coarse)} sites of AudioLDM2 were measured together with others"

# %% [markdown]
# ## Sufficient is not the same as necessary
# Put clean text into one layer of the corrupted run, and you test whether that layer is *sufficient*. Put corrupted text into one layer of the clean run,
# and you test whether it is *necessary*: does the concept break without it? The two need not agree: where several layers carry a concept, perhaps none of
# them is necessary.

# %%
model = audioscope.load("tiny")
both = {
    direction: audioscope.localize(model, ["bongos", "fast"], pairs=4, direction=direction)
    for direction in ("sufficient", "necessary")
}
table = pd.concat(
    atlas.impacts().query("defined").assign(direction=name)[["concept", "layer", "impact", "direction"]]
    for name, atlas in both.items()
)
sides = table.pivot(index=["concept", "layer"], columns="direction", values="impact")
sides.round(2).unstack("concept")

# %% [markdown]
# Bongos and tempo are opposite cases. Several layers each bring in much of the bongos, so no layer is missed when it alone reads the other prompt. Tempo sits
# only in layers <!--=atlas.own.fast-->1 and 2<!--/-->: each alone brings a part of it, and where one of them is told otherwise, a part is lost.

# %%
bongos, fast = sides.loc["bongos"], sides.loc["fast"]
assert bongos["sufficient"].nlargest(2).min() > 0.3 and bongos["necessary"].max() < 0.2
assert all(set(fast[side].nlargest(2).index) == {1, 2} and fast[side].nlargest(2).min() > 0.15 for side in fast)

# %% [markdown]
# ## In the clean run, you hear a patch as a loss
# Compare the clean run, the corrupted run, and the clean run in which one layer reads the corrupted prompt: choose *fast* and layer 1 or 2, then *bongos* and any
# layer.

# %%
both["necessary"].explore(model).wait()

# %%
lost = sides["necessary"].unstack("concept").max()
print(lost.round(2))
assert lost["fast"] > 0.15 and lost["bongos"] < 0.2

# %% [markdown]
# ## A one-minute plan saves a night
# The same call on a large model takes hours. `plan` times two short runs of one pair, then tells you what the whole sweep will cost and how wide the
# intervals will be.

# %%
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    few = audioscope.atlas.plan(model, ["drums", "fast"], pairs=2)
assert any("take about" in str(w.message) for w in said)
print(few, "\n", *(str(w.message) for w in said))

# %%
many = audioscope.atlas.plan(model, pairs=34)
assert many.generations == 21 * 34 * (12 + 2) and many.mean_half_width < few.mean_half_width
many

# %% [markdown]
# ## For a large model, one string changes
# That string is the name of the model. The default scorer of a real model is CLAP (`laion/larger_clap_music`, downloaded once). With
# `REAL = True`, the cell below runs on Stable Audio Open. `until_stable` stops adding pairs once the functional layers have not changed
# for that many pairs.

# %%
if REAL:
    large = audioscope.load("stabilityai/stable-audio-open-1.0")
    print(audioscope.atlas.plan(large, ["violin", "reggae", "male"], pairs=12))
    theirs = audioscope.localize(large, ["violin", "reggae", "male"], pairs=12, until_stable=4, out="atlas-stable-audio-open")
    print(theirs, theirs.compare(papers["stable-audio-open"]))

# %% [markdown]
# ## Exercise: what a mean hides
# A functional layer is one that matters on average over the concepts. In ACE-Step, one layer is as strong for *fast* as the strongest functional layer, yet it is not functional.
# Which one is it?

# %% tags=["answer"]
hidden_layer = None  # a layer number of ACE-Step

# %% jupyter={"source_hidden": true} tags=["check"]
from audioscope.course import check

fast_there = papers["ace-step"].impacts().query("concept == 'fast'").set_index("layer")["impact"]
assert fast_there[5] >= fast_there[6] > fast_there[7] and 5 not in functional["ace-step"]
check(
    hidden_layer,
    lambda layer: layer == 5,
    well="Layer 5 has an impact of .33 on fast, as much as layer 6, but little on the other concepts: a mean over concepts hides it.",
    wrong=[
        (lambda layer: layer in (6, 7), "That layer is functional: look for one that is not."),
        (
            lambda layer: 0 <= layer < 24,
            lambda layer: f"For fast, that layer has only {fast_there[int(layer)]:.2f}; the strongest functional layer has .33.",
        ),
    ],
    otherwise="ACE-Step has layers 0 to 23: take `papers['ace-step'].impacts()` and look at its rows for fast.",
    kind=int,
)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# papers["ace-step"].impacts().query("concept == 'fast'").nlargest(3, "impact")[["layer", "impact"]]
# hidden_layer = 5
# ```
# </details>

# %% [markdown]
# ## Limits
# The published numbers have no intervals and small denominators; ours come from one small model. Of the large models, only the structure was tested here: their weights were not run.
#
# ## Read next
# - [5. Steer with CAA](05_steer_with_caa.ipynb): you have found the layers; now push.
# - `audioscope sites --model NAME` shows the layers of any supported model without its weights; the page "Models and adapters" of the documentation (`docs/how-to/models.md`) shows which are supported and what was tested for each.

# %%
import diffusers
import nnsight

print({m.__name__: m.__version__ for m in (audioscope, diffusers, nnsight, alt)})
