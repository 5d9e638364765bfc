"""Plain measurements of sound, without any trained weights: what is in a clip, what two clips share, what is faulty.

All take audio [clips, channels, samples] float32, -1..1, and its rate in Hz. Nothing is normalized first.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import librosa
import mir_eval
import numpy as np
import pandas as pd
import scipy.stats
import torch
from torch import Tensor

from audioscope.audio import Clip, numba_lock
from audioscope.errors import listed, said, whole
from audioscope.scoring.scorers import checked_sound

KEYS = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
# How well each degree fits a major and a minor key (Krumhansl and Kessler, 1982).
MAJOR = np.array([6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88])
MINOR = np.array([6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17])
SILENT = -60.0  # dB RMS: below this, tempo, key and brightness mean nothing
TEMPI = scipy.stats.uniform(55, 140)  # BPM from 55 to 195; librosa's own prior pulls fast and slow tempi toward 120
FRAME, HOP = 2048, 512  # samples of a frame, and between frames, librosa's own


@lru_cache(maxsize=1)
def _compile() -> None:
    """Make librosa compile what is used here, one process at a time."""
    with numba_lock():
        wave = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
        flux = librosa.onset.onset_strength(y=wave, sr=16_000)
        librosa.onset.onset_detect(onset_envelope=flux, sr=16_000)
        librosa.feature.tempo(onset_envelope=flux, sr=16_000, prior=TEMPI)
        librosa.beat.beat_track(y=wave, sr=16_000, units="time")
        librosa.feature.chroma_stft(y=wave, sr=16_000, tuning=0.0)
        librosa.feature.spectral_centroid(y=wave, sr=16_000)


def level(audio: Tensor) -> np.ndarray:
    """RMS level of each clip in dB relative to full scale: float [clips], at least -120."""
    return (10 * torch.log10(audio.float().square().mean((1, 2)).clamp_min(1e-12))).cpu().numpy()


def measure(audio: Tensor, rate: int) -> pd.DataFrame:
    """Measure tempo, onsets, key, mode, register, brightness and loudness of each clip, without any trained weights.

    Tempo and onsets come from spectral flux. All but loudness are NaN (key "") for a silent clip, below -60 dB RMS.

    Args:
        audio: Audio [clips, channels, samples] float32, -1..1.
        rate: Its sampling rate in Hz.

    Returns:
        One row per clip, with these columns.

        - tempo: in BPM, the strongest beat between 55 and 195, with none preferred, so it may be twice or half of what you would
          tap; NaN for fewer than two onsets.
        - onsets: per second.
        - key: the best of all 24, such as "C" or "A minor".
        - mode: correlation with the best major key's profile minus that with the best minor key's, positive for major.
        - register: the mean pitch of the energy between 60 and 2,000 Hz, as a MIDI note number (60 is middle C).
        - centroid: the mean spectral centroid, in Hz.
        - loudness: integrated, in LUFS (ITU-R BS.1770); NaN for clips that are silent or shorter than its .4 s window.

    Raises:
        ValueError: The audio does not have three axes.

    Example:
        >>> import torch
        >>> seconds = torch.arange(4 * 16_000) / 16_000
        >>> pulses = torch.sin(2 * torch.pi * 440 * seconds) * (seconds % 0.5 < 0.1)  # the A above middle C, at 120 BPM
        >>> found = audioscope.scoring.measure(pulses[None, None], 16_000)
        >>> found.round({"register": 0, "tempo": -1})[["register", "tempo"]].values.tolist()
        [[69.0, 120.0]]
    """
    return pd.DataFrame([_measured(each) for each in _spectra(audio, rate)])


def measure_beside_first(audio: Tensor, rate: int) -> pd.DataFrame:
    """What `measure` measures, and chroma and beat: how similar each clip is to the first (`chroma_similarity`, `beat_agreement`).

    Each clip's spectrum is computed once for all of them.
    """
    rows, first = [], None
    for each in _spectra(audio, rate):
        chroma, beats = each.chroma, each.beats()
        first = first or (chroma, beats)
        rows.append({**_measured(each), "chroma": _alike(chroma, first[0]), "beat": beat_agreement(beats, first[1])})
    return pd.DataFrame(rows)


@lru_cache(maxsize=4)
def _mel_filters(rate: int) -> np.ndarray:
    return np.asarray(librosa.filters.mel(sr=rate, n_fft=FRAME, fmax=0.5 * rate))


@lru_cache(maxsize=4)
def _chroma_filters(rate: int) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # librosa warns about rates too low for its lowest filter
        return np.asarray(librosa.filters.chroma(sr=rate, n_fft=FRAME, tuning=0.0))


@dataclass(frozen=True, eq=False)
class _Spectra:
    """A clip and its spectra, each of which librosa would compute again for every measurement, with its filters."""

    wave: np.ndarray  # float32 [samples]
    rate: int
    level: float  # dB
    loudness: float  # LUFS

    @cached_property
    def magnitude(self) -> np.ndarray:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # librosa warns about clips shorter than a frame
            return np.abs(librosa.stft(self.wave, n_fft=FRAME, hop_length=HOP))

    @cached_property
    def power(self) -> np.ndarray:
        return self.magnitude**2

    @cached_property
    def mel(self) -> np.ndarray:
        """In dB, as `librosa.onset.onset_strength` makes it."""
        mel = np.einsum("...ft,mf->...mt", self.power, _mel_filters(self.rate), optimize=True)
        return np.asarray(librosa.power_to_db(np.abs(mel)))

    @cached_property
    def chroma(self) -> np.ndarray:
        """[12, frames], as `librosa.feature.chroma_stft` makes it."""
        raw = np.einsum("cf,...ft->...ct", _chroma_filters(self.rate), self.power, optimize=True)
        return np.asarray(librosa.util.normalize(raw, norm=np.inf, axis=-2))

    def flux(self, aggregate: Callable[..., Any] | None = None) -> np.ndarray:
        """Onset strength by frame."""
        return np.asarray(librosa.onset.onset_strength(S=self.mel, sr=self.rate, aggregate=aggregate))

    def beats(self) -> np.ndarray:
        """The times of the tracked beats, in s."""
        return np.asarray(librosa.beat.beat_track(onset_envelope=self.flux(np.median), sr=self.rate, units="time")[1])


def _spectra(audio: Tensor, rate: int) -> Iterator[_Spectra]:
    """One clip after the other, so that the spectra of one at a time are held."""
    audio, rate = checked_sound("audio", audio), whole("rate", rate, 1000, why=" Hz")
    _compile()
    for samples, decibels in zip(audio.float().cpu(), level(audio), strict=True):
        yield _Spectra(samples.mean(0).numpy(), rate, float(decibels), Clip(samples.numpy(), rate).loudness)


def _measured(each: _Spectra) -> dict[str, Any]:
    """A row of `measure`."""
    wave, rate = each.wave, each.rate
    row = {"tempo": np.nan, "onsets": np.nan, "key": "", "mode": np.nan, "register": np.nan, "centroid": np.nan,
           "loudness": each.loudness}  # fmt: skip
    if each.level > SILENT:
        # a short hit has two edges: what comes within 60 ms of an onset belongs to it
        onsets = librosa.onset.onset_detect(onset_envelope=each.flux(), sr=rate, wait=round(0.06 * rate / HOP))
        # without onsets there is no tempo: librosa would return 0 or a guess from the prior
        tempo = _tempo(wave, rate) if len(onsets) >= 2 else np.nan
        key, mode = _key(each.chroma)
        centroid = float(librosa.feature.spectral_centroid(S=each.magnitude, sr=rate).mean())
        row |= {"tempo": tempo if tempo > 0 else np.nan, "onsets": len(onsets) * rate / len(wave), "key": key,
                "mode": mode, "register": _register(each.power, rate), "centroid": centroid}  # fmt: skip
    return row


def _tempo(wave: np.ndarray, rate: int) -> float:
    hop = HOP // 2  # at the other measurements' hop, fast beats are a few frames apart
    power = np.abs(librosa.stft(wave, n_fft=FRAME, hop_length=hop)) ** 2
    mel = np.einsum("...ft,mf->...mt", power, _mel_filters(rate), optimize=True)
    flux = librosa.onset.onset_strength(S=librosa.power_to_db(np.abs(mel)), sr=rate, hop_length=hop)
    return float(librosa.feature.tempo(onset_envelope=flux, sr=rate, hop_length=hop, prior=TEMPI)[0])


def _register(spectrum: np.ndarray, rate: int) -> float:
    power = spectrum.sum(1)
    notes = librosa.hz_to_midi(np.clip(librosa.fft_frequencies(sr=rate, n_fft=FRAME), 1, None))
    inside = (notes >= librosa.hz_to_midi(60.0)) & (notes <= librosa.hz_to_midi(2000.0))
    total = power[inside].sum()
    return float((notes[inside] * power[inside]).sum() / total) if total > 0 else np.nan


def _key(chroma: np.ndarray) -> tuple[str, float]:
    profile = chroma.mean(1)
    fits = {
        name + suffix: float(np.corrcoef(np.roll(shape, i), profile)[0, 1])
        for suffix, shape in (("", MAJOR), (" minor", MINOR))
        for i, name in enumerate(KEYS)
    }
    major = max(value for key, value in fits.items() if not key.endswith("minor"))
    minor = max(value for key, value in fits.items() if key.endswith("minor"))
    return max(fits, key=lambda key: fits[key]), major - minor


def chroma_similarity(audio: Tensor, other: Tensor, rate: int) -> np.ndarray:
    """Measure how similar each clip and its counterpart are in harmony, frame by frame.

    Args:
        audio: Audio [clips, channels, samples] float32, -1..1.
        other: As many counterparts, of the same shape.
        rate: Its sampling rate in Hz.

    Returns:
        The mean cosine of chroma over frames, 0 to 1, float [clips]; NaN if no frame is audible in both.

    Raises:
        ValueError: The audio does not have three axes.

    Example:
        >>> import torch
        >>> seconds = torch.arange(16_000) / 16_000
        >>> a, e = (torch.sin(2 * torch.pi * hertz * seconds)[None, None] for hertz in (440, 660))
        >>> similarity = audioscope.scoring.chroma_similarity
        >>> similarity(a, 0.1 * a, 16_000).round(2).tolist(), similarity(a, e, 16_000).round(2).tolist()
        ([1.0], [0.0])
    """
    if len(checked_sound("audio", audio)) != len(checked_sound("other", other)):
        raise ValueError(f"There are {len(audio)} clips and {len(other)} others, expected one for each.")
    both = zip(_spectra(audio, rate), _spectra(other, rate), strict=True)
    return np.array([_alike(one.chroma, two.chroma) for one, two in both])


def _alike(a: np.ndarray, b: np.ndarray) -> float:
    """The mean cosine of two chromas [12, frames]; NaN if no frame is audible in both."""
    norms = np.linalg.norm(a, axis=0) * np.linalg.norm(b, axis=0)
    audible = norms > 1e-6
    return float(((a * b).sum(0)[audible] / norms[audible]).mean()) if audible.any() else np.nan


def _times(name: str, value: Any) -> np.ndarray:
    times = np.asarray(listed(name, value, "times in s"))
    if times.ndim != 1 or (len(times) and times.dtype.kind not in "fiu") or not np.isfinite(times).all():
        raise ValueError(f"{name} is {said(value)}, expected times in s.")
    return times


def beat_agreement(one: np.ndarray, other: np.ndarray) -> float:
    """Compare two lists of beats: the F-measure of those that match within 70 ms.

    Nothing is cut off at the start, although that is usual for long recordings.

    Args:
        one: Times of beats in s, increasing, float [beats].
        other: The same of the other clip.

    Returns:
        A value from 0 to 1; 0 if only one has beats, NaN if neither has.

    Example:
        >>> import numpy as np
        >>> audioscope.scoring.beat_agreement(np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.02, 2.0, 3.5, 4.0]))
        0.75
    """
    one, other = (_times(name, value) for name, value in (("one", one), ("other", other)))
    if len(one) and len(other):
        return float(mir_eval.beat.f_measure(one, other))
    return 0.0 if len(one) or len(other) else np.nan


def faults(audio: Tensor) -> pd.DataFrame:
    """Find what is technically wrong with each clip: silence, clipping, an offset.

    Args:
        audio: Audio [clips, channels, samples] float32, -1..1.

    Returns:
        One row per clip with the columns level (RMS in dB relative to full scale, at least -120), silent (below -60 dB), clipped
        (share of samples within .1 % of full scale) and dc (the mean sample).

    Example:
        >>> import torch
        >>> audio = torch.stack([torch.zeros(1, 16_000), torch.ones(1, 16_000)])
        >>> audioscope.scoring.faults(audio)[["silent", "clipped"]].values.tolist()
        [[True, 0.0], [False, 1.0]]
    """
    audio = checked_sound("audio", audio)
    flat = audio.float().flatten(1).cpu()
    decibels = level(audio)
    clipped = (flat.abs() >= 0.999).float().mean(1).numpy()
    return pd.DataFrame({"level": decibels, "silent": decibels < SILENT, "clipped": clipped, "dc": flat.mean(1).numpy()})
