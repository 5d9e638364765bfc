"""Noise levels: the mean and scale of a site's tokens at each level, so that all levels can be treated alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from audioscope.errors import real


@dataclass(frozen=True, eq=False)
class Levels:
    """The mean and scale of a site's tokens at each noise level, so that one SAE serves all levels: it sees (x - mean) / scale.

    Args:
        sigmas: The noise levels, float32 [levels], decreasing.
        means: The mean token of each level, [levels, d_in].
        scales: The root mean square of the norm of x - mean, [levels].
        norms: The mean norm of x, [levels], which is the unit of steering strengths.

    Example:
        >>> import torch
        >>> levels = audioscope.sae.Levels(torch.tensor([1.0, 0.5]), torch.zeros(2, 3), torch.tensor([2.0, 6.0]), torch.ones(2))
        >>> levels.scale(torch.ones(3), sigma=0.75)  # halfway between the levels, the scale is 4
        tensor([0.2500, 0.2500, 0.2500])
    """

    sigmas: Tensor
    means: Tensor
    scales: Tensor
    norms: Tensor

    def scaled(self, x: Tensor) -> Tensor:
        """Scale tokens of all levels at once, as the SAE sees them.

        Args:
            x: Tokens at exactly these levels, [..., levels, positions, d_in].

        Returns:
            Scaled tokens of the same shape.
        """
        return (x - self.means[:, None]) / self.scales[:, None, None]

    def scale(self, x: Tensor, sigma: float | None) -> Tensor:
        """Scale tokens of one noise level, as the SAE sees them.

        Args:
            x: Tokens [..., d_in].
            sigma: Their noise level.

        Returns:
            Scaled tokens of the same shape.

        Raises:
            ValueError: `sigma` is None, or no number.
        """
        mean, scale = self.at(sigma)
        return (x - mean.to(x.device)) / scale

    def unscale(self, x: Tensor, sigma: float | None) -> Tensor:
        """Undo `scale`, from what the SAE sees back to activations.

        Args:
            x: Scaled tokens [..., d_in].
            sigma: Their noise level.

        Returns:
            Activations of the same shape.

        Raises:
            ValueError: `sigma` is None, or no number.
        """
        mean, scale = self.at(sigma)
        return x * scale + mean.to(x.device)

    def at(self, sigma: float | None) -> tuple[Tensor, float]:
        """Return the mean and scale at a noise level, linear between the two nearest levels and constant beyond them.

        Args:
            sigma: The noise level.

        Returns:
            The mean [d_in] and the scale.

        Raises:
            ValueError: `sigma` is None, or no number.
        """
        if sigma is None:
            raise ValueError(
                f"sigma is None, but this SAE covers {len(self.sigmas)} noise levels: pass one, as in encode(x, sigma)."
            )
        rising, sigma = self.sigmas.flip(0).numpy(), real("sigma", sigma)
        place = len(rising) - 1 - float(np.interp(sigma, rising, np.arange(len(rising))))
        low, high = int(place), min(int(place) + 1, len(rising) - 1)
        mean = torch.lerp(self.means[low], self.means[high], place - low)
        return mean, float(torch.lerp(self.scales[low], self.scales[high], place - low))
