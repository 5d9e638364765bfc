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
    border by interpolation. Gains the wrong way count as negative. Returns one row per concept and cell: auc (the mean of its
    sides), positive, negative (NaN where the cell or the reference was not run on that side), the budgets cutoff_positive and
    cutoff_negative, and reached: the share of the budget that the cell's curve covers, of the side where it covers less. Below 1
    its area is too small to be compared, since nothing is extrapolated.
    Raises ValueError for a missing column, and for a concept without any reference cell or without alpha 0.
    """
    missing = {"concept", "cell", "alpha", "lpaps", "score"} - set(table.columns)
    if missing:
        raise ValueError(f"The table lacks the columns {sorted(missing)}: expected concept, cell, alpha, lpaps, score.")
    known = table.dropna(subset=["lpaps", "score"])
    points = known.groupby(["concept", "cell", "alpha"], sort=False)[["lpaps", "score"]].mean().reset_index()
    lines = []
    for concept, rows in points.groupby("concept", sort=False):
        anchors = rows[rows["cell"].isin(reference)]
        if anchors.empty:
            raise ValueError(
                f"{concept!r} has none of the reference cells {list(reference)}: its cells are {sorted(rows['cell'].unique())}."
            )
        cutoffs = {side: _cutoff(anchors[anchors["alpha"] * side > 0]) for side in (1, -1)}
        for cell, part in rows.groupby("cell", sort=False):
            if not (part["alpha"] == 0).any():
                raise ValueError(f"{cell!r} of {concept!r} has no row with alpha 0, to which the others are compared.")
            curves = {side: within(part, side, cutoff) for side, cutoff in cutoffs.items() if not np.isnan(cutoff)}
            curves = {side: curve for side, curve in curves.items() if (part["alpha"] * side > 0).any()}
            areas = {side: _area(curve, side) for side, curve in curves.items()}
            reached = [min(1.0, curve["lpaps"].max() / cutoffs[side]) for side, curve in curves.items()]
            lines.append({"concept": concept, "cell": cell, "auc": float(np.mean(list(areas.values()))) if areas else np.nan,
                          "positive": areas.get(1, np.nan), "negative": areas.get(-1, np.nan), "cutoff_positive": cutoffs[1],
                          "cutoff_negative": cutoffs[-1], "reached": min(reached, default=np.nan)})  # fmt: skip
    return pd.DataFrame(lines)


def within(points: pd.DataFrame, side: int, cutoff: float) -> pd.DataFrame:
    """One side of a curve within a budget, by rising |alpha|, with a point put at the border where others were cut.

    points: columns alpha, lpaps, score, one row per alpha. The point at the border lies between the farthest that was kept
    and the nearest that was cut, in lpaps, and carries the latter's alpha.
    """
    half = points[points["alpha"] * side >= 0].dropna(subset=["lpaps", "score"])
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


def _cutoff(anchors: pd.DataFrame) -> float:
    """The largest lpaps that every reference cell reaches; NaN where there is none."""
    return float(anchors.groupby("cell")["lpaps"].max().min()) if len(anchors) else np.nan


def _area(curve: pd.DataFrame, side: int) -> float:
    if len(curve) < 2:
        return np.nan
    return float(np.trapezoid((curve["score"] - curve["score"].iloc[0]) * side, curve["lpaps"]))


def smoothness(alpha: np.ndarray, score: np.ndarray, points: int = 11) -> float:
    """How unevenly the score rises with the strength: the standard deviation of its steps over its largest gain.

    The steps are those of `points` even strengths, between which the score is interpolated, so that 0 is a straight line
    whatever strengths were run; lower is better (TADA, section 5). alpha, score: float [points], alpha 0 among them; both sides
    are averaged. NaN where the score never gains.
    """
    found = []
    for side in (1, -1):
        order = [i for i in np.argsort(np.abs(alpha), kind="stable") if alpha[i] * side >= 0]
        gain = (score[order] - score[order[0]]) * side
        if len(order) > 2 and gain.max() > 0:
            strength = np.abs(alpha[order])
            even = np.interp(np.linspace(0, strength[-1], points), strength, gain)
            found.append(float(np.std(np.diff(even / gain.max()))))
    return float(np.mean(found)) if found else np.nan


def pseudo_values(table: pd.DataFrame, statistic: Callable[[pd.DataFrame], pd.Series], unit: str = "prompt") -> pd.DataFrame:
    """The jackknife: what each unit contributes to a statistic, [units, statistics].

    statistic: the table, or the table without one unit -> named numbers. Intervals follow by Student's t from the rows, and
    those of differences from differences of columns, since the units are the same (Tukey, 1958; Efron and Tibshirani, ch. 11).
    """
    units = sorted(table[unit].unique())
    whole = statistic(table)
    if len(units) < 2:
        return pd.DataFrame(columns=whole.index, dtype=float)
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


def chance_of(values: np.ndarray, centre: float) -> float:
    """The two-sided p-value that belongs to `interval`: of a true value of 0; NaN for fewer than two values."""
    values = np.asarray(values, float)
    values = values[np.isfinite(values)]
    if len(values) < 2:
        return np.nan
    error = values.std(ddof=1) / len(values) ** 0.5
    return float(2 * stats.t.sf(abs(centre) / error, len(values) - 1)) if error > 0 else float(centre == 0)
