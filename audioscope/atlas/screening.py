"""A screen by gradients: an estimate of what patching would do, at every site and in every step, from a few generations a pair.

Attribution patching (Nanda, "Attribution Patching: Activation Patching At Industrial Scale", 2023; AtP*: Kramár et al., 2024)
through the whole sampler: how the score changes with a gate that leads a site from its own output to that of the clean run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, Unpack

import numpy as np
import pandas as pd
import torch
from scipy.stats import spearmanr
from torch import Tensor

from audioscope.atlas.atlas import Atlas
from audioscope.atlas.localization import Chosen, Concepts, checked_sweep, prompts_hash
from audioscope.atlas.windows import window_of
from audioscope.edits import Which
from audioscope.errors import as_path, known_name, of_kind, said, truth, whole
from audioscope.gates import Outputs, differentiable, gated, gradients, outputs, sound_of
from audioscope.model import Model
from audioscope.scoring.scorers import Scorer, check_scores, completed, default_scorer, noise_like, scores_of
from audioscope.sites import KEYS, VALUES, Site, named
from audioscope.stats import ratio_of_means
from audioscope.store import check_same, load_table, made_folder, plain_rows, results_folder, run_units, save_table
from audioscope.tracing import Row, Sampling, SamplingKeywords
from audioscope.views import view
from audioscope.workers import Workers, checked_workers, spread

Mode = Literal["quick", "path"]
MODES: tuple[Mode, ...] = ("quick", "path")
ALIKE = (
    "fingerprint",
    "scorer",
    "split",
    "steps",
    "guidance",
    "seconds",
    "negative_prompt",
)  # settings without which a comparison says nothing
FORMAT = 1
NEEDED = (
    "concept",
    "pair",
    "seed",
    "site",
    "layer",
    "step",
    "estimate",
    "clean",
    "corrupted",
    "together",
    "points",
    "generations",
)
DECIDED = ("model", "fingerprint", "concepts", "sites", "mode", "steps", "pairs")  # settings without which it is something else
LINE = ["concept", "pair", "seed", "site", "step"]  # what a line of the table is of
FIRST = 3  # points of a path, in the middles of equal parts, before it gets more
RESIDUAL = 0.05  # of the way from corrupted to clean, beyond which a path gets more points


@dataclass(eq=False)
class Screen:
    """Estimates of what patching each site in each step would do to each concept; `audioscope.screen` makes one.

    An estimate is no measurement: the residual says how far the estimates of a group of sites are from what all of them together
    do, and `audioscope.localize(..., screened=...)` patches for certain.

    Args:
        table: One line per concept, pair, seed, site and step, with the estimate, and the scores of the clean run, of the corrupted
            run, and with all sites of the group together patched, in the score's units. A group is a layer in mode "path", and all
            sites in mode "quick". points: at how many places of a path the gradient was taken. generations: what the pair cost, in
            generations of one clip (a run backward counts as one).
        settings: What decided the numbers.

    Example:
        >>> screen = audioscope.screen(model, ["fast"], pairs=2, sites=[1, 2], steps=4, progress=False)
        >>> screen.impacts()[["concept", "layer", "pairs"]].values.tolist()
        [['fast', 1, 2], ['fast', 2, 2]]
    """

    table: pd.DataFrame
    settings: dict[str, Any]

    def __post_init__(self) -> None:
        self.table = plain_rows(self.table)
        if lacking := [*sorted(set(NEEDED) - set(self.table)), *sorted(set(DECIDED) - set(self.settings))]:
            raise ValueError(
                f"The table and settings of a screen lack {', '.join(lacking)}: they are of something else, or damaged."
            )
        lines, units = self.table[LINE].astype({"concept": str, "site": str}), self.table.drop_duplicates(LINE[:3])
        if lines.duplicated().any():
            line = ", ".join(map(str, lines[lines.duplicated()].iloc[0]))
            raise ValueError(f"A screen's table has two lines of {line} ({', '.join(LINE)}): leave one of them.")
        whole_table = len(units) * len(self.settings["sites"]) * lines["step"].nunique()
        if not len(lines) or len(lines) != whole_table:
            raise ValueError(
                f"A screen's table has {len(lines)} lines, expected {whole_table or 'one or more'}: one of each pair, site and step. "
                "Take all lines of a pair, or none."
            )

    @property
    def concepts(self) -> list[str]:
        """The names of the concepts."""
        return list(self.settings["concepts"])

    @property
    def sites(self) -> list[Site]:
        """The sites that were screened, in running order."""
        return [Site(**site) for site in self.settings["sites"]]

    def impacts(self, by_step: bool = False) -> pd.DataFrame:
        """The estimated impact of each site on each concept, as a share of the way from corrupted to clean, on the raw score.

        Args:
            by_step: Whether to tell the denoising steps apart; otherwise, the estimates of all steps are added.

        Returns:
            A table with one row per concept and site (and step).

            - concept, site, layer (of a head such as "3.1"), step if asked for
            - impact, low, high: a ratio of means over pairs with its 95 % interval, as `Atlas.impacts` gives
            - defined: whether the interval of the denominator leaves out 0
            - residual: of the site's group, what all its sites together do beyond the sum of their estimates, as a share of the way.
              Blocks hand on what is before and inside them, so beside others they count it again
            - residual_each: how large that is in a pair and seed, on average and without its sign, as a share of the mean way: what is
              too much in one pair and too little in another cancels in `residual`
            - pairs

        Raises:
            ValueError: `by_step` is neither True nor False.

        Example:
            >>> screen = audioscope.screen(model, ["fast"], pairs=2, sites=[1], steps=2, progress=False)
            >>> len(screen.impacts()), len(screen.impacts(by_step=True))
            (1, 2)
        """
        keys = ["site", "step"] if truth("by_step", by_step) else ["site"]
        layers = {site.path: site.layer for site in self.sites}
        groups = {site.path: self._group(site) for site in self.sites}
        lines = []
        for concept, part in self.table.groupby("concept", sort=False, observed=True):
            whole_way = part.drop_duplicates(["pair", "seed"]).set_index(["pair", "seed"])
            way = (whole_way["clean"] - whole_way["corrupted"]).groupby(level="pair").mean()
            part = part.assign(group=part["site"].astype(str).map(groups))
            sums = part.groupby(["group", "pair", "seed"], observed=True)["estimate"].sum()
            ends = part.drop_duplicates(["group", "pair", "seed"]).set_index(["group", "pair", "seed"])
            gaps = (ends["together"] - ends["corrupted"]) - sums
            left, sizes = (
                each.groupby(level=["group", "pair"]).mean().groupby(level="group").mean() for each in (gaps, gaps.abs())
            )
            cells = part.groupby([*keys, "pair", "seed"], sort=False, observed=True)["estimate"].sum()
            wide = cells.groupby(level=[*keys, "pair"], sort=False).mean().unstack("pair")[way.index]
            for key, values in zip(wide.index, wide.to_numpy(), strict=True):
                site, *step = key if by_step else (key,)
                ratio = ratio_of_means(values, way.to_numpy())
                whole = ratio.denominator if ratio.defined else np.nan
                rest = {"residual": left[groups[site]] / whole, "residual_each": sizes[groups[site]] / abs(whole)}
                where = {"concept": concept, "site": site, "layer": layers[site], **({"step": step[0]} if step else {})}
                lines.append(where | vars(ratio) | rest)
        return named(pd.DataFrame(lines).rename(columns={"value": "impact"}), self.sites)

    def _group(self, site: Site) -> str:
        return "all" if self.settings["mode"] == "quick" else site.module

    def to_frame(self) -> pd.DataFrame:
        """The estimates of all cells, as `impacts` returns them.

        Returns:
            A table with one row per concept and site.
        """
        return self.impacts()

    def choose(self, top: int | None = None, sample: int | None = None, seed: int = 0) -> Chosen:
        """Choose sites for an exact sweep: `audioscope.localize(..., screened=screen.choose(12, 6))`.

        Args:
            top: How many of the sites with the largest estimated impact on any of the concepts; what leads away from a concept comes
                last. None is 8, or all if there are fewer.
            sample: How many of the others, drawn at random. None is 4, or all if fewer are left.
            seed: Of the draw, from 0.

        Returns:
            The sites.

        Raises:
            ValueError: There are fewer sites, no estimate is defined, or the seed is no whole number.

        Example:
            >>> screen = audioscope.screen(model, ["fast"], pairs=4, sites="cross", steps=2, progress=False)
            >>> chosen = screen.choose(top=2, sample=1)
            >>> len(chosen.top), len(chosen.sample), set(chosen.top) & set(chosen.sample)
            (2, 1, set())
        """
        rng = np.random.default_rng(whole("seed", seed))
        many, found = len(self.sites), self.impacts().query("defined")
        if found.empty:
            raise ValueError(
                "No estimate is defined, so nothing can be ranked: screen more pairs, or prompts that differ in the concept."
            )
        top = whole("top", min(8, many) if top is None else top, 1, many, f", of {many} sites")
        sample = whole(
            "sample",
            min(4, many - top) if sample is None else sample,
            0,
            many - top,
            f", of the {many - top} sites that are left",
        )
        strength = found.groupby(found["site"].astype(str))["impact"].max().reindex([site.path for site in self.sites])
        ranked = strength.sort_values(ascending=False, kind="stable").index.tolist()
        drawn = rng.choice(len(ranked) - top, sample, replace=False) + top
        chosen = tuple(ranked[:top]), tuple(ranked[i] for i in drawn)
        prompts = tuple((name, int(pair), found) for name, each in self._prompts().items() for pair, found in each.items())
        return Chosen(*chosen, str(self.settings["fingerprint"]), tuple(self.concepts), prompts)

    def _prompts(self) -> dict[str, dict[str, str]]:
        """A hash of each pair's prompts, by concept and pair; empty in older files."""
        return dict(self.settings.get("prompts", {}))

    def compare(self, atlas: Atlas) -> pd.DataFrame:
        """Compare the estimates with exact impacts of the same sites: how well the screen ranks what patching finds.

        Both are of the pairs, by their prompts, and seeds that both have. If the atlas patched in a part of the denoising, the estimates of its steps
        are added.

        Args:
            atlas: An exact map of (some of) these sites, from `audioscope.localize`. A patch of text differs a little from one of
                output, whose effect is what a screen estimates.

        Returns:
            A table with one row per shared concept, and one of all cells with a defined exact impact ("all").

            - concept, cells: 0 if the exact impacts of the concept are undefined on these pairs; its other columns are then NaN
            - spearman: of estimated and exact impacts, raw scores
            - recall: how many of the three largest exact impacts are among the three largest estimates, 0 to 1
            - own: how many of the sites are the concept's own, by the exact impacts, with all other concepts of the atlas as their
              control; NaN if the atlas patched what a screen chose, since a few sites do not tell
            - missed: of these, the sites, as layers, that are not among the fifth of all screened sites with the largest estimates, or among as many as there are own ones if they are more
            - residual: of the concept's groups of sites, the one furthest from 0, as `impacts` gives it; NaN if the atlas patched in a part of the denoising

        Raises:
            ValueError: They share no pair, or no site of a concept with a defined impact, or the atlas patched the other way.

        Example:
            >>> how = {"pairs": 4, "sites": [1, 2, 3], "steps": 2, "progress": False}
            >>> screen, atlas = audioscope.screen(model, ["fast"], **how), audioscope.localize(model, ["fast"], **how)
            >>> screen.compare(atlas)["cells"].tolist()
            [3, 3]
        """
        of_kind("atlas", atlas, Atlas)
        if atlas.settings["direction"] != "sufficient":
            raise ValueError(
                f"The atlas is of direction {atlas.settings['direction']!r}; a screen estimates 'sufficient' patches."
            )
        there, now = ({name: each.settings.get(name) for name in ALIKE} for each in (atlas, self))
        check_same("The atlas was made", there, now, "screen as the atlas was made, or the other way around")
        (mine, atlas), given = self._shared(atlas), atlas
        exact = atlas.impacts().query("defined")[["concept", "site", "layer", "impact"]]
        estimates = mine.impacts()[["concept", "site", "impact", "residual"]]
        both = exact.merge(estimates, on=["concept", "site"], suffixes=("", "_estimated"))
        if both.empty:
            raise ValueError(
                "The screen and the atlas share no site of a concept with a defined impact: nothing can be compared."
            )
        lines = []
        for concept, part in [*((name, both[both["concept"] == name]) for name in atlas.concepts), ("all", both)]:
            rho = spearmanr(part["impact"], part["impact_estimated"]).statistic if len(part) > 2 else np.nan
            most = [set(part.nlargest(3, column).index) for column in ("impact", "impact_estimated")]
            recall, mine_own, missed, residual = np.nan, np.nan, "", np.nan
            if concept != "all" and len(part):
                residual = max(part["residual"], key=abs) if window_of(atlas.settings) is None else np.nan
                recall = len(most[0] & most[1]) / len(most[0])
            if concept != "all" and len(part) and "screened" not in atlas.settings:
                ranked = estimates[estimates["concept"] == concept].set_index("site")["impact"].rank(ascending=False)
                rest = given.table[given.table["concept"].astype(str) != concept]  # all of it: the control
                cut = pd.concat([atlas.table[atlas.table["concept"].astype(str) == concept], rest])
                own = part[part["site"].isin(Atlas(cut, given.settings, given.folder).own_layers(str(concept)))]
                mine_own = float(len(own))
                missed = ", ".join(map(str, own["layer"][own["site"].map(ranked) > max(0.2 * len(ranked), len(own), 1)]))
            lines.append((concept, len(part), rho, recall, mine_own, missed, residual))
        return pd.DataFrame(lines, columns=["concept", "cells", "spearman", "recall", "own", "missed", "residual"])

    def _shared(self, atlas: Atlas) -> tuple[Screen, Atlas]:
        """The screen and the atlas, with the pairs and seeds that both have, and the steps in which the atlas patched."""
        unit = ["concept", "pair", "seed"]
        units = [pd.MultiIndex.from_frame(table[unit].astype({"concept": str})) for table in (self.table, atlas.table)]
        shared = units[0].intersection(units[1])
        if prompts := self._prompts():
            rows = atlas.table.drop_duplicates(unit).astype({"concept": str})
            now = {
                (row.concept, row.pair, row.seed): prompts_hash(str(row.clean_prompt), str(row.corrupted_prompt))
                for row in rows.itertuples()
            }
            shared = shared[[prompts.get(key[0], {}).get(str(key[1])) == now[key] for key in shared]]
        if shared.empty:
            raise ValueError("The screen and the atlas share no pair of a concept: nothing can be compared.")
        table, window = self.table[units[0].isin(shared)], window_of(atlas.settings)
        table = table if window is None else table[table["step"].between(window[0], window[1] - 1)]
        names = [name for name in atlas.concepts if name in set(shared.get_level_values("concept"))]
        return Screen(table, self.settings), Atlas(
            atlas.table[units[1].isin(shared)], {**atlas.settings, "concepts": names}, atlas.folder
        )

    def chart(self, concept: str | None = None) -> Any:
        """The estimates for one concept as an Altair chart, sites by denoising steps.

        Args:
            concept: The concept's name; None is the first.

        Returns:
            An Altair chart, as `audioscope.atlas.screen_heatmap` draws it.

        Raises:
            UnknownName: The concept was not screened.
            ValueError: The concept has no defined estimate.

        Example:
            >>> screen = audioscope.screen(model, ["fast"], pairs=4, sites=[1, 2], steps=4, progress=False)
            >>> screen.chart().save("screen.html")
        """
        name = self.concepts[0] if concept is None else known_name("screened concept", concept, self.concepts)
        return view("Screen.chart")(self.impacts(by_step=True), name)

    def save(self, folder: str | Path) -> Path:
        """Write the screen to a folder, from which `load` reads it.

        Args:
            folder: Is created if it does not exist.

        Returns:
            The folder.

        Example:
            >>> screen = audioscope.screen(model, ["fast"], pairs=1, sites=[1], steps=1, progress=False)
            >>> audioscope.atlas.Screen.load(screen.save("screen")).concepts
            ['fast']
        """
        folder = as_path(folder)
        made_folder(folder)
        kinds = dict.fromkeys(("concept", "site"), "category") | dict.fromkeys(("layer", "pair", "step", "points"), "int16")
        save_table(self.table.astype(kinds), folder / "screen.parquet", self.settings, folder / "screen.json", FORMAT)
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> Screen:
        """Read a screen that `save` wrote.

        Args:
            folder: The folder with screen.parquet and screen.json.

        Returns:
            The screen.

        Raises:
            FileNotFoundError: The folder contains no screen.
            ValueError: The files are damaged, or a newer audioscope wrote them.
        """
        folder = as_path(folder)
        if not all((folder / name).exists() for name in ("screen.parquet", "screen.json")):
            raise FileNotFoundError(
                f"{folder} holds no screen (screen.parquet and screen.json): make one with audioscope.screen."
            )
        return cls(*load_table(folder / "screen.parquet", folder / "screen.json", FORMAT, (*NEEDED, *DECIDED)))

    def __repr__(self) -> str:
        found = self.impacts().query("defined").assign(strength=lambda t: t["impact"].abs()).nlargest(5, "strength")
        cost = self.table.drop_duplicates(["concept", "pair", "seed"])["generations"].mean()
        most = "; ".join(
            f"{row.concept} at {row.layer} ({row.impact:+.2f}, residual {row.residual:+.2f}, in a pair {row.residual_each:.2f})"
            for row in found.itertuples()
        )
        blind = (
            "\n  quick: blind to sites whose effect sets in beyond a dose; the residual shows it"
            if self.settings["mode"] == "quick"
            else ""
        )
        return (
            f"Screen({self.settings['model']}, mode={self.settings['mode']!r}: {len(self.concepts)} concepts x {len(self.sites)} sites "
            f"x {self.settings['steps']} steps, {self.settings['pairs']} pairs, {cost:.0f} generations a pair)\n"
            f"  estimates, largest first: {most or 'none is defined'}{blind}"
        )


def screen(
    model: Model,
    concepts: Concepts = None,
    pairs: int = 4,
    seeds: int = 1,
    *,
    mode: Mode = "quick",
    sites: Which = "cross.heads",
    split: str = "localize",
    scorer: Scorer | None = None,
    points: int = 9,
    recompute: bool = False,
    out: str | Path | None = None,
    workers: Workers = None,
    progress: bool = True,
    **sampling: Unpack[SamplingKeywords],
) -> Screen:
    """Estimate by gradients what patching each site in each step would do, to find where to look (attribution patching).

    A gate leads a site from its own output in the corrupted run (0) to that of the clean run (1); the estimate is the score's
    derivative by the gate, times the way. Mode "quick" takes it at the corrupted run, which costs three generations a pair (one
    more with `recompute`, and one more if the sites are not all that the text goes through) for all sites and steps, and is blind to sites that act as switches, at a dose. Mode "path" integrates it
    while all sites of a layer move together, layer by layer (integrated gradients), at more and more places until its estimates add
    up to what patching the layer does, or `points` are used up: `residual_each` in `impacts` says by how much they miss. It costs
    as many generations as the table says.

    Args:
        model: The model.
        concepts: As for `audioscope.localize`.
        pairs: Pairs of each concept.
        seeds: Seeds of each pair.
        mode: "quick" or "path".
        sites: The heads of cross-attention by default; any selection of `Sites.select`.
        split: Which pairs of a concept, see `Concept.split`.
        scorer: One through which gradients reach the audio (it has `scores`): the listener, `Musicnn`, `Clap`, or your own. None is
            the model's default.
        points: In mode "path", the largest number of places on a path, from 3; two are added where the gradient changes most, until
            the residual of the pair is below 5 % of the way. A layer that is a switch needs more than the default.
        recompute: Keep only one denoising step in memory, and compute each again for the gradient, for large models.
        out: Folder for the results, resumed if it exists; None is a temporary one.
        workers: In how many processes, as for `audioscope.localize`.
        progress: Whether to show a progress bar.
        **sampling: `steps`, `guidance`, `seconds`, `negative_prompt`; the model's defaults if omitted.

    Returns:
        The screen, saved in `out`.

    Raises:
        ValueError: Input is out of range, sites are keys or values of cross-attention (those of another text may be more or fewer),
            or no gradient reaches the audio from this scorer. Nothing has been generated then.
        UnknownName: A concept or site does not exist (a KeyError that lists the nearest).

    Example:
        >>> screen = audioscope.screen(model, ["fast"], pairs=1, steps=2, progress=False)
        >>> len(screen.table), screen.table["generations"].unique().tolist()  # 48 heads in 2 steps
        (96, [3])
    """
    if not isinstance(mode, str) or mode not in MODES:
        raise ValueError(f"mode is {said(mode)}, expected 'quick' or 'path'.")
    points = whole("points", points, FIRST)
    recompute = truth("recompute", recompute)
    sweep = checked_sweep(model, concepts, pairs, seeds, "output", "sufficient", sites, split, scorer, (), None, None, sampling)
    check_screen(model, sweep.sites, sweep.scorer, sweep.run)
    share = partial(spread, model, checked_workers(workers))
    pairs = whole("pairs", pairs, 1)  # a plain number, for the files
    settings = {**sweep.settings(False), "mode": mode, **({"points": points} if mode == "path" else {})}
    settings = {
        name: value
        for name, value in settings.items()
        if name not in ("patch", "direction", "when", "window", "swaps_all_text", "clips", "recompute")  # the same slopes
    }
    folder = results_folder(out, "screen")
    work = partial(_do_unit, model, sweep.sites, sweep.scorer, sweep.run, mode, points, recompute)
    table = run_units(folder, settings, sweep.units(pairs), work, progress, "screen", share)
    names = [concept.name for concept in sweep.concepts]
    prompts = {
        concept.name: {str(pair.index): prompts_hash(pair.clean, pair.corrupted) for pair in concept.split(split)[:pairs]}
        for concept in sweep.concepts
    }
    found = Screen(table, {**settings, "concepts": names, "pairs": pairs, "seeds": sweep.seeds, "prompts": prompts})
    found.save(folder)
    return found


def check_screen(model: Model, sites: Sequence[Site], scorer: Any, run: Sampling) -> None:
    """Let gradients go through a scorer of noise as long as the model's clips, before anything is generated.

    Raises ValueError if they do not, if the scores have another form, or for sites that cannot have gates.
    """
    differentiable(model)
    if text := [site for site in sites if site.of_text]:
        raise ValueError(
            f"{text[0].path} belongs to the text, which may be longer in another prompt: screen 'cross.heads' or 'cross'."
        )
    if doubled := _doubled(sites):
        raise ValueError(
            f"{doubled[0].path} and {doubled[1].path} share what they give, which would count twice: screen one of them."
        )
    fit = "screen with the listener, Musicnn or Clap."
    if not callable(getattr(scorer, "scores", None)):
        raise ValueError(f"The {scorer.name} has no `scores` through which gradients reach the audio: {fit}")
    with torch.enable_grad():
        noise = noise_like(model, run.seconds, 1).requires_grad_(True)
        values, expected = scorer.scores(noise, model.rate), [1, len(scorer.concepts)]
        if not isinstance(values, Tensor) or list(values.shape) != expected:
            gave = f"a tensor {list(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
            raise ValueError(
                f"`scores` of the {scorer.name} gave {gave} for one clip, expected a tensor [clips, concepts] = {expected}."
            )
        if not values.requires_grad or torch.autograd.grad(values.sum(), noise, allow_unused=True)[0] is None:
            raise ValueError(f"No gradient reaches the audio from `scores` of the {scorer.name}: {fit}")
    one, other = values.detach().cpu().numpy(), scores_of(scorer, noise.detach(), model.rate).to_numpy()
    if (far := np.abs(one - other) > 0.05 * max(np.abs(one).max(), np.abs(other).max())).any():
        place = tuple(np.argwhere(far)[0])
        raise ValueError(
            f"`scores` of the {scorer.name} gave {one[place]:.3g} for a clip of noise, and its call {other[place]:.3g}: they must be the same."
        )


def _doubled(sites: Sequence[Site]) -> tuple[Site, Site] | None:
    """Two sites of one module of which one gives what is also given by the other."""
    seen: dict[str, Site] = {}
    for site in sites:
        first = seen.setdefault(site.module, site)
        if first.kind != site.kind and {first.kind, site.kind} != {f"self.{KEYS}", f"self.{VALUES}"}:
            return first, site
    return None


def followed(model: Model, sites: Sequence[Site], concept: str, scorer: Any, run: Sampling) -> tuple[int, Any]:
    """Whose score of a concept can be followed back to the outputs of sites, and in which column it is.

    Raises ValueError if no gradient goes through, or if the scorer does not know the concept.
    """
    chosen = default_scorer(model) if scorer is None else completed(scorer)
    check_scores(chosen, concept)
    check_screen(model, sites, chosen, run)
    return list(chosen.concepts).index(concept), chosen


def screen_pair(
    model: Model, sites: Sequence[Site], concept: str, clean: str, corrupted: str, seed: int, scorer: Any, run: Sampling
) -> pd.DataFrame:  # fmt: skip
    """The quick estimates of one pair of prompts, in the columns of `Screen.impacts` by step; one pair has no interval.

    together: what all sites together bring, exactly, as a share of the way, beside which their estimates may fall short.
    """
    unit = {"concept": concept, "pair": 0, "seed": seed, "clean": clean, "corrupted": corrupted}
    table = _do_unit(model, tuple(sites), scorer, run, "quick", FIRST, False, unit, Path())
    way = table["clean"] - table["corrupted"]
    together = (table["together"] - table["corrupted"]) / way
    return named(
        table.assign(impact=table["estimate"] / way, low=np.nan, high=np.nan, defined=way != 0, together=together), sites
    )


def _do_unit(
    model: Model, sites: tuple[Site, ...], scorer: Any, run: Sampling, mode: Mode, points: int, recompute: bool,
    unit: dict[str, Any], folder: Path, lost: bool = False,
) -> pd.DataFrame:  # fmt: skip
    """The estimates of one pair and seed: one line per site and step."""
    about = {"concept": unit["concept"], "pair": unit["pair"], "seed": unit["seed"]}
    lines = pd.DataFrame(
        [(site.path, site.layer, step) for site in sites for step in range(run.steps)], columns=["site", "layer", "step"]
    )
    if lost:
        nothing = dict.fromkeys(("estimate", "clean", "corrupted", "together"), np.nan)
        return lines.assign(**about, **nothing, points=0, generations=0)
    column = list(scorer.concepts).index(unit["concept"])

    def score(latents: Tensor) -> Tensor:
        values: Tensor = scorer.scores(sound_of(model, latents, run), model.rate)[:, column]
        return values

    clean = outputs(model, [Row(unit["clean"], unit["seed"])], sites, run)
    corrupted = Row(unit["corrupted"], unit["seed"])
    with torch.no_grad():
        goal = float(score(clean.latents)[0])
    how = _quick if mode == "quick" else partial(_path, points=points)
    estimates, together, start, used, cost = how(model, corrupted, clean, run, score, goal, recompute)
    lines["estimate"] = estimates.T.flatten().numpy()
    lines["together"], lines["points"] = np.repeat(together, run.steps), np.repeat(used, run.steps)
    return lines.assign(**about, clean=goal, corrupted=start, generations=1 + cost)


Estimates = tuple[Tensor, Sequence[float], float, Sequence[int], int]


def _quick(
    model: Model, corrupted: Row, clean: Outputs, run: Sampling, score: Callable[[Tensor], Tensor], goal: float, recompute: bool
) -> Estimates:
    """The gradient at the corrupted run: estimates [steps, sites], the scores of all sites together and of none, points, cost."""
    closed = torch.zeros(1, run.steps, len(clean.sites))
    scores, slopes = gradients(model, [corrupted], closed, clean, run, score, recompute)
    cost, together = 2 + recompute, goal
    mine = set(clean.sites)
    if not all(site in mine or (site.heads and mine.issuperset(site.heads)) for site in model.sites.cross):
        with torch.no_grad():  # they are not all that the text goes through
            together = float(score(gated(model, [corrupted], torch.ones_like(closed), clean, run))[0])
        cost += 1
    many = len(clean.sites)
    return slopes[0], [together] * many, float(scores[0]), [1] * many, cost


def _path(
    model: Model, corrupted: Row, clean: Outputs, run: Sampling, score: Callable[[Tensor], Tensor], goal: float, recompute: bool,
    points: int,
) -> Estimates:  # fmt: skip
    """The gradients along the gates of each layer, integrated."""
    estimates = torch.zeros(run.steps, len(clean.sites))
    together, used, cost = [0.0] * len(clean.sites), [0] * len(clean.sites), 0
    with torch.no_grad():
        start = float(score(gated(model, [corrupted], torch.zeros(1, run.steps, len(clean.sites)), clean, run))[0])
    for layer in dict.fromkeys(site.module for site in clean.sites):
        mine = [number for number, site in enumerate(clean.sites) if site.module == layer]
        only = clean.at(mine)
        with torch.no_grad():
            exact = float(score(gated(model, [corrupted], torch.ones(1, run.steps, len(mine)), only, run))[0])

        def slopes(place: float, only: Outputs = only) -> Tensor:
            gates = torch.full((1, run.steps, len(only.sites)), place)
            return gradients(model, [corrupted], gates, only, run, score, recompute)[1][0]

        total, many = integrated(slopes, exact - start, RESIDUAL * abs(goal - start), points)
        cost += (2 + recompute) * many
        estimates[:, mine] = total
        for number in mine:
            together[number], used[number] = exact, many
        cost += 1
    return estimates, together, start, used, cost + 1


def integrated(slopes: Callable[[float], Tensor], whole: float, near: float, points: int) -> tuple[Tensor, int]:
    """Integrate slopes over gates from 0 to 1 until their sum is near the known whole; returns them and at how many places they were.

    A piece of the way counts with the slopes in its middle; the piece whose slopes change most, compared with its neighbors, is
    divided in three, so that the points gather where a switch is.
    """
    pieces = [(1 / FIRST, slopes((i + 0.5) / FIRST), (i + 0.5) / FIRST) for i in range(FIRST)]
    while True:
        total = torch.stack([width * slope for width, slope, _ in pieces]).sum(0)
        if len(pieces) + 2 > points or abs(float(total.sum()) - whole) <= near:
            return total, len(pieces)
        heights = [float(slope.sum()) for _, slope, _ in pieces]
        unlike = [max(abs(heights[i] - other) for other in heights[max(0, i - 1) : i + 2]) for i in range(len(pieces))]
        most = int(np.argmax([width * change for (width, _, _), change in zip(pieces, unlike, strict=True)]))
        width, slope, place = pieces[most]
        third = width / 3
        sides = [(third, slopes(at), at) for at in (place - third, place + third)]
        pieces[most : most + 1] = [sides[0], (third, slope, place), sides[1]]
