"""The steering sweep: every method at every strength, on prompts that never name the concept, and what comes out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import pandas as pd
from torch import Tensor

from audioscope.atlas.atlas import Atlas
from audioscope.audio import Clip
from audioscope.concepts import Concept, Pair, Pairs, choose_one
from audioscope.errors import listed, of_kind, one_or_more, real, said, texts, truth, whole, with_columns
from audioscope.merging import Part, checked_part, merge_parts, units_of
from audioscope.model import Model
from audioscope.scoring import measures
from audioscope.scoring.scorers import (
    Scorer,
    check_scores,
    completed,
    default_scorer,
    feature_distance,
    listener_scorer,
    opinions,
    same_scorer,
    scores_of,
    try_scorers,
)
from audioscope.steer.caa import caa, steering_sites
from audioscope.steer.cells import REWRITTEN, TEXT_BLEND
from audioscope.steer.methods import SteeringMethod, prompt_switch_method, standard_methods, vector_method
from audioscope.steer.results import SteeringSweep, between_ends
from audioscope.steer.vectors import SteeringVector
from audioscope.store import content_hash, made_folder, results_folder, run_units, safe_name
from audioscope.tracing import Row, Sampling, SamplingKeywords
from audioscope.workers import Ray, Workers, checked_workers, silence, spread

BATCH = 16  # rows per batch: larger batches are not faster on a CPU
GRID = (0.3, 0.8, 2.0, 5.0)  # strengths that a calibration tries
TRIED = (1 / 3, 2 / 3, 1.0)  # shares of the largest strength, tried instead if a method has one
# Shares of the calibrated strength. The last goes well beyond the budget, which differs between prompts: the area of a curve that
# ends before the budget cannot be compared.
SHARES = (0.4, 0.7, 1.0, 1.3, 1.9)
BOTH_SHARES = (0.6, 1.0, 1.8)  # on each of two sides


TAKEN = ("scored", "clipped", "repriced", "exchanged")  # names of columns and views


@dataclass(frozen=True)
class _Bench:
    """A model, a concept and its scorers, checked: generates rows and measures the clips.

    scorer: measures the gain. price: its network measures the distance; a different network if there are two. also: second opinions
    on the gain.
    """

    model: Model
    concept: Concept
    scorer: Any
    price: Any
    run: Sampling
    batch_size: int
    workers: int | Ray | None
    also: tuple[Any, ...] = ()

    @property
    def ends(self) -> list[str]:
        return [name for name in (self.concept.name, self.concept.opposite) if name]

    def of(self, concept: Concept) -> _Bench:
        """The same for another concept. Raises ValueError if a scorer does not know it."""
        bench = replace(self, concept=concept)
        for each in (bench.scorer, *bench.also):
            for name in bench.ends:
                check_scores(each, name)
        return bench

    def pairs(self, split: str, count: int, without: Iterable[str] = ()) -> tuple[Pair, ...]:
        seen = set(texts("without", without))
        found = tuple(pair for pair in self.concept.neutral_pairs(split) if pair.neutral not in seen)
        count = whole(
            "prompts", count, 1, len(found), f", the available neutral prompts of {self.concept.name!r} in split {split!r}"
        )
        return found[:count]

    def sound(self, rows: Sequence[Row]) -> tuple[Tensor, np.ndarray]:
        """Audio [rows, channels, samples] with NaN replaced by silence, and which rows are finite, [rows]."""
        run = self.model.run_in_batches(rows, self.batch_size, **self.run)
        assert run.audio is not None
        return run.audio, run.finite.numpy()

    def silence(self, rows: Sequence[Row]) -> tuple[Tensor, np.ndarray]:
        """The same for rows that could not be generated."""
        audio, finite = silence(self.model, len(rows), self.run)
        return audio, finite.numpy()

    def features(self, scorer: Any, audio: Tensor) -> list[Tensor]:
        """A network's layers, from which distances are computed, with their last axis averaged: time, or CLAP's 10 s windows."""
        return [values.mean(-1) for values in scorer.layers(audio, self.model.rate)]

    def distances(self, scorer: Any, audio: Tensor, finite: np.ndarray) -> np.ndarray:
        """How different each clip sounds from the first, to a scorer's network, [clips]; NaN where either is not finite."""
        layers = self.features(scorer, audio)
        far = feature_distance(layers, [values[:1].expand_as(values) for values in layers]).cpu().numpy()
        return np.where(finite & finite[0], far, np.nan)

    def heard(self, audio: Tensor, finite: np.ndarray) -> pd.DataFrame:
        """What all scorers measure in clips, the first of which is unsteered.

        Columns: `score`, `distance`, "scored ..." for each concept, the other scorers' scores of the ends, and, if the price has a
        network of its own, the distance by the scorer's network.
        """
        scores = scores_of(self.scorer, audio, self.model.rate)
        found = pd.DataFrame({"distance": self.distances(self.price, audio, finite)}).join(scores.add_prefix("scored "))
        for other in (*(() if self.price is self.scorer else (self.price,)), *self.also):
            theirs = scores_of(other, audio, self.model.rate)
            for name in self.ends:
                if name in theirs:
                    found[f"{other.name} scored {name}"] = theirs[name]
        if self.price is not self.scorer and hasattr(self.scorer, "layers"):
            found[f"distance of {self.scorer.name}"] = self.distances(self.scorer, audio, finite)
        found.insert(0, "score", between_ends(found, "scored ", self.concept.name, self.concept.opposite))
        found = found.astype("float32")
        found.loc[~finite] = np.nan
        return found


def for_several(name: str, keywords: Mapping[str, Any]) -> dict[str, Any]:
    """Keywords that serve several sweeps: a list of what the first sweep would use up. Raises TypeError for `part`, in which none is whole."""
    if "part" in keywords:
        raise TypeError(f"{name} has no argument 'part': its results are of whole sweeps.")

    def kept(value: Any) -> Any:
        return list(value) if isinstance(value, Iterator) else value

    again = {each: kept(value) for each, value in keywords.items()}
    if isinstance(given := again.get("strengths"), Mapping):
        again["strengths"] = {cell: kept(value) for cell, value in given.items()}
    return again | ({"also": opinions(again["also"])} if "also" in again else {})


def check_sweep(model: Model, concepts: Sequence[Concept], prompts: int, **keywords: Any) -> None:
    """Check what can be checked of sweeps to come before their methods are made. Raises as `steering_sweep` does, TypeError for unknown keywords."""
    if unknown := [
        each for each in keywords if each not in (*signature(steering_sweep).parameters, *SamplingKeywords.__annotations__)
    ]:
        raise TypeError(f"A steering sweep has no argument {unknown[0]!r}.")
    sampling: Any = {each: keywords[each] for each in SamplingKeywords.__annotations__ if each in keywords}
    bench = bench_of(model, concepts[0], keywords.get("scorer"), keywords.get("price"), keywords.get("batch_size", BATCH),
                     keywords.get("workers"), sampling, keywords.get("also"))  # fmt: skip
    for concept in concepts:
        bench.of(concept).pairs(keywords.get("split", "test"), prompts, keywords.get("without", ()))
    whole("seeds", keywords.get("seeds", 2), 1)
    _checked_grid(keywords.get("grid", GRID))
    strengths = keywords.get("strengths")
    for each in strengths.values() if isinstance(strengths, Mapping) else [] if strengths is None else [strengths]:
        for value in one_or_more(each):
            real("strengths", value)


def check_sides(concept: Concept, methods: Iterable[tuple[SteeringMethod, float]]) -> None:
    """Raises ValueError if a method at a strength moves away from an opposite that the concept does not have."""
    if concept.opposite:
        return
    for method, strength in methods:
        if method.metadata.get("against") == "opposite":
            raise ValueError(
                f"{concept.name!r} has no opposite, which {method.cell!r} moves away from: make it with against='neutral'."
            )
        if strength < 0 and method.name in (REWRITTEN.method, TEXT_BLEND):
            raise ValueError(f"{concept.name!r} has no opposite, so a prompt cannot be rewritten to it: use strengths above 0.")


def bench_of(
    model: Model,
    concept: str | Concept | Pairs,
    scorer: Scorer | None,
    price: Scorer | None,
    batch_size: int,
    workers: Workers,
    sampling: SamplingKeywords,
    also: Iterable[Scorer] | None = None,
) -> _Bench:
    of_kind("model", model, Model).check_unsteered("a sweep")
    chosen = choose_one(concept)
    if scorer is None and model.adapter.is_tiny:
        scorer, price = listener_scorer("judge"), price or listener_scorer()
    scorer = default_scorer(model) if scorer is None else completed(scorer)
    size = whole("batch_size", batch_size, 1)
    price = scorer if price is None or same_scorer(completed(price), scorer) else completed(price)
    others = opinions(also)
    for place, other in enumerate(others):
        if same_scorer(other, scorer) or same_scorer(other, price):
            which = "scorer" if same_scorer(other, scorer) else "price (its gains are those of `swapped`)"
            raise ValueError(f"also contains {other.name!r}, which is the {which} already: leave it out.")
        if other.name in TAKEN or other.name in [each.name for each in (scorer, price, *others[:place])]:
            raise ValueError(f"also contains a scorer named {other.name!r}, and that name is taken: give it another.")
    bench = _Bench(model, chosen, scorer, price, model.sampling(**sampling), size, checked_workers(workers), others).of(chosen)
    if not hasattr(bench.price, "layers"):
        raise ValueError(
            f"The scorer {bench.price.name!r} has no layers(), from which the distance to the unsteered clip is computed: "
            "pass another scorer as price=."
        )
    try_scorers({id(each): each for each in (scorer, bench.price, *others)}.values(), model, bench.run.seconds)
    for each in (scorer, bench.price):
        if hasattr(each, "layers"):
            noise, _ = silence(model, 2, bench.run)
            layers = each.layers(noise, model.rate)
            if not isinstance(layers, Sequence) or not all(isinstance(x, Tensor) and x.ndim > 1 and len(x) == 2 for x in layers):
                raise ValueError(
                    f"layers() of the scorer {each.name!r} returned {said(layers)}, expected a list of tensors [clips, ...]."
                )
    return bench


def calibrate(
    model: Model,
    concept: str | Concept | Pairs,
    methods: Sequence[SteeringMethod],
    budget: float | None = None,
    *,
    grid: Sequence[float] = GRID,
    split: str = "select",
    prompts: int = 6,
    without: Iterable[str] = (),
    scorer: Scorer | None = None,
    price: Scorer | None = None,
    batch_size: int = BATCH,
    out: str | Path | None = None,
    workers: Workers = None,
    progress: bool = True,
    **sampling: Unpack[SamplingKeywords],
) -> pd.DataFrame:
    """Find the strength at which each method moves clips by the same distance from the unsteered ones, to compare all at equal price.

    The strengths in `grid` are tried on prompts of the selection split, and the distance is interpolated between them; scores play
    no part.

    Args:
        model: The model.
        concept: One concept, as for `audioscope.caa`.
        methods: The methods to calibrate.
        budget: A value of the sweep's `distance`; None is the distance of rewriting the prompt, for each side.
        grid: The strengths to try, above 0.
        split: Which neutral prompts, see `Concept.split`.
        prompts: How many of them.
        without: Neutral prompts to leave out.
        scorer, price: As for `steering_sweep`.
        batch_size: Rows at a time.
        out: Folder for the results of the trial, resumed if it exists, and readable by `SteeringSweep.load`; None is a temporary one.
        workers: In how many processes, as for `audioscope.localize`.
        progress: Whether to show a progress bar.
        **sampling: `steps`, `guidance`, `seconds`, `negative_prompt`; the model's defaults if omitted.

    Returns:
        One row per method and side, with the columns cell, side (1, and -1 if the concept has an opposite), strength, budget, distance
        (at that strength, by interpolation) and reached (False if even the largest strength stays short of the budget; the row then
        contains that strength).

    Raises:
        ValueError: Input is out of range.

    Example:
        >>> methods = [audioscope.steer.vector_method(audioscope.datasets.vector("fast"), "all")]
        >>> found = audioscope.steer.calibrate(model, "fast", methods, grid=[1.0, 4.0], prompts=1, steps=2, progress=False)
        >>> found["side"].tolist(), found.columns.tolist()
        ([1, -1], ['cell', 'side', 'strength', 'budget', 'distance', 'reached'])
    """
    bench = bench_of(model, concept, scorer, price, batch_size, workers, sampling)
    grid, methods = _checked_grid(grid), checked_methods(methods)
    budget = None if budget is None else real("budget", budget)
    if budget is not None and not budget > 0:
        raise ValueError(f"budget is {budget}, expected a distance above 0, or None for the distance of rewriting the prompt.")
    sides = (1, -1) if bench.concept.opposite else (1,)
    tried_methods = list(methods)
    if str(REWRITTEN) not in [method.cell for method in methods]:
        tried_methods.append(prompt_switch_method(bench.run["steps"]))
    sizes = {m.cell: sorted(grid) if m.largest is None else [m.largest * share for share in TRIED] for m in tried_methods}
    strengths = {cell: [side * size for side in sides for size in each] for cell, each in sizes.items()}
    pairs = bench.pairs(split, prompts, without)
    trial = _run(bench, tried_methods, strengths, pairs, 1, split, out, progress, trial=True)
    distance = trial.points().set_index(["cell", "strength"])["distance"]
    lines = []
    for side in sides:
        limit = float(distance[str(REWRITTEN), float(side)]) if budget is None else budget
        for method in methods:
            if method.largest is not None:
                strength, far = method.largest, np.nan
            else:
                mine = distance[method.cell]
                mine = mine[mine.index * side > 0].sort_index(key=abs)
                strength, far = _strength_at(limit, np.abs(mine.index.to_numpy(float)), mine.to_numpy(float))
            lines.append({"cell": method.cell, "side": side, "strength": side * strength, "budget": limit, "distance": far,
                          "reached": not far < limit * 0.999})  # fmt: skip
    return pd.DataFrame(lines)


def _checked_grid(grid: Any) -> list[float]:
    found = [real("grid", size) for size in one_or_more(grid)]
    if not found or min(found) <= 0:
        raise ValueError(f"grid is {said(grid)}, expected strengths above 0.")
    return found


def checked_methods(methods: Any) -> list[SteeringMethod]:
    """Ways to steer, as a list: one or several, or a vector. Raises for what is none."""
    if isinstance(methods, SteeringVector):
        return [vector_method(methods, "vector's")]
    several = (
        [methods]
        if isinstance(methods, SteeringMethod)
        else listed("methods", methods, "a list of steering methods, or a steering vector")
    )
    if wrong := [method for method in several if not isinstance(method, SteeringMethod)]:
        raise TypeError(f"methods contains {said(wrong[0])}, expected steering methods such as vector_method(vector, 'all').")
    if not several:
        raise ValueError("methods is empty, expected at least one way to steer.")
    return several


def _strength_at(budget: float, strengths: np.ndarray, distances: np.ndarray) -> tuple[float, float]:
    """The strength, at most the largest, at which an increasing curve of distances reaches a budget, and the distance there.

    Between two strengths, and below the smallest, the distance is modeled as a power of the strength.
    """
    logs = np.log(strengths), np.log(np.maximum.accumulate(np.maximum(distances, 1e-9)))
    if logs[1][0] > np.log(budget):  # below all that were tried: a squared distance grows roughly with the square of the strength
        return float(np.exp(logs[0][0] - (logs[1][0] - np.log(budget)) / 2)), budget
    strength = float(np.exp(np.interp(np.log(budget), logs[1], logs[0])))
    return strength, min(budget, float(np.exp(logs[1][-1])))


def strengths_from(calibration: pd.DataFrame, steps: int) -> dict[str, list[float]]:
    """Six or seven strengths per cell of a calibration, from 0 to well beyond the budget, for `steering_sweep`.

    Args:
        calibration: What `calibrate` returned.
        steps: Denoising steps of the sweep; strengths of prompt switching are multiples of 1 / steps.

    Returns:
        The strengths by cell.

    Example:
        >>> import pandas as pd
        >>> found = pd.DataFrame({"cell": ["caa all"], "strength": [2.0]})
        >>> [round(strength, 2) for strength in audioscope.steer.strengths_from(found, 10)["caa all"]]
        [0.0, 0.8, 1.4, 2.0, 2.6, 3.8]
    """
    with_columns("calibration", calibration, ("cell", "strength"), "calibrate")
    result = {}
    for name, rows in calibration.groupby("cell", sort=False):
        shares: tuple[float, ...] = BOTH_SHARES if len(rows) > 1 else SHARES
        if str(name).partition(" ")[0] == REWRITTEN.method:
            shares = tuple(max(1, round(steps * i / len(shares))) / steps for i in range(1, len(shares) + 1))
        result[str(name)] = sorted({0.0, *(float(s) * share for s in rows["strength"] for share in shares)})
    return result


def steering_sweep(
    model: Model,
    concept: str | Concept | Pairs,
    methods: Sequence[SteeringMethod] | SteeringVector | None = None,
    strengths: Sequence[float] | Mapping[str, Sequence[float]] | None = None,
    *,
    prompts: int = 8,
    seeds: int = 2,
    split: str = "test",
    without: Iterable[str] = (),
    scorer: Scorer | None = None,
    price: Scorer | None = None,
    also: Iterable[Scorer] | None = None,
    atlas: Atlas | None = None,
    batch_size: int = BATCH,
    out: str | Path | None = None,
    grid: Sequence[float] = GRID,
    clips: bool = False,
    workers: Workers = None,
    part: Part = None,
    progress: bool = True,
    **sampling: Unpack[SamplingKeywords],
) -> SteeringSweep:
    """Steer neutral prompts toward a concept with several methods and strengths, and measure the gain and the price.

    A unit of the sweep is one prompt and seed with all methods and strengths.

    Args:
        model: The model.
        concept: One concept with neutral prompts, as for `audioscope.caa`.
        methods: Ways to steer, such as `standard_methods` returns; one vector; or None for the standard methods, with vectors made by
            `caa`.
        strengths: For all methods, or by cell (`method.cell`); strength 0 is always added. None calibrates each method on the
            selection split, with the strengths in `grid` (see `calibrate`).
        prompts: How many neutral prompts of the split.
        seeds: Seeds of each prompt.
        split: Which neutral prompts, see `Concept.split`.
        without: Neutral prompts to leave out, such as those that an SAE was trained on.
        scorer: Measures the gain.
        price: Measures the distance from the unsteered clip, by its network's layers, and so sets the strengths; pass a different
            network from the scorer's, or what pleases one network counts twice. If both are None, they are the judge and the listener
            for `tiny`, and otherwise both are the model's own scorer.
        also: Further scorers of the same clips that know the concept and its opposite, for `SteeringSweep.heard_by`.
        atlas: For the standard methods, an atlas of the model; None is the one that ships.
        batch_size: Rows at a time.
        out: Folder for the results, including vectors and calibration, resumed if it exists; None is a temporary one.
        grid: Strengths that a calibration tries.
        clips: Whether to keep the audio.
        workers: In how many processes, as for `audioscope.localize`.
        part: Do only one of several equal parts, such as "3/8", for batch systems; `audioscope.steer.merge` puts them together. It
            needs `methods` and `strengths`, which would otherwise be worked out again in each part. None is the whole sweep.
        progress: Whether to show a progress bar.
        **sampling: `steps`, `guidance`, `seconds`, `negative_prompt`; the model's defaults if omitted.

    Returns:
        The sweep, with curves, areas and comparisons; of one part, only what that part did, and not saved.

    Raises:
        ValueError: Input is out of range, or `out` holds another sweep. Nothing has been generated then.
        UnknownName: A concept or site does not exist (a KeyError that lists the nearest).

    Example:
        >>> vector = audioscope.datasets.vector("fast")
        >>> sweep = audioscope.steer.steering_sweep(model, "fast", vector, [-2, 2], prompts=1, seeds=1, steps=4, progress=False)
        >>> sweep.table[["cell", "strength"]].values.tolist()
        [["caa vector's", 0.0], ["caa vector's", -2.0], ["caa vector's", 2.0]]
    """
    clips = truth("clips", clips)
    bench = bench_of(model, concept, scorer, price, batch_size, workers, sampling, also)
    chosen = bench.concept
    without = set(texts("without", without))
    grid = _checked_grid(grid)
    if strengths is not None:  # before any vector is made
        given = strengths.items() if isinstance(strengths, Mapping) else [("", strengths)]
        values = {name: [real("strengths", value) for value in one_or_more(each)] for name, each in given}
        strengths = values if isinstance(strengths, Mapping) else values[""]
    chosen_methods = None if methods is None else checked_methods(methods)
    if atlas is not None and not isinstance(atlas, Atlas):
        raise ValueError(f"atlas is {said(atlas)}, expected an Atlas, or None for the one that ships.")
    pairs = bench.pairs(split, prompts, without)
    seeds = whole("seeds", seeds, 1)
    mine = checked_part(part)
    if mine is not None and (chosen_methods is None or strengths is None or out is None):
        raise ValueError("part needs methods=, strengths= and out=, so that all parts do the same and are found for merging.")
    folder = results_folder(out, "steer")
    made_folder(folder)
    if chosen_methods is None:
        for which in ("functional", "own"):
            steering_sites(model, chosen, which, atlas)  # raises before the vector is made
        built = min(50, len(chosen.split("build")))
        vector, shuffled = (
            caa(
                model,
                chosen,
                "cross",
                built,
                normalize=False,
                shuffle=shuffle,
                file=folder / name,
                workers=workers,
                progress=progress,
                **sampling,
            ).half()
            for name, shuffle in (("vector", None), ("shuffled", 0))
        )
        chosen_methods = standard_methods(model, chosen, vector, shuffled, atlas, bench.run.steps)
    if strengths is None:
        found = calibrate(
            model, chosen, chosen_methods, grid=grid, without=without, scorer=bench.scorer, price=bench.price, batch_size=batch_size,
            out=folder / "calibration", workers=workers, progress=progress, **sampling
        )  # fmt: skip
        strengths = strengths_from(found, bench.run["steps"])
    names = [method.cell for method in chosen_methods]
    by_cell = dict(strengths) if isinstance(strengths, Mapping) else dict.fromkeys(names, strengths)
    if set(by_cell) != set(names):
        raise ValueError(f"strengths names {sorted(by_cell)}, but the methods are {names}.")
    return _run(bench, chosen_methods, by_cell, pairs, seeds, split, folder, progress, clips, part=mine)


def merge(folders: str | Path | Iterable[str | Path], out: str | Path) -> SteeringSweep:
    """Put the parts of a sweep together that `steering_sweep(..., part="3/8")` did, without the model.

    Args:
        folders: The folders of the parts, or the one that they all used.
        out: Folder for the whole sweep, which may be one of them.

    Returns:
        The sweep, saved in `out`.

    Raises:
        FileNotFoundError: A folder holds no part of a sweep.
        ValueError: The parts are of different sweeps, or units are missing; the message names the parts that lack them.

    Example:
        >>> vector, quick = audioscope.datasets.vector("fast"), {"seeds": 1, "steps": 1, "progress": False}
        >>> for part in ("1/2", "2/2"):
        ...     folder = "parts/" + part[0]
        ...     there = audioscope.steer.steering_sweep(model, "fast", vector, 1, prompts=2, part=part, out=folder, **quick)
        >>> audioscope.steer.merge(["parts/1", "parts/2"], "merged").table["prompt"].nunique()
        2
    """
    table, settings, folder = merge_parts(
        folders, out, "steering", ("concept", "cell", "prompt", "seed", "strength", "score", "distance")
    )
    sweep = SteeringSweep(table, settings, folder)
    sweep.save(folder)
    return sweep


def _run(
    bench: _Bench, methods: Sequence[SteeringMethod], strengths: Mapping[str, Sequence[float]], pairs: Sequence[Pair], seeds: int, split: str,
    out: str | Path | None, progress: bool, clips: bool = False, trial: bool = False, part: tuple[int, int] | None = None,
) -> SteeringSweep:  # fmt: skip
    """Run a sweep with everything chosen. trial: without tempo, key and so on, which take a third of the time."""
    chosen = bench.concept
    names = [method.cell for method in methods]
    if len(set(names)) < len(names):
        raise ValueError(f"Duplicate method names: {names}.")
    by_cell = {
        name: sorted({0.0, *(real("strengths", value) for value in one_or_more(values))}) for name, values in strengths.items()
    }
    variants = [(method, strength) for method in methods for strength in by_cell[method.cell] if strength]
    if not variants:
        raise ValueError("All strengths are 0, so nothing would be steered: expected at least one other.")
    for method, strength in variants:
        if not abs(strength) < 1e6:
            raise ValueError(f"Strength {strength} of {method.cell!r} is not finite, or not below 1e6 in magnitude.")
        if method.largest is not None and abs(strength) > method.largest:
            raise ValueError(
                f"Strength {strength:g} of {method.cell!r} is out of range: expected at most {method.largest:g} in magnitude."
            )
    check_sides(chosen, variants)
    settings = {
        **bench.model.state, "concept": chosen.name, "opposite": chosen.opposite, "split": split,
        "scorer": bench.scorer.name, "scorer_fingerprint": bench.scorer.fingerprint, "units": bench.scorer.units,
        "calibrated": getattr(bench.scorer, "calibrated", None), "price": bench.price.name, "price_fingerprint": bench.price.fingerprint,
        **bench.run, "batch_size": bench.batch_size, "clips": clips, "rate": bench.model.rate, "group": chosen.group,
        "methods": {a.cell: {"strengths": by_cell[a.cell], **a.metadata} for a in methods},
    }  # fmt: skip
    if bench.also:
        settings["also"] = {s.name: {"scorer_fingerprint": s.fingerprint, "units": s.units, "calibrated": getattr(s, "calibrated", None)}
                            for s in bench.also}  # fmt: skip
    units = [
        {"concept": chosen.name, "prompt": pair.index, "text": pair.neutral, "towards": pair.clean,
         "away": pair.corrupted if chosen.opposite else "", "seed": chosen.seed(pair, n)}
        for pair in pairs for n in range(seeds)
    ]  # fmt: skip
    by_number = {pair.index: pair for pair in pairs}
    folder = results_folder(out, "steer")

    def work(unit: dict[str, Any], folder: Path, lost: bool = False) -> pd.DataFrame:
        return _do_unit(bench, unit, by_number[unit["prompt"]], variants, folder if clips else None, trial, lost)

    share = partial(spread, bench.model, bench.workers)
    units = list(units_of(part, units, folder, "steering", settings, settings))
    table = run_units(folder, settings, units, work, progress, f"{'calibrating' if trial else 'steering'} {chosen.name}", share)
    result = SteeringSweep(table, settings, folder)
    if part is None:
        result.save(folder)
    return result


def _do_unit(
    bench: _Bench,
    unit: dict[str, Any],
    pair: Pair,
    variants: list[tuple[SteeringMethod, float]],
    folder: Path | None,
    trial: bool,
    lost: bool,
) -> pd.DataFrame:
    """All methods and strengths of one prompt and seed: one row per method and strength, the unsteered clip once per method.

    lost: none of them could be generated.
    """
    rows = [Row(pair.neutral, unit["seed"])]
    rows += [Row(pair.neutral, unit["seed"], method.on(pair, strength, unit["seed"])) for method, strength in variants]
    audio, finite = bench.silence(rows) if lost else bench.sound(rows)
    found = bench.heard(audio, finite)
    if not trial:
        found = _measured(audio, finite, bench.model.rate).join(found)
    found["failed"], found["clip"] = ~finite, ""
    labels = [("", "", 0.0)] + [(method.name, method.sites, strength) for method, strength in variants]
    found[["method", "sites", "strength"]] = labels
    if folder is not None:
        for i, (method, sites, strength) in enumerate(labels):
            if finite[i]:
                name = f"{safe_name(f'{method} {sites}')}_{strength:+.9g}" if method else "unsteered"
                file = f"clips/{unit['prompt']:03d}-{content_hash(unit)[:8]}/{name}.flac"
                Clip(audio[i].numpy(), bench.model.rate).save(folder / file)
                found.loc[i, "clip"] = file
    zero = found.iloc[:1]
    parts = [zero.assign(method=m, sites=s) for m, s in dict.fromkeys(label[:2] for label in labels[1:])]
    table = pd.concat([*parts, found.iloc[1:]], ignore_index=True)
    metadata = {"model": bench.model.name, "concept": bench.concept.name, "opposite": bench.concept.opposite, **unit}
    return table.assign(**metadata, cell=table["method"] + " " + table["sites"])


def _measured(audio: Tensor, finite: np.ndarray, rate: int) -> pd.DataFrame:
    """Plain measurements of clips, the first of which is unsteered; NaN where a clip is not finite."""
    heard = measures.measure_beside_first(audio, rate).drop(columns="key")
    both = ["chroma", "beat"]
    found = pd.concat([heard.drop(columns=both), measures.faults(audio), heard[both]], axis=1)
    columns = found.columns.drop("silent")
    found[columns] = found[columns].astype("float32")
    found.loc[~finite, columns] = np.nan
    if not finite[0]:
        found[["chroma", "beat"]] = np.nan
    return found
