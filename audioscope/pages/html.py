"""One self-contained HTML page in our style: it holds style, scripts, sound and pictures and fetches nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections.abc import Sequence
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
from audioscope.errors import said_text, whole
from audioscope.store import write_whole

PACK = "audioscopePack("  # how a file of sounds begins, which a page loads
START, OURS = '<!doctype html>\n<html lang="en">\n<head>\n<meta name="generator" content="audioscope">', "<body data-page="
LOUDNESS = -23.0  # LUFS at which every clip of a page is played


def asset(name: str) -> str:
    """A file from audioscope/pages/web: a style sheet, a template or a script."""
    return files("audioscope.pages").joinpath("web", name).read_text(encoding="utf-8")


@cache
def bundle(name: str) -> Markup:
    """A script from audioscope/pages/web with those that it imports, as one script: the page's policy can then allow its hash.

    Each script keeps a scope of its own. Only `import { names } from "audioscope/..."` and `export` before a declaration are used.
    """
    return Markup("const scripts = {};\n" + "".join(_scope(each) for each in _imported(name))).replace("</script", "<\\/script")


def _imported(name: str) -> list[str]:
    """The scripts that a script imports, itself included, each after those that it imports itself."""
    found: dict[str, None] = {}
    for other in re.findall(r'^import .* from "audioscope/([\w.]+)";$', asset(name), re.MULTILINE):
        found |= dict.fromkeys(_imported(other))
    return [*found, name]


def _scope(name: str) -> str:
    """A script as a function's body, which returns what the script exports."""
    text = re.sub(r'^import (\{.*\}) from "audioscope/([\w.]+)";$', r'const \1 = scripts["\2"];', asset(name), flags=re.MULTILINE)
    exports = re.findall(r"^export (?:async )?(?:const|function|class) (\w+)", text, re.MULTILINE)
    text = re.sub(r"^export (?=async|const|function|class)", "", text, flags=re.MULTILINE)
    return f'scripts["{name}"] = (() => {{\n{text}\nreturn {{ {", ".join(exports)} }};\n}})();\n'


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
    packs: bool = False,
    frames: Sequence[str] = (),
    style: str = "",
) -> str:
    """An HTML document. kind: the name of its script in audioscope/pages/web; body: as `render` returns; data: JSON for the script,
    by the id of its element; charts: whether it draws any; packs: whether its script loads others; frames: the kinds of pages in it.

    The page's policy forbids all requests, except for packs, and all scripts, except for ours, by their hashes.
    """
    scripts = [*([vega()] if charts else []), bundle(f"{kind}.js")]
    allowed = [_hash(script) for script in [*scripts, *(bundle(f"{frame}.js") for frame in frames)]]
    return str(render(
        "page.html", kind=kind, title=title, body=body, style=Markup(asset("style.css") + style), scripts=scripts,
        policy=Markup(" ".join([*allowed, *(["'strict-dynamic'"] if packs else [])])),
        data={name: json_for_html(value) for name, value in (data or {}).items()},
    ))  # fmt: skip


def _hash(script: str) -> str:
    """How a content security policy names a script that stands in the page."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def check_page(file: Path) -> None:
    """What can be said of a page before the work for it: raises ValueError for a folder, and for a file of something else."""
    if file.is_dir():
        raise ValueError(f"{file} is a folder: give the name of a file.")
    there = file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""
    start = PACK if file.suffix == ".js" else START
    if there and not (OURS in there or there.startswith(start) or start.startswith(there)):  # one of ours may have been cut short
        what = "page" if file.suffix == ".html" else "file"
        raise ValueError(f"{file} is a {what} of something else, and would be overwritten: choose another name.")


def save_page(file: Path, text: str) -> Path:
    """Write a page, or what it loads, whole or not at all; returns its path. Raises ValueError as `check_page` does."""
    check_page(file)
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
    said_text("title", title), said_text("html", html)
    height = whole("height", height, 1)
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
