"""The parts of JupyterLab explorers: clips to compare, a strength slider, and the frame that holds them and their live work."""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Self

import altair as alt
import anywidget
import ipywidgets as widgets
import pandas as pd
import torch
import traitlets
from markupsafe import Markup

from audioscope import datasets
from audioscope.audio import Clip
from audioscope.errors import of_kind
from audioscope.installed import need
from audioscope.loading import load
from audioscope.model import Model
from audioscope.pages.atlas_data import swapped
from audioscope.pages.html import asset, data_uri, iframe, page, render, sound, svg
from audioscope.scoring.scorers import listener_scorer
from audioscope.tiny.music import SAMPLES
from audioscope.tracing import Row, Sampling
from audioscope.widgets.live import Live, Step

PATIENCE = 10.0  # s that a new explorer waits for its first sound before it is shown with a progress bar; `wait()` waits longer


def module(name: str) -> str:
    """A script from audioscope/pages/web as one ES module: its imports are data URIs in it, so all widgets share one player."""
    return re.sub(
        r'"audioscope/([\w.]+)"', lambda found: f'"{data_uri("text/javascript", module(found[1]).encode())}"', asset(name)
    )


def heard(clip: Clip, name: str, caption: str = "") -> dict[str, Any]:
    """One clip for `Sounds`; name and caption may contain any characters."""
    return {"name": name, "caption": caption, "seconds": round(clip.seconds, 3), **sound(clip)}


class Sounds(anywidget.AnyWidget):
    """Clips that play in sync at equal loudness, one of them audible, and the progress of generating the next ones.

    sounds: as `heard` returns. version: the index of the audible one. progress: 0 to 1, or -1 if nothing is being generated.
    message: the text next to the button, shown as an error if failed. cancelled: counts presses of Cancel.
    """

    _esm = module("sounds.js")
    _css = asset("widget.css")
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
        """Show new clips; if the old ones are playing, these continue at the same position."""
        with self.hold_sync():
            self.sounds, self.version = list(sounds), version


class StrengthSlider(anywidget.AnyWidget):
    """A slider over clips of increasing strength, cross-faded in sync.

    tracks: as `audioscope.pages.slider.track_data` returns; the first one is audible. place: the slider's position, in clips
    from the first.
    """

    _esm = module("strengths.js")
    _css = asset("widget.css")
    tracks: Any = traitlets.List().tag(sync=True)
    place = traitlets.Float(0.0).tag(sync=True)
    _controls = traitlets.Unicode(str(render("controls.html", track={"strengths": [0, 1], "title": "steering"}))).tag(sync=True)


# Where JupyterLab shows the live widget, hide the static picture before it; without a kernel, hide the widget's empty place.
QUIET = """<style>
.jp-OutputArea-child:has(.audioscope-still):has(+ .jp-OutputArea-child .audioscope-live) { display: none; }
.jp-OutputArea-child:has(.audioscope-still) + .jp-OutputArea-child:has(> .jupyter-widgets):not(:has(.audioscope-live)) { display: none; }
</style>"""


class Explorer(widgets.VBox):
    """Widgets around clips and a thread that generates new ones. A subclass fills `children` and defines `still_parts`.

    In a notebook, it is displayed twice: as a static picture with players, which is what a page without a kernel keeps, and live.
    """

    title = "Explorer"

    def __init__(self, **keywords: Any):
        super().__init__(**keywords)
        self.add_class("audioscope-live")
        self.sounds = Sounds()
        self.live = Live(self._told, self._failed)
        self._another = False
        self._setting = threading.local()  # what one thread sets in a batch does not mute what another does meanwhile
        self.sounds.observe(lambda change: self.cancel(), "cancelled")

    @property
    def _quiet(self) -> bool:
        """Whether this thread is setting several controls at once."""
        return getattr(self._setting, "together", False)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Set several controls at once: inside this block, a change triggers nothing."""
        before, self._setting.together = self._quiet, True
        try:
            yield
        finally:
            self._setting.together = before

    def ask(self, job: Callable[[Step], Any], done: Callable[[Any], None], *, another: bool = False) -> None:
        """Do a job in the thread, in place of any earlier request; `done` gets its result.

        another: something else was selected, so the current clips no longer fit: remove them if the job fails or is canceled.
        """
        if self._another and not another and self.live.cancel():  # what was selected before has not been heard yet
            self.silence()
        self._another = another
        self.sounds.say("generating ...")
        self.live.ask(job, done)

    def cancel(self) -> None:
        """Stop the job; the current clips stay if they still fit the selection."""
        if self.live.cancel():
            self._gone()
            self.sounds.say("canceled")

    def wait(self, seconds: float | None = None) -> Self:
        """Wait until nothing is being generated, so that code can read the result and a page without a kernel can keep it.

        seconds: how long at most; None waits as long as it takes. Raises TimeoutError after that. Returns the explorer itself, so
        that a cell can end with `sae.explore(model).wait()`.
        """
        if not self.live.wait(seconds):
            raise TimeoutError(f"{self.title}: still generating after {seconds:g} s. Wait longer, or call cancel().")
        return self

    def _told(self, share: float | None) -> None:
        self.sounds.progress = -1.0 if share is None else share

    def _failed(self, error: Exception) -> None:
        self._gone()
        self.sounds.say(f"{type(error).__name__}: {error}", failed=True)

    def _gone(self) -> None:
        """The request came to nothing."""
        if self._another:
            self.silence()

    def on(self, handler: Callable[[], Any], *controls: widgets.Widget) -> None:
        """Call a handler when the value of one of these controls changes, except in the block of `together`."""
        for control in controls:
            control.observe(lambda change: self._quiet or handler(), "value")

    def _show(self, made: tuple[list[dict[str, Any]], str]) -> None:
        """Show what a job made, clips and a message. Which of them plays stays the same; the first time, it is the last one."""
        sounds, said = made
        same = len(self.sounds.sounds) == len(sounds)
        self.sounds.show(sounds, self.sounds.version if same else len(sounds) - 1)
        self.sounds.say(said)

    def silence(self) -> None:
        """Remove the current clips."""
        self.sounds.show([])

    def still_parts(self) -> dict[str, Any]:
        """What the picture without a kernel shows: text, chart (altair) and clips (as for `Sounds`) if not the current ones."""
        return {}

    def still(self) -> Any:
        """The current state of the explorer for pages without a kernel: chart, text and players, in an iframe."""
        parts = {"text": "", "chart": None, "clips": self.sounds.sounds} | self.still_parts()
        picture = svg(parts["chart"])
        clips = [{"title": clip["name"], "text": clip["caption"], **clip} for clip in parts["clips"]]
        body = render("still.html", title=self.title, text=parts["text"], chart=picture, clips=clips)
        height = 110 + 230 * math.ceil(len(clips) / 3) + (chart_height(picture) if picture else 0)
        return iframe(self.title, page("features", self.title, body, style="main { padding: 8px; }"), height)

    def close(self) -> None:
        if hasattr(self, "live"):  # Python also closes objects whose constructor raised an error
            self.live.cancel()
        close_all(self)
        super().close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.title})"

    def _ipython_display_(self) -> None:
        from IPython.display import display

        still = f'{QUIET}<div class="audioscope-still">{self.still().data}</div>'
        text, live = repr(self), super()._repr_mimebundle_()  # first, since a warning in between would separate the two
        display({"text/html": still, "text/plain": text}, raw=True)
        display({name: value for name, value in live.items() if name != "text/plain"}, raw=True)  # shown once


def close_all(box: widgets.Widget) -> None:
    """Close the widgets in a box, which would otherwise stay in the kernel and in the browser with their sound."""
    for child in getattr(box, "children", ()):
        close_all(child)
        child.close()


def chart_height(picture: str) -> int:
    """The height that an SVG picture needs, in px."""
    found = re.search(r'<svg[^>]*\bheight="([\d.]+)"', picture)
    return round(float(found[1])) + 30 if found else 300


def set_params(chart: Any, **values: Any) -> Any:
    """A copy of a chart whose parameters start with these values, by name."""
    chart = chart.copy()
    for param in chart.params:
        if param.name in values:
            param.value = values[param.name]
    return chart


def live_chart(chart: Any, renderer: str = "svg") -> alt.JupyterChart:
    """An altair chart as a widget that needs no network.

    renderer: "canvas" for a legend with a gradient beside other charts. Each chart brings a Vega of its own, which numbers the
    gradients of its SVG from 0, so that legends in one notebook would take the colors of the first.
    """
    need("pages", "A chart in a widget, offline,")
    alt.JupyterChart.enable_offline()
    return alt.JupyterChart(chart, embed_options={"actions": False, "renderer": renderer})


FLOW = {"flex_flow": "row wrap"}  # a layout that wraps if the window is narrow


def labelled(kind: type, name: str, width: str = "380px", **values: Any) -> Any:
    """An ipywidget with a label that is not truncated."""
    return kind(description=name, layout=widgets.Layout(width=width), style={"description_width": "initial"}, **values)


def minus(text: str) -> str:
    """Text with true minus signs; only for text that contains nothing but our own words and numbers."""
    return text.replace("-", "−")


def noted(text: str | Markup) -> str:
    """A line of text for `widgets.HTML`; plain text is escaped."""
    return str(Markup("<div class='audioscope'>{}</div>").format(text))


def marked(prompt: str, other: str) -> Markup:
    """A prompt in which the words that another prompt lacks are underlined."""
    there = set(swapped(prompt, other))
    return Markup(" ").join(
        Markup("<mark>{}</mark>").format(word) if i in there else word for i, word in enumerate(prompt.split())
    )


class ListenerCaption:
    """What the listener hears in clips of `tiny`, in words; empty for the clips of other models, or of none."""

    def __init__(self, model: Model | None):
        self.listener = listener_scorer() if model is not None and model.adapter.is_tiny else None

    def __call__(self, clips: list[Clip], concepts: tuple[str, ...] = ()) -> list[str]:
        """For each clip, the log-odds of some concepts or, if it knows none of them, of up to five that it hears most clearly."""
        if self.listener is None or clips[0].samples.shape[1] != SAMPLES:  # it was trained on whole clips only
            return [""] * len(clips)
        scores: pd.DataFrame = self.listener(torch.stack([torch.from_numpy(clip.samples) for clip in clips]), clips[0].rate)
        known = [name for name in concepts if name in scores]
        lines = []
        for _, row in scores.iterrows():
            named = row[known] if known else row.nlargest(5)[lambda most: (most > 0) | (most == most.max())]
            lines.append("hears: " + ", ".join(f"{name} {minus(f'{value:+.1f}')}" for name, value in named.items()))
        return lines


def live_clips(model: Model, rows: list[Row], sampling: Sampling, step: Step) -> list[Clip]:
    """Generate rows in one batch and report the progress. Raises what `Model.clips` raises."""
    return model.clips(rows, on_step=lambda number: step(number / (sampling.steps + 1)), **sampling)


def unknown_said(model: Model, prompts: str) -> str:
    """The message about words that the model never saw; empty if it knows them all."""
    unknown = model.unknown_words(prompts)
    return f"{model.name} never saw these words: {', '.join(unknown)}." if unknown else ""


@lru_cache(maxsize=1)
def shipped_model() -> Model:
    """The model `tiny`, loaded once for all explorers that were not given a model."""
    return load("tiny")


def model_like(fingerprint: str | None, model: Model | None, what: str) -> Model | None:
    """The model that made something: the one given, or the shipped `tiny` if it did. Raises ValueError for other weights."""
    if model is None:
        return shipped_model() if fingerprint == datasets.fingerprint() else None
    of_kind("model", model, Model).check_unsteered("a widget")
    if model.fingerprint != fingerprint:
        raise ValueError(
            f"{what} was made with weights {fingerprint}, not with {model.name!r} ({model.fingerprint}): "
            "pass the model that it was made with."
        )
    return model
