"""The arithmetic of steering: alignment over preservation, its area, its smoothness, and intervals with prompts as units."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from scipy import stats

REFERENCE = ("pci_all", "pci_loc")


def steering_auc(table: pd.DataFrame, reference: Sequence[str] = REFERENCE) -> pd.DataFrame:
    """Area of the gain in score over the distance from the unsteered clip, up to a budget that all cells share (TADA, section 5).

    table: columns concept, cell, alpha, lpaps, score; several rows of one alpha are averaged. For each side (alpha up, alpha
    down) the budget is the largest lpaps that every reference cell reaches; points beyond it are cut, and one is put at the
    border by interpolation. Gains the wrong way count as negative. Returns one row per concept and cell: auc (the mean of the
    sides that were run), positive, negative, and the budgets cutoff_positive and cutoff_negative.
    Raises ValueError for a missing column, and for a concept without any reference cell or without alpha 0.
    """
    missing = {"concept", "cell", "alpha", "lpaps", "score"} - set(table.columns)
    if missing:
        raise ValueError(f"The table lacks the columns {sorted(missing)}: expected concept, cell, alpha, lpaps, score.")
    points = table.groupby(["concept", "cell", "alpha"], sort=False)[["lpaps", "score"]].mean().reset_index()
    lines = []
    for concept, rows in points.groupby("concept", sort=False):
        anchors = rows[rows["cell"].isin(reference)]
        if anchors.empty:
            raise ValueError(
                f"{concept!r} has none of the reference cells {list(reference)}: its cells are {sorted(rows['cell'].unique())}."
            )
        cutoffs = {side: anchors[anchors["alpha"] * side >= 0].groupby("cell")["lpaps"].max().min() for side in (1, -1)}
        for cell, part in rows.groupby("cell", sort=False):
            if not (part["alpha"] == 0).any():
                raise ValueError(f"{cell!r} of {concept!r} has no row with alpha 0, to which the others are compared.")
            areas = {side: _area(part, side, cutoffs[side]) for side in (1, -1)}
            known = [area for area in areas.values() if not np.isnan(area)]
            lines.append({"concept": concept, "cell": cell, "auc": float(np.mean(known)) if known else np.nan, "positive": areas[1],
                          "negative": areas[-1], "cutoff_positive": cutoffs[1], "cutoff_negative": cutoffs[-1]})  # fmt: skip
    return pd.DataFrame(lines)


def within(points: pd.DataFrame, side: int, cutoff: float) -> pd.DataFrame:
    """One side of a curve within a budget, by rising |alpha|, with a point put at the border where others were cut.

    points: columns alpha, lpaps, score, one row per alpha. The point at the border lies between the farthest that was kept
    and the nearest that was cut, in lpaps, and carries the latter's alpha.
    """
    half = points[points["alpha"] * side >= 0]
    inside = half["lpaps"] <= cutoff + 1e-9
    kept, cut = half[inside], half[~inside]
    if len(cut) and len(kept):
        last, beyond = kept.loc[kept["lpaps"].idxmax()], cut.loc[cut["lpaps"].idxmin()]
        gap = beyond["lpaps"] - last["lpaps"]
        if gap > 1e-12:
            score = last["score"] + (beyond["score"] - last["score"]) * (cutoff - last["lpaps"]) / gap
            border = pd.DataFrame([{"alpha": beyond["alpha"], "lpaps": cutoff, "score": score}])
            kept = pd.concat([kept[["alpha", "lpaps", "score"]], border], ignore_index=True)
    return kept[["alpha", "lpaps", "score"]].sort_values("alpha", key=abs, kind="stable", ignore_index=True)


def _area(points: pd.DataFrame, side: int, cutoff: float) -> float:
    curve = within(points, side, cutoff)
    if len(curve) < 2:
        return np.nan
    return float(np.trapezoid((curve["score"] - curve["score"].iloc[0]) * side, curve["lpaps"]))


def smoothness(alpha: np.ndarray, score: np.ndarray) -> float:
    """How unevenly the score rises from strength to strength: the standard deviation of its steps over its largest gain.

    0 is a straight line; lower is better (TADA, section 5). alpha, score: float [points], alpha 0 among them; both sides are
    averaged. NaN where the score never gains.
    """
    found = []
    for side in (1, -1):
        order = [i for i in np.argsort(np.abs(alpha), kind="stable") if alpha[i] * side >= 0]
        gain = (score[order] - score[order[0]]) * side
        if len(order) > 2 and gain.max() > 0:
            found.append(float(np.std(np.diff(gain / gain.max()))))
    return float(np.mean(found)) if found else np.nan


def pseudo_values(table: pd.DataFrame, statistic: Callable[[pd.DataFrame], pd.Series], unit: str = "prompt") -> pd.DataFrame:
    """The jackknife: what each unit contributes to a statistic, [units, statistics].

    statistic: the table, or the table without one unit -> named numbers. Intervals follow by Student's t from the rows, and
    those of differences from differences of columns, since the units are the same (Tukey, 1958; Efron and Tibshirani, ch. 11).
    """
    units = sorted(table[unit].unique())
    whole = statistic(table)
    rows = {u: len(units) * whole - (len(units) - 1) * statistic(table[table[unit] != u]) for u in units}
    return pd.DataFrame(rows).T


def interval(values: np.ndarray, centre: float | None = None, level: float = 0.95) -> tuple[float, float]:
    """Student's t-interval from independent values, about their mean or a given centre; without end for fewer than two.

    From pseudo-values, the centre is the statistic itself: their mean also carries the jackknife's correction of bias, which
    for curves with few points is more noise than help.
    """
    values = np.asarray(values, float)
    values = values[np.isfinite(values)]
    if len(values) < 2:
        return -np.inf, np.inf
    half = stats.t.ppf(0.5 + level / 2, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    middle = values.mean() if centre is None else centre
    return float(middle - half), float(middle + half)
