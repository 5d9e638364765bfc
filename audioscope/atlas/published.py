"""Atlases that others published, in the format of our own: the paper's (TADA, arXiv 2602.11910) and a replication of it."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from audioscope.atlas.atlas import Atlas, Scale
from audioscope.concepts import shipped_groups
from audioscope.errors import all_of, among, known_name, said
from audioscope.sites import Site
from audioscope.store import data_folder

Published = Literal["ace-step", "audioldm2-large", "stable-audio-open", "stable-audio-3"]
NAMES: dict[Published, str] = {  # what their tables call them
    "ace-step": "ace",
    "audioldm2-large": "audioldm2",
    "stable-audio-open": "stableaudio",
    "stable-audio-3": "stable-audio-3-medium",
}
MEANS = "mean over 10 concepts"  # the one concept of an atlas of which only the layer means were published
UNKNOWN = ("low", "high", "numerator", "denominator", "denominator_low", "denominator_high", "control", "pairs", "censored")
PATHS = {  # of cross-attention in each block of a transformer, and its width
    "ace": ("ace_step_transformer.transformer_blocks.{}.cross_attn", 2560),
    "stableaudio": ("transformer.transformer_blocks.{}.attn2", 1536),
    "stable-audio-3-medium": ("transformer.transformer_blocks.{}.cross_attn", 1536),
}
STAGES = {"down": "down_blocks.", "mid": "mid_block", "up": "up_blocks."}  # of AudioLDM2's U-Net
WIDTHS = {"down1": 256, "down2": 384, "down3": 640, "mid": 640, "up0": 640, "up1": 384, "up2": 256}


class PublishedAtlas(Atlas):
    """An atlas of which only the impacts are known: floored at 0, without scores, intervals, controls or clips.

    Get one with `audioscope.datasets.published`. If only the means over concepts were published, the one concept is called "mean
    over 10 concepts". Methods that need scores of clips raise ValueError.

    Args:
        table: One row per concept and site, as `impacts` returns it.
        settings: Which model, sites, concepts and groups the numbers are of, and their source.
        folder: Where the published numbers are stored.

    Example:
        >>> paper = audioscope.datasets.published("ace-step")
        >>> [site.layer for site in paper.sites if site.path in paper.functional]
        [6, 7]
        >>> bool(paper.impacts()["low"].isna().all())  # no intervals were published
        True
    """

    @property
    def only_means(self) -> bool:
        """Whether no impact of a single concept was published."""
        return MEANS in self.concepts

    def impacts(self, scale: Scale | None = None) -> pd.DataFrame:
        """The published impact of each site on each concept, as in `Atlas.impacts`, with NaN for what was not published.

        Args:
            scale: "raw" or None.

        Returns:
            A table with one row per concept and site, with the columns of `Atlas.impacts`, and metric (the score that the impact
            was computed from) and coarse (whether it was measured for several sites together).

        Raises:
            ValueError: The scale is not "raw".
        """
        if scale is not None and not among(scale, ("raw",)):
            raise ValueError(f"scale is {said(scale)}, but only impacts of raw scores were published: expected 'raw'.")
        return self.table.copy()

    def layer_means(self, scale: Scale | None = None, without: Collection[str] = ()) -> pd.DataFrame:
        """The mean impact of each layer, as in `Atlas.layer_means`; functional by it alone, since no intervals were published.

        Args:
            scale: "raw" or None.
            without: Concepts to leave out.

        Returns:
            A table with one row per site, with the columns of `Atlas.layer_means`; low, high, all_low, all_high and control are
            NaN.

        Raises:
            ValueError: The scale is not "raw", or `without` has something that is no name.
        """
        every = self.impacts(scale)
        impacts = every[~every["concept"].isin(all_of("without", without, str))]
        means = impacts.groupby(["site", "layer"], sort=False)["impact"].mean().reset_index()
        unknown = dict.fromkeys(("low", "high", "all_low", "all_high", "control"), np.nan)
        return means.assign(**unknown, threshold=self.threshold, functional=means["impact"] >= self.threshold)

    def own_layers(self, concept: str, scale: Scale | None = None) -> list[str]:
        """The layers that carry one concept, by its impacts alone.

        Args:
            concept: The concept's name.
            scale: "raw" or None.

        Returns:
            The module paths of the sites whose impact is at least `threshold`.

        Raises:
            UnknownName: The atlas does not have this concept.
            ValueError: The scale is not "raw".
        """
        self.check_concept(concept)
        rows = self.impacts(scale).query("concept == @concept and impact >= @self.threshold")
        return rows["site"].tolist()

    def additivity(self, scale: Scale | None = None) -> pd.DataFrame:
        """For each concept, the sum of its impacts, as in `Atlas.additivity`.

        The impacts are floored at 0, which makes the sum too large.

        Args:
            scale: "raw" or None.

        Returns:
            A table with one row per concept, with the columns of `Atlas.additivity`. low, high and censored are NaN.

        Raises:
            ValueError: The scale is not "raw".
        """
        total = self.impacts(scale).groupby("concept", sort=False)["impact"].sum()
        unknown = dict.fromkeys(("low", "high", "censored"), np.nan)
        return pd.DataFrame({"sum_of_single": total, **unknown, "all_together": 1.0}).reset_index()

    def examples(self, scale: Scale | None = None) -> pd.DataFrame:
        """An empty table, since no clips were published with these numbers.

        Args:
            scale: Has no effect.

        Returns:
            A table without rows.
        """
        return pd.DataFrame(columns=["concept", "site", "layer", "impact"])

    def chart(self, scale: Scale | None = None) -> Any:
        """The atlas as an Altair chart, which says what was not published.

        Args:
            scale: "raw" or None.

        Returns:
            An Altair chart, as `audioscope.atlas.heatmap` draws it.

        Raises:
            ValueError: The scale is not "raw".
        """
        chart = super().chart(scale)
        if self.only_means:
            note = "Only the means over 10 concepts were published: the row below repeats the bars."
            chart.title["subtitle"] = [*chart.title["subtitle"], note]
        return chart

    def save(self, folder: str | Path, shipped: bool = False) -> Path:
        """Always raises, since there are no clips and no scores to write; write the table of `impacts` with pandas instead.

        Args:
            folder: Has no effect.
            shipped: Has no effect.

        Returns:
            Nothing, since it always raises.

        Raises:
            ValueError: Always.
        """
        raise ValueError(
            f"For {self.settings['model']!r}, no scores were published, so there is no atlas to save: "
            "write .impacts() with pandas."
        )

    @property
    def _scores(self) -> pd.DataFrame:
        raise ValueError(
            f"For {self.settings['model']!r}, only impacts were published: what depends on scores of clips is unknown."
        )

    def share_of_draws(self, scale: Scale | None = None) -> np.ndarray:
        """Unknown for each site, since no pairs were published to draw from.

        Args:
            scale: Has no effect.

        Returns:
            NaN [sites].
        """
        return np.full(len(self.sites), np.nan)

    def __repr__(self) -> str:
        means = self.layer_means().query("functional")
        layers = ", ".join(f"{r.layer} ({r.impact:.2f})" for r in means.itertuples())
        coarse = int(self.table.drop_duplicates("site")["coarse"].sum())
        held, missing = f"{len(self.concepts)} concepts", "no intervals and no controls"
        if self.only_means:
            held, missing = MEANS, f"no impacts of single concepts, {missing}"
        return (
            f"Atlas({self.settings['model']}, published: {held} x {len(self.sites)} sites)\n  functional layers: {layers}\n"
            f"  {missing} were published; impacts are floored at 0"
            + (f"; {coarse} sites were measured together with others" if coarse else "")
            + f"\n  source: {self.settings['source']}"
        )


def published(name: Published) -> PublishedAtlas:
    """Load the published atlas of a large model, to chart it and to compare it with your own.

    The first three are the impacts of the paper (TADA, arXiv 2602.11910); the last is a replication by another group, which
    published layer means only.

    Args:
        name: One of:

            - "ace-step": ACE-Step v1 3.5B, not the 1.5 that diffusers has.
            - "audioldm2-large"
            - "stable-audio-open"
            - "stable-audio-3": Stable Audio 3 medium, by another group than the paper's and only as means over concepts.

    Returns:
        The atlas; it prints its functional layers, what is missing, and its source.

    Raises:
        UnknownName: There is no published atlas of this name. (An UnknownName is a KeyError.)

    Example:
        >>> for name in ["ace-step", "stable-audio-open", "stable-audio-3"]:
        ...     atlas = audioscope.datasets.published(name)
        ...     print(name, [site.layer for site in atlas.sites if site.path in atlas.functional])
        ace-step [6, 7]
        stable-audio-open [11, 12, 13]
        stable-audio-3 [3, 6, 7]
    """
    known_name("published atlas of", name, NAMES)
    return _replicated(name) if name == "stable-audio-3" else _of_the_paper(name)


def _of_the_paper(name: Published) -> PublishedAtlas:
    model, groups = NAMES[name], shipped_groups()
    rows = pd.read_csv(data_folder() / "published" / "tada_localization.csv").query("model == @model")
    cells = rows[["block", "attn"]].drop_duplicates()
    sites = {(b, a): _site(model, b, a, layer) for layer, (b, a) in enumerate(cells.itertuples(index=False))}
    here = [sites[cell] for cell in rows[["block", "attn"]].itertuples(index=False, name=None)]
    # outside up1, every site of a stage repeats one number; in up1tf1 and up1tf6 the two attentions share theirs
    coarse = [model == "audioldm2" and (b[:3] != "up1" or b in ("up1tf1", "up1tf6")) for b in rows["block"]]
    table = _table(rows["concept"], [groups[c] for c in rows["concept"]], here, rows["impact"], rows["metric"], coarse)
    source = "arXiv 2602.11910, luk-st/steer-audio results/localization_impact.csv (MIT)"
    return _atlas(name, table, list(sites.values()), groups, source)


def _replicated(name: Published) -> PublishedAtlas:
    rows = pd.read_csv(data_folder() / "published" / "sa3_layer_means.csv")
    sites = [_site(model, f"tf{layer}", 0, layer) for model, layer in zip(rows["model"], rows["layer"], strict=True)]
    table = _table([MEANS] * len(rows), [""] * len(rows), sites, rows["impact"], ["clap"] * len(rows), [False] * len(rows))
    source = (
        "daydreamlive/DEMON docs/research/tada/notes/family_merge/status_tada_sa3.md at d158cef0 (24 numbers, taken as facts; the "
        "repository's own text and code are AGPL-3.0-or-later)"
    )
    how = {"pairs": 32, "seeds": 8, "steps": 8, "guidance": 1.0, "seconds": 10.0}
    return _atlas(name, table, sites, {MEANS: ""}, source, **how)


def _table(
    concepts: Sequence[str], groups: Sequence[str], here: Sequence[Site], impacts: Sequence[float], metrics: Sequence[str],
    coarse: Sequence[bool],
) -> pd.DataFrame:  # fmt: skip
    """The table of a `PublishedAtlas`, from columns of equal length."""
    table = pd.DataFrame(
        {
            "concept": np.asarray(concepts, object),
            "group": groups,
            "site": [s.path for s in here],
            "layer": [s.layer for s in here],
            "impact": np.asarray(impacts, float),
            **dict.fromkeys(UNKNOWN, np.nan),
            "defined": True,
            "metric": np.asarray(metrics, object),
            "coarse": coarse,
        }
    )
    return table.sort_values(["group", "concept", "layer"], kind="stable", ignore_index=True)


def _atlas(
    name: Published, table: pd.DataFrame, sites: Sequence[Site], groups: dict[str, str], source: str, **how: Any
) -> PublishedAtlas:
    names = list(dict.fromkeys(table["concept"]))
    settings: dict[str, Any] = {
        "model": name, "patch": "text", "sites": [site.to_dict() for site in sites], "concepts": names, "pairs": None,
        "groups": {c: {"group": groups[c], "changes": [groups[c]] if groups[c] else []} for c in names},
        "direction": "sufficient", "swaps_all_text": True, "units": "similarity", "source": source, **how,
    }  # fmt: skip
    return PublishedAtlas(table, settings, data_folder() / "published")


def _site(model: str, block: str, attn: int, layer: int) -> Site:
    """The site of a row: its path in the pipeline that was run."""
    if model in PATHS:
        path, width = PATHS[model]
        return Site(path.format(block[2:]), "cross", layer, width)
    match = re.fullmatch(r"(down|mid|up)(\d*)tf(\d+)", block)
    assert match, block
    stage, index, number = match.groups()
    path = f"unet.{STAGES[stage]}{index}.attentions.{number}.transformer_blocks.{attn}.attn2"
    return Site(path, "cross", layer, WIDTHS[stage + index], "gpt2" if int(number) % 4 == 1 else "t5")
