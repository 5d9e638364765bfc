"""Clips: sound with its rate, prompt and seed, that plays and shows itself in a notebook."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soundfile as sf
import torch
from torchaudio.transforms import MelSpectrogram

from audioscope.paths import write_whole

if TYPE_CHECKING:
    from PIL import Image

# Dark to light through one hue family: readable in grey and by the colour-blind.
RAMP = np.array([[4, 5, 20], [42, 20, 90], [130, 40, 110], [220, 90, 70], [250, 190, 90], [255, 250, 210]], dtype=float)


@dataclass(frozen=True, eq=False)
class Clip:
    """A piece of audio: `samples` float32 [channels, samples] in -1..1, `rate` in Hz, and what made it."""

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

    def save(self, path: str | Path) -> Path:
        """Write a file whose format its suffix names (.flac, .wav, .ogg, .mp3); returns the path.

        Raises ValueError for a suffix that cannot be written.
        """
        path = check_suffix(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, lambda part: part.write_bytes(self.encoded(path.suffix[1:])))
        return path

    @classmethod
    def load(cls, path: str | Path, **facts) -> Clip:
        """Read a sound file; `facts` are further fields (prompt, seed, model)."""
        samples, rate = sf.read(path, dtype="float32", always_2d=True)
        return cls(samples.T.copy(), rate, **facts)

    def encoded(self, kind: str = "mp3") -> bytes:
        """The clip as a compressed file in memory ("mp3", "ogg", "flac" or "wav"), at its own level."""
        buffer = io.BytesIO()
        sf.write(buffer, np.clip(self.samples.T, -1, 1), self.rate, format=kind.upper())
        return buffer.getvalue()

    def spectrogram(self, mels: int = 96) -> np.ndarray:
        """Mel spectrogram in dB relative to its maximum, at least -80: float32 [mels, frames], 16 ms a frame."""
        hop = max(1, self.rate // 62)
        size = 1 << int(np.ceil(np.log2(hop * 4)))
        power = MelSpectrogram(self.rate, n_fft=size, hop_length=hop, n_mels=mels, f_min=40.0)(torch.from_numpy(self.mono))
        decibels = 10 * torch.log10(power + 1e-10)
        return (decibels - decibels.max()).clamp_min(-80).numpy()

    def _image(self, height: int, width: int) -> Image.Image:
        from PIL import Image

        level = (self.spectrogram()[::-1] + 80) / 80
        places = np.linspace(0, 1, len(RAMP))
        colours = np.stack([np.interp(level, places, RAMP[:, i]) for i in range(3)], axis=-1).astype(np.uint8)
        return Image.fromarray(colours).resize((max(width, level.shape[1]), height))

    def png(self, height: int = 120) -> bytes:
        """The spectrogram as a PNG picture, low frequencies at the bottom."""
        buffer = io.BytesIO()
        self._image(height, 320).save(buffer, "PNG")
        return buffer.getvalue()

    def picture(self, height: int = 96) -> bytes:
        """The spectrogram as a small WebP picture for pages with many of them: about 3 KB for 4 s, at most 512 px wide."""
        image = self._image(height, 256)
        buffer = io.BytesIO()
        image.resize((min(512, image.width), height)).save(buffer, "WEBP", quality=60, method=2)
        return buffer.getvalue()

    def __repr__(self) -> str:
        return f"Clip({self.prompt!r}, seed={self.seed}, {self.seconds:.2f} s, {self.rate} Hz, {self.level:.1f} dB)"

    def _repr_html_(self) -> str:
        sound = base64.b64encode(self.encoded()).decode()
        picture = base64.b64encode(self.png()).decode()
        name = escape(self.prompt or "clip", quote=True)
        return (
            f'<figure style="margin:0.5em 0;max-width:420px"><figcaption>{name}'
            f"{'' if self.seed is None else f' <small>(seed {self.seed})</small>'}</figcaption>"
            f'<img alt="Mel spectrogram of: {name}" style="width:100%;display:block" src="data:image/png;base64,{picture}">'
            f'<audio controls aria-label="Play: {name}" style="width:100%" src="data:audio/mpeg;base64,{sound}"></audio></figure>'
        )


def check_suffix(path: str | Path) -> Path:
    """The path, if its suffix names a format that can be written. Raises ValueError otherwise."""
    path = Path(path)
    if path.suffix.lower() not in (".flac", ".wav", ".ogg", ".mp3"):
        raise ValueError(f"Cannot write {path.name!r}: the suffix must be .flac, .wav, .ogg or .mp3.")
    return path


def in_a_row(*clips: Clip) -> object:
    """Several clips side by side in a notebook."""
    from IPython.display import HTML

    cells = "".join(f'<div style="flex:1 1 260px;max-width:420px">{clip._repr_html_()}</div>' for clip in clips)
    return HTML(f'<div style="display:flex;flex-wrap:wrap;gap:1em">{cells}</div>')
