"""A live model: type a prompt or move a strength slider, and hear the result next to the clip without steering."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Unpack

import ipywidgets as widgets

from audioscope import datasets
from audioscope.concepts import choose
from audioscope.errors import of_kind, real, said, seed_number
from audioscope.model import Model
from audioscope.steer.caa import steering_sites
from audioscope.steer.tables import axes
from audioscope.steer.vectors import SteeringVector
from audioscope.tracing import Row, SamplingKeywords
from audioscope.widgets.base import FLOW, Explorer, ListenerCaption, heard, labelled, live_clips, minus, unknown_said
from audioscope.widgets.live import Step

NOTHING = ""  # the menu's value for no steering
REACH = 2.0  # the slider's limit if no other is known


class Playground(Explorer):
    """What `Model.play` returns: prompt, seed and strength in, two clips out, unsteered and steered, in sync.

    Set the widgets' values from Python instead of by hand: `playground.prompt.value = "a fast song"`, then `wait()`.
    """

    title = "Play the model"

    def __init__(
        self,
        model: Model,
        prompt: str,
        seed: int,
        vectors: Mapping[str, SteeringVector] | SteeringVector | None,
        strength: float,
        **sampling: Unpack[SamplingKeywords],
    ):
        model.check_unsteered("a widget")
        of_kind("prompt", prompt, str)
        seed, strength = seed_number(seed), real("strength", strength)
        if not abs(strength) < 1e6:
            raise ValueError(f"strength is {strength}, expected a number, usually between -2 and 2.")
        if vectors is not None and not isinstance(vectors, Mapping):
            if not hasattr(vectors, "edit"):
                raise ValueError(f"vectors is {said(vectors)}, expected a SteeringVector, or several by name.")
            vectors = {str(vectors.metadata.get("concept", "vector")): vectors}
        for name, vector in (vectors or {}).items():
            if not hasattr(vector, "edit"):
                raise ValueError(f"vectors has {said(vector)} for {name!r}, expected a SteeringVector.")
        model.check_edits([vector.edit(strength) for vector in (vectors or {}).values()])
        super().__init__()
        self.model, self.vectors, self._ear, self._run = model, vectors, ListenerCaption(model), model.sampling(**sampling)
        self._vector: SteeringVector | None = None
        reach = max(REACH, abs(strength))
        shipped = vectors is None and datasets.is_shipped(model)
        names = axes() if shipped else list(vectors or {})
        self.prompt = labelled(widgets.Text, "Prompt", "98%", value=prompt, continuous_update=False)
        self.seed = labelled(widgets.BoundedIntText, "Seed", "150px", value=seed, min=0, max=2**53)
        menu = [("nothing", NOTHING), *((name, name) for name in names)]
        self.axis = labelled(widgets.Dropdown, "Steer", "260px", options=menu, value=names[0] if vectors else NOTHING)
        where = ["own layers", "all layers"] if shipped else ["the vector's sites"]
        self.where = labelled(widgets.Dropdown, "at", "200px", options=where)
        self.strength = labelled(widgets.FloatSlider, "Strength", "98%", min=-reach, max=reach, step=0.05, readout_format="+.2f")
        self._choose()
        self.strength.value = strength
        menus = widgets.HBox([self.seed, self.axis, self.where], layout=FLOW)
        self.children = (self.prompt, menus, self.strength, self.sounds)
        self.sounds.label = "clips of this prompt"
        self._show(self._make(*self._wish(), lambda share: None))  # what a page without a kernel keeps
        self.on(self._asked, self.prompt, self.seed, self.strength)
        self.on(self._turned, self.axis, self.where)

    def _choose(self) -> None:
        """Set the vector that the menus name, and the slider's limits: as far as the shipped sweep went on this axis."""
        name = self.axis.value
        self.where.disabled = self.strength.disabled = name == NOTHING
        if name == NOTHING:
            self._vector = None
        elif self.vectors is not None:
            self._vector = self.vectors[name]
        else:
            everywhere, vector = self.where.value == "all layers", datasets.vector(name)
            self._vector = vector if everywhere else vector.only(steering_sites(self.model, choose([name])[0], "own"))
            table = datasets.steering_table()
            mine = (table["concept"] == name) & (table["method"] == "caa") & (table["sites"] == ("all" if everywhere else "own"))
            self.strength.max = round(float(table.loc[mine, "largest"].item()), 1)
            self.strength.min = -self.strength.max

    def _wish(self) -> tuple[str, int, str, SteeringVector | None, float]:
        """Everything that determines the clips: prompt, seed, axis, vector and strength, as the controls have them now."""
        strength = float(self.strength.value)
        vector = self._vector if strength else None
        return self.prompt.value.strip(), int(self.seed.value), str(self.axis.value), vector, strength

    def _make(
        self, prompt: str, seed: int, axis: str, vector: SteeringVector | None, strength: float, step: Step
    ) -> tuple[list[dict[str, Any]], str]:
        """The clips of a request, and the message about them."""
        if not prompt:
            raise ValueError("The prompt is empty: type what to play, such as 'a slow sad song with violin'.")
        rows, names = [Row(prompt, seed)], [f"Unsteered: {prompt}"]
        concepts: tuple[str, ...] = ()
        if vector is not None:
            rows.append(Row(prompt, seed, (vector.edit(strength),)))
            names.append(f"Steered: {axis} {minus(f'{strength:+.2f}')}")
            concepts = (str(vector.metadata.get("concept", "")), str(vector.metadata.get("against", "")))
        clips = live_clips(self.model, rows, self._run, step)
        sounds = [heard(*each) for each in zip(clips, names, self._ear(clips, concepts), strict=True)]
        return sounds, unknown_said(self.model, prompt)

    def _asked(self) -> None:
        self.ask(partial(self._make, *self._wish()), self._show)

    def _turned(self) -> None:
        """Another vector was selected: set its slider, then request its clips, once."""
        with self.together():
            self._choose()
        self._asked()

    def still_parts(self) -> dict[str, Any]:
        return {"text": f"{self.model.name}, seed {self.seed.value}."}

    def __repr__(self) -> str:
        steered = f"steer {self.axis.value or 'nothing'} {self.strength.value:+g}"
        return f"Playground({self.model.name}: {self.prompt.value!r}, seed {self.seed.value}, {steered})"
