"""Render the note bank of the tiny model's music anew: python tools/make_bank.py FOLDER [SOUNDFONT].

That takes fluidsynth, the FluidR3 soundfont (Debian: fluid-soundfont-gm) and mido (pip install mido).
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import mido
import numpy as np
import soundfile as sf

from audioscope.tiny.bank import RATE

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


def build(folder: Path, soundfont: Path = Path("/usr/share/sounds/sf2/FluidR3_GM.sf2")) -> None:
    """Write bank.ogg and bank.json into `folder`."""
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


if __name__ == "__main__":
    build(*map(Path, sys.argv[1:]))
