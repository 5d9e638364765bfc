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
# # 9. Known answers: a map is worth what it finds where the truth is known
#
# **You will hear** a song whose words reach one layer only, steered there and elsewhere.
#
# **You will learn**
#
# - how to plant a concept in a layer, so that the right map is known;
# - that the atlas finds it, and that the check can fail;
# - how each kind of patch is fooled by layers that work together, and how the other kind repairs it;
# - when steering at the right layers pays, and when it does not.
#
# **Time**: 30 minutes; it runs in about 2. **Before this**: [3. The concept atlas](03_concept_atlas.ipynb) and [5. Steer with CAA](05_steer_with_caa.ipynb).

# %%
from dataclasses import replace

import altair as alt
import pandas as pd
import torch

import audioscope
from audioscope import Row, datasets
from audioscope.scoring import listener_scorer
from audioscope.steer import vector_method
from audioscope.tiny import planted

audioscope.show_charts()
model = audioscope.load("tiny")
shipped = datasets.atlas()

# %% [markdown]
# ## Nobody knows the right map of a trained model
# An atlas says which layers carry a concept. Is it right? For a trained model, nobody can say: there is nothing to compare it with but other methods. So make a model whose map is known. `planted` lets the words of a concept reach only the layers that
# you choose; all others read the same prompt without these words. The weights stay those of `tiny`.
#
# Take the concept that one layer moves most, and plant it right there.

# %%
strongest = shipped.impacts().query("defined").nlargest(1, "impact").iloc[0]
name, layer = strongest["concept"], int(strongest["layer"])
concept = datasets.concepts()[name]
few = replace(concept, pairs=concept.split("localize")[:4])
print(f"planted: {name}, in layer {layer} ({strongest['site']}), where it has an impact of {strongest['impact']:.2f} otherwise")

# %% [markdown]
# ## The atlas finds what was planted
# Patch each layer, as in notebook 3. The impact must be 1 in the planted layer and 0 in all others, to rounding.

# %%
how = {"pairs": 4, "steps": 8, "clips": False, "progress": False}


def mapped(plan, needs="each", direction="sufficient", sites="cross"):
    """The map of the concept, while it is planted in some layers."""
    with planted(model, {few: plan}, needs):
        return audioscope.localize(model, [few], sites=sites, direction=direction, **how)


found = mapped([layer])
impacts = found.impacts().set_index("layer")["impact"]
print(impacts.round(3).to_string())
assert abs(impacts[layer] - 1) < 1e-3 and impacts.drop(layer).abs().max() < 1e-3
assert found.own_layers(name) == [strongest["site"]]

# %% [markdown]
# That is the least that one may ask of a map: it names the right layer, and no other. `Atlas.concentration` says the same in one number, the share of the strongest layer in all impacts: 1 here, and less where the concept is spread.

# %%
print(
    f"concentration of {name}: {found.concentration()[name]:.2f} when planted, {shipped.concentration()[name]:.2f} in tiny itself"
)
assert found.concentration()[name] > 0.999 > shipped.concentration()[name]

# %% [markdown]
# A map of six such concepts ships, each planted in one of its two strongest layers, drawn by lot. The dashed cells are the right answers.

# %%
known = datasets.planted()["planted"]
known.chart()

# %%
cells = known.impacts()
assert cells["defined"].all() and (cells["impact"] - cells["planted"]).abs().max() < 1e-2
known.play("metal")

# %% [markdown]
# ## A check that cannot fail says nothing
# Plant it elsewhere, and the same check must fail. In the layer next to it, the words arrive, but the weights may have no use for them: then the concept cannot be heard, the clean and the corrupted prompt give the same music, and there is nothing to divide
# by. The atlas must say so, and not make up a number.

# %%
weak = int(shipped.impacts().query("concept == @name and defined").sort_values("impact", key=abs)["layer"].iloc[0])
elsewhere = mapped([weak], sites=[layer, weak]).impacts().set_index("layer")
print(elsewhere[["impact", "low", "high", "defined"]].round(2).to_string())
assert not elsewhere["defined"].any() or abs(elsewhere["impact"][layer]) < 1e-3

# %% [markdown]
# ## Fooled by AND, fooled by OR
# So far each layer worked by itself. Now plant the concept in two layers that need each other: the later one plays it only if *both* are given the words ("all"). Patch one of them into the corrupted run, and nothing happens, since the other still has the
# wrong words. Taken at its word, the map says that no layer carries the concept.

# %%
late = shipped.impacts().query("defined and layer > 5").nlargest(1, "impact").iloc[0]
name_2, last = late["concept"], int(late["layer"])
few, how["pairs"] = replace(datasets.concepts()[name_2], pairs=datasets.concepts()[name_2].split("localize")[:6]), 6
pair_of_layers, other = [2, last], 5
lines = []
for needs in ("all", "any"):
    for direction in ("sufficient", "necessary"):
        table = mapped(pair_of_layers, needs, direction, [*pair_of_layers, other]).impacts()
        lines.append(table.assign(needs=needs, direction=direction)[["needs", "direction", "layer", "impact"]])
both = pd.concat(lines)
table = both.pivot(index=["needs", "direction"], columns="layer", values="impact")
print(f"{name_2}, planted in layers 2 and {last}:", table.round(3).to_string(), sep="\n")

# %%
for needs, finds in (("all", "necessary"), ("any", "sufficient")):
    misses = {"necessary": "sufficient", "sufficient": "necessary"}[finds]
    assert (table.loc[(needs, finds), pair_of_layers] - 1).abs().max() < 1e-3  # found
    assert table.loc[(needs, misses)].abs().max() < 1e-3  # missed, both of them
assert table[other].abs().max() < 1e-3  # and a layer that has nothing to do with it is never named

# %% [markdown]
# The sufficient patch (one layer gets the clean words) misses an AND; the necessary patch (one layer gets the corrupted words) finds it: take the words from either layer, and the concept is gone. With an OR it is the other way around: either layer alone
# brings the concept, and neither is needed. So a layer that one kind of patch does not name may still matter: run both.
#
# ## In six songs with a planted layer, steering there beats steering everywhere
# The paper's second claim is that steering works better at the right layers than everywhere. If the claim is about concepts that *sit* in few layers, it should hold most where we know that they do. Steer the planted concept with the same vector in three ways: at its layer; at all
# layers with norm 1, as in the paper; and at all layers in natural lengths, which add little where the concept changes nothing. Each strength is set so that the clip is as far from the unsteered song as rewriting its prompt makes it (`calibrate`, as in notebook 5).

# %%
with planted(model, {concept: [layer]}):
    natural = audioscope.caa(model, name, "cross", pairs=24, normalize=False, progress=False)
    unit = natural.unit()
    methods = [
        vector_method(unit.only([strongest["site"]]), "own"),
        vector_method(unit, "all"),
        vector_method(natural, "all, natural lengths"),
    ]
    prices = audioscope.steer.calibrate(model, name, methods, prompts=2, progress=False).query("side == 1").set_index("cell")
    rows = []
    for test in concept.split("test")[:6]:
        edits = [(), *(method.on(test, prices["strength"][method.cell], 0) for method in methods)]
        rows += [Row(test.neutral, concept.seed(test), each) for each in edits] + [Row(test.clean, concept.seed(test))]
    clips = model.clips(rows)
print(prices[["strength", "distance", "budget", "reached"]].round(3).to_string())
audioscope.show_clips(*clips[:5])

# %%
judge = listener_scorer("judge")
heard = judge(torch.stack([torch.from_numpy(clip.samples) for clip in clips]), model.rate)[name].to_numpy().reshape(-1, 5)
ways = ["neutral prompt", "at its layer", "everywhere", "everywhere, in natural lengths", "the prompt rewritten"]
scores = pd.DataFrame(heard, columns=ways)
print(f"log-odds of {name}, one song a row:", scores.round(1).to_string(), sep="\n")
assert (scores["at its layer"] > scores["neutral prompt"] + 1).all()  # the vector works where the concept was planted
assert (scores["at its layer"] - scores[ways[2:4]].max(axis=1)).mean() > 0.3  # and better than elsewhere, too

# %% [markdown]
# Six songs of one concept prove little. The shipped sweeps have all axes at equal price, with intervals: below, each mark is an axis, with how concentrated its concept is, and what localizing brings, as a share of what rewriting the prompt reaches. The paper publishes both for
# five axes of ACE-Step.

# %%
benefits = audioscope.steer.localization_benefits([datasets.steering(axis) for axis in audioscope.steer.axes()], shipped)
benefits = benefits.query("lengths == 'unit'")  # as the paper's
paper = audioscope.steer.published_benefits()
audioscope.steer.localization_chart(pd.concat([benefits, paper]))

# %%
by_model = audioscope.steer.benefit_by_concentration(pd.concat([benefits, paper])).set_index("model")
print(by_model.round(2).to_string())
assert by_model["better"]["ace-step"] == by_model["axes"]["ace-step"] == 5
assert by_model["better"]["tiny"] < by_model["axes"]["tiny"] / 2 and by_model["low"]["tiny"] < 0

# %% [markdown]
# In ACE-Step, as the paper measured it, localizing pays on all five axes. In `tiny` it does on few; whether the more concentrated concepts gain more is open there, since the interval of the rank correlation reaches from below 0 to above it. More axes would have to decide.
#
# ## Exercise: which patch finds it?
# A concept needs two layers at once (AND). You may run one atlas only. With which `direction` does it name both layers? Answer "sufficient" or "necessary".

# %% tags=["answer"]
direction = None  # "sufficient" or "necessary"

# %% jupyter={"source_hidden": true} tags=["check"]
from audioscope.course import check

seen = table.loc["all", pair_of_layers].max(axis=1)
check(
    direction,
    lambda answer: answer == seen.idxmax(),
    well="Take the words from either layer, and the concept is gone: both are necessary.",
    wrong=[
        (
            lambda answer: answer == "sufficient",
            "Give one layer the clean words: the other one still has the wrong ones, and both are needed.",
        ),
        (lambda answer: answer in ("all", "any"), "That says how the layers work together. Name the direction of the patch."),
    ],
    otherwise='Look at the table of the two plantings: in which of its rows for "all" are the impacts 1?',
    kind=str,
)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# direction = table.loc["all", pair_of_layers].max(axis=1).idxmax()
# ```
# </details>

# %% [markdown]
# ## Limits
# The truth is exact because it was built in: a concept *cannot* sit elsewhere here. What a map makes of decoys, layers that see the words and have learned to ignore them, needs a model trained so. The planted layer is one that the weights can use; `tiny` was not trained
# for it, so a planted concept is weaker than a free one. And the paper's five axes come without intervals.
#
# ## Read next
# - `audioscope.steer.benchmark`: your own way to steer, on the protocol behind these sweeps, in one row.
# - The findings in the documentation: what held, and what did not.
# - S. Casper and others, "Red teaming deep neural networks with feature synthesis tools" (2023), on testing interpretability tools with planted truth.

# %%
import diffusers
import nnsight

print({m.__name__: m.__version__ for m in (audioscope, torch, diffusers, nnsight, alt)})
