"""A strength slider that you can hear, as one offline page: clips play in phase, and the slider fades from one to the next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import vl_convert
from markupsafe import Markup

from audioscope.audio import Clip
from audioscope.page import data_uri, framed, page
from audioscope.paths import write_whole


@dataclass(frozen=True)
class Track:
    """One row of clips from the strongest away to the strongest towards: a slider's worth.

    strengths rise; captions: what is said of each clip (its score, its distance).
    """

    title: str
    strengths: Sequence[float]
    clips: Sequence[Clip]
    captions: Sequence[str]

    def __post_init__(self) -> None:
        if not len(self.strengths) == len(self.clips) == len(self.captions) >= 2:
            raise ValueError(
                f"The track {self.title!r} has {len(self.strengths)} strengths, {len(self.clips)} clips and {len(self.captions)} "
                "captions, expected as many of each, at least 2."
            )
        if list(self.strengths) != sorted(set(self.strengths)):
            raise ValueError(f"The strengths of {self.title!r} are {list(self.strengths)}, expected rising ones.")


BODY = """{% if headed %}<header>
  <h1>{{ title }}</h1>
  <p>{{ text }}</p>
</header>
{% endif %}{% for track in tracks %}
<section class="card track" aria-labelledby="track-{{ loop.index }}" data-track="{{ loop.index0 }}">
  <h2 id="track-{{ loop.index }}">{{ track.title }}</h2>
  <img class="picture" alt="" width="640" height="120">
  <div class="controls">
    <button type="button" aria-pressed="false">Play</button>
    <label for="strength-{{ loop.index }}">strength</label>
    <input id="strength-{{ loop.index }}" type="range" min="{{ track.low }}" max="{{ track.high }}" step="any" value="{{ track.start }}" list="ticks-{{ loop.index }}">
    <datalist id="ticks-{{ loop.index }}">{% for strength in track.strengths %}<option value="{{ strength }}"></option>{% endfor %}</datalist>
    <output for="strength-{{ loop.index }}"></output>
  </div>
  <p class="quiet caption" aria-live="polite"></p>
</section>
{% endfor %}
{% if chart %}<section aria-labelledby="curve"><h2 id="curve">Score over distance</h2><figure class="card chart"><div class="scroll">{{ chart }}</div></figure></section>{% endif %}
"""

OWN_STYLE = """
.track { margin-top: 22px; }
.track h2 { margin: 0 0 12px; font-size: 19px; overflow-wrap: anywhere; }
.picture { width: 100%; height: 120px; object-fit: fill; border-radius: 6px; display: block; background: var(--line); }
.controls { display: flex; flex-wrap: wrap; gap: 10px 14px; align-items: center; margin-top: 14px; }
.controls input { flex: 1 1 220px; min-width: 0; height: 32px; accent-color: var(--accent); }
.controls output { min-width: 4.5em; text-align: right; font-variant-numeric: tabular-nums; font-weight: 600; }
button { font: inherit; font-weight: 600; color: var(--page); background: var(--accent); border: 0; border-radius: 8px; padding: 7px 18px; min-width: 84px; cursor: pointer; }
.caption { margin: 10px 0 0; min-height: 1.55em; }
.chart svg { max-width: 100%; height: auto; }
"""


def slider_html(tracks: Sequence[Track], title: str = "", text: str = "", chart: Any = None) -> str:
    """One HTML document with a slider for each track; nothing in it is fetched from elsewhere.

    All strengths of a track start together and loop; the slider cross-fades the two nearest, so the music goes on in phase.
    title, text and captions may hold any characters. chart: an altair chart, drawn below as it is.
    Raises ValueError where there is no track.
    """
    if not tracks:
        raise ValueError("A slider page needs at least one track: no clips were kept.")
    data = [
        {
            "captions": list(track.captions),
            "strengths": [round(float(s), 4) for s in track.strengths],
            "sounds": [data_uri("audio/mpeg", clip.encoded("mp3")) for clip in track.clips],
            "pictures": [data_uri("image/png", clip.png()) for clip in track.clips],
        }
        for track in tracks
    ]
    shown = [
        {"title": t.title, "strengths": t.strengths, "low": min(t.strengths), "high": max(t.strengths), "start": min(t.strengths, key=abs)}
        for t in tracks
    ]  # fmt: skip
    picture = Markup(vl_convert.vegalite_to_svg(chart.to_json()) if chart is not None else "")
    return page(
        title or "Strength sliders", BODY, style=OWN_STYLE + ("" if title else "main { padding: 4px; }"), data=data,
        script=files("audioscope").joinpath("slider.js").read_text(), headed=bool(title), text=text, tracks=shown, chart=picture,
    )  # fmt: skip


def slider_page(tracks: Sequence[Track], file: str | Path, title: str, text: str = "", chart: Any = None) -> Path:
    """Write `slider_html` to a file, which opens offline and from a mail; returns it."""
    file, whole = Path(file), slider_html(tracks, title, text, chart)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, lambda part: part.write_text(whole))
    return file


def slider(*tracks: Track) -> Any:
    """The sliders in a notebook, in a frame of their own."""
    return framed("Strength sliders", slider_html(tracks), 312 * len(tracks) + 16)
