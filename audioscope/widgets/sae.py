"""The features of an SAE, interactive: search them, hear where one fires, and turn it up or down while the model answers."""

from __future__ import annotations

from functools import partial
from typing import Any

import ipywidgets as widgets
import numpy as np
import pandas as pd
import torch

from audioscope.audio import Clip
from audioscope.concepts import some_prompts
from audioscope.model import Model
from audioscope.pages.features import FeatureClips, best_concepts, feature_clips, figure
from audioscope.sae.charts import features_chart
from audioscope.sae.features import sampling_like
from audioscope.sae.sae import SAE, Do, SAEEdit
from audioscope.tracing import Row
from audioscope.widgets.base import (
    FLOW,
    PATIENCE,
    Explorer,
    ListenerCaption,
    Sounds,
    heard,
    labelled,
    live_chart,
    live_clips,
    model_like,
    noted,
    set_params,
    unknown_said,
)
from audioscope.widgets.live import Step

SEARCHED = 32  # prompts whose clips are searched
BATCH = 16  # prompts per batch
CLIPS = 3  # shown per feature
TARGET = "Target (× max activation)"
LARGEST = 4.0  # × max activation: the limit of the slider that sets a feature
LARGEST_SCALE = 8.0


class SAEExplorer(Explorer):
    """What `SAE.explore` returns. From Python, set `feature` or search with `words`; `prompt`, `do` and `amount` change it."""

    def __init__(self, sae: SAE, model: Model | None = None):
        super().__init__()
        self.sae, self.title = sae, f"Features of {sae.metadata.get('site', 'an SAE')}"
        self.model = model_like(sae.metadata.get("fingerprint"), model, "The SAE")
        self._ear = ListenerCaption(self.model)
        self._parts: list[FeatureClips] = []  # the clips that are searched for features, as far as they were generated
        self._shown: int | None = None  # the feature whose clips are shown
        self._given = ""  # the prompt that we filled in; any other was typed
        self._table = feature_table(sae)
        self._picture = features_chart(self._table)
        self.chart = live_chart(self._now(int(self._table["feature"].iloc[0])))
        self.words = labelled(widgets.Text, "Search", "320px", placeholder="concept or feature number", continuous_update=True)
        self.feature = widgets.Select(description="Feature", rows=9, layout=widgets.Layout(width="320px"))
        self.metadata = widgets.HTML()
        self.prompt = labelled(widgets.Text, "Prompt", "98%", continuous_update=False)
        self.seed = labelled(widgets.BoundedIntText, "Seed", "150px", min=0, max=2**31 - 1)
        actions = [("set everywhere", "set"), ("scale where it fires", "scale")]
        self.do = labelled(widgets.Dropdown, "Action", "240px", options=actions)
        self.amount = labelled(widgets.FloatSlider, TARGET, "98%", value=2.0, min=0.0, max=LARGEST, step=0.25)
        self.fires = Sounds(label="clips in which the feature fires")
        self.sounds.label = "unchanged, and with the feature changed"
        self.children = (
            widgets.HBox([self.chart, widgets.VBox([self.words, self.feature])], layout=FLOW), self.metadata, self.fires,
            self.prompt, widgets.HBox([self.seed, self.do], layout=FLOW), self.amount, self.sounds,
        )  # fmt: skip
        self._search()
        self._chosen()
        self.live.wait(PATIENCE)
        self.chart.selections.observe(self._picked, "picked")
        self.on(self._search, self.words)
        self.on(self._chosen, self.feature)
        self.on(self._ranged, self.do)
        self.on(self._turned, self.prompt, self.seed, self.amount)

    def _now(self, feature: int | None) -> Any:
        """The chart with a selected feature."""
        return set_params(self._picture, chosen_feature=-1 if feature is None else int(feature))

    def _search(self) -> None:
        """Keep the features in the list that match every word."""
        words = self.words.value.lower().split()
        texts = {
            row.feature: f"{row.feature}: {row.concept} {row.auroc:.2f}" if row.concept else f"{row.feature}"
            for row in self._table.itertuples()
        }
        found = [(text, feature) for feature, text in texts.items() if all(word in text.lower() for word in words)]
        kept = [feature for _, feature in found]
        before = self.feature.value
        if before in kept:  # the current clips stay
            with self.together():
                self.feature.options, self.feature.value = found, before
        else:
            self.feature.options = found
            self.feature.value = kept[0] if kept else None

    def _picked(self, change: Any) -> None:
        """A click in the chart."""
        if change["new"].value:
            self.words.value = ""
            self.feature.value = int(change["new"].value[0]["feature"])

    def _chosen(self) -> None:
        """Another feature was selected: show where it fires, and change it in a clip in which it does not."""
        if self.feature.value is None:
            return
        number = int(self.feature.value)
        self.chart.params.set_trait("chosen_feature", number)
        row = self._table.set_index("feature").loc[number]
        best = f"{row['concept']} best (AUROC {row['auroc']:.2f})" if row["concept"] else "none of the scored concepts"
        often = "" if pd.isna(row["density"]) else f"; active at {row['density']:.2%} of held-out tokens"
        self.metadata.value = noted(f"Feature {number} detects {best}{often}.")
        if self.model is None:
            return self.sounds.say("To hear the features, pass the model, sae.explore(model).")
        self.fires.show([])
        self._shown, turn = None, self._change()
        self.ask(lambda step: self._both(number, turn, step), self._show_both, another=True)

    def _change(self) -> tuple[Do, float]:
        return self.do.value, float(self.amount.value)

    def _both(self, number: int, change: tuple[Do, float], step: Step) -> Any:
        """Where a feature fires; and the feature changed in the typed prompt, or else in a clip in which it does not fire."""
        # read in the thread that sets both, since another could see one of them set before the other
        typed = (self.prompt.value.strip(), int(self.seed.value)) if self.prompt.value != self._given else None
        found = self._searched(step)
        top = found.top(number, CLIPS)
        strongest = float(found.active[:, :, number].max())
        drawn = [figure(found.clips[i], found.active[i, :, number], strongest, found.clips[i].prompt, "") for i in top]
        fires = [{"name": each["title"], "caption": each["said"], **each} for each in drawn]
        quiet = found.clips[int(found.active[:, :, number].mean(1).argmin())]
        prompt, seed = typed or (quiet.prompt, quiet.seed or 0)
        return number, fires, None if typed else quiet, self._turn(number, prompt, seed, change, step)

    def _show_both(self, made: Any) -> None:
        number, fires, quiet, turned = made
        self.fires.show(fires)
        self.fires.say("" if fires else f"Feature {number} fires in none of the {SEARCHED} searched clips.")
        if quiet is not None:
            with self.together():
                self._given = self.prompt.value = quiet.prompt
                self.seed.value = quiet.seed or 0
        self._shown = number  # last, since it marks prompt and seed as this feature's
        self._show(turned)

    def _ranged(self) -> None:
        """The action determines what the slider means."""
        scale = self.do.value == "scale"
        with self.together():
            self.amount.description = "Factor" if scale else TARGET
            self.amount.max = LARGEST_SCALE if scale else LARGEST
        self._turned()

    def _turned(self) -> None:
        if self.model is None or self.feature.value is None:
            return
        if self._shown != self.feature.value:  # the search for where this one fires is still running
            return self._chosen()
        wish = int(self.feature.value), self.prompt.value.strip(), int(self.seed.value), self._change()
        return self.ask(partial(self._turn, *wish), self._show)

    def _turn(
        self, number: int, prompt: str, seed: int, change: tuple[Do, float], step: Step
    ) -> tuple[list[dict[str, Any]], str]:
        """The clip unchanged and with the feature changed, and the message about them."""
        assert self.model is not None
        if not prompt:
            raise ValueError("The prompt is empty.")
        do, amount = change
        value = amount if do == "scale" else amount * float(self._searched(step).active[:, :, number].max())
        settings = sampling_like(self.model, [self.sae], {})
        rows = [Row(prompt, seed), Row(prompt, seed, (SAEEdit(self.sae, (number,), do, value),))]
        clips = live_clips(self.model, rows, settings, step)
        names = ["unchanged", f"feature {number} {'scaled by' if do == 'scale' else 'set to'} {value:.2g}"]
        concept = str(self._table.set_index("feature").loc[number, "concept"])
        sounds = [heard(*each) for each in zip(clips, names, self._ear(clips, (concept,)), strict=True)]
        said = [unknown_said(self.model, prompt)]
        if do == "set" and amount and not value:
            said.append("It fires in none of the searched clips, so there is no activation to set it to.")
        if not self.sae.report.get("passes", False):
            said.append("This SAE does not pass its evaluation: its features may not mean what they seem to.")
        return sounds, " ".join(filter(None, said))

    def _searched(self, step: Step) -> FeatureClips:
        """The clips that are searched for features, generated once; an interrupted search resumes where it stopped."""
        assert self.model is not None
        prompts, steps = some_prompts(SEARCHED), sampling_like(self.model, [self.sae], {})["steps"]
        for start in range(BATCH * len(self._parts), SEARCHED, BATCH):

            def on_step(number: int, start: int = start) -> None:
                step((start + BATCH * number / steps) / SEARCHED)

            some, seeds = prompts[start : start + BATCH], range(start, start + BATCH)
            self._parts.append(feature_clips(self.sae, self.model, some, seeds=seeds, progress=False, on_step=on_step))
        clips: list[Clip] = [clip for part in self._parts for clip in part.clips]
        return FeatureClips(clips, torch.cat([part.active for part in self._parts]), self._parts[0].sampling)

    def still_parts(self) -> dict[str, Any]:
        text = f"Feature {self.feature.value}: where it fires, then a clip unchanged and with the feature changed."
        return {"chart": self._now(self.feature.value), "text": text, "clips": [*self.fires.sounds, *self.sounds.sounds]}

    def __repr__(self) -> str:
        return f"SAEExplorer(feature {self.feature.value} of {self.sae!r})"


def feature_table(sae: SAE) -> pd.DataFrame:
    """One row per feature: feature, concept that it detects best ("" for none), auroc, density; the highest auroc first."""
    best = best_concepts(sae)
    density = np.asarray(sae.report.get("density", [np.nan] * sae.d_sae), float)
    table = pd.DataFrame({"feature": range(sae.d_sae), "density": density})
    table["concept"] = table["feature"].map(best["concept"]).fillna("")
    table["auroc"] = table["feature"].map(best["auroc"]).astype(float)
    return table.sort_values(["auroc", "feature"], ascending=[False, True], na_position="last", ignore_index=True)
