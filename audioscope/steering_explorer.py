"""A steering sweep under your hand: one slider over the clips of a prompt, and where it stands on the curve of score over distance."""

from __future__ import annotations

from typing import Any

import ipywidgets as widgets
import numpy as np
import pandas as pd

from audioscope.arms import standard_arms
from audioscope.atlas_data import WAYS
from audioscope.atlas_explorer import model_like
from audioscope.audio import Clip
from audioscope.charts import steering_chart
from audioscope.concepts import Pair, choose
from audioscope.extras import shipped_vector
from audioscope.gains import Steering, captions
from audioscope.live import Step
from audioscope.model import Model
from audioscope.playground import live_clips
from audioscope.slider import Track, track_data
from audioscope.tracing import Row
from audioscope.vectors import SteeringVector
from audioscope.widgets import Explorer, StrengthSlider, labelled, live_chart, note, set_params


class SteeringExplorer(Explorer):
    """What `Steering.explore` gives. Choose from Python by `way` and `prompt`, the menus; the slider is `strength.place`."""

    def __init__(self, sweep: Steering, model: Model | None = None, vector: SteeringVector | None = None):
        super().__init__()
        self.sweep, opposite = sweep, str(sweep.settings["opposite"])
        self.title = f"Steering {opposite} ↔ {sweep.concept}" if opposite else f"Steering towards {sweep.concept}"
        self.model = model_like(sweep.settings.get("fingerprint"), model, "The sweep")
        self._vector = vector
        self._curves = sweep.curves()
        self._picture = steering_chart(self._curves, sweep.concept, opposite, ring=True)
        self.chart = live_chart(self._picture)
        self.way = labelled(
            widgets.Dropdown, "Way to steer", "380px", options=[(WAYS.get(cell, cell), cell) for cell in sweep.cells]
        )
        if "caa own" in sweep.cells:
            self.way.value = "caa own"
        units = sweep.table.drop_duplicates(["prompt", "seed"])
        heard = sweep.table[sweep.table["clip"] != ""].drop_duplicates(["prompt", "seed"])
        self._units = (heard if len(heard) else units).reset_index(drop=True)
        options = [(f"{row.text} (seed {row.seed})", number) for number, row in enumerate(self._units.itertuples())]
        self.prompt = labelled(widgets.Dropdown, "Prompt", "100%", options=options)
        self.strength = StrengthSlider()
        self.facts = note()
        self._place: dict[str, float] = {}  # on the curve
        self._tracks: dict[tuple[str, int], Track] = {}
        self.children = (self.chart, self.way, self.prompt, self.strength, self.facts, self.sounds)
        self._chosen()
        self.wait()
        for menu in (self.way, self.prompt):
            menu.observe(self._chosen, "value")
        self.strength.observe(lambda change: self._stand(), "place")

    def _chosen(self, change: Any = None) -> None:
        """The clips of a way and a prompt: kept, made before, or made now."""
        wish = self.way.value, int(self.prompt.value)
        if wish in self._tracks:
            self.live.cancel()
            return self._show(wish)
        unit = self._units.iloc[wish[1]]
        table = self.sweep.table
        rows = table[(table["cell"] == wish[0]) & (table["prompt"] == unit["prompt"]) & (table["seed"] == unit["seed"])]
        rows = rows.sort_values("alpha")
        return self.ask(lambda step: self._made(wish, rows, step), self._show)

    def _made(self, wish: tuple[str, int], rows: pd.DataFrame, step: Step) -> tuple[str, int]:
        """Put the track of a wish among those that are there."""
        cell, strengths = wish[0], rows["alpha"].tolist()
        text, seed = str(rows["text"].iloc[0]), int(rows["seed"].iloc[0])
        if rows["clip"].ne("").all():
            clips = [Clip.load(self.sweep.folder / file, prompt=text, seed=seed) for file in rows["clip"]]
        else:
            if self.model is None:
                raise ValueError(
                    "The clips of this sweep were not kept: give the model, sweep.explore(model), or run it with clips=True."
                )
            settings = self.sweep.settings
            concept = choose([self.sweep.concept])[0]
            arms = {arm.cell: arm for arm in standard_arms(self.model, concept, self._everywhere(), steps=settings["steps"])}
            if cell not in arms:
                raise ValueError(f"The clips of {cell!r} were not kept, and it is none of the standard ways: {', '.join(arms)}.")
            pair = Pair(
                int(rows["prompt"].iloc[0]), settings["split"], str(rows["towards"].iloc[0]), str(rows["away"].iloc[0]), text
            )
            made = [Row(text, seed, arms[cell].on(pair, alpha, seed)) for alpha in strengths]
            clips = live_clips(self.model, made, {name: settings[name] for name in ("steps", "guidance", "seconds")}, step)
        said = [caption.replace("-", "−") for caption in captions(rows)]
        self._tracks[wish] = Track(f"{self.sweep.concept}, {WAYS.get(cell, cell)}", strengths, clips, said)
        return wish

    def _everywhere(self) -> SteeringVector:
        """The vector at all sites: the one given, that of the sweep's folder, or the shipped one."""
        if self._vector is None:
            file = self.sweep.folder / "vector.safetensors"
            self._vector = SteeringVector.load(file) if file.exists() else shipped_vector(self.sweep.concept)
        return self._vector

    def _show(self, wish: tuple[str, int]) -> None:
        track = self._tracks[wish]
        same = self.strength.tracks and self.strength.tracks[0]["strengths"] == list(track.strengths)
        with self.strength.hold_sync():
            self.strength.tracks = [track_data(track)]
            if not same:
                self.strength.place = float(np.abs(track.strengths).argmin())
        self.sounds.say("")
        self._stand()

    def _stand(self) -> None:
        """Say where the slider stands, and move the ring on the curve there."""
        if not self.strength.tracks:
            return
        cell = self.way.value
        curve = self._curves[self._curves["cell"] == cell].sort_values("alpha")
        strengths = self.strength.tracks[0]["strengths"]
        strength = float(np.interp(self.strength.place, range(len(strengths)), strengths))
        score, distance = (float(np.interp(strength, curve["alpha"], curve[name])) for name in ("score", "lpaps"))
        self._place = {"now_distance": distance * float(np.sign(strength)), "now_score": score}
        for name, value in self._place.items():
            self.chart.params.set_trait(name, value)
        text = f"Strength {strength:+.2f}: score {score:+.2f} at distance {distance:.3f}, mean over {self.sweep.table['prompt'].nunique()} prompts."
        self.facts.value = note(text.replace("-", "−")).value

    def still_parts(self) -> dict[str, Any]:
        clips = []
        if self.strength.tracks:
            track = self.strength.tracks[0]
            for number in dict.fromkeys((0, int(np.abs(track["strengths"]).argmin()), len(track["sounds"]) - 1)):
                name = f"strength {track['strengths'][number]:+.2f}".replace("-", "−")
                clips.append(
                    {"name": name, "caption": track["captions"][number], "seconds": track["seconds"], **track["sounds"][number]}
                )
        return {
            "chart": set_params(self._picture, **self._place),
            "clips": clips,
            "text": f"{WAYS.get(self.way.value, self.way.value)}; {self.prompt.label}",
        }

    def __repr__(self) -> str:
        return f"SteeringExplorer({self.way.value}, {self.prompt.label!r})\n{self.sweep!r}"
