"""The tiny model's codec: log-mel patches, a principal component basis, and Griffin-Lim on the way back.

It takes the place of a Stable Audio pipeline's VAE. Nothing in it is trained by gradient: the basis is fitted once to
rendered music, so every latent is a linear, readable picture of sound.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torchaudio.functional import melscale_fbanks

from audioscope.errors import said
from audioscope.store import LOADING

FLOOR = 1e-3  # magnitude added before the logarithm: about -60 dB under a typical partial


@dataclass
class Decoded:
    """Waveforms [batch, 1, samples], float32; the field name is the one that diffusers pipelines read."""

    sample: Tensor


class MelCodec(ModelMixin, ConfigMixin):
    """Turn audio into latents and back: log-mel frames, stacked in fours, projected onto `latent_dim` principal components.

    It takes the place of a Stable Audio pipeline's VAE. Components are divided by the square root of their standard deviation,
    between none and full whitening: large-scale structure keeps more variance than detail, so a diffusion model settles it first.
    A new codec needs `fit` before it is used; that of `tiny` is `model.pipe.vae`.

    Args:
        latent_dim: The number of components, the width of the latents.
        sampling_rate: Of the waveforms, in Hz.
        n_fft: Samples in a spectrogram frame, a multiple of hop.
        hop: Samples between two frames.
        n_mels: The number of mel bands.
        stack: Frames per latent.
        griffinlim_iterations: Iterations of Griffin-Lim, which finds the phases.
        mel_iterations: Steps in which magnitudes are found whose mel bands are those of a spectrogram.
        level: The level of decoded clips, in dB RMS relative to full scale.

    Example:
        >>> import torch
        >>> codec = model.pipe.vae
        >>> clip = model.generate("a fast song", seed=0, steps=2)
        >>> latents = codec.encode(torch.from_numpy(clip.mono)[None, None])
        >>> latents.shape, codec.decode(latents).sample.shape
        (torch.Size([1, 96, 64]), torch.Size([1, 1, 65536]))
    """

    @register_to_config
    def __init__(
        self,
        latent_dim: int = 96,
        sampling_rate: int = 16_000,
        n_fft: int = 1024,
        hop: int = 256,
        n_mels: int = 96,
        stack: int = 4,
        griffinlim_iterations: int = 16,
        mel_iterations: int = 12,
        level: float = -20.0,
    ):
        super().__init__()
        if hop < 1 or n_fft < 2 * hop or n_fft % hop:
            raise ValueError(f"n_fft is {n_fft}, expected a multiple of hop, {hop}, of at least twice.")
        values = n_mels * stack
        self.register_buffer("mean", torch.zeros(values))
        self.register_buffer("basis", torch.eye(values, latent_dim))
        self.register_buffer("scale", torch.ones(latent_dim))
        filters = melscale_fbanks(n_fft // 2 + 1, 40.0, sampling_rate / 2, n_mels, sampling_rate)
        self.register_buffer("filters", filters, persistent=False)
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        self.anchor = nn.Parameter(torch.zeros(1), requires_grad=False)  # diffusers reads a model's dtype from its parameters

    @classmethod
    def from_pretrained(cls, *args, **keywords) -> MelCodec:
        """Read a codec, in float32 whatever the pipeline's dtype: a spectrogram in half precision is audibly rough.

        The arguments are those of diffusers' `ModelMixin.from_pretrained`, beginning with the folder.

        Args:
            **keywords: As there; torch_dtype is ignored.

        Returns:
            The codec.

        Example:
            >>> codec = audioscope.tiny.MelCodec.from_pretrained(audioscope.datasets.data_folder() / "tiny" / "vae")
            >>> codec.downsampling_ratio
            1024
        """
        with LOADING:
            return super().from_pretrained(*args, **{**keywords, "torch_dtype": torch.float32})

    def _apply(self, fn, recurse=True):
        """Moved, as `.to` of its pipeline asks, but never to another precision."""

        def moved(tensor: Tensor) -> Tensor:
            result = fn(tensor)
            return result if result.dtype == tensor.dtype else tensor.to(result.device)

        return super()._apply(moved, recurse)

    @property
    def downsampling_ratio(self) -> int:
        """Samples per latent frame, `hop * stack`."""
        return self.config.hop * self.config.stack

    def log_mel(self, wave: Tensor) -> Tensor:
        """Compute the log-mel magnitudes (natural logarithm) of waveforms.

        Args:
            wave: Waveforms, float32 [batch, samples].

        Returns:
            Log-mels, float32 [batch, n_mels, samples / hop].
        """
        if not isinstance(wave, Tensor) or not wave.is_floating_point():
            raise ValueError(f"wave is {said(wave)}, expected float waveforms [batch, samples].")
        frames = wave.shape[-1] // self.config.hop
        spectrum = torch.stft(wave, self.config.n_fft, self.config.hop, window=self.window, return_complex=True).abs()
        return torch.log(self.filters.T @ spectrum[..., :frames] + FLOOR)

    def patches(self, wave: Tensor) -> Tensor:
        """Compute the stacked log-mel frames of waveforms, one row per latent, to which the basis is fitted.

        Args:
            wave: Waveforms, float32 [batch, samples], where samples is a multiple of `downsampling_ratio`.

        Returns:
            Patches, float32 [batch, tokens, n_mels * stack].
        """
        mel = self.log_mel(wave)
        return mel.unflatten(-1, (-1, self.config.stack)).permute(0, 2, 1, 3).flatten(2)

    def fit(self, patches: Tensor) -> float:
        """Set the principal components from patches of music.

        Args:
            patches: Patches, float32 [n, n_mels * stack].

        Returns:
            The share of the variance that the components keep, 0 to 1.

        Example:
            >>> import torch
            >>> codec = audioscope.tiny.MelCodec(latent_dim=384)  # as many as 96 mel bands in 4 frames
            >>> round(codec.fit(torch.randn(1000, 384, generator=torch.Generator().manual_seed(0))), 3)
            1.0
        """
        if not isinstance(patches, Tensor) or patches.ndim != 2 or patches.shape[1:] != self.mean.shape:
            raise ValueError(f"patches is {said(patches)}, expected a tensor [patches, {len(self.mean)}].")
        self.mean.copy_(patches.mean(0))
        values, vectors = torch.linalg.eigh(torch.cov((patches - self.mean).T.double()))
        keep = self.config.latent_dim
        values, vectors = values.flip(0), vectors.flip(1)
        deviation = values[:keep].clamp_min(1e-8).sqrt()
        self.basis.copy_(vectors[:, :keep])
        self.scale.copy_(deviation.sqrt() * deviation.mean().sqrt())
        return float(values[:keep].sum() / values.sum())

    def encode(self, wave: Tensor) -> Tensor:
        """Encode waveforms to latents.

        Args:
            wave: Waveforms, float32 [batch, 1, samples], where samples is a multiple of `downsampling_ratio`.

        Returns:
            Latents, float32 [batch, latent_dim, samples / `downsampling_ratio`].
        """
        return ((self.patches(wave[:, 0]) - self.mean) @ self.basis / self.scale).transpose(1, 2)

    def decode_mel(self, latents: Tensor) -> Tensor:
        """Decode latents to log-mel magnitudes.

        Args:
            latents: Latents, float32 [batch, latent_dim, tokens].

        Returns:
            Log-mels, float32 [batch, n_mels, tokens * stack].
        """
        patches = (latents.transpose(1, 2) * self.scale) @ self.basis.T + self.mean
        return patches.unflatten(-1, (self.config.n_mels, self.config.stack)).permute(0, 2, 1, 3).flatten(2)

    def decode(self, latents: Tensor) -> Decoded:
        """Decode latents to mastered waveforms: a pure function of each row, with no random phase.

        Args:
            latents: Latents [batch, latent_dim, tokens].

        Returns:
            An object whose `sample` holds the waveforms, float32 [batch, 1, samples]; the name is the one that diffusers reads.
        """
        mel = (self.decode_mel(latents.float()).clamp(max=8).exp() - FLOOR).clamp_min(0)
        # One row at a time stays in a CPU's cache, and its bits do not depend on the rows beside it: some CPUs' Fourier
        # transforms of two rows differ in the last bit from those of one, which Griffin-Lim makes 1e-4.
        parts = mel.split(1 if mel.device.type == "cpu" else len(mel))
        return Decoded(torch.cat([self._wave(part) for part in parts]).unsqueeze(1))

    def _wave(self, mel: Tensor) -> Tensor:
        """Mastered waveforms [batch, samples] of mel magnitudes [batch, n_mels, frames]."""
        magnitude = torch.nn.functional.pad(self._inverse_mel(mel), (0, 1))  # the frame centered on the last sample
        with torch.no_grad():  # gradients pass by the phases, which jump
            turn = self._griffin_lim(magnitude, self._first_phase(magnitude))
        return self._master(self._inverse_stft(magnitude * turn))

    def _inverse_stft(self, spectrum: Tensor) -> Tensor:
        """What torch.istft gives for these frames, where n_fft is a multiple of the hop, in a third of its time.

        Griffin-Lim does it 16 times a clip: with torch's, decoding takes 1.6 times as long.
        """
        size, hop = self.config.n_fft, self.config.hop
        parts, frames = size // hop, spectrum.shape[-1]
        windowed = torch.fft.irfft(spectrum.mT, n=size).mul_(self.window).unflatten(-1, (parts, hop))
        weights = self.window.square().unflatten(-1, (parts, hop))
        wave, weight = windowed.new_zeros(len(windowed), frames + parts - 1, hop), weights.new_zeros(frames + parts - 1, hop)
        for part in range(parts):
            wave[:, part : part + frames] += windowed[:, :, part]
            weight[part : part + frames] += weights[part]
        inner = slice(size // 2, -(size // 2))  # the frames at both ends are centered on the first and the last sample
        return wave.flatten(1)[:, inner] / weight.flatten()[inner]

    def _first_phase(self, magnitude: Tensor) -> Tensor:
        """Phases [batch, bins, frames] that continue each partial from frame to frame.

        Each spectral peak is taken for a sinusoid, whose frequency a parabola through the peak gives, and the bins around it
        follow it in phase, with neighbors in opposite phase (Beauregard, Harish and Wyse, "Single pass spectrogram inversion",
        2015).
        """
        frames = magnitude.mT.contiguous()
        bins = frames.shape[-1]
        here = torch.arange(bins, device=magnitude.device).expand_as(frames)
        below, above = torch.nn.functional.pad(frames, (1, 0))[..., :-1], torch.nn.functional.pad(frames, (0, 1))[..., 1:]
        is_peak = (frames > below) & (frames >= above)
        shift = (0.5 * (below - above) / (below - 2 * frames + above).clamp(max=-1e-9)).clamp(-0.5, 0.5)
        left = torch.where(is_peak, here, -bins).cummax(-1).values
        right = torch.where(is_peak, here, 2 * bins).flip(-1).cummin(-1).values.flip(-1)
        nearest = torch.where(here - left <= right - here, left, right).clamp(0, bins - 1)
        step = 2 * torch.pi * (here + shift) * self.config.hop / self.config.n_fft
        opposite = torch.pi * ((here - nearest) % 2)
        phase, phases = frames.new_zeros(len(frames), bins), []
        for peak, advance, turn in zip(nearest.unbind(1), step.unbind(1), opposite.unbind(1), strict=True):
            phase = torch.remainder((phase + advance).gather(1, peak) + turn, 2 * torch.pi)
            phases.append(phase)
        return torch.stack(phases, -1)

    def _griffin_lim(self, magnitude: Tensor, phase: Tensor, momentum: float = 0.99) -> Tensor:
        """Unit phases of waveforms with nearly these magnitudes: torchaudio's algorithm, which does not take a first phase."""
        frame = {"n_fft": self.config.n_fft, "hop_length": self.config.hop, "window": self.window}
        turn, before = torch.polar(torch.ones_like(magnitude), phase), torch.zeros((), device=phase.device)
        for _ in range(self.config.griffinlim_iterations):
            again = torch.stft(self._inverse_stft(magnitude * turn), **frame, return_complex=True)
            turn, before = torch.sgn(again - momentum / (1 + momentum) * before), again
        return turn

    def _master(self, wave: Tensor) -> Tensor:
        """Bring waveforms [batch, samples] to `level` dB RMS, like all training music, round their peaks, and fade their ends.

        Guidance shifts the loudness of latents by 20 dB. At most 30 dB are made up for, so that silence stays silent.
        """
        gain = 10 ** (self.config.level / 20) / wave.square().mean(-1, keepdim=True).sqrt().clamp_min(1e-5)
        wave = 0.98 * torch.tanh(wave * gain.clamp(max=10**1.5) / 0.98)
        fade = torch.linspace(0, 1, 160, device=wave.device)
        ends = torch.ones_like(wave[0])
        ends[:160], ends[-160:] = fade, fade.flip(0)
        return wave * ends

    def _inverse_mel(self, mel: Tensor) -> Tensor:
        """Non-negative magnitudes whose mel bands are `mel`, by multiplicative (Kullback-Leibler) updates."""
        reach = self.filters.sum(1, keepdim=True).clamp_min(1e-6)
        spectrum = self.filters @ mel / reach
        for _ in range(self.config.mel_iterations):
            spectrum = spectrum * (self.filters @ (mel / (self.filters.T @ spectrum + 1e-8))) / reach
        return spectrum
