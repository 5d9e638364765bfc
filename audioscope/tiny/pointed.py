"""Does attention point at what sounds? Songs whose parts enter and stop, heard by the denoiser with their own words.

The renderer knows when each part sounds. Each song is brought to every noise level of a generation, and there the denoiser looks at it
with a caption that names its parts: where a word's map is high, its part should sound.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from audioscope.attention import Kind
from audioscope.errors import of_kind, quiet, whole
from audioscope.model import Model
from audioscope.stats import auroc
from audioscope.tiny.bank import RATE, NoteBank
from audioscope.tiny.music import SECONDS, Song, master, perform

COLUMNS = ["song", "part", "word", "layer", "step", "auroc", "other", "averaged", "averaged_other", "share"]
PAIRS = (("lead", "percussion"), ("voice", "percussion"))  # the parts that enter and stop, in turn
FADE = 0.02  # s
SOUNDING = 1e-3  # of a part's largest power in a moment, -30 dB


def song_in_parts(number: int, bank: NoteBank, moments: int) -> tuple[str, np.ndarray, dict[str, np.ndarray]]:
    """A caption, a song in which two parts enter and stop, and by word when its part sounds, bool [moments].

    Each part sounds in 20 to 80 % of the moments, drawn apart from the other.
    """
    rng = np.random.default_rng([26, number])
    parts = PAIRS[number % len(PAIRS)]
    while True:
        song = Song.draw(rng)
        words = [getattr(song, part) for part in parts]
        if "none" in words or (song.lead != "none" and "voice" in parts):
            continue
        buses, band = perform(song, rng, bank)
        for part in parts:
            share = rng.uniform(0.25, 0.75)
            start = rng.choice([0.0, 1 - share, rng.uniform(0, 1 - share)]) * SECONDS  # it begins, ends, or comes between
            edges = np.array([start - FADE, start, start + share * SECONDS, start + share * SECONDS + FADE])
            time = np.arange(buses[part].shape[-1]) / RATE
            buses[part] = (buses[part] * np.interp(time, edges, [0.0, 1.0, 1.0, 0.0])).astype(np.float32)
        sounds = {}
        for part, word in zip(parts, words, strict=True):
            loud = np.array([float((piece**2).mean()) for piece in np.split(buses[part], moments)])
            sounds[word] = loud > SOUNDING * loud.max()
        shares = [each.mean() for each in sounds.values()]
        if min(shares) >= 0.2 and max(shares) <= 0.8:
            named = [f"{word} vocals" if part == "voice" else word for part, word in zip(parts, words, strict=True)]
            return (
                f"a {song.genre} song with {' and '.join(named)}",
                master(np.sum(list(buses.values()), axis=0), band, song.genre),
                sounds,
            )


@contextmanager
def heard(model: Model, latents: Tensor, steps: int, seed: int) -> Iterator[None]:
    """Let the denoiser see these latents [1, channels, tokens] with the noise of each step, whatever it has made of them."""
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed)).to(latents)
    step = [0]

    def given(module: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        sigma = float(model.pipe.scheduler.sigmas[step[0]])
        step[0] += 1
        return ((1 - sigma) * latents + sigma * noise).expand_as(args[0]).to(args[0]), *args[1:]

    with model.denoiser.register_forward_pre_hook(given):
        yield


@torch.no_grad()
def pointing(
    model: Model, songs: int = 60, kind: Kind = "values", steps: int | None = None, progress: bool = True
) -> pd.DataFrame:
    """Measure how well each word's attention tells the moments in which its part sounds.

    Args:
        model: `tiny`, or a model with its codec.
        songs: How many.
        kind: As for `Model.attention`.
        steps: Denoising steps, whose noise levels are asked.
        progress: Whether to show a progress bar.

    Returns:
        One row per song, word, layer and step with the columns song, part, word, layer, step, auroc (the area under the ROC
        curve of the word's map for its part), other (the same of the song's other word, a control), averaged and
        averaged_other (the same two of maps averaged over layers and steps, the same in all of a song's rows) and share (of moments in
        which it sounds).

    Example:
        >>> audioscope.tiny.pointing(model, songs=1, steps=2, progress=False)["word"].nunique()
        2
    """
    of_kind("model", model, Model).check_unsteered("pointing")
    songs = whole("songs", songs, 1, 100_000)
    bank, lines, steps = NoteBank(), [], model.sampling(steps=steps).steps
    codec = model.pipe.vae
    for number in tqdm(range(songs), desc="pointing", disable=quiet(progress)):
        text, wave, sounds = song_in_parts(number, bank, int(SECONDS * RATE) // codec.downsampling_ratio)
        with heard(model, codec.encode(torch.from_numpy(wave)[None, None]), steps, number):
            found = model.attention(text, number, by=("layer", "step"), kind=kind, steps=steps)
        maps = {word: np.moveaxis(found.of(word), -1, 0) for word in sounds}
        for (word, sounding), other, part in zip(sounds.items(), [*sounds][::-1], PAIRS[number % len(PAIRS)], strict=True):
            own, control = (auroc(maps[each][sounding], maps[each][~sounding]) for each in (word, other))
            means = (maps[each].mean((1, 2)) for each in (word, other))
            averaged = [float(auroc(mean[sounding], mean[~sounding])) for mean in means]
            lines += [
                (number, part, word, layer, step, own[layer, step], control[layer, step], *averaged, sounding.mean())
                for layer, step in np.ndindex(own.shape)
            ]
    return pd.DataFrame(lines, columns=COLUMNS)
