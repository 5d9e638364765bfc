"""Pickles that TADA released (arrays and tensors in dictionaries), read as data: nothing that such a file names is run.

torch's weights-only unpickler reads the tensors inside. It cannot read the files themselves, which are plain pickles of protocol 4
("Unsupported operand 149"), so the few names that they need stand for functions of this module here, and all others are refused.
"""

from __future__ import annotations

import io
import math
import pickle
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from audioscope.errors import Damaged

LARGEST = 200_000_000  # bytes: the released vectors take at most 30 MB
MOST = 1_000_000  # dictionaries, lists, arrays and texts in a file: a vector has 10,000


class _Type:
    """In place of numpy.dtype."""

    def __init__(self, name: str, *_: Any):
        self.name, self.order = str(name), "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = str(state[1])

    def known(self) -> np.dtype[Any]:
        if self.name not in ("f2", "f4", "f8", "i2", "i4", "i8") or self.order not in "<>=|":
            raise ValueError(f"an array of type {self.name!r}, expected numbers")
        return np.dtype(self.name).newbyteorder(self.order)  # type: ignore[arg-type]


class _Array:
    """In place of numpy.ndarray, until all of the file is read."""

    values: np.ndarray[Any, Any] | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, by_column, content = state
        if not isinstance(kind, _Type) or not isinstance(content, bytes):
            raise ValueError("an array of other things than numbers")
        # the bytes are there already, so that a shape cannot ask for memory
        values = np.frombuffer(content, kind.known()).reshape(tuple(map(int, shape)), order="F" if by_column else "C")
        self.values = values.astype(
            values.dtype.newbyteorder("=")
        )  # a copy that may be written to, in this machine's order of bytes


class _Name:
    """A name that is only handed on, such as the class of what is made."""

    def __init__(self, *_: Any):
        raise ValueError("a name that is called, which no released file does")


class _Held:
    """Around a tensor or its storage while the file is read: what the file says of its state is not for torch."""

    def __init__(self, value: Any):
        self.value = value

    def __setstate__(self, state: Any) -> None:
        raise ValueError("a tensor with a state of its own")


def _dictionary(*_: Any) -> dict[Any, Any]:
    return {}


def _array(*_: Any) -> _Array:
    return _Array()


def _storage(content: bytes) -> _Held:
    found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    if not isinstance(found, torch.storage.TypedStorage) or found.nbytes() > len(content):
        raise ValueError("a storage that is none, or larger than its file")
    return _Held(found)


def _tensor(storage: _Held, offset: int, shape: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> _Held:
    numbers = (offset, *shape, *stride)
    if len(shape) != len(stride) or not all(type(number) is int and number >= 0 for number in numbers):
        raise ValueError("a tensor of no shape")
    last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    count = math.prod(list(shape))
    if count > len(storage.value) or (count and last >= len(storage.value)):
        raise ValueError("a tensor larger than what it stores")
    return _Held(torch._utils._rebuild_tensor(storage.value, offset, shape, stride).clone())


KNOWN: Mapping[str, Callable[..., Any]] = {
    "collections.defaultdict": _dictionary,
    "collections.OrderedDict": _dictionary,
    "builtins.list": _Name,
    "builtins.dict": _Name,
    "numpy.ndarray": _Name,
    "numpy.dtype": _Type,
    "numpy.core.multiarray._reconstruct": _array,
    "numpy._core.multiarray._reconstruct": _array,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch.storage._load_from_bytes": _storage,
}


class _Reader(pickle._Unpickler):  # the one in Python: the one in C can be made to ask for any amount of memory
    # without what asks for memory before there is anything to put there
    dispatch: ClassVar = {code: load for code, load in pickle._Unpickler.dispatch.items() if code != pickle.BYTEARRAY8[0]}

    def find_class(self, module: str, name: str) -> Any:
        known = KNOWN.get(f"{module}.{name}")
        if known is None:
            raise ValueError(
                f"it names {module}.{name}, which is neither an array nor a tensor, and may be code (or another protocol of pickle than 4)"
            )
        return lambda *given: known(*given)  # a new one each time: a file can set attributes of what it is given

    def persistent_load(self, pid: Any) -> Any:
        raise ValueError("it refers to something outside itself")


def read_pickle(file: Path) -> Any:
    """What a pickle of arrays and tensors holds: numpy arrays and torch tensors in dictionaries and lists.

    Raises FileNotFoundError if there is none, and ValueError, in one line, if it is damaged, too large, or names anything else.
    """
    if not file.is_file():
        raise FileNotFoundError(f"No file {file}.")
    if file.stat().st_size > LARGEST:
        raise ValueError(
            f"{file} takes {file.stat().st_size / 1e6:,.0f} MB, expected at most {LARGEST / 1e6:,.0f}: it holds more than vectors."
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, of kinds of storage and protocols
            # from memory, which gives no more than there is, whatever length the file claims
            return _plain(_Reader(io.BytesIO(file.read_bytes())).load(), [0])
    except Exception as error:  # whatever a damaged file leads to; RecursionError, MemoryError and OverflowError among them
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise Damaged(f"{file} was not read ({reason}): expected a pickle of arrays and tensors only.") from error


def _plain(value: Any, seen: list[int]) -> Any:
    """Arrays in place of what stood for them. seen: how many things there were so far; a file that repeats itself has too many."""
    seen[0] += 1
    if seen[0] > MOST:
        raise ValueError(f"more than {MOST:,} things")
    if isinstance(value, dict):
        return {_plain(key, seen): _plain(each, seen) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_plain(each, seen) for each in value)
    if isinstance(value, _Array):
        if value.values is None:
            raise ValueError("an array without numbers")
        return value.values
    if isinstance(value, _Held):
        return _plain(value.value, seen)
    if value is None or isinstance(value, str | int | float | np.ndarray | torch.Tensor):
        return value
    raise ValueError(f"a {type(value).__name__}")
