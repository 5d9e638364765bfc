"""The atlas under your hand: choose a cell and hear it clean, corrupted and patched; what was not kept is made while you wait."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import pandas as pd
from markupsafe import Markup

from audioscope.atlas import Atlas
from audioscope.atlas_charts import heatmap
from audioscope.atlas_data import ROLES, name_of
from audioscope.audio import Clip
from audioscope.charts import reading
from audioscope.extras import shipped_fingerprint
from audioscope.live import Step
from audioscope.model import Model, load
from audioscope.patching import patched_row
from audioscope.playground import Ear, live_clips, unknown_said
from audioscope.sites import Site
from audioscope.tracing import Row
from audioscope.widgets import FLOW, Explorer, heard, labelled, live_chart, marked, noted, set_params

PATIENCE = 10.0  # s that a new explorer waits for its first sound before it is shown with a progress bar; `wait()` waits for it


@lru_cache(maxsize=1)
def shipped_model() -> Model:
    """The model `tiny`, loaded once for all explorers that were given none."""
    return load("tiny")


def model_like(fingerprint: str | None, model: Model | None, what: str) -> Model | None:
    """The model that made something: the one given, else the shipped `tiny`, if it is that. Raises ValueError for other weights."""
    if model is None:
        return shipped_model() if fingerprint == shipped_fingerprint() else None
    model.check_unsteered("a widget")
    if model.fingerprint != fingerprint:
        raise ValueError(
            f"{what} is of weights {fingerprint}, not of {model.name!r} ({model.fingerprint}): give the model that it was made with."
        )
    return model


class AtlasExplorer(Explorer):
    """What `Atlas.explore` gives. Choose from Python by `concept`, `site` and `pair`, the menus; type into `clean` and `corrupted`."""

    def __init__(self, atlas: Atlas, model: Model | None = None):
        super().__init__()
        self.atlas, self.title = atlas, f"Atlas of {name_of(atlas.settings)}"
        self.model = model_like(atlas.settings.get("fingerprint"), model, "The atlas")
        self._ear = Ear(self.model) if self.model else None
        self.impacts = atlas.impacts()
        self._examples = atlas.examples().set_index("concept") if "row" in atlas.table else pd.DataFrame()
        direction = atlas.settings.get("direction", "sufficient")
        self._picture = heatmap(self.impacts, atlas.layer_means(), self.title, direction, pick=True)
        defined = self.impacts[self.impacts["defined"]]
        first = self.impacts.loc[defined["impact"].idxmax() if len(defined) else self.impacts.index[0]]
        best = str(first["concept"]), str(first["site"])
        self.chart = live_chart(self._now(*best))
        self.concept = labelled(widgets.Dropdown, "Concept", "220px", options=atlas.concepts, value=best[0])
        layers = [(f"{site.layer}: {site.path}", site.path) for site in atlas.sites]
        self.site = labelled(widgets.Dropdown, "Layer", "480px", options=layers, value=best[1])
        self.pair = labelled(widgets.Dropdown, "Pair", "150px", options=[])
        self.clean = labelled(widgets.Text, "Clean prompt", "98%", continuous_update=False)
        self.corrupted = labelled(widgets.Text, "Corrupted prompt", "98%", continuous_update=False)
        self.facts = widgets.HTML()
        self.sounds.label = "clean, corrupted and patched"
        wide = widgets.Box([self.chart], layout=widgets.Layout(overflow="auto"))
        menus = widgets.HBox([self.concept, self.site, self.pair], layout=FLOW)
        self.children = (wide, menus, self.facts, self.clean, self.corrupted, self.sounds)
        self._kept = ("", "")  # the prompts of the chosen pair
        self._chosen()
        self.live.wait(PATIENCE)
        self.chart.selections.observe(self._picked, "picked")
        self.concept.observe(self._chosen, "value")
        self.site.observe(lambda change: self._hear(), "value")
        self.pair.observe(lambda change: self._paired(), "value")
        for text in (self.clean, self.corrupted):
            text.observe(lambda change: self._hear(), "value")

    def _now(self, concept: str, site: str) -> Any:
        """The heatmap with a chosen cell."""
        return set_params(self._picture, chosen_concept=concept, chosen_site=site)

    def _picked(self, change: Any) -> None:
        """A click in the heatmap."""
        if change["new"].value and (cell := change["new"].value[0]):
            with self.together():
                self.site.value = cell["site"]
            if cell["concept"] == self.concept.value:  # the pair and the prompts stay
                self._hear()
            else:
                self.concept.value = cell["concept"]

    def _units(self) -> pd.DataFrame:
        """The pairs and seeds of the chosen concept, with their prompts."""
        if "row" not in self.atlas.table:
            return pd.DataFrame()
        table = self.atlas.table
        rows = table[(table["concept"] == self.concept.value) & (table["scored"] == self.concept.value)]
        return rows.drop_duplicates(["pair", "seed"]).reset_index(drop=True)

    def _chosen(self, change: Any = None) -> None:
        """Another concept: its pairs, of which the example comes first."""
        if self._quiet:
            return
        units = self._units()
        with self.together():
            self.pair.options = [(f"{row.pair}, seed {row.seed}", (int(row.pair), int(row.seed))) for row in units.itertuples()]
            if self.concept.value in self._examples.index:
                example = self._examples.loc[self.concept.value]
                self.pair.value = (int(example["pair"]), int(example["seed"]))
            elif len(units):
                self.pair.index = 0
        self._paired()

    def _paired(self) -> None:
        """Another pair: its prompts."""
        if self._quiet:
            return
        if self.pair.value is not None:
            units = self._units()
            pair, seed = self.pair.value
            unit = units[(units["pair"] == pair) & (units["seed"] == seed)].iloc[0]
            self._kept = str(unit["clean_prompt"]), str(unit["corrupted_prompt"])
            with self.together():
                self.clean.value, self.corrupted.value = self._kept
        self._hear()

    def _hear(self) -> None:
        """Show and make heard what is chosen: from files where it was kept, else, and for prompts of one's own, made now."""
        if self._quiet:
            return
        concept, site = self.concept.value, next(s for s in self.atlas.sites if s.path == self.site.value)
        self.chart.params.set_trait("chosen_concept", concept)
        self.chart.params.set_trait("chosen_site", site.path)
        clean, corrupted = self.clean.value.strip(), self.corrupted.value.strip()
        self.facts.value = noted(self._facts(concept, site.path, clean, corrupted))
        if self.pair.value is None:
            return self._nothing("Published as numbers: there are no clips of it.")
        unit = {"clean": clean, "corrupted": corrupted, "seed": self.pair.value[1]}
        files = self._files(site.path) if (clean, corrupted) == self._kept else []
        if not files and self.model is None:
            return self._nothing("These clips were not kept: give the model, atlas.explore(model), to make them now.")
        return self.ask(lambda step: self._made(concept, site, unit, files, step), self._show, another=True)

    def _facts(self, concept: str, site: str, clean: str, corrupted: str) -> Markup:
        """What the atlas says of a cell, and the two prompts with what was swapped."""
        row = self.impacts[(self.impacts["concept"] == concept) & (self.impacts["site"] == site)].iloc[0]
        impact = reading(row["impact"] if row["defined"] else float("nan"), row["low"], row["high"])
        control = "" if pd.isna(row["control"]) else f", control {row['control']:.2f}"
        text = Markup("<p><b>{}</b> in layer {}: impact <b>{}</b>{} <span class='quiet'>{}</span></p>")
        text = text.format(concept, row["layer"], impact, control, site)
        if clean:
            both = marked(clean, corrupted), marked(corrupted, clean)
            text += Markup("<p class='quiet'>clean: {}<br>corrupted: {}</p>").format(*both)
        return text

    def _nothing(self, why: str) -> None:
        self.live.cancel()
        self.silence()
        self.sounds.say(why)

    def _files(self, site: str) -> list[Path]:
        """The files of the chosen cell and pair, clean, corrupted and patched; none where they are not all there."""
        table, (pair, seed) = self.atlas.table, self.pair.value
        mine = (table["concept"] == self.concept.value) & (table["scored"] == self.concept.value)
        rows = table[mine & (table["pair"] == pair) & (table["seed"] == seed)]
        kept = rows[(rows["row"] != "patched") | (rows["site"] == site)].set_index("row")["clip"].astype(str)
        files = [self.atlas.folder / kept[name] for name in ("clean", "corrupted", "patched") if kept.get(name)]
        return files if len(files) == 3 and all(file.is_file() for file in files) else []

    def _made(
        self, concept: str, site: Site, unit: dict[str, Any], files: list[Path], step: Step
    ) -> tuple[list[dict[str, Any]], str]:
        """The three clips of a cell, and what is to be said of them."""
        settings, prompts = self.atlas.settings, (unit["clean"], unit["corrupted"])
        if files:
            clips = [Clip.load(file) for file in files]
        else:
            assert self.model is not None
            for name, prompt in zip(("clean", "corrupted"), prompts, strict=True):
                if not prompt:
                    raise ValueError(f"The {name} prompt is empty.")
            rows = [*(Row(prompt, unit["seed"]) for prompt in prompts), patched_row(settings, unit, site)]
            run: dict[str, Any] = {
                name: settings[name] for name in ("steps", "guidance", "seconds", "negative_prompt") if name in settings
            }
            clips = live_clips(self.model, rows, run, step)
        scores = self._ear(clips, (concept,)) if self._ear else [""] * 3
        texts = (*prompts, ROLES[settings["patch"], settings["direction"]])
        captions = [f"{text}. {score}" if score else text for text, score in zip(texts, scores, strict=True)]
        names = ("clean", "corrupted", f"patched at layer {site.layer}")
        sounds = [heard(*each) for each in zip(clips, names, captions, strict=True)]
        unknown = unknown_said(self.model, " ".join(prompts)) if self.model else ""
        return sounds, f"{concept} at layer {site.layer}. {unknown}".strip()  # for those who hear the page

    def _show(self, made: tuple[list[dict[str, Any]], str]) -> None:
        sounds, said = made
        # who listens to one of the three goes on with it in the next cell
        self.sounds.show(sounds, self.sounds.version if self.sounds.sounds else 2)
        self.sounds.say(said)

    def still_parts(self) -> dict[str, Any]:
        where = f"{self.concept.value} at {self.site.value}"
        return {"chart": self._now(self.concept.value, self.site.value), "text": f"Chosen: {where}.", "clips": self.sounds.sounds}

    def __repr__(self) -> str:
        return f"AtlasExplorer({name_of(self.atlas.settings)}: {self.concept.value} at {self.site.value})\n{self.atlas!r}"
