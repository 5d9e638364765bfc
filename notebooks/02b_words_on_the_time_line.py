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
# # 2b. Words on the time line: attention shows where a layer looks, not what comes of it
#
# **You will hear** a song from which one word after another is cut out while it plays.
#
# **You will learn**
#
# - how to read attention maps: words over time, by layer, head and step;
# - what else a layer looks at: padding, ends, the duration;
# - how to mute a word at some layers, in phase with the song as it is;
# - whether words look where their part sounds, and how far a map goes with what a layer does.
#
# **Time**: 20 minutes; it runs in about 1. **Before this**: [2. Look inside](02_look_inside.ipynb).

# %%
import altair as alt
import numpy as np
import pandas as pd
import torch
from scipy import stats

import audioscope
from audioscope import MuteWord, PatchOutput, Row, datasets
from audioscope.pages import show_attention
from audioscope.scoring import listener_scorer

audioscope.show_charts()
model = audioscope.load("tiny")
prompt = "a slow happy jazz song with female vocals, saxophone and drums"

# %% [markdown]
# ## Every moment of the music looks at every word
# In cross-attention, each moment of the music divides its attention among the words: the weights of a moment add up to 1. `model.attention` reads them while a clip is made, and changes nothing. Without more words, it
# averages over layers, heads and steps; `by` tells them apart.

# %%
attention = model.attention(prompt, by="layer")
print(attention)
assert attention.values.shape[0] == 12 and np.allclose(attention.values.sum(1), 1, atol=1e-4)
attention.chart()

# %% [markdown]
# ## Most of the attention goes to no word at all
# A prompt is padded to a fixed length, and each padding token gets a share. Together they get most of it. Nothing is wrong with that, but a map that hides these rows would look as if the words got everything.

# %%
mean = pd.Series(attention.values.mean((0, 2)), index=[*attention.words, *attention.others])
print(mean.round(3).to_string())
assert mean["(padding)"] > 0.5 > mean[attention.words].sum()

# %% [markdown]
# The tokens of padding are alike, and may bring little. `kind="values"` weights each look by the norm of what the token can add to the layer's output.

# %%
added = model.attention(prompt, by="layer", kind="values")
by_value = pd.Series(added.values.mean((0, 2)), index=[*added.words, *added.others])
assert by_value["saxophone"] / by_value["(padding)"] > 5 * mean["saxophone"] / mean["(padding)"]
added.chart()

# %% [markdown]
# ## You can hear what a word brings
# Press a word: its tokens then add nothing, in any layer, and all else stays as it is. The clips play in phase, so you hear the difference where it happens. Sliders choose a layer and a denoising step; everything works
# from the keyboard, too.

# %%
show_attention(model, prompt)

# %% [markdown]
# That page was made in advance. This widget cuts a word out at one layer, or at one head of it, as you ask:

# %%
told_apart = model.attention(prompt, by=("layer", "head", "step"), kind="values")
told_apart.play(model)

# %% [markdown]
# In code, this is an edit. Muted in all layers, the word is nearly gone from the prompt; nearly, because the text encoder has told the other tokens of it.

# %%
plain, without, other = model.generate(prompt, seed=0), model.generate(prompt, seed=0, edits=MuteWord("cross", "saxophone")), None
other = model.generate(prompt, seed=0, edits=MuteWord("cross", "with"))


def distance(one, two):
    """Mean difference between two clips' spectrograms, in dB."""
    return float(np.abs(one.spectrogram() - two.spectrogram()).mean())


print({"without saxophone": round(distance(plain, without), 2), "without with": round(distance(plain, other), 2)})
assert distance(plain, without) > 2 * distance(plain, other)

# %% [markdown]
# ## Gradients tell where a word counts
# Where would it hurt the concept most to mute the word? `kind="score"` weights each look by what it brings to the listener's score of a concept: the look, times what the token adds, times the slope of the score there, which one
# generation, followed backward, gives for all layers, steps and moments at once. Compare what it predicts for each layer, and what the plain maps would say, with muting the word in one layer after another.


# %%
def predicted_and_heard(name):
    """By layer: what the word brings to the score, how much the layer looks at it, and the loss when it is muted there."""
    pair = concepts[name].pairs[0]
    seed = concepts[name].seed(pair, 0)
    brings = model.attention(pair.clean, seed, by="layer", kind="score", concept=name)
    looks = model.attention(pair.clean, seed, by="layer", kind="values").of(name).mean(-1)
    rows = [Row(pair.clean, seed), *(Row(pair.clean, seed, (MuteWord(layer, name),)) for layer in range(12))]
    scores = listener_scorer()(model.run(rows).audio, model.rate)[name]
    brought = brings.of(name).sum(-1) + brings.of(name, memory=True).sum(-1)
    return pd.DataFrame({"brings": brought, "looks": looks, "lost": scores[0] - scores[1:].to_numpy()})


concepts = datasets.concepts()
predicted = {name: predicted_and_heard(name) for name in ("fast", "happy", "metal", "violin")}
ranks = pd.DataFrame({name: table.corr("spearman")["lost"] for name, table in predicted.items()}).T[["brings", "looks"]]
print(ranks.round(2).to_string())
assert ranks["brings"].mean() > 0.7 and ranks["brings"].mean() > ranks["looks"].mean() + 0.2

# %% [markdown]
# For these four words, one clip each, the ranks of what a word brings are much like those of what is lost without it, and looks alone know less. This is an illustration, not a test; and it holds for small changes: what comes of a large one, only trying it tells.

# %% [markdown]
# ## A voice's word looks where the voice is; percussion's looks away
# The renderer of `tiny`'s music knows when each part sounds. So 120 songs were rendered in which two parts enter and stop: a lead or a voice, and percussion. The denoiser looked at each, at the noise level of every step, with a caption that names both
# (`audioscope.tiny.pointing`). Does a word's map tell the moments in which its part sounds? The area under the ROC curve (AUROC) is 1 if it always does, one half for a map that knows nothing, and less if it looks away.


# %%
def mean_with_interval(values):
    """The mean over songs, and its 95 % interval."""
    mean = float(np.mean(values))
    return mean, *stats.t.interval(0.95, len(values) - 1, mean, stats.sem(values))


points = datasets.pointing()
averaged = (
    points.groupby(["part", "song"], observed=True)["averaged"].first().groupby("part", observed=True).agg(mean_with_interval)
)
print("maps averaged over layers and steps:", averaged.map("{0[0]:.2f} [{0[1]:.2f}, {0[2]:.2f}]".format).to_string(), sep="\n")
assert averaged["percussion"][2] < 0.5 < min(averaged["lead"][1], averaged["voice"][1])

# %%
means = points.groupby(["part", "layer", "step"], observed=True)["auroc"].mean().reset_index()
alt.Chart(means, title="Does a word's map tell when its part sounds?").mark_rect().encode(
    x=alt.X("step:O", title="denoising step"), y=alt.Y("layer:O", sort="descending"),
    color=alt.Color("auroc:Q", title="AUROC", scale=alt.Scale(scheme="purpleorange", domain=[0.2, 0.8], domainMid=0.5)),
    column=alt.Column("part:N", title=None), tooltip=["part", "layer", "step", alt.Tooltip("auroc:Q", format=".2f")],
).properties(width=200, height=220, description="AUROC of a word's map for the moments in which its part sounds, by layer and step, one panel each for lead, percussion and voice")  # fmt: skip

# %% [markdown]
# A voice's word looks where the voice is, in nearly all layers, once the clip is no longer noise; a lead's in fewer. The word of the percussion looks *away* from its sound in most layers: who reads that map as "here are the drums" is wrong.
#
# But is it the word that knows? The map of the song's *other* word is the control: averaged, it has <!--=pointing.voice.averaged.other-->.49 [.45, .54]<!--/--> for a voice, <!--=pointing.lead.averaged.other-->.49 [.45, .54]<!--/--> for a lead and <!--=pointing.percussion.averaged.other-->.46 [.43, .49]<!--/--> for percussion, so the word itself is worth <!--=pointing.voice.averaged.more-->.20 [.15, .24]<!--/-->, <!--=pointing.lead.averaged.more-->.16 [.11, .21]<!--/--> and <!--=pointing.percussion.averaged.more-->−.04 [−.08, .00]<!--/-->. Of the cells, a layer and a step each, <!--=pointing.percussion.away-->35<!--/--> look away from percussion and <!--=pointing.percussion.toward-->9<!--/--> look toward it (Holm over the cells); <!--=pointing.percussion.below-->19<!--/--> look away more than the other word does, and <!--=pointing.percussion.above-->3<!--/--> less.
#
# So some cells look right for percussion. But with <!--=pointing.cells-->120<!--/--> cells, a layer and a step each, the best of them looks good by luck, too: so half of the songs choose the cell, and the other half tell what it is worth. The control is the map of the song's other word.

# %%
chooses = points["song"] % 4 < 2  # of each kind of song, every other one
cells = points[chooses].groupby(["part", "layer", "step"], observed=True)["auroc"].mean()
lines = {}
for part, (_, layer, step) in cells.groupby("part", observed=True).idxmax().items():
    best = points[~chooses & (points["part"] == part) & (points["layer"] == layer) & (points["step"] == step)]
    own, other, more = (mean_with_interval(values) for values in (best["auroc"], best["other"], best["auroc"] - best["other"]))
    lines[part] = {"layer": layer, "step": step, "songs": len(best), "own": own, "other": other, "more": more}
pointed = pd.DataFrame(lines).T
print(pointed.map(lambda cell: "{:.2f} [{:.2f}, {:.2f}]".format(*cell) if isinstance(cell, tuple) else cell).to_string())
assert all(own[1] > 0.6 and more[1] > 0 for own, more in zip(pointed["own"], pointed["more"], strict=True))

# %% [markdown]
# Each of the three cells holds beside the other word in these halves. With the songs halved at random 200 times, the chosen cell does so in <!--=pointing.voice.halves-->100 %<!--/--> of the halvings for a voice, in <!--=pointing.percussion.halves-->100 %<!--/--> for percussion, and in <!--=pointing.lead.halves-->76 %<!--/--> for a lead, which is therefore not sure. So before you read a map, ask songs whose truth you know which cell to read.
#
# ## Attention is not explanation
# Does a layer that looks at a concept's word carry the concept? The atlas (notebook 3) knows what each layer carries, by patching. Compare: for each concept, how much each layer looks at the word that makes the difference,
# and how much the layer carries; then the rank correlation over the twelve layers.

# %%
impacts = datasets.atlas().impacts().query("defined")
carried = impacts.pivot(index="concept", columns="layer", values="impact")


def looks(pair, seed):
    """How much each layer looks at the words that only the clean prompt has: the music's tokens, and the memory's."""
    found = model.attention(pair.clean, seed, by="layer", kind="values")
    others = {word.lower() for word in pair.corrupted.replace(",", " ").split()}
    own = [number for number, word in enumerate(found.words) if word.lower() not in {*others, "a", "an"}]
    return [sum(found.of(number, memory) for number in own).mean(-1) for memory in (False, True)]


both = {name: looks(concepts[name].pairs[0], concepts[name].seed(concepts[name].pairs[0], 0)) for name in carried.index}
looked, by_memory = (pd.DataFrame({name: each[part] for name, each in both.items()}).T for part in (0, 1))
agreement = looked.T.corrwith(carried.T, method="spearman")
mixed = pd.Series(
    [
        looked.T.corrwith(
            carried.T.set_axis(np.random.default_rng(i).permutation(carried.index), axis=1), method="spearman"
        ).mean()
        for i in range(200)
    ]
)
draws = [agreement.sample(frac=1, replace=True, random_state=i).mean() for i in range(1000)]
low, high = np.quantile(draws, [0.025, 0.975])
chance = (1 + (mixed >= agreement.mean()).sum()) / (1 + len(mixed))  # of concepts exchanged at random
print(f"mean rank correlation {agreement.mean():.2f} [{low:.2f}, {high:.2f}]; exchanged {mixed.mean():.2f} (p = {chance:.3f})")
same = (looked.to_numpy().argmax(1) == carried.to_numpy().argmax(1)).sum()
print(f"the layer that looks most is the layer that carries most for {same} of {len(carried)} concepts")
assert 0.1 < agreement.mean() < 0.7 and chance < 0.05 and same < len(carried) / 2

# %%
alt.Chart(agreement.rename("correlation").rename_axis("concept").reset_index(), title="Do layers look where they act?").mark_bar().encode(
    x=alt.X("correlation:Q", title="rank correlation of attention and impact, over layers"),
    y=alt.Y("concept:N", sort="-x"), tooltip=["concept", alt.Tooltip("correlation:Q", format=".2f")],
).properties(width=380, description="Rank correlation between attention to a concept's word and its impact over layers, by concept")  # fmt: skip

# %% [markdown]
# They go together, more than with the layers of concepts exchanged at random, but loosely: for most concepts, the layer that looks most is not the layer that carries most. A layer may look early, when the clip is noise, or look and do little with it. So use maps to
# ask, and patches to answer.
#
# `tiny` has four memory tokens, which come before those of the music. A genre goes through them: patched at the memory alone, the layer that carries most of metal brings nearly as much as when it is patched whole. Do the memory tokens at least look where they carry?

# %%
through_memory = by_memory.T.corrwith(carried.T, method="spearman")
print(f"mean rank correlation of the memory's looks: {through_memory.mean():.2f}")
assert through_memory.mean() < agreement.mean() and by_memory.loc["metal"].argmax() != carried.loc["metal"].argmax()

metal, layer = concepts["metal"].pairs[0], model.sites[int(carried.loc["metal"].argmax())]
rows = [Row(text, concepts["metal"].seed(metal, 0)) for text in (metal.clean, metal.corrupted)]
rows += [Row(metal.corrupted, rows[0].seed, (PatchOutput(site, metal.clean),)) for site in (layer, *layer.memory)]
heard = pd.Series(
    listener_scorer()(model.run(rows).audio, model.rate)["metal"].tolist(), ["clean", "corrupted", "the layer", "its memory"]
)
print(heard.round(1).to_string())
assert min(heard[["the layer", "its memory"]]) > heard["corrupted"] + 0.6 * (heard["clean"] - heard["corrupted"])

# %% [markdown]
# They do not: how much a token looks says little of what it makes of it.
#
# ## Exercise: looking and carrying
# Take *reggae*. Which layer looks at the word most, by `looked`? And which layer carries it most, by `carried`? Answer with the two layers in a tuple, looking first.

# %% tags=["answer"]
reggae = None  # (layer that looks most, layer that carries most)

# %% jupyter={"source_hidden": true} tags=["check"]
from audioscope.course import check

truth = int(np.argmax(looked.loc["reggae"])), int(carried.loc["reggae"].idxmax())
assert truth[0] != truth[1] and carried.loc["reggae"].max() > 3 * carried.loc["reggae", truth[0]]  # beyond doubt
check(
    reggae,
    lambda pair: tuple(pair) == truth,
    well=f"Layer {truth[0]} looks at the word most, but layer {truth[1]} carries most of reggae ({carried.loc['reggae'].max():.2f}; layer {truth[0]} {carried.loc['reggae', truth[0]]:.2f}).",
    wrong=[
        (lambda pair: tuple(pair) == truth[::-1], "The other way around: looking comes first."),
        (
            lambda pair: pair[0] == pair[1],
            "They are two different layers. One answer comes from `looked`, the other from `carried`.",
        ),
        (
            lambda pair: pair[0] == truth[0],
            "Right about looking. For carrying, take the row for reggae in `carried`, and find the largest impact.",
        ),
    ],
    otherwise="Take the rows for reggae in `looked` and in `carried`, and find the largest value of each.",
    kind=(tuple, list),
)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# reggae = int(np.argmax(looked.loc["reggae"])), int(carried.loc["reggae"].idxmax())
# ```
# </details>

# %% [markdown]
# ## Limits
# One pair and one seed of each concept were read here. A word's token holds more than the word, since the text encoder mixes them; muting a token therefore removes a part of what the word does, and a part of what its neighbors
# do. In models that subtract two attentions (Stable Audio 3), weights are signed and do not add up to 1. A model whose attention is computed elsewhere than in torch shows no weights, and says so.
#
# ## Read next
# - [3. The concept atlas](03_concept_atlas.ipynb): what each layer carries.
# - The how-to "Inside a layer" in the documentation; `audioscope attention --help` on the command line.
# - S. Jain and B. C. Wallace, "Attention is not Explanation" (2019).

# %%
import diffusers
import nnsight

print({m.__name__: m.__version__ for m in (audioscope, torch, diffusers, nnsight, alt)})
