"""Words on the time line, as one offline page: when the model looks at each, and the clip without it."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch

from audioscope.attention import AttentionMap, Kind
from audioscope.edits import MuteWord, Which
from audioscope.errors import among, as_path, of_kind, said
from audioscope.installed import need
from audioscope.model import Model
from audioscope.pages.html import check_page, iframe, page, render, save_page, sound
from audioscope.store import batches, made_folder
from audioscope.tracing import Row, SamplingKeywords
from audioscope.words import WORD

SAID = {
    "weights": "Mean attention to each word, as a share of each moment's",
    "values": "Mean attention to each word, times the norm of what it can add",
}
TOGETHER = 16  # clips that are generated together
CELLS, MOMENTS = 400, 256  # layers by steps, and moments, beyond which a page would be too large


def check_words(model: Model, prompt: str, sites: Which = "cross", kind: Kind = "values") -> None:
    """Raises ValueError for what a page of words cannot show."""
    if not among(kind, SAID):
        raise ValueError(f"kind is {said(kind)}, expected {' or '.join(map(repr, SAID))}, which a page can show.")
    chosen = model.sites.select(sites)
    if other := next((site for site in chosen if site.kind != "cross"), None):
        raise ValueError(f"{other.path} does not look at words: give cross-attention modules.")
    if all(site.stream == "gpt2" for site in chosen):
        raise ValueError(
            f"{chosen[0].path} and the other sites look at GPT-2's states, which are of no word: add those of another stream."
        )
    model.check_prompt(prompt)
    if not WORD.findall(prompt):
        raise ValueError(f"prompt is {said(prompt)}, expected words.")


def attention_html(
    model: Model, prompt: str, seed: int = 0, sites: Which = "cross", kind: Kind = "values", **sampling: Unpack[SamplingKeywords]
) -> str:
    """One HTML document with the words of a prompt under the spectrogram, by layer and step, and a clip without each word.

    The arguments are those of `Model.attention`, and so are the errors. A word that the prompt has twice is cut out twice; one that
    the model does not read, since the prompt is too long, has no clip.
    """
    of_kind("model", model, Model)
    sites = model.sites.select(sites)
    check_words(model, prompt, sites, kind)
    how, chosen = dict(model.sampling(**sampling)), sites
    by = ("layer", "step") if how["steps"] * len(chosen) <= CELLS else ("layer",)
    attention: AttentionMap = model.attention(prompt, seed, sites, by, kind=kind, **sampling)
    words = dict.fromkeys(word for word in attention.words if attention.of(word).any())
    rows = [Row(prompt, seed), *(Row(prompt, seed, (MuteWord(sites, word),)) for word in words)]
    clips = [clip for part in batches(rows, TOGETHER) for clip in model.clips(part, **how)]
    muted = dict(zip(words, clips[1:], strict=True))
    heard = {word: {"title": f"without “{word}”", **sound(clip)} for word, clip in muted.items()}
    mean = attention.values.mean(tuple(range(len(by))))
    names = [*attention.words, *attention.others]
    pooled = torch.from_numpy(attention.values).flatten(0, -2)
    values = torch.nn.functional.adaptive_avg_pool1d(pooled, min(MOMENTS, len(attention.seconds))).numpy()
    values = values.reshape(*attention.values.shape[:-1], -1)
    values = values / max(float(values[..., : len(attention.words), :].max()), 1e-12)
    labels = {axis: list(attention.labels[axis]) for axis in attention.by}
    labels["layer"] = [
        f"{layer} ({site['path']})" for layer, site in zip(labels["layer"], attention.settings["sites"], strict=True)
    ]
    data = {
        "seconds": clips[0].seconds, "axes": list(labels), "labels": list(labels.values()), "shape": list(values.shape),
        "named": len(attention.words), "clips": [{"title": "as it is", **sound(clips[0])}, *(heard.get(name) for name in names)],
        "values": base64.b64encode((255 * values.clip(0, 1)).round().astype(np.uint8).tobytes()).decode(),
    }  # fmt: skip
    body = render(
        "attention.html", said=SAID[kind], title=f"“{prompt}”", moments=values.shape[-1], axes=[
            {"name": axis.capitalize(), "labels": each} for axis, each in labels.items()
        ],
        rows=[
            {"word": name, "clip": name in heard, "mean": float(line.mean()), "peak": float(attention.seconds[line.argmax()]),
             "said": f"Attention to {name}: most at {attention.seconds[line.argmax()]:.2f} s"}
            for name, line in zip(names, mean, strict=True)
        ],
        settings=[("model", model.name), ("seed", seed), *((name, value) for name, value in how.items() if value is not None), ("kind", kind)],
    )  # fmt: skip
    return page("attention", f"Attention: {prompt}", body, data={"attention": data})


def attention_page(
    model: Model, prompt: str, file: str | Path, seed: int = 0, sites: Which = "cross", kind: Kind = "values",
    **sampling: Unpack[SamplingKeywords],
) -> Path:  # fmt: skip
    """Write a page with the words of a prompt under the spectrogram: when the model looks at each, and the clip without it.

    Sliders choose the layer and the denoising step; the clips play in phase, so that one hears what a word brings. It opens offline.

    Args:
        model: The model.
        prompt: The text.
        file: The file.
        seed: The seed of the starting noise.
        sites: The cross-attention modules that are shown, and in which words are cut out.
        kind: "weights" or "values", as for `Model.attention`.
        **sampling: `steps`, `guidance`, `seconds`, `negative_prompt`; the model's defaults if omitted.

    Returns:
        The file.

    Raises:
        ValueError: Input is out of range, or a module does not show its weights.
        ImportError: The extra `pages` is not installed.

    Example:
        >>> audioscope.pages.attention_page(model, "a fast song with violin", "attention.html", steps=2).name
        'attention.html'
    """
    need("pages", "The page with attention")
    file = as_path(file)
    check_page(file)
    sites = of_kind("model", model, Model).sites.select(sites)
    check_words(model, prompt, sites, kind)
    made_folder(file.parent)
    html = attention_html(model, prompt, seed, sites, kind, **sampling)
    return save_page(file, html)


def show_attention(
    model: Model, prompt: str, seed: int = 0, sites: Which = "cross", kind: Kind = "values", **sampling: Unpack[SamplingKeywords]
) -> Any:
    """Show the words of a prompt under the spectrogram in a notebook, in an iframe; as `attention_page` writes them.

    Args:
        model: The model.
        prompt: The text.
        seed: The seed of the starting noise.
        sites: The cross-attention modules that are shown, and in which words are cut out.
        kind: "weights" or "values", as for `Model.attention`.
        **sampling: `steps`, `guidance`, `seconds`, `negative_prompt`; the model's defaults if omitted.

    Returns:
        HTML for a notebook.

    Raises:
        ValueError: Input is out of range, or a module does not show its weights.

    Example:
        >>> shown = audioscope.pages.show_attention(model, "a fast song", steps=2)
        >>> "Attention: a fast song" in shown.data
        True
    """
    html = attention_html(model, prompt, seed, sites, kind, **sampling)
    rows = html.count('class="timeline"')
    return iframe(f"Attention: {prompt}", html, 420 + 34 * rows)
