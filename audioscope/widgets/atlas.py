"""An interactive atlas: select a cell and hear it clean, corrupted and patched; missing clips are generated on demand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ipywidgets as widgets
import pandas as pd
from markupsafe import Markup

from audioscope.atlas.atlas import Atlas
from audioscope.atlas.charts import heatmap, screen_heatmap
from audioscope.atlas.localization import patched_row
from audioscope.atlas.screening import check_screen, screen_pair
from audioscope.audio import Clip
from audioscope.model import Model
from audioscope.pages.atlas_data import ROLES, name_of
from audioscope.scoring.scorers import default_scorer
from audioscope.sites import Site, labels_of
from audioscope.theme import reading
from audioscope.tracing import Row, Sampling
from audioscope.widgets.base import (
    FLOW,
    PATIENCE,
    Explorer,
    ListenerCaption,
    heard,
    labelled,
    live_chart,
    live_clips,
    marked,
    model_like,
    noted,
    set_params,
    unknown_said,
)
from audioscope.widgets.live import Step

UNSEEN = 0.2  # of the way: an estimate that is wrong by more than this misleads


class AtlasExplorer(Explorer):
    """What `Atlas.explore` returns. From Python, set the menus `concept`, `site`, `pair` and the prompts `clean`, `corrupted`.

    The button `open` shows which heads of the selected layer act in which steps, for these prompts, as estimated by gradients.
    """

    def __init__(self, atlas: Atlas, model: Model | None = None):
        super().__init__()
        self.atlas, self.title = atlas, f"Atlas of {name_of(atlas.settings)}"
        self.model = model_like(atlas.settings.get("fingerprint"), model, "The atlas")
        self._ear = ListenerCaption(self.model)
        self.impacts = atlas.impacts()
        self._examples = atlas.examples().set_index("concept") if "row" in atlas.table else pd.DataFrame()
        direction = atlas.settings.get("direction", "sufficient")
        self._picture = heatmap(self.impacts, atlas.layer_means(), self.title, direction, pick=True)
        defined = self.impacts[self.impacts["defined"]]
        first = self.impacts.loc[defined["impact"].idxmax() if len(defined) else self.impacts.index[0]]
        best = str(first["concept"]), str(first["site"])
        self.chart = live_chart(self._now(*best))
        self.concept = labelled(widgets.Dropdown, "Concept", "220px", options=atlas.concepts, value=best[0])
        layers = [(f"{label}: {path}", path) for path, label in labels_of(atlas.sites).items()]
        self.site = labelled(widgets.Dropdown, "Layer", "480px", options=layers, value=best[1])
        self.pair = labelled(widgets.Dropdown, "Pair", "150px", options=[])
        self.clean = labelled(widgets.Text, "Clean prompt", "98%", continuous_update=False)
        self.corrupted = labelled(widgets.Text, "Corrupted prompt", "98%", continuous_update=False)
        self.metadata = widgets.HTML()
        self.sounds.label = "clean, corrupted and patched"
        wide = widgets.Box([self.chart], layout=widgets.Layout(overflow="auto"))
        menus = widgets.HBox([self.concept, self.site, self.pair], layout=FLOW)
        self.open = widgets.Button(description="Open this layer", tooltip="Its heads by denoising steps, estimated by gradients")
        self.open.on_click(lambda _: self._open())
        self.inside = widgets.Box(layout=widgets.Layout(overflow="auto"))
        self.children = (wide, menus, self.metadata, self.clean, self.corrupted, self.sounds, self.open, self.inside)
        self._kept = ("", "")  # the prompts of the selected pair
        self._chosen()
        self.live.wait(PATIENCE)
        self.chart.selections.observe(self._picked, "picked")
        self.on(self._chosen, self.concept)
        self.on(self._paired, self.pair)
        self.on(self._hear, self.site, self.clean, self.corrupted)

    def _now(self, concept: str, site: str) -> Any:
        """The heatmap with a selected cell."""
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
        """The pairs and seeds of the selected concept, with their prompts."""
        if "row" not in self.atlas.table:
            return pd.DataFrame()
        table = self.atlas.table
        rows = table[(table["concept"] == self.concept.value) & (table["scored"] == self.concept.value)]
        return rows.drop_duplicates(["pair", "seed"]).reset_index(drop=True)

    def _chosen(self) -> None:
        """Another concept was selected: list its pairs, and select the example."""
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
        """Another pair was selected: show its prompts."""
        if self.pair.value is not None:
            unit = self._units().set_index(["pair", "seed"]).loc[self.pair.value]
            self._kept = str(unit["clean_prompt"]), str(unit["corrupted_prompt"])
            with self.together():
                self.clean.value, self.corrupted.value = self._kept
        self._hear()

    def _hear(self) -> None:
        """Show the selected clips: from files if they were kept; otherwise, and for other prompts, generated now."""
        concept, site = self.concept.value, next(s for s in self.atlas.sites if s.path == self.site.value)
        self.inside.children = ()  # it was of another cell
        self.chart.params.set_trait("chosen_concept", concept)
        self.chart.params.set_trait("chosen_site", site.path)
        clean, corrupted = self.clean.value.strip(), self.corrupted.value.strip()
        self.metadata.value = noted(self._metadata(concept, site.path, clean, corrupted))
        if self.pair.value is None:
            return self._nothing("Published as numbers only: there are no clips.")
        unit = {"clean": clean, "corrupted": corrupted, "seed": self.pair.value[1]}
        files = self._files(site.path) if (clean, corrupted) == self._kept else []
        if not files and self.model is None:
            return self._nothing("These clips were not kept: to generate them, pass the model, atlas.explore(model).")
        return self.ask(lambda step: self._made(concept, site, unit, files, step), self._show, another=True)

    def _open(self) -> None:
        """Estimate which heads of the selected layer act in which steps, for the prompts that are heard."""
        model, concept, path = self.model, self.concept.value, self.site.value
        if model is None or self.pair.value is None:
            return self.sounds.say("To open a layer, pass the model to an atlas with clips: atlas.explore(model).")
        prompts, seed = (self.clean.value.strip(), self.corrupted.value.strip()), self.pair.value[1]
        heads, how = model.sites[path].heads, Sampling.of(self.atlas.settings)
        if not heads:
            return self.sounds.say(f"{path} has no heads.")

        def made(step: Step) -> pd.DataFrame:
            scorer = default_scorer(model)
            if concept not in scorer.concepts or not hasattr(scorer, "scores"):
                raise ValueError(f"No gradient reaches the score of {concept!r} by the {scorer.name}.")
            given_both(prompts)
            check_screen(model, heads, scorer, how)
            step(0.1)
            return screen_pair(model, heads, concept, *prompts, seed, scorer, how)

        def shown(cells: pd.DataFrame) -> None:
            chart = screen_heatmap(cells, concept)
            self.inside.children = (live_chart(chart, "canvas"),)
            estimated, exact = float(cells["impact"].sum()), float(cells["together"].iloc[0])
            self.sounds.say(
                f"{chart.to_dict()['description']} Estimated for these prompts: the estimates add up to {estimated:.2f}, and all heads "
                f"together bring {exact:.2f}."
                + (" Gradients do not see what acts like a switch: patch the heads." if abs(exact - estimated) > UNSEEN else "")
            )

        return self.ask(made, shown)

    def _metadata(self, concept: str, site: str, clean: str, corrupted: str) -> Markup:
        """What the atlas says about a cell, and the two prompts with the swapped words marked."""
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
        """The files of the selected cell and pair: clean, corrupted and patched; none unless all of them exist."""
        table, (pair, seed) = self.atlas.table, self.pair.value
        mine = (table["concept"] == self.concept.value) & (table["scored"] == self.concept.value)
        rows = table[mine & (table["pair"] == pair) & (table["seed"] == seed)]
        kept = rows[(rows["row"] != "patched") | (rows["site"] == site)].set_index("row")["clip"].astype(str)
        files = [self.atlas.folder / kept[name] for name in ("clean", "corrupted", "patched") if kept.get(name)]
        return files if len(files) == 3 and all(file.is_file() for file in files) else []

    def _made(
        self, concept: str, site: Site, unit: dict[str, Any], files: list[Path], step: Step
    ) -> tuple[list[dict[str, Any]], str]:
        """The three clips of a cell, and the message about them."""
        settings, prompts = self.atlas.settings, (unit["clean"], unit["corrupted"])
        if files:
            clips = [Clip.load(file) for file in files]
        else:
            assert self.model is not None
            given_both(prompts)
            rows = [*(Row(prompt, unit["seed"]) for prompt in prompts), patched_row(settings, unit, site)]
            clips = live_clips(self.model, rows, Sampling.of(settings), step)
        texts = (*prompts, ROLES[settings["patch"], settings["direction"]])
        scores = self._ear(clips, (concept,))
        captions = [f"{text}. {score}" if score else text for text, score in zip(texts, scores, strict=True)]
        label = labels_of(self.atlas.sites)[site.path]
        names = ("clean", "corrupted", f"patched at layer {label}")
        sounds = [heard(*each) for each in zip(clips, names, captions, strict=True)]
        unknown = unknown_said(self.model, " ".join(prompts)) if self.model else ""
        return sounds, f"{concept} at layer {label}. {unknown}".strip()  # for users of screen readers

    def still_parts(self) -> dict[str, Any]:
        where = f"{self.concept.value} at {self.site.value}"
        return {"chart": self._now(self.concept.value, self.site.value), "text": f"Selected: {where}."}

    def __repr__(self) -> str:
        return f"AtlasExplorer({name_of(self.atlas.settings)}: {self.concept.value} at {self.site.value})\n{self.atlas!r}"


def given_both(prompts: tuple[str, str]) -> None:
    """Raise ValueError if the clean or the corrupted prompt is empty."""
    for name, prompt in zip(("clean", "corrupted"), prompts, strict=True):
        if not prompt:
            raise ValueError(f"The {name} prompt is empty.")
