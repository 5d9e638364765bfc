"""The documentation: the site builds offline without a warning, its links lead somewhere, its code runs, and nothing public is missing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from helpers.browsing import new_context

import audioscope

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
NAMESPACES = ("atlas", "steer", "sae", "scoring", "pages", "tiny")
CODE = re.compile(r"(<!-- not run[^\n]*\n)?```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def public_names() -> set[str]:
    """Every public name with its dotted path; a name that a namespace repeats from the top is listed once, at the top."""
    top = {name for name in audioscope.__all__ if not name.startswith("_")} - {*NAMESPACES, "datasets", "course"}
    names = {f"audioscope.{name}" for name in top}
    for space in (*NAMESPACES, "datasets", "course"):
        module = getattr(audioscope, space)
        names |= {f"audioscope.{space}.{name}" for name in module.__all__ if name not in top}
    return names


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The built site, with a page of one line for each page of the book, which has tests of its own."""
    folder = tmp_path_factory.mktemp("docs")
    book = folder / "book"
    book.mkdir()
    for name in ["index", *(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))]:
        (book / f"{name}.html").write_text("<!doctype html><title>a page of the book</title>")
    out = folder / "site"
    build = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet", "-d", str(folder / "trees")]
    made = subprocess.run(
        [*build, str(ROOT / "docs"), str(out)], capture_output=True, text=True, env={**os.environ, "BOOK": str(book)}
    )
    assert made.returncode == 0, made.stdout + made.stderr
    return out


class _Links(HTMLParser):
    def __init__(self, page: Path):
        super().__init__()
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.loaded: list[str] = []
        self.feed(page.read_text())

    def handle_starttag(self, tag, attrs):
        have = dict(attrs)
        self.ids |= {have[key] for key in ("id", "name") if have.get(key)}
        if tag == "a" and have.get("href"):
            self.links.append(have["href"])
        self.loaded += [have[key] for key in ("src", "href") if tag != "a" and have.get(key)]


@pytest.mark.slow
def test_links_lead_somewhere_and_nothing_is_loaded_from_elsewhere(site):
    pages = {page: _Links(page) for page in site.rglob("*.html") if "_static" not in page.parts}
    assert len(pages) > 30
    broken = []
    for page, found in pages.items():
        for link in found.links + found.loaded:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                assert link in found.links or parts.scheme == "data", f"{page.name} loads {link}"
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            if not target.exists() or (parts.fragment and target in pages and parts.fragment not in pages[target].ids):
                broken.append(f"{page.relative_to(site)}: {link}")
    assert not broken


@pytest.mark.slow
def test_a_page_opens_in_the_browser_and_search_finds_a_name(site, browser):
    asked: list[str] = []
    with new_context(browser) as context:
        page = context.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.goto((site / "reference" / "atlas.html").as_uri())
        assert page.locator("dt#audioscope\\.localize").is_visible()
        page.goto((site / "search.html").as_uri() + "?q=localize")
        page.wait_for_selector("#search-results li a")
        assert "localize" in page.inner_text("#search-results")
    assert all(url.startswith(("file:", "data:")) for url in asked), asked


def test_every_public_name_is_in_the_reference_once():
    """Also in no other place than one: the reference is the list of what may be relied on."""
    listed = Counter(
        name for page in (ROOT / "docs" / "reference").glob("*.md")
        for name in re.findall(r"^\.\. (?:auto(?:class|function)|py:data|py:module):: (\S+)$", page.read_text(), re.MULTILINE)
    )  # fmt: skip
    assert set(listed) == public_names()
    assert set(listed.values()) == {1}


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if CODE.search(page.read_text())], ids=lambda page: page.stem)
def test_the_code_of_a_page_runs(page, tmp_path, monkeypatch):
    """Block after block, in an empty folder, as a reader would paste it."""
    monkeypatch.chdir(tmp_path)
    readme = (ROOT / "README.md").read_text()  # its quick start has a test of its own
    blocks = [code for skipped, code in CODE.findall(page.read_text()) if not skipped and code not in readme]
    space: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, str(page), "exec"), space)


@pytest.mark.slow
def test_the_quick_start_of_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (block,) = [code for _, code in CODE.findall((ROOT / "README.md").read_text())]
    exec(compile(block, "README.md", "exec"), {})
    assert {file.name for file in tmp_path.iterdir()} == {"violin.flac", "faster.flac", "bongos.flac"}
