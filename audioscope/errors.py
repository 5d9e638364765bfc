"""Errors whose messages are written for the user."""

from __future__ import annotations

import math
import operator
import os
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

Kind = TypeVar("Kind")
FIX_TORCHAUDIO = "With a CPU-only torch, torchaudio's CUDA files fail to load: run `python -m audioscope.fix_torchaudio` once."


class UnknownName(KeyError):
    """The name of a site or concept that does not exist; the message lists the nearest. Prints without KeyError's quotes."""

    def __str__(self) -> str:
        return str(self.args[0])


class Damaged(ValueError):
    """A file of audioscope's that cannot be read whole, such as one that was cut short when the power failed."""


def is_torchaudio_failure(error: BaseException) -> bool:
    """Whether an error comes from torchaudio's compiled files next to a CPU-only torch."""
    return isinstance(error, OSError) and ("torchaudio" in str(error) or "libc10_cuda" in str(error))


def said(value: Any) -> str:
    """A value as a message names it: cut where it is long."""
    try:
        text = repr(value)
    except Exception as error:  # of a user's own class
        text = f"<{type(value).__name__}, whose repr fails: {error}>"
    text = " ".join(text.splitlines())
    return text if len(text) <= 120 else f"{text[:117]}..."


def sendable(error: Exception) -> Exception:
    """An error as it may travel to another process: itself, or its name and message, if it cannot be pickled and made again."""
    import cloudpickle

    try:
        cloudpickle.loads(cloudpickle.dumps(error))
        return error
    except Exception:  # such as one whose __init__ takes other arguments than it passes on
        return RuntimeError(f"{type(error).__name__}: {error}")


def as_path(value: Any) -> Path:
    """A path with ~ expanded. Raises ValueError for what is none; an empty text, which pathlib takes for the current folder, is none."""
    if not isinstance(value, str | os.PathLike) or not os.fspath(value) or "\0" in os.fspath(value):
        raise ValueError(f"A path is {said(value)}, expected a text or a Path.")
    try:
        return Path(value).expanduser()
    except RuntimeError as error:  # the home of a user who does not exist
        raise ValueError(f"A path is {said(value)}: {error}") from error


def listed(name: str, value: Any, expected: str) -> list[Any]:
    """The items of a list, tuple, array or the like, but not the letters of a text. Raises ValueError that says what is expected."""
    try:
        if isinstance(value, str | bytes):
            raise TypeError
        return list(value)
    except TypeError as error:
        raise ValueError(f"{name} is {said(value)}, expected {expected}.") from error


def one_or_more(value: Any) -> list[Any]:
    """One value, or those of a list, tuple, array or the like."""
    try:
        return [value] if isinstance(value, str | bytes) or index_of(value) is not None else list(value)
    except TypeError:
        return [value]


def all_of(name: str, value: Any, kind: type) -> list[Any]:
    """One value of a kind, or several of them, as a list. Raises ValueError for anything else."""
    several = one_or_more(value)
    if wrong := [each for each in several if not isinstance(each, kind)]:
        raise ValueError(f"{name} contains {said(wrong[0])}, expected one or more of {kind.__name__}.")
    return several


def of_kind(name: str, value: Any, kind: type[Kind]) -> Kind:
    """A value of a kind. Raises ValueError that names it for anything else."""
    if not isinstance(value, kind):
        raise ValueError(f"{name} is {said(value)}, expected {'an' if kind.__name__[0] in 'AEIOU' else 'a'} {kind.__name__}.")
    return value


def named(name: str, value: Any, kind: type[Kind]) -> Mapping[str, Kind]:
    """Values of a kind by names. Raises ValueError that names it for anything else."""
    if not isinstance(value, Mapping) or not all(isinstance(each, str) for each in value):
        raise ValueError(f"{name} is {said(value)}, expected a dict with one {kind.__name__} for each name.")
    all_of(name, list(value.values()), kind)
    return value


def with_columns(name: str, table: Any, needed: Iterable[str], source: str) -> Any:
    """A table. Raises ValueError for anything else, and for one that lacks a column that is needed; source: what returns such tables."""
    if not hasattr(table, "columns"):
        raise ValueError(f"{name} is {said(table)}, expected the table that `{source}` returns.")
    if lacking := [column for column in needed if column not in table.columns]:
        raise ValueError(f"{name} has no column {lacking[0]!r}, expected the table that `{source}` returns.")
    return table


def said_text(name: str, value: Any) -> str:
    """A text. Raises ValueError for anything else."""
    if not isinstance(value, str):
        raise ValueError(f"{name} is {said(value)}, expected a text.")
    return value


def texts(name: str, value: Any) -> list[str]:
    """A list of prompts. Raises ValueError that names it for one text, whose letters would be taken, and for what is no text."""
    several = listed(name, value, "a list of texts")
    if wrong := [text for text in several if not isinstance(text, str) or not text.strip()]:
        raise ValueError(f"{name} contains {said(wrong[0])}, expected texts such as 'a slow sad song with violin'.")
    return several


def plain_name(what: str, name: str) -> str:
    """A name that charts can show. Raises ValueError for one with control characters or line separators.

    Vega takes these for the end of a line within its expressions, and then shows no chart.
    """
    if any(unicodedata.category(c) in ("Cc", "Zl", "Zp") for c in name):
        raise ValueError(f"{what} is {name!r}, which contains a control character or a line separator: remove it.")
    return name


def known_name(what: str, name: Any, known: Collection[str]) -> str:
    """A name, if it is one of those that are known. Raises UnknownName that lists them."""
    if not among(name, known):
        raise UnknownName(f"No {what} {said(name)}. Available: {', '.join(known)}.")
    found: str = name
    return found


def index_of(value: Any) -> int | None:
    """A whole number of any library (int, numpy, a tensor of one element) as an int; None for anything else, bool included."""
    try:
        return None if str(getattr(value, "dtype", type(value).__name__)) in ("bool", "torch.bool") else operator.index(value)
    except TypeError:
        return None


def truth(name: str, value: Any) -> bool:
    """True or False, of any library. Raises ValueError for anything else."""
    kind = str(getattr(value, "dtype", type(value).__name__))
    if kind not in ("bool", "torch.bool") or tuple(getattr(value, "shape", ())):
        raise ValueError(f"{name} is {said(value)}, expected True or False.")
    return bool(value)


def quiet(progress: Any) -> bool:
    """What tqdm is told of `progress`: whether there is no bar; None, 0 and 1 count as False, False and True. Raises ValueError."""
    if progress is None or index_of(progress) in (0, 1):
        return not progress
    return not truth("progress", progress)


def among(value: Any, options: Collection[str]) -> bool:
    """Whether a value is a text, and one of several: a table or a tensor has no truth value to compare by, a list no hash."""
    return isinstance(value, str) and value in options


def choice(name: str, value: Any, options: Sequence[str], note: str = "") -> None:
    """Raises ValueError for what is not one of several texts, which names it and lists them; note: what is said after them."""
    if not among(value, options):
        expected = " or ".join(part for part in (", ".join(map(repr, options[:-1])), *map(repr, options[-1:])) if part)
        raise ValueError(f"{name} is {said(value)}, expected {expected}{note}.")


def whole(name: str, value: Any, low: int = 0, high: int | None = None, why: str = "") -> int:
    """A whole number from `low` to `high` (None: no limit), as an int. Raises ValueError that names it and says what is expected."""
    number = index_of(value)
    if number is None or number < low or (high is not None and number > high):
        limits = f"of at least {low}" if high is None else f"from {low} to {high}"
        raise ValueError(f"{name} is {said(value)}, expected a whole number {limits}{why}.")
    return number


def seed_number(seed: Any) -> int:
    """A seed as an int. Raises ValueError for one that is not a whole number, or is out of range."""
    return whole("seed", seed, 0, 2**63 - 1)


def real(name: str, value: Any) -> float:
    """A finite number as a float. Raises ValueError that names it."""
    try:
        number = float("nan") if isinstance(value, bool | str | bytes) else float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):  # of numpy and torch, for several numbers
        number = float("nan")
    if not math.isfinite(number):
        raise ValueError(f"{name} is {said(value)}, expected a number.")
    return number
