"""Charts of steering: score over distance, and all axes at a glance."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from audioscope.errors import named, said_text, texts, truth, with_columns
from audioscope.steer.cells import ALL, CELLS, OWN, RANDOM_DIRECTION, REWRITTEN
from audioscope.theme import chart_theme, reading, rows

MODELS = (("#0072b2", "circle"), ("#d55e00", "diamond"), ("#009e73", "square"), ("#cc79a7", "triangle-up"), ("#5b5651", "cross"))
OTHERS = (("#cc79a7", [2, 2], "triangle-left"), ("#5b5651", [9, 2, 2, 2], "wedge"))


def _looks(cells: list[str], **keywords: Any) -> dict[str, Any]:
    """The color, dash and shape of each cell, as channels "color", "strokeDash" and "shape"; keywords: for all of them."""
    spare = iter(OTHERS * len(cells))
    looks = [(CELLS[name].color, list(CELLS[name].dash), CELLS[name].shape) if name in CELLS else next(spare) for name in cells]
    kinds = {"color": alt.Color, "strokeDash": alt.StrokeDash, "shape": alt.Shape}
    return {
        name: kind("cell:N", scale=alt.Scale(domain=cells, range=list(values)), sort=cells, **keywords)
        for (name, kind), values in zip(kinds.items(), zip(*looks, strict=True), strict=True)
    }


def steering_chart(
    curves: pd.DataFrame,
    concept: str,
    opposite: str = "",
    *,
    now: bool = False,
    names: Mapping[str, str] | None = None,
    ring: bool = False,
) -> alt.LayerChart:
    """Chart the concept's score over the distance from the unsteered clip, one line per cell; steering away extends to the left.

    Higher at the same distance is better. Bars show 95 % intervals, with prompts as units.

    Args:
        curves: A table such as `SteeringSweep.curves` returns.
        concept: The concept's name, for the title and the axes.
        opposite: The other end of its axis; "" if it has none.
        now: For a page, puts the legend below and draws a ring for each row (cell, distance, score) of the data set "now", which
            the page moves.
        names: Labels of cells in the legend, by cell; None shows the cells' own names.
        ring: For an explorer, draws a ring that the parameters now_distance and now_score move.

    Returns:
        An Altair chart. A click on a cell in the legend makes the others faint.

    Raises:
        ValueError: The table is empty, so there is nothing to draw.

    Example:
        >>> sweep = audioscope.datasets.steering("fast")
        >>> audioscope.steer.steering_chart(sweep.curves(), "fast", "slow").title.text
        'Steering slow ↔ fast'
    """
    with_columns("curves", curves, ("cell", "strength", "distance", "score", "low", "high"), "SteeringSweep.curves")
    said_text("concept", concept), said_text("opposite", opposite)
    names = None if names is None else named("names", names, str)
    now, ring = truth("now", now), truth("ring", ring)
    if curves.empty:
        raise ValueError("The sweep has no curves yet: let it finish at least one prompt.")
    cells = list(dict.fromkeys(curves["cell"]))
    shown = curves.assign(
        distance=(curves["distance"] * np.sign(curves["strength"])).round(4), strength=curves["strength"].round(3)
    )
    shown = shown.sort_values(["cell", "strength"], ignore_index=True)
    many = len(cells) > 1
    below: dict[str, Any] = {"orient": "bottom", "direction": "vertical"} if now else {}
    called = f"{json.dumps(dict(names))}[datum.label] || datum.label" if names else alt.Undefined
    legend = alt.Legend(title="way to steer", symbolOpacity=1, labelLimit=260, labelExpr=called, **below) if many else None
    looks = _looks(cells, legend=legend)
    ends = "distance from the unsteered clip"
    if opposite:
        ends = f"further toward {opposite} ← {ends} → further toward {concept}"
    base = alt.Chart(rows(shown)).encode(
        x=alt.X("distance:Q", title=ends, axis=alt.Axis(tickCount=6)),
        color=looks["color"],
        tooltip=[
            alt.Tooltip("cell:N", title="way to steer"),
            alt.Tooltip("strength:Q"),
            alt.Tooltip("score:Q", format=".2f"),
            alt.Tooltip("low:Q", format=".2f"),
            alt.Tooltip("high:Q", format=".2f"),
            alt.Tooltip("distance:Q", title="distance", format=".3f"),
        ],
    )
    pick = alt.selection_point(fields=["cell"], bind="legend")
    faint = alt.when(pick).then(alt.value(1.0)).otherwise(alt.value(0.12))
    score = f"score: {concept} − {opposite}, half the log-odds" if opposite else f"score of {concept}"
    lines = base.mark_line(aria=False).encode(
        y=alt.Y("score:Q", title=score), order="strength:Q", strokeDash=looks["strokeDash"], opacity=faint
    )
    marks = base.mark_point(filled=True, size=55, aria=False).encode(y="score:Q", shape=looks["shape"], opacity=faint)
    bars = base.mark_rule(aria=False).encode(
        y="low:Q", y2="high:Q", opacity=alt.when(pick).then(alt.value(0.35)).otherwise(alt.value(0.05))
    )
    title = f"Steering {opposite} ↔ {concept}" if opposite else f"Steering toward {concept}"
    notes = ["Higher at the same distance is better. Bars: 95 % intervals, prompts as units."] if many else []
    best = shown.loc[shown["score"].idxmax()]
    layers = [bars, lines, marks]
    if now:
        mark = alt.Chart(alt.NamedData("now")).mark_point(size=240, strokeWidth=3, filled=False, aria=False)
        layers.append(mark.encode(x="distance:Q", y="score:Q", color=looks["color"]))
    params = [pick]
    if ring:
        params += [alt.param(name=name, value=0.0) for name in ("now_distance", "now_score")]
        mark = alt.Chart(shown[:1]).transform_calculate(distance="now_distance", score="now_score")
        mark = mark.mark_point(style="interval", size=240, strokeWidth=3, filled=False, aria=False)
        layers.append(mark.encode(x="distance:Q", y="score:Q"))
    return (
        alt.layer(*layers, width=440, height=300)
        .add_params(*params)
        .properties(
            title=alt.TitleParams(title, subtitle=notes),
            description=f"{title}: score over distance for {', '.join(cells)}. Highest score {best['score']:.2f} by {best['cell']}.",
        )
        .configure(**chart_theme())
    )


def axes_chart(
    summary: pd.DataFrame, cells: tuple[str, ...] = (str(OWN), str(ALL), str(RANDOM_DIRECTION), str(REWRITTEN))
) -> alt.LayerChart:
    """Chart how well every axis is steered: the area under the gain within the budget, with its interval, for each cell.

    Axes are sorted by the first cell's area.

    Args:
        summary: Rows of `SteeringSweep.summary` for many concepts.
        cells: The cells to show, by name (method and sites).

    Returns:
        An Altair chart.

    Raises:
        ValueError: No row belongs to these cells.

    Example:
        >>> chart = audioscope.steer.axes_chart(audioscope.datasets.steering_table(), cells=("caa own", "pci all"))
        >>> chart.description
        'AUC of steering on 18 axes by caa own, pci all, with intervals.'
    """
    with_columns("summary", summary, ("concept", "method", "sites", "auc", "auc_low", "auc_high"), "SteeringSweep.summary")
    cells = tuple(texts("cells", cells))
    named = summary.assign(cell=summary["method"] + " " + summary["sites"])
    shown = named[named["cell"].isin(cells)]
    if shown.empty:
        raise ValueError(f"None of the cells {list(cells)} is in the table: it has {sorted(named['cell'].unique())}.")
    bounds = zip(shown["auc"], shown["auc_low"], shown["auc_high"], strict=True)
    shown = shown.assign(reading=[reading(*row) for row in bounds])
    order = shown[shown["cell"] == cells[0]].sort_values("auc", ascending=False)["concept"].tolist()
    looks = _looks(list(cells), title="way to steer")
    base = alt.Chart(rows(shown)).encode(
        y=alt.Y("concept:N", sort=order, title=None),
        yOffset=alt.YOffset("cell:N", sort=list(cells)),
        color=looks["color"],
        tooltip=[
            "concept:N",
            alt.Tooltip("cell:N", title="way to steer"),
            alt.Tooltip("reading:N", title="AUC"),
            alt.Tooltip("spearman:Q", format=".2f"),
        ],
    )
    bars = base.mark_rule(aria=False).encode(
        x=alt.X("auc_low:Q", title="gain in log-odds times distance, up to the budget"), x2="auc_high:Q"
    )
    marks = base.mark_point(filled=True, size=50, opacity=1, aria=False).encode(x="auc:Q", shape=looks["shape"])
    zero = alt.Chart(shown.head(1)).mark_rule(style="threshold", aria=False).encode(x=alt.datum(0))
    return (
        alt.layer(zero, bars, marks, width=420, height={"step": 13})
        .properties(
            title=alt.TitleParams(
                "How well each axis is steered", subtitle=["AUC of score over distance, 95 % intervals with prompts as units."]
            ),
            description=f"AUC of steering on {shown['concept'].nunique()} axes by {', '.join(cells)}, with intervals.",
        )
        .configure(**chart_theme())
    )


def localization_chart(table: pd.DataFrame) -> alt.LayerChart:
    """Chart what localizing brings over how concentrated a concept is, one mark per axis; each model has a color and a shape.

    Args:
        table: Rows of `localization_benefits`, `published_benefits` or `steer_planted`, of one model or several.

    Returns:
        An Altair chart.

    Raises:
        ValueError: No row has both numbers.

    Example:
        >>> chart = audioscope.steer.localization_chart(audioscope.steer.published_benefits())
        >>> chart.description
        'Benefit of localizing over concentration on 5 axes of ace-step: 5 above 0.'
    """
    with_columns("table", table, ("model", "lengths", "concentration", "benefit", "low", "high"), "localization_benefits")
    shown = table.dropna(subset=["concentration", "benefit"])
    if shown.empty:
        raise ValueError("No row of the table has a concentration and a benefit, so there is nothing to draw.")
    if shown["lengths"].nunique() > 1:
        shown = shown.assign(model=shown["model"] + ", " + shown["lengths"] + " lengths")
    models = shown["model"].drop_duplicates().tolist()
    colors, shapes = zip(*(MODELS * len(models))[: len(models)], strict=True)
    legend = alt.Legend(orient="bottom", columns=4)
    color = alt.Color("model:N", scale=alt.Scale(domain=models, range=list(colors)), sort=models, legend=legend)
    shape = alt.Shape("model:N", scale=alt.Scale(domain=models, range=list(shapes)), sort=models, legend=legend)
    shown = shown.assign(reading=[reading(*row) for row in zip(shown["benefit"], shown["low"], shown["high"], strict=True)])
    base = alt.Chart(rows(shown)).encode(
        x=alt.X("concentration:Q", title="share of the impact in the strongest layer", scale=alt.Scale(domain=(0, 1))),
        color=color,
        tooltip=[
            "model:N",
            "axis:N",
            "layers:Q",
            "lengths:N",
            alt.Tooltip("concentration:Q", format=".2f"),
            alt.Tooltip("reading:N", title="benefit"),
        ],
    )
    bars = base.mark_rule(aria=False).encode(
        y=alt.Y("low:Q", title="own layers minus all layers, in AUC of rewriting"), y2="high:Q"
    )
    marks = base.mark_point(filled=True, size=70, opacity=1, aria=False).encode(y="benefit:Q", shape=shape)
    zero = alt.Chart(shown.head(1)).mark_rule(style="threshold", aria=False).encode(y=alt.datum(0))
    above = int((shown["benefit"] > 0).sum())
    return (
        alt.layer(zero, bars, marks, width=440, height=300)
        .properties(
            title=alt.TitleParams(
                "Does localizing pay?", subtitle=["Above 0: its own layers steer better than all. 95 % intervals where known."]
            ),
            description=f"Benefit of localizing over concentration on {len(shown)} axes of {', '.join(models)}: {above} above 0.",
        )
        .configure(**chart_theme())
    )
