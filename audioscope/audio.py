"""Clips: sound with its rate, prompt and seed, displayed in a notebook as a spectrogram with a player."""

from __future__ import annotations

import base64
import io
import os
import tempfile
import warnings
from dataclasses import dataclass
from functools import lru_cache
from getpass import getuser
from html import escape
from pathlib import Path
from threading import Lock
from typing import Any

import librosa
import numpy as np
import pyloudnorm
import soundfile as sf
from filelock import FileLock

from audioscope.errors import all_of, as_path, said, whole
from audioscope.store import made_folder, write_whole

# Dark to light through one hue family: readable in grayscale and with color blindness.
DENSEST = 10_000  # samples in a byte of a file: silence in FLAC comes to 5,000
RAMP = np.array([[4, 5, 20], [42, 20, 90], [130, 40, 110], [220, 90, 70], [250, 190, 90], [255, 250, 210]], dtype=float)


_QUIET = Lock()  # warnings are silenced for all threads: one thread at a time, or they could stay silenced


def numba_lock() -> FileLock:
    """Held by whoever lets librosa compile: one process at a time.

    numba caches compiled code on disk, for some functions as soon as librosa is imported. If two processes fill that cache at once,
    each leaves the other's code in it, and every process after them crashes, permanently (seen with numba 0.68: notebooks and tests
    that started together).
    """
    who = os.getuid() if hasattr(os, "getuid") else getuser()  # in a container, a user need not have a name
    return FileLock(Path(tempfile.gettempdir()) / f"audioscope-{who}-numba.lock")


@lru_cache(maxsize=1)
def ready_librosa() -> None:
    """Import and compile what librosa needs for spectrograms and resampling; call it before librosa."""
    with numba_lock():
        noise = np.random.default_rng(0).normal(0, 0.1, 4_000).astype(np.float32)
        librosa.power_to_db(librosa.feature.melspectrogram(y=noise, sr=16_000))
        librosa.resample(noise, orig_sr=16_000, target_sr=8_000, res_type="soxr_hq")


@dataclass(frozen=True, eq=False)
class Clip:
    """A piece of audio with its prompt, seed and model, displayed in a notebook as a spectrogram with a player.

    Args:
        samples: float32 [channels, samples], from -1 to 1.
        rate: Sampling rate in Hz.
        prompt: The prompt that it was generated from.
        seed: The seed of its noise; None if it was not generated.
        model: The name of the model that generated it.

    Raises:
        ValueError: The samples are no finite floats of two dimensions, or the rate is no whole number above 0.

    Example:
        >>> import numpy as np
        >>> samples = 0.5 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
        >>> audioscope.Clip(samples[None].astype("float32"), rate=16000, prompt="an A")
        Clip('an A', seed=None, 1.00 s, 16000 Hz, -9.0 dB)
    """

    samples: np.ndarray
    rate: int
    prompt: str = ""
    seed: int | None = None
    model: str = ""

    def __post_init__(self) -> None:
        samples = self.samples
        if not isinstance(samples, np.ndarray) or samples.ndim != 2 or not np.issubdtype(samples.dtype, np.floating):
            found = f"{samples.dtype} {list(samples.shape)}" if isinstance(samples, np.ndarray) else said(samples)
            raise ValueError(f"samples is {found}, expected floats [channels, samples] from -1 to 1.")
        if not np.isfinite(samples).all():
            raise ValueError("samples contains NaN or infinity, which no sound has.")
        object.__setattr__(self, "rate", whole("rate", self.rate, 1))

    @property
    def seconds(self) -> float:
        """The length in s."""
        return float(self.samples.shape[1] / self.rate)

    @property
    def mono(self) -> np.ndarray:
        """The mean over channels, float32 [samples]."""
        return np.asarray(self.samples.mean(axis=0))

    @property
    def level(self) -> float:
        """The RMS level in dB relative to full scale."""
        return float(20 * np.log10(np.sqrt(np.mean(self.samples**2)) + 1e-9))

    @property
    def loudness(self) -> float:
        """The integrated loudness in LUFS (ITU-R BS.1770); NaN for silence or for less than its 0.4 s window."""
        if self.seconds < 0.4:
            return float("nan")
        with _QUIET, warnings.catch_warnings(), np.errstate(divide="ignore"):
            warnings.simplefilter("ignore")  # about silence
            lufs = float(pyloudnorm.Meter(self.rate).integrated_loudness(self.samples.T.astype(float)))
        return lufs if np.isfinite(lufs) else float("nan")

    def save(self, path: str | Path) -> Path:
        """Write the clip as a sound file.

        Args:
            path: The file, whose suffix names the format: .flac, .wav, .ogg or .mp3.

        Returns:
            The file.

        Raises:
            ValueError: The suffix is any other.

        Example:
            >>> clip = model.generate("a slow song", seed=0, steps=2)
            >>> audioscope.Clip.load(clip.save("song.flac"), prompt=clip.prompt).rate
            16000
        """
        path = check_suffix(path)
        made_folder(path.parent)
        write_whole(path, lambda part: part.write_bytes(self.encoded(path.suffix[1:])))
        return path

    @classmethod
    def load(cls, path: str | Path, **metadata: Any) -> Clip:
        """Read a sound file.

        Args:
            path: The file.
            **metadata: Other fields of the clip: prompt, seed, model.

        Returns:
            The clip, at the file's own sampling rate.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It is no sound file, or is damaged.
        """
        file = as_path(path)
        if not file.is_file():
            raise FileNotFoundError(
                f"No sound file {file}. If it is a clip of a sweep, run the sweep again: it makes what is missing."
            )
        try:
            if (claimed := sf.info(file).frames) > DENSEST * file.stat().st_size:
                raise ValueError(f"its header claims {claimed:,} samples")
            samples, rate = sf.read(file, dtype="float32", always_2d=True)
        except (sf.SoundFileError, ValueError, MemoryError) as error:
            raise ValueError(f"{file} cannot be read as sound ({error}).") from error
        return cls(samples.T.copy(), rate, **metadata)

    def encoded(self, kind: str = "mp3") -> bytes:
        """The clip as a sound file in memory, with its level unchanged; samples beyond -1 to 1 are clipped.

        Args:
            kind: "mp3", "ogg", "flac" or "wav".

        Returns:
            The content of the file.
        """
        buffer = io.BytesIO()
        sf.write(buffer, np.clip(self.samples.T, -1, 1), self.rate, format=kind.upper())
        return buffer.getvalue()

    def spectrogram(self, mels: int = 96) -> np.ndarray:
        """The mel spectrogram in dB relative to its maximum, at least -80.

        Args:
            mels: The number of mel bands, from 40 Hz upwards.

        Returns:
            float32 [mels, frames], 16 ms per frame.

        Raises:
            ValueError: `mels` is no whole number from 1 to 1024.

        Example:
            >>> clip = model.generate("a slow song", seed=0, steps=2)
            >>> clip.spectrogram(mels=64).shape
            (64, 255)
        """
        mels = whole("mels", mels, 1, 1024)
        ready_librosa()
        hop = max(1, self.rate // 62)
        size = 1 << int(np.ceil(np.log2(hop * 4)))
        power = librosa.feature.melspectrogram(
            y=self.mono, sr=self.rate, n_fft=size, hop_length=hop, pad_mode="reflect", n_mels=mels, fmin=40.0, htk=True, norm=None
        )
        return np.asarray(librosa.power_to_db(power, ref=np.max, top_db=80.0))

    def picture(self, height: int = 96) -> bytes:
        """The spectrogram as a small WebP image, low frequencies at the bottom.

        Args:
            height: Of the image, in px; the width follows the length, from 256 to 512 px.

        Returns:
            The content of the file, about 3 KB for 4 s.
        """
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
    path = as_path(path)
    if path.suffix.lower() not in (".flac", ".wav", ".ogg", ".mp3"):
        raise ValueError(f"Cannot write {path.name!r}: the suffix must be .flac, .wav, .ogg or .mp3.")
    return path


def show_clips(*clips: Clip) -> object:
    """Show several clips side by side in a notebook.

    Args:
        clips: The clips, in order.

    Returns:
        HTML for a notebook.

    Example:
        >>> clips = [model.generate(prompt, seed=0, steps=2) for prompt in ("a slow song", "a fast song")]
        >>> audioscope.show_clips(*clips).data.count("<audio")
        2
    """
    all_of("clips", clips, Clip)
    from IPython.display import HTML

    cells = "".join(f'<div style="flex:1 1 260px;max-width:420px">{clip._repr_html_()}</div>' for clip in clips)
    return HTML(f'<div style="display:flex;flex-wrap:wrap;gap:1em">{cells}</div>')
