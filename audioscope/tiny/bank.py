"""Single notes of General MIDI instruments, the raw material of the tiny model's music.

The notes were rendered once from the FluidR3 soundfont (MIT license, kept next to the data) by tools/make_bank.py, and are
stored as one Ogg Vorbis file plus a JSON index.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import copy
from functools import lru_cache
from pathlib import Path

import numpy as np
import soundfile as sf

from audioscope.store import data_folder

RATE = 16_000  # Hz


class NoteBank:
    """Notes by instrument and pitch, and drum hits by name, as float32 waveforms at 16 kHz, from which songs are rendered.

    `bank.note(instrument, pitch, formant=0.0)` is a whole note (about 2.5 s) at a MIDI pitch; `formant` semitones shift the
    spectral envelope, not the pitch, which sets a voice's sex. The notes were rendered once from the FluidR3 soundfont.

    Args:
        folder: A folder with bank.ogg and bank.json; None means the bank that ships.

    Raises:
        ValueError: The sound is not at 16 kHz.

    Example:
        >>> bank = audioscope.tiny.NoteBank()
        >>> note = bank.note("violin", 69)  # A4
        >>> note.dtype, note.ndim, len(note) > 2 * 16_000
        (dtype('float32'), 1, True)
    """

    def __init__(self, folder: Path | None = None):
        folder = folder or data_folder() / "tiny" / "bank"
        index = json.loads((folder / "bank.json").read_text())
        sound, rate = sf.read(folder / "bank.ogg", dtype="float32")
        if rate != RATE:
            raise ValueError(f"{folder / 'bank.ogg'} has {rate} Hz, expected {RATE} Hz: rebuild the note bank.")
        self._notes = {name: {int(p): sound[a:b] for p, (a, b) in spans.items()} for name, spans in index["pitched"].items()}
        self._hits = {name: sound[a:b] for name, (a, b) in index["hits"].items()}
        self.note = lru_cache(maxsize=2048)(self._note)

    def _note(self, instrument: str, pitch: int, formant: float = 0.0) -> np.ndarray:
        """The whole note (2.5 s). `formant` semitones shift the spectral envelope, not the pitch, which sets a voice's sex."""
        spans = self._notes[instrument]
        source = min(spans, key=lambda p: (abs(p + formant - pitch), p))
        ratio = 2.0 ** ((pitch - source) / 12)
        wave = spans[source]
        positions = np.arange(0, len(wave) - 1, ratio)
        return np.interp(positions, np.arange(len(wave)), wave).astype(np.float32)

    def with_notes(self, notes: Mapping[str, Mapping[int, np.ndarray]]) -> NoteBank:
        """Return a bank with other notes for some instruments, such as those of real recordings.

        Args:
            notes: For each instrument, waveforms float32 [samples] at 16 kHz by MIDI pitch; between them, the nearest is resampled.

        Returns:
            The new bank; this one does not change.

        Example:
            >>> import numpy as np
            >>> beep = np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000).astype("float32")
            >>> audioscope.tiny.NoteBank().with_notes({"flute": {69: beep}}).note("flute", 69).shape
            (15999,)
        """
        bank = copy(self)
        bank._notes = {**self._notes, **{name: dict(by_pitch) for name, by_pitch in notes.items()}}
        bank.note = lru_cache(maxsize=2048)(bank._note)
        return bank

    def hit(self, name: str) -> np.ndarray:
        """Return one hit of a percussion instrument (0.6 s).

        Args:
            name: The instrument, such as "kick" or "maracas".

        Returns:
            The waveform, float32 [samples] at 16 kHz.

        Example:
            >>> audioscope.tiny.NoteBank().hit("maracas").shape
            (9600,)
        """
        return self._hits[name]
