"""The players of one clip and their mixing desk: notes in, buses of equal loudness out.

Each player draws one source of notes and plays on a track of its own, with draws of its own, so that one player's part does not
depend on who else plays. Tracks and buses are brought to one loudness before they are set against each other in dB.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from zlib import crc32

import numpy as np
from scipy.signal import lfilter

from audioscope.tiny.bank import RATE, NoteBank

SAMPLES = 65_536
FRAME = 1_024  # samples over which loudness is measured
VIBRATO = {"violin": 24, "cello": 22, "flute": 14, "saxophone": 14, "trumpet": 9, "trombone": 9}  # cents to each side
SUSTAINED = {"violin", "trumpet", "saxophone", "cello", "flute", "harmonica", "trombone", "strings", "organ", "pad"}
STROKES = {"X": 1.3, "x": 0.9, "o": 0.45}
# How loud the parts of a kit are, peak against peak.
LOUDNESS = {
    "kick": 1.1, "snare": 0.9, "rim": 0.7, "closed hat": 0.35, "open hat": 0.4, "ride": 0.45, "crash": 0.5, "low tom": 0.9,
    "high tom": 0.8, "timpani": 1.2, "high bongo": 0.9, "low bongo": 0.9, "maracas": 0.8,
}  # fmt: skip
TUNED = {"timpani": ("low tom", 0.62)}  # a hit that another one makes when it is played slower


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


@dataclass(frozen=True)
class Harmony:
    """The key and the chord of each beat, as degrees of a scale."""

    key: int
    scale: tuple[int, ...]
    degrees: tuple[int, ...]

    def pitch(self, degree: int, low: int) -> int:
        """The scale's `degree` as the lowest MIDI pitch not below `low`, an octave higher for every seven degrees."""
        octave, step = divmod(degree, 7)
        tone = self.key + self.scale[step]
        return low + (tone - low) % 12 + 12 * octave

    def chord(self, degree: int, low: int, steps: tuple[int, ...] = (0, 2, 4)) -> list[int]:
        """A chord on `degree` within the octave above `low`; steps 0, 2, 4, 6, 8 are root, third, fifth, seventh and ninth."""
        return sorted({low + (self.pitch(degree + step, 0) - low) % 12 for step in steps})


def loudness(wave: np.ndarray) -> float:
    """The level of a wave in dB over the parts where it sounds, with less weight on what lies below 120 Hz.

    What goes slower than the means of 4 ms does not count, nor do frames more than 10 dB below the mean of those that sound (as
    in ITU-R BS.1770).
    """
    blocks = wave[: len(wave) // FRAME * FRAME].astype(np.float32, copy=False).reshape(-1, FRAME // 64, 64)
    slow = np.einsum("ijk->ij", blocks) / np.float32(64)
    power = np.einsum("ijk,ijk->i", blocks, blocks) / FRAME - (slow**2).mean(1)
    if not power.max() > 1e-12:
        return -np.inf
    power = power[power > 1e-4 * power.max()]
    return float(10 * np.log10(power[power > 0.1 * power.mean()].mean()))


def leveled(wave: np.ndarray, level: float = 0.0) -> np.ndarray:
    """The wave at a loudness of `level` dB; silence stays silent."""
    now = loudness(wave)
    gain = 0.0 if now == -np.inf else 10 ** ((level - now) / 20)
    return wave * np.float32(gain)


def lowpass(wave: np.ndarray, cutoff: float, resonance: float = 0.707) -> np.ndarray:
    """A filter of two poles, which a resonance above 0.7 makes sing at the cutoff, in Hz."""
    w = 2 * np.pi * min(cutoff, 0.45 * RATE) / RATE
    alpha = np.sin(w) / (2 * resonance)
    b = (1 - np.cos(w)) / 2
    numerator = np.array([b, 2 * b, b]) / (1 + alpha)
    denominator = np.array([1 + alpha, -2 * np.cos(w), 1 - alpha]) / (1 + alpha)
    return lfilter(numerator.astype(np.float32), denominator.astype(np.float32), wave)


class Player:
    """One musician with one instrument from one source, on a track of its own.

    Args:
        band: The band, which gives the beat, the mood and the notes.
        instrument: The name of an instrument in the bank.
        part: What the player's draws depend on.
        level: dB of the track within its bus.
        detune: Cents above the pitch.
    """

    def __init__(self, band: Band, instrument: str, part: str, level: float = 0.0, detune: float = 0.0):
        self.band, self.instrument, self.level, self.detune = band, instrument, level, detune
        self.rng = band.draws(part)
        self.source = draw_source(band.bank, instrument, self.rng)
        self.track = np.zeros(SAMPLES, dtype=np.float32)
        self._ready: dict[tuple, np.ndarray] = {}

    def note(self, pitch: int, at: float, beats: float, gain: float = 1.0, mute: float = 0.0, cutoff: float = 0.0,
             resonance: float = 0.707, late: float = 0.0) -> None:  # fmt: skip
        """Play a note at beat `at`, for so many beats.

        mute: a palm or finger stops it, so that it dies away in so many seconds. cutoff: Hz of a filter. late: seconds.
        """
        key = (int(pitch), round(beats, 3), mute, cutoff, resonance)
        if key not in self._ready:
            self._ready[key] = self._played(*key)
        self._add(self._ready[key], at, gain, late)

    def chord(
        self, pitches: list[int], at: float, beats: float, gain: float = 1.0, mute: float = 0.0, spread: float = 0.0
    ) -> None:
        """Play notes together, or `spread` seconds one after the other, as a plectrum strikes them."""
        for i, pitch in enumerate(pitches):
            self.note(pitch, at, beats, gain / len(pitches) ** 0.5, mute, late=i * spread)

    def _played(self, pitch: int, beats: float, mute: float, cutoff: float, resonance: float) -> np.ndarray:
        band, mood = self.band, self.band.mood
        samples = max(int(RATE * beats * band.length * band.beat), 800)
        if mute:
            samples = min(samples, int(6 * mute * RATE))
        whole = band.bank.note(self.instrument, pitch, source=self.source)
        depth = VIBRATO.get(self.instrument, 0) if samples > 0.35 * RATE else 0
        if self.detune or depth:
            time = np.arange(min(samples, int(0.97 * len(whole))), dtype=np.float32)
            ratio = 2 ** (self.detune / 1200) - 1
            place = time * np.float32(1 + ratio)
            if depth:  # it sets in after the start of the note, as a player's hand does
                w = 2 * np.pi * self.rng.uniform(5.0, 6.2) / RATE
                onset = np.clip((time / RATE - 0.15) / 0.25, 0, 1)
                place += (depth / 1200 * np.log(2) / w) * onset * np.sin(w * time)
            wave = np.interp(place, np.arange(len(whole)), whole).astype(np.float32)
        else:
            wave = whole[:samples].copy()
        if cutoff:
            wave = lowpass(wave, cutoff, resonance)
        if mute:
            wave *= np.exp(-np.arange(len(wave), dtype=np.float32) / (mute * RATE))
        attack = min(int(RATE * mood.attack), len(wave) // 3) if self.instrument in SUSTAINED else 0
        release = min(480, len(wave) // 2)
        wave[:attack] *= _ramp(attack)
        wave[len(wave) - release :] *= _ramp(release)[::-1]
        return wave

    def _add(self, wave: np.ndarray, at: float, gain: float, late: float = 0.0) -> None:
        """Add a waveform at beat `at`, a few milliseconds off as a human would be, stronger on the beat."""
        band = self.band
        start = int(RATE * max(0.0, 0.02 + at * band.beat + late + self.rng.normal(0, band.looseness)))
        accent = band.mood.accent**0.5 if at % 1 == 0 else band.mood.accent**-0.5
        part = wave[: max(SAMPLES - start, 0)]
        if len(part):
            self.track[start : start + len(part)] += np.float32(gain * accent * self.rng.uniform(0.85, 1.15)) * part


class Drummer(Player):
    """A player of hits, all from one kit."""

    def __init__(self, band: Band, part: str, first: str):
        super().__init__(band, first, part)

    def hit(self, name: str) -> np.ndarray:
        """A hit at its loudness within the kit."""
        if ("hit", name) not in self._ready:
            sound, speed = TUNED.get(name, (name, 1.0))
            bank = self.band.bank
            kit = self.source if self.source in bank.sources(sound) else draw_source(bank, sound, self.rng)
            wave = bank.hit(sound, source=kit)
            if speed != 1.0:
                wave = np.interp(np.arange(0, len(wave) - 1, speed), np.arange(len(wave)), wave).astype(np.float32)
            self._ready["hit", name] = wave * np.float32(LOUDNESS[name] / (np.abs(wave).max() + 1e-9))
        return self._ready["hit", name]

    def pattern(self, beats: int, lines: Mapping[str, str]) -> None:
        """Play hits written as text, four beats per line: X loud, x plain, o soft, and any other character a rest."""
        for name, line in lines.items():
            step = 4 / len(line)
            for i in range(int(beats / step)):
                if level := STROKES.get(line[i % len(line)], 0.0):
                    self._add(self.hit(name), i * step, level)


class Band:
    """The accompaniment's players, and what all players of a clip share.

    Args:
        bank: The notes.
        rng: What all parts are drawn with; each part has draws of its own.
        beat: Seconds.
        mood: How they play.
    """

    def __init__(self, bank: NoteBank, rng: np.random.Generator, beat: float, mood: Mood):
        self.bank, self.beat, self.mood = bank, beat, mood
        self._seed = int(rng.integers(2**62))
        self.looseness = rng.uniform(0.002, 0.010)  # how far off the beat this band's players are, in s
        self.length = rng.uniform(0.85, 1.15)  # how long this band holds its notes
        self.rng = self.draws("accompaniment")
        self.players: list[Player] = []

    def draws(self, part: str) -> np.random.Generator:
        """The draws of a part: the same whoever else plays."""
        return np.random.default_rng([self._seed, crc32(part.encode())])

    def pick(self, *choices: Any) -> Any:
        """Draw one of the choices for the accompaniment."""
        return choices[self.rng.integers(len(choices))]

    def player(self, instrument: str, level: float = 0.0, detune: float = 0.0) -> Player:
        """A new player of the accompaniment, within 1.5 dB of `level`."""
        part = f"{instrument} {len(self.players)}"
        self.players.append(Player(self, instrument, part, level + self.rng.uniform(-1.5, 1.5), detune))
        return self.players[-1]

    def accompaniment(self) -> np.ndarray:
        """All players of the accompaniment, each at its level."""
        return np.stack([leveled(p.track, p.level) for p in self.players]).sum(axis=0)


@lru_cache(maxsize=256)
def _ramp(samples: int) -> np.ndarray:
    """From 0 to 1."""
    return np.linspace(0, 1, samples, dtype=np.float32)


def draw_source(bank: NoteBank, name: str, rng: np.random.Generator) -> str | None:
    """One of the sources that have an instrument or hit."""
    offered = bank.sources(name)
    return str(offered[rng.integers(len(offered))]) if offered else None


def duck(wave: np.ndarray, beat: float, depth: float) -> np.ndarray:
    """Push a track down on every beat and let it up again until the next, as a compressor does that listens to a kick."""
    cycle = 1 - np.float32(depth) * np.clip(
        1 - np.arange(int(RATE * beat), dtype=np.float32) * np.float32(1.5 / (RATE * beat)), 0, 1
    )
    return wave * np.roll(np.resize(cycle, len(wave)), int(0.02 * RATE))


def echo(wave: np.ndarray, seconds: float, feedback: float) -> np.ndarray:
    """Repeat a track after `seconds`, softer each time."""
    out, delay = wave.copy(), int(RATE * seconds)
    for i in range(1, 4):
        if i * delay < len(wave):
            out[i * delay :] += np.float32(feedback**i) * wave[: -i * delay]
    return out


def drive(wave: np.ndarray, gain: float, cutoff: float) -> np.ndarray:
    """Overdrive a whole track, so that its notes distort together, through a loudspeaker without highs."""
    return lowpass(np.tanh(np.float32(gain) * leveled(wave)), cutoff)


Idiom = Callable[[Band, Harmony], None]


def recolored(wave: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A track as another microphone in another room might have taken it: a smooth random tone, and some of the room.

    The tone is a sum of slow waves along the logarithm of frequency, 5 dB each; the room rings for 0.05 to 0.3 s.
    """
    time = np.arange(int(0.6 * RATE), dtype=np.float32) / np.float32(RATE)
    room = rng.standard_normal(len(time), dtype=np.float32) * np.exp(-time / np.float32(rng.uniform(0.05, 0.3)))
    room *= np.float32(rng.uniform(0.0, 0.6)) / np.sqrt((room**2).sum())
    room[0] += 1
    size = len(wave) + len(room)
    octave = np.log2(np.maximum(np.fft.rfftfreq(size, 1 / RATE), 50.0) / 50.0) / np.log2(RATE / 100)
    tone = sum(rng.normal(0, 5) * np.cos(np.pi * k * octave) for k in range(1, 6))
    spectrum = np.fft.rfft(wave, size) * np.fft.rfft(room, size) * 10 ** (tone / 20)
    return np.fft.irfft(spectrum, size)[: len(wave)].astype(np.float32)
