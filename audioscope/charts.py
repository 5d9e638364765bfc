"""Charts of steering and of scores, and the theme that all charts share. Pure altair, data inline."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
import vl_convert


def chart_theme(dark: bool = False) -> dict:
    """Vega-Lite config with every colour of the charts, so that a page can swap light for dark without another spec.

    Blue to orange is told apart under all common forms of colour blindness; zero takes the tone of the page.
    """
    ink, quiet, line = ("#f0ece6", "#a9a49c", "#4a4844") if dark else ("#23211e", "#6b665e", "#d8d3cb")
    accent, page = ("#f0a05a", "#1d1c1a") if dark else ("#a84a08", "#ffffff")
    if dark:
        ramp = ["#8cc4ff", "#3f74ad", "#2f4a68", "#2b2a28", "#6b4420", "#a8642a", "#ffbe7d"]
    else:
        ramp = ["#12488c", "#4f88c4", "#b4d0ea", "#f2f0ed", "#f6cfa2", "#dc8434", "#94400a"]
    font = "system-ui, -apple-system, 'Segoe UI', 'Liberation Sans', sans-serif"
    label = {"font": font, "fontSize": 12, "color": ink}
    return {
        "background": "transparent",
        "font": font,
        "view": {"stroke": None},
        "axis": {
            "labelColor": ink,
            "labelFontSize": 12,
            "titleColor": quiet,
            "titleFontSize": 12,
            "titleFontWeight": "normal",
            "domain": False,
            "ticks": False,
            "gridColor": line,
            "labelPadding": 8,
        },
        "legend": {"labelColor": ink, "titleColor": quiet, "labelFontSize": 11, "titleFontSize": 12, "titleFontWeight": "normal"},
        "title": {
            "color": ink,
            "fontSize": 17,
            "fontWeight": 600,
            "anchor": "start",
            "frame": "bounds",
            "offset": 14,
            "subtitleColor": quiet,
            "subtitleFontSize": 12,
            "subtitlePadding": 7,
            "subtitleLineHeight": 17,
        },
        "range": {"diverging": {"scheme": ramp}},
        "style": {
            "bar-functional": {"color": accent},
            "bar-other": {"color": page, "fillOpacity": 0, "stroke": quiet, "strokeWidth": 1},
            "interval": {"color": ink, "strokeWidth": 1.5},
            "threshold": {"color": ink, "strokeDash": [4, 3]},
            "control": {"color": "#4f88c4"},
            "control-band": {"color": "#4f88c4", "opacity": 0.28},
            "outline": {"color": ink, "strokeWidth": 1.2},
            "chosen": {"color": ink, "strokeWidth": 3},
            "score": {"color": ink},
            "calibrated": {"color": line, "opacity": 0.5},
            "score-chosen": {"color": accent},
            "bracket": {"color": ink, "strokeWidth": 1.5},
            "undefined": {"color": "#3d3c3a" if dark else "#dfdcd8"},
            "censored": {"color": "#2b2a28" if dark else "#f2f0ed"},
            "dots": {"color": "#7d7a75" if dark else "#8a8580"},
            "hatch": {"color": "#7d7a75" if dark else "#a29d95", "strokeWidth": 1},
            "label": label,
            "label-functional": label | {"fontWeight": 700},
            "label-quiet": label | {"fontSize": 11, "color": quiet},
            "on-pale": label | {"fontSize": 11},
            "on-deep": label | {"fontSize": 11, "color": page},
        },
    }


def reading(impact: float, low: float, high: float) -> str:
    """An impact with its 95 % interval, as written everywhere: "0.43 [0.31, 0.55]", or "undefined"."""
    if pd.isna(impact):
        return "undefined"
    text = f"{impact:z.2f}" if pd.isna(low) else f"{impact:z.2f} [{low:z.2f}, {high:z.2f}]"
    return text.replace("-", "−")


# One colour, dash and shape an arm, so that no arm is told by colour alone (colours after Okabe and Ito).
ARMS = {
    "caa shared": ("#d55e00", [1, 0], "circle"),
    "caa own": ("#e69f00", [1, 0], "square"),
    "caa all": ("#0072b2", [1, 0], "diamond"),
    "caa all, natural lengths": ("#56b4e9", [6, 3], "triangle-up"),
    "caa random layers 1": ("#8a8580", [4, 3], "triangle-down"),
    "caa random layers 2": ("#8a8580", [8, 2], "triangle-down"),
    "caa random layers 3": ("#8a8580", [2, 2], "triangle-down"),
    "random direction own": ("#8a8580", [1, 3], "cross"),
    "fixed direction own": ("#5b5651", [1, 2], "cross"),
    "shuffled labels own": ("#5b5651", [4, 4], "stroke"),
    "pci all": ("#009e73", [8, 3], "triangle-right"),
    "sae tuned": ("#cc79a7", [1, 0], "triangle-left"),
    "caa tuned": ("#0072b2", [6, 3], "diamond"),
    "sae untuned": ("#cc79a7", [2, 2], "triangle-left"),
    "caa untuned": ("#56b4e9", [2, 2], "diamond"),
    "random features tuned": ("#8a8580", [1, 3], "cross"),
    "random features untuned": ("#8a8580", [4, 3], "cross"),
}
OTHERS = (("#cc79a7", [2, 2], "triangle-left"), ("#5b5651", [9, 2, 2, 2], "wedge"))


def steering_chart(
    curves: pd.DataFrame,
    concept: str,
    opposite: str = "",
    *,
    now: bool = False,
    names: Mapping[str, str] | None = None,
    ring: bool = False,
) -> alt.LayerChart:
    """The concept's score over the distance from the unsteered clip, a line for each way to steer; away from it runs to the left.

    curves: `Steering.curves()`. Higher at the same distance is better. now: for a page, with the legend below
    and a ring for each row (cell, distance, score) of the data set "now", which the page moves. ring: for an explorer, a ring that the parameters
    now_distance and now_score move. names: what cells are called in the
    legend. Raises ValueError when there is nothing to draw.
    """
    if curves.empty:
        raise ValueError("The sweep holds no curves yet: let it finish at least one prompt.")
    cells = list(dict.fromkeys(curves["cell"]))
    spare = iter(OTHERS * len(cells))
    looks = [ARMS[cell] if cell in ARMS else next(spare) for cell in cells]
    shown = curves.assign(distance=(curves["lpaps"] * np.sign(curves["alpha"])).round(4), strength=curves["alpha"].round(3))
    shown = shown.sort_values(["cell", "alpha"], ignore_index=True)
    many = len(cells) > 1
    called = f"{json.dumps(dict(names))}[datum.label] || datum.label" if names else alt.Undefined
    legend = (
        alt.Legend(
            title="way to steer",
            symbolOpacity=1,
            labelLimit=260,
            labelExpr=called,
            orient="bottom" if now else alt.Undefined,
            direction="vertical" if now else alt.Undefined,
        )
        if many
        else None
    )
    ends = "distance from the unsteered clip"
    if opposite:
        ends = f"further towards {opposite} ← {ends} → further towards {concept}"
    colour = alt.Color("cell:N", scale=alt.Scale(domain=cells, range=[look[0] for look in looks]), sort=cells, legend=legend)
    base = alt.Chart(shown).encode(
        x=alt.X("distance:Q", title=ends, axis=alt.Axis(tickCount=6)),
        color=colour,
        tooltip=[
            alt.Tooltip("cell:N", title="way to steer"),
            alt.Tooltip("strength:Q"),
            alt.Tooltip("score:Q", format=".2f"),
            alt.Tooltip("low:Q", format=".2f"),
            alt.Tooltip("high:Q", format=".2f"),
            alt.Tooltip("lpaps:Q", title="distance", format=".3f"),
        ],
    )
    pick = alt.selection_point(fields=["cell"], bind="legend")
    faint = alt.when(pick).then(alt.value(1.0)).otherwise(alt.value(0.12))
    score = f"score: {concept} − {opposite}, half the log-odds" if opposite else f"score of {concept}"
    lines = base.mark_line(aria=False).encode(
        y=alt.Y("score:Q", title=score),
        order="alpha:Q",
        strokeDash=alt.StrokeDash(
            "cell:N", scale=alt.Scale(domain=cells, range=[look[1] for look in looks]), sort=cells, legend=legend
        ),
        opacity=faint,
    )
    marks = base.mark_point(filled=True, size=55, aria=False).encode(
        y="score:Q",
        shape=alt.Shape("cell:N", scale=alt.Scale(domain=cells, range=[look[2] for look in looks]), sort=cells, legend=legend),
        opacity=faint,
    )
    bars = base.mark_rule(aria=False).encode(
        y="low:Q", y2="high:Q", opacity=alt.when(pick).then(alt.value(0.35)).otherwise(alt.value(0.05))
    )
    title = f"Steering {opposite} ↔ {concept}" if opposite else f"Steering towards {concept}"
    notes = ["Higher at the same distance is better. Bars: 95 % intervals, prompts as units."] if many else []
    best = shown.loc[shown["score"].idxmax()]
    layers = [bars, lines, marks]
    if now:
        mark = alt.Chart(alt.NamedData("now")).mark_point(size=240, strokeWidth=3, filled=False, aria=False)
        layers.append(mark.encode(x="distance:Q", y="score:Q", color=colour))
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


def score_strip(units: str = "log-odds", calibrated: float | None = None) -> Any:
    """All scores of a cell's clean, corrupted and patched clips, for a page that gives the data set "scores" (row, score, chosen).

    units: of the scores. calibrated: the range to either side in which the scorer was calibrated, shaded. The chosen pair's
    clips stand out by shape and size.
    """
    scale = alt.Scale(zero=False)
    base = alt.Chart(alt.NamedData("scores")).encode(
        x=alt.X("score:Q", scale=scale, title=f"score, {units}", axis=alt.Axis(tickCount=5)),
        y=alt.Y("row:N", sort=["clean", "corrupted", "patched"], title=None),
        tooltip=[alt.Tooltip("row:N"), alt.Tooltip("score:Q", format=".2f")],
    )
    ticks = base.transform_filter("!datum.chosen").mark_tick(style="score", thickness=2, size=15, opacity=0.35, aria=False)
    chosen = base.transform_filter("datum.chosen").mark_point(
        style="score-chosen", shape="diamond", size=130, filled=True, opacity=1, aria=False
    )
    layers = [ticks, chosen]
    if calibrated:
        ends = alt.Chart(alt.InlineData([{"low": -calibrated, "high": calibrated}]))
        layers.insert(0, ends.mark_rect(style="calibrated", aria=False).encode(x=alt.X("low:Q", scale=scale), x2="high:Q"))
    return alt.layer(*layers, width=200, height=alt.Step(26)).properties(
        description="Scores of all clean, corrupted and patched clips of the chosen concept and layer; the chosen pair's stand out."
    )


def axes_chart(
    summary: pd.DataFrame, cells: tuple[str, ...] = ("caa own", "caa all", "random direction own", "pci all")
) -> alt.LayerChart:
    """Steering of every axis at a glance: the area of the gain within the budget, with its interval, for each way to steer.

    summary: rows of `Steering.summary()`, of many concepts. Axes are sorted by the first cell's area. Raises ValueError when no
    row is of these cells.
    """
    named = summary.assign(cell=summary["method"] + " " + summary["sites"])
    shown = named[named["cell"].isin(cells)]
    if shown.empty:
        raise ValueError(f"None of the cells {list(cells)} is in the table: it has {sorted(named['cell'].unique())}.")
    bounds = zip(shown["auc"], shown["auc_low"], shown["auc_high"], strict=True)
    shown = shown.assign(reading=[reading(*row) for row in bounds])
    order = shown[shown["cell"] == cells[0]].sort_values("auc", ascending=False)["concept"].tolist()
    looks = [ARMS[cell] for cell in cells]
    base = alt.Chart(shown).encode(
        y=alt.Y("concept:N", sort=order, title=None),
        yOffset=alt.YOffset("cell:N", sort=list(cells)),
        color=alt.Color(
            "cell:N",
            sort=list(cells),
            scale=alt.Scale(domain=list(cells), range=[look[0] for look in looks]),
            title="way to steer",
        ),
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
    marks = base.mark_point(filled=True, size=50, opacity=1, aria=False).encode(
        x="auc:Q",
        shape=alt.Shape(
            "cell:N",
            sort=list(cells),
            scale=alt.Scale(domain=list(cells), range=[look[2] for look in looks]),
            title="way to steer",
        ),
    )
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


def show_charts() -> None:
    """Let altair's charts show themselves in notebooks offline: alive in JupyterLab, with or without a kernel, else as a picture."""
    alt.renderers.register("audioscope", _as_output)
    alt.renderers.enable("audioscope")


LIVE_CHART = "application/vnd.vegalite.v5+json"  # the newest that JupyterLab draws by itself


def _as_output(spec: dict[str, Any], **_: Any) -> dict[str, Any]:
    older = spec | {"$schema": "https://vega.github.io/schema/vega-lite/v5.json"}
    text = str(spec.get("description") or "chart")
    return {LIVE_CHART: older, "image/svg+xml": vl_convert.vegalite_to_svg(json.dumps(spec)), "text/plain": text}
