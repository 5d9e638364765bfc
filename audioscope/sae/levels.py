"""Noise levels: the mean and scale of a site's tokens at each level, so that all levels can be treated alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Levels:
    """The mean and scale of a site's tokens at each noise level, so that one SAE serves all levels: it sees (x - mean) / scale.

    sigmas: float32 [levels], decreasing. means: [levels, d_in]. scales: [levels], the root mean square of the norm of x - mean.
    norms: [levels], the mean norm of x, which is the unit of steering strengths.
    """

    sigmas: Tensor
    means: Tensor
    scales: Tensor
    norms: Tensor

    def scaled(self, x: Tensor) -> Tensor:
        """Tokens [..., levels, positions, d_in] at exactly these levels, as the SAE sees them."""
        return (x - self.means[:, None]) / self.scales[:, None, None]

    def scale(self, x: Tensor, sigma: float | None) -> Tensor:
        """Tokens [..., d_in] at one noise level, as the SAE sees them."""
        mean, scale = self.at(sigma)
        return (x - mean.to(x.device)) / scale

    def unscale(self, x: Tensor, sigma: float | None) -> Tensor:
        """The inverse of `scale`: from what the SAE sees back to activations."""
        mean, scale = self.at(sigma)
        return x * scale + mean.to(x.device)

    def at(self, sigma: float | None) -> tuple[Tensor, float]:
        """Mean [d_in] and scale at a noise level: linear between the two nearest, constant beyond them.

        Raises ValueError for None.
        """
        if sigma is None:
            raise ValueError(
                f"sigma is None, but this SAE covers {len(self.sigmas)} noise levels: pass one, as in encode(x, sigma)."
            )
        rising = self.sigmas.flip(0).numpy()
        place = len(rising) - 1 - float(np.interp(sigma, rising, np.arange(len(rising))))
        low, high = int(place), min(int(place) + 1, len(rising) - 1)
        mean = torch.lerp(self.means[low], self.means[high], place - low)
        return mean, float(torch.lerp(self.scales[low], self.scales[high], place - low))
