"""The atlas as a picture: concepts by layers, with a strip of layer means above. Pure altair, data inline."""

from __future__ import annotations

import altair as alt
import numpy as np
import pandas as pd

from audioscope.atlas import THRESHOLD

ROW = 24  # height of a heatmap row, px
STRIP = 120  # height of the strip of layer means, px


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
            "bar-other": {"color": page, "stroke": quiet, "strokeWidth": 1},
            "interval": {"color": ink, "strokeWidth": 1.5},
            "threshold": {"color": ink, "strokeDash": [4, 3]},
            "control": {"color": "#4f88c4"},
            "undefined": {"color": "#3d3c3a" if dark else "#dfdcd8"},
            "hatch": {"color": "#7d7a75" if dark else "#a29d95", "strokeWidth": 1},
            "label": label,
            "label-functional": label | {"fontWeight": 700},
            "label-quiet": label | {"fontSize": 11, "color": quiet},
            "on-pale": label | {"fontSize": 11},
            "on-deep": label | {"fontSize": 11, "color": page},
        },
    }


def impact_table(impacts: pd.DataFrame, values: str = "impact") -> pd.DataFrame:
    """Concepts in rows and sites in columns, both in their given order: the text alternative of the heatmap.

    impacts: Atlas.impacts(); values: the column shown. Undefined impacts stay NaN.
    """
    table = impacts.pivot(index="concept", columns="site", values=values)
    return table.reindex(index=impacts.concept.unique(), columns=impacts.sort_values("layer", kind="stable").site.unique())


def reading(impact: float, low: float, high: float) -> str:
    """An impact with its 95 % interval, as written everywhere: "0.43 [0.31, 0.55]", or "undefined"."""
    if pd.isna(impact):
        return "undefined"
    text = f"{impact:z.2f}" if pd.isna(low) else f"{impact:z.2f} [{low:z.2f}, {high:z.2f}]"
    return text.replace("-", "−")


def _hatch(width: int) -> str:
    """Slanted strokes over a cell of the given width, px, as an SVG path in units of half a row (Vega has no pattern fills)."""
    reach, slant = width / ROW - 0.15, 0.45  # strokes lean by slant either way and keep clear of the cell's edges
    count = round((reach - slant) / 0.28) | 1
    middles = [(2 * i / (count - 1) - 1) * (reach - slant) for i in range(count)] if count > 1 else [0.0]
    return "".join(f"M{middle - slant:.2f},0.75L{middle + slant:.2f},-0.75" for middle in middles)


def _x(sites: list[str]) -> alt.X:
    return alt.X("site:N", scale=alt.Scale(type="band", domain=sites, paddingInner=0.06, paddingOuter=0.03), axis=None)


def _cells(impacts: pd.DataFrame, narrow: bool) -> pd.DataFrame:
    """What the heatmap draws and says of each cell; undefined impacts are emptied, whatever number came with them.

    narrow: write .43 for 0.43, since the cell has no room for more.
    """
    impacts = impacts.reset_index(drop=True)
    values = impacts.impact.where(impacts.defined)
    bare, coarse = impacts.low.isna().all(), impacts.get("coarse", pd.Series(False, index=impacts.index))
    clear = (impacts.low > impacts.control) | (impacts.high < -impacts.control)
    unknown = "not published" if bare else "undefined"
    undefined = "undefined: the interval of the denominator holds 0"
    digits = [f"{value:z.2f}".replace("-", "−") for value in values]
    return pd.DataFrame(
        {
            "concept": impacts.concept,
            "group": impacts.group.fillna(""),
            "site": impacts.site,
            "layer": impacts.layer,
            "defined": impacts.defined,
            "impact": values.round(4),
            "digits": [text.replace("0.", ".", 1) for text in digits] if narrow else digits,
            # a number is printed only where it says something: the whole interval beyond what other concepts' swaps do
            "clear": impacts.defined & ((values.abs() >= THRESHOLD / impacts.site.nunique()) & ~coarse if bare else clear),
            "reading": [
                (reading(*row) + (" (several layers measured together)" if together else "")) if ok else undefined
                for ok, together, *row in zip(impacts.defined, coarse, values, impacts.low, impacts.high, strict=True)
            ],
            "numerator": [unknown if bare else reading(value, float("nan"), float("nan")) for value in impacts.numerator],
            "denominator": [
                reading(*row) for row in zip(impacts.denominator, impacts.denominator_low, impacts.denominator_high, strict=True)
            ],
            "control": [
                f"{value:.2f}" if ok and not bare else unknown for ok, value in zip(impacts.defined, impacts.control, strict=True)
            ],
            "pairs": impacts.pairs,
        }
    )


def _rows(cells: pd.DataFrame, sites: list[str], step: int, group_x: int, direction: str) -> alt.LayerChart:
    """One group's rows of the heatmap."""
    concepts = list(cells.concept.unique())
    axis = alt.Axis(
        title=cells.group.iloc[0] or None,
        titleAngle=0,
        titleAlign="left",
        titleBaseline="middle",
        titleX=group_x,
        titleY=ROW / 2,
        labelLimit=170,
    )
    height = alt.Scale(domain=concepts, paddingInner=0.08, paddingOuter=0.04)
    base = alt.Chart(cells).encode(
        x=_x(sites),
        y=alt.Y("concept:N", sort=concepts, scale=height, axis=axis),
        tooltip=[
            alt.Tooltip("concept:N"),
            alt.Tooltip("site:N", title="module"),
            alt.Tooltip("reading:N", title="impact"),
            alt.Tooltip("numerator:N", title="patched − corrupted" if direction == "sufficient" else "clean − patched"),
            alt.Tooltip("denominator:N", title="clean − corrupted"),
            alt.Tooltip("control:N"),
            alt.Tooltip("pairs:Q"),
        ],
    )
    zero, one = ("corrupted", "clean") if direction == "sufficient" else ("clean", "corrupted")
    colour = alt.Color(
        "impact:Q",
        scale=alt.Scale(domain=[-1, 1], domainMid=0, clamp=True, interpolate="rgb"),
        legend=alt.Legend(
            title="impact",
            orient="bottom",
            direction="horizontal",
            gradientLength=260,
            gradientThickness=10,
            values=[-1, 0, 1],
            titlePadding=6,
            offset=10,
            labelExpr=f"datum.value < 0 ? '−1 opposite' : datum.value > 0 ? '1 like {one}' : '0 like {zero}'",
        ),
    )
    data = base.transform_filter("datum.defined").mark_rect(aria=False).encode(color=colour)
    missing = base.transform_filter("!datum.defined")
    grey = missing.mark_rect(style="undefined", aria=False)
    hatch = missing.mark_point(style="hatch", shape=_hatch(step), size=ROW**2, filled=False, strokeCap="butt", aria=False)
    digits = base.mark_text(aria=False).encode(text="digits:N")
    pale = digits.transform_filter("datum.clear && abs(datum.impact) < 0.75").mark_text(style="on-pale", aria=False)
    deep = digits.transform_filter("datum.clear && abs(datum.impact) >= 0.75").mark_text(style="on-deep", aria=False)
    return alt.LayerChart(layer=[data, grey, hatch, pale, deep], width=step * len(sites), height=ROW * len(concepts))


def _strip(means: pd.DataFrame, sites: list[str], step: int, group_x: int) -> alt.LayerChart:
    """Mean impact per layer: bars with intervals, controls as ticks, the threshold as a dashed line."""
    shown = means.assign(reading=[reading(*row) for row in zip(means.impact, means.low, means.high, strict=True)])
    base = alt.Chart(shown).encode(
        x=_x(sites),
        tooltip=[
            alt.Tooltip("layer:O"),
            alt.Tooltip("site:N", title="module"),
            alt.Tooltip("reading:N", title="mean impact"),
            alt.Tooltip("control:Q", format=".2f"),
            alt.Tooltip("threshold:Q", format=".2f"),
        ],
    )
    axis = alt.Axis(title="mean", titleAngle=0, titleAlign="left", titleX=group_x, titleY=8, tickCount=4, format=".2~f")
    mean = alt.Y("impact:Q", axis=axis)
    functional = base.transform_filter("datum.functional").mark_bar(style="bar-functional", width={"band": 0.62}, aria=False)
    other = base.transform_filter("!datum.functional").mark_bar(style="bar-other", width={"band": 0.62}, aria=False)
    interval = base.mark_rule(style="interval", aria=False).encode(y="low:Q", y2="high:Q")
    control = base.mark_tick(style="control", orient="horizontal", size=step * 0.9, thickness=3, aria=False).encode(y="control:Q")
    line = alt.Chart(shown.head(1)).encode(y="threshold:Q")
    threshold = line.mark_rule(style="threshold", aria=False)
    name = line.mark_text(style="label-quiet", align="left", aria=False).encode(
        x=alt.value(step * len(sites) + 6), text=alt.value(f"threshold {means.threshold.iloc[0]:.2f}")
    )
    return alt.LayerChart(
        layer=[other.encode(y=mean), functional.encode(y=mean), interval, control, threshold, name],
        width=step * len(sites),
        height=STRIP,
    )


def _foot(means: pd.DataFrame, sites: list[str], step: int) -> alt.LayerChart:
    """The layer numbers; a functional one is bold and has a triangle under it, so that no colour is needed to see it."""
    base = alt.Chart(means).encode(x=_x(sites), text="layer:N")
    numbers = base.transform_filter("!datum.functional").mark_text(style="label-quiet", y=9, aria=False)
    bold = base.transform_filter("datum.functional").mark_text(style="label-functional", y=9, aria=False)
    triangle = (
        base.transform_filter("datum.functional")
        .mark_text(style="label-functional", y=25, aria=False)
        .encode(text=alt.value("▲"))
    )
    margin = alt.Chart(means.head(1)).encode(x=alt.value(-8))
    layer = margin.mark_text(style="label-quiet", align="right", y=9, aria=False).encode(text=alt.value("layer"))
    legend = margin.mark_text(style="label-quiet", align="right", y=25, aria=False).encode(text=alt.value("▲ functional"))
    return alt.LayerChart(layer=[numbers, bold, triangle, layer, legend], width=step * len(sites), height=34)


def _description(cells: pd.DataFrame, means: pd.DataFrame) -> str:
    """The chart in words, for those who do not see it."""
    layers = ", ".join(str(layer) for layer in means.layer[means.functional]) or "none"
    text = f"Heatmap of impact, {cells.concept.nunique()} concepts by {len(means)} layers. Functional layers: {layers}."
    if cells.defined.any():
        top = cells.loc[cells.impact.idxmax()]
        text += f" Largest impact: {top.concept} at layer {top.layer}, {top.reading}."
    undefined = list(cells.concept[~cells.defined].unique())
    return text + (f" Undefined: {', '.join(undefined)}." if undefined else "")


def heatmap(
    impacts: pd.DataFrame,
    layer_means: pd.DataFrame,
    title: str = "Which layer carries which concept",
    direction: str = "sufficient",
) -> alt.VConcatChart:
    """Concepts by layers, coloured by impact, under a strip of the layers' means: the atlas at a glance.

    impacts: Atlas.impacts(); layer_means: Atlas.layer_means(), both on one scale. Groups and concepts keep the order they
    first appear in. direction: what was patched, as in `localize`: it names the ends of the scale. Colours are clamped to -1..1; the tooltip and the printed digits are not. Undefined cells are hatched
    grey and take no part in the colour scale. Raises ValueError when there is nothing to draw.
    """
    if impacts.empty or layer_means.empty:
        raise ValueError("The atlas holds no impacts yet: let localize() finish at least one concept.")
    means = layer_means.sort_values("layer", kind="stable", ignore_index=True)
    sites = list(means.site)
    step = max(26, min(60, 720 // len(sites)))
    cells = _cells(impacts, narrow=step < 40)
    # the group's name stands left of the longest concept; 6.6 px is a generous mean width of a letter at 12 px
    group_x = -int(min(170, 6.6 * cells.concept.str.len().max())) - 84
    groups = [_rows(cells[cells.group == group], sites, step, group_x, direction) for group in cells.group.unique()]
    notes = [
        "Top: mean over concepts, with 95 % interval; filled bars are functional layers, blue ticks the control.",
        "Below: a number where the whole interval lies beyond the control; hatched grey where impact is undefined.",
    ]
    if impacts.low.isna().all():
        coarse = "coarse" in impacts and impacts.coarse.any()
        notes = [
            "Top: mean over concepts; filled bars are functional layers. Neither intervals nor controls were published.",
            "Below: a number from the threshold up" + (", where one layer was measured alone." if coarse else "."),
        ]
    return (
        alt.vconcat(_strip(means, sites, step, group_x), *groups, _foot(means, sites, step), spacing=7)
        .properties(title=alt.TitleParams(title, subtitle=notes), description=_description(cells, means))
        .configure(**chart_theme())
    )


# One colour, dash and shape an arm, so that no arm is told by colour alone (colours after Okabe and Ito).
ARMS = {
    "caa shared": ("#d55e00", [1, 0], "circle"),
    "caa own": ("#e69f00", [1, 0], "square"),
    "caa all": ("#0072b2", [1, 0], "diamond"),
    "caa all but shared": ("#56b4e9", [6, 3], "triangle-up"),
    "caa random layers": ("#8a8580", [4, 3], "triangle-down"),
    "random direction own": ("#8a8580", [1, 3], "cross"),
    "pci all": ("#009e73", [8, 3], "triangle-right"),
    "sae 2 strongest": ("#cc79a7", [1, 0], "triangle-left"),
    "caa 2 strongest": ("#0072b2", [6, 3], "diamond"),
    "random features 2 strongest": ("#8a8580", [1, 3], "cross"),
}
OTHERS = (("#cc79a7", [2, 2], "triangle-left"), ("#5b5651", [9, 2, 2, 2], "wedge"))


def steering_chart(curves: pd.DataFrame, concept: str, opposite: str = "") -> alt.LayerChart:
    """The concept's score over the distance from the unsteered clip, a line for each way to steer; away from it runs to the left.

    curves: `Steering.curves()`. Higher at the same distance is better. Raises ValueError when there is nothing to draw.
    """
    if curves.empty:
        raise ValueError("The sweep holds no curves yet: let it finish at least one prompt.")
    cells = list(dict.fromkeys(curves["cell"]))
    spare = iter(OTHERS * len(cells))
    looks = [ARMS[cell] if cell in ARMS else next(spare) for cell in cells]
    shown = curves.assign(distance=(curves["lpaps"] * np.sign(curves["alpha"])).round(4), strength=curves["alpha"].round(3))
    shown = shown.sort_values(["cell", "alpha"], ignore_index=True)
    many = len(cells) > 1
    legend = alt.Legend(title="way to steer", symbolOpacity=1, labelLimit=220) if many else None
    ends = "distance from the unsteered clip"
    if opposite:
        ends = f"further towards {opposite} ← {ends} → further towards {concept}"
    base = alt.Chart(shown).encode(
        x=alt.X("distance:Q", title=ends, axis=alt.Axis(tickCount=6)),
        color=alt.Color("cell:N", scale=alt.Scale(domain=cells, range=[look[0] for look in looks]), sort=cells, legend=legend),
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
    return (
        alt.layer(bars, lines, marks, width=440, height=300)
        .add_params(pick)
        .properties(
            title=alt.TitleParams(title, subtitle=notes),
            description=f"{title}: score over distance for {', '.join(cells)}. Highest score {best['score']:.2f} by {best['cell']}.",
        )
        .configure(**chart_theme())
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
