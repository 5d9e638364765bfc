"""Errors whose messages are written for the user."""

from __future__ import annotations

import math
import operator
from typing import Any, SupportsFloat

FIX_TORCHAUDIO = "With a CPU-only torch, torchaudio's CUDA files fail to load: run `python -m audioscope.fix_torchaudio` once."


class UnknownName(KeyError):
    """The name of a site or concept that does not exist; the message lists the nearest. Prints without KeyError's quotes."""

    def __str__(self) -> str:
        return str(self.args[0])


def is_torchaudio_failure(error: BaseException) -> bool:
    """Whether an error comes from torchaudio's compiled files next to a CPU-only torch."""
    return isinstance(error, OSError) and ("torchaudio" in str(error) or "libc10_cuda" in str(error))


def index_of(value: Any) -> int | None:
    """A whole number of any library (int, numpy, a tensor of one element) as an int; None for anything else, bool included."""
    try:
        return None if str(getattr(value, "dtype", type(value).__name__)) in ("bool", "torch.bool") else operator.index(value)
    except TypeError:
        return None


def whole(name: str, value: Any, low: int = 0, high: int | None = None, why: str = "") -> int:
    """A whole number from `low` to `high` (None: no limit), as an int. Raises ValueError that names it and says what is expected."""
    number = index_of(value)
    if number is None or number < low or (high is not None and number > high):
        limits = f"of at least {low}" if high is None else f"from {low} to {high}"
        raise ValueError(f"{name} is {value!r}, expected a whole number {limits}{why}.")
    return number


def seed_number(seed: Any) -> int:
    """A seed as an int. Raises ValueError for one that is not a whole number, or is out of range."""
    return whole("seed", seed, 0, 2**63 - 1)


def real(name: str, value: Any) -> float:
    """A finite number as a float. Raises ValueError that names it."""
    if not isinstance(value, SupportsFloat) or isinstance(value, bool) or not math.isfinite(value):
        raise ValueError(f"{name} is {value!r}, expected a number.")
    return float(value)
