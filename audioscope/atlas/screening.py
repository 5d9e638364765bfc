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
from scipy.stats import rankdata, spearmanr
from torch import Tensor

from audioscope.atlas.atlas import Atlas
from audioscope.atlas.localization import Chosen, Concepts, checked_sweep
from audioscope.edits import Which
from audioscope.errors import as_path, whole
from audioscope.gates import Outputs, gated, gradients, outputs, sound_of
from audioscope.model import Model
from audioscope.scoring.scorers import Scorer
from audioscope.sites import Site, named
from audioscope.stats import ratio_of_means
from audioscope.store import load_table, results_folder, run_units, save_table
from audioscope.tracing import Row, Sampling, SamplingKeywords
from audioscope.views import view
from audioscope.workers import Workers, checked_workers, spread

Mode = Literal["quick", "path"]
MODES: tuple[Mode, ...] = ("quick", "path")
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
FIRST = 3  # points of a path, in the middles of equal parts; three times as many contain them
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
            - residual: of the site's group, what all its sites together do beyond the sum of their estimates, as a share of the way
            - pairs

        Example:
            >>> screen = audioscope.screen(model, ["fast"], pairs=2, sites=[1], steps=2, progress=False)
            >>> len(screen.impacts()), len(screen.impacts(by_step=True))
            (1, 2)
        """
        keys = ["site", "step"] if by_step else ["site"]
        layers = {site.path: site.layer for site in self.sites}
        groups = {site.path: self._group(site) for site in self.sites}
        lines = []
        for concept, part in self.table.groupby("concept", sort=False, observed=True):
            whole_way = part.drop_duplicates(["pair", "seed"]).set_index(["pair", "seed"])
            way = (whole_way["clean"] - whole_way["corrupted"]).groupby(level="pair").mean()
            part = part.assign(group=part["site"].astype(str).map(groups))
            sums = part.groupby(["group", "pair", "seed"], observed=True)["estimate"].sum()
            ends = part.drop_duplicates(["group", "pair", "seed"]).set_index(["group", "pair", "seed"])
            left = ((ends["together"] - ends["corrupted"]) - sums).groupby(level=["group", "pair"]).mean()
            cells = part.groupby([*keys, "pair", "seed"], sort=False, observed=True)["estimate"].sum()
            wide = cells.groupby(level=[*keys, "pair"], sort=False).mean().unstack("pair")[way.index]
            for key, values in zip(wide.index, wide.to_numpy(), strict=True):
                site, *step = key if by_step else (key,)
                ratio = ratio_of_means(values, way.to_numpy())
                rest = float(left.xs(groups[site], level="group").mean() / ratio.denominator) if ratio.defined else np.nan
                where = {"concept": concept, "site": site, "layer": layers[site], **({"step": step[0]} if step else {})}
                lines.append(where | vars(ratio) | {"residual": rest})
        return named(pd.DataFrame(lines).rename(columns={"value": "impact"}), self.sites)

    def _group(self, site: Site) -> str:
        return "all" if self.settings["mode"] == "quick" else site.module

    def to_frame(self) -> pd.DataFrame:
        """The estimates of all cells, as `impacts` returns them.

        Returns:
            A table with one row per concept and site.
        """
        return self.impacts()

    def choose(self, top: int = 8, sample: int = 4, seed: int = 0) -> Chosen:
        """Choose sites for an exact sweep: `audioscope.localize(..., screened=screen.choose(12, 6))`.

        Args:
            top: How many of the sites with the largest estimated impact, of either sign, on any of the concepts.
            sample: How many of the others, drawn at random.
            seed: Of the draw.

        Returns:
            The sites.

        Raises:
            ValueError: There are fewer sites.

        Example:
            >>> screen = audioscope.screen(model, ["fast"], pairs=2, sites="cross", steps=2, progress=False)
            >>> chosen = screen.choose(top=2, sample=1)
            >>> len(chosen.top), len(chosen.sample), set(chosen.top) & set(chosen.sample)
            (2, 1, set())
        """
        many = len(self.sites)
        top = whole("top", top, 1, many, f", of {many} sites")
        sample = whole("sample", sample, 0, many - top, f", of the {many - top} sites that are left")
        strength = self.impacts().assign(strength=lambda t: t["impact"].abs()).groupby("site", sort=False)["strength"].max()
        ranked = strength.sort_values(ascending=False, kind="stable").index.tolist()
        drawn = np.random.default_rng(seed).choice(len(ranked) - top, sample, replace=False) + top
        return Chosen(tuple(ranked[:top]), tuple(ranked[i] for i in drawn))

    def compare(self, atlas: Atlas) -> pd.DataFrame:
        """Compare the estimates with exact impacts of the same sites: how well the screen ranks what patching finds.

        Args:
            atlas: An exact map of (some of) these sites, from `audioscope.localize`.

        Returns:
            A table with one row per shared concept whose exact impacts are defined, and one of all their cells ("all").

            - concept, cells
            - spearman: of estimated and exact impacts, raw scores
            - recall: how many of the three largest exact impacts are among the three largest estimates, 0 to 1
            - missed: the sites, as layers, that are not among the fifth with the largest estimates, of the atlas's own layers

        Raises:
            ValueError: They share no site or no concept.

        Example:
            >>> how = {"pairs": 4, "sites": [1, 2, 3], "steps": 5, "progress": False}
            >>> screen, atlas = audioscope.screen(model, ["fast"], **how), audioscope.localize(model, ["fast"], **how)
            >>> screen.compare(atlas)["cells"].tolist()
            [3, 3]
        """
        exact = atlas.impacts().query("defined")[["concept", "site", "layer", "impact"]]
        both = exact.merge(self.impacts()[["concept", "site", "impact"]], on=["concept", "site"], suffixes=("", "_estimated"))
        if both.empty:
            raise ValueError(
                "The screen and the atlas share no site of a concept with a defined impact: nothing can be compared."
            )
        lines = []
        for concept, part in [*both.groupby("concept", sort=False), ("all", both)]:
            rho = spearmanr(part["impact"], part["impact_estimated"]).statistic if len(part) > 2 else np.nan
            most = [set(part.nlargest(3, column).index) for column in ("impact", "impact_estimated")]
            recall, missed = np.nan, ""
            if concept != "all":
                recall = len(most[0] & most[1]) / len(most[0])
                rank = rankdata(-part["impact_estimated"]) / len(part)
                own = part["site"].isin(atlas.own_layers(str(concept)))
                missed = ", ".join(map(str, part["layer"][own & (rank > max(0.2, 1 / len(part)))]))
            lines.append((concept, len(part), rho, recall, missed))
        return pd.DataFrame(lines, columns=["concept", "cells", "spearman", "recall", "missed"])

    def chart(self, concept: str | None = None) -> Any:
        """The estimates for one concept as an Altair chart, sites by denoising steps.

        Args:
            concept: The concept's name; None is the first.

        Returns:
            An Altair chart, as `audioscope.atlas.screen_heatmap` draws it.

        Raises:
            ValueError: The concept has no defined estimate.

        Example:
            >>> screen = audioscope.screen(model, ["fast"], pairs=4, sites=[1, 2], steps=4, progress=False)
            >>> screen.chart().save("screen.html")
        """
        return view("Screen.chart")(self.impacts(by_step=True), self.concepts[0] if concept is None else concept)

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
        folder.mkdir(parents=True, exist_ok=True)
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
        if not (folder / "screen.parquet").exists():
            raise FileNotFoundError(f"{folder} holds no screen (screen.parquet): make one with audioscope.screen.")
        return cls(*load_table(folder / "screen.parquet", folder / "screen.json", FORMAT, NEEDED))

    def __repr__(self) -> str:
        found = self.impacts().query("defined").assign(strength=lambda t: t["impact"].abs()).nlargest(5, "strength")
        cost = self.table.drop_duplicates(["concept", "pair", "seed"])["generations"].mean()
        most = "; ".join(
            f"{row.concept} at {row.layer} ({row.impact:+.2f}, residual {row.residual:+.2f})" for row in found.itertuples()
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
    while all sites of a layer move together, layer by layer (integrated gradients): its estimates add up to what patching the
    layer does, and it costs as many generations as the table says.

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
        points: In mode "path", the largest number of places on a path, 3, 9 or 27; it ends where the residual is below 5 % of the way.
        recompute: Keep only one denoising step in memory, and compute each again for the gradient, for large models.
        out: Folder for the results, resumed if it exists; None is a temporary one.
        workers: In how many processes, as for `audioscope.localize`.
        progress: Whether to show a progress bar.
        **sampling: `steps`, `guidance`, `seconds`, `negative_prompt`; the model's defaults if omitted.

    Returns:
        The screen, saved in `out`.

    Raises:
        ValueError: Input is out of range, or no gradient reaches the audio from this scorer. Nothing has been generated then.
        UnknownName: A concept or site does not exist (a KeyError that lists the nearest).

    Example:
        >>> screen = audioscope.screen(model, ["fast"], pairs=1, steps=2, progress=False)
        >>> len(screen.table), screen.table["generations"].unique().tolist()  # 48 heads in 2 steps
        (96, [3])
    """
    if mode not in MODES:
        raise ValueError(f"mode is {mode!r}, expected 'quick' or 'path'.")
    if points not in (FIRST, 3 * FIRST, 9 * FIRST):
        raise ValueError(f"points is {points!r}, expected {FIRST}, {3 * FIRST} or {9 * FIRST}.")
    sweep = checked_sweep(model, concepts, pairs, seeds, "output", "sufficient", sites, split, scorer, (), None, None, sampling)
    if not callable(getattr(sweep.scorer, "scores", None)):
        raise ValueError(
            f"The {sweep.scorer.name} has no `scores` through which gradients reach the audio: screen with the listener, Musicnn or Clap."
        )
    share = partial(spread, model, checked_workers(workers))
    pairs = whole("pairs", pairs, 1)  # a plain number, for the files
    settings = {**sweep.settings(False), "mode": mode, "points": points, "recompute": recompute}
    settings = {
        name: value
        for name, value in settings.items()
        if name not in ("patch", "direction", "when", "window", "swaps_all_text", "clips")
    }
    folder = results_folder(out, "screen")
    work = partial(_do_unit, model, sweep.sites, sweep.scorer, sweep.run, mode, points, recompute)
    table = run_units(folder, settings, sweep.units(pairs), work, progress, "screen", share)
    names = [concept.name for concept in sweep.concepts]
    found = Screen(table, {**settings, "concepts": names, "pairs": pairs, "seeds": sweep.seeds})
    found.save(folder)
    return found


def screen_pair(
    model: Model, sites: Sequence[Site], concept: str, clean: str, corrupted: str, seed: int, scorer: Any, run: Sampling
) -> pd.DataFrame:  # fmt: skip
    """The quick estimates of one pair of prompts, in the columns of `Screen.impacts` by step; one pair has no interval."""
    unit = {"concept": concept, "pair": 0, "seed": seed, "clean": clean, "corrupted": corrupted}
    table = _do_unit(model, tuple(sites), scorer, run, "quick", FIRST, False, unit, Path())
    way = table["clean"] - table["corrupted"]
    return named(table.assign(impact=table["estimate"] / way, low=np.nan, high=np.nan, defined=way != 0), sites)


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
    if set(model.sites.cross) - set(clean.sites) and set(model.sites.select("cross.heads")) - set(clean.sites):
        with torch.no_grad():  # they are not all that the text goes through
            together = float(score(gated(model, [corrupted], torch.ones_like(closed), clean, run))[0])
        cost += 1
    many = len(clean.sites)
    return slopes[0], [together] * many, float(scores[0]), [1] * many, cost


def _path(
    model: Model, corrupted: Row, clean: Outputs, run: Sampling, score: Callable[[Tensor], Tensor], goal: float, recompute: bool,
    points: int,
) -> Estimates:  # fmt: skip
    """Gradients along the gates of each layer, averaged (the midpoint rule, which three times as many points refine)."""
    estimates = torch.zeros(run.steps, len(clean.sites))
    together, used, cost = [0.0] * len(clean.sites), [0] * len(clean.sites), 0
    with torch.no_grad():
        start = float(score(gated(model, [corrupted], torch.zeros(1, run.steps, len(clean.sites)), clean, run))[0])
    for layer in dict.fromkeys(site.module for site in clean.sites):
        mine = [number for number, site in enumerate(clean.sites) if site.module == layer]
        only = clean.at(mine)
        with torch.no_grad():
            exact = float(score(gated(model, [corrupted], torch.ones(1, run.steps, len(mine)), only, run))[0])
        slopes: dict[float, Tensor] = {}
        many = FIRST
        while True:
            new = [
                place for place in ((i + 0.5) / many for i in range(many)) if not any(abs(place - old) < 1e-9 for old in slopes)
            ]
            for place in new:
                gates = torch.full((1, run.steps, len(mine)), place)
                slopes[place] = gradients(model, [corrupted], gates, only, run, score, recompute)[1][0]
            cost += (2 + recompute) * len(new)
            mean = torch.stack(list(slopes.values())).mean(0)
            if many >= points or abs(float(mean.sum()) - (exact - start)) <= RESIDUAL * abs(goal - start):
                break
            many *= 3
        estimates[:, mine] = mean
        for number in mine:
            together[number], used[number] = exact, many
        cost += 1
    return estimates, together, start, used, cost + 1
