"""Several vectors at once: which pairs of them leave each other's gain."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any, Unpack

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from audioscope.concepts import choose_one
from audioscope.errors import all_of, of_kind, quiet, real, said, whole
from audioscope.model import Model
from audioscope.scoring.scorers import Scorer, scores_of
from audioscope.stats import Ratio, ratio_of_means
from audioscope.steer.results import between_ends
from audioscope.steer.sweeps import BATCH, bench_of
from audioscope.steer.vectors import AddVector, SteeringVector
from audioscope.tracing import Row, SamplingKeywords

KEEP = 0.5  # the least share of its gain that a vector keeps beside another


def interference(
    model: Model, vectors: Mapping[Any, SteeringVector], strengths: float | Mapping[Any, float] = 1.0, *, prompts: int = 8,
    split: str = "select", scorer: Scorer | None = None, price: Scorer | None = None, batch_size: int = BATCH, progress: bool = True,
    **sampling: Unpack[SamplingKeywords],
) -> pd.DataFrame:  # fmt: skip
    """Measure, for each two of several vectors, what is left of each one's gain when both steer, and what both cost.

    Each prompt is generated unsteered, with one vector, with the other, and with both. Half of the prompts are neutral in one concept,
    half in the other; they may name what the other stands against, since no shipped prompt is neutral in everything.

    Args:
        model: The model to steer.
        vectors: Vectors by the concepts that they steer toward (names or Concept values), at least two.
        strengths: How strong each is, one number or one by concept.
        prompts: How many neutral prompts for each two.
        split: Which of them, see `Concept.split`.
        scorer, price: As for `steering_sweep`.
        batch_size: Rows at a time.
        progress: Whether to show a progress bar.
        **sampling: `steps`, `guidance`, `seconds`, `negative_prompt`; the model's defaults if omitted.

    Returns:
        One row per two vectors with the columns one, other, gain_one and gain_other (alone, in the scorer's units), kept_one and
        kept_other (the share of the gain that is left with both), each with _low and _high (95 %; NaN, as the share, where the gain
        alone may be 0, or goes against the strength), distance_one, distance_other and distance (with both), prompts, and fit: whether
        both keep at least half of their gain and cost together no more than both alone; missing where a share is unknown.

    Raises:
        ValueError: Input is out of range, or the scorer does not know a concept.
        UnknownName: There is no such concept (a KeyError that lists the nearest).

    Example:
        >>> vectors = {name: audioscope.datasets.vector(name).unit() for name in ("fast", "happy")}
        >>> table = audioscope.steer.interference(model, vectors, 0.7, prompts=2, steps=2, progress=False)
        >>> table[["one", "other", "prompts"]].values.tolist()
        [['fast', 'happy', 2]]
    """
    of_kind("model", model, Model)
    if not isinstance(vectors, Mapping) or len(vectors) < 2:
        raise ValueError(f"vectors is {said(vectors)}, expected at least two vectors by concept.")
    all_of("vectors", list(vectors.values()), SteeringVector)
    concepts = {concept.name: concept for concept in map(choose_one, vectors)}
    vectors = {choose_one(each).name: vector for each, vector in vectors.items()}
    names: list[str] = list(vectors)
    if isinstance(strengths, Mapping):
        strengths = {choose_one(each).name: value for each, value in strengths.items()}
        if extra := [name for name in strengths if name not in names]:
            raise ValueError(f"strengths has {extra[0]!r}, for which there is no vector.")
    if missing := [name for name in names if isinstance(strengths, Mapping) and name not in strengths]:
        raise ValueError(f"strengths has none for {', '.join(missing)}.")
    sizes = {name: real("strengths", strengths[name] if isinstance(strengths, Mapping) else strengths) for name in names}
    edits = {name: AddVector(vectors[name], sizes[name]) for name in names}
    model.check_edits(edits.values())
    first_bench = bench_of(model, concepts[names[0]], scorer, price, batch_size, None, sampling)
    benches = {name: first_bench.of(concepts[name]) for name in names}
    count = whole("prompts", prompts, 2)
    units = {}
    for one, other in combinations(names, 2):
        halves = (one, count - count // 2), (other, count // 2)
        units[one, other] = [(name, pair) for name, part in halves for pair in benches[name].pairs(split, part)]
    bar = tqdm(total=sum(map(len, units.values())), desc="interference", disable=quiet(progress))
    lines = []
    for (one, other), pairs in units.items():
        found = []
        for name, pair in pairs:
            seed = concepts[name].seed(pair)
            both = ((), (edits[one],), (edits[other],), (edits[one], edits[other]))
            audio, finite = first_bench.sound([Row(pair.neutral, seed, chosen) for chosen in both])
            scores = scores_of(first_bench.scorer, audio, model.rate)
            values = [between_ends(scores, "", end, concepts[end].opposite) for end in (one, other)]
            values.append(first_bench.distances(first_bench.price, audio, finite))
            found.append(np.where(finite & finite[0], np.array(values), np.nan))
            bar.update()
        first, second, far = np.array(found).transpose(1, 0, 2)  # each [prompts, unsteered, one, other, both]
        first, second = first - first[:, :1], second - second[:, :1]
        signs = np.sign(sizes[one]), np.sign(sizes[other])  # steering away has a gain below 0
        kept = (
            ratio_of_means(signs[0] * first[:, 3], signs[0] * first[:, 1]),
            ratio_of_means(signs[1] * second[:, 3], signs[1] * second[:, 2]),
        )
        _, cost_one, cost_other, cost = np.nanmean(far, 0)
        fit = min(each.value for each in kept) >= KEEP and cost <= cost_one + cost_other
        known = all(each.defined for each in kept)
        lines.append({
            "one": one, "other": other, "gain_one": float(np.nanmean(first[:, 1])), "gain_other": float(np.nanmean(second[:, 2])),
            **_columns("kept_one", kept[0]), **_columns("kept_other", kept[1]), "distance_one": cost_one, "distance_other": cost_other,
            "distance": cost, "prompts": len(pairs), "fit": bool(fit) if known else pd.NA,
        })  # fmt: skip
    bar.close()
    return pd.DataFrame(lines).astype({"fit": "boolean"})


def _columns(name: str, ratio: Ratio) -> dict[str, Any]:
    return {name: ratio.value, f"{name}_low": ratio.low, f"{name}_high": ratio.high}
