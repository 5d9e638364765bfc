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
# # 3. The concept atlas: which layer carries which concept, and how sure that is
#
# **You will hear** single layers bring a drum kit, a tempo, a genre into a song whose words name something else.
#
# **You will learn**
#
# - how to build an atlas, from patched generations;
# - how to read it without being fooled: intervals, undefined cells, controls;
# - what the shipped atlas of `tiny` says, when in the denoising the text acts, and what self-attention adds;
# - how to send an atlas to someone: as a page with sound.
#
# **Time**: 30 minutes; it runs in about 1. **Before this**: [2. Look inside](02_look_inside.ipynb); what a confidence interval is.

# %%
import tempfile
from pathlib import Path

import altair as alt
import numpy as np
import pandas as pd
import torch

import audioscope
from audioscope import Atlas
from audioscope.page import framed
from audioscope.paths import data_folder

audioscope.show_charts()
model = audioscope.load("tiny")

# %% [markdown]
# ## An atlas is a table of patched generations
# For each counterfactual pair there are L + 2 clips: the clean prompt, the corrupted prompt, and the corrupted prompt with one layer reading the
# clean text. The *impact* of a layer is how far that one layer brings the score from corrupted (0) to clean (1).
#
# A small one, live: three concepts, three pairs. It is written unit by unit, so a run that is cut goes on where it was.

# %%
small = audioscope.localize(model, ["drums", "fast", "metal"], pairs=3, steps=8)
small

# %%
assert len(small.table[small.table["scored"] == "drums"]) == 3 * 3 * (12 + 2)
small.impacts().head()

# %% [markdown]
# ## Of 252 cells a few dozen stand out
# The shipped atlas has 21 concepts and 34 pairs each. Click a cell to hear it; beside the picture, everything works with the keyboard, too, through the menus.

# %%
atlas = Atlas.load()
atlas

# %%
atlas.explore(model)

# %%
stand_out = (atlas.impacts()["low"] > atlas.impacts()["control"]).sum()
print(f"{stand_out} of {len(atlas.impacts())} impacts lie beyond their control with the whole interval")
assert 40 < stand_out < 80

# %% [markdown]
# ## One layer passes the rule, by a small margin
# A layer is *functional* when its impact, averaged over concepts, is at least 2.5 / L and its whole interval lies above the control. In the
# paper's large models two to seven layers pass this rule. In `tiny` it is layer 0 alone, and its interval begins about where the threshold
# lies: with other prompts it might fail. It is functional through genre and percussion, not for all concepts.

# %%
means = atlas.layer_means()
means.round(3)

# %%
print("functional:", atlas.functional or "none")
top = means.loc[means["impact"].idxmax()]
print(
    f"highest mean: layer {top['layer']}, {top['impact']:.2f} [{top['low']:.2f}, {top['high']:.2f}], threshold {top['threshold']:.2f}"
)
assert [path.split(".")[2] for path in atlas.functional] == ["0"] and top["layer"] == 0
assert 0.9 * top["threshold"] < top["low"] < 1.1 * top["threshold"] and top["threshold"] < top["impact"]

# %% [markdown]
# ## Groups of concepts have layers of their own
# The mean over concepts hides who makes it up. Genre enters through layer 0 alone; tempo through layer 2; percussion through several of
# the first eight layers; saxophone, cello and flute late, in 8 to 11 at best. The same rule for one concept gives its *own layers*.

# %%
impacts = atlas.impacts()
defined = impacts[impacts["defined"]]
by_group = defined.groupby(["group", "layer"])["impact"].mean().unstack()
by_group.round(2)

# %%
assert by_group.loc["genre", 0] > 0.4 and by_group.loc["genre", 1:].max() < 0.1
assert by_group.loc["tempo"].idxmax() == 2 and by_group.loc["tempo", 3:].max() < 0.1
assert (by_group.loc["percussion", :7] > 0.1).sum() >= 4 and by_group.loc["lead"].idxmax() == 9
own = {concept: atlas.own_layers(concept) for concept in atlas.concepts}
numbers = {concept: {int(path.split(".")[2]) for path in paths} for concept, paths in own.items()}
assert all(numbers[late] and min(numbers[late]) >= 8 for late in ("saxophone", "cello", "flute"))
print({concept: [path.split(".")[2] for path in paths] for concept, paths in own.items() if paths})
assert all("transformer_blocks.0." in own[genre][0] and len(own[genre]) == 1 for genre in ("reggae", "metal", "opera", "jazz"))

# %% [markdown]
# ## The text acts in the middle of the denoising
# Patch a layer only in the first, the middle or the last third of the steps (`localize(..., when="middle")`), and most of its effect comes from the
# middle: the early third decides little, though it sees the most noise, and the late third only polishes. The middle third has the strongest layer of the whole; early, another layer comes first. These maps ship with 12 pairs each; `localize` with
# `when` makes them.

# %%
thirds = {
    each.settings["when"]: each.layer_means().set_index("layer") for each in audioscope.shipped_maps() if each.settings["when"]
}
by_third = pd.DataFrame({name: means_of["impact"] for name, means_of in thirds.items()})
by_third.assign(all_steps=means.set_index("layer")["impact"]).round(3)

# %%
strongest = means.nlargest(2, "impact")["layer"].tolist()
assert (by_third.loc[strongest].idxmax(axis=1) == "middle").all()
assert thirds["middle"].loc[0, "low"] > max(thirds["early"].loc[0, "high"], thirds["late"].loc[0, "high"])
assert by_third["middle"].idxmax() == means.set_index("layer")["impact"].idxmax() == 0 and by_third["early"].idxmax() != 0
print("layer 0, the thirds added up:", by_third.loc[0].sum().round(3), "and all steps at once:", means.loc[0, "impact"].round(3))

# %% [markdown]
# ## The scale hardly matters: log-odds and probabilities tell one story
# The same impacts on the probability scale. Do both scales give the same functional set?

# %%
by_probability = atlas.layer_means("probability")
print("log-odds:   ", means.loc[means["functional"], "layer"].tolist() or "none")
print("probability:", by_probability.loc[by_probability["functional"], "layer"].tolist() or "none")
agreement = np.corrcoef(means["impact"], by_probability["impact"])[0, 1]
assert agreement > 0.8 and (means["functional"] == by_probability["functional"]).all()

# %% [markdown]
# ## A swap of other concepts should not move this one: the control
# Every clip is scored on every concept, so the control costs nothing. It is how much swaps of *unrelated* concepts move a concept's score,
# over the concept's own denominator. In the heatmap it is the blue band.

# %%
shown = impacts.dropna(subset="control")
print(
    f"median control {shown['control'].median():.3f}, median impact of a concept's best layer {defined.groupby('concept')['impact'].max().median():.2f}"
)
assert shown["control"].median() < 0.05

# %% [markdown]
# ## A best layer is reported on pairs that did not choose it
# To choose a concept's best layer and report its impact on the same pairs would flatter it. So `examples` chooses on half of the pairs and
# reports the other half.

# %%
best = atlas.examples()[["concept", "layer", "impact"]].merge(impacts[["concept", "layer", "control"]], on=["concept", "layer"])
best.round(2)

# %%
beyond = (best["impact"] > best["control"]).mean()
print(f"{beyond:.0%} of the concepts have a best layer beyond the control, on pairs that did not choose it")
assert 0.5 < beyond < 1  # most have, but not all: some concepts need many layers at once

# %% [markdown]
# ## More training moved the numbers, not the map
# `data/atlas/before.csv` holds the impacts of `tiny` about an hour of training earlier. Each point is
# one concept at one layer. The map stayed: correlation .97, and nearly every concept has the
# same strongest layer.

# %%
before = pd.read_csv(data_folder() / "atlas" / "before.csv")
both = impacts.merge(before[before["defined"]], on=["concept", "layer", "group"], suffixes=("", "_before"))
both = both[both["defined"]]
agreement = both[["impact", "impact_before"]].corr().iloc[0, 1]
moved = both.loc[both.groupby("concept")["impact"].idxmax()].set_index("concept")["layer"]
first = both.loc[both.groupby("concept")["impact_before"].idxmax()].set_index("concept")["layer"]
print(
    f"correlation of the two atlases: {agreement:.2f}; the strongest layer is the same for {(moved == first).sum()} of {len(moved)}"
)
alt.Chart(both, title="Impact of one layer on one concept").mark_point().encode(
    x=alt.X("impact_before:Q", title="an hour earlier"),
    y=alt.Y("impact:Q", title="this version"),
    color=alt.Color("group:N", scale=alt.Scale(scheme="tableau10")),
    shape="group:N",
    tooltip=["concept", "layer", "impact_before", "impact"],
).properties(width=320, height=320, description="Impacts of all concepts and layers in two versions of the model")

# %%
assert len(both) == 12 * both["concept"].nunique() and agreement > 0.95 and (moved == first).sum() >= 17

# %% [markdown]
# ## Undefined is not zero
# Where clean and corrupted clips do not differ, a ratio has nothing to divide by. Such concepts are flagged and grey, never coloured.

# %%
undefined = sorted(set(atlas.concepts) - set(defined["concept"]))
print("undefined:", undefined or "none")
assert impacts.loc[~impacts["defined"], "impact"].isna().all()

# %% [markdown]
# ## Single layers do not add up to one
# All layers together reach 1 by construction (the swap at every site is the clean run). The sum of single layers tells how much they overlap
# (above 1: any of several layers will do, as for drums) or need each other (below 1: sad, happy, trombone and xylophone come only when
# many layers say so; no single layer shows anything).

# %%
sums = atlas.additivity()
total = sums.set_index("concept")["sum_of_single"]
assert total["drums"] > 1.5 and total[["sad", "happy", "trombone", "xylophone"]].max() < 0.3
alt.Chart(sums, title="Impacts of single layers added up").mark_point(filled=True).encode(
    x=alt.X("sum_of_single:Q", title="sum of single-layer impacts"),
    y=alt.Y("concept:N", sort="-x"),
    tooltip=["concept", "sum_of_single"],
).properties(width=380, description="Sum of the single-layer impacts of each concept; all layers together give 1")

# %% [markdown]
# ## A score is a promise: listen
# Clean, corrupted, and corrupted with the best layer patched. The layer was chosen on half of the pairs, the clip comes from the other half.

# %%
atlas.play(defined["concept"].iloc[0])

# %% [markdown]
# ## An atlas can be sent as one file, with its sound
# All of it in one file, to send: click a cell to hear it, press A, B and X to switch between clean, corrupted and patched while the music goes on, and
# the box beside says how sure the number is and which code makes the clips again. `save_site` writes a folder for a web server; `make atlas` ends in one.

# %%
file = small.save_html(Path(tempfile.mkdtemp()) / "atlas.html", [atlas], progress=False)
framed("The atlas as a page", file.read_text(), 900)

# %%
assert file.stat().st_size < 12_000_000
print(f"{file}: {file.stat().st_size / 1e6:.1f} MB")

# %% [markdown]
# ## Self-attention carries concepts, too, once they are in
# Self-attention has no text to swap, so its *output* is copied from the clean run, from the row beside it in the same batch.

# %%
inner = audioscope.localize(model, ["drums", "fast"], pairs=3, patch="output", sites="self", steps=8)
inner.impacts().pivot(index="concept", columns="layer", values="impact").round(2)

# %%
assert {s.kind for s in inner.sites} == {"self"}
assert inner.impacts().query("concept == 'drums'")["impact"].max() > 0.5

# %% [markdown]
# ## Exercise 1: one layer, two concepts
# In the shipped atlas: which layer, given the clean text alone, moves *drums* the most? And which one *fast*? Answer with the two layers in a tuple, drums first.

# %% tags=["answer"]
best_layers = None  # (layer of drums, layer of fast)

# %% jupyter={"source_hidden": true} tags=["check"]
from audioscope.course import check

strongest = defined.loc[defined.groupby("concept")["impact"].idxmax()].set_index("concept")["layer"]
assert (strongest["drums"], strongest["fast"]) == (0, 2)
check(
    best_layers,
    lambda pair: tuple(pair) == (0, 2),
    well="Drums are loudest from layer 0, tempo sits in layer 2: a concept has layers of its own.",
    wrong=[
        (lambda pair: tuple(pair) == (2, 0), "The other way round: drums come first."),
        (lambda pair: pair[0] == 2, "Layer 2 brings drums, too (.58), but another layer brings more."),
        (lambda pair: pair[1] == 1, "Layer 1 has a part of tempo (.17), layer 2 twice as much."),
    ],
    otherwise="Take the rows drums and fast of `impacts`, and the largest impact of each.",
    kind=(tuple, list),
)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# best = defined.loc[defined.groupby("concept")["impact"].idxmax()].set_index("concept")["layer"]
# best_layers = (best["drums"], best["fast"])
# ```
# </details>

# %% [markdown]
# ## Exercise 2: a concept of your own
# Make an atlas of your own pairs: three sentences with *piano* against the same with *guitar*. (`localize` takes a DataFrame with the columns concept, clean and corrupted.)
# Then say what you may conclude from it.

# %% tags=["answer"]
mine = None  # an Atlas


# %% jupyter={"source_hidden": true} tags=["check"]
def strongest_of(atlas):
    """The strongest layer of an atlas with one concept, in words."""
    row = atlas.impacts().query("concept == 'piano'").nlargest(1, "impact").iloc[0]
    verdict = (
        "holds 0, so nothing is known yet"
        if row["low"] <= 0
        else "does not hold 0: more than three pairs give by chance; try others"
    )
    return f"The strongest is layer {row['layer']}, {row['impact']:.2f} [{row['low']:.2f}, {row['high']:.2f}]: the interval {verdict}."


def is_ours(atlas):
    prompts = atlas.table[["clean_prompt", "corrupted_prompt"]].astype(str).drop_duplicates()
    here = prompts["clean_prompt"].str.contains("piano") & prompts["corrupted_prompt"].str.contains("guitar")
    return "piano" in atlas.concepts and atlas.settings["pairs"] >= 3 and here.all()


check(
    mine,
    is_ours,
    well=(strongest_of(mine) if isinstance(mine, Atlas) and "piano" in mine.concepts else "")
    + " Three pairs are few; `audioscope.plan` says how many it takes.",
    wrong=[
        (
            lambda atlas: "guitar" in atlas.concepts,
            "The concept is what the clean prompts have: name it piano, and put guitar into the corrupted ones.",
        ),
        (
            lambda atlas: "piano" in atlas.concepts and atlas.settings["pairs"] < 3,
            "Ask for all three: localize(model, pairs, pairs=3).",
        ),
        (lambda atlas: "piano" in atlas.concepts, "The clean prompts are to have piano, the corrupted ones guitar in its place."),
    ],
    otherwise="Give the atlas that `localize` returns, with the concept 'piano' from three pairs.",
    kind=Atlas,
)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# pairs = pd.DataFrame({"concept": "piano", "clean": [f"a {kind} song with piano" for kind in ("jazz", "pop", "slow")]})
# pairs["corrupted"] = pairs["clean"].str.replace("piano", "guitar")
# mine = audioscope.localize(model, pairs, pairs=3)
# mine.impacts()[["layer", "impact", "low", "high"]]
# ```
# </details>

# %% [markdown]
# ## Limits
# The atlas measures what a layer's text is sufficient for; impacts of concepts that the model holds badly have wide intervals; the listener is a classifier and can be
# fooled. The paper used 34 pairs and published no intervals.
#
# ## Read next
# - [4. Real models](04_real_models.ipynb): the same map of three large models.
# - [8. Your own music](08_your_own_music.ipynb), if you came with a concept of your own.
# - `audioscope atlas --help`: the same on the command line, for a night's run.

# %%
import diffusers
import nnsight

print({m.__name__: m.__version__ for m in (audioscope, torch, diffusers, nnsight, alt)})
