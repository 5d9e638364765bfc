"""What the tiny model's codec could be: resolution and phase start against error and time a clip.

Run: python benchmarks/codec_trade.py. Each codec is fitted to 600 clips of the training pool and heard on 40 held-out ones. Printed:
the log-mel error of the round trip (rms of natural logarithms), the spectral convergence (relative error of the magnitudes),
and seconds a clip in batches of ten.
"""

from __future__ import annotations

import time

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from audioscope.tiny import pool
from audioscope.tiny.codec import MelCodec


class ZeroPhase(MelCodec):
    """The same codec, with Griffin-Lim started from phase zero."""

    def _first_phase(self, magnitude: Tensor) -> Tensor:
        return torch.zeros_like(magnitude)


def measure(codec: MelCodec, fit: Tensor, test: Tensor) -> dict[str, float]:
    kept = codec.fit(torch.cat([codec.patches(part).flatten(0, 1) for part in fit.split(100)]))
    parts = [codec.encode(part[:, None]) for part in test.split(10)]
    began = time.perf_counter()
    decoded = torch.cat([codec.decode(part).sample[:, 0] for part in parts])
    seconds = (time.perf_counter() - began) / len(test)
    found, wanted = (
        torch.stft(w, codec.config.n_fft, codec.config.hop, window=codec.window, return_complex=True).abs()
        for w in (decoded, test)
    )
    return {
        "kept": kept,
        "log_mel_error": float((codec.log_mel(decoded) - codec.log_mel(test)).square().mean().sqrt()),
        "convergence": float(((found - wanted).norm(dim=(1, 2)) / wanted.norm(dim=(1, 2))).mean()),
        "seconds": seconds,
    }


@torch.no_grad()
def main() -> None:
    fit = torch.from_numpy(np.stack(list(pool.clips(range(600), 1))))
    test = torch.from_numpy(np.stack(list(pool.clips(range(40), 4, held_out=True))))
    rows = []
    for mels, components, start, iterations in (
        *[(96, n, "partials", 16) for n in (64, 96, 128, 192)],
        *[(128, n, "partials", 16) for n in (96, 128, 192)],  # the first is the codec that ships
        *[(96, 96, "zero", n) for n in (8, 16, 32, 64)],
        *[(96, 96, "partials", n) for n in (0, 8, 32)],
    ):
        codec = (ZeroPhase if start == "zero" else MelCodec)(latent_dim=components, n_mels=mels, griffinlim_iterations=iterations)
        metadata = {"mels": mels, "components": components, "start": start, "iterations": iterations}
        rows.append(metadata | measure(codec, fit, test))
    print(pd.DataFrame(rows).round(3).to_string(index=False))


if __name__ == "__main__":
    main()
