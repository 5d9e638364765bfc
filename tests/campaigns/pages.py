"""Hostile words in prompts, names, captions and metadata: through every page and widget, in a browser, nothing runs and nothing is requested.

python tests/campaigns/pages.py [--words 6]
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import ipywidgets
import nbformat
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from helpers.browsing import BROWSERS, LIMIT, settle
from helpers.tones import EVIL, GROUPS, atlas_of_tones, site, steering_of_tones, tone
from markupsafe import Markup
from playwright.sync_api import Error, sync_playwright

import audioscope
from audioscope import datasets
from audioscope.audio import show_clips
from audioscope.pages import feature_pages, save_html, save_site, slider_page
from audioscope.pages.features import FeatureClips
from audioscope.pages.html import page, save_page
from audioscope.steer.results import Track

RUN = "console.log('RAN')"
FAR = "https://evil.example"
WORDS = (
    f"<script>{RUN}</script>", f'"><script>{RUN}</script>', f"</script><script>{RUN}</script>", f"</title><script>{RUN}</script>",
    f"<!--<script>{RUN}</script>-->", f"<img src=x onerror={RUN}>", f"'><img src=x onerror={RUN}>", f"<svg onload={RUN}>", f"<svg><script>{RUN}</script></svg>",
    f"<body onload={RUN}>", f"<details open ontoggle={RUN}>", f"<input autofocus onfocus={RUN}>", f"<video><source onerror={RUN}></video>",
    f'" onmouseover="{RUN}', f'" autofocus onfocus="{RUN}', f"' onclick='{RUN}", f"javascript:{RUN}", f'<a href="javascript:{RUN}">a</a>',
    f"[a](javascript:{RUN})", f'<iframe srcdoc="<script>{RUN}</script>"></iframe>', f'<iframe src="javascript:{RUN}"></iframe>',
    f'<iframe src="data:text/html,<script>{RUN}</script>"></iframe>', f'<object data="data:text/html,<script>{RUN}</script>"></object>',
    f'<embed src="data:text/html,<script>{RUN}</script>">', f'<script src="data:text/javascript,{RUN}"></script>',
    f'<script type="module">import "data:text/javascript,{RUN}"</script>', f'<script type="importmap">{{"imports":{{"a":"data:text/javascript,{RUN}"}}}}</script>',
    f'<math><mtext></form><form><mglyph><style></math><img src onerror={RUN}>', f'<noscript><p title="</noscript><img src=x onerror={RUN}>">',
    f"{{{{{RUN}}}}}", f"${{{RUN}}}", f"`${{{RUN}}}`", f"');{RUN};('", f'");{RUN};("', f"\\u003cscript\\u003e{RUN}\\u003c/script\\u003e", f"&lt;script&gt;{RUN}&lt;/script&gt;",
    f"%3Cscript%3E{RUN}%3C/script%3E", f"</style><script>{RUN}</script>", f"</textarea><script>{RUN}</script>", f"</svg><script>{RUN}</script>",
    f'<base href="{FAR}/">', f'<meta http-equiv="refresh" content="0;url={FAR}/">', f'<link rel=stylesheet href="{FAR}/x.css">',
    f"<style>@import '{FAR}/x.css'; body {{ background: url({FAR}/x) }}</style>", f'<img src="{FAR}/x.png">', f'<audio src="{FAR}/x.mp3" autoplay></audio>',
    f'<form action="{FAR}/"><input autofocus></form>', f'<link rel=prefetch href="{FAR}/">', f'<svg><image href="{FAR}/x.png"/></svg>', f'<a ping="{FAR}/" href="#">a</a>',
    "__proto__", "constructor", "toString", "../../x", "a\u2028b", "\u202egnp.exe", "NaN", "<", "&", "'", '"', "\\", "%", "#", "{}", "[]", "\U0001f3b5",
)  # fmt: skip


def allowed(name: str) -> str:
    """A name that a concept may have: line separators are refused, and may stand in prompts only."""
    try:
        return audioscope.Concept(name, ()).name
    except ValueError as error:
        assert "line separator" in str(error)
        return " ".join(name.splitlines())


def poisoned(table: Any, settings: dict[str, Any], words: Sequence[str]) -> tuple[Any, dict[str, Any]]:
    """A table and settings in which names, prompts and notes are hostile words."""
    names = dict(
        zip(
            (*GROUPS, "slow", "tones", "caa own"),
            [f"{allowed(words[i % len(words)])}{' ' * (i // len(words))}" for i in range(7)],
            strict=True,
        )
    )

    def changed(value: Any) -> Any:
        if isinstance(value, str):
            return names[value] if value in names else value.replace(EVIL, words[0]).replace("song", words[-1])
        if isinstance(value, dict):
            return {changed(key) if key in names else key: changed(each) for key, each in value.items()}
        return [changed(each) for each in value] if isinstance(value, list) else value

    texts = [name for name in table if table[name].dtype == object or str(table[name].dtype) in ("str", "string")]
    kept = {"clip", "row", "site", "sites", "method"}
    table = table.assign(**{name: table[name].map(changed) for name in texts if name not in kept})
    return table, changed(settings)


def widgets_html(box: Any) -> list[str]:
    """The HTML that a widget puts into a notebook."""
    own = [box.value] if isinstance(box, ipywidgets.HTML) else []
    return own + [html for child in getattr(box, "children", ()) for html in widgets_html(child)]


def write(folder: Path, words: Sequence[str], model: audioscope.Model) -> list[Path]:
    """Every kind of page with these words, as files. Those of the notebook, which has no policy of its own, begin with "loose"."""
    kept = atlas_of_tones(folder)
    atlas = audioscope.Atlas(*poisoned(kept.table, kept.settings, words), folder)
    made = steering_of_tones(folder)
    sweep = replace(made, **dict(zip(("table", "settings"), poisoned(made.table, made.settings, words), strict=True)))
    sae = datasets.sae(site(0))
    assert sae.scores is not None
    sae.scores = sae.scores.assign(concept=[allowed(words[i % len(words)]) for i in range(len(sae.scores))])
    sae.metadata = {**sae.metadata, "training": {words[0]: words[-1]}, "note": words[0]}
    feature = int(sae.scores["feature"].iloc[0])
    clips = [replace(tone(400.0 + 50 * i), prompt=word, model=words[0]) for i, word in enumerate(words)]
    active = torch.rand(len(clips), 16, sae.d_sae, generator=torch.Generator().manual_seed(0))
    found = FeatureClips(clips, active, model.sampling(steps=1))
    pages = [save_html(atlas, folder / "one.html", steering=[sweep], progress=False)]
    pages.append(save_site(atlas, folder / "site", steering=[sweep], progress=False))
    tracks = [Track(word, [-1.0, 1.0], clips[:1] * 2, [word, words[0]]) for word in words]
    pages.append(slider_page(tracks, folder / "slider.html", words[0], words[-1], atlas.chart()))
    index = feature_pages(sae, model, folder / "features", [feature], found=found, progress=False)
    pages += [index, index.parent / f"{feature}.html"]
    explorers = [atlas.explore(model=None), sweep.explore(model=None), model.play("a song", seed=0, steps=1)]
    explorers[-1].prompt.value = words[0]
    explorers[-1].wait(600)
    loose = [
        show_clips(*clips).data,
        *(each.still().data for each in explorers),
        *(html for each in explorers for html in widgets_html(each)),
    ]
    vector = replace(datasets.vector("fast"), model=words[0], metadata={"concept": words[0], "against": words[-1]})
    loose += [vector._repr_html_(), audioscope.course.Verdict(False, words[0])._repr_html_(), model.sites._repr_html_()]
    for explorer in explorers:
        explorer.close()
    for number, html in enumerate(loose):
        pages.append(save_page(folder / f"loose{number}.html", f"<!doctype html><meta charset=utf-8><body>{html}"))
    return [*pages, *book(folder, words)]


def book(folder: Path, words: Sequence[str]) -> list[Path]:
    """A book of one notebook that says, prints and shows hostile words, also as HTML, which a notebook may show."""
    source = f"words = {list(words)!r}\n"
    html = [
        word for word in words if "http-equiv" not in word
    ]  # no policy in a page forbids to leave it, and a notebook's HTML is its author's
    cells = [nbformat.v4.new_markdown_cell(f"# 1. {html[0]}: a claim\n\n**You will hear** {html[-1]}\n\n" + "\n\n".join(html)),
             nbformat.v4.new_code_cell(source + "for word in words:\n    print(word)"),
             nbformat.v4.new_code_cell("import pandas as pd\npd.DataFrame({'a': words})"),
             nbformat.v4.new_code_cell("from IPython.display import HTML\nHTML(' '.join(" + repr(html) + "))")]  # fmt: skip
    notebook = nbformat.v4.new_notebook(cells=cells)
    (folder / "notebooks").mkdir()
    nbformat.write(notebook, folder / "notebooks" / "01_evil.ipynb")
    # another process: the browser's event loop runs in this one. Links that lead nowhere are told after the pages were written.
    command = [sys.executable, "-m", "audioscope", "book", "--notebooks", folder / "notebooks", "--out", folder / "book"]
    told = subprocess.run(command, capture_output=True, text=True)
    assert told.returncode in (0, 2) and "Traceback" not in told.stderr, told.stderr
    return [folder / "book" / "01_evil.html", folder / "book" / "index.html"]


TOUCH = """() => {
  for (const each of document.querySelectorAll("*")) for (const kind of ["mouseover", "mousemove", "focus"]) each.dispatchEvent(new Event(kind));
  for (const each of document.querySelectorAll("details")) each.open = true;
  for (const each of document.querySelectorAll("a[href^='javascript:' i]")) each.click();
}"""


def visit(context: Any, file: Path, addresses: Sequence[str] = ("",)) -> list[str]:
    """Open a page, go over and click what it shows. Returns what ran, and what it requested."""
    wrong: list[str] = []
    tab = context.new_page()
    tab.on(
        "console",
        lambda message: (
            "RAN" in message.text
            and "Refused" not in message.text
            and message.type == "log"
            and wrong.append(f"ran: {message.text}")
        ),
    )
    tab.on("dialog", lambda dialog: (wrong.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    tab.on("pageerror", lambda error: wrong.append(f"error: {error}"))
    home = file.parent.as_uri()
    known = {"data", "blob", "about", "chrome-error"}

    def asked(request: Any) -> None:
        """What the policy refused was never sent."""
        if request.url.split(":")[0] not in known and not request.url.startswith(home) and request.failure != "csp":
            wrong.append(f"requested: {request.url} ({request.failure})")

    tab.on("requestfinished", asked)
    tab.on("requestfailed", asked)
    for address in addresses:
        tab.goto("about:blank")
        try:
            tab.goto(file.as_uri() + address, wait_until="domcontentloaded")
            settle(tab)
            tab.evaluate(TOUCH)
            settle(tab)
        except Error as error:  # such as that the page is another one meanwhile
            wrong.append(f"left: {error}")
    tab.close()
    return wrong


def controls(context: Any, folder: Path) -> None:
    """The same words where nothing escapes them: this campaign must see them run, and the policy alone must stop them."""
    html = "".join(word for word in WORDS if not any(mark in word for mark in ("<body", "</title>", "<!--", "http-equiv")))
    bare = save_page(folder / "control.html", f"<!doctype html><meta charset=utf-8><body>{html}")
    ran = visit(context, bare)
    assert sum(each.startswith("ran") for each in ran) >= 5 and any(FAR in each for each in ran), (
        f"the control does not show: {ran}"
    )
    html = "".join(word for word in WORDS if "http-equiv" not in word)  # a policy in a page does not forbid to leave it
    guarded = save_page(folder / "guarded.html", page("features", "control", Markup(html)))
    stopped = visit(context, guarded)
    assert not stopped, f"the policy lets pass: {stopped}"


def campaign(browser: Any, words: Sequence[str], each: int = 6) -> int:
    """All pages with these words, `each` of them at a time. Returns how many pages were opened; raises AssertionError if anything ran."""
    model, opened = audioscope.load("tiny"), 0
    for start in range(0, len(words), each):
        folder = Path(tempfile.mkdtemp(prefix="audioscope-pages-"))
        part = words[start : start + each]
        try:
            context = browser.new_context()
            context.set_default_timeout(1000 * LIMIT)
            if not start:
                controls(context, folder)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                pages = write(folder, part, model)
            for file in pages:
                named = ["", *(f"#view={view}&concept={quote(word)}" for word in part[:3] for view in ("atlas", "steering"))]
                wrong = visit(
                    context,
                    file,
                    named if file.name in ("one.html", "index.html") and file.parent.name in ("site", folder.name) else ("",),
                )
                assert not wrong, (file.name, part, wrong)
                opened += 1
            context.close()
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return opened


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--words", type=int, default=len(WORDS), help=f"how many of the {len(WORDS)} (default: all)")
    given = options.parse_args()
    path = next(filter(None, map(shutil.which, BROWSERS)))
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"], timeout=1000 * LIMIT)
        print(
            f"{given.words} hostile words, {campaign(chromium, WORDS[: given.words])} pages opened: nothing ran, nothing was requested"
        )
        chromium.close()
