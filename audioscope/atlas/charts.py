"""The atlas as a chart: concepts by layers, with a strip of layer means above; one model, or several side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import altair as alt
import numpy as np
import pandas as pd
from scipy.cluster.hierarchy import leaves_list, linkage

from audioscope.atlas.atlas import THRESHOLD, Atlas, ends
from audioscope.atlas.robustness import CENSORED
from audioscope.errors import choice, of_kind, real, said, said_text, with_columns
from audioscope.theme import chart_theme, reading, rows

if TYPE_CHECKING:
    from audioscope.attention import AttentionMap

ROW = 24  # height of a heatmap row, px
STRIP = 120  # height of the strip of layer means, px
CENSORED_SAID = " (censored: in {:.0%} of the pairs both scores lie beyond the calibrated range)"
PLANTED_SAID = " (planted here)"


DRAWN = (  # the columns of impacts that the heatmap shows
    "concept", "group", "site", "layer", "impact", "low", "high", "defined", "control", "numerator", "denominator", "denominator_low",
    "denominator_high", "pairs",
)  # fmt: skip
MEANS_DRAWN = ("site", "layer", "impact", "low", "high", "control", "threshold", "functional")


def impact_table(impacts: pd.DataFrame, values: str = "impact") -> pd.DataFrame:
    """Concepts in rows, in the given order, and sites in columns, by layer: the text alternative to the heatmap.

    impacts: Atlas.impacts(); values: the column to show. Undefined impacts stay NaN.
    """
    table = impacts.pivot(index="concept", columns="site", values=values)
    return table.reindex(index=impacts.concept.unique(), columns=impacts.sort_values("layer", kind="stable").site.unique())


def noun(layers: pd.Series) -> str:
    """What a site of a table is in words, from its column layer: heads have a point in their names, sites of several kinds a space."""
    names = layers.astype(str)
    return "site" if names.str.contains(" ").any() else "head" if names.str.contains(".", regex=False).any() else "layer"


def _hatch(width: float) -> str:
    """Slanted strokes over a cell of the given width, px, as an SVG path in units of half a row (Vega has no pattern fills)."""
    reach, slant = width / ROW - 0.15, 0.45  # strokes lean by slant either way and keep clear of the cell's edges
    count = round((reach - slant) / 0.28) | 1  # odd
    middles = [(2 * i / (count - 1) - 1) * (reach - slant) for i in range(count)] if count > 1 else [0.0]
    return "".join(f"M{middle - slant:.2f},0.75L{middle + slant:.2f},-0.75" for middle in middles)


def _dots(width: float) -> str:
    """Dots over a cell of the given width, px, as an SVG path in units of half a row: the mark of what a scale cannot show."""
    reach, r = width / ROW - 0.3, 0.09
    count = max(1, round(2 * reach / 0.5))
    across = [(2 * i / (count - 1) - 1) * reach for i in range(count)] if count > 1 else [0.0]
    return "".join(f"M{x - r:.2f},{y}a{r},{r} 0 1,0 {2 * r},0a{r},{r} 0 1,0 {-2 * r},0" for y in (-0.4, 0.0, 0.4) for x in across)


def _x(sites: list[str], field: str = "site", place: float = 0.5) -> alt.X:
    """The x position of a site. place: where in the site's column a mark without a width begins, 0 to 1."""
    scale = alt.Scale(type="band", domain=sites, paddingInner=0.06, paddingOuter=0.03)
    return alt.X(f"{field}:N", scale=scale, axis=None, bandPosition=place)


def orders(impacts: pd.DataFrame) -> pd.DataFrame:
    """Three ways to order concepts: one row per concept, with its position in `group`, `peak` and `similarity`, from 0.

    group: groups together, as they first appear. peak: by the layer of the largest impact. similarity: neighbors have similar
    impacts over the layers (Ward's clustering, leaves in optimal order). Concepts without a defined impact come last in the
    latter two.
    """
    table = impact_table(impacts.assign(impact=impacts["impact"].where(impacts["defined"])))
    groups = impacts.drop_duplicates("concept").set_index("concept")["group"].fillna("").reindex(table.index)
    values = table.to_numpy(float)
    known = np.isfinite(values).any(1)
    filled = np.nan_to_num(values)
    peaks = [(not ok, int(row.argmax()), -float(row.max())) for ok, row in zip(known, filled, strict=True)]
    chosen = np.flatnonzero(known)
    leaves = chosen if len(chosen) < 3 else chosen[leaves_list(linkage(filled[chosen], "ward", optimal_ordering=True))]
    first_seen = list(dict.fromkeys(groups))
    frame = pd.DataFrame({"concept": table.index, "group": 0, "peak": 0, "similarity": 0})
    for name, order in (
        ("group", sorted(range(len(table)), key=lambda i: first_seen.index(groups.iloc[i]))),
        ("peak", sorted(range(len(table)), key=lambda i: peaks[i])),
        ("similarity", [*leaves, *np.flatnonzero(~known)]),
    ):
        frame.loc[np.asarray(order, int), name] = np.arange(len(table))
    return frame


def _bare(impacts: pd.DataFrame) -> bool:
    """Whether the impacts are published ones, without intervals; where nothing is defined, there are no intervals either."""
    return bool(impacts.low.isna().all() and impacts.defined.any())


def _cells(impacts: pd.DataFrame, narrow: bool) -> pd.DataFrame:
    """What the heatmap draws and says for each cell; undefined impacts become NaN, whatever number came with them.

    narrow: write .43 for 0.43, since the cell has no room for more.
    """
    impacts = impacts.reset_index(drop=True)
    values = impacts.impact.where(impacts.defined)
    bare, no = _bare(impacts), pd.Series(False, index=impacts.index)
    coarse, planted = impacts.get("coarse", no), impacts.get("planted", no)
    clear = (impacts.low > impacts.control) | (impacts.high < -impacts.control)
    denominator = ["denominator", "denominator_low", "denominator_high"]
    unknown = "not published" if bare else "undefined"
    undefined = "undefined: the interval of the denominator contains 0"
    share = impacts.get("censored", pd.Series(0.0, index=impacts.index)).fillna(0.0)
    censored = impacts.defined & (share > CENSORED)
    said = pd.Series([reading(*row) for row in zip(values, impacts.low, impacts.high, strict=True)])
    together = pd.Series(np.where(coarse, " (several layers measured together)", ""))
    truth = pd.Series(np.where(planted, PLANTED_SAID, ""))
    unseen = pd.Series([CENSORED_SAID.format(part) if part > CENSORED else "" for part in share])
    digits = [f"{value:z.2f}".replace("-", "−") for value in values]
    places = orders(impacts).set_index("concept").reindex(impacts.concept)
    groups = impacts.group.fillna("")
    return pd.DataFrame(
        {
            "concept": impacts.concept,
            "group": groups,
            "heads": impacts.concept.isin(impacts.concept[~groups.duplicated()]),  # the first concepts of their groups
            "by_group": places["group"].to_numpy(),
            "by_peak": places["peak"].to_numpy(),
            "by_similarity": places["similarity"].to_numpy(),
            "site": impacts.site,
            "layer": impacts.layer,
            "defined": impacts.defined,
            "impact": values.round(4),
            "censored": censored,
            "digits": [text.replace("0.", ".", 1) for text in digits] if narrow else digits,
            # a number is printed only where it says something: the whole interval is beyond what other concepts' swaps do
            "clear": impacts.defined
            & ~censored
            & ((values.abs() >= THRESHOLD / impacts.site.nunique()) & ~coarse if bare else clear),
            "reading": (said + together + unseen).where(impacts.defined, undefined) + truth,
            "planted": planted,
            "numerator": [unknown if bare else reading(value, float("nan"), float("nan")) for value in impacts.numerator],
            "denominator": [reading(*row) for row in impacts[denominator].itertuples(index=False)],
            "control": impacts.control.map("{:.2f}".format).where(impacts.defined & (not bare), unknown),
            "pairs": impacts.pairs,
        }
    )


# The parameters of an atlas's charts, set from outside: the order of the rows, the group to show, the chosen cell.
PARAMS = {"sort_by": "group", "only_group": "all", "chosen_concept": "", "chosen_site": "", "chosen_model": ""}
SORTS = {"group": "group", "peak": "peak layer", "similarity": "similarity"}


def _params(groups: list[str]) -> list[alt.Parameter]:
    """The parameters; the first two have menus, which a notebook draws below the chart and the page above it."""
    menus = {
        "sort_by": alt.binding_select(options=list(SORTS), labels=list(SORTS.values()), name="order concepts by "),
        "only_group": alt.binding_select(
            options=["all", *groups], labels=["all groups", *(g or "no group" for g in groups)], name="show "
        ),
    }
    return [alt.param(name=name, value=value, bind=menus.get(name, alt.Undefined)) for name, value in PARAMS.items()]


def _grid(cells: pd.DataFrame, sites: list[str], tooltip: list[alt.Tooltip], labels: bool = True) -> alt.Chart:
    """Concepts by layers without a mark, in the chosen order. labels: show the concepts."""
    place = "sort_by == 'peak' ? datum.by_peak : sort_by == 'similarity' ? datum.by_similarity : datum.by_group"
    y = alt.Y(
        "concept:N",
        sort=alt.EncodingSortField("place", op="min"),
        scale=alt.Scale(paddingInner=0.08, paddingOuter=0.04),
        axis=alt.Axis(title=None, labelLimit=170, labelPadding=8) if labels else None,
    )
    shown = alt.Chart(rows(cells)).transform_filter("only_group == 'all' || datum.group == only_group")
    return shown.transform_calculate(place=place).encode(x=_x(sites), y=y, tooltip=tooltip)


def _group_names(base: alt.Chart, cells: pd.DataFrame, sites: list[str]) -> alt.Chart:
    """Each group once, next to its first concept, in the order by group; in the other orders, next to every concept."""
    named = base.transform_filter(f"datum.site == {json.dumps(sites[0])} && (sort_by != 'group' || datum.heads)")
    left = -int(min(170, 6.6 * cells.concept.str.len().max())) - 84  # 6.6 px is a generous mean width of a letter at 12 px
    named = named.transform_calculate(reading="''")  # a name is not a cell: nothing to hover over or to choose
    label = named.mark_text(style="label-quiet", align="left", aria=False)
    return label.encode(x=alt.value(left), text="group:N", tooltip=alt.value(None))


def _matrix(
    cells: pd.DataFrame, means: pd.DataFrame, step: float, direction: str, model: str = "", labels: bool = True
) -> alt.LayerChart:
    """Concepts by layers: colors, hatches where undefined, digits, an outline around functional layers and the chosen cell.

    model: its name if it is one of several side by side, which have no digits and fewer facts in the tooltip. labels: show
    concepts and groups.
    """
    sites = list(means.site)
    tooltip = [alt.Tooltip("concept:N"), alt.Tooltip("site:N", title="module"), alt.Tooltip("reading:N", title="impact")]
    if model:
        tooltip = [alt.Tooltip("model:N"), *tooltip]
        cells = cells.drop(columns=["numerator", "denominator", "control", "pairs", "digits", "clear"]).assign(model=model)
    else:
        tooltip += [
            alt.Tooltip("numerator:N", title="patched − corrupted" if direction == "sufficient" else "clean − patched"),
            alt.Tooltip("denominator:N", title="clean − corrupted"),
            alt.Tooltip("control:N"),
            alt.Tooltip("pairs:Q"),
        ]
    base = _grid(cells, sites, tooltip, labels)
    zero, one = ends(direction)
    color = alt.Color(
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
            offset=14,
            labelExpr=f"datum.value < 0 ? '−1 opposite' : datum.value > 0 ? '1 like {one}' : '0 like {zero}'",
        ),
    )
    missing, hidden = base.transform_filter("!datum.defined"), base.transform_filter("datum.censored")
    text = base.mark_text(aria=False).encode(text="digits:N")
    chosen = "datum.concept == chosen_concept && datum.site == chosen_site" + (" && datum.model == chosen_model" if model else "")
    layers = [
        base.transform_filter("datum.defined && !datum.censored").mark_rect(aria=False).encode(color=color),
        hidden.mark_rect(style="censored", aria=False),
        hidden.mark_point(style="dots", shape=_dots(step), size=ROW**2, filled=True, opacity=1, aria=False),
        missing.mark_rect(style="undefined", aria=False),
        missing.mark_point(style="hatch", shape=_hatch(step), size=ROW**2, filled=False, strokeCap="butt", aria=False),
    ]
    if not model:
        layers += [
            text.transform_filter("datum.clear && abs(datum.impact) < 0.75").mark_text(style="on-pale", aria=False),
            text.transform_filter("datum.clear && abs(datum.impact) >= 0.75").mark_text(style="on-deep", aria=False),
        ]
    if cells.planted.any():
        layers.append(
            base.transform_filter("datum.planted").mark_rect(style="outline", filled=False, strokeDash=[5, 2], aria=False)
        )
    outline = alt.Chart(rows(_runs(means))).mark_rect(style="outline", filled=False, aria=False)
    layers += [
        outline.encode(x=_x(sites, "first", 0), x2=alt.X2("last:N", bandPosition=1), y=alt.value(0), y2=alt.value("height")),
        base.transform_filter(chosen).mark_rect(style="chosen", filled=False, aria=False),
    ]
    if labels:
        layers.append(_group_names(base, cells, sites))
    return alt.LayerChart(layer=layers, width=step * len(sites), height=alt.Step(ROW))


def _strip(means: pd.DataFrame, step: float, labels: bool = True, model: str = "") -> alt.LayerChart:
    """Mean impact per layer: bars with intervals, the band of the control, the threshold as a dashed line."""
    sites = list(means.site)
    shown = means.assign(reading=[reading(*row) for row in zip(means.impact, means.low, means.high, strict=True)])
    base = alt.Chart(rows(shown)).encode(
        x=_x(sites),
        tooltip=[
            alt.Tooltip("layer:O"),
            alt.Tooltip("site:N", title="module"),
            alt.Tooltip("reading:N", title="mean impact"),
            alt.Tooltip("control:Q", format=".2f"),
            alt.Tooltip("threshold:Q", format=".2f"),
        ],
    )
    axis = alt.Axis(tickCount=3, title="mean impact" if labels else None)
    mean = alt.Y("impact:Q", axis=axis)
    functional = base.transform_filter("datum.functional").mark_bar(style="bar-functional", width={"band": 0.62}, aria=False)
    other = base.transform_filter("!datum.functional").mark_bar(style="bar-other", width={"band": 0.62}, aria=False)
    control = alt.Y("control:Q", axis=axis)
    band = base.mark_bar(style="control-band", width={"band": 1.06}, aria=False)
    edge = base.mark_tick(style="control", orient="horizontal", size=step * 1.02, thickness=2, aria=False)
    interval = base.mark_rule(style="interval", aria=False).encode(y="low:Q", y2="high:Q")
    line = alt.Chart(shown.head(1)).encode(y="threshold:Q")
    layers = [other.encode(y=mean), functional.encode(y=mean), line.mark_rule(style="threshold", aria=False)]
    if means.control.notna().any():
        layers = [band.encode(y=control), *layers, edge.encode(y=control)]
    if means.low.notna().any():
        layers.append(interval)
    if labels and not model:
        layers.append(
            line.mark_text(style="label-quiet", align="right", baseline="bottom", dy=-3, aria=False).encode(
                x=alt.value(step * len(sites)), text=alt.value(f"threshold {means.threshold.iloc[0]:.2f}")
            )
        )
    title = (
        alt.TitleParams(model, subtitle=f"{len(sites)} {noun(means.layer)}s", fontSize=13, offset=6) if model else alt.Undefined
    )
    return alt.LayerChart(layer=layers, width=step * len(sites), height=STRIP, title=title)


def _runs(means: pd.DataFrame) -> pd.DataFrame:
    """The functional layers in runs of neighbors: the first, last and middle site, and the layers in words."""
    functional = means.reset_index(drop=True).query("functional")
    # by column: self- and cross-attention share layer numbers
    sites = functional.groupby((np.diff(functional.index, prepend=-2) != 1).cumsum())
    runs = sites.agg(first=("site", "first"), last=("site", "last"), middle=("site", lambda s: s.iloc[len(s) // 2]),
                     low=("layer", "min"), high=("layer", "max"))  # fmt: skip
    words = [str(a) if a == b else f"{a}–{b}" for a, b in zip(runs["low"], runs["high"], strict=True)]
    return runs.assign(words=words)[["first", "last", "middle", "words"]].reset_index(drop=True)


def _foot(means: pd.DataFrame, step: float, labels: bool = True) -> alt.LayerChart:
    """The layer numbers; functional ones are bold and have a bracket under them, so that they are visible without color.

    If layers are too narrow for numbers, only the first, the last and the functional ones get theirs.
    """
    sites = list(means.site)
    roomy = step >= 18
    runs = alt.Chart(rows(_runs(means)))
    shown = means if roomy else means[means.functional | means.layer.isin([means.layer.iloc[0], means.layer.iloc[-1]])]
    base = alt.Chart(rows(shown)).encode(x=_x(sites), text="layer:N")
    numbers = base.transform_filter("!datum.functional").mark_text(style="label-quiet", y=9, aria=False)
    bold = base.transform_filter("datum.functional") if roomy else runs.encode(x=_x(sites, "middle"), text="words:N")
    layers = [numbers, bold.mark_text(style="label-functional", y=9, aria=False)]
    for end, place in (("first", 0.04), ("last", 0.96)):
        layers.append(
            runs.mark_rule(style="bracket", aria=False).encode(x=_x(sites, end, place), y=alt.value(18), y2=alt.value(23))
        )
    span = {"x": _x(sites, "first", 0.04), "x2": alt.X2("last:N", bandPosition=0.96)}
    layers.append(runs.mark_rule(style="bracket", aria=False).encode(**span, y=alt.value(23)))
    if labels:
        margin = alt.Chart(means.head(1)).mark_text(style="label-quiet", align="right", aria=False).encode(x=alt.value(-8))
        layers += [
            margin.encode(y=alt.value(y), text=alt.value(text)) for y, text in ((9, noun(means.layer)), (23, "functional"))
        ]
    return alt.LayerChart(layer=layers, width=step * len(sites), height=30)


def _places(cells: pd.DataFrame) -> str:
    """The layers of some cells by concept, in words."""
    return "; ".join(f"{name} at {', '.join(map(str, part.layer))}" for name, part in cells.groupby("concept", sort=False))


def _description(cells: pd.DataFrame, means: pd.DataFrame) -> str:
    """The chart in words, for readers who cannot see it."""
    layers = ", ".join(str(layer) for layer in means.layer[means.functional]) or "none"
    text = f"Heatmap of impact, {cells.concept.nunique()} concepts by {len(means)} {noun(means.layer)}s. Functional {noun(means.layer)}s: {layers}."
    if cells.impact.notna().any():
        top = cells.loc[cells.impact.idxmax()]
        text += f" Largest impact: {top.concept} at {noun(means.layer)} {top.layer}, {top.reading}."
    undefined = list(cells.concept[~cells.defined].unique())
    hidden = int(cells.censored.sum())
    text += f" Censored, so that nothing can be concluded: {hidden} cells." if hidden else ""
    text += f" Planted: {_places(cells[cells.planted])}." if cells.planted.any() else ""
    return text + (f" Undefined: {', '.join(undefined)}." if undefined else "")


def heatmap(
    impacts: pd.DataFrame,
    layer_means: pd.DataFrame,
    title: str = "Which layer carries which concept",
    direction: str = "sufficient",
    pick: bool = False,
) -> alt.VConcatChart:
    """Draw concepts by layers, colored by impact, under a strip of the layers' means: the atlas at a glance.

    `Atlas.chart` calls it with an atlas's own tables. Menus order the concepts (by group, peak layer or similarity) and show one
    group alone. Colors are clamped to -1..1; the tooltip and the printed digits are not. Undefined cells are hatched gray,
    censored cells are dotted; neither takes part in the color scale.

    Args:
        impacts: As `Atlas.impacts` returns them.
        layer_means: As `Atlas.layer_means` returns them, on the same scale.
        title: Stands above the chart.
        direction: What was patched, "sufficient" or "necessary", as in `audioscope.localize`; it names the ends of the color
            scale.
        pick: For an explorer: a click selects a cell (the selection "picked" with its concept and site).

    Returns:
        An Altair chart.

    Raises:
        ValueError: There is nothing to draw, or a table is of something else.

    Example:
        >>> atlas = audioscope.datasets.atlas()
        >>> voices = atlas.impacts().query("concept in ['female', 'male']")
        >>> chart = audioscope.atlas.heatmap(voices, atlas.layer_means(), title="Voices")
        >>> chart.title["text"]
        'Voices'
    """
    choice("direction", direction, ("sufficient", "necessary"))
    if of_kind("impacts", impacts, pd.DataFrame).empty or of_kind("layer_means", layer_means, pd.DataFrame).empty:
        raise ValueError("The atlas has no impacts yet: let localize() finish at least one concept.")
    with_columns("impacts", impacts, DRAWN, "Atlas.impacts")
    with_columns("layer_means", layer_means, MEANS_DRAWN, "Atlas.layer_means")
    means = layer_means.sort_values("layer", kind="stable", ignore_index=True)
    step = max(26, min(46, 720 // len(means)))
    cells = _cells(impacts, narrow=step < 40)
    notes = [
        "Top: mean over concepts, with 95 % interval; filled bars are functional "
        f"{noun(means.layer)}s, the blue band is the control.",
        "Below: a number where the whole interval lies beyond the control; hatched gray where impact is undefined.",
    ]
    if cells.censored.any():
        notes.append(
            "Dotted: censored. In most pairs, both scores lie beyond the calibrated range: nothing was seen, which is not 0."
        )
    if direction == "necessary":
        notes.append("Patched into the clean run: at 0, the music sounds like the clean prompt, at 1 like the corrupted one.")
    if cells.planted.any():
        notes.append("Dashed: planted there.")
    if _bare(impacts):
        coarse = "coarse" in impacts and impacts.coarse.any()
        notes = [
            "Top: mean over concepts; filled bars are functional layers. Neither intervals nor controls were published.",
            "Below: a number from the threshold up" + (", where one layer was measured alone." if coarse else "."),
        ]
    matrix = _matrix(cells, means, step, direction)
    if pick:
        matrix = matrix.add_params(alt.selection_point(name="picked", fields=["concept", "site"], toggle=False, clear="mouseout"))
    return (
        alt.vconcat(_strip(means, step), matrix, _foot(means, step), spacing=7)
        .add_params(*_params(list(cells.group.unique())))
        .properties(title=alt.TitleParams(title, subtitle=notes), description=_description(cells, means))
        .configure(**chart_theme())
    )


def screen_heatmap(cells: pd.DataFrame, concept: str) -> alt.Chart:
    """Draw a screen's estimates for one concept, sites by denoising steps; `Screen.chart` calls it.

    Args:
        cells: As `Screen.impacts` returns them by step.
        concept: The concept's name.

    Returns:
        An Altair chart.

    Raises:
        ValueError: The concept has no defined estimate, or `cells` is another table.

    Example:
        >>> screen = audioscope.screen(model, ["fast"], pairs=4, sites="cross", steps=4, progress=False)
        >>> chart = audioscope.atlas.screen_heatmap(screen.impacts(by_step=True), "fast")
        >>> chart.to_dict()["description"].startswith("Heatmap of estimated impact on fast, 12 layers by 4 steps.")
        True
    """
    with_columns(
        "cells", cells, ("concept", "site", "layer", "step", "impact", "low", "high", "defined"), "Screen.impacts(by_step=True)"
    )
    shown = cells[(cells["concept"] == of_kind("concept", concept, str)) & cells["defined"]]
    if shown.empty:
        raise ValueError(
            f"The screen has no defined estimate for {concept!r}: it needs more pairs, or the prompts do not move it."
        )
    shown = shown.sort_values(["layer", "step"], kind="stable")
    what = noun(shown["layer"])
    drawn = pd.DataFrame({
        "site": shown["site"].astype(str), "layer": shown["layer"].astype(str), "step": shown["step"], "impact": shown["impact"].round(4),
        "reading": [reading(*row) for row in zip(shown["impact"], shown["low"], shown["high"], strict=True)],
    })  # fmt: skip
    order = drawn["layer"].unique().tolist()
    top = drawn.loc[drawn["impact"].abs().idxmax()]
    end = float(drawn["impact"].abs().max())
    return (
        alt.Chart(rows(drawn))
        .mark_rect()
        .encode(
            x=alt.X("step:O", title="denoising step", axis=alt.Axis(labelAngle=0)), y=alt.Y("layer:N", sort=order, title=what),
            color=alt.Color("impact:Q", scale=alt.Scale(domain=[-end, end], domainMid=0, interpolate="rgb"), title="estimate"),
            tooltip=[alt.Tooltip("site:N", title="module"), alt.Tooltip("step:O"), alt.Tooltip("reading:N", title="estimated impact")],
        )
        .properties(
            width=alt.Step(26), height=alt.Step(14 if len(order) > 24 else ROW),
            title=alt.TitleParams(f"Where and when {concept} may be decided", subtitle=["Estimated by gradients: patch what matters."]),
            description=f"Heatmap of estimated impact on {concept}, {len(order)} {what}s by {drawn['step'].nunique()} steps. "
            f"Largest: {what} {top['layer']} in step {top['step']}, {top['reading']}.",
        )
        .configure(**chart_theme())
    )  # fmt: skip


def attention_heatmap(attention: AttentionMap) -> alt.Chart:
    """Draw where in time a generation looks at which word; `AttentionMap.chart` calls it.

    Other tokens (padding, ends, duration) have rows below the words. What the map tells apart is averaged, or of kind "score" summed.
    Colors end at the largest weight of a word, since the other tokens often get most of the attention.

    Args:
        attention: The map.

    Returns:
        An Altair chart.

    Example:
        >>> attention = model.attention("a fast song with violin", steps=2)
        >>> audioscope.atlas.attention_heatmap(attention).to_dict()["description"].startswith("Heatmap of attention, 5 words")
        True
    """
    if not hasattr(attention, "overall"):
        raise ValueError(f"attention is {said(attention)}, expected an AttentionMap.")
    signed, values = attention.settings.get("kind") == "score", attention.overall()
    # Altair writes a spec into a script of the page that it saves, which a text with </script> would end
    text, *names = (each.replace("<", "‹") for each in (attention.text, *attention.words, *attention.others))
    places = [f"{row:03d}" for row in range(len(names))]
    drawn = pd.DataFrame([
        {"place": place, "word": name, "second": round(float(second), 3), "weight": round(float(value), 5)}
        for place, name, line in zip(places, names, values, strict=True)
        for second, value in zip(attention.seconds, line, strict=True)
    ])  # fmt: skip
    words = values[: len(attention.words)] if attention.words else values
    top, most = int(words.mean(1).argmax()), float(np.abs(words).max())
    scale = alt.Scale(domain=[-most if signed else 0, most], clamp=True, scheme="purpleorange" if signed else "viridis")
    unit = f"brought to {attention.settings['concept']}" if signed else "attention"
    width = float(attention.seconds[1] - attention.seconds[0]) if len(attention.seconds) > 1 else 2 * float(attention.seconds[0])
    drawn = drawn.assign(start=(drawn["second"] - width / 2).round(3), end=(drawn["second"] + width / 2).round(3))
    return (
        alt.Chart(rows(drawn))
        .mark_rect()
        .encode(
            x=alt.X("start:Q", title="time (s)", scale=alt.Scale(nice=False), axis=alt.Axis(tickCount=8)), x2="end:Q",
            y=alt.Y("place:N", sort=places, title=None, axis=alt.Axis(labelExpr=f"{json.dumps(dict(zip(places, names, strict=True)))}[datum.value]")),
            color=alt.Color("weight:Q", title=unit, scale=scale),
            tooltip=[alt.Tooltip("word:N"), alt.Tooltip("second:Q", title="at (s)", format=".2f"), alt.Tooltip("weight:Q", title=unit, format=".4f")],
        )
        .properties(
            width=520, height=alt.Step(ROW),
            title=alt.TitleParams("What each look brings to the score" if signed else "Where in time the model looks at which word", subtitle=[text]),
            description=f"Heatmap of attention, {len(attention.words)} words and {len(attention.others)} other tokens by {len(attention.seconds)} "
            f"moments, of the text: {text}. Most: {names[top]}, {float(words[top].mean()):.3f} on average.",
        )
        .configure(**chart_theme())
    )  # fmt: skip


def agreement_table(cells: pd.DataFrame) -> pd.DataFrame:
    """Concepts in rows and sites in columns, with how many views agree of how many could be asked: ("2", "of 3"), ("", "") for 0 of 0."""
    text = [(str(row.agree), f"of {row.asked}") if row.asked else ("", "") for row in cells.itertuples()]
    return impact_table(cells.assign(text=text), values="text")


def agreement_heatmap(
    cells: pd.DataFrame, title: str = "How many views agree that a layer carries a concept"
) -> alt.VConcatChart:
    """Draw for each cell how many views (scorers on scales) agree that its impact lies beyond the control.

    The color is the number of views that agree, which is also printed, with the number that could be asked where that is smaller
    than the number of views. Cells that hold in all views are outlined; cells that no view could be asked about are hatched gray.
    Menus order the concepts and show one group alone, as in `heatmap`.

    Args:
        cells: As `Atlas.agreement` returns them.
        title: Stands above the chart.

    Returns:
        An Altair chart.

    Raises:
        ValueError: There is nothing to draw, or a table is of something else.

    Example:
        >>> chart = audioscope.atlas.agreement_heatmap(audioscope.datasets.atlas().agreement())
        >>> chart.to_dict()["description"][:63]
        'Heatmap of agreement, 21 concepts by 12 layers, up to 4 views: '
    """
    said_text("title", title)
    with_columns(
        "cells", cells, ("concept", "group", "site", "layer", "views", "asked", "agree", "agreeing", "holds"), "Atlas.agreement"
    )
    if cells.empty:
        raise ValueError("The atlas has no cells yet: let localize() finish at least one concept.")
    shown = cells.reset_index(drop=True)
    labels = [name.removeprefix("impact ") for name in shown.columns if name.startswith("impact ")]
    labels = [label for label in labels if f"p {label}" in shown]  # other columns are the user's own
    if not labels:
        raise ValueError(
            "cells has no view (columns 'impact ...' and 'p ...'): expected the table that `Atlas.agreement` returns."
        )
    if shown.duplicated(["concept", "site"]).any():
        raise ValueError("cells has a concept and site twice, expected the table that `Atlas.agreement` returns.")
    sites = list(shown.sort_values("layer", kind="stable").site.unique())
    step = max(26, min(46, 720 // len(sites)))
    first = shown[f"impact {labels[0]}"]
    places = orders(shown.assign(impact=first, defined=first.notna())).set_index("concept").reindex(shown.concept)
    groups, most = shown.group.fillna(""), int(shown.views.max())
    said = [
        f"{row.agree} of {row.asked} views agree" + (f" ({row.agreeing})" if row.agree else "") if row.asked else "not asked: undefined or censored"
        for row in shown.itertuples()
    ]  # fmt: skip
    drawn = pd.DataFrame(
        {
            "concept": shown.concept, "group": groups, "heads": shown.concept.isin(shown.concept[~groups.duplicated()]),
            "by_group": places["group"].to_numpy(), "by_peak": places["peak"].to_numpy(),
            "by_similarity": places["similarity"].to_numpy(), "site": shown.site, "layer": shown.layer,
            "agree": shown.agree, "asked": shown.asked, "views": shown.views, "holds": shown.holds, "reading": said,
            "digits": [f"{row.agree}/{row.asked}" if row.asked < most else f"{row.agree}" for row in shown.itertuples()],
        }
    )  # fmt: skip
    tooltip = [
        alt.Tooltip("concept:N"), alt.Tooltip("site:N", title="module"), alt.Tooltip("reading:N", title="agreement"),
        alt.Tooltip("views:Q"),
    ]  # fmt: skip
    base = _grid(drawn, sites, tooltip)
    color = alt.Color(
        "agree:Q",
        scale=alt.Scale(domain=[0, most], interpolate="rgb"),
        legend=alt.Legend(
            title="views that agree", orient="bottom", direction="horizontal", gradientLength=260, gradientThickness=10,
            values=list(range(most + 1)), format="d", titlePadding=6, offset=14,
        ),
    )  # fmt: skip
    missing, chosen = base.transform_filter("!datum.asked"), "datum.concept == chosen_concept && datum.site == chosen_site"
    text = base.mark_text(aria=False).encode(text="digits:N")
    layers = [
        base.transform_filter("datum.asked > 0").mark_rect(aria=False).encode(color=color),
        missing.mark_rect(style="undefined", aria=False),
        missing.mark_point(style="hatch", shape=_hatch(step), size=ROW**2, filled=False, strokeCap="butt", aria=False),
        text.transform_filter(f"datum.agree > 0 && datum.agree < {0.75 * most}").mark_text(style="on-pale", aria=False),
        text.transform_filter(f"datum.agree > 0 && datum.agree >= {0.75 * most}").mark_text(style="on-deep", aria=False),
        base.transform_filter("datum.holds").mark_rect(style="outline", filled=False, aria=False),
        base.transform_filter(chosen).mark_rect(style="chosen", filled=False, aria=False),
        _group_names(base, drawn, sites),
    ]
    numbers = alt.Chart(rows(drawn.drop_duplicates("site")[["site", "layer"]])).encode(x=_x(sites), text="layer:N")
    margin = alt.Chart(drawn[["site"]].head(1)).mark_text(style="label-quiet", align="right", y=9, aria=False)
    foot = [numbers.mark_text(style="label-quiet", y=9, aria=False), margin.encode(x=alt.value(-8), text=alt.value("layer"))]
    return (
        alt.vconcat(
            alt.LayerChart(layer=layers, width=step * len(sites), height=alt.Step(ROW)),
            alt.LayerChart(layer=foot, width=step * len(sites), height=18),
            spacing=7,
        )
        .add_params(*_params(list(groups.unique())))
        .properties(
            title=alt.TitleParams(
                title,
                subtitle=[
                    f"Views: {'; '.join(labels)}. A number says how many agree; 2/3 means 2 of only 3 that could be asked.",
                    "A view agrees if the impact lies beyond the control after correction for all cells (Holm), which asks for more than an interval.",
                    "Outlined: all views that know the concept agree. Hatched gray: none could be asked, since the cell is undefined or censored.",
                ],
            ),
            description=f"Heatmap of agreement, {drawn.concept.nunique()} concepts by {len(sites)} layers, up to {most} views: "
            f"{'; '.join(labels)}. All agree: {_places(drawn[drawn.holds]) or 'nowhere'}.",
        )
        .configure(**chart_theme())
    )


def side_by_side(atlases: Mapping[str, Atlas], width: int = 220) -> alt.HConcatChart:
    """Draw several models' atlases in panels of equal width, so that equal positions are equal relative depths.

    Concepts stand in one order, which follows the first atlas; concepts that a model does not have are left empty.

    Args:
        atlases: Atlases by the name to show above their panel.
        width: Of a panel, in px.

    Returns:
        An Altair chart.

    Raises:
        ValueError: There is no atlas.

    Example:
        >>> atlases = {"tiny": audioscope.datasets.atlas(), "ACE-Step": audioscope.datasets.published("ace-step")}
        >>> chart = audioscope.atlas.side_by_side(atlases)
        >>> len(chart.hconcat)
        2
    """
    if not isinstance(atlases, Mapping) or not atlases or not all(hasattr(atlas, "impacts") for atlas in atlases.values()):
        raise ValueError(f"atlases is {said(atlases)}, expected at least one atlas by its name, such as {{'tiny': atlas}}.")
    if (room := real("width", width)) <= 0:
        raise ValueError(f"width is {width}, expected a number of pixels above 0.")
    first = next(iter(atlases.values())).impacts()
    impacts = {name: atlas.impacts() for name, atlas in atlases.items()}
    rows = pd.concat([frame.drop_duplicates("concept") for frame in impacts.values()]).drop_duplicates("concept")
    known = orders(first).set_index("concept").rename(columns=lambda name: f"by_{name}")
    extra = [c for c in rows["concept"] if c not in known.index]
    known = pd.concat([known, pd.DataFrame({name: range(len(known), len(known) + len(extra)) for name in known}, index=extra)])
    panels, descriptions = [], []
    for number, (name, atlas) in enumerate(atlases.items()):
        means = atlas.layer_means().sort_values("layer", kind="stable", ignore_index=True)
        step = room / len(means)
        cells = _cells(impacts[name], narrow=True)
        cells[known.columns] = known.reindex(cells.concept).to_numpy()
        gone = rows[~rows["concept"].isin(cells.concept)]
        blank = pd.DataFrame({"concept": gone["concept"], "group": gone["group"].fillna(""), "heads": False,
                              "site": means.site[0], "layer": 0, "defined": True, "censored": False, "clear": False})  # fmt: skip
        blank[known.columns] = known.reindex(blank.concept).to_numpy()
        cells = pd.concat([cells, blank], ignore_index=True) if len(gone) else cells
        leads = number == 0
        direction = atlas.settings.get("direction", "sufficient")
        descriptions.append(f"{name}: {_description(cells, means)}")
        strip, matrix = _strip(means, step, leads, name), _matrix(cells, means, step, direction, name, leads)
        panels.append(alt.vconcat(strip, matrix, _foot(means, step, leads), spacing=7, bounds="flush"))
    return (
        alt.hconcat(*panels, spacing=46)
        .add_params(*_params(list(rows["group"].fillna("").unique())))
        .properties(
            title=alt.TitleParams(
                "At what depth each model keeps its concepts",
                subtitle=[
                    "Equal positions are equal relative depths. Top: mean over concepts, each panel on its own scale.",
                    "Outlined layers are functional.",
                ],
            ),
            description=" ".join(descriptions),
        )
        .configure(**chart_theme())
    )


def score_strip(units: str = "log-odds", calibrated: float | None = None) -> Any:
    """Draw all scores of a cell's clean, corrupted and patched clips, for a page that fills in the data.

    The page supplies the dataset "scores" with the columns row, score and chosen. The chosen pair's clips stand out by shape and
    size.

    Args:
        units: The units of the scores, for the title of the axis.
        calibrated: The range on either side of 0 in which the scorer was calibrated, shaded; None draws no shade.

    Returns:
        An Altair chart without data.

    Example:
        >>> audioscope.atlas.score_strip(calibrated=6.0).to_dict()["layer"][1]["data"]
        {'name': 'scores'}
    """
    calibrated = None if calibrated is None else real("calibrated", calibrated)
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
        description="Scores of all clean, corrupted and patched clips of the chosen concept and layer; "
        "the chosen pair's clips stand out."
    )
