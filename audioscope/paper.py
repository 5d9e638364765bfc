"""The atlas that the paper published (TADA, arXiv 2602.11910), in the shape of our own."""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import Any, Literal

import numpy as np
import pandas as pd

from audioscope.atlas import Atlas, Scale
from audioscope.concepts import shipped_groups
from audioscope.errors import UnknownName
from audioscope.paths import data_folder
from audioscope.sites import Site

Published = Literal["ace-step", "audioldm2-large", "stable-audio-open"]
NAMES: dict[Published, str] = {"ace-step": "ace", "audioldm2-large": "audioldm2", "stable-audio-open": "stableaudio"}
STAGES = {"down": "down_blocks.", "mid": "mid_block", "up": "up_blocks."}
WIDTHS = {
    "ace": 2560,
    "stableaudio": 1536,
    "down1": 256,
    "down2": 384,
    "down3": 640,
    "mid": 640,
    "up0": 640,
    "up1": 384,
    "up2": 256,
}


class PublishedAtlas(Atlas):
    """An atlas of which only the impacts are known: floored at 0, without intervals, controls or clips."""

    def impacts(self, scale: Scale = "score") -> pd.DataFrame:
        """One row per concept and site, as `Atlas.impacts`, with what was not published as NaN.

        metric: the score it was computed from. coarse: the number was measured for several sites together.
        """
        if scale != "score":
            raise ValueError(f"scale is {scale!r}, but the paper published impacts of raw scores alone: expected 'score'.")
        return self.table.copy()

    def layer_means(self, scale: Scale = "score") -> pd.DataFrame:
        """One row per site, as `Atlas.layer_means`. Functional by mean impact alone, since no intervals were published."""
        means = self.impacts(scale).groupby(["site", "layer"], sort=False)["impact"].mean().reset_index()
        unknown = dict.fromkeys(("low", "high", "control"), np.nan)
        return means.assign(**unknown, threshold=self.threshold, functional=means["impact"] >= self.threshold)

    def own_layers(self, concept: str, scale: Scale = "score") -> list[str]:
        """Module paths of one concept's own layers, by its impacts alone."""
        self.check_concept(concept)
        rows = self.impacts(scale).query("concept == @concept and impact >= @self.threshold")
        return rows["site"].tolist()

    def examples(self) -> pd.DataFrame:
        """Empty: no clips were published with these numbers."""
        return pd.DataFrame(columns=["concept", "site", "layer", "impact"])

    def __repr__(self) -> str:
        means = self.layer_means().query("functional")
        layers = ", ".join(f"{r.layer} ({r.impact:.2f})" for r in means.itertuples())
        coarse = int(self.table.drop_duplicates("site")["coarse"].sum())
        return (
            f"Atlas({self.settings['model']}, published by TADA, arXiv 2602.11910: {len(self.concepts)} concepts x "
            f"{len(self.sites)} sites)\n  functional layers: {layers}\n  no intervals and no controls were published; impacts are "
            "floored at 0" + (f"; {coarse} sites were measured with others together" if coarse else "")
        )


def published(name: Published) -> PublishedAtlas:
    """The paper's impacts for a model that it studied, to chart and compare with one's own.

    "ace-step" is ACE-Step v1 3.5B, not the 1.5 that diffusers has. Raises UnknownName (a KeyError) for another name.
    """
    if name not in NAMES:
        raise UnknownName(f"The paper published no atlas of {name!r}. There are: {', '.join(NAMES)}.")
    model, groups = NAMES[name], shipped_groups()
    rows = pd.read_csv(data_folder() / "published" / "tada_localization.csv").query("model == @model")
    cells = rows[["block", "attn"]].drop_duplicates()
    sites = {(b, a): _site(model, b, a, layer) for layer, (b, a) in enumerate(cells.itertuples(index=False))}
    here = [sites[cell] for cell in rows[["block", "attn"]].itertuples(index=False, name=None)]
    unknown = dict.fromkeys(
        ("low", "high", "numerator", "denominator", "denominator_low", "denominator_high", "control", "pairs"), np.nan
    )
    table = pd.DataFrame(
        {
            "concept": rows["concept"].to_numpy(),
            "group": [groups[c] for c in rows["concept"]],
            "site": [s.path for s in here],
            "layer": [s.layer for s in here],
            "impact": rows["impact"].to_numpy(),
            **unknown,
            "defined": True,
            "metric": rows["metric"].to_numpy(),
            # outside up1, every site of a stage repeats one number; in up1tf1 and up1tf6 the two attentions share theirs
            "coarse": [model == "audioldm2" and (b[:3] != "up1" or b in ("up1tf1", "up1tf6")) for b in rows["block"]],
        }
    ).sort_values(["group", "concept", "layer"], kind="stable", ignore_index=True)
    names = list(dict.fromkeys(table["concept"]))
    settings: dict[str, Any] = {
        "model": name, "patch": "text", "sites": [asdict(site) for site in sites.values()], "concepts": names, "pairs": None,
        "groups": {c: {"group": groups[c], "changes": [groups[c]]} for c in names}, "direction": "sufficient", "swaps_all_text": True, "units": "similarity",
        "source": "arXiv 2602.11910, luk-st/steer-audio results/localization_impact.csv (MIT)",
    }  # fmt: skip
    return PublishedAtlas(table, settings, data_folder() / "published")


def _site(model: str, block: str, attn: int, layer: int) -> Site:
    """The site of a row: its path in the pipeline that the paper ran."""
    if model == "ace":
        return Site(f"ace_step_transformer.transformer_blocks.{block[2:]}.cross_attn", "cross", layer, WIDTHS[model])
    if model == "stableaudio":
        return Site(f"transformer.transformer_blocks.{block[2:]}.attn2", "cross", layer, WIDTHS[model])
    found = re.fullmatch(r"(down|mid|up)(\d*)tf(\d+)", block)
    assert found, block
    stage, index, number = found.groups()
    path = f"unet.{STAGES[stage]}{index}.attentions.{number}.transformer_blocks.{attn}.attn2"
    return Site(path, "cross", layer, WIDTHS[stage + index], "gpt2" if int(number) % 4 == 1 else "t5")
