"""A strength slider with sound, as one offline page: clips play in sync, and the slider fades from one to the next."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import altair as alt

from audioscope.errors import all_of, as_path, said, said_text
from audioscope.installed import need
from audioscope.pages.html import iframe, page, render, save_page, sound, svg
from audioscope.steer.results import Track
from audioscope.store import made_folder


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
    said_text("title", title), said_text("text", text)
    if chart is not None and not isinstance(chart, alt.TopLevelMixin):
        raise ValueError(f"chart is {said(chart)}, expected an Altair chart.")
    tracks = all_of("tracks", tracks, Track)
    if not tracks:
        raise ValueError("A slider page needs at least one track: no clips were kept.")
    data = [track_data(track) for track in tracks]
    body = render("slider.html", title=title, text=text, tracks=tracks, chart=svg(chart))
    return page(
        "slider", title or "Strength sliders", body, data={"tracks": data}, style="" if title else "main { padding: 4px; }"
    )


def slider_page(tracks: Sequence[Track], file: str | Path, title: str, text: str = "", chart: Any = None) -> Path:
    """Write a page with a strength slider for each track; it opens offline and from an email.

    All strengths of a track start together and loop; the slider cross-fades the two nearest, so the music continues in sync.

    Args:
        tracks: The clips of each slider, such as `SteeringSweep.tracks` returns them.
        file: The file.
        title: Stands above the sliders; it may contain any characters, as may the text and the tracks' captions.
        text: Stands below the title.
        chart: An Altair chart, drawn below the sliders as a picture.

    Returns:
        The file.

    Raises:
        ValueError: There is no track.
        ImportError: The extra `pages` is not installed.

    Example:
        >>> prompts = ["a slow song", "a song", "a fast song"]
        >>> clips = [model.generate(prompt, seed=0, steps=2) for prompt in prompts]
        >>> track = audioscope.steer.Track("slow to fast", [-1, 0, 1], clips, captions=prompts)
        >>> audioscope.pages.slider_page([track], "tempo.html", title="Tempo").name
        'tempo.html'
    """
    need("pages", "The page with the slider")
    file, html = as_path(file), slider_html(tracks, title, text, chart)
    made_folder(file.parent)
    return save_page(file, html)


def steering_slider(*tracks: Track) -> Any:
    """Show a strength slider for each track in a notebook, in an iframe.

    Args:
        tracks: The clips of each slider, such as `SteeringSweep.tracks` returns them.

    Returns:
        HTML for a notebook.

    Raises:
        ValueError: There is no track.

    Example:
        >>> prompts = ["a slow song", "a song", "a fast song"]
        >>> clips = [model.generate(prompt, seed=0, steps=2) for prompt in prompts]
        >>> track = audioscope.steer.Track("slow to fast", [-1, 0, 1], clips, captions=prompts)
        >>> slider = audioscope.pages.steering_slider(track)
        >>> "Strength sliders" in slider.data
        True
    """
    return iframe("Strength sliders", slider_html(tracks), 318 * len(tracks) + 16)
