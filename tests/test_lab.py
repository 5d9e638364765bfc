"""JupyterLab itself, driven by a browser: open a notebook, run all, click a cell of the atlas, hear, move a slider; and without a kernel."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest
from axe_playwright_python.sync_playwright import Axe
from helpers.browsing import LIMIT, heard, hears, near, new_context, settle, until
from helpers.tones import pitch, steered

pytestmark = pytest.mark.slow

CELLS = [
    "import sys\nfrom pathlib import Path\nsys.path.insert(0, {tests!r})",
    "import audioscope\nfrom helpers.tones import atlas_of_tones, steering_of_tones\n"
    "model = audioscope.load('tiny')\naudioscope.show_charts()\nfolder = Path({folder!r})",
    "atlas_of_tones(folder).explore()",
    "steering_of_tones(folder).explore()",
    "live = model.play('a jazz song', seed=3)\nlive",
    "audioscope.datasets.published('ace-step').chart()",
]
LIVE = ".audioscope-live"
LAST = f"[...document.querySelectorAll('{LIVE} .versions')].at(-1)"
PLAYERS = f"[...document.querySelectorAll('{LIVE} .audioscope')].filter(each => each.player)"


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """JupyterLab on a folder with one notebook, with settings of its own: its address."""
    folder = tmp_path_factory.mktemp("lab")
    places = {"tests": str(Path(__file__).parent), "folder": str(folder / "tones")}
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell.format(**places)) for cell in CELLS])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    (folder / "work").mkdir()
    nbformat.write(notebook, folder / "work" / "try.ipynb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {name: str(folder / name) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR", "JUPYTERLAB_WORKSPACES_DIR", "JUPYTERLAB_SETTINGS_DIR")}  # fmt: skip
    settings = folder / "JUPYTERLAB_SETTINGS_DIR" / "@jupyterlab" / "docmanager-extension" / "plugin.jupyterlab-settings"
    settings.parent.mkdir(parents=True)
    settings.write_text(
        '{"autosave": false}'
    )  # after two minutes it would meet the test's own saving, and ask which one is right
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}", "--port-retries=0"]
    command += ["--IdentityProvider.token=", f"--ServerApp.root_dir={folder / 'work'}", "--ServerApp.disable_check_xsrf=True"]
    command += ["--LabApp.news_url=", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    command += ["--expose-app-in-browser"]  # window.jupyterapp, which knows when a kernel is ready
    with open(folder / "log", "w") as log:
        server = subprocess.Popen(command, env={**os.environ, **own}, stdout=log, stderr=log)
    address, end = f"http://127.0.0.1:{port}", time.monotonic() + LIMIT
    while True:
        try:
            urllib.request.urlopen(f"{address}/api", timeout=LIMIT)
            break
        except OSError:
            assert server.poll() is None and time.monotonic() < end, (folder / "log").read_text()
            time.sleep(0.2)
    yield address
    server.terminate()
    server.wait(LIMIT)


def opened(page, lab):
    """Open the notebook and wait until its kernel is ready for it: without one, cells would be run by nobody."""
    page.goto(f"{lab}/lab/tree/try.ipynb?reset")
    page.wait_for_selector(".jp-Notebook .jp-CodeCell")
    session = "window.jupyterapp?.shell.currentWidget?.context?.sessionContext"
    until(
        page,
        f"{session}?.isReady && {session}.session?.kernel?.connectionStatus === 'connected' && {session}.kernelDisplayStatus === 'idle'",
    )


def stored(lab):
    """The cells of the notebook as they stand in its file."""
    return json.loads(urllib.request.urlopen(f"{lab}/api/contents/try.ipynb").read())["content"]["cells"]


def test_jupyterlab(lab, browser):
    context = new_context(browser, viewport={"width": 1400, "height": 1500})
    page, wrong = context.new_page(), []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("dialog", lambda dialog: dialog.accept())  # to leave the page
    context.route(
        lambda url: not url.startswith((lab, "data:", "blob:", "about:", "ws:")),
        lambda route: (wrong.append(route.request.url), route.abort()),
    )
    page.add_locator_handler(page.locator("dialog.jp-Dialog"), lambda dialog: dialog.locator("button").first.click())
    opened(page, lab)
    page.click(".lm-MenuBar-item >> text=Run")
    page.click("text=Run All Cells")
    until(page, f"document.querySelectorAll('{LIVE}').length === 3")
    charts = "document.querySelectorAll('.jp-RenderedVegaCommon5 svg, .jp-OutputArea .vega-embed').length >= 3"
    until(page, f"{PLAYERS}.length === 3 && {charts}")

    # a cell of the atlas, clicked, is heard; another version goes on in its place
    box = page.evaluate(
        """([concept, layer]) => {
          const cell = [...document.querySelectorAll(".audioscope-live .vega-embed path")].find(path => {
            const row = path.__data__?.datum;
            return row?.concept === concept && row.layer === layer && row.reading;
          });
          cell.scrollIntoView({ block: "center" });
          const { x, y, width, height } = cell.getBoundingClientRect();
          return [x + width / 2, y + height / 2];
        }""",
        ["fast", 1],
    )
    page.mouse.click(*box)
    until(page, f"[...document.querySelectorAll('{LIVE} b')].some(each => each.textContent === 'fast')")
    page.locator(f"{LIVE} button.play").first.click()
    player = f"{PLAYERS}[0].player"

    def pair():
        return int(page.get_by_label("Pair").locator("option:checked").inner_text().split(",")[0])

    until(page, lambda: near(heard(page, player), pitch("fast", 1, pair())))
    first = page.locator(f"{LIVE} .version > button").first
    first.focus()
    page.keyboard.press("Space")  # by keyboard
    hears(page, player, pitch("fast", "clean", pair()))
    cells = page.locator(".jp-Notebook .jp-CodeCell").count()
    page.keyboard.press("a")  # JupyterLab's own key adds a cell
    settle(page)
    assert page.locator(".jp-Notebook .jp-CodeCell").count() == cells, "keys on a widget are the widget's"

    # the slider of a sweep, by arrow keys, fades to the next strength
    slider = page.locator(f"{LIVE} input[type=range]").first
    slider.scroll_into_view_if_needed()
    slider.focus()
    page.keyboard.press("ArrowRight")
    strengths = page.locator(f"{LIVE} .audioscope", has=page.locator("input[type=range]")).first
    strengths.locator("button.play").click()
    hears(
        page, f"document.querySelector('{LIVE} input[type=range]').closest('.audioscope').slider.player", steered("caa own", 1.0)
    )
    assert page.locator(f"{LIVE} button.play").first.inner_text() == "Play", "one player at a time, over all widgets"

    # the live model: a typed prompt and a moved slider are answered
    prompt = page.locator(f"{LIVE}").last.get_by_label("Prompt", exact=True)
    prompt.scroll_into_view_if_needed()
    prompt.fill("a fast techno song")
    began = time.monotonic()
    prompt.press("Enter")
    until(page, f"{LAST}.textContent.includes('techno')")
    typed = time.monotonic() - began
    page.locator(f"{LIVE}").last.get_by_label("Steer", exact=True).select_option("fast")
    until(page, f"[...document.querySelectorAll('{LIVE} .noUi-target')].at(-1).getAttribute('disabled') === null")
    page.locator(f"{LIVE} .noUi-handle").last.focus()
    began = time.monotonic()
    page.keyboard.press("ArrowRight")
    until(page, f"{LAST}.children.length === 2")
    moved = time.monotonic() - began
    print(f"typed: {typed:.2f} s, moved: {moved:.2f} s")
    page.locator(f"{LIVE} button.play").last.click()
    until(page, lambda: heard(page, f"{PLAYERS}[2].player"))  # the generated clip plays

    # no serious barrier in the widgets
    found = Axe().run(page, context=LIVE)
    serious = [rule for rule in found.response["violations"] if rule["impact"] in ("serious", "critical")]
    assert not serious, [(rule["id"], [node["html"][:200] for node in rule["nodes"]]) for rule in serious]

    # a wrong prompt is said in the widget, and the kernel lives on
    prompt.fill(" ")
    prompt.press("Enter")
    until(page, f"[...document.querySelectorAll('{LIVE} .failed')].some(each => each.textContent.includes('empty'))")
    prompt.fill("a slow opera song")
    prompt.press("Enter")
    until(page, f"{LAST}.textContent.includes('opera')")

    # without a kernel: the still pictures with their players, and no error in the place of a widget
    def saved():
        """Asks again: a click on the menu was lost now and then on a busy machine."""
        page.evaluate("void window.jupyterapp.commands.execute('docmanager:save')")
        page.wait_for_timeout(1000)
        return sum(len(cell["outputs"]) for cell in stored(lab)) >= 7

    until(page, saved)
    for session in json.loads(urllib.request.urlopen(f"{lab}/api/sessions").read()):
        urllib.request.urlopen(urllib.request.Request(f"{lab}/api/sessions/{session['id']}", method="DELETE"))
    opened(page, lab)
    until(page, "document.querySelectorAll('.audioscope-still iframe').length === 3")
    outputs = "[...document.querySelectorAll('.jp-OutputArea-child')]"
    until(page, f"{outputs}.filter(each => each.textContent.includes('model not found')).length === 3")  # and are they hidden?
    visible = page.evaluate(f"{outputs}.filter(each => each.checkVisibility()).map(each => each.innerText).join(' ')")
    assert "model not found" not in visible
    still = page.frame_locator(".audioscope-still iframe").first
    assert still.locator("figure.clip").count() == 3 and still.locator("svg").count() >= 1
    still.locator("button.play").first.click()
    until(page, "document.querySelector('.audioscope-still iframe').contentDocument.querySelector('figure.clip').player.playing")
    assert page.locator(".jp-OutputArea .vega-embed").count() >= 1, "charts live without a kernel"
    context.close()
    assert not wrong, wrong
