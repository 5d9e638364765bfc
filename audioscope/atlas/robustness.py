"""How far an atlas can be trusted: with other pairs and concepts, on another scale, for another scorer, in another model.

Each function takes the atlas first; `Atlas` has most of them as methods.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.stats import pearsonr, spearmanr

from audioscope.errors import said
from audioscope.stats import beyond, holm, ratio_of_means

if TYPE_CHECKING:
    from audioscope.atlas.atlas import Atlas, Scale

CENSORED = 0.5  # share of censored pairs above which the typical pair was not seen, and a cell is marked
DRAWS = 2000  # of pairs and concepts, to see how fragile the functional set is


class Functional(list[str]):
    """The module paths of the functional layers, as a list that also says how fragile the set is.

    Args:
        paths: The module paths, in running order.
        fragility: One row per site: site, layer, impact, share (of the draws of pairs and concepts in which the site's mean
            impact reaches the threshold and the control) and without: the concepts and the whole groups ("all of genre") that
            each, if left out, change whether the site is functional.

    Example:
        >>> functional = audioscope.datasets.atlas().functional
        >>> functional == ["transformer.transformer_blocks.0.cross_attn"]
        True
        >>> functional.fragility["without"][0]
        ['all of genre', 'all of percussion']
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


def functional(atlas: Atlas, scale: Scale | None = None) -> Functional:
    """The functional layers on a scale, with each concept and each group of several left out, and draws where pairs are known."""
    means = atlas.layer_means(scale)
    groups = atlas.impacts(scale).groupby("group", sort=False)["concept"].unique()
    left_out = {name: [name] for name in atlas.concepts}
    left_out |= {f"all of {group}": list(names) for group, names in groups.items() if group and len(names) > 1}
    changes: list[list[str]] = [[] for _ in atlas.sites]
    for name, gone in left_out.items():
        if len(gone) < len(atlas.concepts):
            left = atlas.layer_means(scale, without=gone)["functional"]
            for i in np.flatnonzero(left != means["functional"]):
                changes[i].append(name)
    fragility = means[["site", "layer", "impact"]].assign(share=atlas.share_of_draws(scale), without=changes)
    return Functional(means.loc[means["functional"], "site"].tolist(), fragility)


def share_of_draws(atlas: Atlas, scale: Scale | None = None) -> np.ndarray:
    """How often each site would be functional with other pairs and concepts, in 2,000 draws of both.

    Each draw takes concepts, and pairs of each concept, with replacement. A site counts in a draw if its mean impact reaches the
    threshold and the control; concepts that are not defined are left out.

    Args:
        atlas: The atlas; for a method, it is the object itself.
        scale: One of `Atlas.scales`; None is "raw".

    Returns:
        The share of draws [sites], from 0 to 1; all 0 if no concept is defined.

    Raises:
        ValueError: The atlas does not have this scale.

    Example:
        >>> audioscope.datasets.atlas().share_of_draws().shape
        (12,)
    """
    impacts, means = atlas.impacts(scale), atlas.layer_means(scale)
    names = [c for c in atlas.concepts if impacts.loc[impacts["concept"] == c, "defined"].all()]
    if not names:
        return np.zeros(len(atlas.sites))
    rng = np.random.default_rng(0)
    ratios = np.empty((len(names), DRAWS, len(atlas.sites)))
    for place, name in enumerate(names):
        shift, whole, _ = (np.nan_to_num(values) for values in atlas.shifts(scale)[name, name])
        counts = rng.multinomial(len(shift), np.full(len(shift), 1 / len(shift)), DRAWS)
        ratios[place] = (counts @ shift) / (counts @ whole)
    weights = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), DRAWS) / len(names)
    bar = np.maximum(atlas.threshold, np.nan_to_num(means["control"].to_numpy(float)))
    return (np.einsum("cds,dc->ds", ratios, weights) >= bar).mean(0)


def additivity(atlas: Atlas, scale: Scale | None = None) -> pd.DataFrame:
    """For each defined concept, the sum of the impacts of single sites, next to the impact of all sites together.

    The sum depends on the scale: see `agreement` before you use a word such as "additive".

    Args:
        atlas: The atlas; for a method, it is the object itself.
        scale: One of `Atlas.scales`; None is "raw".

    Returns:
        A table with one row per defined concept.

        - concept
        - sum_of_single, low, high: the sum of the impacts of single sites, with its 95 % interval
        - censored: the share of censored shifts, 0 to 1
        - all_together: 1 if the sweep swapped the text of every cross-attention site (the swap everywhere is the clean run); in
          other sweeps it was not measured (NaN)

    Raises:
        ValueError: The atlas does not have this scale.

    Example:
        >>> sums = audioscope.datasets.atlas().additivity().set_index("concept")
        >>> sums.loc[["female", "male"], "sum_of_single"].round(2).tolist()  # all sites together would be 1
        [0.94, 1.03]
    """
    together = 1.0 if atlas.settings["swaps_all_text"] else np.nan
    lines = []
    for concept in atlas.concepts:
        shift, whole, hidden = atlas.shifts(scale)[concept, concept]
        ratio = ratio_of_means(shift.sum(axis=1), whole.mean(axis=1), bounded=atlas.bounded(scale))
        if ratio.defined:
            lines.append((concept, ratio.value, ratio.low, ratio.high, float(np.nanmean(hidden)), together))
    return pd.DataFrame(lines, columns=["concept", "sum_of_single", "low", "high", "censored", "all_together"])


def concentration(atlas: Atlas, scale: Scale | None = None) -> pd.Series[float]:
    """How concentrated each concept is: the share of its strongest site in all positive impacts, 1 if one site carries everything.

    Noise counts as impact, too, and spreads: a concept without any true impact has the largest of its sites' noise over their sum.

    Args:
        atlas: The atlas; for a method, it is the object itself.
        scale: One of `Atlas.scales`; None is "raw".

    Returns:
        The share of each defined concept, by its name.

    Raises:
        ValueError: The atlas does not have this scale.

    Example:
        >>> shares = audioscope.datasets.atlas().concentration()
        >>> bool(shares["metal"] > shares["drums"])
        True
    """
    found = atlas.impacts(scale).query("defined")
    positive = found.assign(impact=found["impact"].clip(lower=0.0)).groupby("concept", sort=False)["impact"]
    shares: pd.Series[float] = (positive.max() / positive.sum()).rename("concentration")
    return shares


def false_cells(atlas: Atlas, scale: Scale | None = None) -> dict[str, float]:
    """How many cells would lie beyond their control if no layer carried anything.

    Args:
        atlas: The atlas; for a method, it is the object itself.
        scale: One of `Atlas.scales`; None is "raw".

    Returns:
        A dict of four numbers.

        - defined: the number of defined cells
        - beyond: the number of cells whose interval lies above the control
        - null_share: the share of such cells if each unrelated concept's swap takes the place of the concept's own, and the
          others make up the control
        - expected: null_share of the defined cells, a number to hold against beyond

    Raises:
        ValueError: The atlas does not have this scale.

    Example:
        >>> found = audioscope.datasets.atlas().false_cells()
        >>> found["defined"], found["beyond"] > 10 * found["expected"]
        (252, True)
    """
    impacts = atlas.impacts(scale)
    defined = impacts[impacts["defined"]]
    nulls = []
    for concept in dict.fromkeys(defined["concept"]):
        whole = float(np.nanmean(atlas.shifts(scale)[concept, concept][1]))
        for other in atlas.unrelated(concept):
            control = atlas.control(concept, scale, without=other) / whole
            if np.isfinite(control).all():
                shift = atlas.shifts(scale)[other, concept][0]
                units = np.full(len(shift), whole)
                lows = [ratio_of_means(column, units, bounded=atlas.bounded(scale)).low for column in shift.T]
                nulls.append(np.mean(np.array(lows) > control))
    share = float(np.mean(nulls)) if nulls else np.nan
    above = int((defined["low"] > defined["control"]).sum())
    return {"defined": len(defined), "beyond": above, "null_share": share, "expected": share * len(defined)}


def agreement(atlas: Atlas) -> pd.DataFrame:
    """Which cells hold on every scale and for every scorer, and in how many of them: one row per concept and site.

    A view is one scorer on the raw scale, or on the clipped scale if it has one. A cell agrees in a view if its impact lies beyond
    the control there and is of the same sign as in the first view that defines it.

    Args:
        atlas: The atlas; for a method, it is the object itself.

    Returns:
        A table with one row per concept and site.

        - concept, group, site, kind ("cross" or "self"), layer
        - "impact ..." and "p ...": for each view ("impact judge, raw"), the impact and its p-value, two-sided and Holm-corrected
          over the cells, under the hypothesis that it does not exceed the control
        - views: the number of views whose scorer knows the concept; two of one scorer are not a second opinion
        - asked: in how many of them the cell could be asked: the impact is defined, and the cell is not censored unless it agrees
        - agree: in how many it agrees, with p at most .05
        - agreeing: the names of the latter, such as "listener, raw; judge, raw"
        - holds: it agrees in all views whose scorer knows the concept
        - holds_raw: it agrees in all of those on the raw scale
        - undecided: it holds on the raw scale but not in all views, and in most pairs both scores lie beyond the calibrated
          range, so that the clipped scale can say nothing for or against it

    Example:
        >>> cells = audioscope.datasets.atlas().agreement()
        >>> cells["views"].unique().tolist()  # two scorers on two scales
        [4]
        >>> cells.query("concept == 'fast' and layer in [1, 2]")[["layer", "agree", "asked", "holds"]].values.tolist()
        [[1, 4, 4, True], [2, 2, 3, False]]
    """
    heard = {name: atlas.heard_by(name) for name in atlas.scorers}
    views = {f"{name}, {scale}": (view, scale) for name, view in heard.items() for scale in view.scales if scale != "probability"}
    tables = {label: view.impacts(scale) for label, (view, scale) in views.items()}
    raw = [label for label, (_, scale) in views.items() if scale == "raw"]
    impacts = pd.DataFrame(
        {f"impact {label}": tables[label]["impact"] for label in sorted(tables, key=lambda each: each not in raw)}
    )
    signs = np.sign(impacts.bfill(axis=1).iloc[:, 0].to_numpy(float))
    kinds = {site.path: site.kind for site in atlas.sites}
    result = atlas.impacts()[["concept", "group", "site", "layer"]]
    result.insert(3, "kind", result["site"].map(kinds))
    known, asked, agrees, hidden = (pd.DataFrame(index=result.index) for _ in range(4))
    for label, (view, scale) in views.items():
        chances = []
        for place, row in enumerate(tables[label].itertuples()):
            shift, whole = (part[:, place % len(atlas.sites)] for part in view.shifts(scale)[row.concept, row.concept][:2])
            bound = np.nan_to_num(row.control)
            chances.append(beyond(signs[place] * shift, whole, bound, bounded=scale != "raw") if row.defined else np.nan)
        p = holm(np.minimum(1.0, 2 * np.array(chances)))  # two-sided: the side was taken from the data
        heard_of = {name: bool(np.isfinite(view.shifts(scale)[name, name][1]).any()) for name in result["concept"].unique()}
        known[label], hidden[label] = result["concept"].map(heard_of), tables[label]["censored"] > CENSORED
        agrees[label] = (np.sign(tables[label]["impact"]) == signs) & (p <= 0.05)
        asked[label] = tables[label]["defined"] & (~hidden[label] | agrees[label])
        result = result.assign(**{f"impact {label}": tables[label]["impact"], f"p {label}": p})
    everywhere, on_raw = ((agrees | ~known)[these].all(axis=1) & known[these].any(axis=1) for these in (list(views), raw))
    return result.assign(
        views=known.sum(axis=1), asked=asked.sum(axis=1), agree=agrees.sum(axis=1),
        agreeing=["; ".join(agrees.columns[row]) for row in agrees.to_numpy()],
        holds=everywhere, holds_raw=on_raw, undecided=on_raw & ~everywhere & hidden.any(axis=1),
    )  # fmt: skip


def _check_atlas(other: Any) -> None:
    """Raise ValueError for what is neither an atlas nor a published one."""
    if not hasattr(other, "layer_means"):
        raise ValueError(f"other is {said(other)}, expected an atlas.")


def correlation(atlas: Atlas, other: Atlas, scale: Scale | None = None, other_scale: Scale | None = None) -> dict[str, float]:
    """How similar two maps of the same concepts and layers are, by the correlation of their defined cells.

    The intervals come from leaving out one pair at a time (a jackknife on Fisher's scale that leaves out the same pair of both
    maps if they are of the same sweep), since cells of one pair are not independent.

    Args:
        atlas: The atlas; for a method, it is the object itself.
        other: The atlas to compare it with, such as `atlas.heard_by("judge")`.
        scale: One of `Atlas.scales`; None is "raw".
        other_scale: The scale of the other atlas; None is the same scale.

    Returns:
        A dict with Pearson's and Spearman's correlation (`pearson`, `spearman`), the ends of their 95 % intervals
        (`pearson_low`, `pearson_high`, `spearman_low`, `spearman_high`), and the number of `cells`.

    Raises:
        ValueError: The atlases share no defined concept with equal numbers of pairs and layers, or an atlas does not have its
            scale.

    Example:
        >>> atlas = audioscope.datasets.atlas()
        >>> round(atlas.correlation(atlas.heard_by("judge"))["pearson"], 2)
        0.95
    """
    _check_atlas(other)
    maps = ((atlas, atlas.scale_of(scale)), (other, other.scale_of(scale if other_scale is None else other_scale)))
    mine, theirs = (each.shifts(scale) for each, scale in maps)
    defined = set.intersection(*(set(each.impacts(scale).query("defined")["concept"]) for each, scale in maps))
    names = [c for c in atlas.concepts if c in defined and mine[c, c][0].shape[1] == theirs[c, c][0].shape[1]]
    if not names:
        raise ValueError("The two atlases share no defined concept with equal numbers of layers: nothing can be compared.")
    columns = ["concept", "pair", "seed", "clean_prompt"]
    units = [
        set(each.table.loc[each.table["concept"].isin(names), columns].itertuples(index=False, name=None)) for each, _ in maps
    ]
    one_sweep = units[0] == units[1]

    def coefficients(impacts: np.ndarray) -> np.ndarray:
        """Both correlations of the impacts [2, concepts, sites], on Fisher's scale."""
        one, two = impacts.reshape(2, -1)
        return np.arctanh(np.clip([pearsonr(one, two).statistic, spearmanr(one, two).statistic], -1 + 1e-12, 1 - 1e-12))

    swings = [[(np.nan_to_num(each[c, c][0]), np.nan_to_num(each[c, c][1])) for c in names] for each in (mine, theirs)]
    whole = np.array([[shift.sum(0) / swing.sum(0) for shift, swing in each] for each in swings])
    variance = np.zeros(2)
    for place, both in enumerate(zip(*swings, strict=True)):
        one, two = ((shift.sum(0) - shift) / (swing.sum(0) - swing) for shift, swing in both)
        # pairs of one sweep are left out of both maps at once, those of two sweeps one map at a time
        rounds = [(one, two)] if one_sweep else [(one, [whole[1, place]] * len(one)), ([whole[0, place]] * len(two), two)]
        for impacts in rounds:
            left = []
            for each in zip(*impacts, strict=True):
                changed = whole.copy()
                changed[:, place] = each
                left.append(coefficients(changed))
            variance += (len(left) - 1) / len(left) * np.square(left - np.mean(left, axis=0)).sum(0)
    center, half = coefficients(whole), 1.96 * np.sqrt(variance)
    result = {"cells": float(whole[0].size)}
    for name, value, low, high in zip(("pearson", "spearman"), *np.tanh([center, center - half, center + half]), strict=True):
        result |= {name: float(value), f"{name}_low": float(low), f"{name}_high": float(high)}
    return result


def compare(atlas: Atlas, other: Atlas, scale: Scale | None = None) -> pd.DataFrame:
    """How similar two atlases are, by relative depth, so that models with different numbers of layers can be compared.

    Args:
        atlas: The atlas; for a method, it is the object itself.
        other: The atlas to compare it with.
        scale: A scale that both have; None is "raw".

    Returns:
        A table with one row for the layer means (`concept` is "layer means"), then one per shared concept that both define.

        - concept
        - rank_correlation: Spearman's correlation of the impacts over depth
        - overlap: the shared part of the depth that functional layers (own layers, for a concept) cover, 0 to 1; NaN if neither
          has any

    Raises:
        ValueError: An atlas does not have this scale.

    Example:
        >>> paper = audioscope.datasets.published("ace-step")
        >>> audioscope.datasets.atlas().compare(paper)["concept"].tolist()[:3]
        ['layer means', 'female', 'male']
    """

    def grid(frame: pd.DataFrame, own: list[str], times: int) -> pd.DataFrame:
        """Each layer several times, from the first to the last, and whether it is one of `own`."""
        frame = frame.sort_values("layer").assign(held=frame["site"].isin(own))
        return frame.loc[frame.index.repeat(times)].reset_index(drop=True)

    def row(name: str, frames: list[pd.DataFrame], own: list[list[str]]) -> dict[str, Any]:
        # on a grid of depths that is fine enough for both numbers of layers
        here, there = grid(frames[0], own[0], len(other.sites)), grid(frames[1], own[1], len(atlas.sites))
        union = (here["held"] | there["held"]).sum()
        overlap = float((here["held"] & there["held"]).sum() / union) if union else np.nan
        return {"concept": name, "rank_correlation": here["impact"].corr(there["impact"], "spearman"), "overlap": overlap}

    _check_atlas(other)
    both = (atlas, other)
    means = [each.layer_means(scale) for each in both]
    lines = [row("layer means", means, [frame.loc[frame["functional"], "site"].tolist() for frame in means])]
    impacts = [each.impacts(scale) for each in both]
    impacts = [frame.assign(impact=frame["impact"].where(frame["defined"])) for frame in impacts]
    for concept in [c for c in atlas.concepts if c in other.concepts]:
        parts = [frame[frame["concept"] == concept] for frame in impacts]
        if all(part["defined"].any() for part in parts):
            lines.append(row(concept, parts, [each.own_layers(concept, scale) for each in both]))
    return pd.DataFrame(lines)
