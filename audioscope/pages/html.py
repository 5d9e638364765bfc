"""One self-contained HTML page in our style: it holds style, scripts, sound and pictures and fetches nothing from elsewhere."""

from __future__ import annotations

import base64
import json
import math
import re
from dataclasses import replace
from functools import cache
from html import escape
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import altair as alt
import jinja2
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup

from audioscope.audio import Clip
from audioscope.store import write_whole

LOUDNESS = -23.0  # LUFS at which every clip of a page is played


def asset(name: str) -> str:
    """A file from audioscope/pages/web: a style sheet, a template or a script."""
    return files("audioscope.pages").joinpath("web", name).read_text(encoding="utf-8")


def modules(name: str) -> dict[str, str]:
    """The scripts from audioscope/pages/web that a script imports, each once: the name it is imported by -> a data URI.

    This way, a page consists of ES modules, and nothing has to be fetched or built.
    """
    found: dict[str, str] = {}
    todo = [name]
    while todo:
        for other in re.findall(r'"audioscope/([\w.]+)"', asset(todo.pop())):
            if other not in found:
                found[other] = data_uri("text/javascript", asset(other).encode())
                todo.append(other)
    return {f"audioscope/{other}": address for other, address in found.items()}


@cache
def vega() -> Markup:
    """Vega, Vega-Lite and Vega-Embed as one script (about 0.9 MB), in the version that altair writes for."""
    import vl_convert

    code = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=alt.SCHEMA_VERSION.rsplit(".", 1)[0])
    return Markup(code.replace("</script", "<\\/script"))


def svg(chart: Any) -> Markup:
    """An altair chart as a picture; empty for None, and without the extra `pages`, as in a widget."""
    if chart is None or find_spec("vl_convert") is None:
        return Markup("")
    import vl_convert

    return Markup(vl_convert.vegalite_to_svg(chart.to_json()))


def render(template: str, **values: Any) -> Markup:
    """A template from audioscope/pages/web, filled in: values may contain any characters, since they are escaped."""
    loader = jinja2.FunctionLoader(asset)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, loader=loader)
    return Markup(environment.get_template(template).render(**values))


def page(
    kind: str,
    title: str,
    body: Markup,
    *,
    data: dict[str, Any] | None = None,
    charts: bool = False,
    packs: str = "",
    style: str = "",
) -> str:
    """An HTML document. kind: the name of its script in audioscope/pages/web; body: as `render` returns; data: JSON for the script,
    by the id of its element; charts: whether it draws any; packs: where scripts with sound may be loaded from, besides the page.

    The page's policy forbids all other requests.
    """
    return str(render(
        "page.html", kind=kind, title=title, body=body, beside=packs, scripts=[vega()] if charts else [],
        data={name: json_for_html(value) for name, value in (data or {}).items()},
        style=Markup(asset("style.css") + style), imports=json_for_html({"imports": modules(f"{kind}.js")}),
        module=Markup(asset(f"{kind}.js").replace("</script", "<\\/script")),
    ))  # fmt: skip


def save_page(file: Path, text: str) -> Path:
    """Write a page, or what it loads, whole or not at all; returns its path."""
    write_whole(file, lambda part: part.write_text(text, encoding="utf-8"))
    return file


def json_for_html(value: Any) -> Markup:
    """JSON that is safe inside HTML, as compact as possible. Raises ValueError for NaN or infinity, which JSON does not have."""
    return htmlsafe_json_dumps(value, json.dumps, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def iframe(title: str, html: str, height: int) -> Any:
    """Show a page in a notebook, in an iframe, so that its style and scripts stay apart from the notebook's.

    Args:
        title: Names the frame for screen readers.
        html: The document.
        height: Of the frame, in px.

    Returns:
        HTML for a notebook.

    Example:
        >>> shown = audioscope.pages.iframe("A greeting", "<p>Hello</p>", height=60)
        >>> "height:60px" in shown.data
        True
    """
    from IPython.display import HTML

    return HTML(
        f'<div><iframe title="{escape(title)}" style="width:100%;border:0;height:{height}px" '
        f'srcdoc="{escape(html)}"></iframe></div>'
    )


def data_uri(kind: str, content: bytes) -> str:
    """A file's content as a data URI; kind: its media type, such as "audio/mpeg"."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def sound(clip: Clip, longest: float | None = None) -> dict[str, Any]:
    """A clip for the player: its sound as MP3 and its spectrogram, as data URIs, and the gain in dB to equal loudness.

    longest: in s; a longer clip is cut to its beginning.

    The gain never takes a peak beyond full scale; a silent clip, or one too short to have a loudness, is left unchanged.
    """
    if longest is not None and clip.seconds > longest:
        clip = replace(clip, samples=clip.samples[:, : round(longest * clip.rate)])
    lufs, peak = clip.loudness, float(abs(clip.samples).max())
    gain = min(LOUDNESS - lufs, -20 * math.log10(peak)) if math.isfinite(lufs) else 0.0
    return {
        "sound": data_uri("audio/mpeg", clip.encoded("mp3")),
        "picture": data_uri("image/webp", clip.picture()),
        "gain": round(gain, 2),
    }
