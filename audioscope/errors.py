"""Errors whose messages are written for the user."""

from __future__ import annotations

FIX_TORCHAUDIO = "With a CPU-only torch, torchaudio's CUDA files fail to load: run `python -m audioscope.fix_torchaudio` once."


class UnknownName(KeyError):
    """The name of a site or concept that does not exist; the message lists the nearest. Prints without KeyError's quotes."""

    def __str__(self) -> str:
        return str(self.args[0])


def is_torchaudio_failure(error: BaseException) -> bool:
    """Whether an error comes from torchaudio's compiled files next to a CPU-only torch."""
    return isinstance(error, OSError) and ("torchaudio" in str(error) or "libc10_cuda" in str(error))
