"""The book: notebooks are run and become pages that hold all they show; every link is followed; what fails is named."""

from __future__ import annotations

import re
import subprocess
import sys

import nbformat
import pytest
from helpers.browsing import hears, new_context, until

from audioscope.cli.main import main
from audioscope.course import copy_notebooks
from audioscope.pages.book import chapters, check_links
from audioscope.store import notebooks_folder

pytestmark = pytest.mark.slow

EVIL = "<script>window.evil=1</script>"
FIRST = [
    ("markdown", "# 1. One: a claim\n\n**You will hear** a tone.\n\n**Time**: 1 minute.\n\nOn to [two](02_two.ipynb) and [far](https://example.org/a)."),
    ("code", "import numpy as np\nimport altair as alt\nimport pandas as pd\nimport audioscope\n\naudioscope.show_charts()"),
    ("code", "wave = (0.3 * np.sin(2 * np.pi * 500 * np.arange(32000) / 16000))[None].astype('float32')\n"
             f"audioscope.show_clips(audioscope.Clip(wave, 16000, {EVIL!r}))"),
    ("code", "alt.Chart(pd.DataFrame({'x': [1, 2, 3], 'y': [2, 3, 1]}), description='three points').mark_point().encode(x='x', y='y', tooltip='y')"),
    ("code", f"print({EVIL!r})\npd.DataFrame({{'a': [1]}})"),
    ("code", "from audioscope.widgets.base import Explorer, heard\n\nexplorer = Explorer()\n"
             "explorer.sounds.show([heard(audioscope.Clip(wave, 16000), 'a tone')])\nexplorer"),
    ("code", "from tqdm.auto import tqdm\n\nfor _ in tqdm(range(3), desc='load' + 'ing'):\n    pass"),
]  # fmt: skip
SECOND = [
    ("markdown", "# 2. Two: another claim\n\nBack to [one](01_one.ipynb#1.-One:-a-claim) or to [the last](09_gone.ipynb)."),
    ("code", "assert 1 == 1"),
]


def write(folder, name, cells):
    makers = {"markdown": nbformat.v4.new_markdown_cell, "code": nbformat.v4.new_code_cell}
    notebook = nbformat.v4.new_notebook(cells=[makers[kind](source) for kind, source in cells])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    folder.mkdir(exist_ok=True)
    nbformat.write(notebook, folder / f"{name}.ipynb")


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    folder = tmp_path_factory.mktemp("book")
    write(folder / "notebooks", "01_one", FIRST)
    write(folder / "notebooks", "02_two", SECOND)
    # another process: the browser's event loop may run in this one
    command = [sys.executable, "-m", "audioscope", "book", "--notebooks", folder / "notebooks", "--out", folder / "pages"]
    subprocess.run(command, check=True, capture_output=True)
    return folder / "pages"


def test_pages_hold_all_they_show_and_link_to_one_another(book):
    assert sorted(path.name for path in book.iterdir()) == ["01_one.html", "02_two.html", "index.html"]
    one, two, index = ((book / name).read_text() for name in ("01_one.html", "02_two.html", "index.html"))
    assert 'href="02_two.html"' in one and 'href="01_one.html#' in two and "09_gone.ipynb" not in two
    assert "You will hear a tone." in index and 'href="01_one.html"' in index
    there = [word for word in (EVIL, "loading") if word in one]
    assert not there, "text is escaped, progress bars are left out"
    assert "data-chart" in one and "data:audio/mpeg" in one and "srcdoc" in one and "&lt;script&gt;" in one
    assert check_links(book, ["index", "01_one", "02_two"]) >= 8


def test_the_book_opens_offline_its_charts_live_and_its_sound_plays(book, browser):
    for name in ("01_one", "02_two", "index"):
        context = new_context(browser, viewport={"width": 360, "height": 800})
        page, wrong = context.new_page(), []
        page.on("pageerror", lambda error, wrong=wrong: wrong.append(str(error)))
        page.on("console", lambda message, wrong=wrong: message.type in ("error", "warning") and wrong.append(message.text))
        page.on("request", lambda request, wrong=wrong: request.url.startswith(("http", "ws")) and wrong.append(request.url))
        page.goto((book / f"{name}.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, "no page is wider than a telephone"
        if name == "01_one":
            until(page, "document.querySelectorAll('figure[data-chart] .vega-embed svg').length === 1")
            assert page.evaluate("window.evil") is None
            frame = page.frames[-1]
            frame.locator("button.play").click()
            hears(frame, "document.querySelector('figure.clip').player", 500)
        context.close()
        assert not wrong, wrong


def test_links_that_lead_nowhere_and_foreign_files_are_found(book, tmp_path):
    for wrong, said in (
        ("<a href='gone.html'>x</a>", "gone.html"),
        ("<a href='#nowhere'>x</a>", "#nowhere"),
        ("<a href='http://insecure.org/a'>x</a>", "insecure"),
        ("<img src='https://example.org/x.png'>", "fetches"),
        ("<script src='//cdn.org/x.js'></script>", "fetches"),
    ):
        (tmp_path / "page.html").write_text(f"<h1 id='there'>x</h1><a href='#there'>y</a>{wrong}")
        with pytest.raises(ValueError, match=re.escape(said)):
            check_links(tmp_path, ["page"])


def test_a_notebook_that_fails_is_named_and_the_pages_before_it_are_kept(tmp_path, capsys):
    write(tmp_path / "notebooks", "01_fine", SECOND)
    write(tmp_path / "notebooks", "02_broken", [("markdown", "# 2. Broken"), ("code", "1 / 0")])
    command = [sys.executable, "-m", "audioscope", "book", "--notebooks", tmp_path / "notebooks", "--out", tmp_path / "pages"]
    failed = subprocess.run(command, capture_output=True, text=True)
    write(tmp_path / "notebooks", "00_untitled", [])
    assert next(chapter.title for chapter in chapters(tmp_path / "notebooks")) == "00_untitled", "an empty notebook has its name"
    (tmp_path / "notebooks" / "00_untitled.ipynb").unlink()
    assert failed.returncode == 2 and "02_broken" in failed.stderr and "ZeroDivisionError" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert 'href="01_fine.html"' in (tmp_path / "pages" / "index.html").read_text(), "and found in the index"
    write(tmp_path / "notebooks", "02_broken", [("markdown", "# 2. Broken"), ("code", "import os\n\nos._exit(1)")])
    died = subprocess.run([*command, "02_broken"], capture_output=True, text=True)
    assert died.returncode == 2 and "02_broken failed: DeadKernelError" in died.stderr
    index = (tmp_path / "pages" / "index.html").read_text()
    assert 'href="01_fine.html"' in index, "a page that was made before stays in the book"
    assert (tmp_path / "pages" / "01_fine.html").exists() and not (tmp_path / "pages" / "02_broken.html").exists()
    assert main(["book", "07_gone", "--notebooks", str(tmp_path / "notebooks")]) == 2
    assert "07_gone" in capsys.readouterr().err


def test_the_shipped_notebooks_are_found_and_copied(tmp_path):
    found = chapters()
    names = [chapter.name.split("_")[0] for chapter in found]
    assert names == sorted(names) == ["00", "01", "02", "02b", "03", "03b", "04", "05", "06", "07", "08", "09"]
    assert all(
        chapter.title and (chapter.said("You will hear") or chapter.said("You will see")) and "minutes" in chapter.said("Time")
        for chapter in found
    )
    assert len(copy_notebooks(tmp_path)) == len(found)
    mine = tmp_path / "00_start_here.ipynb"
    mine.write_text("{}")
    (tmp_path / "01_hear_the_model.ipynb").unlink()
    assert [path.name for path in copy_notebooks(tmp_path)] == ["01_hear_the_model.ipynb"] and mine.read_text() == "{}", (
        "work is kept"
    )
    assert nbformat.read(notebooks_folder() / "02_look_inside.ipynb", 4) == nbformat.read(tmp_path / "02_look_inside.ipynb", 4)
