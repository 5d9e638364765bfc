"""What the renderer promises: labels are heard where they should be, and nowhere else."""

import dataclasses
from collections import Counter
from itertools import pairwise

import librosa
import numpy as np
import pyloudnorm
import pytest

from audioscope.tiny import music, pool, voice
from audioscope.tiny.band import FRAME, RATE, SAMPLES, Band, Drummer, Harmony, leveled, loudness
from audioscope.tiny.bank import NoteBank
from audioscope.tiny.idioms import ACCOMPANIMENT, DRUMS, FILLS, HAND_PERCUSSION
from audioscope.tiny.music import BPM, GROUPS, LEVEL, MOODS, VOICE_RANGE, Song, perform, render
from audioscope.tiny.voice import MANNERS, VOWELS, Syllable, sing

GENRES = GROUPS["genre"]


@pytest.fixture(scope="module")
def bank():
    return NoteBank()


def draws(seed=0):
    return np.random.default_rng(seed)


def song(**labels):
    return dataclasses.replace(Song("none", "medium", "neutral", "pop", "none", "none"), **labels)


def rms(wave):
    return float(np.sqrt((wave.astype(float) ** 2).mean()))


def songs(count, seed=5):
    """Songs of the pool, with their seeds: every label comes up."""
    return [(pool.song(i, seed), i) for i in range(count)]


@pytest.mark.parametrize("genre", GENRES)
def test_a_clip_is_reproducible_and_mastered(bank, genre):
    for seed, labels in enumerate(
        ({"lead": "violin", "voice": "male", "percussion": "drums"}, {"mood": "sad"}, {"tempo": "slow"})
    ):
        wave = render(song(genre=genre, **labels), draws(seed), bank)
        assert np.array_equal(wave, render(song(genre=genre, **labels), draws(seed), NoteBank()))
        assert not np.array_equal(wave, render(song(genre=genre, **labels), draws(seed + 9), bank))
        assert wave.shape == (65_536,) and wave.dtype == np.float32 and np.isfinite(wave).all()
        assert np.abs(wave).max() < 1 and abs(20 * np.log10(rms(wave)) - LEVEL) < 0.5
        assert np.abs(wave[-20:]).max() < 0.01, "the end is faded"


def test_only_what_is_labelled_plays(bank, monkeypatch):
    """No hit without percussion, no singer without a voice, no lead without one; with them, they are asked to play."""
    calls = Counter()

    class Counting(NoteBank):
        def hit(self, name, source=None):
            calls["hit"] += 1
            return super().hit(name, source)

    monkeypatch.setattr(music, "sing", lambda *args: (calls.update(["sing"]), sing(*args))[1])
    counting = Counting()
    for labels, seed in songs(40):
        calls.clear()
        buses, _ = perform(labels, draws(seed), counting)
        assert bool(calls["hit"]) == (labels.percussion != "none") and calls["sing"] == (labels.voice != "none")
        expected = {name for name in ("voice", "lead", "percussion") if getattr(labels, name) != "none"}
        assert set(buses) == expected | {"accompaniment"}
        assert all(np.abs(bus).max() > 0.1 for bus in buses.values()), labels


def same(one, other, *names):
    return [np.array_equal(one[name], other[name]) for name in names]


@pytest.mark.parametrize("genre", GENRES)
def test_a_label_changes_its_own_bus_only(bank, genre):
    """The same draws with another lead, singer or percussion: what the others play is the same to the sample."""
    base = song(genre=genre, lead="violin", percussion="drums")
    one, _ = perform(base, draws(3), bank)
    for change, changed in (
        ({"lead": "trumpet"}, "lead"), ({"lead": "none"}, "lead"),
        ({"percussion": "bongos"}, "percussion"), ({"percussion": "none"}, "percussion"),
    ):  # fmt: skip
        other, _ = perform(dataclasses.replace(base, **change), draws(3), bank)
        rest = {"accompaniment", "lead", "percussion"} - {changed}
        assert all(same(one, other, *rest)), change
        assert changed not in other or not all(same(one, other, changed))
    sung, _ = perform(dataclasses.replace(base, voice="male"), draws(3), bank)
    assert all(same(one, sung, "accompaniment", "percussion"))
    alone, _ = perform(song(genre=genre, voice="male"), draws(3), bank)
    man, _ = perform(song(genre=genre, voice="male", percussion="drums"), draws(3), bank)
    assert all(same(alone, man, "accompaniment", "voice"))


def test_lead_and_voice_stand_in_front_of_the_band(bank):
    """By the desk's own meter as far as stated, and by another one (ITU-R BS.1770, as pyloudnorm has it) on average."""
    meter, margins = pyloudnorm.Meter(RATE), {"lead": [], "voice": []}
    for labels, seed in songs(60):
        buses, _ = perform(labels, draws(seed), bank)
        assert abs(loudness(buses["accompaniment"])) < 0.1
        for name in {"lead", "voice"} & set(buses):
            assert 1.9 < loudness(buses[name]) < 4.1, labels
            margins[name].append(meter.integrated_loudness(buses[name].astype(float) / 20)
                                 - meter.integrated_loudness(buses["accompaniment"].astype(float) / 20))  # fmt: skip
        if "percussion" in buses:
            assert -4 < loudness(buses["percussion"]) < 3
    for name, margin in margins.items():
        assert np.median(margin) > 1, (name, np.round(margin, 1))


def test_the_meter_measures_where_it_sounds():
    tone = np.sin(2 * np.pi * 1000 * np.arange(SAMPLES) / RATE).astype(np.float32)
    half = tone * (np.arange(SAMPLES) < SAMPLES / 2)
    assert abs(loudness(tone) + 3.0) < 0.1 and abs(loudness(half) - loudness(tone)) < 0.1
    low = np.sin(2 * np.pi * 50 * np.arange(SAMPLES) / RATE).astype(np.float32)
    assert loudness(low) < loudness(tone) - 6
    assert abs(loudness(leveled(half, 3.0)) - 3) < 0.01
    assert not leveled(np.zeros(SAMPLES, np.float32)).any() and loudness(np.zeros(FRAME * 4)) == -np.inf


def test_a_singer_and_a_lead_take_turns(bank):
    """Where one is loud the other is soft or silent; each has a good part of the clip."""
    shares = []
    for seed in range(12):
        buses, _ = perform(song(genre=GENRES[seed % 6], voice=("male", "female")[seed % 2], lead="trumpet"), draws(seed), bank)
        lead, voice_ = (buses[n].reshape(-1, FRAME).std(1) for n in ("lead", "voice"))
        loud_lead, loud_voice = lead > 0.7 * np.sqrt((lead**2).mean()), voice_ > 0.7 * np.sqrt((voice_**2).mean())
        assert (loud_lead & loud_voice).mean() < 0.2
        shares.append((loud_lead.mean(), loud_voice.mean()))
    assert np.min(np.mean(shares, axis=0)) > 0.2, shares


def distance(found, low, high):
    """How far a tempo lies from a band, in octaves, whatever the octave."""
    above = np.log2(found / low) % 1
    width = np.log2(high / low)
    return 0.0 if above <= width else min(above - width, 1 - above)


@pytest.mark.parametrize("genre", GENRES)
def test_beats_are_as_far_apart_as_the_label_says(bank, genre):
    """Without percussion. No band holds an octave of another, so what is found, in any octave, lies nearest to its own."""
    right = []
    for tempo in BPM:
        for seed in range(4):
            wave = render(song(genre=genre, tempo=tempo), draws(seed), bank)
            onset = librosa.onset.onset_strength(y=wave, sr=RATE, hop_length=128)
            acf = librosa.autocorrelate(onset - onset.mean(), max_size=300)
            peaks = [i for i in range(20, 299) if acf[i] >= acf[i - 1] and acf[i] >= acf[i + 1]]  # 25 to 375 BPM
            found = 60 * RATE / 128 / max(peaks, key=lambda i: acf[i])
            right.append(tempo == min(BPM, key=lambda name, found=found: distance(found, *BPM[name])))
    assert np.mean(right) >= 0.75, right


@pytest.mark.parametrize("genre", GENRES)
@pytest.mark.parametrize("tempo", BPM)
def test_an_onset_falls_on_almost_every_beat(bank, genre, tempo):
    """Of the accompaniment alone, whatever it leaves out elsewhere."""
    held = []
    for seed in range(4):
        rng = draws(seed)
        beat = 60 / rng.uniform(*BPM[tempo])
        buses, _ = perform(song(genre=genre, tempo=tempo), draws(seed), bank)
        envelope = librosa.onset.onset_strength(y=buses["accompaniment"] / 20, sr=RATE, hop_length=128)
        times = 0.02 + beat * np.arange(1, int(4 / beat))
        on = [envelope[max(int(t * RATE / 128) - 5, 0) : int(t * RATE / 128) + 8].max() for t in times]
        held.append(np.mean(np.array(on) > 1.2 * np.median(envelope)))
    assert np.mean(held) > 0.8, held


@pytest.mark.parametrize("sex", VOWELS)
@pytest.mark.parametrize("manner", MANNERS)
def test_a_singer_sings_the_pitches_asked(sex, manner, monkeypatch):
    low, high = VOICE_RANGE[sex]
    pitches = [low + 2, low + 9, high - 3, low + 5]
    line = [Syllable(i + 0.02, 0.9, pitch) for i, pitch in enumerate(pitches)]
    wave = sing(line, sex, manner, draws(2), SAMPLES)
    assert (
        wave.shape == (SAMPLES,) and wave.dtype == np.float32 and np.array_equal(wave, sing(line, sex, manner, draws(2), SAMPLES))
    )
    f0 = librosa.yin(wave, fmin=60, fmax=1100, sr=RATE, frame_length=1024, hop_length=64)
    for i, pitch in enumerate(pitches):
        steady = 69 + 12 * np.log2(f0[int((i + 0.3) * 250) : int((i + 0.8) * 250)] / 440)
        assert abs(np.median(steady) - pitch) < 0.6, (i, np.median(steady), pitch)
        wave_cents = 100 * np.percentile(np.abs(steady - np.median(steady)), 80)
        assert (wave_cents > 25) == (manner == "opera") or manner == "soul", (manner, wave_cents)


@pytest.mark.parametrize("sex", VOWELS)
def test_syllables_are_heard_apart(sex, monkeypatch):
    """Notes that touch are bound by a vowel alone and parted by a consonant; between notes that do not touch nobody sings."""
    wide, close = ([Syllable(i + 0.02, length, 60) for i in range(4)] for length in (0.8, 1.0))
    level = {}
    for consonants in "-md":
        monkeypatch.setitem(MANNERS, "plain", dataclasses.replace(MANNERS["plain"], consonants=consonants))
        for name, line in (("wide", wide), ("close", close)):
            wave = sing(line, sex, "plain", draws(2), SAMPLES)
            gaps = [wave[int((i - 0.045) * RATE) : int((i + 0.015) * RATE)] for i in (1, 2, 3)]
            level[consonants, name] = max(rms(gap) for gap in gaps) / rms(wave)
    assert level["-", "wide"] < 0.05 and level["-", "close"] > 0.5, level
    assert level["m", "close"] < 0.75 * level["-", "close"] and level["d", "close"] < 0.75 * level["-", "close"], level


def spectrum(wave):
    power = np.abs(np.fft.rfft(wave * np.hanning(len(wave)))) ** 2
    return power, np.fft.rfftfreq(len(wave), 1 / RATE)


@pytest.mark.parametrize("sex", VOWELS)
def test_formants_move_from_syllable_to_syllable(sex):
    line = [Syllable(i / 2 + 0.02, 0.48, 57) for i in range(8)]
    wave = sing(line, sex, "plain", draws(1), SAMPLES)
    envelopes = []
    for i in range(8):
        power, hertz = spectrum(wave[int((i / 2 + 0.15) * RATE) : int((i / 2 + 0.4) * RATE)])
        bands = [10 * np.log10(power[(hertz >= a) & (hertz < a + 250)].mean()) for a in range(200, 3700, 250)]
        envelopes.append(np.array(bands) - np.mean(bands))
    steps = [np.abs(a - b).mean() for a, b in pairwise(envelopes)]
    assert min(steps) > 2, steps  # dB


def test_the_vocal_tract_resonates_at_the_formants():
    for table in VOWELS.values():
        for formants in table.values():
            response = np.abs(voice._tract(np.array([formants], dtype=float), 0.9))[0]
            peaks = np.flatnonzero((response[1:-1] > response[:-2]) & (response[1:-1] > response[2:])) + 1
            found = peaks * RATE / voice.FFT
            assert all(np.abs(found - f).min() < 60 for f in formants if formants[-1] > f), (formants, found)
    for i in range(3):
        assert all(VOWELS["female"][v][i] > VOWELS["male"][v][i] for v in "aeiou")


@pytest.mark.parametrize("sex", VOWELS)
def test_an_operatic_voice_has_a_singers_formant(sex, monkeypatch):
    """Heard on back vowels, which have little near 3 kHz of their own."""
    monkeypatch.setitem(VOWELS, sex, {vowel: VOWELS[sex][vowel] for vowel in "aou"})
    line = [Syllable(i / 2 + 0.02, 0.48, VOICE_RANGE[sex][0] + i) for i in range(8)]
    share = {}
    for manner in ("plain", "opera"):
        monkeypatch.setitem(MANNERS, manner, dataclasses.replace(MANNERS[manner], consonants="-"))
        power, hertz = spectrum(sing(line, sex, manner, draws(4), SAMPLES))
        share[manner] = 10 * np.log10(power[(hertz > 2300) & (hertz < 3900)].sum() / power.sum())
    assert share["opera"] > share["plain"] + 6 and share["opera"] > -24, share


def test_nobody_sings_nothing():
    assert not sing([], "male", "plain", draws(), SAMPLES).any()
    assert not sing([Syllable(5.0, 1.0, 50)], "male", "plain", draws(), SAMPLES).any(), "a note after the end"


def test_patterns_are_whole():
    """Every genre has drums, every drum is known, and a line divides four beats."""
    assert set(ACCOMPANIMENT) == set(DRUMS) == set(GENRES) and set(HAND_PERCUSSION) == set(GROUPS["percussion"]) - {
        "drums",
        "none",
    }
    bank = NoteBank()
    band = Band(bank, draws(), 0.5, MOODS["neutral"])
    for pattern in [p for table in (*DRUMS.values(), FILLS, *HAND_PERCUSSION.values()) for p in table]:
        drummer = Drummer(band, "drummer", "kick")
        drummer.pattern(8, pattern)
        assert np.abs(drummer.track).max() > 0.05
        assert all(len(line) in (8, 12, 16) for line in pattern.values())


def test_harmony_spells_chords_in_the_key():
    harmony = Harmony(2, MOODS["happy"].scale, (0, 3, 4, 0))  # D major
    assert harmony.chord(0, 60) == [62, 66, 69] and harmony.pitch(4, 30) == 33
    for degree in range(7):
        assert all((p - 2) % 12 in MOODS["happy"].scale for p in harmony.chord(degree, 50, (0, 2, 4, 6, 8)))


def test_swing_is_jazz_only(bank):
    note = music.Note(1.5, 0.5, 60)
    for genre in GENRES:
        at, beats = music._swung(song(genre=genre), note)
        assert (at > 1.6) == (genre == "jazz") and at + beats == 2.0


def test_players_keep_to_their_sources(bank):
    """One source per player and song; a bank that is left out is not heard."""
    asked = []

    class Asking(NoteBank):
        def __init__(self, **choice):
            super().__init__(**choice)
            inner = self.note
            self.note = lambda instrument, pitch, formant=0.0, source=None: (
                asked.append((instrument, source)), inner(instrument, pitch, formant, source))[1]  # fmt: skip

    every = Asking()
    for labels, seed in songs(30):
        asked.clear()
        perform(labels, draws(seed), every)
        kinds = Counter(instrument for instrument, _ in set(asked))
        assert all(count <= 2 for name, count in kinds.items()), kinds  # two guitars, two sections of strings
        if labels.lead != "none" and labels.lead not in ("piano", "guitar"):
            assert kinds[labels.lead] == 1
    without = Asking(without=("recorded",))
    for labels, seed in songs(12):
        asked.clear()
        perform(labels, draws(seed), without)
        assert "recorded" not in {source for _, source in asked}


def test_the_pool_passes_the_banks_on():
    heard = [pool.clip(3, 1), pool.clip(3, 1, without=("recorded", "third")), pool.clip(3, 1, only=["fluid"])]
    assert np.array_equal(heard[1], heard[2]) and np.array_equal(heard[0], next(pool.clips(range(3, 4), 1, workers=1)))
    many = [(pool.clip(i, 1), pool.clip(i, 1, only=("fluid",))) for i in range(6)]
    assert not all(np.array_equal(a, b) for a, b in many)


def test_a_voice_module_knows_its_vowels():
    assert {len(f) for table in VOWELS.values() for f in table.values()} == {5}
    assert all(list(f) == sorted(f) for table in VOWELS.values() for f in table.values())
    assert set("".join(m.consonants for m in MANNERS.values())) <= set(voice.CONSONANTS)
