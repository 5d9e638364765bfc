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
# # 2. Look inside
#
# **What you will learn** (about 1 minute to run)
#
# - Where text enters the model: the *sites*, its cross-attention layers.
# - How to read what a site puts out, step by step, while music is made.
# - One text swap, written by hand in nnsight and then as one line of audioscope: they are the same computation.

# %%
import altair as alt
import nnsight
import numpy as np
import pandas as pd
import torch

import audioscope
from audioscope import PatchText

alt.renderers.enable("jupyter", offline=True)  # charts without a network
model = audioscope.load("tiny")
model.sites

# %% [markdown]
# ## Text enters at twelve places
# Each of the 12 blocks has a self-attention site (the sound looks at itself) and a cross-attention site (the sound looks at the
# text). Layers count from 0, and every site is shown with its module path.

# %%
assert [s.layer for s in model.sites.cross] == list(range(12))
print(model.sites.cross[5])

# %% [markdown]
# ## What a site puts out changes while the sound emerges
# `model.activations` yields one reading per prompt, so that memory does not grow with their number. Here: the mean size of each
# cross-attention output over the denoising steps, from noise (sigma 1) to music (sigma 0).

# %%
reading = next(model.activations(["a slow sad song with violin"], sites="cross"))
norms = pd.DataFrame(
    [
        {"layer": layer, "step": step, "sigma": float(reading.sigmas[step]), "norm": float(values[step].norm())}
        for layer, values in enumerate(reading.values.values())
        for step in range(len(reading.sigmas))
    ]
)
alt.Chart(norms, title="Size of the mean cross-attention output").mark_line().encode(
    x=alt.X("step:O"),
    y="norm:Q",
    color=alt.Color("layer:O", scale=alt.Scale(scheme="viridis")),
    tooltip=["layer", "step", "sigma", "norm"],
).properties(width=420, height=220, description="Norm of each cross-attention site's mean output at every denoising step")

# %%
assert reading.values[model.sites.cross[0].path].shape == (len(reading.sigmas), 128)
assert norms["norm"].gt(0).all()

# %% [markdown]
# ## A text swap by hand
# Two rows run in one batch: row 0 is asked for *a fast* song, row 1 for *a slow* one. In one layer, row 1 gets the text of row 0. Everything
# else in row 1 still reads "slow". This is the paper's patch, in plain nnsight:

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
# ## The same, as one line
# The library adds what the clean prompt needs to the batch, finds the rows of each guidance branch, and takes its hooks away again.

# %%
patch = PatchText(model.sites.cross[layer], prompt=clean)
patched = model.generate(corrupted, seed=0, steps=steps, guidance=1.0, edits=patch)
with torch.no_grad():
    from_hand = audioscope.Clip(model.pipe.vae.decode(by_hand[0][1:2]).sample[0].numpy(), 16_000)


def distance(a, b):
    """Mean difference of two clips' spectrograms, dB. (Griffin-Lim amplifies rounding: 0.1 dB is nothing, 5 dB another piece.)"""
    return float(np.abs(a.spectrogram() - b.spectrogram()).mean())


print(f"by hand and by the library: {distance(from_hand, patched):.4f} dB apart")
assert distance(from_hand, patched) < 0.3

# %% [markdown]
# ## What the swap does to the sound

# %%
audioscope.in_a_row(
    model.generate(corrupted, seed=0), model.generate(clean, seed=0),
    model.generate(corrupted, seed=0, edits=PatchText("cross", prompt=clean)),
)  # fmt: skip

# %% [markdown]
# The first is slow, the second fast. The third was asked for *slow*, but every cross-attention layer read *fast*: it is the second clip,
# since text enters this model nowhere else. Swapping a prompt with itself does nothing.

# %%
everywhere = model.generate(corrupted, seed=0, edits=PatchText("cross", prompt=clean))
nowhere = model.generate(corrupted, seed=0, edits=PatchText("cross", prompt=corrupted))
fast, slow = model.generate(clean, seed=0), model.generate(corrupted, seed=0)
print(
    {
        "swapped and fast": distance(everywhere, fast),
        "nowhere and slow": distance(nowhere, slow),
        "fast and slow": distance(fast, slow),
    }
)
assert distance(everywhere, fast) < 0.3 and distance(nowhere, slow) < 0.3
assert distance(fast, slow) > 2

# %% [markdown]
# ## Exercise
# Take one site's contribution away with `audioscope.Ablate(site)`, to zero and to its mean. Which layer does the sound need most?
#
# <details><summary>Solution</summary>
#
# ```python
# base = model.generate(clean, seed=0)
# for site in model.sites.cross:
#     without = model.generate(clean, seed=0, edits=audioscope.Ablate(site))
#     print(site.layer, np.abs(without.spectrogram() - base.spectrogram()).mean())
# ```
# </details>

# %%
without = model.generate(clean, seed=0, edits=audioscope.Ablate("cross"))
assert distance(without, fast) > 2
without

# %% [markdown]
# **Limits.** A swap says that a layer's text is *sufficient* to bring a concept, not that it is necessary.
#
# **Next:** [3. The concept atlas](03_concept_atlas.ipynb).

# %%
import diffusers

print({m.__name__: m.__version__ for m in (audioscope, torch, diffusers, nnsight, alt)})
