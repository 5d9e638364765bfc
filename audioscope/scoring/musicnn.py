"""musicnn, a tagger of music by the Music Technology Group (UPF). It learned from real recordings, not from the tiny model's.

Pons and Serra, "musicnn: pre-trained convolutional neural networks for music audio tagging", 2019. tools/make_musicnn.py
converts the weights of its package (ISC licence), which cannot be installed beside a current numpy.

The log-mels are in float32. The package's are in half precision, which overflows at a mel power of 6.55, such as a tone of
amplitude 0.12: with it, all louder clips that were tried get the same log-odds. On quieter ones the two agree within 6e-3.
"""

from __future__ import annotations

import json
from math import ceil

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import pad
from torchaudio.functional import melscale_fbanks

from audioscope.errors import known_name
from audioscope.store import data_folder

NETS = ("MTT", "MSD")  # trained on the tags of MagnaTagATune and of the Million Song Dataset
RATE, HOP, MELS = 16_000, 256, 96
SAMPLES, FRAMES = 3 * RATE, 187  # of a window; 3 s are what the nets were trained on
BANDS, LENGTHS = (38, 67), (128, 64, 32)  # mel bands that the filters for timbre see, frames that those for rhythm see
WIDTH = 2 * 204 + 3 * 51  # filters for timbre and for rhythm
BATCH = 16  # windows that a GPU hears at once; a CPU takes one at a time, which is twice as fast as eight


class _Norm(nn.Module):
    """A batch normalization that has learnt: a scale and a shift of each channel."""

    def __init__(self, channels: int):
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        scale, shift = (part.view(-1, *[1] * (x.ndim - 2)) for part in (self.scale, self.shift))
        return torch.addcmul(shift, x, scale)


class _Block(nn.Module):
    """A layer, a rectifier and a normalization, in this order: the normalization cannot be folded into its own layer."""

    def __init__(self, layer: nn.Conv2d | nn.Conv1d | nn.Linear, width: int):
        super().__init__()
        self.layer, self.norm = layer, _Norm(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.layer(x).relu())


class Tagger(nn.Module):
    """Hear 50 tags in music: filters for timbre and rhythm, three convolutions over time, maximum and mean over time.

    `load` makes one with weights.

    Args:
        tags: The names of its outputs, in order.
    """

    window: Tensor
    filters: Tensor

    def __init__(self, tags: list[str]):
        super().__init__()
        self.tags = tags
        self.input = _Norm(1)
        self.timbral = nn.ModuleList(_Block(nn.Conv2d(1, 204, (7, bands), padding=(3, 0)), 204) for bands in BANDS)
        self.temporal = nn.ModuleList(_Block(nn.Conv2d(1, 51, (frames, 1)), 51) for frames in LENGTHS)
        self.middle = nn.ModuleList(_Block(nn.Conv1d(width, 64, 7, padding=3), 64) for width in (WIDTH, 64, 64))
        self.pooled = _Norm(2 * (WIDTH + 3 * 64))
        self.dense = _Block(nn.Linear(2 * (WIDTH + 3 * 64), 200), 200)
        self.out = nn.Linear(200, len(tags))
        self.register_buffer("window", torch.hann_window(512), persistent=False)
        filters = melscale_fbanks(257, 0.0, RATE / 2, MELS, RATE, norm="slaney", mel_scale="slaney")  # librosa's defaults
        self.register_buffer("filters", filters, persistent=False)

    def log_mel(self, wave: Tensor) -> Tensor:
        """Log-mels [clips, frames, 96] of waves [clips, samples] at 16 kHz."""
        # librosa, too, reflected at the ends when the package came out; zeros there change log-odds by up to 0.7
        power = torch.stft(wave, 512, HOP, window=self.window, pad_mode="reflect", return_complex=True).abs().square()
        return (10_000 * (power.mT @ self.filters) + 1).log10()

    def layers(self, mel: Tensor) -> list[Tensor]:
        """What each stage gives of log-mels [windows, 187, 96]: the filters, the three convolutions and the dense layer.

        That is [windows, 561, 187], three times [windows, 64, 187], and [windows, 200].
        """
        x = self.input(mel[:, None])
        stages = [block(x).amax(3) for block in self.timbral]
        for block, frames in zip(self.temporal, LENGTHS, strict=True):  # TensorFlow pads one frame less before than after
            stages.append(block(pad(x, (0, 0, frames // 2 - 1, frames // 2))).amax(3))
        stages = [torch.cat(stages, 1)]
        for i, block in enumerate(self.middle):
            stages.append(block(stages[-1]) + (stages[-1] if i else 0))
        x = torch.cat(stages, 1)
        x = torch.stack([x.amax(2), x.mean(2)], 2).flatten(1)  # the two of each channel side by side
        return [*stages, self.dense(self.pooled(x))]

    def _windows(self, wave: Tensor) -> Tensor:
        """Log-mels [clips, windows, 187, 96] of waves: as few windows of 3 s as hold all of the clip, evenly spread over it.

        A shorter clip is repeated up to 3 s.
        """
        wave = wave.to(self.window.device)
        if wave.shape[1] < SAMPLES:
            wave = wave.repeat(1, ceil(SAMPLES / wave.shape[1]))[:, :SAMPLES]
        mel = self.log_mel(wave)
        last, count = mel.shape[1] - FRAMES, ceil(wave.shape[1] / SAMPLES)
        starts = [0] if count == 1 else torch.linspace(0, last, count).round().int().tolist()
        return torch.stack([mel[:, start : start + FRAMES] for start in starts], 1)

    @torch.no_grad()
    def features(self, wave: Tensor) -> list[Tensor]:
        """What each stage gives of waves, float32 [clips, samples] at 16 kHz: the outputs of `layers`, [clips, channels, ..., windows]."""
        mels = self._windows(wave)
        parts = [self.layers(part) for part in mels.flatten(0, 1).split(1 if mels.device.type == "cpu" else BATCH)]
        return [torch.cat(each).unflatten(0, mels.shape[:2]).movedim(1, -1) for each in zip(*parts, strict=True)]

    def log_odds(self, wave: Tensor) -> Tensor:
        """The log-odds of each tag, float32 [clips, 50], of waves, float32 [clips, samples] at 16 kHz: the mean over windows.

        Gradients reach the waves, if these ask for them.
        """
        mels = self._windows(wave)
        parts = [self.out(self.layers(part)[-1]) for part in mels.flatten(0, 1).split(1 if mels.device.type == "cpu" else BATCH)]
        return torch.cat(parts).unflatten(0, mels.shape[:2]).mean(1)


def tags_of(name: str) -> list[str]:
    """The tags of a net, "MTT" or "MSD", in the order of its outputs. Raises UnknownName for another name."""
    known_name("musicnn net", name, NETS)
    return list(json.loads((data_folder() / "musicnn" / "tags.json").read_text())[name])


def load(name: str) -> Tagger:
    """A net with its weights, "MTT" or "MSD". Raises UnknownName for another name."""
    net = Tagger(tags_of(name))
    weights = load_file(data_folder() / "musicnn" / f"{name}.safetensors")
    net.load_state_dict({key: value.float() for key, value in weights.items()})
    return net.eval().requires_grad_(False)
