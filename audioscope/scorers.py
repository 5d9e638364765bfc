"""Scorers: audio in, one log-odds per concept out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pandas as pd
import torch
from torch import Tensor

from audioscope.model import fingerprint


class Scorer(Protocol):
    """What `localize` asks of a scorer.

    Called with audio [clips, channels, samples] float32 and its rate in Hz, it returns one row per clip and one column
    for each of its `concepts`, bounded log-odds. `fingerprint` changes when its scores do. `check(model)` raises ValueError
    for a model whose audio it cannot judge.
    """

    @property
    def name(self) -> str: ...

    @property
    def fingerprint(self) -> str: ...

    @property
    def concepts(self) -> Sequence[str]: ...

    def check(self, model: Any) -> None: ...

    def __call__(self, audio: Tensor, rate: int) -> pd.DataFrame: ...


@dataclass(frozen=True, eq=False)
class ListenerScorer:
    """The tiny model's own classifier: calibrated log-odds of each named class of each group, clipped at +-6."""

    listener: Any
    name: str = "listener"
    any_audio: bool = False

    @property
    def concepts(self) -> list[str]:
        from audioscope.tiny.music import GROUPS

        return [name for names in GROUPS.values() for name in names if name != "none"]

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.listener)

    def check(self, model: Any) -> None:
        if not self.any_audio and type(model.pipe.vae).__name__ != "MelCodec":
            raise ValueError(
                f"The {self.name} knows only the tiny model's music, and {model.name} is another kind of model: give a scorer made "
                "for it, or listener_scorer(any_audio=True) if you know what you do."
            )

    def __call__(self, audio: Tensor, rate: int) -> pd.DataFrame:
        from audioscope.tiny.bank import RATE
        from audioscope.tiny.music import GROUPS, SAMPLES

        if not self.any_audio and (rate != RATE or audio.shape[-1] != SAMPLES):
            raise ValueError(
                f"The {self.name} hears {SAMPLES / RATE:g} s at {RATE} Hz, this is {audio.shape[-1] / rate:g} s at {rate} Hz: generate "
                "with the model's own length, or use any_audio=True."
            )
        if rate != RATE:
            from torchaudio.functional import resample

            audio = resample(audio, rate, RATE)
        mono = audio.mean(1)
        scores = self.listener.log_odds(torch.nn.functional.pad(mono, (0, max(0, SAMPLES - mono.shape[-1])))[:, :SAMPLES])
        return pd.DataFrame(
            {
                name: scores[group][:, i].numpy()
                for group, names in GROUPS.items()
                for i, name in enumerate(names)
                if name != "none"
            }
        )


def listener_scorer(name: str = "listener", any_audio: bool = False) -> ListenerScorer:
    """The tiny model's listener (or "judge", which is kept for reported numbers).

    any_audio: also take clips of other models, lengths and rates, which it never learnt to hear.
    """
    from audioscope.tiny import listener

    return ListenerScorer(listener.load(name), name, any_audio)
