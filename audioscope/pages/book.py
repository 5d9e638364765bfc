"""The notebooks as a book: each is run and becomes a page with its charts and sound; there is an index, and links are checked."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from audioscope.errors import among, as_path, listed, quiet
from audioscope.installed import need

need("pages", "The book")  # running and rendering a notebook is not part of the core

import nbformat
from markupsafe import Markup
from nbclient import NotebookClient
from nbconvert.filters import Highlight2HTML, markdown2html
from tqdm.auto import tqdm

from audioscope.pages.html import asset, check_page, page, render, save_page
from audioscope.store import made_folder, notebooks_folder
from audioscope.theme import LIVE_CHART

TIMEOUT = 3600  # s that one cell may take
FRAMES = ("slider", "features")  # the kinds of pages that an output may be


@dataclass(frozen=True, eq=False)
class Chapter:
    """A notebook of the book: its name, its title (a heading), its opening, and how long it takes."""

    name: str
    notebook: Any

    @property
    def opening(self) -> str:
        return "".join(str(cell.source) for cell in self.notebook.cells[:1])

    @property
    def title(self) -> str:
        return "".join(self.opening.splitlines()[:1]).lstrip("# ") or self.name

    def said(self, what: str) -> Markup:
        """The text after these bold words in the opening, up to the next bold words, as HTML; empty if they do not occur."""
        found = re.search(rf"\*\*{what}\*\*:?\s*(.*?)(?=\*\*|\n\s*\n|$)", self.opening, re.DOTALL)
        return Markup(re.sub(r"^<p>|</p>$", "", markdown2html(" ".join(found[1].split())).strip())) if found else Markup("")


def chapters(folder: str | Path | None = None, names: Sequence[str] = ()) -> list[Chapter]:
    """The notebooks of a folder in order; None is the shipped ones. names: some of them, without the suffix.

    Raises FileNotFoundError if there are none, or none of a given name.
    """
    folder = notebooks_folder() if folder is None else as_path(folder)
    files = {file.stem: file for file in sorted(folder.glob("*.ipynb"))}
    names = listed("names", names, "names of notebooks, without the suffix")
    missing = [str(name) for name in names if not among(name, files)]
    if missing or not files:
        raise FileNotFoundError(f"{folder} has no notebook {', '.join(missing)}. There are: {', '.join(files) or 'none'}.")
    return [Chapter(name, nbformat.read(file, as_version=4)) for name, file in files.items() if not names or name in names]


def make_book(out: str | Path, notebooks: str | Path | None = None, names: Sequence[str] = (), *, progress: bool = True) -> Path:
    """Run the notebooks and write them as pages: index.html and one page each, which open in any browser, offline.

    Each page is written as soon as its notebook has run. HTML in a notebook is shown, but scripts in it do not run. Pages that were made earlier from other notebooks of the folder stay in
    the book.

    Args:
        out: The folder for the pages.
        notebooks: The folder of the notebooks; None is the shipped ones.
        names: Some of them, without the suffix; empty is all.
        progress: Show a progress bar.

    Returns:
        The path of the index.

    Raises:
        FileNotFoundError: There are no notebooks, or none of a given name.
        ValueError: A notebook failed (the message names it), or there are broken links.

    Example:
        >>> import nbformat
        >>> cells = [nbformat.v4.new_markdown_cell("# My chapter"), nbformat.v4.new_code_cell("1 + 1")]
        >>> nbformat.write(nbformat.v4.new_notebook(cells=cells), "mine.ipynb")
        >>> index = audioscope.pages.make_book("book", notebooks=".", progress=False)
        >>> sorted(file.name for file in index.parent.iterdir())
        ['index.html', 'mine.html']
    """
    out, found = as_path(out), chapters(notebooks, names)
    asked = {chapter.name for chapter in found}
    for name in ("index", *asked):
        check_page(out / f"{name}.html")
    made_folder(out)
    # a page that was made earlier stays in the book
    whole = [each for each in chapters(notebooks) if each.name in asked or (out / f"{each.name}.html").exists()]
    bar = tqdm(found, desc="book", unit="notebook", disable=quiet(progress))
    try:
        for chapter in bar:
            bar.set_postfix_str(chapter.name)
            try:
                place = {"metadata": {"path": str(out)}}
                NotebookClient(
                    chapter.notebook, timeout=TIMEOUT, startup_timeout=600, iopub_timeout=600, resources=place
                ).execute()
            except Exception as error:  # of the kernel, a timeout, or of the cell, which has the name and text of what it raised
                what = f"{getattr(error, 'ename', type(error).__name__)}: {getattr(error, 'evalue', error)}"
                raise ValueError(f"{chapter.name} failed: {what.strip()}. Open it in JupyterLab to see where.") from error
            save_page(out / f"{chapter.name}.html", chapter_html(chapter, whole))
    finally:
        there = [chapter for chapter in whole if (out / f"{chapter.name}.html").exists()]
        index = render("book_index.html", chapters=there)
        save_page(out / "index.html", page("book", "audioscope: the course", index, style=asset("book.css")))
    check_links(out, ["index", *asked], [chapter.name for chapter in there])
    return out / "index.html"


def chapter_html(chapter: Chapter, all_chapters: Sequence[Chapter]) -> str:
    """A notebook with its outputs as one HTML document."""
    highlight = Highlight2HTML(pygments_lexer="python")
    charts: list[Any] = []
    there = {each.name for each in all_chapters}

    def linked(link: re.Match[str]) -> str:
        """A link to a notebook leads to its page or, if the book has none, to the index."""
        return f'href="{link[1]}.html{link[2] or ""}"' if link[1] in there else 'href="index.html"'

    cells: list[dict[str, Any]] = []
    for cell in chapter.notebook.cells:
        if cell.cell_type == "markdown":
            html = re.sub(r'href="([\w.-]+)\.ipynb(#[^"]*)?"', linked, markdown2html(cell.source))
            cells.append({"kind": "text", "html": Markup(html)})
        elif cell.source.strip():
            outputs = [html for output in cell.outputs if (html := _output_html(output, charts))]
            tags = cell.metadata.get("tags", [])
            cells.append({"kind": "code", "html": Markup(highlight(cell.source)), "outputs": outputs, "tags": tags})
    place = next(i for i, each in enumerate(all_chapters) if each.name == chapter.name)
    before, after = (all_chapters[i] if 0 <= i < len(all_chapters) else None for i in (place - 1, place + 1))
    body = render("book.html", cells=cells, before=before, after=after, name=chapter.name)
    return page("book", chapter.title, body, data={"charts": charts}, charts=bool(charts), frames=FRAMES, style=asset("book.css"))


def _output_html(output: Any, charts: list[Any]) -> Markup:
    """One output of a cell; charts gets those for Vega. Progress bars and live widgets mean nothing on a page and are omitted."""
    data = {"text/plain": output.text.rstrip()} if output.get("name") == "stdout" else output.get("data", {})
    if LIVE_CHART in data:
        charts.append({name: value for name, value in data[LIVE_CHART].items() if name != "$schema"})  # Vega is newer here
        chart = '<figure class="card paper scroll" tabindex="0" data-chart="{}">{}</figure>'
        return Markup(chart).format(len(charts) - 1, Markup(data["image/svg+xml"]))
    if "application/vnd.jupyter.widget-view+json" in data:
        return Markup()
    if "text/html" in data:
        html = Markup(data["text/html"])
        return Markup('<div class="scroll" tabindex="0">{}</div>').format(html) if "<table" in html else html
    if "image/png" in data:
        return Markup('<img alt="" src="data:image/png;base64,{}">').format(data["image/png"])
    return Markup("<pre class='output' tabindex='0'>{}</pre>").format(data["text/plain"]) if "text/plain" in data else Markup()


class _Links(HTMLParser):
    """The targets of a page's links, the anchors that links can lead to, and what the page loads from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.names: set[str] = set()
        self.remote: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if values.get("id"):
            self.names.add(str(values["id"]))
        if tag == "a" and values.get("href") is not None:
            self.links.append(str(values["href"]))
        for name in ("src", "href") if tag != "a" else ("src",):
            if re.match(r"(https?:)?//", values.get(name) or ""):
                self.remote.append(str(values[name]))


def check_links(folder: Path, names: Sequence[str], others: Sequence[str] = ()) -> int:
    """Check that every link of some pages of a folder leads to an existing page and anchor; returns how many links there are.

    others: more pages that links may lead to. Links to other sites are not followed; only their form is checked.
    Raises ValueError with the broken links and with what a page would fetch from elsewhere.
    """
    pages = {}
    for name in [*names, *others]:
        pages[f"{name}.html"] = parsed = _Links()
        parsed.feed((folder / f"{name}.html").read_text())
    wrong, count = [], 0
    for name in (f"{name}.html" for name in names):
        parsed = pages[name]
        wrong += [f"{name} fetches {address}" for address in parsed.remote]
        for link in parsed.links:
            count += 1
            parts = urlsplit(link)
            if parts.scheme:
                wrong += [f"{name}: {link}"] if parts.scheme != "https" or "." not in parts.netloc else []
                continue
            target = pages.get(parts.path or name)
            if target is None or (parts.fragment and unquote(parts.fragment) not in target.names):
                wrong.append(f"{name}: {link}")
    if wrong:
        raise ValueError(f"{len(wrong)} broken or forbidden links: {'; '.join(wrong[:5])}")
    return count
