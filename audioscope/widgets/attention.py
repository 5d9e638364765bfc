"""An interactive attention map: words over time by layer, head and step, and the clip from which a word is cut out there."""

from __future__ import annotations

from typing import Any

import ipywidgets as widgets

from audioscope.atlas.charts import attention_heatmap
from audioscope.attention import AttentionMap, attention
from audioscope.edits import MuteWord
from audioscope.model import Model
from audioscope.sites import Site, labels_of
from audioscope.tracing import Row, Sampling
from audioscope.widgets.base import (
    FLOW,
    PATIENCE,
    Explorer,
    ListenerCaption,
    close_all,
    heard,
    labelled,
    live_chart,
    live_clips,
    model_like,
    unknown_said,
)
from audioscope.widgets.live import Step

ALL, NO_WORD = "all", "none"


class AttentionExplorer(Explorer):
    """What `AttentionMap.play` returns. From Python, set the menus `word`, `layer`, `head` and `step`, and the text `prompt`."""

    title = "Attention"

    def __init__(self, found: AttentionMap, model: Model | None = None):
        super().__init__()
        self.attention = found
        self.model = model_like(found.settings["fingerprint"], model, "The attention map")
        if not found.words:
            raise ValueError("This map has no words to cut out: give one of cross-attention, of a prompt with words.")
        if found.settings.get("branch", "cond") != "cond" or found.settings.get("edited") or found.settings.get("at"):
            raise ValueError(
                "Only a whole map of the prompt's own branch, made without edits, can be played: read it so, and choose layer, head and step here."
            )
        self._ear = ListenerCaption(self.model)
        self.prompt = labelled(widgets.Text, "Prompt", "98%", value=found.prompt, continuous_update=False)
        self.prompt.disabled = self.model is None or found.settings["kind"] == "score"
        self.word = labelled(widgets.Dropdown, "Cut out", "220px", options=[NO_WORD])
        menus = {axis: [ALL, *found.labels.get(axis, [])] for axis in ("layer", "head", "step")}
        self.layer, self.head, self.step = (
            labelled(widgets.SelectionSlider, axis.capitalize(), "280px", options=options) for axis, options in menus.items()
        )
        for axis, options in menus.items():
            getattr(self, axis).disabled = len(options) == 1
        self.picture = widgets.Box(layout=widgets.Layout(overflow="auto"))
        self.sounds.label = "as it is, and without the word"
        sliders = widgets.HBox([self.word, self.layer, self.head, self.step], layout=FLOW)
        self.children = (self.prompt, self.picture, sliders, self.sounds)
        self._listed()
        self.live.wait(PATIENCE)
        self.on(self._asked, self.prompt)
        self.on(self._moved, self.layer, self.head, self.step)
        self.on(self._hear, self.word)

    def _place(self) -> dict[str, str]:
        """What is chosen of the map's axes."""
        return {axis: getattr(self, axis).value for axis in self.attention.by if getattr(self, axis).value != ALL}

    def _drawn(self) -> None:
        close_all(self.picture)
        self.picture.children = (live_chart(attention_heatmap(self.attention.at(**self._place())), "canvas"),)

    def _listed(self) -> None:
        """Another map: list its words, with a number where the prompt has one twice."""
        words = self.attention.words
        named = [f"{word} ({number})" if words.count(word) > 1 else word for number, word in enumerate(words)]
        with self.together():
            self.word.options = [(NO_WORD, -1), *((name, number) for number, name in enumerate(named))]
            self.word.value = -1
        self._drawn()
        self._hear(another=True)

    def _moved(self) -> None:
        self._drawn()
        if self.word.value >= 0:
            self._hear()

    def _asked(self) -> None:
        """Another prompt: read where it looks, then hear it."""
        prompt, model, old = self.prompt.value.strip(), self.model, self.attention
        if model is None or prompt == old.prompt:
            return

        def made(step: Step) -> AttentionMap:
            step(0.1)
            how = Sampling.of(old.settings)
            sites = [site["path"] for site in old.settings["sites"]]
            return attention(
                model, prompt, old.seed, sites, old.by, kind=old.settings["kind"], branch=old.settings["branch"], **how
            )

        def shown(found: AttentionMap) -> None:
            self.attention = found
            self._listed()

        self.ask(made, shown, another=True)

    def _sites(self) -> list[str]:
        """Where the word is cut out: at the chosen head or layer, or everywhere that the map has."""
        paths = [site["path"] for site in self.attention.settings["sites"]]
        chosen = self._place()
        if "layer" in chosen:
            paths = [paths[self.attention.labels["layer"].index(chosen["layer"])]]
        return [f"{path}.heads.{chosen['head']}" for path in paths] if "head" in chosen else paths

    def _layers(self, model: Model) -> str:
        """The layers of the map, in words."""
        read = [Site(**site) for site in self.attention.settings["sites"]]
        if len(read) == len(model.sites.cross):
            return "all layers"
        return f"{'layers' if len(read) > 1 else 'layer'} {', '.join(labels_of(read).values())}"

    def _hear(self, another: bool = False) -> None:
        """Show the clip as it is, and without the chosen word."""
        model, number, found = self.model, self.word.value, self.attention
        if model is None:
            return self.sounds.say("To hear it, pass the model: attention.play(model).")
        sites = self._sites()
        chosen = self._place()
        where = "head " + chosen["head"] + " of " if "head" in chosen else ""
        where += f"layer {chosen['layer']}" if "layer" in chosen else self._layers(model)
        where += f" in step {chosen['step']}" if "step" in chosen else ""
        window = (int(chosen["step"]), int(chosen["step"]) + 1) if "step" in chosen else None

        def made(step: Step) -> tuple[list[dict[str, Any]], str]:
            rows = [Row(found.prompt, found.seed)]
            names = ["as it is"]
            if number >= 0:
                rows.append(Row(found.prompt, found.seed, (MuteWord(sites, number, steps=window),)))
                names.append(f"without “{found.words[number]}” at {where}")
            clips = live_clips(model, rows, Sampling.of(found.settings), step)
            sounds = [heard(clip, name, score) for clip, name, score in zip(clips, names, self._ear(clips), strict=True)]
            return sounds, f"{names[-1]}. {unknown_said(model, found.prompt)}".strip()

        return self.ask(made, self._show, another=another)

    def still_parts(self) -> dict[str, Any]:
        place = ", ".join(f"{axis} {value}" for axis, value in self._place().items())
        return {"chart": attention_heatmap(self.attention.at(**self._place())), "text": f"Shown: {place or 'the mean'}."}

    def __repr__(self) -> str:
        return f"AttentionExplorer({self.attention.prompt!r}, seed {self.attention.seed})"
