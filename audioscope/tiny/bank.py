"""Single notes of many instruments, the raw material of the tiny model's music, in three banks of different origin.

tools/make_bank.py makes them; data/tiny/bank/LICENSE says where they come from. Each bank is one Ogg Vorbis file; one JSON index
says where in it each note lies.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from copy import copy
from functools import lru_cache
from pathlib import Path

import numpy as np
import soundfile as sf
from scipy import fft

from audioscope.errors import among, as_path, named, one_or_more, said, texts
from audioscope.store import data_folder

RATE = 16_000  # Hz


class NoteBank:
    """Notes by instrument and pitch, and drum hits by name, as float32 waveforms at 16 kHz, from which songs are rendered.

    There are three banks: "fluid" (the FluidR3 soundfont, every instrument), "recorded" (recordings of real instruments) and
    "third" (other presets of the MuseScore General soundfont, and other drums). An instrument is about equally loud in all.

    `bank.note(instrument, pitch, formant=0.0, source=None)` is a whole note (2.5 s, or less where it fades sooner) at a MIDI
    pitch; `formant` semitones shift the spectral envelope, not the pitch, which sets a voice's sex; `source` names the bank, None
    being the first of `bank.sources(instrument)`.

    Args:
        folder: A folder with bank.json and the sound of each bank; None means the banks that ship.
        only: Names of the banks to use; none means all. An instrument that is in none of these is taken from any that has it.
        without: Names of banks to leave out, in the same way.

    Raises:
        ValueError: There is no bank of that name, none is left, or the sound is not at 16 kHz.

    Example:
        >>> bank = audioscope.tiny.NoteBank()
        >>> note = bank.note("violin", 69)  # A4
        >>> note.dtype, note.ndim, len(note) > 2 * 16_000
        (dtype('float32'), 1, True)
        >>> bank.sources("violin")
        ('fluid', 'recorded')
        >>> audioscope.tiny.NoteBank(without=["fluid"]).sources("violin")
        ('recorded',)
    """

    def __init__(self, folder: Path | None = None, only: Sequence[str] = (), without: Sequence[str] = ()):
        folder = data_folder() / "tiny" / "bank" if folder is None else as_path(folder)
        if not (folder / "bank.json").is_file():
            raise FileNotFoundError(f"{folder} holds no note banks: expected bank.json.")
        index = json.loads((folder / "bank.json").read_text())
        only, without = _names("only", only), _names("without", without)
        for name in [*only, *without]:
            if name not in index:
                raise ValueError(f"There is no note bank {name!r}; there are: {', '.join(index)}.")
        self._used = tuple(name for name in index if name in (only or index) and name not in without)
        if not self._used:
            raise ValueError(f"No note bank is left of {', '.join(index)} with only={only} and without={without}.")
        self._notes: dict[str, dict[str, dict[int, np.ndarray]]] = {}
        self._hits: dict[str, dict[str, np.ndarray]] = {}
        for name, part in index.items():
            sound, rate = sf.read(folder / f"{name}.ogg", dtype="float32")
            if rate != RATE:
                raise ValueError(f"{folder / f'{name}.ogg'} has {rate} Hz, expected {RATE} Hz: rebuild the note bank.")
            for instrument, spans in part["pitched"].items():
                self._notes.setdefault(instrument, {})[name] = {int(p): sound[a:b] for p, (a, b) in spans.items()}
            for instrument, (a, b) in part["hits"].items():
                self._hits.setdefault(instrument, {})[name] = sound[a:b]
        self.note = lru_cache(maxsize=2048)(self._note)

    def sources(self, name: str) -> tuple[str, ...]:
        """Return the banks that have an instrument, of those in use; all that have it if none of those has.

        Args:
            name: An instrument such as "violin", or a percussion instrument such as "kick".

        Returns:
            Names of banks, in the order of bank.json; never empty.

        Raises:
            ValueError: No bank has such an instrument.

        Example:
            >>> audioscope.tiny.NoteBank(only=["recorded"]).sources("harmonica")  # there is no recording of one
            ('fluid',)
        """
        banks: dict[str, dict] = {**self._notes, **self._hits}
        if not among(name, banks):
            raise ValueError(f"There is no instrument {said(name)}; there are: {', '.join(sorted(banks))}.")
        return tuple(bank for bank in banks[name] if bank in self._used) or tuple(banks[name])

    def _note(self, instrument: str, pitch: int, formant: float = 0.0, source: str | None = None) -> np.ndarray:
        """The whole note (2.5 s or less). `formant` semitones shift the spectral envelope, not the pitch."""
        spans = self._pick(self._notes, instrument, source)
        nearest = min(spans, key=lambda p: (abs(p + formant - pitch), p))
        return _raised(spans[nearest], pitch - nearest)

    def with_notes(self, notes: Mapping[str, Mapping[int, np.ndarray]]) -> NoteBank:
        """Return a bank with other notes for some instruments, from a source named "given", such as those of real recordings.

        Args:
            notes: For each instrument, waveforms float32 [samples] at 16 kHz by MIDI pitch; between them, the nearest is resampled.

        Returns:
            The new bank; this one does not change.

        Example:
            >>> import numpy as np
            >>> beep = np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000).astype("float32")
            >>> audioscope.tiny.NoteBank().with_notes({"flute": {69: beep}}).note("flute", 69).shape
            (16000,)
        """
        named("notes", notes, dict)
        bank = copy(self)
        bank._notes = {**self._notes, **{name: {"given": dict(by_pitch)} for name, by_pitch in notes.items()}}
        bank._used = (*self._used, "given")
        bank.note = lru_cache(maxsize=2048)(bank._note)
        return bank

    def hit(self, name: str, source: str | None = None) -> np.ndarray:
        """Return one hit of a percussion instrument (0.6 s, or less where it fades sooner).

        Args:
            name: The instrument, such as "kick" or "maracas".
            source: The bank; None means the first of `sources(name)`.

        Returns:
            The waveform, float32 [samples] at 16 kHz.

        Raises:
            ValueError: No bank, or not this one, has such an instrument.

        Example:
            >>> audioscope.tiny.NoteBank().hit("maracas").shape
            (9600,)
        """
        return self._pick(self._hits, name, source)

    def _pick(self, table: dict[str, dict], name: str, source: str | None):
        if not among(name, table):
            raise ValueError(f"There is no instrument {said(name)} here; there are: {', '.join(table)}.")
        source = self.sources(name)[0] if source is None else source
        if not among(source, table[name]):
            raise ValueError(f"The note bank {said(source)} has no {name!r}; it is in: {', '.join(table[name])}.")
        return table[name][source]


def _names(name: str, value: Sequence[str]) -> tuple[str, ...]:
    return tuple(texts(name, one_or_more(value)))


def _raised(wave: np.ndarray, semitones: int) -> np.ndarray:
    """A waveform played faster by so many semitones: all frequencies are kept that fit, where a line between samples dulls them."""
    if semitones == 0:
        return wave
    long, short = _lengths(len(wave), semitones)
    spectrum = fft.rfft(wave, long)
    played = fft.irfft(spectrum[: short // 2 + 1], short)  # irfft cuts the spectrum, or fills it up with zeros
    return np.float32(short / long) * played[: int(len(wave) * short / long)]


@lru_cache(maxsize=4096)
def _lengths(samples: int, semitones: int) -> tuple[int, int]:
    """Two lengths in the ratio of the pitches, to a fiftieth of a semitone, both fast to transform where 50 tries find such a pair.

    At least 50 ms of silence after the sound keep its end from ringing into its start.
    """
    ratio, long = 2.0 ** (semitones / 12), samples + 800
    for _ in range(50):
        long = fft.next_fast_len(long)
        short = fft.next_fast_len(int(long / ratio))
        if abs(12 * np.log2(long / short / ratio)) < 0.02:
            return long, short
        long += 1
    return long, round(long / ratio)
