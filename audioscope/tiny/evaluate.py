"""How well the tiny model holds its concepts, by the listener and the judge, beside chance and beside real clips."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from audioscope.model import Model, load
from audioscope.tiny import listener, pool
from audioscope.tiny.captions import caption
from audioscope.tiny.music import GROUPS, Song

REAL_POOL = 4  # seed of the held-out real clips: never used for training
CAPTION_SEED = 5


def held_out_captions(count: int, seed: int = CAPTION_SEED) -> list[tuple[str, Song, frozenset[str]]]:
    """Captions of label combinations that training never sees, balanced over each group's classes as named.

    Each is (caption, song, groups that it names): every group is named with chance .8, so that there is always something
    left out. Each combination is the one of many that evens out the classes named so far.
    """
    rng = np.random.default_rng(seed)
    counts = [np.zeros(len(classes)) for classes in GROUPS.values()]
    found: list[tuple[str, Song, frozenset[str]]] = []
    while len(found) < count:
        named = frozenset(group for group in GROUPS if rng.random() < 0.8) or frozenset({"genre"})
        offered = [Song.draw(rng, held_out=True) for _ in range(24)]
        excess = [
            sum(n[c] * len(n) for group, n, c in zip(GROUPS, counts, song.indices(), strict=True) if group in named)
            for song in offered
        ]
        song = offered[int(np.argmin(excess))]
        for group, n, c in zip(GROUPS, counts, song.indices(), strict=True):
            n[c] += group in named
        found.append((caption(song, rng, keep=0.0, always=named), song, named))
    return found


def real_clips(count: int, codec: Any, batch: int = 20) -> tuple[Tensor, Tensor]:
    """Held-out rendered clips after a codec round trip [count, 65536], and their class numbers [count, groups]."""
    waves = [np.stack(part) for part in pool.batched(pool.clips(range(count), REAL_POOL, held_out=True), batch)]
    with torch.no_grad():
        again = [codec.decode(codec.encode(torch.from_numpy(part)[:, None])).sample[:, 0].clamp(-1, 1) for part in waves]
    return torch.cat(again), torch.tensor([pool.song(i, REAL_POOL, held_out=True).indices() for i in range(count)])


def accuracies(guess: Tensor, truth: Tensor, named: Tensor | None = None) -> dict[str, float]:
    """Share of right guesses in each group, over the clips whose caption names the group (`named`, bool like `truth`)."""
    right = guess == truth
    named = torch.ones_like(right) if named is None else named
    return {group: round(float(right[:, i][named[:, i]].float().mean()), 4) for i, group in enumerate(GROUPS)}


def evaluate(model: Model | None = None, clips: int = 400, **settings: Any) -> dict[str, Any]:
    """Accuracies by group: `chance`, `real` (listener and judge, the ceiling), `generated` (judge, held-out captions).

    settings go to `Model.generate` (steps, guidance). mood_pair counts only clips whose caption says happy or sad.
    """
    if clips < 20:
        raise ValueError(f"clips is {clips}, expected at least 20: fewer say nothing.")
    model = model or load("tiny")
    hearing, judging = listener.load("listener"), listener.load("judge")
    waves, truth = real_clips(clips, model.pipe.vae)
    parts = waves.split(100)
    real = {
        "listener": accuracies(torch.cat([hearing.guess(p) for p in parts]), truth),
        "judge": accuracies(torch.cat([judging.guess(p) for p in parts]), truth),
    }
    captions = held_out_captions(clips)
    made = model.generate([text for text, _, _ in captions], seed=list(range(clips)), progress=True, **settings)
    sound = torch.from_numpy(np.stack([clip.mono for clip in made]))
    asked = torch.tensor([song.indices() for _, song, _ in captions])
    named = torch.tensor([[group in groups for group in GROUPS] for _, _, groups in captions])
    guess = torch.cat([judging.guess(p) for p in sound.split(100)])
    mood = list(GROUPS).index("mood")
    poles = named[:, mood] & (asked[:, mood] < 2)
    return {
        "model": {"name": model.name, "fingerprint": model.fingerprint},
        "clips": clips,
        "settings": {**model.settings(settings.get("steps"), settings.get("guidance"), None)},
        "chance": {group: round(1 / len(classes), 4) for group, classes in GROUPS.items()},
        "real": real,
        "generated": {
            "judge": accuracies(guess, asked, named),
            "named": {group: int(named[:, i].sum()) for i, group in enumerate(GROUPS)},
            "mood_pair": round(float((guess[:, mood] == asked[:, mood])[poles].float().mean()), 4),
        },
    }


def as_table(result: dict[str, Any]) -> str:
    """The result as a plain table, a line per group."""
    lines = [f"{'group':<12}{'chance':>8}{'listener, real':>16}{'judge, real':>13}{'judge, generated':>18}"]
    for group, chance in result["chance"].items():
        lines.append(
            f"{group:<12}{chance:>8.2f}{result['real']['listener'][group]:>16.3f}{result['real']['judge'][group]:>13.3f}"
            f"{result['generated']['judge'][group]:>18.3f}"
        )
    return "\n".join(lines) + f"\n({result['clips']} clips of each kind; generated with {result['settings']})"
