"""A strength slider with sound, as one offline page: clips play in sync, and the slider fades from one to the next."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from audioscope.installed import need
from audioscope.pages.html import iframe, page, render, save_page, sound, svg
from audioscope.steer.results import Track


def track_data(track: Track) -> dict[str, Any]:
    """A track in the format of the slider's script."""
    return {
        "title": track.title,
        "captions": list(track.captions),
        "strengths": [round(float(s), 4) for s in track.strengths],
        "sounds": [sound(clip) for clip in track.clips],
        "seconds": track.clips[0].seconds,
    }


def slider_html(tracks: Sequence[Track], title: str = "", text: str = "", chart: Any = None) -> str:
    """One HTML document with a slider for each track; it fetches nothing from elsewhere.

    All strengths of a track start together and loop; the slider cross-fades the two nearest, so the music continues in sync.
    title, text and captions may contain any characters. chart: an altair chart, drawn below as it is.
    Raises ValueError if there is no track.
    """
    if not tracks:
        raise ValueError("A slider page needs at least one track: no clips were kept.")
    data = [track_data(track) for track in tracks]
    body = render("slider.html", title=title, text=text, tracks=tracks, chart=svg(chart))
    return page(
        "slider", title or "Strength sliders", body, data={"tracks": data}, style="" if title else "main { padding: 4px; }"
    )


def slider_page(tracks: Sequence[Track], file: str | Path, title: str, text: str = "", chart: Any = None) -> Path:
    """Write `slider_html` to a file, which opens offline and from an email; returns its path."""
    need("pages", "The page with the slider")
    file, html = Path(file).expanduser(), slider_html(tracks, title, text, chart)
    file.parent.mkdir(parents=True, exist_ok=True)
    return save_page(file, html)


def steering_slider(*tracks: Track) -> Any:
    """The sliders in a notebook, in an iframe."""
    return iframe("Strength sliders", slider_html(tracks), 318 * len(tracks) + 16)
