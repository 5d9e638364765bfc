"""The arithmetic of steering: the area under the curve of alignment over preservation (the AUC), and its smoothness."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from audioscope.errors import one_or_more, said, texts, whole, with_columns
from audioscope.steer.cells import REWRITTEN

REFERENCE = (str(REWRITTEN),)


def steering_auc(table: pd.DataFrame, reference: str | Sequence[str] = REFERENCE) -> pd.DataFrame:
    """Area under the gain in score over the distance from the unsteered clip, up to a common budget (TADA, section 5).

    For each side (positive and negative strengths), the budget, shared by all cells, is the largest distance that every reference
    cell reaches; points beyond it are cut, and one point is added at the budget by interpolation. Gains in the wrong direction
    count as negative. Nothing is extrapolated.

    Args:
        table: A table with the columns concept, cell, strength, distance and score, such as `SteeringSweep.table`; rows with the same
            strength are averaged.
        reference: The cells that set the budget; by default, rewriting the prompt.

    Returns:
        One row per concept and cell, with these columns

        - auc, the mean over its sides;
        - positive and negative, the area of each side (NaN if the cell or the reference was not run there);
        - cutoff_positive and cutoff_negative, the budgets;
        - reached, the share of the budget that the cell's curve covers, on the side where it covers less. Below 1, its area is too
          small to be compared.

    Raises:
        ValueError: A column is missing, or a concept has no reference cell or no strength 0.

    Example:
        >>> sweep = audioscope.datasets.steering("fast")
        >>> areas = audioscope.steer.steering_auc(sweep.table).set_index("cell")["auc"]
        >>> bool(areas["pci all"] > areas["caa all"] > areas["random direction own"])
        True
    """
    with_columns("table", table, ("concept", "cell", "strength", "distance", "score"), "SteeringSweep.table")
    known = table.dropna(subset=["distance", "score"])
    reference = texts("reference", one_or_more(reference))
    points = known.groupby(["concept", "cell", "strength"], sort=False)[["distance", "score"]].mean().reset_index()
    lines = []
    for concept, rows in points.groupby("concept", sort=False):
        anchors = rows[rows["cell"].isin(reference)]
        if anchors.empty:
            raise ValueError(
                f"{concept!r} has none of the reference cells {list(reference)}: its cells are {sorted(rows['cell'].unique())}."
            )
        cutoffs = {side: _cutoff(anchors[anchors["strength"] * side > 0]) for side in (1, -1)}
        for cell, part in rows.groupby("cell", sort=False):
            if not (part["strength"] == 0).any():
                raise ValueError(f"{cell!r} of {concept!r} has no row with strength 0, to which the others are compared.")
            curves = {side: within(part, side, cutoff) for side, cutoff in cutoffs.items() if not np.isnan(cutoff)}
            curves = {side: curve for side, curve in curves.items() if (part["strength"] * side > 0).any()}
            areas = {side: _area(curve, side) for side, curve in curves.items()}
            reached = [min(1.0, curve["distance"].max() / cutoffs[side]) for side, curve in curves.items()]
            lines.append({"concept": concept, "cell": cell, "auc": float(np.mean(list(areas.values()))) if areas else np.nan,
                          "positive": areas.get(1, np.nan), "negative": areas.get(-1, np.nan), "cutoff_positive": cutoffs[1],
                          "cutoff_negative": cutoffs[-1], "reached": min(reached, default=np.nan)})  # fmt: skip
    columns = ["concept", "cell", "auc", "positive", "negative", "cutoff_positive", "cutoff_negative", "reached"]
    found = pd.DataFrame(lines, columns=columns)
    every = table[["concept", "cell"]].drop_duplicates()  # a cell without any score has no area, and is not left out
    return every.merge(found, how="left", on=["concept", "cell"])


def within(points: pd.DataFrame, side: int, cutoff: float) -> pd.DataFrame:
    """One side of a curve within a budget, by increasing |strength|, with a point added at the budget if others were cut.

    points: columns strength, distance, score, one row per strength. The added point lies between the farthest point kept and the
    nearest point cut, in distance, and has the strength of the latter.
    """
    half = points[points["strength"] * side >= 0].dropna(subset=["distance", "score"])
    inside = half["distance"] <= cutoff + 1e-9
    kept, cut = half[inside], half[~inside]
    if len(cut) and len(kept):
        last, beyond = kept.loc[kept["distance"].idxmax()], cut.loc[cut["distance"].idxmin()]
        gap = beyond["distance"] - last["distance"]
        if gap > 1e-12:
            score = last["score"] + (beyond["score"] - last["score"]) * (cutoff - last["distance"]) / gap
            border = pd.DataFrame([{"strength": beyond["strength"], "distance": cutoff, "score": score}])
            kept = pd.concat([kept[["strength", "distance", "score"]], border], ignore_index=True)
    return kept[["strength", "distance", "score"]].sort_values("strength", key=abs, kind="stable", ignore_index=True)


def _cutoff(anchors: pd.DataFrame) -> float:
    """The largest distance that every reference cell reaches; NaN if there is no reference cell."""
    return float(anchors.groupby("cell")["distance"].max().min()) if len(anchors) else np.nan


def _area(curve: pd.DataFrame, side: int) -> float:
    if len(curve) < 2:
        return np.nan
    return float(np.trapezoid((curve["score"] - curve["score"].iloc[0]) * side, curve["distance"]))


def _curve(strength: Any, score: Any) -> tuple[np.ndarray, np.ndarray]:
    """Strengths and scores as float arrays. Raises ValueError unless they are finite, as many as each other, and 0 is among them."""
    try:
        found = tuple(np.asarray(values, float) for values in (strength, score))
    except (TypeError, ValueError) as error:
        raise ValueError(f"strength is {said(strength)} and score {said(score)}, expected numbers.") from error
    if found[0].ndim != 1 or found[0].shape != found[1].shape or not np.isfinite(found).all() or 0 not in found[0]:
        raise ValueError(
            f"strength is {said(strength)} and score {said(score)}, expected as many finite numbers of each, with a strength of 0."
        )
    return found[0], found[1]


def smoothness(strength: np.ndarray, score: np.ndarray, points: int = 11) -> float:
    """How unevenly the score rises with the strength: the standard deviation of its steps over its largest gain (TADA, section 5).

    The steps lie between evenly spaced strengths, at which the score is interpolated, so that 0 is a straight line whatever
    strengths were run; lower is better. Both sides are averaged.

    Args:
        strength: The strengths, float [n], with 0 among them.
        score: The scores, float [n].
        points: How many strengths to interpolate at.

    Returns:
        The smoothness; NaN if the score never gains.

    Raises:
        ValueError: The strengths and scores are not as many finite numbers of each, or 0 is not among the strengths.

    Example:
        >>> import numpy as np
        >>> round(audioscope.steer.smoothness(np.array([0.0, 1.0, 2.0]), np.array([1.0, 2.0, 3.0])), 6)
        0.0
    """
    strength, score, points = (*_curve(strength, score), whole("points", points, 2, 10_000))
    found = []
    for side in (1, -1):
        order = [i for i in np.argsort(np.abs(strength), kind="stable") if strength[i] * side >= 0]
        gain = (score[order] - score[order[0]]) * side
        if len(order) > 2 and gain.max() > 0:
            size = np.abs(strength[order])
            even = np.interp(np.linspace(0, size[-1], points), size, gain)
            found.append(float(np.std(np.diff(even / gain.max()))))
    return float(np.mean(found)) if found else np.nan
