"""Clips: sound with its rate, prompt and seed, displayed in a notebook as a spectrogram with a player."""

from __future__ import annotations

import base64
import io
import warnings
from dataclasses import dataclass
from html import escape
from pathlib import Path
from threading import Lock

import librosa
import numpy as np
import pyloudnorm
import soundfile as sf

from audioscope.store import write_whole

# Dark to light through one hue family: readable in grayscale and with color blindness.
RAMP = np.array([[4, 5, 20], [42, 20, 90], [130, 40, 110], [220, 90, 70], [250, 190, 90], [255, 250, 210]], dtype=float)


_QUIET = Lock()  # warnings are silenced for all threads: one thread at a time, or they could stay silenced


@dataclass(frozen=True, eq=False)
class Clip:
    """A piece of audio: `samples` float32 [channels, samples] in -1..1, `rate` in Hz, and its prompt, seed and model."""

    samples: np.ndarray
    rate: int
    prompt: str = ""
    seed: int | None = None
    model: str = ""

    def __post_init__(self) -> None:
        if self.samples.ndim != 2:
            raise ValueError(f"samples has shape {self.samples.shape}, expected [channels, samples].")

    @property
    def seconds(self) -> float:
        return self.samples.shape[1] / self.rate

    @property
    def mono(self) -> np.ndarray:
        """Mean over channels: float32 [samples]."""
        return self.samples.mean(axis=0)

    @property
    def level(self) -> float:
        """RMS level in dB relative to full scale."""
        return float(20 * np.log10(np.sqrt(np.mean(self.samples**2)) + 1e-9))

    @property
    def loudness(self) -> float:
        """Integrated loudness in LUFS (ITU-R BS.1770); NaN for silence or for less than its .4 s window."""
        if self.seconds < 0.4:
            return float("nan")
        with _QUIET, warnings.catch_warnings(), np.errstate(divide="ignore"):
            warnings.simplefilter("ignore")  # about silence
            lufs = float(pyloudnorm.Meter(self.rate).integrated_loudness(self.samples.T.astype(float)))
        return lufs if np.isfinite(lufs) else float("nan")

    def save(self, path: str | Path) -> Path:
        """Write a file in the format that its suffix names (.flac, .wav, .ogg, .mp3); returns the path.

        Raises ValueError for any other suffix.
        """
        path = check_suffix(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, lambda part: part.write_bytes(self.encoded(path.suffix[1:])))
        return path

    @classmethod
    def load(cls, path: str | Path, **metadata) -> Clip:
        """Read a sound file; `metadata` sets other fields of the clip (prompt, seed, model)."""
        samples, rate = sf.read(Path(path).expanduser(), dtype="float32", always_2d=True)
        return cls(samples.T.copy(), rate, **metadata)

    def encoded(self, kind: str = "mp3") -> bytes:
        """The clip as a sound file in memory ("mp3", "ogg", "flac" or "wav"), with its level unchanged."""
        buffer = io.BytesIO()
        sf.write(buffer, np.clip(self.samples.T, -1, 1), self.rate, format=kind.upper())
        return buffer.getvalue()

    def spectrogram(self, mels: int = 96) -> np.ndarray:
        """Mel spectrogram in dB relative to its maximum, at least -80: float32 [mels, frames], 16 ms per frame."""
        hop = max(1, self.rate // 62)
        size = 1 << int(np.ceil(np.log2(hop * 4)))
        power = librosa.feature.melspectrogram(
            y=self.mono, sr=self.rate, n_fft=size, hop_length=hop, pad_mode="reflect", n_mels=mels, fmin=40.0, htk=True, norm=None
        )
        return librosa.power_to_db(power, ref=np.max, top_db=80.0)

    def picture(self, height: int = 96) -> bytes:
        """The spectrogram as a small WebP image, low frequencies at the bottom: about 3 KB for 4 s, at most 512 px wide."""
        from PIL import Image

        level = (self.spectrogram()[::-1] + 80) / 80
        places = np.linspace(0, 1, len(RAMP))
        colors = np.stack([np.interp(level, places, RAMP[:, i]) for i in range(3)], axis=-1).astype(np.uint8)
        image = Image.fromarray(colors).resize((min(512, max(256, level.shape[1])), height))
        buffer = io.BytesIO()
        image.save(buffer, "WEBP", quality=60, method=2)
        return buffer.getvalue()

    def __repr__(self) -> str:
        return f"Clip({self.prompt!r}, seed={self.seed}, {self.seconds:.2f} s, {self.rate} Hz, {self.level:.1f} dB)"

    def _repr_html_(self) -> str:
        sound = base64.b64encode(self.encoded()).decode()
        picture = base64.b64encode(self.picture()).decode()
        name = escape(self.prompt or "clip", quote=True)
        return (
            f'<figure style="margin:0.5em 0;max-width:420px"><figcaption>{name}'
            f"{'' if self.seed is None else f' <small>(seed {self.seed})</small>'}</figcaption>"
            f'<img alt="Mel spectrogram of: {name}" style="width:100%;display:block" src="data:image/webp;base64,{picture}">'
            f'<audio controls aria-label="Play: {name}" style="width:100%" src="data:audio/mpeg;base64,{sound}"></audio></figure>'
        )


def check_suffix(path: str | Path) -> Path:
    """Return the path if its suffix names a format that can be written; raise ValueError otherwise."""
    path = Path(path).expanduser()
    if path.suffix.lower() not in (".flac", ".wav", ".ogg", ".mp3"):
        raise ValueError(f"Cannot write {path.name!r}: the suffix must be .flac, .wav, .ogg or .mp3.")
    return path


def show_clips(*clips: Clip) -> object:
    """Show several clips side by side in a notebook."""
    from IPython.display import HTML

    cells = "".join(f'<div style="flex:1 1 260px;max-width:420px">{clip._repr_html_()}</div>' for clip in clips)
    return HTML(f'<div style="display:flex;flex-wrap:wrap;gap:1em">{cells}</div>')
