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
# # 1. Hear the model
#
# **What you will hear and learn** (about 2 minutes to run, no GPU, no download)
#
# - `tiny` is a real text-to-music diffusion model that ships with audioscope: words in, four seconds of music out.
# - A prompt and a seed always give the same clip; words change it in ways that can be measured.
# - What limits the sound: the music that it learnt from, and the codec.

# %%
import numpy as np
import torch

import audioscope

model = audioscope.load("tiny")
model

# %% [markdown]
# ## A prompt and a seed give one clip
# Press play. The picture is the mel spectrogram: time to the right, pitch upwards.

# %%
clip = model.generate("a fast happy techno song with drums", seed=0)
clip

# %%
again = model.generate("a fast happy techno song with drums", seed=0)
other = model.generate("a fast happy techno song with drums", seed=1)
assert np.array_equal(clip.samples, again.samples), "the same prompt and seed must give the same clip"
assert not np.allclose(clip.samples, other.samples), "another seed is another piece"

# %% [markdown]
# ## One word makes a concept
# A *counterfactual pair* is one sentence said twice, with a single idea exchanged. The 21 concepts of the paper
# (TADA, arXiv 2602.11910) come with such pairs. Listen to a few: same seed, so that only the words differ.

# %%
concepts = audioscope.shipped_concepts()
list(concepts)

# %%
pair = concepts["female"].split("test")[0]
audioscope.in_a_row(*model.generate([pair.clean, pair.corrupted], seed=3))

# %%
pair = concepts["drums"].split("test")[1]
audioscope.in_a_row(*model.generate([pair.clean, pair.corrupted], seed=3))

# %%
pair = concepts["fast"].split("test")[2]
audioscope.in_a_row(*model.generate([pair.clean, pair.corrupted], seed=3))

# %% [markdown]
# ## The difference can be measured
# The *listener* is a small classifier of this model's music. It gives each concept a log-odds: 0 is a coin toss, +6 as sure
# as it is allowed to be. Over ten pairs, clips that were asked for a concept must score higher than their counterfactuals.

# %%
hear = audioscope.listener_scorer()
swings = {}
for name in ("female", "drums", "fast", "metal"):
    pairs = concepts[name].split("test")[:10]
    clean = model.generate([p.clean for p in pairs], seed=0)
    corrupted = model.generate([p.corrupted for p in pairs], seed=0)
    scores = [hear(torch.from_numpy(np.stack([c.samples for c in clips])), clean[0].rate)[name] for clips in (clean, corrupted)]
    swings[name] = float((scores[0] - scores[1]).mean())
swings

# %%
assert all(swing > 1 for swing in swings.values()), f"a concept does not show: {swings}"

# %% [markdown]
# ## All 21 concepts beside their counterfactuals, real and generated
# The training music is rendered from single notes of a free soundfont, so its labels are the truth. Each line below is one concept:
# a rendered clip that has it, the same plain band with the counterfactual instead, and what the model makes of two prompts that
# differ in nothing but this concept.

# %%
from dataclasses import replace

from IPython.display import HTML, display

from audioscope.tiny.bank import NoteBank
from audioscope.tiny.music import GROUPS, Song, render

bank = NoteBank()
group_of = {name: group for group, classes in GROUPS.items() for name in classes if name not in ("none", "neutral")}
plain = Song(voice="none", tempo="medium", mood="neutral", genre="pop", lead="piano", percussion="none")


def real(name: str) -> audioscope.Clip:
    """The plain band with one class changed."""
    song = replace(plain, **{group_of[name]: name})
    return audioscope.Clip(render(song, np.random.default_rng(7), bank)[None], 16_000, f"real: {name}")


pairs = {name: concept.split("test")[0] for name, concept in concepts.items()}
generated = iter(model.generate([text for pair in pairs.values() for text in (pair.clean, pair.corrupted)], seed=5))
rows = {name: (real(name), real(concepts[name].counterfactual), next(generated), next(generated)) for name in pairs}
for name, clips in rows.items():
    display(HTML(f"<h4>{name} against {concepts[name].counterfactual}</h4>"), audioscope.in_a_row(*clips))


# %%
def through_codec(wave: torch.Tensor) -> torch.Tensor:
    """The listener learnt from music that went through the codec, so that it hears the music and not the codec."""
    with torch.no_grad():
        return model.pipe.vae.decode(model.pipe.vae.encode(wave)).sample


heard = {}
for name, clips in rows.items():
    waves = torch.from_numpy(np.stack([clip.samples for clip in clips]))
    heard[name] = hear(torch.cat([through_codec(waves[:2]), waves[2:]]), 16_000)[name]
real_right = [name for name, score in heard.items() if score[0] > score[1]]
generated_right = [name for name, score in heard.items() if score[2] > score[3]]
print(f"the listener tells {len(real_right)} of 21 apart when real, {len(generated_right)} when generated")
print("not told apart:", sorted(set(heard) - set(real_right)), sorted(set(heard) - set(generated_right)))
assert len(real_right) >= 20 and len(generated_right) >= 18

# %% [markdown]
# ## What the codec costs
# A rendered clip, and the same clip after a round trip through the model's codec (log-mel, principal components, Griffin-Lim):
# the best that the model could do.

# %%
from audioscope.tiny import pool

song = pool.song(12, seed=4)
wave = torch.from_numpy(pool.clip(12, seed=4))
trip = through_codec(wave[None, None])[0]
label = f"{song.tempo} {song.mood} {song.genre}, lead: {song.lead}, percussion: {song.percussion}, voice: {song.voice}"
audioscope.in_a_row(
    audioscope.Clip(wave[None].numpy(), 16_000, f"rendered: {label}"),
    audioscope.Clip(trip.numpy(), 16_000, "after the codec"),
)

# %%
codec = model.pipe.vae
error = (codec.log_mel(trip) - codec.log_mel(wave[None])).pow(2).mean().sqrt()
print(f"log-mel error of the round trip: {error:.2f} (the music's own standard deviation is about 1.5)")
assert error < 0.6

# %% [markdown]
# ## Exercise
# How many denoising steps does the model need? Generate one prompt with 2, 4, 8 and 16 steps and compare.
#
# <details><summary>Solution</summary>
#
# ```python
# audioscope.in_a_row(*(model.generate("a slow jazz song with saxophone", seed=0, steps=n) for n in (2, 4, 8, 16)))
# ```
# With 2 steps it is a blur; between 8 and 16 little changes but detail.
# </details>

# %%
for steps in (2, 16):
    print(model.generate("a slow jazz song with saxophone", seed=0, steps=steps))

# %% [markdown]
# **Limits.** Four seconds, sixteen kilohertz, one band of General MIDI instruments: `tiny` is for learning how such models work.
# It knows only the words of its captions and says so when it meets another.
#
# **Next:** [2. Look inside](02_look_inside.ipynb).

# %%
import diffusers
import nnsight

print({m.__name__: m.__version__ for m in (audioscope, torch, diffusers, nnsight)})
