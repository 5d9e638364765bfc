"""Rendered songs in bulk: a seed and a number always give the same clip, no matter how many processes render."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache, partial
from itertools import islice

import numpy as np

from audioscope.tiny.bank import NoteBank
from audioscope.tiny.music import Song, render

_bank = lru_cache(maxsize=1)(NoteBank)


def song(number: int, seed: int, held_out: bool = False) -> Song:
    """The labels of clip `number` of pool `seed`."""
    return Song.draw(np.random.default_rng([seed, number, 0]), held_out)


def clip(number: int, seed: int, held_out: bool = False) -> np.ndarray:
    """Clip `number` of pool `seed`: float32 [65536] at 16 kHz."""
    return render(song(number, seed, held_out), np.random.default_rng([seed, number, 1]), _bank())


def clips(numbers: range, seed: int, held_out: bool = False, workers: int = 2) -> Iterator[np.ndarray]:
    """The clips of a range, in order, rendered by `workers` processes."""
    with ProcessPoolExecutor(workers) as pool:
        yield from pool.map(partial(clip, seed=seed, held_out=held_out), numbers, chunksize=32)


def batched(items: Iterable, size: int) -> Iterator[list]:
    """Lists of up to `size` items (itertools.batched comes with Python 3.12)."""
    source = iter(items)
    while part := list(islice(source, size)):
        yield part
