"""A live model under your fingers: type a prompt or move a strength slider, and hear what it makes of it, beside what it made without."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ipywidgets as widgets
import pandas as pd
import torch

from audioscope.audio import Clip
from audioscope.axes import shipped_steering
from audioscope.concepts import choose
from audioscope.edits import AddVector
from audioscope.extras import is_shipped, shipped_vector
from audioscope.live import Step
from audioscope.model import Model
from audioscope.scorers import listener_scorer
from audioscope.steering import steering_sites
from audioscope.tracing import Row
from audioscope.vectors import SteeringVector
from audioscope.widgets import Explorer, heard, labelled

NOTHING = "nothing"
REACH = 2.0  # the slider's end where nothing else is known


def live_clips(model: Model, rows: list[Row], settings: dict[str, Any], step: Step) -> list[Clip]:
    """Generate rows in one batch and say how far it is. Raises FloatingPointError where the model gives NaN."""
    run = model.run(rows, on_step=lambda number: step(number / (settings["steps"] + 1)), **settings)
    if not bool(run.finite.all()):
        raise FloatingPointError(f"{model.name} gave NaN or infinity: take a smaller strength.")
    assert run.audio is not None
    rate = model.adapter.sampling_rate(model.pipe)
    return [Clip(audio.numpy(), rate, row.prompt, row.seed, model.name) for audio, row in zip(run.audio, rows, strict=True)]


class Ear:
    """What the listener hears in clips of `tiny`, in words; says nothing about other models' clips."""

    def __init__(self, model: Model):
        self.listener = listener_scorer() if model.adapter.scorer == "listener" else None

    def __call__(self, clips: list[Clip], concepts: tuple[str, ...] = ()) -> list[str]:
        """The log-odds of some concepts, or where it knows none of them of the three that it hears most surely, for each clip."""
        if self.listener is None:
            return [""] * len(clips)
        scores: pd.DataFrame = self.listener(torch.stack([torch.from_numpy(clip.samples) for clip in clips]), clips[0].rate)
        known = [name for name in concepts if name in scores]
        lines = []
        for _, row in scores.iterrows():
            named = row[known] if known else row.nlargest(3)
            lines.append("hears: " + ", ".join(f"{name} {value:+.1f}".replace("-", "−") for name, value in named.items()))
        return lines


class Playground(Explorer):
    """What `Model.play` gives: prompt, seed and strength in, two clips out, steered and not, in phase.

    Set the widgets' values from Python to do what a hand would: `playground.prompt.value = "a fast song"`, then `wait()`.
    """

    title = "Play the model"

    def __init__(self, model: Model, prompt: str, seed: int, vectors: Mapping[str, SteeringVector] | None, strength: float):
        super().__init__()
        self.model, self.vectors, self._ear = model, vectors, Ear(model)
        self._vector: SteeringVector | None = None
        shipped = vectors is None and is_shipped(model)
        names = list(vectors or {}) if not shipped else list(dict.fromkeys(shipped_steering()["concept"]))
        self.prompt = labelled(widgets.Text, "Prompt", "100%", value=prompt, continuous_update=False)
        self.seed = labelled(widgets.BoundedIntText, "Seed", "150px", value=seed, min=0, max=2**31 - 1)
        self.axis = labelled(
            widgets.Dropdown, "Steer", "260px", options=[NOTHING, *names], value=names[0] if vectors else NOTHING
        )
        where = ["own layers", "all layers"] if shipped else ["the vector's sites"]
        self.where = labelled(widgets.Dropdown, "at", "200px", options=where)
        self.strength = labelled(
            widgets.FloatSlider, "Strength", "100%", value=strength, min=-REACH, max=REACH, step=0.05, readout_format="+.2f"
        )
        self._choose()
        self.strength.value = strength
        self.children = (
            self.prompt, widgets.HBox([self.seed, self.axis, self.where], layout=widgets.Layout(flex_flow="row wrap")), self.strength, self.sounds,
        )  # fmt: skip
        self.sounds.label = "clips of this prompt"
        self._show(self._make(self._wish(), lambda share: None))  # what a page without a kernel keeps
        for control in (self.prompt, self.seed, self.strength):
            control.observe(self._asked, "value")
        for menu in (self.axis, self.where):
            menu.observe(self._turned, "value")

    def _choose(self) -> None:
        """The vector that the menus name, and the slider's ends: as far as the shipped sweep went on this axis."""
        name, shipped = self.axis.value, self.vectors is None
        self.where.disabled = self.strength.disabled = name == NOTHING
        if name == NOTHING:
            self._vector = None
            return
        reach = REACH
        if shipped:
            everywhere, vector = self.where.value == "all layers", shipped_vector(name)
            self._vector = vector if everywhere else vector.only(steering_sites(self.model, choose([name])[0], "own"))
            cell = "caa all" if everywhere else "caa own"
            measured = shipped_steering(name).table
            reach = round(float(measured.loc[measured["cell"] == cell, "alpha"].abs().max()), 1)
        else:
            self._vector = self.vectors[name]  # type: ignore[index]
        self.strength.min, self.strength.max = -reach, reach

    def _wish(self) -> dict[str, Any]:
        """All that decides the clips, as it stands."""
        vector, strength = self._vector, float(self.strength.value)
        return {
            "prompt": self.prompt.value.strip(),
            "seed": self.seed.value,
            "strength": strength,
            "vector": vector if strength else None,
        }

    def _make(self, wish: dict[str, Any], step: Step) -> tuple[dict[str, Any], list[Clip], list[str]]:
        prompt, seed, vector = wish["prompt"], wish["seed"], wish["vector"]
        if not prompt:
            raise ValueError("The prompt is empty: type what to play, such as 'a slow sad song with violin'.")
        rows = [Row(prompt, seed)]
        concepts: tuple[str, ...] = ()
        if vector is not None:
            rows.append(Row(prompt, seed, (AddVector(vector, wish["strength"]),)))
            concepts = (str(vector.facts.get("concept", "")), str(vector.facts.get("against", "")))
        clips = live_clips(self.model, rows, self.model.settings(None, None, None), step)
        return wish, clips, self._ear(clips, concepts)

    def _show(self, made: tuple[dict[str, Any], list[Clip], list[str]]) -> None:
        wish, clips, captions = made
        names = [f"As the words say: {wish['prompt']}", f"Steered: {self.axis.value} {wish['strength']:+.2f}".replace("-", "−")]
        steered = len(clips) > 1
        # who listened to the steered clip goes on with it, and hears it as soon as there is one
        self.sounds.show([heard(*each) for each in zip(clips, names, captions, strict=False)], int(steered))
        unknown = self.model.unknown_words(wish["prompt"])
        self.sounds.say(f"{self.model.name} never saw these words: {', '.join(unknown)}." if unknown else "")

    def _asked(self, change: Any = None) -> None:
        wish = self._wish()
        self.ask(lambda step: self._make(wish, step), self._show)

    def _turned(self, change: Any = None) -> None:
        with self.strength.hold_trait_notifications():
            self._choose()
        self._asked()

    def still_parts(self) -> dict[str, Any]:
        return {"clips": self.sounds.sounds, "text": f"{self.model.name}, seed {self.seed.value}."}

    def __repr__(self) -> str:
        return f"Playground({self.model.name}: {self.prompt.value!r}, seed {self.seed.value}, steer {self.axis.value} {self.strength.value:+g})"
