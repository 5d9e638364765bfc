"""Pointing: songs whose parts enter and stop, what the denoiser is given of them, and that the measure finds a map that points."""

import numpy as np
import pytest
import torch

from audioscope import datasets
from audioscope.tiny import pointed
from audioscope.tiny.bank import NoteBank
from audioscope.tiny.music import perform
from audioscope.tiny.pointed import heard, pointing, song_in_parts
from audioscope.words import WORD

MOMENTS = 64


@pytest.mark.parametrize("number", range(4))
def test_parts_enter_and_stop(number):
    """They sound in 20 to 80 % of the moments, as the sound tells: where neither does, only the accompaniment is left."""
    text, wave, sounds = song_in_parts(number, NoteBank(), MOMENTS)
    again = song_in_parts(number, NoteBank(), MOMENTS)
    assert text == again[0] and np.array_equal(wave, again[1]) and wave.shape == (65_536,)
    assert set(sounds) <= set(WORD.findall(text)) and len(sounds) == 2
    assert all(0.2 <= truth.mean() <= 0.8 and truth.shape == (MOMENTS,) for truth in sounds.values())
    assert ("vocals" in text) == bool(number % 2)


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("which", range(2))
def test_the_truth_is_when_a_part_is_heard(number, which, monkeypatch):
    """With all else so quiet that it counts for nothing: loud in the moments in which the part is said to sound, and only there."""
    part = pointed.PAIRS[number % 2][which]

    def alone(song, rng, bank):
        buses, band = perform(song, rng, bank)
        return {name: bus * (1.0 if name == part else 1e-6) for name, bus in buses.items()}, band

    monkeypatch.setattr(pointed, "perform", alone)
    monkeypatch.setattr(pointed, "master", lambda mix, *how: mix)
    _, wave, sounds = song_in_parts(number, NoteBank(), MOMENTS)
    loud, sounding = (wave.reshape(MOMENTS, -1) ** 2).mean(1), list(sounds.values())[which]
    assert loud[sounding].min() > loud[~sounding].max() and loud[~sounding].max() < 1.01 * pointed.SOUNDING * loud.max()


def test_the_denoiser_is_given_the_song_at_every_noise_level(tiny):
    latents, seen = torch.randn(1, tiny.pipe.vae.config.latent_dim, 64), []
    with (
        heard(tiny, latents, 4, seed=3),
        tiny.denoiser.register_forward_pre_hook(lambda module, args: seen.append(args[0].clone())),
    ):
        tiny.generate("a fast song", steps=4)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(3))
    assert len(seen) == 4
    for given, sigma in zip(seen, tiny.pipe.scheduler.sigmas, strict=False):
        torch.testing.assert_close(given, ((1 - sigma) * latents + sigma * noise).expand_as(given))
    plain = tiny.generate("a fast song", steps=4).samples
    with pytest.raises(RuntimeError, match="on purpose"), heard(tiny, latents, 4, seed=3):
        raise RuntimeError("on purpose")
    assert np.array_equal(tiny.generate("a fast song", steps=4).samples, plain), "nothing is left"


def test_a_map_that_points_is_found(tiny, monkeypatch):
    """With maps that are the truth, or its opposite for the other word, the areas are 1 and 0; one cell is the other way around."""

    class Map:
        def __init__(self, sounds):
            self.sounds = sounds

        def of(self, word):
            first = next(iter(self.sounds.values())).astype(float)
            found = np.tile(first if word == next(iter(self.sounds)) else -first, (2, 3, 1))
            found[0, 0] *= -0.5
            return found

    monkeypatch.setattr(
        type(tiny), "attention", lambda self, text, number, **how: Map(song_in_parts(number, NoteBank(), MOMENTS)[2])
    )
    table = pointing(tiny, 2, steps=3, progress=False)
    first = table.groupby("song").head(6)
    odd = (first["layer"] == 0) & (first["step"] == 0)
    assert (first["auroc"] == ~odd).all() and (first["other"] == odd).all() and len(table) == 2 * 2 * 6
    assert (first["averaged"] == 1).all() and (first["averaged_other"] == 0).all()
    assert table.groupby("song")["part"].unique().map(list).tolist() == [["lead", "percussion"], ["voice", "percussion"]]


def test_pointing_refuses_a_steered_model_and_no_songs(tiny):
    with pytest.raises(ValueError, match="steer"), tiny.steer(datasets.vector("fast"), 5.0):
        pointing(tiny, 1, steps=1, progress=False)
    for wrong in (-1, 0, True):
        with pytest.raises(ValueError, match="songs is"):
            pointing(tiny, wrong, steps=1, progress=False)
