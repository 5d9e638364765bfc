"""One protocol for any way to steer: yours, at a concept's own layers and everywhere, with controls, in one row."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias
from zlib import crc32

import numpy as np
import pandas as pd

from audioscope.atlas.atlas import Atlas
from audioscope.concepts import Concept, Pair, choose, shipped_concepts
from audioscope.edits import Edit
from audioscope.errors import as_path, of_kind, one_or_more, plain_name, said, whole
from audioscope.model import Model
from audioscope.sites import Site
from audioscope.stats import holm, mean_with_interval
from audioscope.steer.caa import caa, steering_sites
from audioscope.steer.cells import RANDOM_DIRECTION, RANDOM_SETS, REWRITTEN, SHUFFLED_LABELS
from audioscope.steer.methods import SteeringMethod, prompt_switch_method, random_direction_method, random_sets, vector_method
from audioscope.steer.results import SteeringSweep
from audioscope.steer.sweeps import check_sweep, for_several
from audioscope.steer.tables import axes, compared, over_axes, steer_all, steerable
from audioscope.steer.vectors import SteeringVector
from audioscope.store import made_folder, safe_name
from audioscope.tracing import Row, Sampling, SamplingKeywords

Edits: TypeAlias = Callable[[Pair, float, int], Sequence[Edit]]
Maker: TypeAlias = Callable[[Model, Concept, tuple[Site, ...]], SteeringVector | Edits]
MEASURES = ("gain", "price", "specificity", "smoothness", "reliability", "localization", "choice")
TESTED = ("gain", "localization", "choice")  # those with a null hypothesis, of a difference of 0


def benchmark(
    model: Model,
    method: Maker,
    concepts: str | Iterable[str] | None = None,
    prompts: int = 12,
    *,
    name: str = "mine",
    draws: int = 2,
    atlas: Atlas | None = None,
    out: str | Path | None = None,
    **keywords: Any,
) -> pd.DataFrame:
    """Measure your own way to steer on the protocol that all methods here are measured on: every axis, at equal price, with controls.

    On each axis the method is made four times or more, always from pairs of split "build": at the concept's own layers and at all
    cross-attention layers; at `draws` random sets of as many layers as its own; and at its own layers from pairs of which one in each
    two is exchanged (shuffled labels). A random direction and the rewritten prompt stand beside them. Strengths are calibrated on split
    "select" to the distance of rewriting, and all that is reported comes from split "test". Resumes where it was interrupted.

    Args:
        model: The model to steer.
        method: Makes the method, from the model, a concept and the sites at which it may act. It returns a steering vector, or a function
            of (pair, strength, seed) that returns the edits of a run of `pair.neutral`, none of which may act at strength 0. Neither may
            act elsewhere: what cannot be localized is for `steering_sweep`.
        concepts: Names of axes; None means all (`axes`).
        prompts: The number of test prompts for each axis.
        name: The method's name.
        draws: How many random sets of layers.
        atlas: Tells which layers are a concept's own; None is the one that ships.
        out: Folder for the results, as `steer_all` writes them, and the sweeps; None is "runs/benchmark" and the name.
        **keywords: Those of `steering_sweep`, such as `seeds`, `workers` or `steps`.

    Returns:
        One row, whose index is the name; `pandas.concat` puts those of several methods together. axes and steers are the numbers of axes,
        and of those that it steers (`steerable`); of each measure there are the mean over axes, and its 95 % interval with axes as units (of one
        axis, with prompts as units, where known; columns ending in _low and _high).

        - gain: the AUC at its own layers; gain_p is against shuffled labels, or against the random direction for a method that makes
          nothing of its pairs, and so is the same with these.
        - price: the distance at which it has half of the gain of rewriting the prompt, as a share of the distance of rewriting; 1 if it
          does not get there.
        - specificity, smoothness: as in `SteeringSweep.summary`.
        - reliability: the share of prompts whose contribution to the AUC is positive.
        - localization: the AUC at its own layers minus that at all of them; choice: minus that at random layers.

        The p-values gain_p, localization_p and choice_p (Wilcoxon's signed-rank test over axes, or of one axis over prompts that of
        `SteeringSweep.compare`) are corrected after Holm.

    Raises:
        TypeError: `method` is not a function, or makes neither a vector nor a function.
        ValueError: Input is out of range, such as a name that a control has, or the method acts at other sites than it may.
        UnknownName: A concept does not exist (a KeyError that lists the nearest).

    Example:
        >>> def first_pair(model, concept, sites):
        ...     return audioscope.caa(model, concept, sites, pairs=2, progress=False, steps=2)
        >>> quick = {"prompts": 1, "seeds": 1, "strengths": [-1, 1], "steps": 2, "progress": False}
        >>> row = audioscope.steer.benchmark(model, first_pair, ["fast"], name="caa of 2 pairs", draws=1, out="mine", **quick)
        >>> row.index.tolist(), row["axes"].tolist()
        (['caa of 2 pairs'], [1])
    """
    of_kind("model", model, Model)
    if not callable(method):
        raise TypeError(f"method is {said(method)}, expected a function of (model, concept, sites).")
    if not isinstance(name, str) or not name.strip():
        raise ValueError(f"name is {said(name)}, expected the method's name, a text.")
    plain_name("The name of a method", name)
    if name.split(" ")[0] in (REWRITTEN.method, "random") or name == SHUFFLED_LABELS.method:
        raise ValueError(f"name is {name!r}, which begins like one of the controls: choose another.")
    keywords = for_several("benchmark", keywords)
    picked = choose(axes() if concepts is None else one_or_more(concepts))
    if own := next((concept for concept in picked if concept != shipped_concepts().get(concept.name)), None):
        raise ValueError(f"{own.name!r} has pairs of its own, expected shipped axes: for your own concepts, use steering_sweep.")
    chosen = [concept.name for concept in picked]
    draws = whole("draws", draws, 1)
    check_sweep(model, picked, prompts, **keywords)
    out = Path("runs/benchmark") / safe_name(name) if out is None else as_path(out)
    made_folder(out)
    how = model.sampling(**{each: keywords.get(each) for each in SamplingKeywords.__annotations__})

    def methods(concept: Concept, folder: Path) -> list[SteeringMethod]:
        own, everywhere = (steering_sites(model, concept, which, atlas) for which in ("own", "cross"))
        beside = random_layers(everywhere, own, draws, crc32(concept.name.encode()))
        places = [
            (name, "own", own),
            (name, "all", everywhere),
            *((name, f"{RANDOM_SETS} {n}", each) for n, each in enumerate(beside, 1)),
        ]
        made = [_made(method, model, concept, sites, label, where, how) for label, where, sites in places]
        made.append(_made(method, model, exchanged(concept), own, SHUFFLED_LABELS.method, SHUFFLED_LABELS.sites, how))
        chance = caa(model, concept, own, 2, progress=False, **how)
        return [*made, random_direction_method(chance.unit(), RANDOM_DIRECTION.sites), prompt_switch_method(how.steps)]

    table = steer_all(model, out, out / "sweeps", chosen, prompts, methods=methods, name="benchmark", **keywords)
    sweeps = {axis: SteeringSweep.load(out / "sweeps" / axis) for axis in dict.fromkeys(table["concept"])}
    return scored(sweeps, table, name)


def scored(sweeps: dict[str, SteeringSweep], table: pd.DataFrame, name: str) -> pd.DataFrame:
    """The row of `benchmark`, from finished sweeps by axis and their table."""
    own, everywhere, beside = f"{name} own", f"{name} all", f"{name} {RANDOM_SETS}"
    areas = [sweep.areas()["auc"] for sweep in sweeps.values()]
    same = all(abs(area[own] - area[str(SHUFFLED_LABELS)]) < 1e-9 for area in areas)
    beaten = (str(RANDOM_DIRECTION if same else SHUFFLED_LABELS), everywhere, beside)
    pairs = pd.concat([compared(sweep, [(own, other) for other in beaten]) for sweep in sweeps.values()], ignore_index=True)
    mine = steerable(table).query("cell == @own").set_index("concept")
    each = {
        "gain": mine["auc"], "price": [price(sweep, own) for sweep in sweeps.values()], "specificity": mine["specificity"],
        "smoothness": mine["smoothness"], "reliability": [float((sweep.contributions()[own] > 0).mean()) for sweep in sweeps.values()],
        "localization": pairs.query("other == @everywhere")["more"], "choice": pairs.query("other == @beside")["more"],
    }  # fmt: skip
    found: dict[str, Any] = {"axes": len(sweeps), "steers": int((mine["steerable"] == True).sum())}  # noqa: E712 (may be None)
    for measure, values in each.items():
        found |= dict(zip((measure, f"{measure}_low", f"{measure}_high"), mean_with_interval(values), strict=True))
    raw = [over_axes(pairs, own, other)["rank_p"] for other in beaten]
    if len(sweeps) == 1:  # then prompts are the units
        found |= {"gain_low": float(mine["auc_low"].iloc[0]), "gain_high": float(mine["auc_high"].iloc[0])}
        for measure, other in zip(TESTED[1:], beaten[1:], strict=True):
            found |= {f"{measure}_{end}": float(pairs.loc[pairs["other"] == other, end].iloc[0]) for end in ("low", "high")}
        raw = [float(pairs.loc[pairs["other"] == other, "p"].iloc[0]) for other in beaten]
    found |= dict(zip((f"{measure}_p" for measure in TESTED), holm(np.array(raw)), strict=True))
    return pd.DataFrame([found], index=pd.Index([name], name="method"))


def price(sweep: SteeringSweep, cell: str) -> float:
    """The distance at which a cell has half of the gain of rewriting, as a share of the distance of rewriting; mean of both sides."""
    points = sweep.points()
    shares = []
    for side in (1, -1):
        near = points[points["strength"] * side >= 0].sort_values("strength", key=abs)
        goal, mine = (near[near["cell"] == each] for each in (str(REWRITTEN), cell))
        if len(goal) < 2 or len(mine) < 2:
            continue
        wanted = side * (goal["score"].iloc[-1] - goal["score"].iloc[0]) / 2
        gains, distances = side * (mine["score"] - mine["score"].iloc[0]).to_numpy(float), mine["distance"].to_numpy(float)
        if wanted <= 0:
            continue
        after = np.flatnonzero(gains >= wanted)
        if not len(after):
            shares.append(1.0)
            continue
        one, two = after[0] - 1, after[0]
        part = (wanted - gains[one]) / (gains[two] - gains[one])
        there = distances[one] + part * (distances[two] - distances[one])
        shares.append(min(1.0, float(there / goal["distance"].iloc[-1])))
    return float(np.mean(shares)) if shares else np.nan


def random_layers(everywhere: Sequence[Site], own: Sequence[Site], draws: int, seed: int) -> list[tuple[Site, ...]]:
    """The sites of `random_sets`, in running order."""
    mine = [site.path for site in own]
    sets = random_sets([site.path for site in everywhere if site.path not in mine], mine, draws, seed)
    return [tuple(site for site in everywhere if site.path in drawn) for drawn in sets]


def exchanged(concept: Concept) -> Concept:
    """The concept with the two prompts exchanged in one of each two pairs that vectors are made from, drawn by lot: shuffled labels."""
    build, rng = concept.split("build"), np.random.default_rng(crc32(concept.name.encode()))
    chosen = {two[int(rng.integers(2))].index for two in zip(build[::2], build[1::2], strict=False)}

    def swapped(pair: Pair) -> Pair:
        if pair.index not in chosen:
            return pair
        if concept.opposite:
            return replace(pair, clean=pair.corrupted, corrupted=pair.clean)
        return replace(pair, clean=pair.neutral, neutral=pair.clean)

    return replace(concept, pairs=tuple(swapped(pair) for pair in concept.pairs))


def _made(
    method: Maker, model: Model, concept: Concept, sites: tuple[Site, ...], name: str, where: str, how: Sampling
) -> SteeringMethod:
    """The method at some sites, with what it does to a test prompt among its metadata: a sweep resumes only if that is the same."""
    made = method(model, concept, sites)
    if isinstance(made, SteeringVector):
        found = vector_method(made, where, name)
    elif callable(made):
        found = SteeringMethod(name, where, made, {"at": [site.path for site in sites]})
    else:
        raise TypeError(f"The method made {said(made)}, expected a SteeringVector or a function of (pair, strength, seed).")
    pair, may = concept.split("test")[0], {site.path for site in sites}
    rows = [Row(pair.neutral, 0), *(Row(pair.neutral, 0, found.on(pair, strength, 0)) for strength in (1.0, -1.0))]
    for edit in (*rows[1].edits, *rows[2].edits):
        if other := next((site for site in edit.where(model.sites) if site.path not in may and site.module not in may), None):
            raise ValueError(
                f"The method {name!r} acts at {other.path}, which is not among the {len(sites)} sites that it was given."
            )
    plain, *steered = model.run(rows, decode=False, **how).latents.float()
    return replace(found, metadata={**found.metadata, "moves": [f"{float((each - plain).norm()):.3g}" for each in steered]})
