"""The note banks of the tiny model's music: what is in them, at which pitch, and how loud."""

from __future__ import annotations

import numpy as np
import pytest

from audioscope.tiny.bank import RATE, NoteBank
from audioscope.tiny.music import LEAD_RANGE

BANKS = ("fluid", "recorded", "third")


@pytest.fixture(scope="module")
def bank():
    return NoteBank()


def cents_off(wave: np.ndarray, pitch: int) -> float:
    """How far the wave's pitch is from a MIDI pitch, by the best autocorrelation within 1.6 octaves of it."""
    hertz = 440 * 2 ** ((pitch - 69) / 12)
    wave = wave[1600:9600] if len(wave) >= 9600 else wave[400:]
    wave = wave - wave.mean()
    up = 8  # the lag between samples: the spectrum is filled up with zeros
    spectrum = np.abs(np.fft.rfft(wave, 2 * len(wave))) ** 2
    correlation = np.fft.irfft(spectrum, 2 * len(wave) * up)[: len(wave) * up]
    lags = np.arange(1, len(correlation))
    near = lags[(lags > RATE * up / hertz / 3) & (lags < RATE * up / hertz * 3)]
    tapered = correlation[near] / (1 - near / len(correlation))
    # The first peak that is nearly the highest: all multiples of the period are as high.
    peaks = near[1:-1][(tapered[1:-1] >= tapered[:-2]) & (tapered[1:-1] >= tapered[2:])]
    heights = correlation[peaks] / (1 - peaks / len(correlation))
    first = peaks[heights > 0.95 * heights.max()][0]
    return 1200 * np.log2(RATE * up / first / hertz)


def loudness(waves: list[np.ndarray]) -> float:
    """dB RMS of the first half second, over the notes of an instrument."""
    half = RATE // 2
    return 10 * np.log10(np.mean([(wave[:half] ** 2).sum() / half for wave in waves]))


BAND = ("clean guitar", "distorted guitar", "strings", "organ", "electric piano", "saw", "pad", "electric bass", "acoustic bass",
        "synth bass", "aahs", "oohs")  # fmt: skip
DRUMS = (
    "kick",
    "snare",
    "rim",
    "closed hat",
    "open hat",
    "crash",
    "ride",
    "low tom",
    "high tom",
    "high bongo",
    "low bongo",
    "maracas",
)


def test_all_that_the_music_plays_has_a_source(bank):
    for name in (*LEAD_RANGE, *BAND, *DRUMS):
        assert bank.sources(name)[0] == "fluid", name
    for name in LEAD_RANGE:
        assert len(bank.sources(name)) >= 2 or name == "harmonica", f"{name}: only {bank.sources(name)}"


@pytest.mark.parametrize("source", ["recorded", "third"])
def test_every_note_is_at_its_pitch(bank, source):
    wrong = []
    for name in bank._notes:
        for pitch, wave in bank._notes[name].get(source, {}).items():
            off = cents_off(wave, pitch)
            # An organ's stops sound octaves of the key as well, and any of them may be the strongest.
            if name == "organ":
                off = (off + 600) % 1200 - 600
            if abs(off) > 50:
                octave = "an octave" if abs(abs(off) - 1200) < 50 else f"{off:.0f} cents"
                wrong.append(f"{name} {pitch}: {octave} off")
    assert not wrong, wrong


@pytest.mark.parametrize("semitones", [-2, -1, 1, 2])
def test_a_note_between_the_stored_ones_is_at_its_pitch_too(bank, semitones):
    """Where no note is stored, the nearest is played faster or slower."""
    for name, source in (("violin", "fluid"), ("flute", "recorded"), ("saxophone", "third")):
        stored = sorted(bank._notes[name][source])[3]
        assert abs(cents_off(bank.note(name, stored + semitones, source=source), stored + semitones)) < 50, (name, source)


def test_treble_survives_a_shift(bank):
    """Cutting the spectrum keeps a high partial as strong; a line between samples would take 3 dB of it."""
    from audioscope.tiny.bank import _raised

    tone = np.sin(2 * np.pi * 5000 * np.arange(40_000) / RATE).astype(np.float32)
    for semitones in (-3, 1, 4):
        moved = _raised(tone, semitones)
        assert moved.dtype == np.float32 and len(moved) == pytest.approx(40_000 / 2 ** (semitones / 12), rel=2e-3)
        assert np.std(moved[4000:-4000]) == pytest.approx(np.std(tone), rel=0.02)


def test_an_instrument_is_as_loud_in_every_bank(bank):
    for name, banks in bank._notes.items():
        levels = {source: loudness(list(waves.values())) for source, waves in banks.items()}
        assert max(levels.values()) - min(levels.values()) < 3, (name, levels)
    for name, banks in bank._hits.items():
        levels = {source: loudness([wave]) for source, wave in banks.items()}
        assert max(levels.values()) - min(levels.values()) < 3, (name, levels)


def test_only_and_without_choose_banks_and_fall_back():
    assert NoteBank().sources("violin") == ("fluid", "recorded")
    for bank in (NoteBank(only=["recorded"]), NoteBank(without=["fluid", "third"]), NoteBank(only="recorded")):
        assert bank.sources("piano") == ("recorded",)
        assert bank.sources("harmonica") == ("fluid",) and bank.sources("maracas") == ("fluid",)
        assert np.array_equal(bank.note("piano", 60), bank.note("piano", 60, source="recorded"))
        assert not np.array_equal(bank.note("piano", 60), bank.note("piano", 60, source="fluid"))
        assert np.array_equal(bank.hit("kick"), bank.hit("kick", "recorded"))
        assert bank.note("piano", 61) is bank.note("piano", 61)


def test_names_that_do_not_exist_are_said(bank):
    for kwargs in ({"only": ["vinyl"]}, {"without": ["vinyl"]}):
        with pytest.raises(ValueError, match="'vinyl'.*fluid, recorded, third"):
            NoteBank(**kwargs)
    with pytest.raises(ValueError, match="left"):
        NoteBank(without=BANKS)
    with pytest.raises(ValueError, match="'theremin'.*violin"):
        bank.sources("theremin")
    with pytest.raises(ValueError, match="'theremin'.*violin"):
        bank.note("theremin", 60)
    with pytest.raises(ValueError, match="'recorded'.*'harmonica'.*fluid"):
        bank.note("harmonica", 60, source="recorded")
    with pytest.raises(ValueError, match="'kazoo'.*kick"):
        bank.hit("kazoo")


def test_the_banks_are_small(root):
    folder = root / "data/tiny/bank"
    assert sorted(file.name for file in folder.iterdir()) == ["LICENSE", "bank.json", *(f"{name}.ogg" for name in BANKS)]
    assert sum((folder / f"{name}.ogg").stat().st_size for name in BANKS) <= 3.6e6
