"""The atlas page in a real browser: what is clicked is what is heard, nothing leaves the page, and all of it works by keyboard."""

import functools
import http.server
import re
import threading

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from helpers.browsing import HEARD, hears, near, new_context, settle, until
from helpers.tones import (
    ALPHAS,
    BEST,
    CELLS,
    EVIL,
    GROUPS,
    LAYERS,
    PAIRS,
    ROWS,
    atlas_of_tones,
    pitch,
    site,
    steered,
    steering_of_tones,
)

import audioscope
from audioscope.atlas.charts import orders
from audioscope.pages.features import feature_clips, feature_set
from audioscope.pages.slider import slider_html
from audioscope.steer.results import Track
from audioscope.theme import reading

pytestmark = pytest.mark.slow

DAY, NIGHT = {"color_scheme": "light"}, {"color_scheme": "dark"}
WIDE, NARROW = {"viewport": {"width": 1440, "height": 1000}}, {"viewport": {"width": 360, "height": 740}}

# How many frames the page asks for in each that it gets: 1 where one thing moves.
FRAMES = """() => new Promise(done => {
  const real = window.requestAnimationFrame;
  let asked = 0, got = 0;
  window.requestAnimationFrame = work => { asked++; return real(work); };
  const frame = () => {
    if (++got < 30) return real(frame);
    window.requestAnimationFrame = real;
    done(asked / got);
  };
  real(frame);
})"""
CELL, SLIDER = "document.querySelector('#cell').cell.player", "document.querySelector('.slider').slider.player"


@pytest.fixture(scope="module")
def features(tiny):
    """One SAE's features of two clips, of which one names a script."""
    sae = audioscope.datasets.sae(site(0))
    with pytest.warns(UserWarning, match="never saw"):
        tiny.check_prompt(f"a {EVIL} song")
    found = feature_clips(sae, tiny, ["a jazz song with drums", f"a {EVIL} song"], steps=3, progress=False)
    strongest = found.active.mean(1).amin(0).argsort(descending=True)[:2].tolist()
    return feature_set(sae, tiny, strongest, found=found)


@pytest.fixture(scope="module")
def shown(pages):
    """Concept -> the pair that the page shows first."""
    return pages["atlas"].examples().set_index("concept")["pair"].to_dict().get


@pytest.fixture(scope="module")
def pages(tmp_path_factory, features):
    """The same atlas as one file and as a folder: on a disk, and served."""
    folder = tmp_path_factory.mktemp("tones")
    atlas, steering = atlas_of_tones(folder), [steering_of_tones(folder), steering_of_tones(folder, "rap", "sung")]
    others = [atlas_of_tones(folder / "late", 0, when="late"), audioscope.datasets.published("ace-step")]
    keywords = {"others": others, "steering": steering, "features": [features], "progress": False}
    one = atlas.save_html(folder / "one.html", **keywords)
    index = atlas.save_site(folder / "site", **keywords)
    quiet = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(quiet, directory=str(index.parent)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield {
        "file": one.as_uri(),
        "folder": index.as_uri(),
        "server": f"http://127.0.0.1:{server.server_port}/index.html",
        "atlas": atlas,
    }
    server.shutdown()


class Seen:
    """A page with what went wrong on it: errors, dialogs, and requests that leave it."""

    def __init__(self, browser, address, **options):
        self.context = new_context(browser, **(WIDE | DAY | options))
        self.page = self.context.new_page()
        self.wrong = []
        home = address.split("#")[0].rsplit("/", 1)[0]
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("console", lambda message: message.type == "error" and self.wrong.append(message.text))
        self.page.on("dialog", lambda dialog: self.wrong.append(dialog.message))
        self.context.route(lambda url: not url.startswith((home, "data:", "blob:", "about:")), self.refuse)
        self.go(address)

    def refuse(self, route):
        self.wrong.append(f"left the page: {route.request.url}")
        route.abort()

    def go(self, address):
        self.page.goto("about:blank")
        self.page.goto(address)
        self.ready()

    def ready(self):
        self.page.wait_for_selector("body[data-ready]")

    def click_cell(self, concept, layer, model=""):
        """A mouse click in the middle of a cell of the heatmap."""
        box = self.page.evaluate(
            """([concept, layer, model]) => {
              const cell = [...document.querySelectorAll("#chart svg path")].find(path => {
                const row = path.__data__?.datum;
                return row?.concept === concept && row.layer === layer && (!model || row.model === model);
              });
              cell.scrollIntoView({ block: "center", inline: "center" });
              const { x, y, width, height } = cell.getBoundingClientRect();
              return [x + width / 2, y + height / 2];
            }""",
            [concept, layer, model],
        )
        self.page.mouse.click(*box)

    def heard(self, player=CELL):
        self.until(f"{player}.playing")
        return self.page.evaluate(HEARD, self.page.evaluate_handle(player))

    def hears(self, *wanted, player=CELL):
        """Wait until these tones are heard, and no others."""
        hears(self.page, player, *wanted)

    def until(self, condition):
        until(self.page, condition)

    def place(self, player=CELL):
        """Where the music stands against the clock of the sound, s: it stays the same while the music only goes on."""
        return self.page.evaluate(f"{player}.currentTime - {player}.output.context.currentTime")

    def start(self, player=CELL):
        """Have the page note where its player begins the next time; `until` it is noted, and then read `window.began`."""
        self.page.evaluate(
            f"{{ delete window.began; {player}.addEventListener('start', () => {{ window.began = {player}.currentTime; }}, {{ once: true }}); }}"
        )

    def began(self):
        self.until("window.began !== undefined")
        return self.page.evaluate("window.began")

    def let_in(self, held):
        """Wait for a request that is held, let it go on, and give the page time to do with its answer what it will."""
        self.until(lambda: held)
        with self.page.expect_event("requestfinished"):
            held.pop().continue_()
        settle(self.page)

    def text(self, selector):
        return self.page.inner_text(selector)

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        evil = self.page.evaluate("window.evil")
        self.context.close()
        if kind is None:
            assert not self.wrong and evil is None


def moved(before, after):
    """How far the music was moved between two places, s; the clips of the tones are 2 s long, and they loop."""
    return abs((after - before + 1) % 2.0 - 1)


@pytest.mark.parametrize("where", ["file", "folder", "server"])
def test_a_click_plays_the_cells_own_clip(browser, pages, shown, where):
    """On a disk, in one file and from a server; and another cell goes on at the same place."""
    with Seen(browser, pages[where]) as seen:
        seen.click_cell("rap", 2)
        seen.hears(pitch("rap", 2, shown("rap")))
        before = seen.place()
        seen.click_cell("fast", 1)
        seen.until("document.querySelector('#cell-title').textContent === 'fast'")
        seen.hears(pitch("fast", 1, shown("fast")))
        assert moved(before, seen.place()) < 0.1
        assert "concept=fast" in seen.page.url and "blocks.1." in seen.page.url


def test_a_b_x_switch_in_phase_at_equal_loudness(browser, pages, shown):
    with Seen(browser, pages["folder"]) as seen:
        marked = "[...document.querySelectorAll('#cell [data-version] button')].map(each => each.getAttribute('aria-pressed'))"
        assert seen.page.evaluate(marked) == ["false", "false", "true"], "what will be heard is marked from the start"
        seen.click_cell("rap", 2)
        seen.hears(pitch("rap", 2, shown("rap")))
        begun = seen.place()
        levels = []
        for key, row in (("a", "clean"), ("b", "corrupted"), ("x", 2)):
            seen.page.keyboard.press(key)
            seen.hears(pitch("rap", row, shown("rap")))
            levels.append(seen.page.evaluate("""async ({ output }) => {
              const { context } = output, listener = new AnalyserNode(context, { fftSize: 8192 }), begun = context.currentTime;
              output.connect(listener);
              while (context.currentTime < begun + 0.3) await new Promise(done => setTimeout(done, 20));
              const wave = new Float32Array(8192);
              listener.getFloatTimeDomainData(wave);
              return 10 * Math.log10(wave.reduce((sum, v) => sum + v * v, 0) / 8192);
            }""", seen.page.evaluate_handle(CELL)))  # fmt: skip
            assert moved(begun, seen.place()) < 0.05, "a switch restarted or moved the music"
        seen.page.evaluate(f"(async () => {{ {CELL}.pause(); await {CELL}.play(); {CELL}.fade([1, 0, 0]); }})()")
        seen.hears(pitch("rap", "clean", shown("rap")))  # a switch in the moment of the start is not lost
        # the ear's weighting of tones differs by frequency, so equal loudness is equal level to within 2 dB here; the clips differ by 12
        assert max(levels) - min(levels) < 2
        seen.page.click("#cell .plot >> nth=1", position={"x": 10, "y": 20})
        seen.hears(pitch("rap", "corrupted", shown("rap")))  # a click in a picture chooses it


def test_the_slider_fades_between_neighbours(browser, pages):
    with Seen(browser, pages["folder"] + "#view=steering&concept=fast") as seen:
        seen.page.click(".slider button.play")
        seen.hears(1000.0, player=SLIDER)
        begun = seen.place(SLIDER)
        set_to = "document.querySelector('.slider input').value = %s; document.querySelector('.slider input').dispatchEvent(new Event('input'))"
        seen.page.evaluate(set_to % 3.5)
        seen.hears(steered(CELLS[0], 1.0), steered(CELLS[0], 2.0), player=SLIDER)  # halfway both neighbours are heard
        seen.page.evaluate(set_to % 4)
        seen.hears(steered(CELLS[0], 2.0), player=SLIDER)
        assert "+2.00" in seen.text(".slider output")
        seen.page.click("#methods button >> nth=1")
        seen.hears(steered(CELLS[1], 2.0), player=SLIDER)  # the other way to steer, at the same place of the slider
        assert "+4.00" in seen.text(".slider output"), "in that way's own strength"
        assert moved(begun, seen.place(SLIDER)) < 0.05
        assert "score +4.10" in seen.text("#methods button >> nth=1") and "distance 0.110" in seen.text(
            "#methods button >> nth=1"
        )
        assert "layer 1 (selected)" in seen.text("#methods button >> nth=0")
        assert "layer 0" in seen.text("#methods button >> nth=2")
        assert seen.page.get_attribute("#view-steering input[type=range]", "aria-label") == "Strength: fast, everywhere"
        seen.until(
            "[...document.querySelectorAll('#curve svg path')].filter(p => p.__data__?.datum?.distance !== undefined && p.__data__.datum.strength === undefined)"
            f".length === {len(CELLS)}"
        )


def test_an_address_opens_its_view_again(browser, pages):
    with Seen(browser, pages["folder"]) as seen:
        seen.click_cell("fast", 3)
        seen.until("document.querySelector('#cell-title').textContent === 'fast'")
        seen.page.select_option("#menus [name=sort_by]", "peak")
        seen.until("location.hash.includes('sort=peak')")
        address = seen.page.url
        seen.go(address)
        assert seen.text("#cell-title") == "fast" and "layer 3" in seen.text("#cell .layer")
        assert seen.page.input_value("#menus [name=sort_by]") == "peak"
        wanted = list(orders(pages["atlas"].impacts()).sort_values("peak")["concept"])
        seen.until(lambda: rows_of(seen) == wanted)
        seen.page.click(".tabs a >> text=Steering")
        seen.page.wait_for_selector("#view-steering:not([hidden])")
        assert seen.text("#axis-title") == "slow ↔ fast", "what was chosen in the atlas is shown in steering"
        seen.page.click("#methods button >> nth=2")
        seen.until("location.hash.includes('method=2')")
        address = seen.page.url
        seen.go(address)
        assert seen.page.get_attribute("#methods button >> nth=2", "aria-pressed") == "true" and not seen.page.is_visible(
            "#view-atlas"
        )
        seen.go(pages["folder"] + "#view=features")
        seen.page.wait_for_selector("#feature figure.clip")
        number = seen.text("#feature h2 >> nth=0")
        seen.page.click(".feature-list tbody a >> nth=1")
        seen.until(f"document.querySelector('#feature h2').textContent !== '{number}'")
        other = seen.text("#feature h2 >> nth=0")
        seen.go(seen.page.url)
        seen.page.wait_for_selector("#feature figure.clip")
        assert seen.text("#feature h2 >> nth=0") == other


@pytest.mark.parametrize("wrong", [
    "#view=nothing&chart=99&map=7&concept=none&site=x&unit=-3&sae=9&feature=none&method=8", "#chart=3&map=-1", "#chart=3&map=x", "#chart=length",
    "#concept=fast&unit=abc", "#concept=fast&unit=-3&sort=__proto__&group=none", "#view=steering&concept=fast&method=-1", "#view=steering&axis=99&method=99",
    "#view=features&sae=9&feature=1", "#view=features&sae=-1&feature=none", "#view=made&concept=__proto__", "#%%%", "#view=view-atlas",
])  # fmt: skip
def test_odd_addresses_show_what_they_can(browser, pages, wrong):
    with Seen(browser, pages["folder"] + wrong) as seen:
        settle(seen.page)
        assert seen.text("#error") == "" and seen.page.is_visible("[id^=view-]:not([hidden])")
        if seen.page.is_visible("#cell"):
            assert "No prompt pair" not in seen.text("#cell .message")


def rows_of(seen):
    """The concepts of the heatmap from top to bottom, as they are drawn."""
    return seen.page.evaluate("""() => {
      const place = new Map();
      for (const path of document.querySelectorAll("#chart svg path")) {
        const row = path.__data__?.datum;
        if (row?.reading && row.concept) place.set(row.concept, path.getBoundingClientRect().y);
      }
      return [...place.keys()].sort((a, b) => place.get(a) - place.get(b));
    }""")


def test_rows_are_ordered_and_filtered(browser, pages):
    wanted = orders(pages["atlas"].impacts())
    with Seen(browser, pages["file"]) as seen:
        for name in ("group", "peak", "similarity"):
            seen.page.select_option("#menus [name=sort_by]", name)
            seen.until(f"'{name}' === 'group' || location.hash.includes('sort={name}')")
            rows = list(wanted.sort_values(name)["concept"])
            seen.until(lambda rows=rows: rows_of(seen) == rows)
        seen.page.select_option("#menus [name=only_group]", "voice")
        seen.until(lambda: set(rows_of(seen)) == {"rap", "choir"})


def test_maps_and_models_are_linked(browser, pages):
    with Seen(browser, pages["folder"] + "#concept=rap") as seen:
        names = seen.page.eval_on_selector_all("#map option", "all => all.map(each => each.textContent)")
        assert names == [
            "tones: text swap",
            "tones: text swap, late third of the steps",
            "ace-step: text swap, published",
            "all models, by relative depth",
        ]
        assert "layer 2" in seen.text("#cell .layer"), "a concept alone opens at its best layer"
        seen.page.select_option("#map", "1")
        seen.until("document.querySelector('#cell .layer').textContent.includes('late third')")
        assert seen.text("#cell-title") == "rap" and not seen.page.is_visible("#cell .listen"), (
            "the same cell, of which no sound was kept"
        )
        seen.page.select_option("#map", "3")
        seen.until("document.querySelectorAll('#chart svg path').length > 300")
        seen.click_cell("drums", 7, "ace-step")
        known = audioscope.datasets.published("ace-step").impacts().set_index(["concept", "layer"]).loc[("drums", 7), "impact"]
        seen.until("document.querySelector('#cell-title').textContent === 'drums'")
        assert "Published as a number only" in seen.text("#cell .message") and f"{known:.2f}" in seen.text("#cell .reading")


def test_models_side_by_side_by_arrow_keys(browser, pages):
    """A concept that a model lacks is stepped over nowhere and traps nobody."""
    with Seen(browser, pages["folder"] + "#chart=3&map=2&concept=drums") as seen:
        assert "ace-step" in seen.text("#cell .layer") and "ace-step" in seen.page.get_attribute(
            "#tables > div:not([hidden])", "aria-label"
        )
        seen.page.focus("#grid")
        rows = "Object.values(JSON.parse(document.querySelector('#atlas').textContent).charts[3].spec.datasets).flat()"
        places = seen.page.evaluate(
            f"Object.fromEntries({rows}.filter(r => r.model === 'ace-step' && r.reading).map(r => [r.concept, r.by_group]))"
        )
        table = sorted(places, key=places.get)
        assert set(table) == set(audioscope.datasets.published("ace-step").concepts)
        for key, walk in (("ArrowUp", table[: table.index("drums")][::-1]), ("ArrowDown", table[1:])):
            for concept in walk:
                seen.page.keyboard.press(key)
                seen.until(f"document.querySelector('#cell-title').textContent === '{concept}'")
        seen.click_cell("rap", 2, "tones")
        seen.until("document.querySelector('#cell .layer').textContent.includes('tones: text swap')")
        assert "tones: text swap" in seen.page.get_attribute("#tables > div:not([hidden])", "aria-label")
    with Seen(browser, pages["folder"] + "#chart=1&concept=rap") as seen:
        seen.page.select_option("#map", "3")
        # the cell is that of the panel: a model's first map
        seen.until("!document.querySelector('#cell .layer').textContent.includes('third')")


def test_a_pack_that_cannot_be_loaded_is_said_and_tried_again(browser, pages, shown):
    away = []
    with Seen(browser, pages["server"]) as seen:
        seen.click_cell("rap", 2)
        seen.hears(pitch("rap", 2, shown("rap")))
        seen.page.route("**/m0-c2-*.js", lambda route: away.append(1) or route.abort())
        seen.click_cell("fast", 1)
        seen.until("document.querySelector('#error').textContent.includes('could not be loaded')")
        assert away and not seen.page.evaluate(f"{CELL}.playing"), "the old clip does not play under the new words"
        seen.page.unroute("**/m0-c2-*.js")
        seen.click_cell("fast", 1)
        seen.hears(pitch("fast", 1, shown("fast")))
        assert seen.text("#error") == ""
        assert all("ERR_FAILED" in text for text in seen.wrong)
        seen.wrong.clear()


def test_a_late_pack_does_not_overtake_a_newer_choice(browser, pages, shown):
    held = []
    with Seen(browser, pages["server"] + "#concept=rap") as seen:
        seen.page.route("**/m0-c2-*.js", lambda route: held.append(route))
        seen.page.route("**/s0.js", lambda route: held.append(route))
        seen.click_cell("fast", 1)
        seen.click_cell("rap", 2)
        seen.hears(pitch("rap", 2, shown("rap")))
        seen.let_in(held)
        assert (
            near(seen.heard(), pitch("rap", 2, shown("rap")))
            and seen.text("#cell-title") == "rap"
            and seen.text("#said").startswith("rap")
        )
        seen.page.click(".tabs a >> text=Steering")
        seen.page.select_option("#axis", "0")
        seen.until(lambda: held)
        seen.page.select_option("#axis", "1")
        seen.until("document.querySelector('#axis-title').textContent === 'sung ↔ rap'")
        seen.let_in(held)
        seen.page.click(".slider button.play")
        assert near(seen.heard(SLIDER), 4000.0) and seen.text("#axis-title") == "sung ↔ rap"


def test_what_comes_late_is_not_heard_elsewhere(browser, pages, shown):
    """A pack that comes after its view was left stays silent; nothing of the last cell is heard or seen while the next one's is on its way."""
    held = []
    with Seen(browser, pages["server"] + "#concept=rap") as seen:
        seen.click_cell("rap", 2)
        seen.hears(pitch("rap", 2, shown("rap")))
        seen.page.route("**/m0-c2-*.js", lambda route: held.append(route))
        seen.click_cell("fast", 1)
        seen.until("document.querySelector('#cell-title').textContent === 'fast'")
        seen.page.keyboard.press("a")
        assert (
            seen.heard() == [] and not seen.page.is_visible("#cell .plot >> nth=0") and not seen.page.is_visible("#cell .listen")
        )
        seen.let_in(held)
        seen.hears(pitch("fast", "clean", shown("fast")))  # and then the version that was asked for
        for layer in (0, 1, 2, 3, 1):
            seen.click_cell("fast", layer)
        seen.hears(pitch("fast", 1, shown("fast")))
        assert 0.5 < seen.page.evaluate(FRAMES) < 1.5, "one frame at a time moves the cursors"
        seen.page.unroute("**/m0-c2-*.js")
        seen.page.route("**/m0-c0-*.js", lambda route: held.append(route))
        seen.page.reload()
        seen.ready()
        seen.click_cell("rap", 2)
        seen.until(lambda: held)
        seen.page.click(".tabs a >> text=Steering")
        seen.let_in(held)
        assert not seen.page.evaluate(f"{CELL}.playing") and seen.text("#error") == ""


def test_a_name_of_a_group_is_no_cell_and_keys_of_the_browser_are_its_own(browser, pages):
    with Seen(browser, pages["file"] + "#concept=rap") as seen:
        name = seen.page.locator("#chart svg text", has_text="tempo").first.bounding_box()
        seen.page.mouse.click(name["x"] + 5, name["y"] + 5)
        settle(seen.page)
        assert seen.text("#cell-title") == "rap" and not seen.page.evaluate(f"{CELL}.playing")
        seen.page.focus("#grid")
        before = seen.page.url
        seen.page.keyboard.press("Control+ArrowLeft")
        settle(seen.page)
        assert seen.page.url == before
        seen.page.evaluate("window.scrollTo(0, 200)")
        for key in ("ArrowDown", "ArrowDown", "ArrowDown", "ArrowUp"):  # over the cell that the page opens with
            seen.page.keyboard.press(key)
            settle(seen.page)
        assert seen.page.evaluate("scrollY") > 0, "no choice leads to the top of the page"


def test_sound_stops_with_its_view(browser, pages):
    with Seen(browser, pages["folder"] + "#view=features") as seen:
        seen.page.wait_for_selector("#feature figure.clip")
        seen.page.click("#feature figure.clip button.play >> nth=0")
        seen.page.evaluate("window.first = document.querySelector('#feature figure.clip').player")
        seen.until("window.first.playing")
        seen.page.click(".tabs a >> text=Atlas")
        seen.until("!window.first.playing")
        seen.click_cell("rap", 2)
        seen.until(f"{CELL}.playing")
        seen.page.click(".tabs a >> text=Steering")
        seen.until(f"!{CELL}.playing")


def test_everything_works_by_keyboard(browser, pages, shown):
    with Seen(browser, pages["folder"] + "#concept=rap") as seen:
        for _ in range(40):
            if seen.page.evaluate("document.activeElement.id") == "grid":
                break
            seen.page.keyboard.press("Tab")
        assert seen.page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid", "the focus is seen"
        seen.page.keyboard.press("ArrowLeft")
        seen.until("document.querySelector('#said').textContent.startsWith('rap, layer 1')")
        seen.page.keyboard.press("ArrowRight")
        seen.page.keyboard.press("ArrowDown")
        seen.until("document.querySelector('#said').textContent.startsWith('choir, layer 2: undefined')")
        seen.page.keyboard.press("ArrowUp")
        seen.until("document.querySelector('#cell-title').textContent === 'rap'")
        seen.page.keyboard.press("Enter")
        seen.hears(pitch("rap", 2, shown("rap")))
        seen.page.keyboard.press("a")
        seen.hears(pitch("rap", "clean", shown("rap")))
        seen.page.keyboard.press(" ")
        seen.until(f"!{CELL}.playing")
        seen.page.focus("#cell button.play")
        before = seen.page.evaluate(f"{CELL}.currentTime")
        seen.start()
        seen.page.keyboard.press("ArrowRight")
        assert (seen.began() - before) % 2.0 == pytest.approx(0.5, abs=0.05)
        seen.page.focus(".tabs a")
        seen.page.keyboard.press("b")
        settle(seen.page)
        assert seen.page.get_attribute("[data-version=clean] button", "aria-pressed") == "true", (
            "single keys act on the cell alone"
        )
        seen.page.focus("#cell select")
        seen.page.keyboard.press("ArrowUp")
        seen.until("location.hash.includes('unit=2')")
        seen.page.focus("#tables a") if seen.page.is_visible("#tables a") else seen.page.focus("summary")
        seen.page.keyboard.press("Enter")
        seen.page.focus("#tables tr:has(th:text-is('fast')) td:nth-child(3) a")
        seen.page.keyboard.press("Enter")
        seen.hears(pitch("fast", 1, shown("fast")))  # the table plays, too
        seen.page.focus(".tabs a[data-view=steering]")
        seen.page.keyboard.press("Enter")
        seen.until("document.querySelector('.slider').slider.tracks")
        seen.page.focus("#view-steering input[type=range]")
        seen.page.keyboard.press("ArrowRight")
        assert "+1.00" in seen.text(".slider output") and "+1.00" in seen.page.get_attribute(
            "#view-steering input[type=range]", "aria-valuetext"
        )
        seen.page.focus("#view-steering button.play")
        seen.page.keyboard.press("Enter")
        seen.hears(steered(CELLS[0], 1.0), player=SLIDER)


@pytest.mark.parametrize("light", [DAY, NIGHT], ids=["light", "dark"])
def test_where_scorers_agree_is_a_view_with_sound_keys_and_a_table(browser, tmp_path, light):
    """Two ears: of the best layers, the second one hears that of rap, but not that of fast."""
    also = {"judge": {"fingerprint": "j", "units": "log-odds", "calibrated": None}}
    atlas = atlas_of_tones(tmp_path, scorer="listener", scorer_fingerprint="l", calibrated=None, also=also)
    deaf = (atlas.table["concept"] == "fast") & (atlas.table["scored"] == "fast") & (atlas.table["row"] == "patched")
    atlas.table["score of judge"] = atlas.table["score"].where(
        ~deaf, -3.0 + 0.05 * np.random.default_rng(1).standard_normal(len(deaf))
    )
    counts = atlas.agreement().set_index(["concept", "layer"])["agree"]
    assert [counts[key] for key in (("rap", 2), ("fast", 1), ("rap", 0))] == [2, 1, 0]
    page = atlas.save_html(tmp_path / "page.html", progress=False)
    pair = int(atlas.examples().set_index("concept").loc["rap", "pair"])
    with Seen(browser, page.as_uri() + "#concept=rap", **light) as seen:
        names = seen.page.eval_on_selector_all("#map option", "all => all.map(each => each.textContent)")
        assert names == ["tones: text swap", "tones: text swap, agreement of listener and judge"]
        assert "Table of impacts" in seen.page.get_attribute("#tables > div:not([hidden])", "aria-label")
        seen.page.select_option("#map", "1")
        seen.until("document.querySelector('#chart').getAttribute('aria-label').startsWith('Heatmap of agreement')")
        seen.until("document.querySelectorAll('#chart svg path').length > 10")
        assert "All agree: " in seen.page.get_attribute("#chart", "aria-label")
        seen.page.focus("#grid")
        for key, said in (
            ("ArrowLeft", "rap, layer 1: 0 of 2"),
            ("ArrowRight", "rap, layer 2: 2 of 2 views agree (listener, raw; judge, raw)"),
        ):
            seen.page.keyboard.press(key)
            seen.until(f"document.querySelector('#said').textContent.startsWith({said!r})")
        seen.click_cell("rap", 2)
        seen.hears(pitch("rap", 2, pair))
        seen.page.click("#tables >> xpath=ancestor::details/summary")
        row = seen.text("#tables > div:not([hidden]) tr:has(th:text-is('fast'))")
        assert "".join(row.split()) == "fast" + "0of2" + "1of2" + "0of2" + "0of2"
        assert "not asked" in seen.text("#tables > div:not([hidden]) tr:has(th:text-is('choir'))")
        bad = [each["id"] for each in Axe().run(seen.page).response["violations"] if each["impact"] in ("serious", "critical")]
        assert not bad
        seen.go(seen.page.url)
        assert seen.page.input_value("#map") == "1", "its address opens it again"


def test_a_layer_opens_into_its_heads(browser, tiny, tmp_path):
    """From a layer to the strongest of its heads in the other map, by a link; and back."""
    how = {"pairs": 4, "steps": 3, "progress": False}
    layers = audioscope.localize(tiny, ["fast"], sites=[1, 2], out=tmp_path / "layers", **how)
    heads = audioscope.localize(tiny, ["fast"], sites=tiny.sites[2].heads, out=tmp_path / "heads", **how)
    page = layers.save_html(tmp_path / "page.html", others=[heads], progress=False)
    best = heads.impacts().assign(size=lambda table: table["impact"].abs()).nlargest(1, "size").iloc[0]
    path = tiny.sites[2].path
    with Seen(browser, f"{page.as_uri()}#concept=fast&site={path}", **WIDE, **DAY) as seen:
        said = seen.text("#cell .related")
        assert (
            said.startswith(f"Inside: {best['layer']} of tiny: ") and "heads of cross-attention" in said and "Around" not in said
        )
        seen.page.click("#cell .related a")
        seen.until(f"document.querySelector('#said').textContent.startsWith('fast, head {best['layer']}')")
        assert seen.page.input_value("#map") == "1" and "4 heads" in seen.page.get_attribute("#chart", "aria-label")
        assert seen.text("#cell .related").startswith("Around: 2 of tiny: ")
        seen.page.click("#cell .related a")
        seen.until("document.querySelector('#said').textContent.startsWith('fast, layer 2:')")
        seen.go(f"{page.as_uri()}#concept=fast&site={tiny.sites[1].path}")
        assert seen.text("#cell .related") == "", "no heads of this layer were patched"


@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["1440", "360"])
@pytest.mark.parametrize("light", [DAY, NIGHT], ids=["light", "dark"])
@pytest.mark.parametrize("view", ["atlas", "steering", "features"])
def test_every_view_is_accessible_and_fits(browser, pages, view, light, size):
    """axe-core finds nothing serious, nothing is wider than the screen, and dark is dark."""
    with Seen(browser, f"{pages['folder']}#view={view}&concept=fast", **light, **size) as seen:
        settle(seen.page)
        for details in seen.page.query_selector_all("details"):
            details.evaluate("each => { each.open = true; }")
        found = Axe().run(seen.page).response["violations"]
        bad = [
            (each["id"], [node["html"][:120] for node in each["nodes"]][:3])
            for each in found
            if each["impact"] in ("serious", "critical")
        ]
        assert not bad
        assert seen.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        paper = seen.page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).map(Number)")
        assert (np.mean(paper) < 60) == (light is NIGHT)
        ink = seen.page.evaluate(
            "[...document.querySelectorAll('svg text')].map(text => text.getAttribute('fill')).filter(Boolean)[0]"
        )
        if ink:
            assert (np.mean([int(ink[i : i + 2], 16) for i in (1, 3, 5)]) > 120) == (light is NIGHT)


def test_a_change_of_light_redraws_the_charts(browser, pages):
    with Seen(browser, pages["file"]) as seen:
        shade = "document.querySelector('#chart svg text')?.getAttribute('fill')"
        before = seen.page.evaluate(shade)
        seen.page.emulate_media(color_scheme="dark")
        seen.until(f"({shade} ?? '{before}') !== '{before}'")


def test_undefined_cells_do_not_look_like_data(browser, pages):
    with Seen(browser, pages["file"] + "#concept=choir") as seen:
        assert "undefined: the interval of the denominator contains 0" in seen.text("#cell .reading")
        hatched = "[...document.querySelectorAll('#chart svg .mark-symbol path')].filter(p => p.__data__?.datum?.defined === false && p.getAttribute('stroke')).length"
        assert seen.page.evaluate(hatched) == LAYERS
        seen.click_cell("choir", 1)
        seen.hears(pitch("choir", 1, 0))  # it can be heard all the same


def test_evil_words_are_shown_and_never_run(browser, pages):
    with Seen(browser, pages["folder"]) as seen:
        seen.click_cell(EVIL, 2)
        seen.until("document.querySelector('#cell-title').textContent.includes('<script>')")
        assert EVIL in seen.text(".clean-prompt") and '<img src="https://x.y/z">' in seen.text(".corrupted-prompt")
        seen.page.mouse.move(5, 5)
        seen.click_cell(EVIL, 2)
        seen.page.wait_for_selector("#vg-tooltip-element.visible")
        hovered = seen.text("#vg-tooltip-element")
        row = pages["atlas"].impacts().set_index(["concept", "layer"]).loc[(EVIL, 2)]
        assert reading(row["impact"], row["low"], row["high"]) in hovered and "window.evil" in hovered, (
            "the interval is told on hover"
        )
        assert seen.page.evaluate("document.querySelectorAll('#vg-tooltip-element script').length") == 0
        marked = seen.page.eval_on_selector_all(".clean-prompt mark", "all => all.map(each => each.textContent)")
        assert marked == [EVIL]
        seen.page.click(".tabs a >> text=Features")
        seen.page.wait_for_selector("#feature figure.clip")
        assert any(
            EVIL in text
            for text in seen.page.eval_on_selector_all("#feature figure p", "all => all.map(each => each.textContent)")
        )
        assert seen.page.evaluate("document.querySelectorAll('img[src^=http], #feature script').length") == 0


def test_the_policy_refuses_the_network(browser, pages):
    """What a script on the page asked of the network is refused by the page itself."""
    for where in ("file", "folder", "server"):
        with Seen(browser, pages[where]) as seen:
            refused = seen.page.evaluate("""async () => {
              const tries = ["https://example.com/x", "http://127.0.0.1:9/x"];
              const results = await Promise.all(tries.map(url => fetch(url).then(() => "sent", error => error.name)));
              const image = await new Promise(done => Object.assign(new Image(), { onload: () => done("sent"), onerror: () => done("refused"), src: tries[0] }));
              return [...results, image];
            }""")
            assert refused == ["TypeError", "TypeError", "refused"]
            seen.until(lambda seen=seen: len(seen.wrong) >= 3)
            assert all("Content Security Policy" in text for text in seen.wrong), "the page itself refused"
            seen.wrong.clear()


def test_the_feature_view_plays_from_the_peak(browser, pages):
    with Seen(browser, pages["folder"] + "#view=features") as seen:
        seen.page.wait_for_selector("#feature figure.clip")
        player = "document.querySelector('#feature figure.clip').player"
        peak = float(seen.page.get_attribute("#feature figure.clip >> nth=0", "data-peak"))
        seen.start(player)
        seen.page.click("#feature figure.clip button.peak >> nth=0")
        assert seen.began() == pytest.approx(peak, abs=0.05)
        seen.page.click("#feature figure.clip >> nth=1 >> button.play")
        seen.until(f"!{player}.playing")  # one sound at a time
        seen.page.fill(".feature-list input", "nothing like this")
        assert seen.text(".feature-list [role=status]").startswith("0 of")


def test_a_file_that_is_short_of_room_says_what_it_lacks(browser, pages, shown, tmp_path):
    atlas = pages["atlas"]
    whole = atlas.save_html(tmp_path / "whole.html", progress=False).read_text()
    sound = sum(len(pack) for pack in re.findall(r'id="pack-.*?</script>', whole, re.S))
    small = atlas.save_html(tmp_path / "small.html", size=len(whole.encode()) - round(0.85 * sound), progress=False)
    with Seen(browser, small.as_uri()) as seen:
        seen.click_cell("rap", 2)
        seen.hears(pitch("rap", 2, shown("rap")))  # the best cells are kept
        silent = [layer for layer in range(LAYERS) if layer != BEST["rap"]]
        seen.click_cell("rap", silent[-1])
        seen.until("document.querySelector('#cell .message').textContent.includes('not in this file')")
        assert not seen.page.evaluate(f"{CELL}.playing")


def test_the_code_of_a_cell_makes_its_clips(browser, tiny, tmp_path, monkeypatch):
    """The text that the page shows, run as it stands, gives the very clips of the sweep."""
    atlas = audioscope.localize(tiny, ["drums"], pairs=1, steps=3, out=tmp_path, progress=False)
    page = atlas.save_site(tmp_path, progress=False)
    with Seen(browser, page.as_uri()) as seen:
        code = seen.page.eval_on_selector(".code", "each => each.textContent")
        where = seen.text(".module")
    monkeypatch.setattr(audioscope, "load", lambda name: tiny, raising=False)
    names: dict = {}
    exec(code, names)
    rows = atlas.table[atlas.table["scored"] == "drums"].drop_duplicates(["row", "site"]).set_index(["row", "site"])["clip"]
    for clip, key in zip(names["clips"], [("clean", ""), ("corrupted", ""), ("patched", where)], strict=True):
        kept = audioscope.Clip.load(tmp_path / rows[key])
        assert np.abs(clip.spectrogram() - kept.spectrogram()).mean() < 1.0, key  # dB; other clips differ by tens


def test_a_word_on_the_time_line_is_cut_out(browser, tiny, tmp_path, monkeypatch):
    """A pressed word is heard cut out, in phase; the sliders choose a layer and a step; by keyboard, too; nothing in a prompt is run."""
    from helpers.tones import tone

    from audioscope.pages.attention import attention_html

    prompt = f"a slow {EVIL} song with violin, violin"
    words = ["", "a", "slow"]

    def clips(rows, **how):
        said = [row.edits[0].word if row.edits else "" for row in rows]
        return [tone(500 + 200 * words.index(word) if word in words else 2500) for word in said]

    monkeypatch.setattr(tiny, "clips", clips)
    with pytest.warns(UserWarning, match="never saw"):
        file = tmp_path / "attention.html"
        file.write_text(attention_html(tiny, prompt, steps=2))
    context = new_context(browser, **WIDE)
    page, wrong = context.new_page(), []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: message.type == "error" and wrong.append(message.text))
    page.on("dialog", lambda dialog: wrong.append(dialog.message))
    page.goto(file.as_uri())
    player = "document.querySelector('section.attention').player"
    page.click("button.play")
    hears(page, player, 500)
    page.locator("button.word", has_text="slow").press("Enter")
    hears(page, player, 900)
    assert page.locator("button.word[aria-pressed=true]").inner_text() == "slow"
    assert "without “slow”" in page.inner_text(".caption") and "without “slow”" in page.get_attribute(".plot img", "alt")
    page.locator("button.word", has_text="slow").press("Enter")
    hears(page, player, 500)
    strip = "document.querySelectorAll('canvas')[1].toDataURL()"
    before = page.evaluate(strip)
    page.locator("input[aria-label=Layer]").press("ArrowRight")
    assert page.locator("output").nth(0).inner_text() == "0" and page.evaluate(strip) != before
    page.locator("input[aria-label=Layer]").press("ArrowLeft")
    assert page.locator("output").nth(0).inner_text() == "all" and page.evaluate(strip) == before
    assert page.locator("button.word:disabled").count() >= 3, "padding, end and duration are shown, and are no words"
    assert page.locator("tbody tr").count() == page.locator("canvas").count()
    context.close()
    assert not wrong


def test_sliders_in_a_notebooks_frame_play(browser, tmp_path):
    """As a notebook holds them: in a frame of the document itself."""
    from helpers.tones import tone

    from audioscope.pages.html import iframe

    tracks = [Track(name, [-1.0, 0.0, 1.0], [tone(f) for f in pitches], ["low", "middle", "high"]) for name, pitches in
              (("one", (500, 700, 900)), ("two", (1500, 1700, 1900)))]  # fmt: skip
    file = tmp_path / "notebook.html"
    file.write_text("<!doctype html><title>n</title>" + iframe("Sliders", slider_html(tracks), 700).data)
    context = new_context(browser)
    page = context.new_page()
    wrong = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(file.as_uri())
    frame = page.frame_locator("iframe")
    frame.locator("button.play").nth(1).click()
    inner = page.frames[1]
    second = "document.querySelectorAll('section.track')[1].slider.player"
    hears(inner, second, 1700)
    frame.locator("input").nth(1).press("ArrowLeft")
    hears(inner, second, 1500)
    assert frame.locator(".caption").nth(1).inner_text() == "low"
    frame.locator("button.play").nth(0).click()
    until(inner, "document.querySelectorAll('section.track')[0].slider.player.playing")
    assert not inner.evaluate(f"{second}.playing")
    context.close()
    assert not wrong


def test_the_page_works_in_a_notebooks_frame(browser, pages, shown, tmp_path):
    """A frame of the document itself has no address of its own, and yet cells can be chosen and heard in it."""
    from pathlib import Path
    from urllib.parse import unquote, urlparse

    from audioscope.pages.html import iframe

    html = Path(unquote(urlparse(pages["file"]).path)).read_text()
    file = tmp_path / "notebook.html"
    file.write_text("<!doctype html><title>n</title>" + iframe("Atlas", html, 900).data)
    context = new_context(browser, **WIDE)
    page = context.new_page()
    wrong = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(file.as_uri())
    page.frame_locator("iframe").locator("body[data-ready]").wait_for()
    inner = page.frames[1]
    page.frame_locator("iframe").locator("#grid").press("ArrowLeft")
    until(inner, "document.querySelector('#said').textContent.includes('layer 1')")
    page.frame_locator("iframe").locator("#grid").press("Enter")
    hears(inner, CELL, pitch(EVIL, 1, shown(EVIL)))
    context.close()
    assert not wrong


def test_the_tones_are_told_apart():
    """The fixtures of this file: no two clips sound alike."""
    cells = [pitch(concept, row, pair) for concept in GROUPS for row in ROWS for pair in range(PAIRS)]
    for tones in (cells, [steered(cell, strength) for cell in CELLS for strength in ALPHAS if strength]):
        assert np.diff(sorted(tones)).min() > 16
