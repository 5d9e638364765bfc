"""Two classifiers of the tiny model's music: the listener scores, tunes and measures prices, the judge measures gains.

On the selection split, the judge also chooses among the settings of `audioscope.sae.tuned_methods`.

They differ in architecture, clips and seed. Both hear codec round trips of rendered songs, so that they judge the music
and not the codec, and both return log-odds for each class of a group, calibrated on clips that they were not trained on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from tqdm.auto import tqdm

from audioscope.errors import known_name
from audioscope.store import LOADING, data_folder, save_array, write_whole
from audioscope.tiny import pool
from audioscope.tiny.codec import MelCodec
from audioscope.tiny.music import GROUPS

# Log-odds up to here, one error in 400, occurred often enough in the calibration; beyond, a classifier extrapolates.
CALIBRATED = 6.0
POOLS = {"listener": 2, "judge": 3}  # pool seeds; the diffusion model trains on pool 1, evaluation renders pool 4
LENGTHS = {"listener": (20_000, 14), "judge": (24_000, 16)}  # clips and epochs of training
PART = 1000  # clips whose round trips are kept in one file, until all are there


def _block(inputs: int, outputs: int, stride: tuple[int, int]) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(),
    )  # fmt: skip


class _Convolutional(nn.Module):
    """Plain convolutions over mel and time, mean and maximum over time."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _block(1, 20, (2, 2)), _block(20, 40, (2, 2)), _block(40, 80, (2, 1)), _block(80, 96, (2, 2)), _block(96, 128, (2, 1)),
        )  # fmt: skip
        self.width = 2 * 128 * 3

    def forward(self, mel: Tensor) -> Tensor:
        x = self.body(mel[:, None]).flatten(1, 2)
        return torch.cat([x.mean(-1), x.amax(-1)], 1)


class _Recurrent(nn.Module):
    """Convolutions that shrink the mel axis, then a recurrent network over time."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(_block(1, 24, (2, 2)), _block(24, 48, (2, 2)), _block(48, 64, (2, 1)), _block(64, 64, (2, 1)))
        self.project = nn.Linear(64 * 6, 128)
        self.recurrent = nn.GRU(128, 96, batch_first=True, bidirectional=True)
        self.width = 2 * 192

    def forward(self, mel: Tensor) -> Tensor:
        x = self.body(mel[:, None]).flatten(1, 2).transpose(1, 2)
        x, _ = self.recurrent(torch.relu(self.project(x)))
        return torch.cat([x.mean(1), x.amax(1)], 1)


class Listener(ModelMixin, ConfigMixin):
    """Classify a clip of the tiny model's music in every group of labels (`audioscope.tiny.GROUPS`).

    Two ship with `tiny`: the listener scores, tunes and measures prices, the judge measures gains and, on the selection split,
    chooses among the settings of `audioscope.sae.tuned_methods`. They differ in architecture, clips and seed. Both were trained
    on codec round trips of rendered songs, so that they judge the music and not the codec.

    Args:
        kind: "convolutional" (the listener) or "recurrent" (the judge).

    Example:
        >>> import numpy as np
        >>> import torch
        >>> folder = audioscope.datasets.data_folder() / "tiny" / "judge"
        >>> judge = audioscope.tiny.Listener.from_pretrained(folder).eval()
        >>> song = audioscope.tiny.Song("female", "fast", "happy", "jazz", "violin", "drums")
        >>> wave = audioscope.tiny.render(song, np.random.default_rng(0), audioscope.tiny.NoteBank())
        >>> judge.guess(torch.from_numpy(wave)[None]).tolist()[0] == song.indices()
        True
    """

    @register_to_config
    def __init__(self, kind: str = "convolutional"):
        super().__init__()
        self.codec = MelCodec()  # only its log-mel is used, which has no weights
        bodies: dict[str, Any] = {"convolutional": _Convolutional, "recurrent": _Recurrent}
        known_name("kind of listener", kind, bodies)
        self.body = bodies[kind]()
        self.drop = nn.Dropout(0.3)
        self.heads = nn.ModuleDict({group: nn.Linear(self.body.width, len(c)) for group, c in GROUPS.items()})
        self.register_buffer("temperature", torch.ones(len(GROUPS)))

    @classmethod
    def from_pretrained(cls, *args: Any, **keywords: Any) -> Listener:
        """Read a classifier.

        The arguments are those of diffusers' `ModelMixin.from_pretrained`, beginning with the folder.

        Args:
            **keywords: As there.

        Returns:
            The classifier, in training mode until `eval()`.
        """
        with LOADING:
            return super().from_pretrained(*args, **keywords)

    def logits(self, mel: Tensor) -> dict[str, Tensor]:
        """Compute the uncalibrated logits of each group.

        Args:
            mel: Log-mels, float32 [batch, 96, 256].

        Returns:
            The logits by group, float32 [batch, classes] each.
        """
        x = self.drop(self.body((mel + 2.0) / 1.6))
        return {group: head(x) for group, head in self.heads.items()}

    @torch.no_grad()
    def log_odds(self, wave: Tensor) -> dict[str, Tensor]:
        """Compute the calibrated log-odds of each class against the rest of its group; finite for any finite logits.

        They were calibrated on clips that the classifier was not trained on. Nothing is clipped: beyond ±6 (one error in 400),
        the numbers still rank clips, but what probability they stand for was not tested.

        Args:
            wave: Waveforms, float32 [batch, 65536] at 16 kHz.

        Returns:
            The log-odds by group, float32 [batch, classes] each.

        Example:
            >>> import torch
            >>> folder = audioscope.datasets.data_folder() / "tiny" / "listener"
            >>> listener = audioscope.tiny.Listener.from_pretrained(folder).eval()
            >>> clip = model.generate("a fast song", seed=0, steps=4)
            >>> listener.log_odds(torch.from_numpy(clip.mono)[None])["tempo"].shape  # slow, medium, fast
            torch.Size([1, 3])
        """
        return self.differentiable(wave)

    def differentiable(self, wave: Tensor) -> dict[str, Tensor]:
        """The log-odds of `log_odds`, through which gradients reach the waveforms.

        Args:
            wave: Waveforms, float32 [batch, 65536] at 16 kHz.

        Returns:
            The log-odds by group, float32 [batch, classes] each.
        """
        logits = self.logits(self.codec.log_mel(wave))
        return {
            group: _against_the_rest(values.double() / temperature.double())
            for (group, values), temperature in zip(logits.items(), self.temperature, strict=True)
        }

    @torch.no_grad()
    def guess(self, wave: Tensor) -> Tensor:
        """Return the most likely class of each group.

        Args:
            wave: Waveforms, float32 [batch, 65536] at 16 kHz.

        Returns:
            The numbers of the classes, int64 [batch, groups], in the order of `audioscope.tiny.GROUPS`.
        """
        return torch.stack([values.argmax(1) for values in self.logits(self.codec.log_mel(wave)).values()], dim=1)


def _against_the_rest(logits: Tensor) -> Tensor:
    """Each class's logit minus the logsumexp of the others: float64 [batch, classes] -> float32. 1 - p would round to 0."""
    own = torch.eye(logits.shape[1], dtype=torch.bool, device=logits.device)
    rest = logits[:, None, :].masked_fill(own, -torch.inf).logsumexp(2)
    most = torch.finfo(torch.float32).max
    return (logits - rest).clamp(-most, most).float()


def load(name: str = "listener") -> Listener:
    """Load the shipped listener or judge."""
    return Listener.from_pretrained(data_folder() / "tiny" / name).eval()


def _kept_as(name: str, without: Collection[str]) -> str:
    """What the names of files begin with that a training keeps."""
    return "-".join([name, *(f"no-{bank}" for bank in without)])


def round_trips(
    name: str, count: int, codec: MelCodec, folder: Path, without: Collection[str] = ()
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Log-mels [count, 96, 256] of codec round trips of a pool's clips, and their labels [count, groups]; kept in `folder`, in parts
    until all are there, so that an interrupted call goes on.

    The last quarter, which holds the calibration part, is decoded as the model's clips are; the rest with two iterations of
    Griffin-Lim, which is three times cheaper. without: banks of notes that are left out of the music.
    """
    file, seed = folder / f"{_kept_as(name, without)}-mels.npy", POOLS[name]
    labels = torch.tensor([pool.song(i, seed).indices() for i in range(count)])
    ears = MelCodec()
    with torch.no_grad():
        quick = MelCodec.from_config({**codec.config, "griffinlim_iterations": 2}).eval()
        quick.load_state_dict(codec.state_dict())

        def heard(waves: list[np.ndarray], codec: MelCodec) -> Tensor:
            return ears.log_mel(codec.decode(codec.encode(torch.from_numpy(np.stack(waves))[:, None])).sample[:, 0]).half()

        def decoder(number: int) -> MelCodec:
            return quick if number < count - count // 4 else codec

        def kept(file: Path, start: int) -> Tensor:
            mels = torch.from_numpy(np.load(file))
            first = heard([pool.clip(start, seed, without=without, recolored=True)], decoder(start))[0].float()
            if not torch.allclose(first, mels[0].float(), rtol=1e-2, atol=2e-2):
                raise ValueError(f"{file} was made from other music or another codec: delete it, or use another folder.")
            return mels

        if file.exists() and len(np.load(file, mmap_mode="r")) == count:
            for part in folder.glob(f"{file.stem}-*-of-{count}.npy"):
                part.unlink()  # of a call that was killed when all was done
            return kept(file, 0), labels
        folder.mkdir(parents=True, exist_ok=True)
        parts, files = [], []
        with tqdm(total=count, desc=f"round trips for the {name}", mininterval=5.0) as bar:
            for start in range(0, count, PART):
                numbers = range(start, min(start + PART, count))
                files.append(file.with_name(f"{file.stem}-{numbers.start}-{numbers.stop}-of-{count}.npy"))
                if files[-1].exists():
                    parts.append(kept(files[-1], start))
                    bar.update(len(numbers))
                    continue
                made: list[Tensor] = []
                for waves in pool.batched(pool.clips(numbers, seed, workers=1, without=without, recolored=True), 20):
                    made.append(heard(waves, decoder(start + 20 * len(made))))
                    bar.update(len(waves))
                parts.append(mels := torch.cat(made))
                write_whole(files[-1], partial(save_array, values=mels.numpy()))
    mels = torch.cat(parts)
    write_whole(file, partial(save_array, values=mels.numpy()), lasting=True)
    for each in files:
        each.unlink()
    return mels, labels


def train(
    name: str, out: Path, work: Path, codec: MelCodec, without: Collection[str] = (), clips: int = 0, epochs: int = 0
) -> Listener:
    """Train the "listener" or the "judge" on its own pool, calibrate on the last tenth of it, and save to `out`.

    What a training has done is kept in `work`, after each epoch: an interrupted one goes on there, and one that is done ends at once.

    without: banks of notes that it is not to hear. clips, epochs: the length of the training; 0 is that in `LENGTHS`.
    """
    clips, epochs = clips or LENGTHS[name][0], epochs or LENGTHS[name][1]
    mels, labels = round_trips(name, clips, codec, work, without)
    torch.manual_seed(POOLS[name])
    model = Listener("convolutional" if name == "listener" else "recurrent")
    nn.utils.convert_conv2d_weight_memory_format(model, torch.channels_last)  # a third faster on a CPU
    bands = torch.arange(mels.shape[1]) / (mels.shape[1] - 1)
    curves = torch.cos(torch.pi * torch.arange(1, 4)[:, None] * bands)  # slow changes of level along the bands
    cut = int(0.9 * clips)
    steps = epochs * (cut // 64)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    state, done = work / f"{_kept_as(name, without)}-{clips}-{epochs}.pt", 0
    held: list[Tensor] = []
    heard = hashlib.sha256(mels.contiguous().numpy().data).hexdigest()[:16]
    if state.exists():
        found = torch.load(state, weights_only=True)
        if found["heard"] != heard:
            raise ValueError(f"{state} is of a training on other music or another codec: delete it, or use another folder.")
        for part, saved in zip((model, optimizer, schedule), found["parts"], strict=True):
            part.load_state_dict(saved)
        torch.set_rng_state(found["random"])
        done, held = found["done"], found["held"]
    with tqdm(total=steps, initial=done * (cut // 64), desc=f"training the {name}", mininterval=5.0) as bar:
        for epoch in range(done, epochs):
            model.train()
            for numbers in torch.randperm(cut)[: cut // 64 * 64].split(64):
                mel = mels[numbers].float()
                mel = mel + 0.8 * (torch.rand(len(mel), 1, 1) - 0.5) + 0.1 * torch.randn_like(mel)  # level and roughness
                mel = mel + (0.25 * torch.randn(len(mel), 3) @ curves)[:, :, None]  # microphones, rooms
                logits = model.logits(mel)
                loss = torch.stack([
                    nn.functional.cross_entropy(logits[group], labels[numbers, i], label_smoothing=0.05)
                    for i, group in enumerate(GROUPS)
                ]).sum()  # fmt: skip
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                schedule.step()
                bar.update()
            model.eval()
            with torch.no_grad():
                parts = [model.logits(part.float()) for part in mels[cut:].split(100)]
            held = [torch.cat([part[group] for part in parts]) for group in GROUPS]
            right = [float((values.argmax(1) == labels[cut:, i]).float().mean()) for i, values in enumerate(held)]
            bar.set_postfix({group: f"{share:.3f}" for group, share in zip(GROUPS, right, strict=True)})
            whole = {
                "parts": [part.state_dict() for part in (model, optimizer, schedule)], "random": torch.get_rng_state(),
                "done": epoch + 1, "held": held, "heard": heard,
            }  # fmt: skip
            write_whole(state, partial(torch.save, whole), lasting=True)
    for i, values in enumerate(held):
        model.temperature[i] = temperature(values, labels[cut:, i])
    nn.utils.convert_conv2d_weight_memory_format(model, torch.contiguous_format)
    model.save_pretrained(out)
    return model.eval()


def temperature(logits: Tensor, labels: Tensor) -> float:
    """The divisor of the logits [clips, classes] that makes the labels most likely, by search: one number cannot overfit.

    A class that was never wrong in n clips may still be wrong once in n + 2 (Laplace's rule). Without that, a group that is
    always right would get unlimited confidence, and its log-odds would say no more than yes or no.
    """
    smoothing = logits.shape[1] / (logits.shape[1] - 1) / (len(logits) + 2)
    grid = torch.logspace(-1, 1, 201)
    losses = torch.stack([nn.functional.cross_entropy(logits / t, labels, label_smoothing=smoothing) for t in grid])
    return float(grid[losses.argmin()])
