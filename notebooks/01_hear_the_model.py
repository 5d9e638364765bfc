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
# # 1. Hear the model: words in, music out, and a classifier that listens
#
# **You will hear** 21 musical concepts, each next to its counterfactual, both rendered and generated; and what the codec takes away.
#
# **You will learn**
#
# - that a prompt and a seed always give the same clip;
# - what a counterfactual pair is, the basis of everything that follows;
# - how music is scored, and when not to trust a single clip.
#
# **Time**: 15 minutes; it runs in half a minute. **Before this**: [0. Start here](00_start_here.ipynb), or nothing.

# %%
import numpy as np
import torch

import audioscope

model = audioscope.load("tiny")
model

# %% [markdown]
# ## A prompt and a seed give one clip
# Press play. The picture is the mel spectrogram: time runs to the right, pitch runs upward.

# %%
clip = model.generate("a fast happy techno song with drums", seed=0)
clip

# %%
again = model.generate("a fast happy techno song with drums", seed=0)
other = model.generate("a fast happy techno song with drums", seed=1)
assert np.array_equal(clip.samples, again.samples), "the same prompt and seed must give the same clip"
assert not np.allclose(clip.samples, other.samples), "another seed must give another piece"

# %% [markdown]
# ## One word makes a concept
# A *counterfactual pair* is two versions of one sentence that differ in a single idea: a *clean* prompt and a *corrupted* one. The 21 concepts of the paper
# (TADA, arXiv 2602.11910) come with such pairs. The pairs are divided into four splits, for localizing, building, selecting and testing, so that no result is
# reported on the pairs that selected it. Listen to a few pairs. Both clips of a pair have the same seed, so only the words differ.

# %%
concepts = audioscope.datasets.concepts()
list(concepts)

# %%
pair = concepts["female"].split("test")[0]
audioscope.show_clips(*model.generate([pair.clean, pair.corrupted], seed=3))

# %%
pair = concepts["drums"].split("test")[1]
audioscope.show_clips(*model.generate([pair.clean, pair.corrupted], seed=3))

# %%
pair = concepts["fast"].split("test")[2]
audioscope.show_clips(*model.generate([pair.clean, pair.corrupted], seed=3))

# %% [markdown]
# ## What an ear can tell apart, a classifier can measure
# The *listener* is a small classifier of this model's music. It gives each concept a log-odds score: 0 is a coin toss. It is
# calibrated up to +6 and extrapolates beyond. Over ten pairs, clips whose prompt asks for a concept must score higher than their counterfactuals.

# %%
hear = audioscope.scoring.listener_scorer()
swings = {}
for name in ("female", "drums", "fast", "metal"):
    pairs = concepts[name].split("test")[:10]
    clean = model.generate([p.clean for p in pairs], seed=0)
    corrupted = model.generate([p.corrupted for p in pairs], seed=0)
    scores = [hear(torch.from_numpy(np.stack([c.samples for c in clips])), clean[0].rate)[name] for clips in (clean, corrupted)]
    swings[name] = float((scores[0] - scores[1]).mean())
swings

# %%
assert all(swing > 1 for swing in swings.values()), f"a concept does not show in the scores: {swings}"

# %% [markdown]
# ## The model has learned all but a few of the 21 concepts
# The training music is rendered from single notes of free soundfonts and recordings, and its voices are synthesized, so its labels are the ground truth. Each row below shows one
# concept: a rendered clip that has it, the same plain band with the counterfactual instead, and what the model makes of two prompts
# that differ only in this concept.

# %%
from dataclasses import replace

from IPython.display import HTML, display

from audioscope.tiny import GROUPS, NoteBank, Song, render

bank = NoteBank()
group_of = {name: group for group, classes in GROUPS.items() for name in classes if name not in ("none", "neutral")}
plain = Song(voice="none", tempo="medium", mood="neutral", genre="pop", lead="piano", percussion="none")


def real(name: str) -> audioscope.Clip:
    """The plain band with one class changed."""
    song = replace(plain, **{group_of[name]: name})
    return audioscope.Clip(render(song, np.random.default_rng(7), bank)[None], 16_000, f"rendered: {name}")


pairs = {name: concept.split("test")[0] for name, concept in concepts.items()}
generated = iter(model.generate([text for pair in pairs.values() for text in (pair.clean, pair.corrupted)], seed=5))
rows = {name: (real(name), real(concepts[name].counterfactual), next(generated), next(generated)) for name in pairs}
for name, clips in rows.items():
    display(HTML(f"<h4>{name} against {concepts[name].counterfactual}</h4>"), audioscope.show_clips(*clips))


# %%
def through_codec(wave: torch.Tensor) -> torch.Tensor:
    """Encode and decode: the listener was trained on music that went through the codec, so that it hears the music and not the codec."""
    with torch.no_grad():
        return model.pipe.vae.decode(model.pipe.vae.encode(wave)).sample


heard = {}
for name, clips in rows.items():
    waves = torch.from_numpy(np.stack([clip.samples for clip in clips]))
    heard[name] = hear(torch.cat([through_codec(waves[:2]), waves[2:]]), 16_000)[name]
real_right = [name for name, score in heard.items() if score[0] > score[1]]
generated_right = [name for name, score in heard.items() if score[2] > score[3]]
print(f"the listener tells apart {len(real_right)} of 21 rendered pairs and {len(generated_right)} of 21 generated pairs")
print("it fails on:", sorted(set(heard) - set(real_right)), "rendered,", sorted(set(heard) - set(generated_right)), "generated")
assert len(real_right) >= 20 and len(generated_right) >= 18

# %% [markdown]
# ## The codec limits the sound quality
# The model does not generate sound waves but a compact code for them. Below are a rendered clip and the same clip after encoding and decoding: the best that the
# model could do. (The code is the log-mel spectrogram, reduced to a few principal components. The decoder estimates the phases with the Griffin-Lim method.)

# %%
from audioscope.tiny import pool

song = pool.song(12, seed=4)
wave = torch.from_numpy(pool.clip(12, seed=4))
trip = through_codec(wave[None, None])[0]
label = f"{song.tempo} {song.mood} {song.genre}, lead: {song.lead}, percussion: {song.percussion}, voice: {song.voice}"
audioscope.show_clips(
    audioscope.Clip(wave[None].numpy(), 16_000, f"rendered: {label}"), audioscope.Clip(trip.numpy(), 16_000, "after the codec")
)

# %%
codec = model.pipe.vae
error = (codec.log_mel(trip) - codec.log_mel(wave[None])).pow(2).mean().sqrt()
print(f"log-mel error of the round trip: {error:.2f} (the music's own standard deviation is about 1.5)")
assert error < 0.6

# %% [markdown]
# ## Exercise: how many steps does the music need?
# The model makes a clip in 10 denoising steps. Fewer steps are faster. Try 2, 4, 8 and 16 steps: what is the smallest number with which *a slow jazz song with
# flute* really has a flute? It has one if its log-odds, averaged over eight seeds, are more than 2. Generate, listen, and let `hear` score the clips.

# %% tags=["answer"]
fewest_steps = None  # 2, 4, 8 or 16

# %% jupyter={"source_hidden": true} tags=["check"]
from audioscope.course import check


def flute(steps):
    """The listener's log-odds of a flute at this number of steps, averaged over eight seeds."""
    clips = model.generate(["a slow jazz song with flute"] * 8, seed=list(range(8)), steps=steps)
    return float(hear(torch.from_numpy(np.stack([clip.samples for clip in clips])), 16_000)["flute"].mean())


means = {steps: flute(steps) for steps in (2, 4, 8)}
first = float(
    hear(torch.from_numpy(model.generate("a slow jazz song with flute", seed=0, steps=4).samples[None]), 16_000)["flute"].iloc[0]
)
assert means[2] < 2 < means[4] and means[8] > 2 and first < 2, (means, first)
check(
    fewest_steps,
    lambda steps: steps == 4,
    well=f"With 4 steps the mean is {means[4]:+.1f}, with 2 steps only {means[2]:+.1f}, although some seeds already have a flute there.",
    wrong=[
        (lambda steps: steps == 2, f"Some seeds have a flute there, but the mean over eight seeds is {means[2]:+.1f}."),
        (
            lambda steps: steps in (8, 16),
            f"With seed 0 it looks as if 4 steps were too few ({first:+.1f}), but the mean over eight seeds is {means[4]:+.1f}: one clip is an anecdote.",
        ),
    ],
    otherwise="Choose one of 2, 4, 8 and 16: the smallest number of steps with which the mean is above 2.",
    kind=int,
)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# for steps in (2, 4, 8, 16):
#     clips = model.generate(["a slow jazz song with flute"] * 8, seed=list(range(8)), steps=steps)
#     print(steps, hear(torch.from_numpy(np.stack([clip.samples for clip in clips])), 16_000)["flute"].mean())
# fewest_steps = 4
# ```
# </details>

# %% [markdown]
# ## Limits
# Four seconds, 16 kHz, one band of sampled instruments: `tiny` is for learning how such models work. It knows only the words of its captions, and it tells you when
# it meets another one. The listener was trained on the same music: it hears what it was taught to hear, and it cannot judge other audio.
#
# ## Read next
# - [2. Look inside](02_look_inside.ipynb): where those words enter the model.
# - `audioscope.scoring.measure` measures tempo, key and loudness without any classifier.

# %%
import diffusers
import nnsight

print({m.__name__: m.__version__ for m in (audioscope, torch, diffusers, nnsight)})
