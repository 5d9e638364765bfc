"""The steering sweep: every way to steer at every strength, on prompts that never named the concept, and what comes out."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from audioscope import measures
from audioscope.arms import Arm, prompt_switch_arm, standard_arms, vector_arm
from audioscope.atlas import Atlas
from audioscope.audio import Clip
from audioscope.concepts import Concept, Pair, choose
from audioscope.gains import REWRITTEN, Steering, between_ends
from audioscope.model import Model
from audioscope.scorers import Scorer, default_scorer, feature_distance, listener_scorer
from audioscope.steering import caa, steering_sites
from audioscope.sweep import key, run_units, safe_name, seed_of
from audioscope.tracing import Row
from audioscope.vectors import SteeringVector

BATCH = 16  # rows at a time: more are not faster on a CPU
GRID = (0.3, 0.8, 2.0, 5.0)  # strengths that a calibration tries, and shares of the largest one where an arm has one
TRIED = (1 / 3, 2 / 3, 1.0)
# Of the calibrated strength. The last goes well beyond the budget, since that differs between prompts: a curve that ends before it
# has an area that cannot be compared.
SHARES = (0.4, 0.7, 1.0, 1.3, 1.9)
BOTH_SHARES = (0.6, 1.0, 1.8)  # for each of two sides


@dataclass(frozen=True)
class _Bench:
    """A model, a concept and two scorers, checked: makes rows and measures what comes out.

    scorer: measures the gain. price: its network measures the distance; another one, where there are two.
    """

    model: Model
    concept: Concept
    scorer: Any
    price: Any
    run: dict[str, Any]
    batch: int

    def check(self) -> None:
        for each in (self.scorer, self.price):
            each.check(self.model)
        for name in self.ends:
            if name not in self.scorer.concepts:
                raise ValueError(f"The {self.scorer.name} cannot score {name!r}: it knows {', '.join(self.scorer.concepts)}.")
        if not hasattr(self.price, "layers"):
            raise ValueError(
                f"The scorer {self.price.name!r} has no layers(), from which the distance to the unsteered clip is taken: give another "
                "one as price=."
            )

    @property
    def ends(self) -> list[str]:
        return [name for name in (self.concept.name, self.concept.opposite) if name]

    @property
    def rate(self) -> int:
        return self.model.adapter.sampling_rate(self.model.pipe)

    def pairs(self, split: str, count: int, without: Iterable[str] = ()) -> tuple[Pair, ...]:
        seen = set(without)
        found = tuple(pair for pair in self.concept.neutral_pairs(split) if pair.neutral not in seen)
        if not 1 <= count <= len(found):
            raise ValueError(
                f"prompts is {count}, expected 1 to {len(found)}: neutral prompts of {self.concept.name!r} in split {split!r}."
            )
        return found[:count]

    def sound(self, rows: Sequence[Row]) -> tuple[Tensor, np.ndarray]:
        """Audio [rows, channels, samples] with NaN as silence, and which rows are finite, [rows]."""
        runs = [self.model.run(rows[start : start + self.batch], **self.run) for start in range(0, len(rows), self.batch)]
        audio = torch.cat([run.audio for run in runs if run.audio is not None])
        return torch.nan_to_num(audio), torch.cat([run.finite for run in runs]).numpy()

    def distances(self, scorer: Any, audio: Tensor, finite: np.ndarray) -> np.ndarray:
        """How different each clip sounds from the first to a scorer, [clips]; NaN where either is not finite.

        The last axis of its layers is averaged first: time for listener and judge, windows of 10 s for CLAP.
        """
        layers = [values.mean(-1) for values in scorer.layers(audio, self.rate)]
        far = feature_distance(layers, [values[:1].expand_as(values) for values in layers]).cpu().numpy()
        return np.where(finite & finite[0], far, np.nan)

    def heard(self, audio: Tensor, finite: np.ndarray) -> pd.DataFrame:
        """What both scorers hear in clips of which the first is the unsteered one: `score` and `lpaps`, a column "scored ..." for
        each concept, and for the price's network its own scores of the ends and the other network's distance.
        """
        scores = self.scorer(audio, self.rate).astype("float32")
        found = pd.DataFrame({"lpaps": self.distances(self.price, audio, finite)}).join(scores.add_prefix("scored "))
        if self.price is not self.scorer:
            theirs = self.price(audio, self.rate).astype("float32")
            for name in self.ends:
                if name in theirs:
                    found[f"{self.price.name} scored {name}"] = theirs[name]
            if hasattr(self.scorer, "layers"):
                found[f"lpaps of {self.scorer.name}"] = self.distances(self.scorer, audio, finite)
        found.insert(0, "score", between_ends(found, "scored ", self.concept.name, self.concept.opposite))
        found = found.astype("float32")
        found.loc[~finite] = np.nan
        return found


def _bench(
    model: Model, concept: str | Concept, scorer: Scorer | None, price: Scorer | None, batch: int, given: dict[str, Any]
) -> _Bench:
    model.check_unsteered("a sweep")
    chosen = choose([concept])[0]
    if scorer is None and model.adapter.scorer == "listener":
        scorer, price = listener_scorer("judge"), price or listener_scorer()
    scorer = scorer or default_scorer(model)
    bench = _Bench(model, chosen, scorer, price or scorer, model.settings(**given), batch)
    bench.check()
    return bench


def calibrate(
    model: Model,
    concept: str | Concept,
    arms: Sequence[Arm],
    budget: float | None = None,
    *,
    grid: Sequence[float] = GRID,
    split: str = "select",
    prompts: int = 6,
    without: Iterable[str] = (),
    scorer: Scorer | None = None,
    price: Scorer | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    seconds: float | None = None,
    batch: int = BATCH,
    out: str | Path | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """The strength of each arm that moves clips as far from the unsteered ones as `budget`, so that all are compared at equal cost.

    budget: a distance of the sweep's `lpaps`; None is that of rewriting the prompt, for each side. Strengths of `grid` are tried
    on prompts of the selection split, and the distance interpolated between them; scores take no part. without, scorer, price: as for
    `steering_sweep`. out: folder for the clips tried, resumed when it is there, and readable by `Steering.load`. Returns one row per arm
    and side: cell, side (1, and -1 where the concept has an opposite), strength, budget, distance (of the strength, by interpolation)
    and reached (False where the largest strength stays nearer; that one is then given).
    """
    given = {"steps": steps, "guidance": guidance, "seconds": seconds}
    bench = _bench(model, concept, scorer, price, batch, given)
    if not grid or min(grid) <= 0:
        raise ValueError(f"grid is {list(grid)}, expected strengths above 0.")
    if budget is not None and not budget > 0:
        raise ValueError(f"budget is {budget}, expected a distance above 0, or None for that of rewriting the prompt.")
    sides = (1, -1) if bench.concept.opposite else (1,)
    tried_arms = list(arms)
    if REWRITTEN not in [arm.cell for arm in arms]:
        tried_arms.append(prompt_switch_arm(bench.run["steps"]))
    strengths = {
        arm.cell: [
            side * s for side in sides for s in (sorted(grid) if arm.largest is None else [arm.largest * t for t in TRIED])
        ]
        for arm in tried_arms
    }
    trial = _run(
        bench, tried_arms, strengths, bench.pairs(split, prompts, without), 1, split, out, False, False, progress, "calibrating"
    )
    distance = trial.points().set_index(["cell", "alpha"])["lpaps"]
    lines = []
    for side in sides:
        limit = float(distance[REWRITTEN, float(side)]) if budget is None else budget
        for arm in arms:
            if arm.largest is not None:
                strength, far = arm.largest, np.nan
            else:
                mine = distance[arm.cell]
                mine = mine[mine.index * side > 0].sort_index(key=abs)
                strength, far = _strength_at(limit, np.abs(mine.index.to_numpy(float)), mine.to_numpy(float))
            lines.append({"cell": arm.cell, "side": side, "strength": side * strength, "budget": limit, "distance": far,
                          "reached": not far < limit * 0.999})  # fmt: skip
    return pd.DataFrame(lines)


def _strength_at(budget: float, strengths: np.ndarray, distances: np.ndarray) -> tuple[float, float]:
    """The strength at which a rising curve of distances reaches a budget, and the distance there; at most the largest strength.

    Between two strengths, and below the smallest, the distance is taken as a power of the strength.
    """
    logs = np.log(strengths), np.log(np.maximum.accumulate(np.maximum(distances, 1e-9)))
    if logs[1][0] > np.log(budget):  # below all that were tried: a squared distance grows about with the square
        return float(np.exp(logs[0][0] - (logs[1][0] - np.log(budget)) / 2)), budget
    strength = float(np.exp(np.interp(np.log(budget), logs[1], logs[0])))
    return strength, min(budget, float(np.exp(logs[1][-1])))


def strengths_from(calibration: pd.DataFrame, steps: int) -> dict[str, list[float]]:
    """Six or seven strengths for each cell of a calibration, from 0 to well beyond the budget; for PCI, whole numbers of `steps`."""
    result = {}
    for name, rows in calibration.groupby("cell", sort=False):
        shares: tuple[float, ...] = BOTH_SHARES if len(rows) > 1 else SHARES
        if name == REWRITTEN:
            shares = tuple(max(1, round(steps * i / len(shares))) / steps for i in range(1, len(shares) + 1))
        result[str(name)] = sorted({0.0, *(float(s) * share for s in rows["strength"] for share in shares)})
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
    without: Iterable[str] = (),
    scorer: Scorer | None = None,
    price: Scorer | None = None,
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

    arms: ways to steer, as `standard_arms` gives; one vector; or None for the standard ones, with vectors made by `caa`.
    strengths: for all arms, or by cell (`arm.cell`); strength 0 is always added. None calibrates each arm on the selection split.
    prompts, seeds: neutral prompts of `split`, each with so many seeds; a unit is one of each with all arms and strengths in
    batches of `batch` rows. without: neutral prompts that are left out, such as those that an SAE was trained on. scorer: measures the gain. price: measures the distance from the unsteered clip, by its network's layers, and
    so sets the strengths; give another network than the scorer's, or what pleases one network counts twice. None and None are the
    judge and the listener for `tiny`, else the model's own scorer for both. out: folder for the results, resumed when it is there, vectors
    and calibration included; a temporary one if None. clips: also keep the sound.
    Raises ValueError, or UnknownName, for input out of range, before anything is generated.
    """
    given: dict[str, Any] = {"steps": steps, "guidance": guidance, "seconds": seconds}
    bench = _bench(model, concept, scorer, price, batch, given)
    chosen = bench.concept
    without = set(without)
    pairs = bench.pairs(split, prompts, without)
    if seeds < 1:
        raise ValueError(f"seeds is {seeds}, expected at least 1.")
    folder = Path(out) if out is not None else Path(tempfile.mkdtemp(prefix="audioscope-steer-"))
    folder.mkdir(parents=True, exist_ok=True)
    if arms is None:
        for which in ("functional", "own"):
            steering_sites(model, chosen, which, atlas)  # raises before the vector is made
        built = min(50, len(chosen.split("build")))
        vector, shuffled = (
            caa(model, chosen, "cross", built, unit=False, shuffle=shuffle, file=folder / name, progress=progress, **given)
            for name, shuffle in (("vector", None), ("shuffled", 0))
        )
        arms = standard_arms(model, chosen, vector, shuffled, atlas, steps)
    elif isinstance(arms, SteeringVector):
        arms = [vector_arm(arms, "vector's")]
    if strengths is None:
        found = calibrate(
            model, chosen, arms, without=without, scorer=bench.scorer, price=bench.price, batch=batch, out=folder / "calibration",
            progress=progress, **given
        )  # fmt: skip
        strengths = strengths_from(found, bench.run["steps"])
    names = [arm.cell for arm in arms]
    if len(set(names)) < len(names):
        raise ValueError(f"Two arms have one name: {names}.")
    by_cell = dict(strengths) if isinstance(strengths, Mapping) else dict.fromkeys(names, strengths)
    if set(by_cell) != set(names):
        raise ValueError(f"strengths names {sorted(by_cell)}, but the arms are {names}.")
    return _run(bench, arms, by_cell, pairs, seeds, split, folder, clips, True, progress, "steering")


def _run(
    bench: _Bench, arms: Sequence[Arm], strengths: Mapping[str, Sequence[float]], pairs: Sequence[Pair], seeds: int, split: str,
    out: str | Path | None, clips: bool, measured: bool, progress: bool, desc: str,
) -> Steering:  # fmt: skip
    """A sweep with everything chosen. measured: also measure tempo, key and the like, which takes a third of the time."""
    chosen = bench.concept
    by_cell = {name: sorted({0.0, *map(float, values)}) for name, values in strengths.items()}
    variants = [(arm, alpha) for arm in arms for alpha in by_cell[arm.cell] if alpha]
    if not variants:
        raise ValueError("No strength but 0 was given: nothing would be steered.")
    for arm, alpha in variants:
        if not abs(alpha) < 1e6:
            raise ValueError(f"Strength {alpha} of {arm.cell!r} is no finite number.")
        if arm.largest is not None and abs(alpha) > arm.largest:
            raise ValueError(f"Strength {alpha:g} of {arm.cell!r} is out of range: at most {arm.largest:g}.")
    if not chosen.opposite and any(alpha < 0 and arm.method in ("pci", "text blend") for arm, alpha in variants):
        raise ValueError(f"{chosen.name!r} has no opposite, so a prompt cannot be rewritten to it: give strengths above 0.")
    settings = {
        "model": bench.model.name, "fingerprint": bench.model.fingerprint, "concept": chosen.name, "opposite": chosen.opposite, "split": split,
        "scorer": bench.scorer.name, "scorer_fingerprint": bench.scorer.fingerprint, "units": bench.scorer.units,
        "calibrated": getattr(bench.scorer, "calibrated", None), "price": bench.price.name, "price_fingerprint": bench.price.fingerprint,
        **bench.run, "batch": bench.batch, "clips": clips, "rate": bench.rate, "group": chosen.group,
        "arms": {a.cell: {"strengths": by_cell[a.cell], **a.facts} for a in arms},
    }  # fmt: skip
    units = [
        {"concept": chosen.name, "prompt": pair.number, "text": pair.neutral, "towards": pair.clean,
         "away": pair.corrupted if chosen.opposite else "", "seed": seed_of(chosen.name, pair.number, n)}
        for pair in pairs for n in range(seeds)
    ]  # fmt: skip
    by_number = {pair.number: pair for pair in pairs}
    folder = Path(out) if out is not None else Path(tempfile.mkdtemp(prefix="audioscope-steer-"))

    def work(unit: dict[str, Any]) -> pd.DataFrame:
        return _do_unit(bench, unit, by_number[unit["prompt"]], variants, folder if clips else None, measured)

    table = run_units(folder, settings, units, work, progress, f"{desc} {chosen.name}")
    result = Steering(table, settings, folder)
    result.save(folder)
    return result


def _do_unit(
    bench: _Bench, unit: dict[str, Any], pair: Pair, variants: list[tuple[Arm, float]], folder: Path | None, measured: bool
) -> pd.DataFrame:
    """All arms and strengths of one prompt and seed: one line per arm and strength, the unsteered clip once for each arm."""
    rows = [Row(pair.neutral, unit["seed"])]
    rows += [Row(pair.neutral, unit["seed"], arm.on(pair, alpha, unit["seed"])) for arm, alpha in variants]
    audio, finite = bench.sound(rows)
    found = bench.heard(audio, finite)
    if measured:
        found = _measured(audio, finite, bench.rate).join(found)
    found["failed"], found["clip"] = ~finite, ""
    labels = [("", "", 0.0)] + [(arm.method, arm.sites, alpha) for arm, alpha in variants]
    found[["method", "sites", "alpha"]] = labels
    if folder is not None:
        for i, (method, sites, alpha) in enumerate(labels):
            if finite[i]:
                name = f"{safe_name(f'{method} {sites}')}_{alpha:+.9g}" if method else "unsteered"
                file = f"clips/{unit['prompt']:03d}-{key(unit)[:8]}/{name}.flac"
                Clip(audio[i].numpy(), bench.rate).save(folder / file)
                found.loc[i, "clip"] = file
    zero = found.iloc[:1]
    parts = [zero.assign(method=m, sites=s) for m, s in dict.fromkeys(label[:2] for label in labels[1:])]
    table = pd.concat([*parts, found.iloc[1:]], ignore_index=True)
    facts = {"model": bench.model.name, "concept": bench.concept.name, "opposite": bench.concept.opposite, **unit}
    return table.assign(**facts, cell=table["method"] + " " + table["sites"])


def _measured(audio: Tensor, finite: np.ndarray, rate: int) -> pd.DataFrame:
    """What plain measurements say of clips of which the first is the unsteered one; NaN where a clip is not finite."""
    found = pd.concat([measures.measure(audio, rate), measures.faults(audio)], axis=1).drop(columns="key")
    found["chroma"] = measures.chroma_similarity(audio, audio[:1].expand_as(audio), rate)
    beats = measures.beats(audio, rate)
    found["beat"] = [measures.beat_agreement(own, beats[0]) for own in beats]
    columns = found.columns.drop("silent")
    found[columns] = found[columns].astype("float32")
    found.loc[~finite, columns] = np.nan
    if not finite[0]:
        found[["chroma", "beat"]] = np.nan
    return found
