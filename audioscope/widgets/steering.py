"""An interactive steering sweep: one slider over the clips of a prompt, and its position on the curve of score over distance."""

from __future__ import annotations

from typing import Any

import ipywidgets as widgets
import numpy as np
import pandas as pd

from audioscope import datasets
from audioscope.audio import Clip
from audioscope.model import Model
from audioscope.pages.shipped import rows_again
from audioscope.pages.slider import track_data
from audioscope.steer.cells import OWN, label_of
from audioscope.steer.charts import steering_chart
from audioscope.steer.results import SteeringSweep, Track, captions
from audioscope.steer.vectors import SteeringVector
from audioscope.tracing import Sampling
from audioscope.widgets.base import (
    PATIENCE,
    Explorer,
    StrengthSlider,
    labelled,
    live_chart,
    live_clips,
    minus,
    model_like,
    noted,
    set_params,
)
from audioscope.widgets.live import Step


class SteeringExplorer(Explorer):
    """What `SteeringSweep.explore` returns. From Python, set the menus `way` and `prompt`; the slider is `strength.place`."""

    def __init__(self, sweep: SteeringSweep, model: Model | None = None, vector: SteeringVector | None = None):
        super().__init__()
        self.sweep, opposite = sweep, str(sweep.settings["opposite"])
        self.title = f"Steering {opposite} ↔ {sweep.concept}" if opposite else f"Steering toward {sweep.concept}"
        self.model = model_like(sweep.settings.get("fingerprint"), model, "The sweep")
        self._vector = vector
        self._curves = sweep.curves()
        self._picture = steering_chart(self._curves, sweep.concept, opposite, ring=True)
        self.chart = live_chart(self._picture)
        ways = [(label_of(cell), cell) for cell in sweep.cells]
        self.way = labelled(widgets.Dropdown, "Steering method", "380px", options=ways)
        if str(OWN) in sweep.cells:
            self.way.value = str(OWN)
        units = sweep.table.drop_duplicates(["prompt", "seed"])
        kept = sweep.table[sweep.table["clip"] != ""].drop_duplicates(["prompt", "seed"])
        self._units = (kept if len(kept) else units).reset_index(drop=True)
        options = [(f"{row.text} (seed {row.seed})", number) for number, row in enumerate(self._units.itertuples())]
        self.prompt = labelled(widgets.Dropdown, "Prompt", "98%", options=options)
        self.strength = StrengthSlider()
        self.metadata = widgets.HTML()
        self._place: dict[str, float] = {}  # on the curve
        self._shown = ""  # the method whose clips are shown
        self._tracks: dict[tuple[str, int], dict[str, Any]] = {}  # in the slider's format
        self.children = (self.chart, self.way, self.prompt, self.strength, self.metadata, self.sounds)
        self._chosen()
        self.live.wait(PATIENCE)
        self.on(self._chosen, self.way, self.prompt)
        self.strength.observe(lambda change: self._stand(), "place")

    def _chosen(self) -> None:
        """The clips of a method and a prompt: kept, generated earlier, or generated now."""
        cell, number = str(self.way.value), int(self.prompt.value)
        unit, table = self._units.iloc[number], self.sweep.table
        mine = (table["cell"] == cell) & (table["prompt"] == unit["prompt"]) & (table["seed"] == unit["seed"])
        rows = table[mine & ~table["failed"].astype(bool)].sort_values("strength")
        self.ask(lambda step: self._made(cell, number, rows, step), self._slide, another=True)

    def _made(self, cell: str, number: int, rows: pd.DataFrame, step: Step) -> tuple[str, dict[str, Any]]:
        """The track of a method and a prompt, in the slider's format."""
        if (cell, number) in self._tracks:
            return cell, self._tracks[cell, number]
        if len(rows) < 2:
            raise ValueError(f"Fewer than two strengths of {cell!r} succeeded for this prompt.")
        if rows["clip"].ne("").all():
            clips = [Clip.load(self.sweep.folder / file) for file in rows["clip"]]
        elif self.model is None:
            raise ValueError(
                "The clips of this sweep were not kept: pass the model, sweep.explore(model), or rerun the sweep with clips=True."
            )
        else:
            how = Sampling.of(self.sweep.settings)
            clips = live_clips(self.model, rows_again(self.sweep, self._everywhere(), rows), how, step)
        said = [minus(caption) for caption in captions(rows)]
        track = Track(f"{self.sweep.concept}, {label_of(cell)}", rows["strength"].tolist(), clips, said)
        self._tracks[cell, number] = track_data(track)
        return cell, self._tracks[cell, number]

    def _everywhere(self) -> SteeringVector:
        """The vector at all sites: the one given, the one in the sweep's folder, or the shipped one."""
        if self._vector is None:
            file = self.sweep.folder / "vector.safetensors"
            self._vector = SteeringVector.load(file) if file.exists() else datasets.vector(self.sweep.concept)
        return self._vector

    def _slide(self, made: tuple[str, dict[str, Any]]) -> None:
        self._shown, track = made
        before = self.strength.tracks[0]["strengths"] if self.strength.tracks else None
        with self.strength.hold_sync():
            self.strength.tracks = [track]
            if before != track["strengths"]:  # otherwise, it stays where it is
                self.strength.place = float(np.abs(track["strengths"]).argmin())
        self.sounds.say("")
        self._stand()

    def silence(self) -> None:
        self.strength.tracks, self.metadata.value = [], ""

    def _stand(self) -> None:
        """Show the slider's position as text, and move the ring on the curve there."""
        if not self.strength.tracks:
            return
        curve = self._curves[self._curves["cell"] == self._shown].sort_values("strength")
        strengths = self.strength.tracks[0]["strengths"]
        strength = float(np.interp(self.strength.place, range(len(strengths)), strengths))
        score, distance = (float(np.interp(strength, curve["strength"], curve[name])) for name in ("score", "distance"))
        self._place = {"now_distance": distance * float(np.sign(strength)), "now_score": score}
        for name, value in self._place.items():
            self.chart.params.set_trait(name, value)
        count = self.sweep.table["prompt"].nunique()
        self.metadata.value = noted(
            minus(f"Strength {strength:+.2f}: score {score:+.2f} at distance {distance:.3f}, mean over {count} prompts.")
        )

    def still_parts(self) -> dict[str, Any]:
        clips = []
        if self.strength.tracks:
            track = self.strength.tracks[0]
            for number in dict.fromkeys((0, int(np.abs(track["strengths"]).argmin()), len(track["sounds"]) - 1)):
                name, said = minus(f"strength {track['strengths'][number]:+.2f}"), track["captions"][number]
                clips.append({"name": name, "caption": said, "seconds": track["seconds"], **track["sounds"][number]})
        text = f"{label_of(self._shown)}; {self.prompt.label}"
        return {"chart": set_params(self._picture, **self._place), "clips": clips, "text": text}

    def __repr__(self) -> str:
        return f"SteeringExplorer({self.way.value}, {self.prompt.label!r})\n{self.sweep!r}"
