"""What all charts share: the theme, how an impact is written, and how notebooks display charts."""

from __future__ import annotations

import json
from typing import Any

import altair as alt
import pandas as pd

from audioscope.installed import need

MAX_ROWS = 5000  # altair's limit
LIVE_CHART = "application/vnd.vegalite.v5+json"  # the newest version that JupyterLab renders by itself


def chart_theme(dark: bool = False) -> dict[str, Any]:
    """Vega-Lite config with every color of the charts, so that a page can switch from light to dark without another spec.

    Blue and orange can be told apart with all common forms of color blindness; zero takes the tone of the page.
    """
    ink, quiet, line = ("#f0ece6", "#a9a49c", "#4a4844") if dark else ("#23211e", "#6b665e", "#d8d3cb")
    accent, page = ("#f0a05a", "#1d1c1a") if dark else ("#a84a08", "#ffffff")
    if dark:
        ramp = ["#8cc4ff", "#3f74ad", "#2f4a68", "#2b2a28", "#6b4420", "#a8642a", "#ffbe7d"]
    else:
        ramp = ["#12488c", "#4f88c4", "#b4d0ea", "#f2f0ed", "#f6cfa2", "#dc8434", "#94400a"]
    font = "system-ui, -apple-system, 'Segoe UI', 'Liberation Sans', sans-serif"
    label = {"font": font, "fontSize": 12, "color": ink}
    titled = {"labelColor": ink, "titleColor": quiet, "titleFontSize": 12, "titleFontWeight": "normal"}
    title = {"color": ink, "fontSize": 17, "fontWeight": 600, "anchor": "start", "frame": "bounds", "offset": 14}
    subtitle = {"subtitleColor": quiet, "subtitleFontSize": 12, "subtitlePadding": 7, "subtitleLineHeight": 17}
    return {
        "background": "transparent",
        "font": font,
        "view": {"stroke": None},
        "axis": titled | {"labelFontSize": 12, "domain": False, "ticks": False, "gridColor": line, "labelPadding": 8},
        "legend": titled | {"labelFontSize": 11},
        "title": title | subtitle,
        "range": {"diverging": {"scheme": ramp}, "heatmap": {"scheme": ramp[3:]}},
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


def rows(table: pd.DataFrame) -> pd.DataFrame | alt.InlineData:
    """A table as the data of a chart: altair refuses more than 5,000 rows of a DataFrame, but not their records."""
    return table if len(table) <= MAX_ROWS else alt.InlineData(values=json.loads(table.to_json(orient="records")))


def show_charts() -> None:
    """Render Altair charts in notebooks offline: interactive in JupyterLab, with or without a kernel, elsewhere as an image.

    Call it once, at the top of a notebook.

    Raises:
        ImportError: The extra `pages` is not installed.

    Example:
        >>> import altair
        >>> with altair.renderers.enable("default"):  # restores the renderer afterwards
        ...     audioscope.show_charts()
        ...     altair.renderers.active
        'audioscope'
    """
    need("pages", "Rendering charts offline")
    alt.renderers.register("audioscope", _as_output)
    alt.renderers.enable("audioscope")


def _as_output(spec: dict[str, Any], **_: Any) -> dict[str, Any]:
    import vl_convert

    older = spec | {"$schema": "https://vega.github.io/schema/vega-lite/v5.json"}
    text = str(spec.get("description") or "chart")
    return {LIVE_CHART: older, "image/svg+xml": vl_convert.vegalite_to_svg(json.dumps(spec)), "text/plain": text}
