"""One self-contained HTML page: a body in our style, of which nothing is fetched from elsewhere."""

from __future__ import annotations

import base64
from html import escape
from typing import Any

import jinja2
from markupsafe import Markup

from audioscope.report import STYLE

FRAME = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; media-src data:">
<title>{{ title }}</title>
<style>{{ style }}</style>
</head>
<body>
<main>
{{ body }}
</main>
{% if data %}<script type="application/json" id="data">{{ data|tojson }}</script>
{% endif %}<script type="module">{{ script }}</script>
</body>
</html>
"""


def page(title: str, body: str, *, style: str = "", script: str = "", data: Any = None, **values: Any) -> str:
    """An HTML document. body: a Jinja template, filled with `values`, which may hold any characters; data: JSON for the script,
    found as the text of #data. Sound and pictures go in as `data_uri`s: the page's policy forbids every request."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    filled = Markup(environment.from_string(body).render(title=title, **values))
    return environment.from_string(FRAME).render(
        title=title, style=Markup(STYLE + style), body=filled, data=data, script=Markup(script.replace("</script", "<\\/script"))
    )


def framed(title: str, html: str, height: int) -> Any:
    """A page in a notebook, in a frame of its own, `height` px high."""
    from IPython.display import HTML

    return HTML(
        f'<div><iframe title="{escape(title)}" style="width:100%;border:0;height:{height}px" srcdoc="{escape(html)}"></iframe></div>'
    )


def data_uri(kind: str, content: bytes) -> str:
    """A file's content as an address: kind is its media type, such as "audio/mpeg"."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
