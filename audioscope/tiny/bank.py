"""Single notes of General MIDI instruments, the raw material of the tiny model's music.

The notes were rendered once from the FluidR3 soundfont (MIT license, kept next to the data) by `build`, and are stored
as one Ogg Vorbis file plus a JSON index. Nothing but `build` needs fluidsynth or the soundfont.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path

import numpy as np
import soundfile as sf

from audioscope.store import data_folder

RATE = 16_000  # Hz
NOTE_SECONDS = 2.5  # two beats at the slowest tempo (60 BPM), held long, are 2.3 s; raising a note by resampling shortens it
HIT_SECONDS = 0.6
STEP = 4  # semitones between rendered pitches; the rest is resampled by at most two semitones

# name: (General MIDI program, lowest and highest MIDI pitch)
PITCHED = {
    "violin": (40, 55, 92), "trumpet": (56, 53, 85), "saxophone": (65, 49, 81), "cello": (42, 36, 70),
    "flute": (73, 60, 94), "harmonica": (22, 58, 88), "trombone": (57, 38, 70), "xylophone": (13, 65, 97),
    "piano": (0, 36, 90), "guitar": (25, 40, 80),
    "clean guitar": (27, 45, 77), "distorted guitar": (30, 33, 65), "strings": (48, 43, 83), "organ": (16, 45, 77),
    "electric piano": (4, 45, 81), "saw": (81, 45, 85), "pad": (89, 45, 77),
    "electric bass": (33, 26, 54), "acoustic bass": (32, 26, 54), "synth bass": (38, 26, 54),
    "aahs": (52, 41, 81), "oohs": (53, 41, 81),
}  # fmt: skip
# name: key of the General MIDI drum channel
HITS = {
    "kick": 36, "snare": 38, "rim": 37, "closed hat": 42, "open hat": 46, "crash": 49, "ride": 51,
    "low tom": 45, "high tom": 48, "high bongo": 60, "low bongo": 61, "maracas": 70,
}  # fmt: skip


class NoteBank:
    """Notes by instrument and pitch, and drum hits by name, as float32 waveforms at 16 kHz."""

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

    def hit(self, name: str) -> np.ndarray:
        """One hit of a percussion instrument (0.6 s)."""
        return self._hits[name]


def build(folder: Path, soundfont: Path = Path("/usr/share/sounds/sf2/FluidR3_GM.sf2")) -> None:
    """Render the bank with fluidsynth (Debian: fluidsynth, fluid-soundfont-gm; PyPI: mido) into `folder`."""
    import mido

    pieces: list[np.ndarray] = []
    index: dict[str, dict] = {"pitched": {}, "hits": {}}

    def render(channel: int, program: int, keys: list[int], seconds: float) -> list[tuple[int, int]]:
        spans = []
        with tempfile.TemporaryDirectory() as scratch:
            midi = mido.MidiFile(ticks_per_beat=1000)  # at the default 120 BPM one tick is half a millisecond
            track = mido.MidiTrack()
            midi.tracks.append(track)
            track.append(mido.Message("program_change", channel=channel, program=program))
            hold, gap = int(2000 * (seconds - 0.25)), 2000
            for key in keys:
                track.append(mido.Message("note_on", channel=channel, note=key, velocity=100, time=gap))
                track.append(mido.Message("note_off", channel=channel, note=key, velocity=0, time=hold))
                gap = int(2000 * 1.25)
            track.append(mido.MetaMessage("end_of_track", time=4000))
            midi.save(f"{scratch}/notes.mid")
            subprocess.run(
                ["fluidsynth", "-ni", "-R", "0", "-C", "0", "-g", "0.5", "-r", str(RATE), "-F", f"{scratch}/notes.wav",
                 str(soundfont), f"{scratch}/notes.mid"], check=True, capture_output=True)  # fmt: skip
            wave, _ = sf.read(f"{scratch}/notes.wav", dtype="float32")
        wave = wave.mean(axis=1)
        for i in range(len(keys)):
            start = int(RATE * (1.0 + i * (seconds + 1.0)))
            note = wave[start : start + int(RATE * seconds)].copy()
            note[-400:] *= np.linspace(1, 0, 400)
            begin = sum(map(len, pieces))
            pieces.append(note)
            spans.append((begin, begin + len(note)))
        return spans

    for name, (program, low, high) in PITCHED.items():
        keys = list(range(low + 1, high + 1, STEP))
        index["pitched"][name] = dict(zip(map(str, keys), render(0, program, keys, NOTE_SECONDS), strict=True))
    for name, key in HITS.items():
        index["hits"][name] = render(9, 0, [key], HIT_SECONDS)[0]
    # One gain for each instrument: MIDI programs differ by more than 10 dB at equal velocity.
    for spans in list(index["pitched"].values()) + [{"": span} for span in index["hits"].values()]:
        ids = [next(i for i, p in enumerate(_starts(pieces)) if p == a) for a, _ in spans.values()]
        peak = max(float(np.abs(pieces[i]).max()) for i in ids)
        for i in ids:
            pieces[i] *= 0.7 / peak
    folder.mkdir(parents=True, exist_ok=True)
    with sf.SoundFile(folder / "bank.ogg", "w", RATE, 1, format="OGG", subtype="VORBIS") as file:
        for piece in pieces:  # soundfile's Vorbis writer overflows the stack on one long write
            file.write(piece)
    (folder / "bank.json").write_text(json.dumps(index))


def _starts(pieces: list[np.ndarray]) -> list[int]:
    return [0, *np.cumsum([len(p) for p in pieces])[:-1].tolist()]
