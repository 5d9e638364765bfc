"""Errors that speak to the user."""

from __future__ import annotations

MEND = "torchaudio's CUDA files cannot load beside a CPU-only torch: run `python -m audioscope.mend` once."


class UnknownName(KeyError):
    """A name of a site or concept that is not there; the message lists the nearest. Prints without KeyError's quotes."""

    def __str__(self) -> str:
        return str(self.args[0])


def is_torchaudio_failure(error: BaseException) -> bool:
    """Whether an error comes from torchaudio's compiled files beside a CPU-only torch."""
    return isinstance(error, OSError) and ("torchaudio" in str(error) or "libc10_cuda" in str(error))
