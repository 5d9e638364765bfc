"""A strength slider that you can hear, as one offline page: clips play in phase, and the slider fades from one to the next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import vl_convert
from markupsafe import Markup

from audioscope.audio import Clip
from audioscope.page import fill, framed, page, sound
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


def track_data(track: Track) -> dict[str, Any]:
    """A track as the slider's script takes it."""
    return {
        "title": track.title,
        "captions": list(track.captions),
        "strengths": [round(float(s), 4) for s in track.strengths],
        "sounds": [sound(clip) for clip in track.clips],
        "seconds": track.clips[0].seconds,
    }


def slider_html(tracks: Sequence[Track], title: str = "", text: str = "", chart: Any = None) -> str:
    """One HTML document with a slider for each track; nothing in it is fetched from elsewhere.

    All strengths of a track start together and loop; the slider cross-fades the two nearest, so the music goes on in phase.
    title, text and captions may hold any characters. chart: an altair chart, drawn below as it is.
    Raises ValueError where there is no track.
    """
    if not tracks:
        raise ValueError("A slider page needs at least one track: no clips were kept.")
    data = [track_data(track) for track in tracks]
    picture = Markup(vl_convert.vegalite_to_svg(chart.to_json()) if chart is not None else "")
    body = fill("slider.html", title=title, headed=bool(title), text=text, tracks=tracks, chart=picture)
    return page(
        "slider", title or "Strength sliders", body, data={"tracks": data}, style="" if title else "main { padding: 4px; }"
    )


def slider_page(tracks: Sequence[Track], file: str | Path, title: str, text: str = "", chart: Any = None) -> Path:
    """Write `slider_html` to a file, which opens offline and from a mail; returns it."""
    file, whole = Path(file), slider_html(tracks, title, text, chart)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, lambda part: part.write_text(whole))
    return file


def slider(*tracks: Track) -> Any:
    """The sliders in a notebook, in a frame of their own."""
    return framed("Strength sliders", slider_html(tracks), 318 * len(tracks) + 16)
