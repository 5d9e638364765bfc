"""How well the tiny model renders its concepts, by the listener and the judge, next to chance and to real clips.

The listener selects a checkpoint; the judge only reports.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from audioscope.errors import whole
from audioscope.loading import load
from audioscope.model import BATCH, Model
from audioscope.tiny import listener, pool
from audioscope.tiny.captions import UNSEEN, caption
from audioscope.tiny.codec import MelCodec
from audioscope.tiny.listener import Listener
from audioscope.tiny.music import GROUPS, Song
from audioscope.tiny.train import Recipe, dataset
from audioscope.workers import Workers, checked_workers, collect

REAL_POOL = 4  # seed of the held-out real clips: never used for training
CAPTION_SEED = 5
SELECTION_SEED = 6  # of the captions that the listener selects by
Caption = tuple[str, Song, frozenset[str]]  # the text, the song, and the groups that the text names


def held_out_captions(count: int, seed: int = CAPTION_SEED, held_out: bool = True, unseen: bool = False) -> list[Caption]:
    """Captions of label combinations that training never sees, balanced over the named classes of each group.

    Every group is named with probability .8, so that most captions leave something out. Each combination is the one of many that
    best evens out the classes named so far.

    held_out: False takes combinations that training does see. unseen: use wordings that training never sees.
    """
    count, rng = whole("count", count), np.random.default_rng(seed)
    counts = [np.zeros(len(classes)) for classes in GROUPS.values()]
    captions: list[Caption] = []
    while len(captions) < count:
        named = frozenset(group for group in GROUPS if rng.random() < 0.8) or frozenset({"genre"})
        offered = [Song.draw(rng, held_out) for _ in range(24)]
        excess = [
            sum(n[c] * len(n) for group, n, c in zip(GROUPS, counts, song.indices(), strict=True) if group in named)
            for song in offered
        ]
        song = offered[int(np.argmin(excess))]
        for group, n, c in zip(GROUPS, counts, song.indices(), strict=True):
            n[c] += group in named
        captions.append((caption(song, rng, keep=0.0, always=named, unseen=unseen), song, named))
    return captions


def real_clips(count: int, codec: Any, batch: int = 20) -> tuple[Tensor, Tensor]:
    """Held-out rendered clips after a codec round trip [count, 65536], and their class numbers [count, groups]."""
    waves = [np.stack(part) for part in pool.batched(pool.clips(range(count), REAL_POOL, held_out=True), batch)]
    with torch.no_grad():
        again = [codec.decode(codec.encode(torch.from_numpy(part)[:, None])).sample[:, 0] for part in waves]
    return torch.cat(again), torch.tensor([pool.song(i, REAL_POOL, held_out=True).indices() for i in range(count)])


def generated_clips(model: Model, captions: list[Caption], **settings: Any) -> Tensor:
    """A clip [count, 65536] for each caption, with its index as seed; settings: `workers`, and those of `Model.generate`."""
    rows = [(text, seed) for seed, (text, _, _) in enumerate(captions)]
    workers, how = settings.get("workers"), {name: value for name, value in settings.items() if name != "workers"}

    def sound(part: list[tuple[str, int]]) -> dict[str, Tensor]:
        clips = model.generate([text for text, _ in part], seed=[seed for _, seed in part], progress=False, **how)
        return {"sound": torch.from_numpy(np.stack([clip.mono for clip in clips]))}

    parts = [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]
    return torch.cat([found["sound"] for found in collect(model, workers, sound, parts, "generating", "clip", True, len)])


def accuracies(guess: Tensor, truth: Tensor, named: Tensor | None = None) -> dict[str, float]:
    """Share of correct guesses in each group, over the clips whose caption names the group (`named`, bool like `truth`).

    `mood_pair` is the share for mood over happy and sad clips alone, with a guess of "neutral" counted as wrong.
    """
    right = guess == truth
    named = torch.ones_like(right) if named is None else named
    shares = {group: float(right[:, i][named[:, i]].float().mean()) for i, group in enumerate(GROUPS)}
    mood = list(GROUPS).index("mood")
    poles = named[:, mood] & (truth[:, mood] < 2)
    shares["mood_pair"] = float(right[:, mood][poles].float().mean())
    return {group: round(share, 4) for group, share in shares.items()}


def heard(ear: Listener, sound: Tensor, captions: list[Caption]) -> dict[str, float]:
    """Accuracies of what `ear` hears in clips [count, 65536], compared with what their captions name."""
    asked = torch.tensor([song.indices() for _, song, _ in captions])
    named = torch.tensor([[group in groups for group in GROUPS] for _, _, groups in captions])
    return accuracies(torch.cat([ear.guess(part) for part in sound.split(100)]), asked, named)


def evaluate(
    model: Model | None = None,
    clips: int = 400,
    work: Path | None = None,
    also: Callable[[Tensor, list[Caption]], pd.DataFrame] | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Accuracies by group: `chance`, `real` (listener and judge, the ceiling), `generated` (judge, held-out captions).

    work: a folder for the training pool's latents; with it, `memorization` and `extrapolation` are measured as well, and
    there are five times as many real clips: the first percentile of fewer clips says little.
    also: what else hears the generated clips, such as `audioscope.scoring.outside`; its rows come back as `outside`.
    settings: `workers`, as for `audioscope.localize`, and those of `Model.generate` (steps, guidance).
    """
    checked_workers(settings.get("workers"))
    if clips < 20:
        raise ValueError(f"clips is {clips}, expected at least 20: the accuracies of fewer clips say nothing.")
    model = model or load("tiny")
    ears = {name: listener.load(name) for name in listener.POOLS}
    real, truth = real_clips(5 * clips if work else clips, model.pipe.vae)
    captions = held_out_captions(clips)
    sound = generated_clips(model, captions, **settings)
    result = {
        "model": {"name": model.name, "fingerprint": model.fingerprint},
        "clips": clips,
        "real_clips": len(real),
        "settings": dict(model.sampling(settings.get("steps"), settings.get("guidance"))),
        "chance": {group: round(1 / len(classes), 4) for group, classes in GROUPS.items()},
        "real": {name: accuracies(torch.cat([ear.guess(part) for part in real.split(100)]), truth) for name, ear in ears.items()},
        "generated": {
            "judge": heard(ears["judge"], sound, captions),
            "named": {group: sum(group in named for _, _, named in captions) for group in GROUPS},
        },
        "sound": {"real": levels(real), "generated": levels(sound)},
    }
    if also:
        result["outside"] = also(sound, captions).round(4).to_dict("records")
    if work:
        seen = generated_clips(model, held_out_captions(clips // 2, held_out=False), **settings)
        result["memorization"] = memorization(model.pipe.vae, sound, seen, real, work)
        result["extrapolation"] = extrapolation(model, ears["judge"], clips // 4, settings.get("workers")).to_dict("records")
    return result


def levels(sound: Tensor) -> dict[str, float]:
    """Loudness and faults of clips [count, 65536]: dB RMS, share of samples in the limiter's range, loudest first or last ms."""
    rms = 10 * torch.log10(sound.square().mean(1).clamp_min(1e-10))
    ends = torch.cat([sound[:, :16], sound[:, -16:]], 1).abs().amax(1)
    return {
        "quietest_db": round(float(rms.min()), 2), "loudest_db": round(float(rms.max()), 2),
        "limited": round(float((sound.abs() > 0.9).float().mean()), 6), "loudest_end": round(float(ends.max()), 4),
    }  # fmt: skip


def nearest_distances(codec: MelCodec, latents: Tensor, *clips: Tensor) -> list[Tensor]:
    """For each set of clips [count, 65536], how far every clip lies from the nearest of the training latents [n, dim, tokens].

    Root mean squares over log-mels standardized by band, all after the codec: [count] each.
    """
    with torch.no_grad():
        sample = codec.decode_mel(latents[:1000].float())
        mean, deviation = sample.mean((0, 2), keepdim=True), sample.std((0, 2), keepdim=True)

        def standard(latents: Tensor) -> Tensor:
            return ((codec.decode_mel(latents.float()) - mean) / deviation).flatten(1)

        queries = [torch.cat([standard(codec.encode(part[:, None])) for part in wave.split(50)]) for wave in clips]
        nearest = [torch.full((len(query),), torch.inf) for query in queries]
        for part in latents.split(500):
            trained = standard(part)
            nearest = [torch.minimum(n, torch.cdist(q, trained).amin(1)) for n, q in zip(nearest, queries, strict=True)]
    return [n / queries[0].shape[1] ** 0.5 for n in nearest]


def memorization(codec: MelCodec, generated: Tensor, seen: Tensor, real: Tensor, work: Path) -> dict[str, float]:
    """Share of generated clips that lie nearer to a training clip than 99 % of held-out real clips do: at most .02 is required.

    generated, seen: clips of held-out combinations and of combinations in the training pool, where copying would be more likely.
    The training pool comes from `work`, or is rendered there.
    """
    _, latents = dataset(Recipe(), work, codec)
    made, copied, held = nearest_distances(codec, latents, generated, seen, real)
    bound = torch.quantile(held, 0.01)
    return {
        "share": round(float((made < bound).float().mean()), 4),
        "share_seen_combinations": round(float((copied < bound).float().mean()), 4),
        "bound": round(float(bound), 4), "training_clips": len(latents),
        "median_generated": round(float(made.median()), 4), "median_real": round(float(held.median()), 4),
    }  # fmt: skip


def extrapolation(model: Model, ear: Listener, clips: int, workers: Workers = None) -> pd.DataFrame:
    """One row per change: combinations seen in training, reworded captions, guidance 1 to 5, 4 to 50 steps.

    Columns: change, steps, guidance, and the accuracy of each group. "default" is held-out combinations at the model's settings.
    """
    usual = held_out_captions(clips)
    reworded = [  # only the groups that were named in an unseen wording count
        (text, song, frozenset(group for group in named if (group, getattr(song, group)) in UNSEEN))
        for text, song, named in held_out_captions(clips, unseen=True)
    ]
    default = model.sampling()
    trials: list[tuple[str, list[Caption], dict[str, Any]]] = [
        ("default", usual, {}),
        ("seen combinations", held_out_captions(clips, held_out=False), {}),
        ("unseen wordings", reworded, {}),
        *[("guidance", usual, {"guidance": float(g)}) for g in (1, 2, 3, 4, 5) if g != default["guidance"]],
        *[("steps", usual, {"steps": n}) for n in (4, 6, 8, 10, 16, 50) if n != default["steps"]],
    ]
    rows = []
    for change, captions, settings in trials:
        used = dict(model.sampling(settings.get("steps"), settings.get("guidance")))
        scores = heard(ear, generated_clips(model, captions, workers=workers, **settings), captions)
        rows.append({"change": change, "steps": used["steps"], "guidance": used["guidance"]} | scores)
    return pd.DataFrame(rows)


def choose(candidates: Path, out: Path, clips: int = 150) -> pd.DataFrame:
    """Copy the candidate that the listener rates best to `out`; training.json records the choice.

    Returns what the listener hears in clips of the selection captions, one row per candidate, best first: model, mean_accuracy
    (over the groups, mood as happy against sad), and each group's accuracy.
    """
    folders = sorted(folder for folder in candidates.glob("step-*") if (folder / "training.json").exists())
    if not folders:
        raise FileNotFoundError(f"{candidates} contains no candidates: `audioscope tiny train` leaves some in its --work folder.")
    ear, captions = listener.load("listener"), held_out_captions(clips, SELECTION_SEED)
    rows = []
    for folder in folders:
        scores = heard(ear, generated_clips(load(folder), captions), captions)
        mean = float(np.mean([scores["mood_pair" if group == "mood" else group] for group in GROUPS]))
        rows.append({"model": str(folder), "mean_accuracy": round(mean, 4), **scores})
    table = pd.DataFrame(rows).sort_values("mean_accuracy", ascending=False, kind="stable", ignore_index=True)
    shutil.copytree(Path(table["model"][0]), out, dirs_exist_ok=True)
    facts = json.loads((out / "training.json").read_text())
    facts["chosen_from"] = [{"model": Path(row.model).name, "mean": row.mean_accuracy} for row in table.itertuples()]
    (out / "training.json").write_text(json.dumps(facts, indent=1) + "\n")
    return table


def as_table(result: dict[str, Any]) -> str:
    """The result as a plain-text table, one line per group, then one per question to ears from outside."""
    lines = [f"{'group':<12}{'chance':>8}{'listener, real':>16}{'judge, real':>13}{'judge, generated':>18}"]
    for group, chance in {**result["chance"], "mood_pair": result["chance"]["mood"]}.items():
        lines.append(
            f"{group:<12}{chance:>8.2f}{result['real']['listener'][group]:>16.3f}{result['real']['judge'][group]:>13.3f}"
            f"{result['generated']['judge'][group]:>18.3f}"
        )
    lines.append(f"({result['clips']} generated clips, {result['real_clips']} real ones; generated with {result['settings']})")
    if "outside" in result:
        lines += ["", pd.DataFrame(result["outside"]).round(2).to_string(index=False)]
    return "\n".join(lines)
