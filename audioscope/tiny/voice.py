"""A synthesised singer: a glottal source through five formants that change from syllable to syllable.

The source is a band-limited pulse train whose pitch glides between notes, trembles a little, and takes on vibrato once a note
has set in; breath is noise in time with the pulses. The vocal tract is a cascade of five resonators, as in a formant synthesiser
(Klatt, "Software for a cascade/parallel formant synthesizer", 1980). The first four formants are close to means of American
English vowels (Hillenbrand et al., "Acoustic characteristics of American English vowels", 1995); the fifth is a typical value. In
the operatic manner the upper three stand together near 3 kHz, the singer's formant (Sundberg, "The Science of the Singing Voice",
1987). Where the pitch rises above the first formant, the formant follows, as sopranos' do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
from scipy.fft import irfft, rfft

from audioscope.tiny.bank import RATE

STEP = 64  # samples between control points: 4 ms
HOP, FFT = 256, 1024  # frames of the vocal tract: 16 ms, windows of two hops, the rest is room for the response
TOP = 7_600.0  # Hz; the source has no harmonics above
TABLE = 4_096  # samples of one period of the source

# Hz of the first five formants
VOWELS: dict[str, dict[str, tuple[float, ...]]] = {
    "female": {
        "a": (936, 1551, 2815, 4299, 5200), "e": (536, 2530, 3047, 4319, 5200), "i": (437, 2761, 3372, 4352, 5200),
        "o": (555, 1035, 2828, 3927, 5000), "u": (459, 1105, 2735, 4115, 5000),
    },
    "male": {
        "a": (768, 1333, 2522, 3687, 4500), "e": (476, 2089, 2691, 3649, 4500), "i": (342, 2322, 3000, 3657, 4500),
        "o": (497, 910, 2459, 3384, 4300), "u": (378, 997, 2343, 3357, 4300),
    },
}  # fmt: skip
SINGERS_FORMANT = {"female": (2900.0, 3400.0, 4000.0), "male": (2500.0, 2850.0, 3250.0)}
WIDTH = (80.0, 100.0, 150.0, 220.0, 300.0)  # Hz, bandwidths of the formants
RINGING = (80.0, 100.0, 110.0, 130.0, 160.0)  # the same of a voice with a singer's formant
# Where the first three formants start from, how loud the voice is meanwhile, and for how long (s)
CONSONANTS: dict[str, tuple[tuple[float, float, float] | None, float, float]] = {
    "m": ((270, 1050, 2200), 0.35, 0.070), "l": ((360, 1150, 2700), 0.55, 0.060), "d": ((300, 1750, 2650), 0.0, 0.045),
    "s": ((320, 1700, 2600), 0.0, 0.085), "h": (None, 0.1, 0.060), "-": (None, 1.0, 0.0),
}  # fmt: skip


@dataclass(frozen=True)
class Manner:
    """How a singer sings."""

    vibrato: float  # cents to each side
    delay: float  # seconds from the start of a note until its vibrato sets in
    glide: float  # seconds from one pitch to the next
    attack: float  # seconds
    breath: float  # noise, relative to the voice
    tilt: float  # exponent of the source's spectrum: larger is duller
    scoop: float  # semitones below the pitch where a phrase starts
    consonants: str  # those that it draws from
    ring: bool = False  # whether there is a singer's formant


MANNERS = {
    "plain": Manner(22, 0.30, 0.06, 0.03, 0.06, 0.90, 0.5, "mldsh-"),
    "opera": Manner(65, 0.10, 0.13, 0.09, 0.01, 0.75, 0.3, "mld--", ring=True),
    "soul": Manner(38, 0.25, 0.10, 0.05, 0.09, 0.95, 1.5, "mldh-"),
    "belt": Manner(30, 0.35, 0.05, 0.02, 0.07, 0.65, 0.8, "mldsh"),
}


@dataclass(frozen=True)
class Syllable:
    """One sung note: where it starts and how long it lasts, in s, its MIDI pitch, and how loud it is."""

    start: float
    length: float
    pitch: float
    loud: float = 1.0


@lru_cache(maxsize=512)
def _period(harmonics: int, tilt: float) -> np.ndarray:
    """One period of a pulse train with so many harmonics, each falling by `tilt` powers of its number."""
    spectrum = np.zeros(TABLE // 2 + 1)
    spectrum[1 : harmonics + 1] = np.arange(1.0, harmonics + 1) ** -tilt
    wave = irfft(spectrum)
    return (wave / np.sqrt((wave**2).mean())).astype(np.float32)


def _upsample(control: np.ndarray) -> np.ndarray:
    """Straight lines between control points."""
    step = np.diff(control, append=control[-1]) / STEP
    return (control[:, None] + step[:, None] * np.arange(STEP, dtype=control.dtype)).ravel()


def _smooth(values: np.ndarray, points: int) -> np.ndarray:
    """A moving mean along the first axis, weighted by a Hann window of about so many points."""
    points |= 1
    window = np.hanning(points + 2)[1:-1]
    window /= window.sum()
    padded = np.concatenate([values[:1].repeat(points // 2, 0), values, values[-1:].repeat(points // 2, 0)])
    return sum(w * padded[i : i + len(values)] for i, w in enumerate(window))


@lru_cache(maxsize=1)
def _delays() -> np.ndarray:
    """The frequency responses of delays by 0 to 10 samples."""
    return np.exp(-2j * np.pi * np.outer(np.arange(11), np.arange(FFT // 2 + 1)) / FFT).astype(np.complex64)


@lru_cache(maxsize=1)
def _hiss() -> np.ndarray:
    """Some seconds of white noise, always the same, of which each singer takes another part."""
    return np.random.default_rng(0).standard_normal(2**18, dtype=np.float32)


def _tract(formants: np.ndarray, tilt: float, widths: tuple[float, ...] = WIDTH) -> np.ndarray:
    """The frequency responses of vocal tracts, [frames, bins], of formants in Hz, [frames, 5]: a cascade of resonators."""
    poly = np.ones((len(formants), 1))
    for i, width in enumerate(widths):
        radius = np.exp(-np.pi * width / RATE)
        b, c = 2 * radius * np.cos(2 * np.pi * formants[:, i : i + 1] / RATE), radius**2
        wide = np.pad(poly, ((0, 0), (0, 2)))
        wide[:, 1:-1] -= b * poly
        wide[:, 2:] += c * poly
        poly = wide / (1 - b + c)
    inverse = poly.astype(np.complex64) @ _delays()
    gain = 1 / (inverse.real**2 + inverse.imag**2)
    source = np.maximum(np.arange(FFT // 2 + 1), 6.0) ** (-2 * tilt)
    power = gain @ (source / source.sum()).astype(np.float32)
    gain *= (power**-0.4)[:, None]  # the vowels of a singer are about equally loud
    return np.conj(inverse, out=inverse) * gain


def sing(line: Sequence[Syllable], sex: str, manner: str, rng: np.random.Generator, samples: int) -> np.ndarray:
    """Sing a line of notes, a syllable each.

    Args:
        line: The notes, in order of time, none overlapping.
        sex: "female" or "male".
        manner: One of `MANNERS`: "plain", "opera", "soul" or "belt".
        rng: What the syllables, the size of the singer and all that is human are drawn with.
        samples: How long the waveform is, a multiple of 256.

    Returns:
        The waveform, float32 [samples] at 16 kHz; its level is arbitrary.
    """
    line = [syllable for syllable in line if syllable.start * RATE < samples - HOP]
    if not line:
        return np.zeros(samples, dtype=np.float32)
    how, points, frames = MANNERS[manner], samples // STEP, samples // HOP + 1
    time = np.arange(points) * STEP / RATE
    size, rate = rng.uniform(0.96, 1.05), rng.uniform(5.0, 6.0)
    starts = np.array([s.start for s in line])
    ends = np.array([min(s.start + s.length, b) for s, b in zip(line, [*starts[1:], samples / RATE], strict=True)])

    # Pitch: steps that turn into glides, scoops at the start of phrases, vibrato, jitter.
    pitch = np.array([s.pitch for s in line])[np.clip(np.searchsorted(starts, time + how.glide / 2, side="right") - 1, 0, None)]
    pitch = _smooth(pitch.astype(float), int(how.glide * RATE / STEP))
    depth, loud = np.zeros(points), np.zeros(points)
    breath = np.full(points, how.breath)
    formants = np.repeat(np.array([VOWELS[sex]["a"]], dtype=float), frames, axis=0)
    hiss = np.zeros(points)
    vowel, fresh = "", True
    for i, (syllable, end) in enumerate(zip(line, ends, strict=True)):
        a, b = int(syllable.start * RATE / STEP), max(int(end * RATE / STEP), int(syllable.start * RATE / STEP) + 2)
        here = time[a:b] - syllable.start
        if not len(here):
            continue
        fresh = i == 0 or syllable.start - ends[i - 1] > 0.03
        bound = i + 1 < len(line) and starts[i + 1] - end <= 0.03  # the next note follows at once
        if fresh:
            pitch[a:b] -= how.scoop * np.exp(-here / 0.04)
        depth[a:b] = how.vibrato / 100 * np.clip((here - how.delay) / 0.25, 0, 1)
        others = [v for v in VOWELS[sex] if v != vowel]
        vowel, consonant = others[rng.integers(len(others))], how.consonants[rng.integers(len(how.consonants))]
        locus, dip, dwell = CONSONANTS[consonant]
        dwell = min(dwell, 0.3 * (end - syllable.start))
        # A syllable starts with its vowel on the beat: the consonant is sung before, at the expense of the last one.
        rise = np.clip((here + 0.02) / how.attack, 0, 1) if fresh else np.ones_like(here)
        fall = np.ones_like(here) if bound else np.clip((end - syllable.start - here) / 0.08, 0, 1)
        loud[a:b] = syllable.loud * rise * fall * (1 - 0.15 * here / max(end - syllable.start, 0.5))
        c, n = max(a - int(dwell * RATE / STEP), 0), a
        loud[c:n] = np.minimum(loud[c:n], dip * loud[c:n]) if not fresh else dip * syllable.loud * (dip > 0.2)
        if consonant == "h":
            breath[c : n + 2] = 1.2
            loud[c:n] = 0.25 * syllable.loud
        elif consonant == "s":
            hiss[c:n] = 0.25 * syllable.loud
        elif consonant == "d":
            hiss[max(n - 3, 0) : n] = 0.35 * syllable.loud
        first = int(np.ceil((c * STEP) / HOP))
        formants[first:] = VOWELS[sex][vowel]
        if locus is not None:
            formants[first : max(int(a * STEP / HOP), first + 1), :3] = np.array(locus) * (1.12 if sex == "female" else 1.0)
    tremble = _smooth(rng.standard_normal((points, 2)), 7)
    wander = 2 * np.pi * np.cumsum(rate * (1 + 0.12 * tremble[:, 0])) * STEP / RATE
    pitch += _smooth(depth, 9) * np.sin(wander) + 0.12 * tremble[:, 1]
    hertz = 440 * 2 ** ((pitch - 69) / 12)
    loud = _smooth(loud, 5) * (1 + 0.10 * tremble[:, 0])

    # The source, a table of one period for each syllable with as many harmonics as fit.
    phase = np.cumsum((_upsample(hertz.astype(np.float32)) * (2**32 / RATE)).astype(np.uint32), dtype=np.uint32)
    index = phase >> (32 - int(np.log2(TABLE)))  # the phase wraps around as the integer does
    source = np.empty(samples, dtype=np.float32)
    cuts = [0, *(int(s * RATE) for s in starts[1:]), samples]
    for start, stop in pairwise(cuts):
        if stop > start:
            highest = hertz[start // STEP : stop // STEP + 1].max()
            source[start:stop] = _period(int(TOP / highest), how.tilt)[index[start:stop]]
    offset = int(rng.integers(2**18 - samples)) if samples < 2**18 else 0
    noise = _hiss()[offset : offset + samples]
    source += _upsample(breath.astype(np.float32)) * noise * (0.5 + np.abs(np.minimum(source, np.float32(1))))
    source *= _upsample(loud.astype(np.float32))

    # The vocal tract, frame by frame.
    if how.ring:
        formants[:, 2:] = SINGERS_FORMANT[sex]
        formants[:, 1] = np.minimum(formants[:, 1], 0.7 * formants[:, 2])  # sung vowels are darker than spoken ones
    formants = _smooth(formants * size, 5)
    sung = hertz[np.minimum(np.arange(frames) * (HOP // STEP), points - 1)]
    formants[:, 0] = np.maximum(formants[:, 0], sung)
    formants[:, 1] = np.maximum(formants[:, 1], formants[:, 0] + 200)
    padded = np.concatenate([np.zeros(HOP, np.float32), source, np.zeros(HOP, np.float32)])
    blocks = padded.reshape(-1, HOP)
    framed = np.concatenate([blocks[:-1], blocks[1:]], axis=1)
    framed *= np.hanning(2 * HOP + 1)[:-1].astype(np.float32)
    tract = _tract(formants[::2], how.tilt, RINGING if how.ring else WIDTH)  # every 32 ms is enough: windows overlap
    spectra = rfft(framed, FFT, axis=1)
    spectra[::2] *= tract
    spectra[1::2] *= tract[: len(spectra[1::2])]
    parts = irfft(spectra, axis=1).reshape(frames, FFT // HOP, HOP)
    out = np.zeros((frames + FFT // HOP - 1, HOP), dtype=np.float32)
    for i in range(FFT // HOP):
        out[i : i + frames] += parts[:, i]
    voice = out[1 : samples // HOP + 1].ravel()
    if hiss.any():
        bright = np.diff(noise, prepend=np.float32(0))
        bright = np.diff(bright, prepend=np.float32(0))
        voice += _upsample(_smooth(hiss, 3).astype(np.float32)) * bright * np.float32(np.sqrt((voice**2).mean()))
    return voice
