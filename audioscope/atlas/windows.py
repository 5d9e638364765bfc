"""When a patch acts: the early, middle or late part of a generation, as windows of denoising steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

THIRDS: tuple[When, ...] = ("first third", "middle third", "last third")  # of the steps, whatever their noise

WINDOWS: tuple[When, ...] = ("early", "middle", "late")  # equal shares of the log signal-to-noise ratio

When = Literal["early", "middle", "late", "first third", "middle third", "last third"]


def third(place: int, steps: int) -> tuple[int, int]:
    """The half-open window of steps that is the first, middle or last third of a generation; place: 0, 1 or 2."""
    return round(steps * place / 3), round(steps * (place + 1) / 3)


def share_of_noise(place: int, log_snr: np.ndarray) -> tuple[int, int]:
    """The half-open window of steps whose log signal-to-noise ratio lies in one third of its range; place: 0, 1 or 2.

    log_snr: [steps], increasing, of the noise levels at which the denoiser runs; a first step of pure noise (-infinity) belongs
    to the first third. Raises ValueError if no step lies in the third.
    """
    known = log_snr[np.isfinite(log_snr)]
    borders = known.min() + np.array([1, 2]) / 3 * np.ptp(known) if len(known) else np.zeros(2)
    mine = np.flatnonzero(np.searchsorted(borders, log_snr, side="right") == place)
    if not len(mine):
        raise ValueError(
            f"None of the {len(log_snr)} steps lies in the {WINDOWS[place]} third of the log signal-to-noise ratio: "
            "use more steps."
        )
    return int(mine[0]), int(mine[-1]) + 1


def window_of(settings: Mapping[str, Any]) -> tuple[int, int] | None:
    """The half-open window of steps in which an atlas's sweep patched; None is all steps."""
    window = settings.get("window")
    return None if window is None else (window[0], window[1])
