"""Rendered songs in bulk: a seed and a number always give the same clip, no matter how many processes render."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache, partial
from itertools import islice

import numpy as np

from audioscope.tiny.bank import NoteBank
from audioscope.tiny.music import Song, render


@lru_cache(maxsize=4)
def _bank(without: tuple[str, ...], only: tuple[str, ...]) -> NoteBank:
    return NoteBank(only=only, without=without)


def song(number: int, seed: int, held_out: bool = False) -> Song:
    """The labels of clip `number` of pool `seed`."""
    return Song.draw(np.random.default_rng([seed, number, 0]), held_out)


def clip(
    number: int,
    seed: int,
    held_out: bool = False,
    without: Collection[str] = (),
    only: Collection[str] = (),
    recolored: bool = False,
) -> np.ndarray:
    """Clip `number` of pool `seed`: float32 [65536] at 16 kHz.

    without, only: names of sources of notes that are left out, or to which the music keeps; none means all that ship. recolored:
    in three of four clips, the lead has a tone and a room of its own.
    """
    bank, color = _bank(tuple(sorted(without)), tuple(sorted(only))), np.random.default_rng([seed, number, 2])
    draws = color if recolored and color.random() < 0.75 else None
    return render(song(number, seed, held_out), np.random.default_rng([seed, number, 1]), bank, draws)


def clips(
    numbers: range, seed: int, held_out: bool = False, workers: int = 2, without: Collection[str] = (),
    only: Collection[str] = (), recolored: bool = False,
) -> Iterator[np.ndarray]:  # fmt: skip
    """The clips of a range, in order, rendered by `workers` processes."""
    render_one = partial(clip, seed=seed, held_out=held_out, without=tuple(without), only=tuple(only), recolored=recolored)
    with ProcessPoolExecutor(workers) as pool:
        yield from pool.map(render_one, numbers, chunksize=32)


def batched(items: Iterable, size: int) -> Iterator[list]:
    """Lists of up to `size` items (itertools.batched comes with Python 3.12)."""
    source = iter(items)
    while part := list(islice(source, size)):
        yield part
