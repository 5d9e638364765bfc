"""A small band that plays what a label says: labels in, 4.096 s of music at 16 kHz out.

Each group of labels has its own audible means, drawn independently of the others: the accompaniment and its pattern
carry the genre, a melody the lead instrument, the spacing of beats the tempo, and mode, register, articulation,
density and brightness together the mood.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from zlib import crc32

import numpy as np
from scipy.signal import fftconvolve, lfilter

from audioscope.tiny.bank import RATE, NoteBank

SAMPLES = 65_536
SECONDS = SAMPLES / RATE  # 4.096

GROUPS: dict[str, tuple[str, ...]] = {
    "voice": ("female", "male", "none"),
    "tempo": ("slow", "medium", "fast"),
    "mood": ("happy", "sad", "neutral"),
    "genre": ("reggae", "metal", "opera", "jazz", "techno", "pop"),
    "lead": ("violin", "trumpet", "saxophone", "cello", "flute", "harmonica", "trombone", "xylophone", "piano",
             "guitar", "none"),
    "percussion": ("drums", "bongos", "maracas", "none"),
}  # fmt: skip

BPM = {"slow": (55, 75), "medium": (95, 115), "fast": (145, 180)}
LEAD_RANGE = {
    "violin": (60, 86), "trumpet": (58, 80), "saxophone": (52, 76), "cello": (40, 64), "flute": (66, 90),
    "harmonica": (62, 84), "trombone": (42, 64), "xylophone": (68, 92), "piano": (55, 84), "guitar": (48, 74),
}  # fmt: skip
VOICE_RANGE = {"female": (62, 79), "male": (43, 58)}
FORMANT = {"female": 2.0, "male": -3.0}

MAJOR, MINOR, DORIAN = (0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10), (0, 2, 3, 5, 7, 9, 10)


@dataclass(frozen=True)
class Mood:
    """What a listener can hear of a mood besides the mode."""

    scale: tuple[int, ...]
    progressions: tuple[tuple[int, ...], ...]  # scale degrees, one chord every two beats
    register: float  # where in its range a melody lies, 0 to 1
    length: float  # part of a note's slot that sounds
    density: float  # chance that a beat is divided in two
    drift: float  # mean melodic step, in scale degrees
    tilt: float  # dB above 2 kHz
    level: float  # dB


MOODS = {
    "happy": Mood(MAJOR, ((0, 3, 4, 0), (0, 4, 5, 3), (0, 3, 0, 4)), 0.75, 0.5, 0.8, 0.4, 5.0, 1.5),
    "sad": Mood(MINOR, ((0, 5, 3, 0), (0, 3, 4, 0), (0, 6, 5, 4)), 0.22, 1.05, 0.05, -0.5, -6.0, -2.0),
    "neutral": Mood(DORIAN, ((0, 0, 3, 3), (0, 6, 0, 6), (0, 0, 0, 0)), 0.5, 0.8, 0.4, 0.0, 0.0, 0.0),
}


@dataclass(frozen=True)
class Song:
    """The labels of one clip: one class of each group."""

    voice: str
    tempo: str
    mood: str
    genre: str
    lead: str
    percussion: str

    @staticmethod
    def draw(rng: np.random.Generator, held_out: bool = False) -> Song:
        """Independent uniform labels. One combination in ten is held out: training never sees it whole."""
        while True:
            song = Song(**{group: str(rng.choice(classes)) for group, classes in GROUPS.items()})
            if song.held_out == held_out:
                return song

    @property
    def held_out(self) -> bool:
        return crc32(repr(asdict(self)).encode()) % 10 == 0

    def indices(self) -> list[int]:
        """The class number of each group, in the order of GROUPS."""
        return [GROUPS[group].index(label) for group, label in asdict(self).items()]


class Band:
    """Mixes notes into one clip: the state of a single rendering."""

    def __init__(self, bank: NoteBank, rng: np.random.Generator, beat: float):
        self.bank, self.rng, self.beat = bank, rng, beat
        self.mix = np.zeros(SAMPLES + RATE * 3, dtype=np.float32)

    def _add(self, wave: np.ndarray, at: float, gain: float) -> None:
        """Add a waveform at beat `at`, up to 8 ms off as a human would be."""
        start = int(RATE * max(0.0, 0.02 + at * self.beat + self.rng.uniform(-0.008, 0.008)))
        if start < SAMPLES:
            self.mix[start : start + len(wave)] += gain * self.rng.uniform(0.85, 1.15) * wave

    def note(self, instrument: str, pitch: int, at: float, beats: float, gain: float, formant: float = 0.0) -> None:
        samples = max(int(RATE * beats * self.beat), 800)
        wave = self.bank.note(instrument, int(pitch), formant)[:samples].copy()
        release = min(480, len(wave) // 2)
        wave[-release:] *= np.linspace(1, 0, release, dtype=np.float32)
        self._add(wave, at, gain)

    def chord(self, instrument: str, pitches: list[int], at: float, beats: float, gain: float) -> None:
        for pitch in pitches:
            self.note(instrument, pitch, at, beats, gain / len(pitches) ** 0.5)

    def hit(self, name: str, at: float, gain: float) -> None:
        self._add(self.bank.hit(name), at, gain)


def render(song: Song, rng: np.random.Generator, bank: NoteBank) -> np.ndarray:
    """Play a song once: float32 [65536] at 16 kHz, about -20 dB RMS, peak below 1. Everything else is drawn from `rng`."""
    beat = 60.0 / rng.uniform(*BPM[song.tempo])
    mood, key = MOODS[song.mood], int(rng.integers(12))
    band, beats = Band(bank, rng, beat), int(np.ceil(SECONDS / beat))
    progression = mood.progressions[rng.integers(len(mood.progressions))]
    degrees = [progression[(b // 2) % len(progression)] for b in range(beats)]

    def pitch(degree: int, low: int) -> int:
        """The scale's `degree` as the lowest MIDI pitch not under `low`."""
        octave, step = divmod(degree, 7)
        tone = key + mood.scale[step]
        return low + (tone - low) % 12 + 12 * octave

    ACCOMPANIMENT[song.genre](band, degrees, pitch, mood)
    if song.percussion == "drums":
        DRUMS[song.genre](band, beats, 0.55 * rng.uniform(0.8, 1.2))
    elif song.percussion == "bongos":
        _bongos(band, beats, 0.8 * rng.uniform(0.8, 1.2))
    elif song.percussion == "maracas":
        _maracas(band, beats, 0.65 * rng.uniform(0.8, 1.2))
    if song.lead != "none":
        low, high = LEAD_RANGE[song.lead]
        _melody(band, degrees, key, mood, song.lead, low, high, 0.62 * rng.uniform(0.85, 1.2), density=mood.density)
    if song.voice != "none":
        low, high = VOICE_RANGE[song.voice]
        vowel = str(rng.choice(["aahs", "oohs"]))
        gain = 0.8 * rng.uniform(0.85, 1.2)
        _melody(band, degrees, key, mood, vowel, low, high, gain, density=-0.6, formant=FORMANT[song.voice])
    return _master(band.mix[:SAMPLES], rng, mood)


def _master(wave: np.ndarray, rng: np.random.Generator, mood: Mood) -> np.ndarray:
    """Tone, room, level: a mild random shelf and reverberation, the mood's brightness and dynamics, a soft limiter."""
    low = lfilter([0.54], [1, -0.46], wave)  # one pole near 2 kHz
    shelf = 10 ** ((mood.tilt + rng.uniform(-2, 2)) / 20)
    wave = low + shelf * (wave - low)
    time = np.arange(int(RATE * 0.4)) / RATE
    room = rng.standard_normal(len(time)) * np.exp(-time / rng.uniform(0.04, 0.12))
    wet = fftconvolve(wave, room / np.sqrt((room**2).sum()))[:SAMPLES]
    wave = wave + rng.uniform(0.08, 0.3) * wet
    level = 10 ** ((-20 + mood.level + rng.uniform(-1, 1)) / 20)
    wave = wave * level / (np.sqrt((wave**2).mean()) + 1e-6)
    wave = 0.98 * np.tanh(wave / 0.98)
    wave[-640:] *= np.linspace(1, 0, 640)
    return wave.astype(np.float32)


def _melody(band: Band, degrees: list[int], key: int, mood: Mood, instrument: str, low: int, high: int, gain: float,
            density: float, formant: float = 0.0) -> None:  # fmt: skip
    """A line of chord and passing tones. Density above 0 divides beats, below 0 joins them in long notes."""
    rng = band.rng
    tones = [p for p in range(low, high + 1) if (p - key) % 12 in mood.scale]
    centre = mood.register * (len(tones) - 1)
    here, at = centre + rng.uniform(-2, 2), 0.0
    while at < len(degrees):
        if density < 0:
            beats = 2.0 if rng.random() < -density else 1.0
        else:
            beats = 0.5 if rng.random() < density else 1.0 if rng.random() < 0.6 else 2.0
        chord = {(mood.scale[(degrees[int(at)] + s) % 7] + key) % 12 for s in (0, 2, 4)}
        nearest = sorted(range(len(tones)), key=lambda i: abs(i - here) + (0.0 if tones[i] % 12 in chord else 1.2))
        here = float(nearest[0] if at % 1 == 0 else np.clip(round(here), 0, len(tones) - 1))
        if rng.random() > 0.08:
            sounding = min(mood.length if density >= 0 else max(mood.length, 0.8), 1.0) * beats
            band.note(instrument, tones[int(here)], at, sounding, gain, formant)
        here += rng.choice([-2, -1, 1, 2]) + mood.drift + 0.25 * (centre - here)
        here = float(np.clip(here, 0, len(tones) - 1))
        at += beats


def _triad(pitch, degree: int, low: int, sevenths: bool = False) -> list[int]:
    steps = (0, 2, 4, 6) if sevenths else (0, 2, 4)
    return sorted({low + (pitch(degree + s, 0) - low) % 12 for s in steps})


def _reggae(band, degrees, pitch, mood) -> None:
    shape = band.rng.integers(2)
    low = int(band.rng.integers(55, 61))
    for b, degree in enumerate(degrees):
        band.chord("clean guitar", _triad(pitch, degree, low), b + 0.5, 0.22, 0.75)
        if shape:
            band.chord("organ", _triad(pitch, degree, low), b + 0.5, 0.3, 0.35)
        for at, step in ((0, 0), (0.75, 4)) if b % 2 == 0 else ((0.5, 2),):
            band.note("electric bass", pitch(degree + step, 28), b + at, 0.45, 0.6)


def _metal(band, degrees, pitch, mood) -> None:
    gallop = band.rng.integers(3)
    pattern = ([(0, 0.45), (0.5, 0.45)], [(0, 0.45), (0.5, 0.22), (0.75, 0.22)], [(i / 4, 0.22) for i in range(4)])[gallop]
    for b, degree in enumerate(degrees):
        root = pitch(degree, 34)
        root -= 12 if root > 45 else 0
        for at, beats in pattern:
            for interval in (0, 7, 12):
                band.note("distorted guitar", max(root + interval, 33), b + at, beats, 0.42)
            band.note("electric bass", max(root - 12, 26), b + at, beats, 0.35)


def _opera(band, degrees, pitch, mood) -> None:
    tremolo = band.rng.random() < 0.5
    for b, degree in enumerate(degrees):
        high = _triad(pitch, degree, 62)
        if tremolo:
            for i in range(4):
                band.chord("strings", high, b + i / 4, 0.3, 0.45)
        elif b % 2 == 0:
            band.chord("strings", high, b, 2.0, 0.6)
        band.chord("strings", [pitch(degree, 43), pitch(degree, 43) + 12], b, 0.9, 0.6)
        band.note("acoustic bass", pitch(degree, 28), b, 0.5, 0.35)


def _jazz(band, degrees, pitch, mood) -> None:
    low = int(band.rng.integers(50, 57))
    syncopation = ((0.66,), (0.0, 1.66), (1.0, 1.66), (0.66, 1.66))[band.rng.integers(4)]
    for b, degree in enumerate(degrees):
        walk = (0, 2, 4, 5)[b % 4] if band.rng.random() < 0.8 else int(band.rng.integers(0, 6))
        band.note("acoustic bass", pitch(degree + walk, 29), b, 0.85, 0.75)
        if band.rng.random() < 0.3:
            band.note("acoustic bass", pitch(degree, 29), b + 0.66, 0.3, 0.5)
        if b % 2 == 0:
            for at in syncopation:
                band.chord("clean guitar", _triad(pitch, degree, low, sevenths=True), b + at, 0.5, 0.45)


def _techno(band, degrees, pitch, mood) -> None:
    order = band.rng.permutation(4)
    for b, degree in enumerate(degrees):
        tones = _triad(pitch, degree, 60) + [pitch(degree, 60) + 12]
        for i in range(4):
            band.note("saw", tones[order[i] % len(tones)], b + i / 4, 0.18, 0.4)
            if i:
                band.note("synth bass", pitch(degree, 28), b + i / 4, 0.22, 0.5)
        if b % 2 == 0:
            band.chord("pad", _triad(pitch, degree, 55), b, 2.0, 0.22)


def _pop(band, degrees, pitch, mood) -> None:
    arpeggio = band.rng.random() < 0.5
    for b, degree in enumerate(degrees):
        tones = _triad(pitch, degree, 57)
        if arpeggio:
            band.note("electric piano", tones[0], b, 0.5, 0.45)
            band.note("electric piano", tones[1 + b % 2], b + 0.5, 0.5, 0.4)
        else:
            band.chord("electric piano", tones, b, 0.9, 0.55)
        if b % 2 == 0:
            band.note("electric bass", pitch(degree, 28), b, 0.9, 0.6)
            band.note("electric bass", pitch(degree, 28), b + 1.5, 0.45, 0.5)


ACCOMPANIMENT = {"reggae": _reggae, "metal": _metal, "opera": _opera, "jazz": _jazz, "techno": _techno, "pop": _pop}


def _reggae_drums(band, beats, gain) -> None:
    for b in range(beats):
        for half in (0, 0.5):
            band.hit("closed hat", b + half, 0.45 * gain)
        if b % 4 == 2:
            band.hit("kick", b, 1.3 * gain)
            band.hit("rim", b, gain)
        elif b % 4 == 0 and band.rng.random() < 0.3:
            band.hit("rim", b + 0.75, 0.6 * gain)


def _metal_drums(band, beats, gain) -> None:
    division = int(band.rng.choice([2, 4]))
    band.hit("crash", 0, 0.7 * gain)
    for b in range(beats):
        for i in range(division):
            band.hit("kick", b + i / division, gain)
        if b % 2:
            band.hit("snare", b, 1.3 * gain)
        band.hit("ride", b, 0.5 * gain)


def _opera_drums(band, beats, gain) -> None:
    for b in range(beats):
        if b % 2 == 0:
            band.hit("low tom", b, 1.4 * gain)
            band.hit("kick", b, gain)
        for i in range(4):
            band.hit("snare", b + i / 4, (0.6 if i == 0 else 0.25) * gain)
    band.hit("crash", 0, 0.5 * gain)


def _jazz_drums(band, beats, gain) -> None:
    for b in range(beats):
        band.hit("ride", b, 0.8 * gain)
        if b % 2:
            band.hit("ride", b + 0.66, 0.6 * gain)
            band.hit("closed hat", b, 0.7 * gain)
        if band.rng.random() < 0.35:
            band.hit("snare", b + 0.66, 0.6 * gain)
        if b % 2 == 0:
            band.hit("kick", b, 0.7 * gain)


def _techno_drums(band, beats, gain) -> None:
    sixteenths = band.rng.random() < 0.5
    for b in range(beats):
        band.hit("kick", b, 1.5 * gain)
        band.hit("open hat", b + 0.5, 0.5 * gain)
        if sixteenths:
            for i in (1, 3):
                band.hit("closed hat", b + i / 4, 0.35 * gain)
        if b % 2:
            band.hit("snare", b, 0.6 * gain)


def _pop_drums(band, beats, gain) -> None:
    for b in range(beats):
        band.hit("snare" if b % 2 else "kick", b, 1.2 * gain)
        for half in (0, 0.5):
            band.hit("closed hat", b + half, 0.45 * gain)
        if b % 2 == 0 and band.rng.random() < 0.4:
            band.hit("kick", b + 1.5, gain)


DRUMS = {"reggae": _reggae_drums, "metal": _metal_drums, "opera": _opera_drums, "jazz": _jazz_drums,
         "techno": _techno_drums, "pop": _pop_drums}  # fmt: skip


def _bongos(band, beats, gain) -> None:
    pattern = ("hhhlhhll", "hlhlhhlh", "h.hlh.ll", "hhlhhhlh")[band.rng.integers(4)]
    for i in range(2 * beats):
        stroke = pattern[i % 8]
        if stroke != ".":
            band.hit("high bongo" if stroke == "h" else "low bongo", i / 2, gain * (1.0 if i % 2 == 0 else 0.7))


def _maracas(band, beats, gain) -> None:
    division = int(band.rng.choice([2, 4]))
    for i in range(division * beats):
        band.hit("maracas", i / division, gain * (1.0 if i % division == 0 else 0.5))
