"""The atlas: which layer carries which concept, with intervals and controls, as it follows from a finished sweep."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy.special import expit

from audioscope.atlas import robustness
from audioscope.audio import Clip, show_clips
from audioscope.errors import UnknownName, all_of, among, as_path, said
from audioscope.sharing import fetched, model_card, push
from audioscope.sites import Site, labels_of, named
from audioscope.stats import mean_of_ratios, mean_of_ratios_random_concepts, ratio_of_means
from audioscope.store import copy_clips, load_table, made_folder, plain_rows, save_table
from audioscope.views import view

Scale = Literal["raw", "clipped", "probability"]
SCALES: tuple[Scale, ...] = ("raw", "clipped", "probability")
THRESHOLD = 2.5  # divided by the number of sites: the paper's .10 at 24 layers

FORMAT = 1  # the version of the files of an atlas, raised with every change that an older audioscope cannot read
NEEDED = (
    "model",
    "concept",
    "pair",
    "seed",
    "row",
    "site",
    "layer",
    "scored",
    "score",
    "clip",
    "concepts",
    "sites",
    "direction",
    "units",
)


def score_column(scorer: str) -> str:
    """The column of a sweep's table with the scores of an additional scorer."""
    return f"score of {scorer}"


def ends(direction: str) -> tuple[str, str]:
    """The run that is patched (an impact of 0 sounds like it) and the run that it is patched from (1 sounds like it)."""
    return ("corrupted", "clean") if direction == "sufficient" else ("clean", "corrupted")


@dataclass(eq=False)
class Atlas:
    """A finished sweep of activation patching and what follows from it: impacts, functional layers, charts, pages.

    An atlas comes from `audioscope.localize`, `Atlas.load`, `audioscope.datasets.atlas` or `audioscope.datasets.published`.

    Impacts can be computed on up to three scales:

    - "raw" takes scores as they are.
    - "clipped" cuts log-odds at the end of the range in which the scorer was calibrated.
    - "probability" is 1 / (1 + exp(-log-odds)).

    The latter two hide what happens beyond the calibrated range: see `impacts`.

    Args:
        table: One line per clip and scored concept: model, concept, pair, seed, row ("clean", "corrupted", "patched"), site,
            layer, scored, score (in `settings["units"]`, not clipped), the scores of additional scorers ("score of ..."), clip,
            failed, clean_prompt and corrupted_prompt.
        settings: What decided the numbers, such as model, patch, direction, sites, concepts, pairs, seeds, scorer, steps and
            guidance.
        folder: Where the clips are; the paths in the column clip are relative to it.

    Example:
        >>> atlas = audioscope.datasets.atlas()
        >>> atlas.own_layers("fast")
        ['transformer.transformer_blocks.1.cross_attn', 'transformer.transformer_blocks.2.cross_attn']
        >>> [site.layer for site in atlas.sites if site.path in atlas.functional]
        [0]
        >>> atlas.layer_means().loc[0, ["impact", "low", "high"]].astype(float).round(2).tolist()
        [0.27, 0.26, 0.28]
    """

    table: pd.DataFrame
    settings: dict[str, Any]
    folder: Path
    _kept: dict[tuple[str, Scale], Any] = field(default_factory=dict, init=False, repr=False)  # what was computed on a scale

    def __post_init__(self) -> None:
        self.table = plain_rows(self.table)

    @property
    def concepts(self) -> list[str]:
        """The names of the concepts, in the order of the sweep."""
        return list(self.settings["concepts"])

    @property
    def sites(self) -> list[Site]:
        """The sites that were patched, in running order."""
        return [Site(**s) for s in self.settings["sites"]]

    @property
    def threshold(self) -> float:
        """The smallest mean impact of a functional layer, 2.5 / L, where L is the number of sites."""
        return THRESHOLD / len(self.settings["sites"])

    @property
    def scales(self) -> tuple[Scale, ...]:
        """The available scales, all three for log-odds with a calibrated range, else "raw" (and "probability" for log-odds)."""
        if self.settings["units"] != "log-odds":
            return ("raw",)
        return SCALES if self.settings.get("calibrated") else ("raw", "probability")

    def scale_of(self, scale: Scale | None) -> Scale:
        """Check a scale and fill in the default.

        Args:
            scale: One of `scales`; None is "raw".

        Returns:
            The scale itself, or "raw" for None.

        Raises:
            ValueError: The atlas does not have this scale.

        Example:
            >>> audioscope.datasets.atlas().scale_of(None)
            'raw'
        """
        if scale is not None and not among(scale, self.scales):
            raise ValueError(
                f"scale is {said(scale)}, expected one of {', '.join(self.scales)}: its scores are in "
                f"{self.settings['units']}" + (", and its scorer names no calibrated range." if str(scale) == "clipped" else ".")
            )
        return scale or self.scales[0]

    @property
    def scorers(self) -> list[str]:
        """The scorers of the clips, first the sweep's scorer, then the additional ones."""
        return [self.settings.get("scorer", "unknown"), *self.settings.get("also", {})]

    def heard_by(self, scorer: str) -> Atlas:
        """The atlas of the same clips with the scores of another of the sweep's scorers: a second opinion.

        Args:
            scorer: One of `scorers`.

        Returns:
            An atlas whose scores are those of the given scorer; the former scorer becomes an additional one. For the first of
            `scorers`, it is this atlas itself.

        Raises:
            UnknownName: This scorer did not score the clips of the sweep.

        Example:
            >>> atlas = audioscope.datasets.atlas()
            >>> atlas.scorers, atlas.heard_by("judge").scorers
            (['listener', 'judge'], ['judge', 'listener'])
        """
        if not among(scorer, self.scorers):
            raise UnknownName(f"{said(scorer)} did not score this sweep's clips. Available: {', '.join(self.scorers)}.")
        if scorer == self.scorers[0]:
            return self
        theirs = dict(self.settings["also"][scorer])
        own = {"fingerprint": self.settings["scorer_fingerprint"], **{k: self.settings[k] for k in ("units", "calibrated")}}
        also = {self.scorers[0]: own, **{name: f for name, f in self.settings["also"].items() if name != scorer}}
        settings = self.settings | {"scorer": scorer, "scorer_fingerprint": theirs.pop("fingerprint"), **theirs, "also": also}
        columns = {"score": score_column(self.scorers[0]), score_column(scorer): "score"}
        return Atlas(self.table.rename(columns=columns), settings, self.folder)

    @cached_property
    def _scores(self) -> pd.DataFrame:
        """Raw scores, one row per swapped concept, scored concept, pair and seed; columns clean, corrupted and the sites."""
        table = self.table[self.table["scored"].isin(self.concepts)]
        text = {name: table[name].astype(str) for name in ("concept", "scored", "site", "row")}
        cell = text["site"].where(text["row"] == "patched", text["row"])
        frame = table[["pair", "seed", "score"]].assign(cell=cell, concept=text["concept"], scored=text["scored"])
        return frame.pivot(index=["concept", "scored", "pair", "seed"], columns="cell", values="score").astype(float)

    def _on_scale(self, scale: Scale) -> pd.DataFrame:
        if scale == "clipped":
            return self._scores.clip(-self.settings["calibrated"], self.settings["calibrated"])
        return self._scores if scale == "raw" else expit(self._scores)

    def bounded(self, scale: Scale | None) -> bool:
        """Whether scores on a scale saturate, which hides shifts; see `audioscope.stats.ratio_of_means`.

        Args:
            scale: One of `scales`; None is "raw".

        Returns:
            False for "raw", True for the other scales.

        Raises:
            ValueError: The atlas does not have this scale.
        """
        return self.scale_of(scale) != "raw"

    def shifts(self, scale: Scale | None = None) -> dict[tuple[str, str], tuple[np.ndarray, ...]]:
        """The shifts of scores behind the impacts, pair by pair, for your own statistics.

        A shift is patched - corrupted, or clean - patched if the clean run was patched. Shifts are means over seeds; if a patched
        clip failed, its seed is left out of both the shift and the whole.

        Args:
            scale: One of `scales`; None is "raw".

        Returns:
            By (swapped concept, scored concept), three arrays [pairs, sites] of floats. The first has the shifts, the second has
            clean - corrupted (the whole), both in the score's units. The third is the share of seeds, 0 to 1, whose shift is
            censored: both of its scores lie beyond the same end of the calibrated range. It is 0 on the raw scale.

        Raises:
            ValueError: The atlas does not have this scale.

        Example:
            >>> shift, whole, censored = audioscope.datasets.atlas().shifts()["violin", "violin"]
            >>> shift.shape  # pairs, sites
            (34, 12)
        """
        scale = self.scale_of(scale)
        if ("shifts", scale) not in self._kept:
            wide, paths = self._on_scale(scale), [s.path for s in self.sites]
            base, sign = ("clean", -1) if self.settings["direction"] == "necessary" else ("corrupted", 1)
            shift = sign * wide[paths].sub(wide[base], axis=0)
            whole = shift.mul(0).add(wide["clean"] - wide["corrupted"], axis=0)
            end = self.settings.get("calibrated") or np.inf if scale != "raw" else np.inf
            patched, start = self._scores[paths], self._scores[base]
            hidden = (patched.ge(end).mul(start >= end, axis=0) | patched.le(-end).mul(start <= -end, axis=0)).astype(float)
            means = [frame.groupby(level=["concept", "scored", "pair"]).mean() for frame in (shift, whole, hidden)]
            cells = means[0].groupby(level=["concept", "scored"]).indices
            self._kept["shifts", scale] = {cell: tuple(m.to_numpy()[rows] for m in means) for cell, rows in cells.items()}
        return self._kept["shifts", scale]

    def check_concept(self, concept: str) -> None:
        """Check that the atlas has a concept, and name the available ones if it does not.

        Args:
            concept: The concept's name.

        Raises:
            UnknownName: The atlas does not have this concept.
        """
        if not among(concept, self.concepts):
            raise UnknownName(f"No concept {said(concept)} in this atlas. Available: {', '.join(self.concepts)}.")

    def unrelated(self, concept: str) -> list[str]:
        """The concepts whose swaps should not move this one; they make up its control.

        Concepts that change this one's own group are left out: a swap of drums may change whether there is a saxophone.

        Args:
            concept: The concept's name.

        Returns:
            The names of the unrelated concepts, in the order of the atlas.

        Raises:
            UnknownName: The atlas does not have this concept.

        Example:
            >>> "cello" in audioscope.datasets.atlas().unrelated("violin")
            False
        """
        self.check_concept(concept)
        groups = self.settings["groups"]
        own = groups[concept]["group"]
        return [c for c in self.concepts if c != concept and (not own or own not in groups[c]["changes"])]

    def control(self, concept: str, scale: Scale | None, without: str = "") -> np.ndarray:
        """How far swaps of unrelated concepts move this one at each site: what an impact must exceed to mean something.

        For each unrelated concept, it takes the absolute value of the mean shift over pairs, then averages over these concepts.
        The absolute value of a mean over few pairs has a noise floor, which makes the control stricter.

        Args:
            concept: The concept's name.
            scale: One of `scales`; None is "raw".
            without: A concept whose swap is left out.

        Returns:
            The control [sites], in the score's units; NaN if there is no unrelated concept.
        """
        others = [other for other in self.unrelated(concept) if other != without]
        swaps = [self.shifts(scale)[other, concept][0] for other in others]
        shifts = [np.abs(_mean(swap)) for swap in swaps if not np.isnan(swap).all()]  # a scorer may not know a concept
        return _mean(np.array(shifts)) if shifts else np.full(len(self.sites), np.nan)

    def impacts(self, scale: Scale | None = None) -> pd.DataFrame:
        """The impact of each site on each concept, with interval and control: the numbers of the heatmap.

        An impact is (patched - corrupted) / (clean - corrupted), a ratio of means over pairs; it is signed and not floored (TADA,
        eq. 2, floors at 0). If the clean run was patched ("necessary"), it is (clean - patched) / (clean - corrupted).

        Args:
            scale: One of `scales`; None is "raw".

        Returns:
            A table with one row per concept and site.

            - concept, group, site, layer (of a head such as "3.1": its layer and its number, ordered as they run)
            - impact, low, high: the impact with its 95 % interval
            - numerator, denominator, denominator_low, denominator_high: in the score's units
            - pairs: the number of pairs
            - defined: whether there is an impact at all: the interval of the denominator must not contain 0
            - control: the same ratio for swaps of unrelated concepts, with the numerator as an absolute value
            - censored: the share of pairs whose two scores lie beyond the same end of the calibrated range, so that a scale other
              than "raw" cannot show what happened between them. If it is more than half, an impact of 0 there means that nothing
              was seen, not that there was nothing.
            - planted: whether the concept was planted there; only of a model in which any had been planted

        Raises:
            ValueError: The atlas does not have this scale.

        Example:
            >>> impacts = audioscope.datasets.atlas().impacts()
            >>> len(impacts)  # 21 concepts in 12 layers
            252
            >>> impacts.query("concept == 'fast'").nlargest(2, "impact")["layer"].tolist()
            [1, 2]
        """
        scale = self.scale_of(scale)
        if ("impacts", scale) not in self._kept:
            lines, plan = [], self.settings.get("planted")
            for concept in self.concepts:
                shift, whole, hidden = self.shifts(scale)[concept, concept]
                group = self.settings["groups"][concept]["group"]
                control, censored = self.control(concept, scale), np.nanmean(hidden, axis=0)
                for i, site in enumerate(self.sites):
                    ratio = ratio_of_means(shift[:, i], whole[:, i], bounded=self.bounded(scale))
                    where = {"concept": concept, "group": group, "site": site.path, "layer": site.layer}
                    moved = control[i] / ratio.denominator if ratio.defined else np.nan
                    line = where | vars(ratio) | {"control": moved, "censored": censored[i]}
                    lines.append(line | ({"planted": site.module in plan["sites"].get(concept, ())} if plan else {}))
            self._kept["impacts", scale] = named(pd.DataFrame(lines).rename(columns={"value": "impact"}), self.sites)
        return self._kept["impacts", scale].copy()

    def to_frame(self) -> pd.DataFrame:
        """The impacts of all cells on the raw scale, as `impacts` returns them.

        Returns:
            A table with one row per concept and site.
        """
        return self.impacts()

    def layer_means(self, scale: Scale | None = None, without: Collection[str] = ()) -> pd.DataFrame:
        """The impact of each layer averaged over the defined concepts, and whether the layer is functional.

        A layer is functional if its mean impact is at least `threshold` (2.5 / L) and its interval lies above the control (above
        0 if there is no control).

        Args:
            scale: One of `scales`; None is "raw".
            without: Concepts to leave out.

        Returns:
            A table with one row per site.

            - site, layer
            - impact: the mean over defined concepts
            - low, high: its 95 % interval for these concepts and other pairs
            - all_low, all_high: the wider interval for other pairs and other concepts, drawn one by one. If whole groups of
              concepts share a layer, it is still too narrow; `functional` says what each group decides.
            - control: the mean control
            - threshold: as the property `threshold`
            - functional: whether the layer is functional

        Raises:
            ValueError: The atlas does not have this scale.

        Example:
            >>> means = audioscope.datasets.atlas().layer_means()
            >>> means.loc[means["functional"], "layer"].tolist()
            [0]
        """
        every = self.impacts(scale)
        impacts = every[every["defined"] & ~every["concept"].isin(all_of("without", without, str))]
        lines = []
        for i, site in enumerate(self.sites):
            here = impacts[impacts["site"] == site.path]
            tops, bottoms = ([self.shifts(scale)[c, c][part][:, i] for c in here["concept"]] for part in (0, 1))
            mean, low, high = mean_of_ratios(tops, bottoms, bounded=self.bounded(scale))
            _, all_low, all_high = mean_of_ratios_random_concepts(tops, bottoms)
            control = float(here["control"].mean())
            functional = bool(mean >= self.threshold and low > np.nan_to_num(control))
            lines.append((site.path, site.layer, mean, low, high, all_low, all_high, control, self.threshold, functional))
        columns = ["site", "layer", "impact", "low", "high", "all_low", "all_high", "control", "threshold", "functional"]
        return named(pd.DataFrame(lines, columns=columns), self.sites)

    @property
    def functional(self) -> robustness.Functional:
        """Module paths of the functional layers, shared by the concepts; when printed, it also says how fragile the set is."""
        return self.functional_on()

    def functional_on(self, scale: Scale | None = None) -> robustness.Functional:
        """The functional layers on any scale; `functional` is the same on the raw scale.

        Args:
            scale: One of `scales`; None is "raw".

        Returns:
            The module paths of the functional layers; when printed, the list also says how fragile the set is.

        Raises:
            ValueError: The atlas does not have this scale.
        """
        scale = self.scale_of(scale)
        if ("functional", scale) not in self._kept:
            self._kept["functional", scale] = robustness.functional(self, scale)
        return self._kept["functional", scale]

    def own_layers(self, concept: str, scale: Scale | None = None) -> list[str]:
        """The layers that carry one concept, by the rule for functional layers applied to its own impacts.

        Args:
            concept: The concept's name.
            scale: One of `scales`; None is "raw".

        Returns:
            The module paths of the sites whose impact is at least `threshold`, with an interval above the control; empty if the
            concept's impacts are undefined.

        Raises:
            UnknownName: The atlas does not have this concept.
            ValueError: The atlas does not have this scale.

        Example:
            >>> atlas = audioscope.datasets.atlas()
            >>> [site.layer for site in atlas.sites if site.path in atlas.own_layers("violin")]
            [8, 9]
        """
        self.check_concept(concept)
        rows = self.impacts(scale).query("concept == @concept and defined")
        return rows.loc[(rows["impact"] >= self.threshold) & (rows["low"] > rows["control"].fillna(0.0)), "site"].tolist()

    # how far the atlas can be trusted: functions of `audioscope.atlas.robustness`
    share_of_draws = robustness.share_of_draws
    concentration = robustness.concentration
    additivity = robustness.additivity
    false_cells = robustness.false_cells
    agreement = robustness.agreement
    correlation = robustness.correlation
    compare = robustness.compare

    def examples(self, scale: Scale | None = None) -> pd.DataFrame:
        """One example to listen to for each concept: its best site, and the pair that is typical there.

        The best site is chosen on the even pairs. Among the odd pairs, the one with the median shift is the example, and `impact`
        is that of all odd pairs, so the choice did not inflate it.

        Args:
            scale: One of `scales`; None is "raw".

        Returns:
            A table with one row per concept. Concepts that are undefined, have fewer than 4 pairs or have no clips are left out;
            the table is empty if no clips were kept.

            - concept, site, layer, impact, pair, seed, clean_prompt, corrupted_prompt
            - clean, corrupted, patched: the files of the clips, relative to `folder`
            - clean_score, corrupted_score, patched_score: raw scores, in the score's units

        Raises:
            ValueError: The atlas does not have this scale.

        Example:
            >>> examples = audioscope.datasets.atlas().examples()
            >>> examples.query("concept == 'fast'")["clean_prompt"].item()
            'a fast techno track'
        """
        kinds = ("clean", "corrupted", "patched")
        lines = []
        for concept in self.concepts:
            shift, whole, _ = self.shifts(scale)[concept, concept]
            if len(shift) < 4 or not np.isfinite(shift[0::2]).any(axis=0).all():
                continue
            best = int(np.argmax(np.nanmean(shift[0::2], axis=0)))
            shown = ratio_of_means(shift[1::2, best], whole[1::2, best])
            if not ratio_of_means(shift[:, best], whole[:, best]).defined or not shown.denominator > 0:
                continue
            site = self.sites[best]
            part = self.table[(self.table["concept"] == concept) & (self.table["scored"] == concept)]
            order = np.argsort(np.nan_to_num(shift[1::2, best], nan=-np.inf))
            pair = sorted(part["pair"].unique())[1::2][order[len(order) // 2]]
            rows = part[(part["pair"] == pair) & ((part["row"] != "patched") | (part["site"] == site.path))]
            seed = int(rows["seed"].min())
            rows = rows[rows["seed"] == seed].set_index("row")
            if rows["clip"].eq("").any() or rows["failed"].any():
                continue
            impact, prompts = shown.numerator / shown.denominator, rows[["clean_prompt", "corrupted_prompt"]].iloc[0]
            clips, scores = (rows.loc[list(kinds), column] for column in ("clip", "score"))
            lines.append((concept, site.path, site.layer, impact, pair, seed, *prompts, *clips, *scores.astype(float)))
        columns = ["concept", "site", "layer", "impact", "pair", "seed", "clean_prompt", "corrupted_prompt", *kinds]
        return named(pd.DataFrame(lines, columns=columns + [f"{kind}_score" for kind in kinds]), self.sites)

    def chart(self, scale: Scale | None = None) -> Any:
        """The atlas as an Altair chart: concepts by layers, under a strip of the layers' means.

        Args:
            scale: One of `scales`; None is "raw".

        Returns:
            An Altair chart, as `audioscope.atlas.heatmap` draws it.

        Raises:
            ValueError: The atlas does not have this scale.

        Example:
            >>> chart = audioscope.datasets.atlas().chart()
            >>> chart.save("atlas.html")
        """
        scale = self.scale_of(scale)
        title = f"Atlas of {self.settings['model']}" + ("" if scale == "raw" else f", {scale} scores")
        return view("Atlas.chart")(self.impacts(scale), self.layer_means(scale), title, self.settings["direction"])

    def play(self, concept: str) -> Any:
        """Players for a concept's example: the clean and corrupted clips, and the clip patched at the best site.

        Args:
            concept: The concept's name.

        Returns:
            HTML for a notebook, with three players and spectrograms.

        Raises:
            UnknownName: There is no example: the concept is not in this atlas, it is undefined, or no clips were kept.

        Example:
            >>> players = audioscope.datasets.atlas().play("violin")
            >>> players.data.count("<audio")
            3
        """
        row = self.examples().query("concept == @concept") if isinstance(concept, str) else pd.DataFrame()
        if row.empty:
            raise UnknownName(f"No example of {said(concept)}: it is not in this atlas, it is undefined, or no clips were kept.")
        chosen = row.iloc[0]
        titles = {"clean": chosen["clean_prompt"], "corrupted": chosen["corrupted_prompt"]}
        into, source = ends(self.settings["direction"])
        titles["patched"] = f"{titles[into]}, but {chosen['site']} reads: {titles[source]}"
        return show_clips(*(Clip.load(self.folder / chosen[k], prompt=f"{k}: {t}") for k, t in titles.items()))

    def explore(self, model: Any = None) -> Any:
        """A widget for JupyterLab: click a cell of the heatmap and hear it, with other prompts if you like.

        Args:
            model: Generates the clips that were not kept; None is the shipped `tiny`, if this atlas was measured on its weights.

        Returns:
            The widget.

        Raises:
            ValueError: The model has other weights than the one that the atlas was measured on.

        Example:
            >>> widget = audioscope.datasets.atlas().explore(model)
        """
        return view("Atlas.explore")(self, model)

    def save_html(self, path: str | Path, others: Sequence[Atlas] = (), **keywords: Any) -> Path:
        """Write the atlas as one HTML file with chart and sound, small enough to email.

        Args:
            path: The file.
            others: More atlases that can be selected on the page.
            **keywords: The other arguments of `audioscope.pages.save_html`.

        Returns:
            The file.

        Example:
            >>> audioscope.datasets.published("ace-step").save_html("ace.html", progress=False).name
            'ace.html'
        """
        return view("Atlas.save_html")(self, path, others, **keywords)

    def save_site(self, folder: str | Path, others: Sequence[Atlas] = (), **keywords: Any) -> Path:
        """Write the atlas as a folder for any web server, with all its sound.

        Args:
            folder: The folder.
            others: More atlases that can be selected on the page.
            **keywords: The other arguments of `audioscope.pages.save_site`.

        Returns:
            The path of the page, index.html in the folder.

        Example:
            >>> audioscope.datasets.published("ace-step").save_site("ace", progress=False).name
            'index.html'
        """
        return view("Atlas.save_site")(self, folder, others, **keywords)

    def save(self, folder: str | Path, shipped: bool = False) -> Path:
        """Write the atlas to a folder, from which `load` reads it.

        It writes atlas.parquet, atlas.json and, to another folder than the sweep's, a copy of the clips.

        Args:
            folder: Is created if it does not exist.
            shipped: Write a small copy with only the examples' clips, as MP3, and only the scores of the atlas's own concepts,
                right to 1 part in 2,048.

        Returns:
            The folder.

        Example:
            >>> folder = audioscope.datasets.maps()["early"].save("early")
            >>> sorted(file.name for file in folder.iterdir())
            ['atlas.json', 'atlas.parquet']
            >>> audioscope.Atlas.load(folder).settings["when"]
            'early'
        """
        folder = as_path(folder)
        made_folder(folder)
        table = self.table
        if shipped:
            table = table[table["scored"].isin(self.concepts)]
            shown = self.examples()
            kept = shown[["clean", "corrupted", "patched"]].to_numpy().ravel().tolist() if len(shown) else []
            renamed = {name: str(Path(name).with_suffix(".mp3")) for name in kept}
            shutil.rmtree(folder / "clips", ignore_errors=True)  # of an older atlas
            for old, new in renamed.items():
                Clip.load(self.folder / old).save(folder / new)
            clip = table["clip"].astype(str).map(lambda name: renamed.get(name, ""))
            table = table.assign(clip=clip)
        else:
            copy_clips(table, self.folder, folder)
        categories = ("model", "concept", "row", "site", "scored", "clip", "clean_prompt", "corrupted_prompt")
        table = table.astype(dict.fromkeys(categories, "category") | {"layer": "int16", "pair": "int16", "seed": "int64"})
        save_table(table, folder / "atlas.parquet", self.settings, folder / "atlas.json", FORMAT, small=shipped)
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> Atlas:
        """Read an atlas that `save` wrote.

        Args:
            folder: The folder with atlas.parquet and atlas.json.

        Returns:
            The atlas, with its clips expected in the same folder.

        Raises:
            FileNotFoundError: The folder contains no atlas.
            ValueError: The files are damaged, or a newer audioscope wrote them.

        Example:
            >>> atlas = audioscope.Atlas.load(audioscope.datasets.data_folder() / "atlas")
            >>> len(atlas.concepts)
            21
        """
        folder = as_path(folder)
        if not (folder / "atlas.parquet").exists():
            raise FileNotFoundError(
                f"{folder} holds no atlas (atlas.parquet): make one with audioscope.localize or `audioscope atlas`."
            )
        return cls(*load_table(folder / "atlas.parquet", folder / "atlas.json", FORMAT, NEEDED), folder)

    def push_to_hub(
        self,
        repo: str,
        *,
        clips: bool = True,
        license: str | None = None,
        private: bool | None = None,
        revision: str | None = None,
        token: str | None = None,
        message: str | None = None,
    ) -> str:
        """Upload the atlas to the Hugging Face Hub, with a card that says what it is, how sure, and how to load it.

        Args:
            repo: The repository, such as "owner/name"; it is made if it does not exist.
            clips: Whether to upload the sound, too.
            license, private, revision, token, message: As for `audioscope.SteeringVector.push_to_hub`.

        Returns:
            The address of the repository.

        Raises:
            ValueError: `repo` is not such a name, or holds something else, or the licence is no identifier.
            ConnectionError: The hub does not take it.

        Example:
            >>> audioscope.datasets.atlas().push_to_hub("me/tiny-atlas")  # doctest: +SKIP
            'https://huggingface.co/me/tiny-atlas'
        """
        said, shown = self.settings, self.examples().head(3) if clips else pd.DataFrame()
        kept = self if clips else replace(self, table=self.table.assign(clip=""))
        heard = [
            (f"{row.corrupted_prompt} (with the text of {row.clean_prompt!r} at layer {row.layer})", str(row.patched))
            for row in shown.itertuples() if (self.folder / str(row.patched)).is_file()
        ]  # fmt: skip

        def card(_: Sequence[str]) -> str:
            means = self.layer_means()
            half = float((means["high"] - means["low"]).median() / 2)
            functional = [f"{label} ({path})" for path, label in labels_of(self.sites).items() if path in self.functional]
            facts = {
                "model": said.get("model"), "weights": said.get("fingerprint"), "patched": said.get("patch"), "direction": said.get("direction"),
                "concepts": ", ".join(self.concepts), "sites": len(self.sites), "pairs": said.get("pairs"), "seeds": said.get("seeds"),
                "steps": said.get("steps"), "guidance": said.get("guidance"), "scored by": " and ".join(self.scorers),
                "functional layers": ", ".join(functional) or "none",
                "reliability": f"95 % intervals of a layer's mean over concepts are about +-{half:.3f} wide; {self.table['failed'].mean():.1%} of the rows failed",
            }  # fmt: skip
            use = f"import audioscope\n\naudioscope.show_charts()\natlas = audioscope.Atlas.from_pretrained({repo!r})\natlas.chart()"
            title = f"Concept-by-layer atlas of {said.get('model')}"
            return model_card(title, "atlas", str(said.get("model")), facts, use, license=license, clips=heard)

        return push(
            kept.save,
            repo,
            card,
            ("atlas.parquet", "atlas.json"),
            private=private,
            revision=revision,
            token=token,
            message=message,
        )

    @classmethod
    def from_pretrained(
        cls, source: str | Path, *, revision: str | None = None, token: str | None = None, subfolder: str = ""
    ) -> Atlas:
        """Read an atlas from the Hugging Face Hub or a folder.

        Args:
            source: A name on the hub, such as "owner/name", or a folder that `save` wrote.
            revision: A branch, tag or commit; None is the main branch.
            token: The access token for the hub; None takes the one that `hf auth login` stored.
            subfolder: The folder of the atlas inside the repository.

        Returns:
            The atlas, with the clips that were shared.

        Raises:
            FileNotFoundError: There is no atlas.
            ConnectionError: The hub does not give the repository.
            ValueError: A file is damaged, or a newer audioscope wrote it.

        Example:
            >>> folder = audioscope.datasets.maps()["early"].save("early")
            >>> audioscope.Atlas.from_pretrained("early").settings["when"]
            'early'
        """
        files = ("atlas.parquet", "atlas.json", "clips/*")
        return cls.load(fetched(source, files, revision=revision, token=token, subfolder=subfolder, what="atlas"))

    def __repr__(self) -> str:
        means = self.layer_means()
        layers = ", ".join(
            f"{r.layer} ({r.impact:.2f} [{r.low:.2f}, {r.high:.2f}])" for r in means[means["functional"]].itertuples()
        )
        undefined = sorted(set(self.concepts) - set(self.impacts().query("defined")["concept"]))
        return (
            f"Atlas({self.settings['model']}, patch={self.settings['patch']!r}, {self.settings['direction']}: "
            f"{len(self.concepts)} concepts x {len(self.sites)} sites, {self.settings['pairs']} pairs, "
            f"scored by the {' and the '.join(self.scorers)})\n  functional layers: {layers or 'none'}\n"
            f"  undefined: {', '.join(undefined) or 'none'}"
        )


def _mean(values: np.ndarray) -> np.ndarray:
    """The mean of what is known, [n, sites] -> [sites]: NaN, without a warning, where nothing is."""
    known = np.isfinite(values).sum(axis=0)
    return np.asarray(np.nansum(values, axis=0) / np.where(known, known, np.nan))
