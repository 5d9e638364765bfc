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
# # 0. Start here: hear a model, read its map, steer it
#
# **You will hear** a small model play what you type, one of its layers give away what it knows, and a slider turn slow music into fast music.
#
# **You will learn** what the other notebooks are about, and which one to open next.
#
# **Time**: 5 minutes, hands-on; it runs in half a minute. **Before this**: nothing. You need no GPU and no download.

# %%
import re

import audioscope

audioscope.show_charts()
model = audioscope.load("tiny")
model

# %% [markdown]
# ## Words in, music out
# `tiny` is a real text-to-music diffusion model that ships with audioscope. It has the same architecture as Stable Audio 3. Type a prompt and press Enter; use the
# button to play and stop. The model knows about a hundred words: tempo (*slow*, *fast*), mood, genre (*jazz*, *metal*, *techno* ...), a lead instrument, percussion,
# a voice. If you type any other word, it tells you that it never saw that word.

# %%
player = model.play("a slow sad song with violin")
player

# %% [markdown]
# You can do the same in code. The next cell enters another prompt, and the *listener*, a classifier that comes with the model, reports what it hears.

# %%
player.prompt.value = "a fast happy techno song with drums"
player.wait()
heard = player.sounds.sounds[0]["caption"]
print(heard)
assert "techno" in heard

# %% [markdown]
# ## Different layers carry different concepts
# Twelve layers of the model read the prompt. To find out what one layer does, give that layer a different prompt from the rest: the music then changes only in
# what that layer decides. The map below shows the result for 21 concepts and 12 layers. Dark means 1: this layer alone brings in the concept.
#
# Click a cell, press play, and switch back and forth between *clean* (the prompt with the concept), *corrupted* (the prompt without it), and *patched* (the
# prompt without it, except that one layer reads the prompt with it). If the clips of a cell were not kept, the model makes them while you wait. It does the
# same for prompts of your own.

# %%
atlas = audioscope.datasets.atlas()
map_of_tiny = atlas.explore(model).wait()
map_of_tiny

# %% [markdown]
# Tempo sits in layer <!--=atlas.holds.fast-->1<!--/-->, genre in layer <!--=atlas.holds.genre-->0<!--/-->, the bongos in layers <!--=atlas.holds.bongos-->0, 6 and 7<!--/-->. Not every concept has such a place: the *harmonica* gets little from any single layer.

# %%
impact = atlas.impacts().pivot(index="concept", columns="layer", values="impact")
assert (
    set(impact.loc["fast"].nlargest(2).index) == {1, 2}
    and impact.loc["fast"].idxmax() == 1
    and impact.loc["jazz"].idxmax() == 0
    and set(impact.loc["bongos"].nlargest(3).index) == {0, 6, 7}
)
assert impact.loc["harmonica"].max() < 0.2

# %% [markdown]
# ## A push at the right layer steers the music
# Inside layer <!--=atlas.holds.fast-->1<!--/-->, a direction separates fast from slow. Add some of it while the model plays *any* prompt, and the music gets faster; subtract it, and the music gets
# slower. Move the slider: the prompt below names no tempo.

# %%
steered = model.play("a jazz song with trumpet", seed=3)
steered.axis.value, steered.strength.value = "fast", 4.0
steered.wait()
steered

# %%
plain, pushed = (each["caption"] for each in steered.sounds.sounds)
print("plain:  ", plain)
print("pushed: ", pushed)
fast = [float(re.search(r"fast ([+−][\d.]+)", said)[1].replace("−", "-")) for said in (plain, pushed)]
assert fast[1] > 6 and fast[1] > fast[0] + 3

# %% [markdown]
# ## Exercise: where would you push?
# You want to change the *genre* of a song and leave its tempo alone. Which layer do you steer at? Read it off the map.

# %% tags=["answer"]
genre_layer = None  # a layer number

# %% jupyter={"source_hidden": true} tags=["check"]
from audioscope.course import check

check(
    genre_layer,
    lambda layer: layer == 0,
    well="Layer 0 carries reggae, metal, opera and jazz, and hardly any tempo.",
    wrong=[
        (lambda layer: layer in (1, 2), "That is where tempo sits: the song would change its tempo."),
        (lambda layer: 3 <= layer <= 11, "In that layer the four genre rows are pale. Find the column where all four are dark."),
        (lambda layer: layer > 11, "The model has twelve layers, numbered from 0 to 11."),
    ],
    otherwise="Look at the rows for reggae, metal, opera and jazz: which column is dark in all four?",
    kind=int,
)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# genre_layer = 0
# ```
# </details>

# %% [markdown]
# ## Limits
# `tiny` is a small model of rendered band music: four seconds, 16 kHz, mono. What you hear in it is a hypothesis about large models, not a finding. To use a larger
# model, give `load` another name; the structure of those models was tested here, but their weights were not run.
#
# ## Read next
# | if you want to | open | minutes |
# |---|---|---|
# | hear what the model can and cannot play | [1. Hear the model](01_hear_the_model.ipynb) | 15 |
# | see how text gets into it, and swap the text by hand | [2. Look inside](02_look_inside.ipynb) | 20 |
# | see when the model looks at which word | [2b. Words on the time line](02b_words_on_the_time_line.ipynb) | 20 |
# | make a map like the one above without being fooled by it | [3. The concept atlas](03_concept_atlas.ipynb) | 30 |
# | go from a layer to a single head | [3b. From layer to head](03b_from_layer_to_head.ipynb) | 20 |
# | see the maps of large models | [4. Real models](04_real_models.ipynb) | 20 |
# | make steering vectors and measure what they cost | [5. Steer with CAA](05_steer_with_caa.ipynb) | 40 |
# | take a layer apart into features | [6. Train an SAE](06_train_an_sae.ipynb) | 30 |
# | steer with features | [7. Steer with features](07_steer_with_features.ipynb) | 30 |
# | do all of this with your own music or prompts | [8. Your own music](08_your_own_music.ipynb) | 25 |
# | test the tools where the truth is known | [9. Known answers](09_known_answers.ipynb) | 30 |

# %%
import diffusers
import nnsight
import torch

print({m.__name__: m.__version__ for m in (audioscope, torch, diffusers, nnsight)})
