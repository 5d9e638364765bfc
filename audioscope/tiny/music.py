"""A small band that plays what a label says: labels in, 4.096 s of music at 16 kHz out.

Each group of labels has its own audible cues, drawn independently of the others: the accompaniment and the drum pattern carry
the genre, a melody the lead instrument, the spacing of beats the tempo, and mode, progression, register, articulation, accents,
swell, density and brightness together the mood.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any
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

# No range contains twice a tempo of another range, so half-time and double-time patterns leave no doubt about the beat.
BPM = {"slow": (60, 74), "medium": (98, 116), "fast": (152, 185)}
LEAD_RANGE = {
    "violin": (60, 86), "trumpet": (58, 80), "saxophone": (52, 76), "cello": (40, 64), "flute": (66, 90),
    "harmonica": (62, 84), "trombone": (42, 64), "xylophone": (68, 92), "piano": (55, 84), "guitar": (48, 74),
}  # fmt: skip
LEVEL = -20.0  # dB RMS of every clip
FAINT = {"xylophone": 2.0, "piano": 1.3, "guitar": 1.2}  # leads that decay are played louder
SUSTAINED = {"violin", "trumpet", "saxophone", "cello", "flute", "harmonica", "trombone", "strings", "organ", "pad",
             "aahs", "oohs"}  # fmt: skip
VOICE_RANGE = {"female": (62, 79), "male": (43, 58)}
FORMANT = {"female": 2.0, "male": -3.0}

MAJOR, MINOR, DORIAN = (0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10), (0, 2, 3, 5, 7, 9, 10)


@dataclass(frozen=True)
class Mood:
    """The mode of a mood, and what else a listener can hear of it."""

    scale: tuple[int, ...]
    progressions: tuple[tuple[int, ...], ...]  # scale degrees, one chord every two beats
    register: float  # where in its range a melody lies, 0 to 1
    length: float  # share of a note's slot that sounds
    density: float  # chance that a beat is divided in two
    drift: float  # mean melodic step, in scale degrees
    tilt: float  # dB above 2 kHz
    accent: float  # how much louder a note on the beat is than one between beats
    attack: float  # seconds until a bowed, blown or sung note is at its loudest
    swell: float  # depth of the rise and fall over the whole clip, 0 to 1


MOODS = {
    "happy": Mood(MAJOR, ((0, 3, 4, 0), (0, 4, 5, 3), (0, 3, 0, 4), (0, 5, 3, 4)), 0.75, 0.5, 0.8, 0.4, 5.0, 1.5, 0.0, 0.0),
    "sad": Mood(MINOR, ((0, 5, 3, 0), (0, 3, 4, 0), (0, 6, 5, 4), (0, 2, 5, 3)), 0.22, 1.05, 0.05, -0.5, -6.0, 1.0, 0.08, 0.6),
    "neutral": Mood(DORIAN, ((0, 0, 3, 3), (0, 6, 0, 6), (0, 0, 0, 0), (0, 3, 0, 3)), 0.5, 0.8, 0.4, 0.0, 0.0, 1.2, 0.02, 0.2),
}


@dataclass(frozen=True)
class Song:
    """The labels of one clip, one class of each group, from which `audioscope.tiny.render` makes music.

    Args:
        voice: "female", "male" or "none".
        tempo: "slow", "medium" or "fast".
        mood: "happy", "sad" or "neutral".
        genre: "reggae", "metal", "opera", "jazz", "techno" or "pop".
        lead: The lead instrument, such as "violin", or "none" (`audioscope.tiny.GROUPS`).
        percussion: "drums", "bongos", "maracas" or "none".

    Example:
        >>> song = audioscope.tiny.Song("none", "fast", "happy", "jazz", "violin", "drums")
        >>> song.indices()
        [2, 2, 0, 3, 0, 0]
    """

    voice: str
    tempo: str
    mood: str
    genre: str
    lead: str
    percussion: str

    @staticmethod
    def draw(rng: np.random.Generator, held_out: bool = False) -> Song:
        """Draw independent uniform labels; one combination in ten is held out, so that training never sees it whole.

        Args:
            rng: What to draw with.
            held_out: Draw one of the combinations that are held out, instead of one of the others.

        Returns:
            The song.

        Example:
            >>> import numpy as np
            >>> audioscope.tiny.Song.draw(np.random.default_rng(0), held_out=True).held_out
            True
        """
        while True:
            song = Song(**{group: str(rng.choice(classes)) for group, classes in GROUPS.items()})
            if song.held_out == held_out:
                return song

    @property
    def held_out(self) -> bool:
        """Whether this combination of labels is one of those that training never sees."""
        return crc32(repr(asdict(self)).encode()) % 10 == 0

    def indices(self) -> list[int]:
        """Return the class number of each group.

        Returns:
            One number per group, in the order of `audioscope.tiny.GROUPS`.
        """
        return [GROUPS[group].index(label) for group, label in asdict(self).items()]


Pitch = Callable[[int, int], int]


class Band:
    """Mixes notes into one clip: the state of a single rendering."""

    def __init__(self, bank: NoteBank, rng: np.random.Generator, beat: float, mood: Mood):
        self.bank, self.rng, self.beat, self.mood = bank, rng, beat, mood
        self.looseness = rng.uniform(0.002, 0.010)  # how far off the beat this band's players are, in s
        self.length = rng.uniform(0.85, 1.15)  # how long this band holds its notes
        self.mix = np.zeros(SAMPLES + RATE * 3, dtype=np.float32)

    def pick(self, *choices: Any) -> Any:
        return choices[self.rng.integers(len(choices))]

    def fader(self, spread: float = 2.5) -> float:
        """A mix level drawn within `spread` dB of 1."""
        return float(10 ** (self.rng.uniform(-spread, spread) / 20))

    def _add(self, wave: np.ndarray, at: float, gain: float) -> None:
        """Add a waveform at beat `at`, a few milliseconds off as a human would be, stronger on the beat."""
        start = int(RATE * max(0.0, 0.02 + at * self.beat + self.rng.normal(0, self.looseness)))
        accent = self.mood.accent**0.5 if at % 1 == 0 else self.mood.accent**-0.5
        if start < SAMPLES:
            self.mix[start : start + len(wave)] += gain * accent * self.rng.uniform(0.8, 1.2) * wave

    def note(self, instrument: str, pitch: int, at: float, beats: float, gain: float, formant: float = 0.0) -> None:
        samples = max(int(RATE * beats * self.length * self.beat), 800)
        wave = self.bank.note(instrument, int(pitch), formant)[:samples].copy()
        attack = min(int(RATE * self.mood.attack), len(wave) // 3) if instrument in SUSTAINED else 0
        release = min(480, len(wave) // 2)
        wave[:attack] *= np.linspace(0, 1, attack, dtype=np.float32)
        wave[-release:] *= np.linspace(1, 0, release, dtype=np.float32)
        self._add(wave, at, gain)

    def chord(self, instrument: str, pitches: list[int], at: float, beats: float, gain: float) -> None:
        for pitch in pitches:
            self.note(instrument, pitch, at, beats, gain / len(pitches) ** 0.5)

    def hits(self, beats: int, patterns: dict[str, str], gain: float) -> None:
        """Add hits written as text, four beats per line: X loud, x plain, o soft, and any other character a rest."""
        for name, line in patterns.items():
            step = 4 / len(line)
            for i in range(int(beats / step)):
                if level := STROKES.get(line[i % len(line)], 0.0):
                    self._add(self.bank.hit(name), i * step, level * gain * LOUDNESS.get(name, 1.0))


STROKES = {"X": 1.3, "x": 0.9, "o": 0.45}
LOUDNESS = {"closed hat": 0.5, "open hat": 0.55, "ride": 0.75, "crash": 0.6, "kick": 1.1}


def render(song: Song, rng: np.random.Generator, bank: NoteBank) -> np.ndarray:
    """Play a song once, as the music that the tiny model was trained on; everything that the labels leave open is drawn.

    Args:
        song: The labels.
        rng: What everything else is drawn with.
        bank: The notes.

    Returns:
        The waveform, float32 [65536] at 16 kHz (4.096 s), about -20 dB RMS, peak below 1.

    Example:
        >>> import numpy as np
        >>> song = audioscope.tiny.Song("none", "fast", "happy", "jazz", "violin", "drums")
        >>> wave = audioscope.tiny.render(song, np.random.default_rng(0), audioscope.tiny.NoteBank())
        >>> wave.shape, round(float(10 * np.log10((wave**2).mean())))
        ((65536,), -20)
    """
    beat = 60.0 / rng.uniform(*BPM[song.tempo])
    mood, key = MOODS[song.mood], int(rng.integers(12))
    band, beats = Band(bank, rng, beat, mood), int(np.ceil(SECONDS / beat))
    progression = band.pick(*mood.progressions)
    degrees = [progression[(b // 2) % len(progression)] for b in range(beats)]

    def pitch(degree: int, low: int) -> int:
        """The scale's `degree` as the lowest MIDI pitch not below `low`."""
        octave, step = divmod(degree, 7)
        tone = key + mood.scale[step]
        return low + (tone - low) % 12 + 12 * octave

    ACCOMPANIMENT[song.genre](band, degrees, pitch)
    if song.percussion != "none":
        patterns = DRUMS[song.genre] if song.percussion == "drums" else HAND_PERCUSSION[song.percussion]
        gain = {"drums": 0.55, "bongos": 0.8, "maracas": 0.75}[song.percussion] * band.fader()
        band.hits(beats, band.pick(*patterns), gain)
        if song.percussion == "drums" and rng.random() < 0.4:
            band.hits(beats, band.pick(*FILLS), gain)
    if song.lead != "none":
        low, high = LEAD_RANGE[song.lead]
        gain = 0.7 * FAINT.get(song.lead, 1.0) * band.fader(1.8)
        _melody(band, degrees, key, song.lead, low, high, gain, density=mood.density)
    if song.voice != "none":
        low, high = VOICE_RANGE[song.voice]
        _melody(band, degrees, key, band.pick("aahs", "oohs"), low, high, 0.8 * band.fader(1.8), -0.6, FORMANT[song.voice])
    return _master(band.mix[:SAMPLES], rng, mood)


def _master(wave: np.ndarray, rng: np.random.Generator, mood: Mood) -> np.ndarray:
    """Tone, room, level: two mild random shelves, reverb, the mood's brightness and swell, a soft limiter."""
    low = lfilter([0.54], [1, -0.46], wave)  # one pole near 2 kHz
    deep = lfilter([0.08], [1, -0.92], wave)  # one pole near 200 Hz
    shelf, bass = 10 ** ((mood.tilt + rng.uniform(-2, 2)) / 20), 10 ** (rng.uniform(-3, 3) / 20)
    wave = low + shelf * (wave - low) + (bass - 1) * deep
    time = np.arange(int(RATE * 0.4)) / RATE
    room = rng.standard_normal(len(time)) * np.exp(-time / rng.uniform(0.03, 0.13))
    wet = fftconvolve(wave, room / np.sqrt((room**2).sum()))[:SAMPLES]
    wave = wave + rng.uniform(0.06, 0.32) * wet
    wave = wave * (1 - mood.swell * np.cos(np.pi * np.arange(SAMPLES) / SAMPLES + rng.uniform(-0.6, 0.6)) ** 2)
    wave = wave * 10 ** (LEVEL / 20) / (np.sqrt((wave**2).mean()) + 1e-6)
    wave = 0.98 * np.tanh(wave / 0.98)
    wave[-640:] *= np.linspace(1, 0, 640)
    return wave.astype(np.float32)


def _melody(band: Band, degrees: list[int], key: int, instrument: str, low: int, high: int, gain: float,
            density: float, formant: float = 0.0) -> None:  # fmt: skip
    """A line of chord and passing tones. Density above 0 divides beats, below 0 joins them into long notes."""
    rng, mood = band.rng, band.mood
    tones = [p for p in range(low, high + 1) if (p - key) % 12 in mood.scale]
    center = mood.register * (len(tones) - 1)
    here, at = center + rng.uniform(-2, 2), 0.0
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
        here += rng.choice([-2, -1, 1, 2]) + mood.drift + 0.25 * (center - here)
        here = float(np.clip(here, 0, len(tones) - 1))
        at += beats


def _triad(pitch: Pitch, degree: int, low: int, sevenths: bool = False) -> list[int]:
    steps = (0, 2, 4, 6) if sevenths else (0, 2, 4)
    return sorted({low + (pitch(degree + s, 0) - low) % 12 for s in steps})


def _reggae(band: Band, degrees: list[int], pitch: Pitch) -> None:
    """Chords on the off-beat over a bass that pauses every other beat."""
    organ, chop = band.rng.random() < 0.5, band.pick((0.5,), (0.5, 0.75))
    line = band.pick(((0, 0), (0.75, 4)), ((0.5, 0), (0.75, 2)), ((0, 0), (0.5, 0)))
    low, gain, bass = int(band.rng.integers(55, 61)), band.fader(), band.fader()
    for b, degree in enumerate(degrees):
        for at in chop:
            band.chord("clean guitar", _triad(pitch, degree, low), b + at, 0.22, 0.75 * gain)
        if organ:
            band.chord("organ", _triad(pitch, degree, low), b + 0.5, 0.3, 0.35 * gain)
        for at, step in line if b % 2 == 0 else ((0.5, 2),):
            band.note("electric bass", pitch(degree + step, 28), b + at, 0.45, 0.6 * bass)


def _metal(band: Band, degrees: list[int], pitch: Pitch) -> None:
    """Fifths on a distorted guitar, in one of five riffs."""
    riff = band.pick("x.x.", "x.xx", "xxxx", "xxx.", "xx.x")
    hold, gain, bass = band.pick(0.6, 0.9), band.fader(), band.fader()
    for b, degree in enumerate(degrees):
        root = pitch(degree, 34)
        root -= 12 if root > 45 else 0
        starts = [i for i in range(4) if riff[i] == "x"]
        for start, end in zip(starts, [*starts[1:], 4], strict=True):
            for interval in (0, 7, 12):
                band.note("distorted guitar", max(root + interval, 33), b + start / 4, hold * (end - start) / 4, 0.42 * gain)
            band.note("electric bass", max(root - 12, 26), b + start / 4, hold * (end - start) / 4, 0.35 * bass)


def _opera(band: Band, degrees: list[int], pitch: Pitch) -> None:
    """An orchestra's strings: held, tremolo, in short strokes, or broken chords."""
    strokes, low = band.pick("held", "tremolo", "short", "broken"), int(band.rng.integers(58, 64))
    gain, bass = band.fader(), band.fader()
    for b, degree in enumerate(degrees):
        high = _triad(pitch, degree, low)
        if strokes == "tremolo":
            for i in range(4):
                band.chord("strings", high, b + i / 4, 0.3, 0.45 * gain)
        elif strokes == "short":
            for at in (0, 0.5):
                band.chord("strings", high, b + at, 0.25, 0.6 * gain)
        elif strokes == "broken":
            band.note("strings", high[b % 3], b, 0.9, 0.6 * gain)
            band.chord("strings", high[:2], b + 0.5, 0.4, 0.45 * gain)
        elif b % 2 == 0:
            band.chord("strings", high, b, 2.0, 0.6 * gain)
        band.chord("strings", [pitch(degree, 43), pitch(degree, 43) + 12], b, 0.9, 0.6 * bass)
        band.note("acoustic bass", pitch(degree, 28), b, 0.5, 0.35 * bass)


def _jazz(band: Band, degrees: list[int], pitch: Pitch) -> None:
    """A walking bass and syncopated seventh chords, in swing."""
    low, gain, bass = int(band.rng.integers(50, 57)), band.fader(), band.fader()
    syncopation = band.pick((0.66,), (0.0, 1.66), (1.0, 1.66), (0.66, 1.66), (0.0, 0.66), (1.66,))
    walk = band.pick((0, 2, 4, 5), (0, 4, 2, 1), (0, 1, 2, 4), (4, 2, 1, 0))
    for b, degree in enumerate(degrees):
        step = walk[b % 4] if band.rng.random() < 0.8 else int(band.rng.integers(0, 6))
        band.note("acoustic bass", pitch(degree + step, 29), b, 0.85, 0.75 * bass)
        if band.rng.random() < 0.3:
            band.note("acoustic bass", pitch(degree, 29), b + 0.66, 0.3, 0.5 * bass)
        if b % 2 == 0:
            for at in syncopation:
                band.chord("clean guitar", _triad(pitch, degree, low, sevenths=True), b + at, band.pick(0.3, 0.6), 0.45 * gain)


def _techno(band: Band, degrees: list[int], pitch: Pitch) -> None:
    """An arpeggio in sixteenths over a bass on the off-beat."""
    order, line = band.rng.permutation(4), band.pick("xxxx", "x.xx", "xxx.", ".xxx")
    roll, gain, bass = band.pick((0.5,), (0.5, 0.75), (0.25, 0.5, 0.75)), band.fader(), band.fader()
    pad = band.rng.random() < 0.3
    for b, degree in enumerate(degrees):
        tones = [*_triad(pitch, degree, 60), pitch(degree, 60) + 12]
        for i in range(4):
            if line[i] == "x":
                band.note("saw", tones[order[i]], b + i / 4, 0.18, 0.4 * gain)
        for at in roll:
            band.note("synth bass", pitch(degree, 30), b + at, 0.22, 0.6 * bass)
        if pad and b % 2 == 0:
            band.chord("pad", _triad(pitch, degree, 52), b, 2.0, 0.3 * gain)


def _pop(band: Band, degrees: list[int], pitch: Pitch) -> None:
    """Chords or broken chords on an electric piano over a plain bass."""
    shape, low = band.pick("broken", "blocks", "pushes"), int(band.rng.integers(54, 60))
    pad, gain, bass = band.rng.random() < 0.3, band.fader(), band.fader()
    for b, degree in enumerate(degrees):
        tones = _triad(pitch, degree, low)
        if shape == "broken":
            band.note("electric piano", tones[0], b, 0.5, 0.45 * gain)
            band.note("electric piano", tones[1 + b % 2], b + 0.5, 0.5, 0.4 * gain)
        elif shape == "blocks":
            band.chord("electric piano", tones, b, 0.9, 0.55 * gain)
        else:
            for at in (0, 0.5) if b % 2 == 0 else (0.5,):
                band.chord("electric piano", tones, b + at, 0.45, 0.5 * gain)
        if pad and b % 2 == 0:
            band.chord("pad", tones, b, 2.0, 0.3 * gain)
        if b % 2 == 0:
            band.note("electric bass", pitch(degree, 28), b, 0.9, 0.6 * bass)
            band.note("electric bass", pitch(degree, 28), b + 1.5, 0.45, 0.5 * bass)


ACCOMPANIMENT = {"reggae": _reggae, "metal": _metal, "opera": _opera, "jazz": _jazz, "techno": _techno, "pop": _pop}

# Four beats per line; 16 characters are sixteenths, 12 are swung triplets, 8 are eighths.
DRUMS: dict[str, tuple[dict[str, str], ...]] = {
    "reggae": (
        {"closed hat": "x.o.x.o.x.o.x.o.", "kick": "........X.......", "rim": "........X......."},
        {"closed hat": "x.o.x.o.x.o.x.o.", "kick": "x...x...X...x...", "rim": "........X.....o."},
        {"closed hat": "x.xox.o.x.xox.o.", "kick": "........X.......", "rim": "...o....X..o...."},
    ),
    "metal": (
        {"kick": "xxxxxxxxxxxxxxxx", "snare": "....X.......X...", "ride": "x...x...x...x..."},
        {"kick": "x.x.x.x.x.x.x.x.", "snare": "....X.......X...", "crash": "X.......x......."},
        {"kick": "x.xxx.xxx.xxx.xx", "snare": "....X.......X...", "ride": "x...x...x...x..."},
        {"kick": "x...x...x...x...", "snare": "..X...X...X...X.", "crash": "X...x...x...x..."},
    ),
    "opera": (
        {"low tom": "X.......X.......", "kick": "x.......x.......", "snare": "xoooxoooxoooxooo"},
        {"low tom": "X...x...X...x.xx", "crash": "X..............."},
        {"low tom": "X.......X...x...", "snare": "x...oo..x...oooo", "crash": "X..............."},
    ),
    "jazz": (
        {"ride": "X..x.xX..x.x", "closed hat": "...x.....x..", "kick": "x.....x....."},
        {"ride": "X..X.xX..X.x", "closed hat": "...x.....x..", "snare": ".....o....oo"},
        {"snare": "x.ox.ox.ox.o", "closed hat": "...x.....x..", "kick": "x.....o....."},
    ),
    "techno": (
        {"kick": "X...X...X...X...", "open hat": "..x...x...x...x.", "snare": "....x.......x..."},
        {"kick": "X...X...X...X...", "open hat": "..x...x...x...x.", "closed hat": ".x.x.x.x.x.x.x.x"},
        {"kick": "X...X...X...X...", "closed hat": "xxoxxxoxxxoxxxox", "rim": "...x..x....x..x."},
    ),
    "pop": (
        {"kick": "X.......X.x.....", "snare": "....X.......X...", "closed hat": "x.x.x.x.x.x.x.x."},
        {"kick": "X.....x.X.......", "snare": "....X.......X...", "closed hat": "xoxoxoxoxoxoxoxo"},
        {"kick": "X...x...X...x...", "snare": "....X.......X...", "open hat": "..x...x...x...x."},
    ),
}  # fmt: skip
FILLS: tuple[dict[str, str], ...] = (
    {"snare": "............xxXX"},
    {"high tom": "............xx..", "low tom": "..............xx"},
    {"high tom": ".............x..", "low tom": "..............x.", "crash": "X..............."},
)
HAND_PERCUSSION: dict[str, tuple[dict[str, str], ...]] = {
    "bongos": (
        {"high bongo": "Xox.Xx..", "low bongo": "...x..Xx"},
        {"high bongo": "X.x.Xx.x", "low bongo": ".x.x..x."},
        {"high bongo": "X.x.x...", "low bongo": "...x..Xx"},
        {"high bongo": "X.xxX.x.X.xxX...", "low bongo": "......x.......Xx"},
        {"high bongo": "Xx.Xx.Xxx.Xx", "low bongo": "..x..x...x.."},
    ),
    "maracas": (
        {"maracas": "XoxoXoxoXoxoXoxo"}, {"maracas": "XxXxXxXx"}, {"maracas": "XooxXooxXooxXoox"},
        {"maracas": "XoooXoooXoooXooo"}, {"maracas": "X.xxX.xxX.xxX.xx"},
    ),
}  # fmt: skip
