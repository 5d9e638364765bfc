"""A live model under your fingers: type a prompt or move a strength slider, and hear what it makes of it, beside what it made without."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ipywidgets as widgets
import pandas as pd
import torch

from audioscope.audio import Clip
from audioscope.axes import axes, shipped_steering
from audioscope.concepts import choose
from audioscope.edits import AddVector
from audioscope.extras import is_shipped, shipped_vector
from audioscope.live import Step
from audioscope.model import Model
from audioscope.scorers import listener_scorer
from audioscope.steering import steering_sites
from audioscope.tiny.music import SAMPLES
from audioscope.tracing import Row
from audioscope.vectors import SteeringVector
from audioscope.widgets import FLOW, Explorer, heard, labelled, minus

NOTHING = ""  # the menu's value where nothing is steered with
REACH = 2.0  # the slider's end where nothing else is known


def live_clips(model: Model, rows: list[Row], settings: dict[str, Any], step: Step) -> list[Clip]:
    """Generate rows in one batch and say how far it is. Raises what `Model.clips` raises."""
    return model.clips(rows, on_step=lambda number: step(number / (settings["steps"] + 1)), **settings)


def unknown_said(model: Model, prompts: str) -> str:
    """What is said of words that the model never saw; nothing where it knows them all."""
    unknown = model.unknown_words(prompts)
    return f"{model.name} never saw these words: {', '.join(unknown)}." if unknown else ""


class Ear:
    """What the listener hears in clips of `tiny`, in words; says nothing about other models' clips."""

    def __init__(self, model: Model):
        self.listener = listener_scorer() if model.adapter.scorer == "listener" else None

    def __call__(self, clips: list[Clip], concepts: tuple[str, ...] = ()) -> list[str]:
        """The log-odds of some concepts, or where it knows none of them of up to five that it hears most surely, for each clip."""
        if self.listener is None or clips[0].samples.shape[1] != SAMPLES:  # it knows only whole clips
            return [""] * len(clips)
        scores: pd.DataFrame = self.listener(torch.stack([torch.from_numpy(clip.samples) for clip in clips]), clips[0].rate)
        known = [name for name in concepts if name in scores]
        lines = []
        for _, row in scores.iterrows():
            named = row[known] if known else row.nlargest(5)[lambda most: (most > 0) | (most == most.max())]
            lines.append("hears: " + ", ".join(f"{name} {minus(f'{value:+.1f}')}" for name, value in named.items()))
        return lines


@dataclass(frozen=True)
class Wish:
    """All that decides the clips of a playground, as its controls stood."""

    prompt: str
    seed: int
    axis: str
    vector: SteeringVector | None
    strength: float


class Playground(Explorer):
    """What `Model.play` gives: prompt, seed and strength in, two clips out, steered and not, in phase.

    Set the widgets' values from Python to do what a hand would: `playground.prompt.value = "a fast song"`, then `wait()`.
    """

    title = "Play the model"

    def __init__(
        self, model: Model, prompt: str, seed: int, vectors: Mapping[str, SteeringVector] | None, strength: float, **settings: Any
    ):
        model.check_unsteered("a widget")
        model.check_seed(seed)
        if not abs(strength) < 1e6:
            raise ValueError(f"strength is {strength}, expected a finite number.")
        model.check_vectors([AddVector(vector, strength) for vector in (vectors or {}).values()])
        super().__init__()
        self.model, self.vectors, self._ear, self._run = model, vectors, Ear(model), model.settings(**settings)
        self._vector: SteeringVector | None = None
        reach = max(REACH, abs(strength))
        shipped = vectors is None and is_shipped(model)
        names = axes() if shipped else list(vectors or {})
        self.prompt = labelled(widgets.Text, "Prompt", "98%", value=prompt, continuous_update=False)
        self.seed = labelled(widgets.BoundedIntText, "Seed", "150px", value=seed, min=0, max=2**53)
        self.axis = labelled(
            widgets.Dropdown,
            "Steer",
            "260px",
            options=[("nothing", NOTHING), *((name, name) for name in names)],
            value=names[0] if vectors else NOTHING,
        )
        where = ["own layers", "all layers"] if shipped else ["the vector's sites"]
        self.where = labelled(widgets.Dropdown, "at", "200px", options=where)
        self.strength = labelled(widgets.FloatSlider, "Strength", "98%", min=-reach, max=reach, step=0.05, readout_format="+.2f")
        self._choose()
        self.strength.value = strength
        menus = widgets.HBox([self.seed, self.axis, self.where], layout=FLOW)
        self.children = (self.prompt, menus, self.strength, self.sounds)
        self.sounds.label = "clips of this prompt"
        self._show(self._make(self._wish(), lambda share: None))  # what a page without a kernel keeps
        for control in (self.prompt, self.seed, self.strength):
            control.observe(self._asked, "value")
        for menu in (self.axis, self.where):
            menu.observe(self._turned, "value")

    def _choose(self) -> None:
        """The vector that the menus name, and the slider's ends: as far as the shipped sweep went on this axis."""
        name = self.axis.value
        self.where.disabled = self.strength.disabled = name == NOTHING
        if name == NOTHING:
            self._vector = None
        elif self.vectors is not None:
            self._vector = self.vectors[name]
        else:
            everywhere, vector = self.where.value == "all layers", shipped_vector(name)
            self._vector = vector if everywhere else vector.only(steering_sites(self.model, choose([name])[0], "own"))
            table = shipped_steering()
            mine = (table["concept"] == name) & (table["method"] == "caa") & (table["sites"] == ("all" if everywhere else "own"))
            self.strength.max = round(float(table.loc[mine, "largest"].item()), 1)
            self.strength.min = -self.strength.max

    def _wish(self) -> Wish:
        strength = float(self.strength.value)
        vector = self._vector if strength else None
        return Wish(self.prompt.value.strip(), int(self.seed.value), str(self.axis.value), vector, strength)

    def _make(self, wish: Wish, step: Step) -> tuple[list[dict[str, Any]], str]:
        """The clips of a wish, and what is to be said of it."""
        if not wish.prompt:
            raise ValueError("The prompt is empty: type what to play, such as 'a slow sad song with violin'.")
        rows, names = [Row(wish.prompt, wish.seed)], [f"As the words say: {wish.prompt}"]
        concepts: tuple[str, ...] = ()
        if wish.vector is not None:
            rows.append(Row(wish.prompt, wish.seed, (AddVector(wish.vector, wish.strength),)))
            names.append(f"Steered: {wish.axis} {minus(f'{wish.strength:+.2f}')}")
            concepts = (str(wish.vector.facts.get("concept", "")), str(wish.vector.facts.get("against", "")))
        clips = live_clips(self.model, rows, self._run, step)
        sounds = [heard(*each) for each in zip(clips, names, self._ear(clips, concepts), strict=True)]
        return sounds, unknown_said(self.model, wish.prompt)

    def _show(self, made: tuple[list[dict[str, Any]], str]) -> None:
        sounds, said = made
        # who listens to one of the two goes on with it; the first steered clip is heard as soon as there is one
        same = len(self.sounds.sounds) == len(sounds)
        self.sounds.show(sounds, self.sounds.version if same else len(sounds) - 1)
        self.sounds.say(said)

    def _asked(self, change: Any = None) -> None:
        if self._quiet:
            return
        wish = self._wish()
        self.ask(lambda step: self._make(wish, step), self._show)

    def _turned(self, change: Any = None) -> None:
        """Another vector: its slider, and then its sound, asked for once."""
        with self.together():
            self._choose()
        self._asked()

    def still_parts(self) -> dict[str, Any]:
        return {"clips": self.sounds.sounds, "text": f"{self.model.name}, seed {self.seed.value}."}

    def __repr__(self) -> str:
        return f"Playground({self.model.name}: {self.prompt.value!r}, seed {self.seed.value}, steer {self.axis.value or 'nothing'} {self.strength.value:+g})"
