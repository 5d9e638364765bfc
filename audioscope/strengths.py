"""The steering sweep: every way to steer at every strength, on prompts that never named the concept, and what comes out."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from audioscope import measures
from audioscope.arms import Arm, prompt_switch_arm, standard_arms, vector_arm
from audioscope.atlas import Atlas
from audioscope.audio import Clip
from audioscope.concepts import Concept, Pair, choose
from audioscope.edits import Edit
from audioscope.gains import REWRITTEN, Steering
from audioscope.model import Model
from audioscope.paths import write_whole
from audioscope.scorers import Scorer, feature_distance, listener_scorer
from audioscope.steering import caa
from audioscope.sweep import key, run_units, safe_name, seed_of
from audioscope.tracing import Row
from audioscope.vectors import SteeringVector

BATCH = 16  # rows at a time: more are not faster on a CPU
GRID = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)  # strengths that a calibration tries
SHARES = (0.4, 0.6, 0.75, 0.9, 1.0, 1.15)  # of the calibrated strength, for concepts without an opposite
BOTH_SHARES = (0.5, 0.8, 1.1)  # the same for each of two sides


@dataclass(frozen=True)
class _Bench:
    """A model, a concept and a scorer, checked: makes rows and measures what comes out."""

    model: Model
    concept: Concept
    scorer: Any
    run: dict[str, Any]
    batch: int

    def check(self) -> None:
        self.scorer.check(self.model)
        for name in self.ends:
            if name not in self.scorer.concepts:
                raise ValueError(f"The {self.scorer.name} cannot score {name!r}: it knows {', '.join(self.scorer.concepts)}.")
        if not hasattr(self.scorer, "layers"):
            raise ValueError(
                f"The scorer {self.scorer.name!r} has no layers(), from which the distance to the unsteered clip is taken."
            )

    @property
    def ends(self) -> list[str]:
        return [name for name in (self.concept.name, self.concept.opposite) if name]

    @property
    def rate(self) -> int:
        return self.model.adapter.sampling_rate(self.model.pipe)

    def pairs(self, split: str, count: int) -> tuple[Pair, ...]:
        found = self.concept.neutral_pairs(split)
        if not 1 <= count <= len(found):
            raise ValueError(
                f"prompts is {count}, expected 1 to {len(found)}: neutral prompts of {self.concept.name!r} in split {split!r}."
            )
        return found[:count]

    def edits(self, arm: Arm, pair: Pair, alpha: float, seed: int) -> tuple[Edit, ...]:
        return tuple(arm.edits(pair, alpha, seed_of(arm.cell, seed, 0))) if alpha else ()

    def sound(self, rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
        """Audio [rows, channels, samples] with NaN as silence, and which rows are finite."""
        runs = [self.model.run(rows[start : start + self.batch], **self.run) for start in range(0, len(rows), self.batch)]
        audio = torch.cat([run.audio for run in runs if run.audio is not None])
        return torch.nan_to_num(audio), torch.cat([run.finite for run in runs])

    def distances(self, audio: Tensor) -> np.ndarray:
        """How different each clip sounds from the first to the scorer, time-pooled: [clips]."""
        layers = [values.mean(-1) for values in self.scorer.layers(audio, self.rate)]
        return feature_distance(layers, [values[:1].expand_as(values) for values in layers]).cpu().numpy()

    def score(self, scores: pd.DataFrame) -> np.ndarray:
        """The concept's score; with an opposite, half the difference of both ends."""
        if not self.concept.opposite:
            return scores[self.concept.name].to_numpy(float)
        return (scores[self.concept.name] - scores[self.concept.opposite]).to_numpy(float) / 2


def _bench(model: Model, concept: str | Concept, scorer: Scorer | None, batch: int, given: dict[str, Any]) -> _Bench:
    bench = _Bench(model, choose([concept])[0], scorer or _judge(model), model.settings(**given), batch)
    bench.check()
    return bench


def _judge(model: Model) -> Scorer:
    """For reported numbers: the judge for `tiny`, else the model's own scorer."""
    from audioscope.scorers import default_scorer

    return listener_scorer("judge") if model.adapter.scorer == "listener" else default_scorer(model)


def calibrate(
    model: Model,
    concept: str | Concept,
    arms: Sequence[Arm],
    budget: float | None = None,
    *,
    grid: Sequence[float] = GRID,
    split: str = "select",
    prompts: int = 4,
    scorer: Scorer | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    seconds: float | None = None,
    batch: int = BATCH,
    progress: bool = True,
) -> pd.DataFrame:
    """The strength of each arm that moves clips as far from the unsteered ones as `budget`, so that all are compared at equal cost.

    budget: a distance of the sweep's `lpaps`; None is that of rewriting the prompt, for each side. Strengths of `grid` are tried
    on prompts of the selection split, and the distance interpolated between them. Returns one row per arm and side: cell, side
    (1, and -1 where the concept has an opposite), strength, budget, distance (of the strength, by interpolation) and reached
    (False where the largest strength stays nearer; that one is then given).
    """
    given = {"steps": steps, "guidance": guidance, "seconds": seconds}
    bench = _bench(model, concept, scorer, batch, given)
    sides = (1, -1) if bench.concept.opposite else (1,)
    if not grid or min(grid) <= 0:
        raise ValueError(f"grid is {list(grid)}, expected strengths above 0.")
    rewrite = prompt_switch_arm(bench.run["steps"])
    tried: list[tuple[Arm, float]] = [(rewrite, float(side)) for side in sides]
    tried += [(arm, side * s) for arm in arms for side in sides for s in sorted(grid) if arm.largest is None]
    found = []
    for pair in tqdm(bench.pairs(split, prompts), desc=f"calibrating {bench.concept.name}", unit="prompt", disable=not progress):
        seed = seed_of(bench.concept.name, pair.number, 0)
        rows = [Row(pair.neutral, seed), *(Row(pair.neutral, seed, bench.edits(arm, pair, alpha, seed)) for arm, alpha in tried)]
        found.append(bench.distances(bench.sound(rows)[0])[1:])
    distance = np.mean(found, axis=0)
    lines = []
    for side in sides:
        limit = float(distance[sides.index(side)]) if budget is None else budget
        for arm in arms:
            if arm.largest is not None:
                lines.append(
                    {
                        "cell": arm.cell,
                        "side": side,
                        "strength": side * arm.largest,
                        "budget": limit,
                        "distance": np.nan,
                        "reached": True,
                    }
                )
                continue
            places = [i for i, (a, alpha) in enumerate(tried) if a is arm and alpha * side > 0]
            strengths, far = np.abs([tried[i][1] for i in places]), np.maximum.accumulate(np.maximum(distance[places], 1e-9))
            reached = bool(far[-1] >= limit)
            # a squared distance grows about as a power of the strength
            strength = (
                float(np.exp(np.interp(np.log(limit), np.log(far), np.log(strengths)))) if reached else float(strengths[-1])
            )
            lines.append({"cell": arm.cell, "side": side, "strength": side * strength, "budget": limit,
                          "distance": min(limit, float(far[-1])), "reached": reached})  # fmt: skip
    return pd.DataFrame(lines)


def strengths_from(calibration: pd.DataFrame, steps: int) -> dict[str, list[float]]:
    """Seven strengths for each cell of a calibration, up to a little beyond the budget; for PCI, whole numbers of `steps`."""
    result = {}
    for name, rows in calibration.groupby("cell", sort=False):
        shares: tuple[float, ...] = BOTH_SHARES if len(rows) > 1 else SHARES
        if name == REWRITTEN:
            shares = tuple(max(1, round(steps * i / len(shares))) / steps for i in range(1, len(shares) + 1))
        result[str(name)] = sorted([0.0, *(float(s) * share for s in rows["strength"] for share in shares)])
    return result


def steering_sweep(
    model: Model,
    concept: str | Concept,
    arms: Sequence[Arm] | SteeringVector | None = None,
    strengths: Sequence[float] | Mapping[str, Sequence[float]] | None = None,
    *,
    prompts: int = 8,
    seeds: int = 2,
    split: str = "test",
    scorer: Scorer | None = None,
    atlas: Atlas | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    seconds: float | None = None,
    batch: int = BATCH,
    out: str | Path | None = None,
    clips: bool = False,
    progress: bool = True,
) -> Steering:
    """Steer neutral prompts towards a concept in several ways and strengths, and measure what it does and what it costs.

    arms: ways to steer, as `standard_arms` gives; one vector; or None for the standard ones, with a vector made by `caa`.
    strengths: for all arms, or by cell (`arm.cell`); strength 0 is always added. None calibrates each arm on the selection split.
    prompts, seeds: neutral prompts of `split`, each with so many seeds; a unit is one of each with all arms and strengths in
    batches of `batch` rows. scorer: the judge for `tiny`. out: folder for the results, resumed when it is there, vector and
    strengths included; a temporary one if None. clips: also keep the sound.
    Raises ValueError, or UnknownName, for input out of range, before anything is generated.
    """
    given: dict[str, Any] = {"steps": steps, "guidance": guidance, "seconds": seconds}
    bench = _bench(model, concept, scorer, batch, given)
    chosen = bench.concept
    pairs = bench.pairs(split, prompts)
    if seeds < 1:
        raise ValueError(f"seeds is {seeds}, expected at least 1.")
    folder = Path(out) if out is not None else Path(tempfile.mkdtemp(prefix="audioscope-steer-"))
    folder.mkdir(parents=True, exist_ok=True)
    if arms is None:
        built = min(50, len(chosen.split("build")))
        vector = caa(model, chosen, "cross", built, file=folder / "vector", progress=progress, **given)
        arms = standard_arms(model, chosen, vector, atlas)
    elif isinstance(arms, SteeringVector):
        arms = [vector_arm(arms, "vector's")]
    if strengths is None:
        strengths = strengths_from(_calibrated(folder / "calibration.json", bench, arms, progress, given), bench.run["steps"])
    by_cell = dict(strengths) if isinstance(strengths, Mapping) else {arm.cell: strengths for arm in arms}
    if len({arm.cell for arm in arms}) < len(arms):
        raise ValueError(f"Two arms have one name: {[arm.cell for arm in arms]}.")
    variants = [(arm, float(alpha)) for arm in arms for alpha in by_cell[arm.cell] if alpha]
    if not variants:
        raise ValueError("No strength but 0 was given: nothing would be steered.")
    for arm, alpha in variants:
        if arm.largest is not None and abs(alpha) > arm.largest:
            raise ValueError(f"Strength {alpha:g} of {arm.cell!r} is out of range: at most {arm.largest:g}.")
    if not chosen.opposite and any(alpha < 0 and arm.method in ("pci", "text blend") for arm, alpha in variants):
        raise ValueError(f"{chosen.name!r} has no opposite, so a prompt cannot be rewritten to it: give strengths above 0.")
    settings = {
        "model": model.name, "fingerprint": model.fingerprint, "concept": chosen.name, "opposite": chosen.opposite, "split": split,
        "scorer": bench.scorer.name, "scorer_fingerprint": bench.scorer.fingerprint, "units": bench.scorer.units, **bench.run,
        "batch": batch, "clips": clips, "rate": bench.rate, "group": chosen.group,
        "arms": {a.cell: {"strengths": sorted({0.0, *map(float, by_cell[a.cell])}), **a.facts} for a in arms},
    }  # fmt: skip
    units = [
        {"concept": chosen.name, "prompt": pair.number, "text": pair.neutral, "seed": seed_of(chosen.name, pair.number, n)}
        for pair in pairs for n in range(seeds)
    ]  # fmt: skip
    by_number = {pair.number: pair for pair in pairs}

    def work(unit: dict[str, Any]) -> pd.DataFrame:
        return _do_unit(bench, unit, by_number[unit["prompt"]], variants, folder if clips else None)

    table = run_units(folder, settings, units, work, progress, f"steering {chosen.name}")
    result = Steering(table, settings, folder)
    result.save(folder)
    return result


def _calibrated(file: Path, bench: _Bench, arms: Sequence[Arm], progress: bool, given: dict[str, Any]) -> pd.DataFrame:
    """The calibration of a sweep's folder, made once: sums of floats differ in the last digit from machine to machine."""
    if file.exists():
        return pd.DataFrame(json.loads(file.read_text()))
    table = calibrate(bench.model, bench.concept, arms, scorer=bench.scorer, batch=bench.batch, progress=progress, **given)
    write_whole(file, lambda part: part.write_text(json.dumps(json.loads(table.to_json(orient="records")), indent=1) + "\n"))
    return pd.DataFrame(json.loads(file.read_text()))


def _do_unit(
    bench: _Bench, unit: dict[str, Any], pair: Pair, variants: list[tuple[Arm, float]], folder: Path | None
) -> pd.DataFrame:
    """All arms and strengths of one prompt and seed: one line per arm and strength, the unsteered clip once for each arm."""
    rows = [Row(pair.neutral, unit["seed"])]
    rows += [Row(pair.neutral, unit["seed"], bench.edits(arm, pair, alpha, unit["seed"])) for arm, alpha in variants]
    audio, finite = bench.sound(rows)
    scores = bench.scorer(audio, bench.rate).astype("float32")
    found = pd.concat([measures.measure(audio, bench.rate), measures.faults(audio)], axis=1).drop(columns="key")
    found["score"], found["lpaps"] = bench.score(scores), bench.distances(audio)
    found["chroma"] = measures.chroma_similarity(audio, audio[:1].expand_as(audio), bench.rate)
    beats = measures.beats(audio, bench.rate)
    found["beat"] = [measures.beat_agreement(own, beats[0]) for own in beats]
    found = found.join(scores.add_prefix("scored "))
    measured = [name for name in found.columns if name not in ("silent",)]
    found[measured] = found[measured].astype("float32")
    found.loc[~finite.numpy(), measured] = np.nan
    found["failed"], found["clip"] = ~finite.numpy(), ""
    labels = [("", "", 0.0)] + [(arm.method, arm.sites, alpha) for arm, alpha in variants]
    found[["method", "sites", "alpha"]] = labels
    if folder is not None:
        for i, (method, sites, alpha) in enumerate(labels):
            if finite[i]:
                name = safe_name(f"{method} {sites} {alpha:+.3f}") if method else "unsteered"
                file = f"clips/{unit['prompt']:03d}-{key(unit)[:8]}/{name}.flac"
                Clip(audio[i].numpy(), bench.rate).save(folder / file)
                found.loc[i, "clip"] = file
    zero = found.iloc[:1]
    parts = [zero.assign(method=m, sites=s) for m, s in dict.fromkeys(label[:2] for label in labels[1:])]
    table = pd.concat([*parts, found.iloc[1:]], ignore_index=True)
    facts = {"model": bench.model.name, "concept": bench.concept.name, "opposite": bench.concept.opposite, **unit}
    return table.assign(**facts, cell=table["method"] + " " + table["sites"])
