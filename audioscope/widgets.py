"""What explorers in JupyterLab are made of: clips to compare, a strength slider, and the frame that holds them and their live work."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

import altair as alt
import anywidget
import ipywidgets as widgets
import traitlets
import vl_convert
from markupsafe import Markup

from audioscope.audio import Clip
from audioscope.live import Live, Step
from audioscope.page import data_uri, fill, framed, page, sound, web


def module(name: str) -> str:
    """A script of audioscope/web as one ES module: what it imports stands in it as addresses, so all widgets share one player."""
    return re.sub(
        r'"audioscope/([\w.]+)"', lambda found: f'"{data_uri("text/javascript", module(found[1]).encode())}"', web(name)
    )


def heard(clip: Clip, name: str, caption: str = "") -> dict[str, Any]:
    """One clip for `Sounds`; name and caption may hold any characters."""
    return {"name": name, "caption": caption, "seconds": round(clip.seconds, 3), **sound(clip)}


class Sounds(anywidget.AnyWidget):
    """Clips that play in phase at equal loudness, of which one is heard; and the progress of making the next ones.

    sounds: as `heard` gives. version: the number of the one that is heard. progress: 0 to 1, or
    -1 where nothing is made. message: what is said beside the button, as an error if failed. cancelled: counts presses of Cancel.
    """

    _esm = module("sounds.js")
    _css = web("widget.css")
    label = traitlets.Unicode("clips").tag(sync=True)
    sounds: Any = traitlets.List().tag(sync=True)
    version = traitlets.Int(0).tag(sync=True)
    progress = traitlets.Float(-1.0).tag(sync=True)
    message = traitlets.Unicode("").tag(sync=True)
    failed = traitlets.Bool(False).tag(sync=True)
    cancelled = traitlets.Int(0).tag(sync=True)

    def say(self, message: str, failed: bool = False) -> None:
        self.failed, self.message = failed, message

    def show(self, sounds: Sequence[dict[str, Any]], version: int = 0) -> None:
        """New clips; where the old ones play, these go on at the same place."""
        with self.hold_sync():
            self.sounds, self.version = list(sounds), version


class StrengthSlider(anywidget.AnyWidget):
    """A slider over clips of rising strength, cross-faded in phase. tracks: as `audioscope.slider.track_data` gives, of which the
    first is heard; place: where the slider stands, in clips from the first."""

    _esm = module("strengths.js")
    _css = web("widget.css")
    tracks: Any = traitlets.List().tag(sync=True)
    place = traitlets.Float(0.0).tag(sync=True)
    _controls = traitlets.Unicode(str(fill("controls.html", track={"strengths": [0, 1], "title": "steering"}))).tag(sync=True)


# Where JupyterLab shows the live widget, the still picture before it is put away; where there is no kernel, the widget's empty place is.
QUIET = """<style>
.jp-OutputArea-child:has(.audioscope-still):has(+ .jp-OutputArea-child .audioscope-live) { display: none; }
.jp-OutputArea-child:has(.audioscope-still) + .jp-OutputArea-child:has(> .jupyter-widgets):not(:has(.audioscope-live)) { display: none; }
</style>"""


class Explorer(widgets.VBox):
    """Widgets around clips and a thread that makes new ones. A subclass fills `children` and draws `still_parts`.

    In a notebook it is shown twice: as a still picture with players, which is what a page without a kernel keeps, and live.
    """

    title = "Explorer"

    def __init__(self, **keywords: Any):
        super().__init__(**keywords)
        self.add_class("audioscope-live")
        self.sounds = Sounds()
        self.live = Live(self._told, self._failed)
        self._another = False
        self._setting = threading.local()  # what one thread sets together does not silence what another does meanwhile
        self.sounds.observe(lambda change: self.cancel(), "cancelled")

    @property
    def _quiet(self) -> bool:
        """Whether this thread is setting controls together."""
        return getattr(self._setting, "together", False)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Set several controls: inside this block nothing follows from a change."""
        before, self._setting.together = self._quiet, True
        try:
            yield
        finally:
            self._setting.together = before

    def ask(self, job: Callable[[Step], Any], done: Callable[[Any], None], *, another: bool = False) -> None:
        """Do a job in the thread, instead of one that was asked for before; `done` gets its result.

        another: something else was chosen, so that what is heard no longer fits: it is put away if the job comes to nothing.
        """
        self._another = another
        self.sounds.say("making ...")
        self.live.ask(job, done)

    def cancel(self) -> None:
        """Stop what is being made; what was heard stays, if it is still what was chosen."""
        if self.live.cancel():
            self._gone()
            self.sounds.say("cancelled")

    def wait(self, seconds: float | None = None) -> Self:
        """Wait until nothing is being made, so that code can read, and a page without a kernel keep, what was asked for.

        seconds: how long at most; None for as long as it takes. Raises TimeoutError after that. Returns the explorer itself, so that a
        cell may end with `sae.explore(model).wait()`.
        """
        if not self.live.wait(seconds):
            raise TimeoutError(f"{self.title}: still making after {seconds:g} s. Wait longer, or cancel().")
        return self

    def _told(self, share: float | None) -> None:
        self.sounds.progress = -1.0 if share is None else share

    def _failed(self, error: Exception) -> None:
        self._gone()
        self.sounds.say(f"{type(error).__name__}: {error}", failed=True)

    def _gone(self) -> None:
        """What was asked for came to nothing."""
        if self._another:
            self.silence()

    def silence(self) -> None:
        """Put away what is heard."""
        self.sounds.show([])

    def still_parts(self) -> dict[str, Any]:
        """What the picture without a kernel shows: text, chart (altair) and clips (as for `Sounds`), each if there is one."""
        return {"clips": self.sounds.sounds}

    def still(self) -> Any:
        """The explorer as it stands, without a kernel: chart, facts and players, in a frame of its own."""
        parts = {"text": "", "chart": None, "clips": []} | self.still_parts()
        picture = Markup(vl_convert.vegalite_to_svg(parts["chart"].to_json())) if parts["chart"] is not None else ""
        body = fill(
            "still.html",
            title=self.title,
            text=parts["text"],
            chart=picture,
            clips=[{"title": clip["name"], "text": clip["caption"], **clip} for clip in parts["clips"]],
        )
        rows = -(-len(parts["clips"]) // 3)
        height = 110 + 230 * rows + (chart_height(picture) if picture else 0)
        return framed(self.title, page("features", self.title, body, style="main { padding: 8px; }"), height)

    def close(self) -> None:
        if hasattr(self, "live"):  # Python also closes what the constructor refused to make
            self.live.cancel()
        close_all(self)
        super().close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.title})"

    def _ipython_display_(self) -> None:
        from IPython.display import display

        still = f'{QUIET}<div class="audioscope-still">{self.still().data}</div>'
        text, live = repr(self), super()._repr_mimebundle_()  # first, since a warning in between would part the two
        display({"text/html": still, "text/plain": text}, raw=True)
        display({name: value for name, value in live.items() if name != "text/plain"}, raw=True)  # said once


def close_all(box: widgets.Widget) -> None:
    """Close the widgets in a box, which would else stay in the kernel and in the browser with their sound."""
    for child in getattr(box, "children", ()):
        close_all(child)
        child.close()


def chart_height(svg: str) -> int:
    """The height in px that an SVG picture asks for."""
    found = re.search(r'<svg[^>]*\bheight="([\d.]+)"', svg)
    return round(float(found[1])) + 30 if found else 300


def set_params(chart: Any, **values: Any) -> Any:
    """A copy of a chart whose parameters begin with these values, by name."""
    chart = chart.copy()
    for param in chart.params:
        if param.name in values:
            param.value = values[param.name]
    return chart


def live_chart(chart: Any) -> alt.JupyterChart:
    """An altair chart as a widget that needs no network."""
    alt.JupyterChart.enable_offline()
    return alt.JupyterChart(chart, embed_options={"actions": False, "renderer": "svg"})


FLOW = {"flex_flow": "row wrap"}  # a layout that wraps where the window is narrow


def labelled(kind: type, name: str, width: str = "380px", **values: Any) -> Any:
    """An ipywidget with a label that is not cut."""
    return kind(description=name, layout=widgets.Layout(width=width), style={"description_width": "initial"}, **values)


def minus(text: str) -> str:
    """Numbers with a true minus sign; for text that holds nothing but our own words and numbers."""
    return text.replace("-", "−")


def noted(text: str | Markup) -> str:
    """A line of text for `widgets.HTML`; plain text is escaped."""
    return str(Markup("<div class='audioscope'>{}</div>").format(text))


def marked(prompt: str, other: str) -> Markup:
    """A prompt with the words that another lacks underlined."""
    from audioscope.atlas_data import swapped

    there = set(swapped(prompt, other))
    return Markup(" ").join(
        Markup("<mark>{}</mark>").format(word) if i in there else word for i, word in enumerate(prompt.split())
    )
