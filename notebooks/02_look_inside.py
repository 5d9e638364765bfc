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
# # 2. Look inside: text enters at twelve places, and you can swap it at each one
#
# **You will hear** a song that is fast although its prompt asks for slow, because its layers were given other words; and a song whose layers were switched off.
#
# **You will learn**
#
# - where text enters the model: the *sites*, its cross-attention layers;
# - how to read a site's output, step by step, while the model makes music;
# - how to swap text, first by hand in nnsight and then in one line of audioscope: both are the same computation.
#
# **Time**: 20 minutes; it runs in half a minute. **Before this**: [1. Hear the model](01_hear_the_model.ipynb); a little PyTorch.

# %%
import altair as alt
import nnsight
import numpy as np
import pandas as pd
import torch

import audioscope
from audioscope import PatchText

audioscope.show_charts()
model = audioscope.load("tiny")
model.sites

# %% [markdown]
# ## Text enters at twelve places
# Each of the 12 blocks has a self-attention site (the sound looks at itself) and a cross-attention site (the sound looks at the
# text). Layers are numbered from 0, and every site is shown with its module path.

# %%
assert [s.layer for s in model.sites.cross] == list(range(12))
print(model.sites.cross[5])

# %% [markdown]
# ## A site's output changes while the sound emerges
# `model.activations` yields the activations of one prompt at a time, so memory does not grow with the number of prompts. The chart
# shows the norm of each cross-attention site's mean output over the denoising steps, from noise (sigma 1) to music (sigma 0).

# %%
reading = next(model.activations(["a slow sad song with violin"], sites="cross"))
norms = pd.DataFrame(
    [
        {"layer": layer, "step": step, "sigma": float(reading.sigmas[step]), "norm": float(values[step].norm())}
        for layer, values in enumerate(reading.values.values())
        for step in range(len(reading.sigmas))
    ]
)
alt.Chart(norms, title="Norm of the mean cross-attention output").mark_line().encode(
    x=alt.X("step:O"),
    y="norm:Q",
    color=alt.Color("layer:O", scale=alt.Scale(scheme="viridis")),
    tooltip=["layer", "step", "sigma", "norm"],
).properties(width=420, height=220, description="Norm of each cross-attention site's mean output at every denoising step")

# %%
assert reading.values[model.sites.cross[0].path].shape == (len(reading.sigmas), 128)
assert norms["norm"].gt(0).all()

# %% [markdown]
# ## A text swap is a few lines of nnsight
# Two rows run in one batch: row 0 has a prompt for *a fast* song, row 1 a prompt for *a slow* one. In one layer, row 1 gets the text of row 0.
# Every other layer of row 1 still reads "slow". This is the paper's patch, in plain nnsight:

# %%
clean, corrupted, layer, steps = "a fast techno song with drums", "a slow techno song with drums", 1, 8


def generators():
    return [torch.Generator().manual_seed(0) for _ in range(2)]


envoy = nnsight.NNsight(model.denoiser)
with envoy.trace(
    fn=model.pipe, prompt=[clean, corrupted], generator=generators(), duration=4.096, num_inference_steps=steps,
    guidance_scale=1.0, output_type="latent",
) as tracer:  # fmt: skip
    site = envoy.transformer_blocks[layer].cross_attn
    for _step in tracer.iter[:steps]:
        args, kwargs = site.inputs
        context = kwargs["context"].clone()  # all layers share this tensor
        context[1] = context[0]
        site.inputs = (args, {**kwargs, "context": context})
    by_hand = nnsight.save(tracer.result)

# %% [markdown]
# ## The library does the same in one line
# The library adds what the clean prompt needs to the batch, finds the rows of each guidance branch (the model runs every prompt twice, with and without its
# text, and amplifies the difference), and removes its hooks afterward.

# %%
patch = PatchText(model.sites.cross[layer], prompt=clean)
patched = model.generate(corrupted, seed=0, steps=steps, guidance=1.0, edits=patch)
with torch.no_grad():
    from_hand = audioscope.Clip(model.pipe.vae.decode(by_hand[0][1:2]).sample[0].numpy(), 16_000)


def distance(a, b):
    """Mean difference between two clips' spectrograms, in dB. (Griffin-Lim amplifies rounding: 0.1 dB is nothing, 5 dB is another piece.)"""
    return float(np.abs(a.spectrogram() - b.spectrogram()).mean())


print(f"by hand and by the library: {distance(from_hand, patched):.4f} dB apart")
assert distance(from_hand, patched) < 0.3

# %% [markdown]
# ## With the other text in every layer, the song is the other song

# %%
audioscope.show_clips(
    model.generate(corrupted, seed=0), model.generate(clean, seed=0),
    model.generate(corrupted, seed=0, edits=PatchText("cross", prompt=clean)),
)  # fmt: skip

# %% [markdown]
# The first clip is slow, the second is fast. The prompt of the third says *slow*, but every cross-attention layer reads *fast*: it is the
# second clip again, because text enters this model nowhere else. Swapping a prompt with itself changes nothing.

# %%
everywhere = model.generate(corrupted, seed=0, edits=PatchText("cross", prompt=clean))
nowhere = model.generate(corrupted, seed=0, edits=PatchText("cross", prompt=corrupted))
fast, slow = model.generate(clean, seed=0), model.generate(corrupted, seed=0)
print(
    {
        "swapped everywhere and fast": distance(everywhere, fast),
        "swapped with itself and slow": distance(nowhere, slow),
        "fast and slow": distance(fast, slow),
    }
)
assert distance(everywhere, fast) < 0.3 and distance(nowhere, slow) < 0.3
assert distance(fast, slow) > 2

# %% [markdown]
# ## Without cross-attention, the model still plays, but not your song
# `Ablate` removes a site's output. Here it removes all twelve.

# %%
without = model.generate(clean, seed=0, edits=audioscope.Ablate("cross"))
assert distance(without, fast) > 2
without

# %% [markdown]
# ## Exercise: which layer does the sound need most?
# Remove one cross-attention layer at a time with `audioscope.Ablate(site)`. Without which layer does `clean` (*a fast techno song with drums*) change the most?
# Measure the change by `distance`, averaged over seeds 0 to 5. Layers are numbered from 0.

# %% tags=["answer"]
most_needed = None  # a layer number

# %% jupyter={"source_hidden": true} tags=["check"]
from audioscope.course import check

seeds = list(range(6))
whole = model.generate([clean] * 6, seed=seeds)
change = [
    np.mean(
        [
            distance(one, other)
            for one, other in zip(model.generate([clean] * 6, seed=seeds, edits=audioscope.Ablate(site)), whole, strict=True)
        ]
    )
    for site in model.sites.cross
]
at_0 = model.generate(clean, seed=0)
alone = [distance(model.generate(clean, seed=0, edits=audioscope.Ablate(site)), at_0) for site in model.sites.cross]
assert int(np.argmax(change)) == 1 and list(np.argsort(change)[-2:]) == [6, 1] and int(np.argsort(alone)[-2]) == 5, (
    np.round(change, 2),
    np.round(alone, 2),
)
check(
    most_needed,
    lambda layer: layer == 1,
    well=f"Without layer 1 the spectrogram changes by {change[1]:.1f} dB on average; layer 6 follows with {change[6]:.1f} dB.",
    wrong=[
        (
            lambda layer: layer == 5,
            "With seed 0 alone, layer 5 comes second; over six seeds, it is fourth. In either case another layer comes first.",
        ),
        (
            lambda layer: layer == 6,
            f"Second: without layer 6 the spectrogram changes by {change[6]:.1f} dB, but without another layer it changes more.",
        ),
        (
            lambda layer: 0 <= layer < 12,
            lambda layer: (
                f"Without that layer the spectrogram changes by {change[int(layer)]:.1f} dB, without another one by up to {max(change):.1f} dB."
            ),
        ),
    ],
    otherwise="The model has layers 0 to 11: answer with the number of one of them.",
    kind=int,
)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# whole = model.generate([clean] * 6, seed=list(range(6)))
# for site in model.sites.cross:
#     without = model.generate([clean] * 6, seed=list(range(6)), edits=audioscope.Ablate(site))
#     print(site.layer, np.mean([distance(one, other) for one, other in zip(without, whole)]))
# most_needed = 1
# ```
# </details>

# %% [markdown]
# ## Limits
# A swap shows that a layer's text is *sufficient* to bring in a concept, not that it is necessary. An ablation puts the model in a state it was never in before: what
# changes then is not only what the layer contributes.
#
# ## Read next
# - [3. The concept atlas](03_concept_atlas.ipynb): the same swap, for 21 concepts and every layer.
# - The paper's section 3 (TADA, arXiv 2602.11910) calls the swap activation patching; `audioscope.PatchOutput` patches a site's output instead of the text it reads.

# %%
import diffusers

print({m.__name__: m.__version__ for m in (audioscope, torch, diffusers, nnsight, alt)})
