"""The atlas: which layer carries which concept, with intervals and controls, as it follows from a finished sweep."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy.special import expit
from scipy.stats import rankdata

from audioscope.audio import Clip, show_clips
from audioscope.errors import UnknownName
from audioscope.sites import Site
from audioscope.stats import Ratio, beyond, holm, mean_of_ratios, mean_of_ratios_random_concepts, ratio_of_means
from audioscope.store import plain, write_whole
from audioscope.views import view

Scale = Literal["raw", "clipped", "probability"]
SCALES: tuple[Scale, ...] = ("raw", "clipped", "probability")
THRESHOLD = 2.5  # divided by the number of sites: the paper's .10 at 24 layers
CENSORED = 0.5  # share of censored pairs above which the typical pair was not seen, and a cell is marked
DRAWS = 2000  # of pairs and concepts, to see how fragile the functional set is


def score_column(scorer: str) -> str:
    """The column of a sweep's table with the scores of an additional scorer."""
    return f"score of {scorer}"


def ends(direction: str) -> tuple[str, str]:
    """The run that is patched (an impact of 0 sounds like it) and the run that it is patched from (1 sounds like it)."""
    return ("corrupted", "clean") if direction == "sufficient" else ("clean", "corrupted")


class Functional(list[str]):
    """The module paths of the functional layers, as a list that also says how fragile the set is.

    fragility: one row per site: site, layer, impact, share (of the draws of pairs and concepts in which the site's mean impact
    reaches the threshold and the control) and without: the concepts and the whole groups ("all of genre") that each, if left out,
    change whether it is functional.
    """

    def __init__(self, paths: list[str], fragility: pd.DataFrame):
        super().__init__(paths)
        self.fragility = fragility

    def __repr__(self) -> str:
        lines = [list.__repr__(self)]
        shown = self.fragility[self.fragility["site"].isin(self) | (self.fragility["share"] >= 0.025)]
        for row in shown.itertuples():
            state = "functional" if row.site in self else "not functional"
            text = f"  layer {row.layer} ({row.site}): {state}"
            if np.isfinite(row.share):  # else no pairs were published to draw from
                text += f"; it passes in {row.share:.0%} of {DRAWS:,} draws of pairs and concepts"
            lines.append(text + (f"; changed by leaving out any of: {', '.join(row.without)}" if row.without else ""))
        return "\n".join(lines)


@dataclass(eq=False)
class Atlas:
    """A finished sweep and what follows from it.

    table: one line per clip and scored concept: model, concept, pair, seed, row ("clean", "corrupted", "patched"), site,
    layer, scored, score (in settings["units"], not clipped), the scores of additional scorers ("score of ..."), clip, failed, and
    both prompts. folder: where the clips are.

    Scales: "raw" takes scores as they are. "clipped" cuts log-odds at the end of the range in which the scorer was calibrated,
    and "probability" is 1 / (1 + exp(-log-odds)). Both hide what happens beyond: see `impacts`.
    """

    table: pd.DataFrame
    settings: dict[str, Any]
    folder: Path

    @property
    def concepts(self) -> list[str]:
        return list(self.settings["concepts"])

    @property
    def sites(self) -> list[Site]:
        return [Site(**s) for s in self.settings["sites"]]

    @property
    def threshold(self) -> float:
        """The smallest mean impact of a functional layer: 2.5 / L."""
        return THRESHOLD / len(self.settings["sites"])

    @property
    def scales(self) -> tuple[Scale, ...]:
        """The available scales: all three for log-odds with a calibrated range, else "raw" (and "probability" for log-odds)."""
        if self.settings["units"] != "log-odds":
            return ("raw",)
        return SCALES if self.settings.get("calibrated") else ("raw", "probability")

    def scale_of(self, scale: Scale | None) -> Scale:
        """The scale itself, if this atlas has it; None is "raw".

        Raises ValueError for a scale that it does not have.
        """
        if scale is not None and scale not in self.scales:
            raise ValueError(
                f"scale is {scale!r}, expected one of {', '.join(self.scales)}: its scores are in "
                f"{self.settings['units']}"
                + (", and its scorer names no calibrated range." if scale == "clipped" and "clipped" not in self.scales else ".")
            )
        return scale or self.scales[0]

    @property
    def scorers(self) -> list[str]:
        """The scorers of the clips: the sweep's scorer first, then the additional ones."""
        return [self.settings.get("scorer", "unknown"), *self.settings.get("also", {})]

    def heard_by(self, scorer: str) -> Atlas:
        """The atlas of the same clips with the scores of another of the sweep's `scorers`. Raises UnknownName for any other."""
        if scorer not in self.scorers:
            raise UnknownName(f"{scorer!r} did not score this sweep's clips. Available: {', '.join(self.scorers)}.")
        if scorer == self.scorers[0]:
            return self
        metadata = self.settings["also"][scorer]
        own = {"fingerprint": self.settings["scorer_fingerprint"], **{k: self.settings[k] for k in ("units", "calibrated")}}
        also = {self.scorers[0]: own, **{name: f for name, f in self.settings["also"].items() if name != scorer}}
        theirs = {
            "scorer": scorer,
            "scorer_fingerprint": metadata["fingerprint"],
            "units": metadata["units"],
            "calibrated": metadata["calibrated"],
        }
        columns = {"score": score_column(self.scorers[0]), score_column(scorer): "score"}
        return Atlas(self.table.rename(columns=columns), {**self.settings, **theirs, "also": also}, self.folder)

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
        return self._scores if scale == "raw" else pd.DataFrame(expit(self._scores), self._scores.index, self._scores.columns)

    @cached_property
    def _kept(self) -> dict[Scale, dict[tuple[str, str], tuple[np.ndarray, np.ndarray, np.ndarray]]]:
        return {}

    def _on(self, scale: Scale | None) -> dict[tuple[str, str], tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """By (swapped concept, scored concept): shifts, clean - corrupted, and which are censored, all [pairs, sites].

        A shift is patched - corrupted, or clean - patched if the clean run was patched. Means are over seeds; if a patched clip
        failed, both leave that seed out. Censored: both scores of the shift lie beyond the same end of the calibrated range.
        """
        scale = self.scale_of(scale)
        if scale in self._kept:
            return self._kept[scale]
        wide, paths = self._on_scale(scale), [s.path for s in self.sites]
        base, sign = ("clean", -1) if self.settings["direction"] == "necessary" else ("corrupted", 1)
        shift = sign * wide[paths].sub(wide[base], axis=0)
        whole = shift.mul(0).add(wide["clean"] - wide["corrupted"], axis=0)
        end = self.settings.get("calibrated") or np.inf if scale != "raw" else np.inf
        patched, start = self._scores[paths], self._scores[base]
        hidden = (patched.ge(end).mul(start >= end, axis=0) | patched.le(-end).mul(start <= -end, axis=0)).astype(float)
        means = [frame.groupby(level=["concept", "scored", "pair"]).mean() for frame in (shift, whole, hidden)]
        parts = zip(*(frame.groupby(level=["concept", "scored"]) for frame in means), strict=True)
        self._kept[scale] = {
            names: (tops.to_numpy(float), wholes.to_numpy(float), gone.to_numpy(float))
            for (names, tops), (_, wholes), (_, gone) in parts
        }
        return self._kept[scale]

    def check_concept(self, concept: str) -> None:
        """Raise UnknownName for a concept that the atlas does not have."""
        if concept not in self.concepts:
            raise UnknownName(f"No concept {concept!r} in this atlas. Available: {', '.join(self.concepts)}.")

    def _unrelated(self, concept: str) -> list[str]:
        """The concepts whose swaps should not move this one, without those that change its own group (drums for a saxophone)."""
        groups = self.settings["groups"]
        own = groups[concept]["group"]
        return [c for c in self.concepts if c != concept and (not own or own not in groups[c]["changes"])]

    def _control(self, concept: str, scale: Scale | None, without: str = "") -> np.ndarray:
        """How far swaps of unrelated concepts move this one: mean over them of |mean shift| [sites], in the score's units.

        The absolute value of a mean over few pairs has a noise floor, which makes the control stricter. NaN if there is no such
        concept. without: a concept whose swap is left out.
        """
        others = [other for other in self._unrelated(concept) if other != without]
        shifts = [np.abs(np.nanmean(self._on(scale)[other, concept][0], axis=0)) for other in others]
        return np.nanmean(shifts, axis=0) if shifts else np.full(len(self.sites), np.nan)

    def _ratios(self, concept: str, scale: Scale | None) -> list[Ratio]:
        shift, denominator, _ = self._on(scale)[concept, concept]
        return [
            ratio_of_means(shift[:, i], denominator[:, i], bounded=self.scale_of(scale) != "raw") for i in range(shift.shape[1])
        ]

    def impacts(self, scale: Scale | None = None) -> pd.DataFrame:
        """One row per concept and site: impact with interval, numerator and denominator, control, and whether it is defined.

        impact = (patched - corrupted) / (clean - corrupted), a ratio of means over pairs; signed, not floored (TADA, eq. 2,
        floors at 0). If the clean run was patched ("necessary"), it is (clean - patched) / (clean - corrupted).
        control: the same ratio for swaps of unrelated concepts, with the numerator as an absolute value. censored: the share of
        pairs whose two scores lie beyond the same end of the calibrated range, so that a scale other than "raw" cannot show
        what happened between them: if it is more than half, an impact of 0 there means that nothing was seen, not that there
        was nothing.
        """
        scale = self.scale_of(scale)
        if scale in self._found:
            return self._found[scale].copy()
        lines = []
        for concept in self.concepts:
            control = self._control(concept, scale)
            censored = np.nanmean(self._on(scale)[concept, concept][2], axis=0)
            for i, (site, ratio) in enumerate(zip(self.sites, self._ratios(concept, scale), strict=True)):
                lines.append(
                    {
                        "concept": concept,
                        "group": self.settings["groups"][concept]["group"],
                        "site": site.path,
                        "layer": site.layer,
                        "impact": ratio.value,
                        "low": ratio.low,
                        "high": ratio.high,
                        "numerator": ratio.numerator,
                        "denominator": ratio.denominator,
                        "denominator_low": ratio.denominator_low,
                        "denominator_high": ratio.denominator_high,
                        "control": control[i] / ratio.denominator if ratio.defined else np.nan,
                        "pairs": ratio.pairs,
                        "defined": ratio.defined,
                        "censored": censored[i],
                    }
                )
        self._found[scale] = pd.DataFrame(lines)
        return self._found[scale].copy()

    @cached_property
    def _found(self) -> dict[Scale, pd.DataFrame]:
        return {}

    def to_frame(self) -> pd.DataFrame:
        """The impacts of all cells, on the raw scale: see `impacts`."""
        return self.impacts()

    def layer_means(self, scale: Scale | None = None) -> pd.DataFrame:
        """One row per site: impact averaged over defined concepts with intervals, control, and whether it is functional.

        low, high: the interval for these concepts and other pairs. all_low, all_high: the wider interval for other pairs and
        other concepts, drawn one by one; if whole groups of concepts share a layer, it is still too narrow, and `functional`
        says what each group decides. Functional: mean impact at least 2.5 / L, and low above the control (above 0 if there is
        none).
        """
        return self._layer_means(self.impacts(scale), scale)

    def _layer_means(self, impacts: pd.DataFrame, scale: Scale | None) -> pd.DataFrame:
        lines = []
        for i, site in enumerate(self.sites):
            here = impacts[(impacts["site"] == site.path) & impacts["defined"]]
            swings = [self._on(scale)[c, c] for c in here["concept"]]
            tops, bottoms = ([s[part][:, i] for s in swings] for part in (0, 1))
            mean, low, high = mean_of_ratios(tops, bottoms, bounded=self.scale_of(scale) != "raw")
            _, all_low, all_high = mean_of_ratios_random_concepts(tops, bottoms)
            control = float(here["control"].mean())
            functional = bool(mean >= self.threshold and low > np.nan_to_num(control))
            lines.append({"site": site.path, "layer": site.layer, "impact": mean, "low": low, "high": high,
                          "all_low": all_low, "all_high": all_high, "control": control, "threshold": self.threshold,
                          "functional": functional})  # fmt: skip
        return pd.DataFrame(lines)

    @property
    def functional(self) -> Functional:
        """Module paths of the functional layers, shared by the concepts; when printed, it also says how fragile the set is."""
        return self.functional_on()

    def functional_on(self, scale: Scale | None = None) -> Functional:
        """`functional` on any scale."""
        scale = self.scale_of(scale)
        if scale not in self._sets:
            means, fragility = self.layer_means(scale), self._fragility(scale)
            self._sets[scale] = Functional(means.loc[means["functional"], "site"].tolist(), fragility)
        return self._sets[scale]

    @cached_property
    def _sets(self) -> dict[Scale, Functional]:
        return {}

    def _fragility(self, scale: Scale) -> pd.DataFrame:
        """The table `Functional.fragility`: a bootstrap of concepts and of pairs within each; each concept and group left out."""
        impacts = self.impacts(scale)
        means = self._layer_means(impacts, scale)
        names = [c for c in self.concepts if impacts.loc[impacts["concept"] == c, "defined"].all()]
        rng = np.random.default_rng(0)
        ratios = np.empty((len(names), DRAWS, len(self.sites)))
        for place, name in enumerate(names):
            shift, whole, _ = (np.nan_to_num(values) for values in self._on(scale)[name, name])
            counts = rng.multinomial(len(shift), np.full(len(shift), 1 / len(shift)), DRAWS)
            ratios[place] = (counts @ shift) / (counts @ whole)
        weights = (
            rng.multinomial(len(names), np.full(len(names), 1 / len(names)), DRAWS) / len(names)
            if names
            else np.empty((DRAWS, 0))
        )
        drawn_means = np.einsum("cds,dc->ds", ratios, weights)
        bar = np.maximum(self.threshold, np.nan_to_num(means["control"].to_numpy(float)))
        share = (drawn_means >= bar).mean(0) if names else np.zeros(len(self.sites))
        changes: list[list[str]] = [[] for _ in self.sites]
        left_out = {name: impacts["concept"] == name for name in self.concepts}
        many = impacts.groupby("group", sort=False)["concept"].nunique() > 1
        left_out |= {f"all of {group}": impacts["group"] == group for group in many.index[many] if group}
        for name, gone in left_out.items():
            if gone.all():
                continue
            left = self._layer_means(impacts[~gone], scale)["functional"].to_numpy()
            for i in np.flatnonzero(left != means["functional"].to_numpy()):
                changes[i].append(name)
        return means[["site", "layer", "impact"]].assign(share=share, without=changes)

    def own_layers(self, concept: str, scale: Scale | None = None) -> list[str]:
        """Module paths of one concept's own layers, by the same rule; empty if its impacts are undefined."""
        self.check_concept(concept)
        rows = self.impacts(scale).query("concept == @concept and defined")
        return rows.loc[(rows["impact"] >= self.threshold) & (rows["low"] > rows["control"].fillna(0.0)), "site"].tolist()

    def additivity(self, scale: Scale | None = None) -> pd.DataFrame:
        """Per defined concept: the sum of the impacts of single sites, with interval and censored share, and of all together.

        The latter is 1 if the sweep swapped the text of every cross-attention site (the swap everywhere is the clean run); in
        other sweeps it was not measured (NaN). A sum depends on the scale: see `agreement` before you use a word such as
        "additive".
        """
        lines = []
        for concept in self.concepts:
            shift, whole, hidden = self._on(scale)[concept, concept]
            ratio = ratio_of_means(shift.sum(axis=1), whole.mean(axis=1), bounded=self.scale_of(scale) != "raw")
            if ratio.defined:
                lines.append({"concept": concept, "sum_of_single": ratio.value, "low": ratio.low, "high": ratio.high,
                              "censored": float(np.nanmean(hidden)),
                              "all_together": 1.0 if self.settings["swaps_all_text"] else np.nan})  # fmt: skip
        return pd.DataFrame(lines, columns=["concept", "sum_of_single", "low", "high", "censored", "all_together"])

    def false_cells(self, scale: Scale | None = None) -> dict[str, float]:
        """How many cells would lie beyond their control if no layer carried anything: defined, beyond, null_share and expected.

        beyond: cells whose interval lies above the control. null_share: the share of such cells if each unrelated concept's swap
        takes the place of the concept's own, and the others make up the control. expected: null_share of the defined cells.
        """
        impacts = self.impacts(scale)
        defined = impacts[impacts["defined"]]
        nulls = []
        for concept in dict.fromkeys(defined["concept"]):
            whole = float(np.nanmean(self._on(scale)[concept, concept][1]))
            for other in self._unrelated(concept):
                control = self._control(concept, scale, without=other) / whole
                shift = self._on(scale)[other, concept][0]
                if np.isfinite(control).all():
                    units = np.full(len(shift), whole)
                    lows = [
                        ratio_of_means(shift[:, i], units, bounded=self.scale_of(scale) != "raw").low
                        for i in range(shift.shape[1])
                    ]
                    nulls.append(np.mean(np.array(lows) > control))
        share = float(np.mean(nulls)) if nulls else np.nan
        beyond = int((defined["low"] > defined["control"]).sum())
        return {"defined": len(defined), "beyond": beyond, "null_share": share, "expected": share * len(defined)}

    def agreement(self) -> pd.DataFrame:
        """Which cells hold on every scale and for every scorer: one row per concept and site.

        Columns: concept, group, site, layer; for each scorer, on the raw scale and on the clipped scale if there is one,
        "impact ..." and "p ...": the impact and its p-value, two-sided and Holm-corrected over the cells, under the hypothesis
        that it does not exceed the control. views: how many such combinations there are; two of one scorer are not a second
        opinion. holds: the same sign in all of them, and every p at most .05. holds_raw: the same for the raw scale alone.
        undecided: it holds on the raw scale but not in all views, and in most pairs both scores lie beyond the calibrated
        range, so that the clipped scale can say nothing for or against it.
        """
        result: pd.DataFrame | None = None
        columns: list[str] = []
        signs: np.ndarray | None = None
        hidden = np.zeros(len(self.concepts) * len(self.sites))
        for name in self.scorers:
            view = self.heard_by(name)
            for scale in (each for each in view.scales if each != "probability"):
                impacts = view.impacts(scale)
                if result is None:
                    result, signs = impacts[["concept", "group", "site", "layer"]].copy(), np.sign(impacts["impact"].to_numpy())
                assert signs is not None
                chances = []
                for concept, rows in impacts.groupby("concept", sort=False):
                    shift, whole, _ = view._on(scale)[str(concept), str(concept)]
                    for i, (row, place) in enumerate(zip(rows.itertuples(), rows.index, strict=True)):
                        bound = np.nan_to_num(row.control)
                        chances.append(
                            beyond(signs[place] * shift[:, i], whole[:, i], bound, bounded=scale != "raw")
                            if row.defined
                            else np.nan
                        )
                label = f"{name}, {scale}"
                hidden = np.maximum(hidden, impacts["censored"].to_numpy())
                result[f"impact {label}"] = impacts["impact"].to_numpy()
                result[f"p {label}"] = holm(np.minimum(1.0, 2 * np.array(chances)))  # two-sided: the side was taken from the data
                columns.append(label)
        assert result is not None

        def hold(labels: list[str]) -> np.ndarray:
            same = np.all([np.sign(result[f"impact {label}"]) == signs for label in labels], axis=0)
            return same & np.all([result[f"p {label}"] <= 0.05 for label in labels], axis=0)

        everywhere, raw = hold(columns), hold([label for label in columns if label.endswith(", raw")] or columns)
        return result.assign(
            views=len(columns), holds=everywhere, holds_raw=raw, undecided=raw & ~everywhere & (hidden > CENSORED)
        )

    def correlation(self, other: Atlas, scale: Scale | None = None, other_scale: Scale | None = None) -> dict[str, float]:
        """How similar two maps of the same concepts and layers are: Pearson's and Spearman's correlation over the defined cells.

        Returns pearson and spearman with "..._low" and "..._high", and cells. The intervals come from leaving out one pair at a
        time (a jackknife on Fisher's scale that leaves out the same pair of both maps if they are of the same sweep), since cells
        of one pair are not independent. other: such as `atlas.heard_by("judge")`. Raises ValueError if no cell is shared.
        """
        scales = (self.scale_of(scale), other.scale_of(scale if other_scale is None else other_scale))
        mine, theirs = self._on(scales[0]), other._on(scales[1])
        tables = [atlas.impacts(each) for atlas, each in zip((self, other), scales, strict=True)]
        defined = [set(table.loc[table["defined"], "concept"]) for table in tables]
        names = [c for c in self.concepts if c in defined[0] & defined[1] and mine[c, c][0].shape == theirs[c, c][0].shape]
        if not names:
            raise ValueError(
                "The two atlases share no defined concept with equal numbers of pairs and layers: nothing can be compared."
            )
        parts = [(np.nan_to_num(m[c, c][0]), np.nan_to_num(m[c, c][1])) for m in (mine, theirs) for c in names]
        whole = [a.sum(0) / b.sum(0) for a, b in parts]
        half = len(names)

        def both(values: list[np.ndarray]) -> np.ndarray:
            one, two = np.concatenate(values[:half]), np.concatenate(values[half:])
            coefficients = [np.corrcoef(one, two)[0, 1], np.corrcoef(rankdata(one), rankdata(two))[0, 1]]
            return np.arctanh(np.clip(coefficients, -1 + 1e-12, 1 - 1e-12))

        center = both(whole)
        variance = np.zeros(2)
        for place in range(half):
            count = len(parts[place][0])
            left = []
            for pair in range(count):
                changed = list(whole)
                for at in (place, place + half):
                    a, b = parts[at]
                    changed[at] = (a.sum(0) - a[pair]) / (b.sum(0) - b[pair])
                left.append(both(changed))
            variance += (count - 1) / count * np.square(left - np.mean(left, axis=0)).sum(0)
        low, high = np.tanh(center - 1.96 * np.sqrt(variance)), np.tanh(center + 1.96 * np.sqrt(variance))
        value = np.tanh(center)
        result = {"cells": float(half * len(self.sites))}
        for i, name in enumerate(("pearson", "spearman")):
            result |= {name: float(value[i]), f"{name}_low": float(low[i]), f"{name}_high": float(high[i])}
        return result

    def compare(self, other: Atlas, scale: Scale | None = None) -> pd.DataFrame:
        """How similar two atlases are, by relative depth of layers: one row for the layer means, then one per shared concept.

        rank_correlation: Spearman's, of the impacts over depth. overlap: the shared part of the depth that functional layers
        (own layers, for a concept) cover, 0 to 1; NaN if neither has any. Undefined concepts are left out.
        """
        count, others = len(self.sites), len(other.sites)

        def row(name: str, mine: pd.DataFrame, theirs: pd.DataFrame, own: list[str], their_own: list[str]) -> dict[str, Any]:
            # on a depth grid fine enough for both numbers of layers
            mine, theirs = mine.sort_values("layer"), theirs.sort_values("layer")
            here, there = (frame["impact"].repeat(n).to_numpy() for frame, n in ((mine, others), (theirs, count)))
            both = pd.DataFrame({"here": here, "there": there}).dropna().rank().corr().iloc[0, 1]
            held = (
                np.repeat(mine["site"].isin(own).to_numpy(), others),
                np.repeat(theirs["site"].isin(their_own).to_numpy(), count),
            )
            union = (held[0] | held[1]).sum()
            overlap = float((held[0] & held[1]).sum() / union) if union else np.nan
            return {"concept": name, "rank_correlation": float(both), "overlap": overlap}

        impacts, theirs = (
            frame.assign(impact=frame["impact"].where(frame["defined"])) for frame in (self.impacts(scale), other.impacts(scale))
        )
        means = [atlas.layer_means(scale) for atlas in (self, other)]
        lines = [row("layer means", *means, *(frame.loc[frame["functional"], "site"].tolist() for frame in means))]
        for concept in [c for c in self.concepts if c in other.concepts]:
            mine, part = (frame[frame["concept"] == concept] for frame in (impacts, theirs))
            if mine["defined"].any() and part["defined"].any():
                lines.append(row(concept, mine, part, self.own_layers(concept, scale), other.own_layers(concept, scale)))
        return pd.DataFrame(lines)

    def examples(self, scale: Scale | None = None) -> pd.DataFrame:
        """One row per defined concept: its best site, chosen on the even pairs, and the median odd pair to listen to.

        `impact` is that of the odd pairs, so the choice did not inflate it. Empty if no clips were kept.
        """
        lines = []
        for concept in self.concepts:
            shift, denominator, _ = self._on(scale)[concept, concept]
            if len(shift) < 4 or not np.isfinite(shift[0::2]).any(axis=0).all():
                continue
            best = int(np.argmax(np.nanmean(shift[0::2], axis=0)))
            shown = ratio_of_means(shift[1::2, best], denominator[1::2, best])
            if not ratio_of_means(shift[:, best], denominator[:, best]).defined or not shown.denominator > 0:
                continue
            part = self.table[(self.table["concept"] == concept) & (self.table["scored"] == concept)]
            odd = sorted(part["pair"].unique())[1::2]
            order = np.argsort(np.nan_to_num(shift[1::2, best], nan=-np.inf))
            pair = odd[int(order[len(order) // 2])]
            site = self.sites[best]
            rows = part[part["pair"] == pair]
            rows = rows[(rows["seed"] == rows["seed"].min()) & ((rows["row"] != "patched") | (rows["site"] == site.path))]
            rows = rows.set_index("row")
            if rows["clip"].eq("").any() or rows["failed"].any():
                continue
            lines.append(
                {
                    "concept": concept,
                    "site": site.path,
                    "layer": site.layer,
                    "impact": shown.numerator / shown.denominator,
                    "pair": pair,
                    "seed": int(rows["seed"].iloc[0]),
                    "clean_prompt": rows["clean_prompt"].iloc[0],
                    "corrupted_prompt": rows["corrupted_prompt"].iloc[0],
                    **{row: rows.loc[row, "clip"] for row in ("clean", "corrupted", "patched")},
                    **{f"{row}_score": float(rows.loc[row, "score"]) for row in ("clean", "corrupted", "patched")},
                }
            )
        columns = ["concept", "site", "layer", "impact", "pair", "seed", "clean_prompt", "corrupted_prompt"]
        columns += ["clean", "corrupted", "patched", "clean_score", "corrupted_score", "patched_score"]
        return pd.DataFrame(lines, columns=columns)

    def chart(self, scale: Scale | None = None) -> Any:
        """The atlas as an Altair chart, on one of its `scales`."""
        scale = self.scale_of(scale)
        title = f"Atlas of {self.settings['model']}" + ("" if scale == "raw" else f", {scale} scores")
        return view("Atlas.chart")(self.impacts(scale), self.layer_means(scale), title, self.settings["direction"])

    def play(self, concept: str) -> Any:
        """Players for a concept's example: clean, corrupted and patched at its best site."""
        row = self.examples().query("concept == @concept")
        if row.empty:
            raise UnknownName(f"No example of {concept!r}: it is not in this atlas, it is undefined, or no clips were kept.")
        chosen = row.iloc[0]
        titles = {"clean": chosen["clean_prompt"], "corrupted": chosen["corrupted_prompt"]}
        into, source = ends(self.settings["direction"])
        titles["patched"] = f"{titles[into]}, but {chosen['site']} reads: {titles[source]}"
        return show_clips(*(Clip.load(self.folder / chosen[k], prompt=f"{k}: {t}") for k, t in titles.items()))

    def explore(self, model: Any = None) -> Any:
        """A widget for JupyterLab: click a cell of the heatmap and hear it, with other prompts if you like.

        model: generates the clips that were not kept; None is the shipped `tiny`, if this atlas was measured on its weights.
        Raises ValueError for a model with other weights.
        """
        return view("Atlas.explore")(self, model)

    def save_html(self, path: str | Path, others: Sequence[Atlas] = (), **keywords: Any) -> Path:
        """Write the atlas as one HTML file with chart and sound, to email; arguments as in `audioscope.pages.atlas.save_html`."""
        return view("Atlas.save_html")(self, path, others, **keywords)

    def save_site(self, folder: str | Path, others: Sequence[Atlas] = (), **keywords: Any) -> Path:
        """Write the atlas as a folder for any web server, with all its sound.

        Arguments as for `audioscope.pages.atlas.save_site`.
        """
        return view("Atlas.save_site")(self, folder, others, **keywords)

    def save(self, folder: str | Path, shipped: bool = False) -> Path:
        """Write atlas.parquet and atlas.json; returns the folder.

        The clips stay where they are. shipped: write a small copy with only the examples' clips, as MP3, and only the scores of
        the atlas's own concepts, to 3 decimals.
        """
        folder = Path(folder).expanduser()
        folder.mkdir(parents=True, exist_ok=True)
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
            scored = {name: table[name].round(3) for name in ("score", *map(score_column, self.scorers[1:]))}
            table = table.assign(clip=clip, **scored)
        categories = ("model", "concept", "row", "site", "scored", "clip", "clean_prompt", "corrupted_prompt")
        table = table.astype(dict.fromkeys(categories, "category") | {"layer": "int16", "pair": "int16", "seed": "int64"})
        write_whole(folder / "atlas.parquet", lambda path: table.to_parquet(path, compression="zstd"))
        write_whole(
            folder / "atlas.json", lambda path: path.write_text(json.dumps(self.settings, indent=1, default=plain) + "\n")
        )
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> Atlas:
        """Read what `save` wrote. Raises FileNotFoundError if the folder contains no atlas."""
        folder = Path(folder).expanduser()
        if not (folder / "atlas.parquet").exists():
            raise FileNotFoundError(
                f"{folder} holds no atlas (atlas.parquet): make one with audioscope.localize or `audioscope atlas`."
            )
        table, settings = pd.read_parquet(folder / "atlas.parquet"), json.loads((folder / "atlas.json").read_text())
        return cls(table, settings, folder)

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
