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
# # 7. Steer with features
#
# **What you will hear and learn** (about 2 minutes to run)
#
# - How to turn a single feature of an SAE up and down while the model generates, and what stays as it was.
# - How to erase a concept by its features, beside a control that erases as many others.
# - Whether a steering vector made of features is better than CAA: measured on 18 axes at equal cost, beside random features.

# %%
import warnings

import altair as alt
import numpy as np
import torch

import audioscope
from audioscope import SAEEdit, caa, load_sae, shipped_steering
from audioscope.arms import feature_arms
from audioscope.axes import over_axes
from audioscope.charts import axes_chart
from audioscope.feature_vectors import top_features
from audioscope.paths import data_folder
from audioscope.sae_results import strongest_sites
from audioscope.strengths import steering_sweep

alt.renderers.enable("jupyter", offline=True)  # charts without a network
model = audioscope.load("tiny")
judge = audioscope.listener_scorer("judge")
sites = strongest_sites(audioscope.Atlas.load())
saes = [load_sae(site) for site in sites]
print(*saes, sep="\n")


def heard(clips):
    """The judge's log-odds of every concept, a row for each clip."""
    return judge(torch.from_numpy(np.stack([clip.samples for clip in clips])), clips[0].rate)


# %% [markdown]
# ## Only features that passed the gate are steered with
# Both SAEs explain more than PCA at every noise level (notebook 6). The one of self-attention in layer 0, which sees little but noise at first, does not. It may still be used, but says so: every
# generation warns, with the noise levels at which it fails.

# %%
assert all(sae.report["passes"] for sae in saes)
failing = load_sae("transformer.transformer_blocks.0.self_attn")
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    model.generate("a jazz song", edits=SAEEdit(failing, (0,), "add", 1.0))
print(caught[-1].message)
assert not failing.report["passes"] and "does not pass the gate" in str(caught[-1].message)

# %% [markdown]
# ## Turn one feature
# The features of the strongest layer that say *metal* best. The edit changes those and nothing else: what the SAE does not explain of the activation is kept, so that an edit
# that changes no feature changes no sample.

# %%
concept, prompt = "metal", "a song with trumpet"
best = top_features(saes[0].scores, concept, 3, "auroc")
features = best.groupby("feature")["auroc"].mean().nlargest(2).index.tolist()
amount = float(best.loc[best["feature"].isin(features), "mean_with"].max())
bare = model.generate(prompt, seed=5)
same = model.generate(prompt, seed=5, edits=SAEEdit(saes[0], features, "scale", 1.0))
up = model.generate(prompt, seed=5, edits=SAEEdit(saes[0], features, "set", 4 * amount))
assert np.array_equal(bare.samples, same.samples) and not np.array_equal(bare.samples, up.samples)
print(
    f"features {features} set to {4 * amount:.2f}: {concept} goes from {heard([bare])[concept][0]:+.1f} to {heard([up])[concept][0]:+.1f} in log-odds"
)
audioscope.in_a_row(bare, up)

# %% [markdown]
# ## Erase a concept
# Eight prompts that ask for the concept. At each of the two layers its 20 best features are set to 0 wherever they fire; then, as a control, 20 others that fire as well.

# %%
pairs = audioscope.shipped_concepts()[concept].split("test")[:8]
prompts, seeds = [pair.clean for pair in pairs], list(range(8))


def without(erased):
    """Clips of the prompts with the given features of each SAE set to 0."""
    return model.generate(prompts, seed=seeds, edits=[SAEEdit(sae, features) for sae, features in zip(saes, erased, strict=True)])


own = [top_features(sae.scores, concept, 20)["feature"].unique().tolist() for sae in saes]
rng = np.random.default_rng(0)
others = []
for sae, mine in zip(saes, own, strict=True):
    firing = [f for f in np.flatnonzero(np.asarray(sae.report["density"]) > 0.001) if f not in mine]
    others.append(rng.choice(firing, min(len(mine), len(firing)), replace=False).tolist())
plain, erased, control = model.generate(prompts, seed=seeds), without(own), without(others)
scores = {
    name: heard(clips)[concept] for name, clips in (("as asked", plain), ("its features off", erased), ("others off", control))
}
print({name: round(float(values.mean()), 2) for name, values in scores.items()})
audioscope.in_a_row(plain[0], erased[0])

# %%
# CLAIM erase

# %% [markdown]
# ## A vector of features
# The paper's way: at each noise level, the sum of the directions of the 20 features that say the concept best. `sae.vector` gives a `SteeringVector`, so everything of notebook 5 works on it:
# algebra, files, strengths, sweeps. For an axis with two ends, the features of the other end are subtracted.

# %%
vector = saes[0].vector("fast", features=20, against="slow") + saes[1].vector("fast", features=20, against="slow")
means = caa(model, "fast", sites, pairs=25)
alike = vector.cosines(means).groupby("site")["cosine"].mean()
print(alike.round(2))

# %% [markdown]
# ## One axis, four ways, at equal cost
# The SAE's vector, CAA at the very same two layers, as many random features, and the prompt rewritten late.

# %%
arms = feature_arms(model, audioscope.shipped_concepts()["fast"], saes, means, against="slow")
sweep = steering_sweep(model, "fast", arms, prompts=3, seeds=1)
sweep.chart()

# %%
# CLAIM sweep

# %% [markdown]
# ## All 18 axes
# The shipped comparison: 12 prompts with two seeds an axis, seven strengths, from `audioscope.steer_all_features`. Areas are gain times distance up to the price of rewriting the prompt.

# %%
table = shipped_steering(name="sae_steering")
axes_chart(table, ("sae 2 strongest", "caa 2 strongest", "random features 2 strongest", "pci all"))

# %%
import pandas as pd

compared = pd.read_parquet(data_folder() / "results" / "sae_steering_pairs.parquet")
counts = pd.DataFrame(
    [over_axes(compared, one, other) for one, other in dict.fromkeys(zip(compared["one"], compared["other"], strict=True))]
)
print(
    table.groupby(["method", "sites"], sort=False)
    .agg(steerable=("steerable", "sum"), auc=("auc", "mean"), specificity=("specificity", "median"))
    .round(3)
)
counts

# %%
# CLAIMS

# %% [markdown]
# ## Exercise
# Are twenty features better than one? Make vectors of 1, 5, 20 and 100 features for *happy*, and compare their areas on three prompts.
#
# <details><summary>Solution</summary>
#
# ```python
# from functools import reduce
# from operator import add
# from audioscope.arms import prompt_switch_arm, vector_arm
# vectors = {n: reduce(add, (sae.vector("happy", features=n, against="sad") for sae in saes)) for n in (1, 5, 20, 100)}
# arms = [vector_arm(v, f"{n} features", "sae") for n, v in vectors.items()] + [prompt_switch_arm(10)]
# steering_sweep(model, "happy", arms, prompts=3, seeds=1).summary()[["sites", "auc", "gain"]]
# ```
# </details>

# %% [markdown]
# **Limits.** One small model, two layers, one SAE each; features were scored on prompts of the selection split, and other SAEs of the same layer would split meaning otherwise. Erasing the
# features of two layers leaves the other ten free to say the concept.

# %%
import diffusers
import nnsight

print({m.__name__: m.__version__ for m in (audioscope, torch, diffusers, nnsight, alt)})
