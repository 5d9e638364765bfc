"""Activation patching: give one layer another prompt, for every concept, pair, seed and site, and score the result."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import count as count_up
from pathlib import Path
from typing import Any, Literal, Unpack

import numpy as np
import pandas as pd
import torch
from scipy import stats

from audioscope.atlas.atlas import THRESHOLD, Atlas, ends, score_column
from audioscope.atlas.windows import THIRDS, WINDOWS, When, share_of_noise, third, window_of
from audioscope.audio import Clip
from audioscope.concepts import Concept, Concepts, choose
from audioscope.edits import PatchOutput, PatchText, Which
from audioscope.errors import among, choice, index_of, listed, of_kind, said, truth, whole
from audioscope.merging import Part, checked_part, merge_parts, share_of, units_of
from audioscope.model import Model
from audioscope.scoring.scorers import (
    Scorer,
    check_scores,
    completed,
    default_scorer,
    opinions,
    scores_of,
    second_opinions,
    try_scorers,
)
from audioscope.sites import Site, said_kind
from audioscope.store import content_hash, results_folder, run_units, safe_name
from audioscope.tracing import Row, Sampling, SamplingKeywords
from audioscope.workers import Workers, checked_workers, few_threads, processes, silence, spread, threads

Patch = Literal["text", "output"]
Direction = Literal["sufficient", "necessary"]


@dataclass(frozen=True)
class Chosen:
    """Sites for an exact sweep: those that a screen ranks highest, and a random sample of the others.

    `Screen.choose` makes one.

    Args:
        top: Module paths of the highest, best first.
        sample: Module paths drawn from the rest, as a check on what the screen misses.
        fingerprint: Of the weights that were screened; empty for a choice by hand, which fits any model.
        concepts: The names of the concepts that were screened; none for a choice by hand.
        prompts: What tells the prompts of each screened pair, as (concept, pair, hash); none for a choice by hand.

    Raises:
        ValueError: A path is no text, or appears twice.

    Example:
        >>> by_hand = audioscope.atlas.Chosen(top=(model.sites[2].path,), sample=(model.sites[7].path,))
        >>> atlas = audioscope.localize(model, ["fast"], pairs=1, screened=by_hand, steps=2, progress=False)
        >>> [site.layer for site in atlas.sites]
        [2, 7]
    """

    top: tuple[str, ...]
    sample: tuple[str, ...]
    fingerprint: str = ""
    concepts: tuple[str, ...] = ()
    prompts: tuple[tuple[str, int, str], ...] = ()

    def __post_init__(self) -> None:
        for name in ("top", "sample"):
            paths = listed(name, getattr(self, name), "a list of module paths")
            if wrong := [path for path in paths if not isinstance(path, str | Site)]:
                raise ValueError(f"{name} contains {said(wrong[0])}, expected module paths, as `model.sites` lists them.")
            object.__setattr__(self, name, tuple(map(str, paths)))
        both = self.top + self.sample
        if twice := [path for path in both if both.count(path) > 1]:
            raise ValueError(f"{twice[0]} is chosen twice: name each site once, in top or in sample.")

    def check(self, model: Model, concepts: Iterable[Concept]) -> None:
        """Raise ValueError unless the screen was of this model's weights and of these concepts.

        Args:
            model: The model that is to be patched.
            concepts: The concepts.

        Raises:
            ValueError: The weights are others, the screen did not look at one of the concepts or looked at other prompts, or a path
                is not of one site, or of one that is chosen already.
        """
        of_kind("model", model, Model)
        if self.fingerprint and self.fingerprint != model.fingerprint:
            raise ValueError(
                f"The screen is of other weights ({self.fingerprint}) than this model ({model.fingerprint}): screen this one."
            )
        several = {concept.name: concept for concept in concepts}
        if self.concepts and (unknown := sorted(several.keys() - set(self.concepts))):
            raise ValueError(
                f"The screen did not look at {', '.join(unknown)}, but at {', '.join(self.concepts)}: screen these, too."
            )
        now = {(name, pair.index): prompts_hash(pair.clean, pair.corrupted) for name in several for pair in several[name].pairs}
        for name, pair, prompts in self.prompts:
            if now.get((name, pair), prompts) != prompts:
                raise ValueError(f"The screen looked at other prompts of {name!r} (pair {pair}): screen these.")
        seen: dict[Site, str] = {}
        for path in self.top + self.sample:
            found = model.sites.select([path])
            if len(found) != 1:
                raise ValueError(f"{path!r} names {len(found)} sites, expected the path of one.")
            if found[0] in seen:
                raise ValueError(f"{seen[found[0]]} and {path} are the same site: name each once, in top or in sample.")
            seen[found[0]] = path


def prompts_hash(clean: str, corrupted: str) -> str:
    """What tells a pair's prompts, in few characters."""
    return content_hash([clean, corrupted])[:8]


SPREAD = 0.15  # standard deviation of one pair's impact on tiny, root mean square over its 252 cells: what a plan assumes


@dataclass(frozen=True)
class _Sweep:
    """Everything that decides a sweep's numbers, after all checks."""

    model: Model
    concepts: list[Concept]
    seeds: int
    patch: Patch
    direction: Direction
    sites: tuple[Site, ...]
    split: str
    scorer: Scorer
    also: tuple[Scorer, ...]
    run: Sampling
    batch_size: int | None
    when: When | int | None
    window: tuple[int, int] | None  # the half-open window of steps that `when` stands for

    def settings(self, clips: bool) -> dict[str, Any]:
        """What a folder of results must match to be resumed."""
        model = self.model
        return {
            **model.state, "patch": self.patch, "direction": self.direction,
            "sites": [s.to_dict() for s in self.sites], "split": self.split, "scorer": self.scorer.name,
            "scorer_fingerprint": self.scorer.fingerprint, "units": self.scorer.units,
            "calibrated": getattr(self.scorer, "calibrated", None),
            "also": {s.name: {"fingerprint": s.fingerprint, "units": s.units, "calibrated": getattr(s, "calibrated", None)}
                     for s in self.also},
            **self.run, "clips": clips,
            "when": self.when, "window": self.window, "rate": model.rate,
            "swaps_all_text": self.patch == "text" and self.sites == model.sites.cross and self.when is None,
        }  # fmt: skip

    def units(self, pairs: int) -> list[dict[str, Any]]:
        """Each concept, pair and seed, concept by concept, for the first `pairs` pairs."""
        return [
            {"concept": c.name, "pair": p.index, "seed": c.seed(p, n), "clean": p.clean, "corrupted": p.corrupted}
            for c in self.concepts for p in c.split(self.split)[:pairs] for n in range(self.seeds)
        ]  # fmt: skip

    def sound(self, unit: dict[str, Any], **changed: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """The audio [rows, channels, samples] of a unit, and which rows are finite."""
        run = self.model.run_in_batches(self.rows(unit), self.batch_size, **{**self.run, **changed})
        assert run.audio is not None
        return run.audio, run.finite

    def rows(self, unit: dict[str, Any]) -> list[Row]:
        """Clean, corrupted, and one row for each patched site: patched into the corrupted run, or into the clean one."""
        rows = [Row(unit["clean"], unit["seed"]), Row(unit["corrupted"], unit["seed"])]
        settings = {"patch": self.patch, "direction": self.direction, "window": self.window}
        return rows + [patched_row(settings, unit, site) for site in self.sites]


def patched_row(settings: Mapping[str, Any], unit: Mapping[str, Any], site: Site) -> Row:
    """The row of a sweep in which one site is patched, to generate one of its clips again.

    Args:
        settings: Those of an atlas; they say what is patched into what, and in which steps.
        unit: With the prompts clean and corrupted, and the seed.
        site: The site to patch.

    Returns:
        The row, for `Model.run`.

    Example:
        >>> atlas = audioscope.datasets.atlas()
        >>> unit = {"clean": "a fast song", "corrupted": "a slow song", "seed": 0}
        >>> row = audioscope.atlas.patched_row(atlas.settings, unit, atlas.sites[1])
        >>> row.prompt, row.edits[0].prompt
        ('a slow song', 'a fast song')
    """
    for name, given, needed in (("settings", settings, ("patch", "direction")), ("unit", unit, ("clean", "corrupted", "seed"))):
        if not isinstance(given, Mapping | pd.Series) or any(key not in given for key in needed):
            raise ValueError(f"{name} is {said(given)}, expected a dict with {', '.join(needed)}.")
    choice("patch", settings["patch"], ("text", "output"))
    kind = PatchText if settings["patch"] == "text" else PatchOutput
    into, source = ends(settings["direction"])
    return Row(unit[into], unit["seed"], (kind(site, unit[source], steps=window_of(settings)),))


def _window(model: Model, when: When | int | None, run: Sampling, prompt: str) -> tuple[int, int] | None:
    """The window of steps that `when` stands for; a generation without decoding gives the noise levels.

    Raises ValueError for input out of range.
    """
    steps = run.steps
    if when is None:
        return None
    if (step := index_of(when)) is not None:
        step = whole("when", step, 0, steps - 1)
        return step, step + 1
    if not among(when, WINDOWS + THIRDS):
        raise ValueError(
            f"when is {said(when)}, expected one of {', '.join(WINDOWS + THIRDS)}, the number of a step, or None for every step."
        )
    if steps < len(WINDOWS):
        raise ValueError(f"when is {when!r}, a third of the steps, but there are only {steps} steps: use at least 3.")
    if when in THIRDS:
        return third(THIRDS.index(when), steps)
    return share_of_noise(WINDOWS.index(when), model.run([Row(prompt, 0)], decode=False, **run).log_snr.numpy())


def checked_sweep(
    model: Model, concepts: Concepts, pairs: int, seeds: int, patch: Patch | None, direction: Direction, sites: Which, split: str,
    scorer: Scorer | None, also: Iterable[Scorer] | None, batch_size: int | None, when: When | int | None,
    sampling: SamplingKeywords,
) -> _Sweep:  # fmt: skip
    """Check all input of a sweep before anything is generated."""
    of_kind("model", model, Model).check_unsteered("a sweep")
    chosen = choose(concepts)
    judge_by = default_scorer(model) if scorer is None else completed(scorer)
    others = second_opinions(judge_by) if also is None else opinions(also)
    names = [each.name for each in (judge_by, *others)]
    if len(set(names)) < len(names):
        raise ValueError(f"Duplicate scorer names: {names}. Give each scorer its own name.")
    where = model.sites.select(sites)
    if patch is None:
        patch = "text" if all(site.kind == "cross" for site in where) else "output"
    choice("patch", patch, ("text", "output"), ", or None")
    choice("direction", direction, ("sufficient", "necessary"))
    if patch == "text" and (other := next((s for s in where if s.kind != "cross"), None)):
        raise ValueError(
            f"Only cross-attention modules have text to swap, but {other.path} is {said_kind(other.kind)}: use patch='output'."
        )
    pairs, seeds = whole("pairs", pairs, 1), whole("seeds", seeds, 1)
    for concept in chosen:
        if len(concept.split(split)) < pairs:
            raise ValueError(
                f"pairs is {pairs}, but {concept.name!r} has only {len(concept.split(split))} pairs in split {split!r}."
            )
        check_scores(judge_by, concept.name)
    if batch_size is not None:
        batch_size = whole("batch_size", batch_size, 1, why=", or None for all rows of a unit at once")
    when = when if (step := index_of(when)) is None else step
    run = model.sampling(**sampling)
    try_scorers((judge_by, *others), model, run.seconds)
    sweep = _Sweep(model, chosen, seeds, patch, direction, where, split, judge_by, others, run, batch_size, when, None)
    texts = list(dict.fromkeys(u[side] for u in sweep.units(pairs) for side in ("clean", "corrupted")))
    for text in texts:
        model.check_prompt(text)
    return replace(sweep, window=_window(model, when, run, texts[0]))


def localize(
    model: Model,
    concepts: Concepts = None,
    pairs: int = 8,
    seeds: int = 1,
    patch: Patch | None = None,
    *,
    direction: Direction = "sufficient",
    sites: Which = "cross",
    split: str = "localize",
    scorer: Scorer | None = None,
    also: Iterable[Scorer] | None = None,
    when: When | int | None = None,
    until_stable: int | None = None,
    screened: Chosen | Any = None,
    batch_size: int | None = None,
    out: str | Path | None = None,
    clips: bool = True,
    workers: Workers = None,
    part: Part = None,
    progress: bool = True,
    **sampling: Unpack[SamplingKeywords],
) -> Atlas:
    """Find which sites carry which concepts by activation patching, one site at a time (TADA, section 3, eq. 2 and 3).

    Each pair and seed is a unit, with one batch of L + 2 generations for L sites: clean, corrupted, and one in which a single site
    is patched. A scorer turns each clip into a number, and the impact of a site is the share of the way from corrupted to clean
    that its patch covers.

    Args:
        model: The model.
        concepts: Names of shipped ones, Concept values, or your own pairs, as for `audioscope.load_concepts`; None is all 21.
        pairs: Pairs of each concept.
        seeds: Seeds of each pair.
        patch: "text" gives one site the other prompt's text; "output" copies its output from the other row of the batch. None is
            "text" if all sites are cross-attention modules, which alone have text, else "output".
        direction: "sufficient" patches clean into the corrupted run (is this site enough?), as the paper does; "necessary" patches
            corrupted into the clean run (does the concept break without it?).
        sites: Cross-attention by default; also "self", "cross.heads" (each head by itself), "feed_forward", "block" or any other
            selection of `Sites.select`.
        split: Which pairs of a concept, see `Concept.split`.
        scorer: Measures the concept; None is the model's default.
        also: Further scorers of the same clips, for `Atlas.heard_by`; None adds the judge to the listener of `tiny`, and nothing to
            another scorer.
        when: Patch only in the "early", "middle" or "late" part of the denoising, each an equal share of the log signal-to-noise
            ratio; in the "first third", "middle third" or "last third" of the steps, whatever their noise; or in one step, by its
            number from 0. None is all steps.
        until_stable: Stop adding pairs when the functional set, no longer empty, has not changed for this many pairs; `pairs` is then
            the maximum. A stop that looks at the result makes the final intervals a little too narrow; the atlas's settings say so.
        screened: In place of `sites`: what `audioscope.screen` ranks highest, and a random sample of the rest as a check on what it
            misses. A screen, for `screen.choose()`, or what its `choose` gave.
        batch_size: Rows at a time, if a unit's L + 2 rows do not fit in memory; the rows they are patched from are generated again
            for each part. None is all at once.
        out: Folder for the results, resumed if it exists; None is a temporary one.
        clips: Whether to keep the sound.
        workers: In how many processes; the numbers do not depend on it. None takes as many as there are cores and memory, or GPUs,
            for, unless the sweep is too small to gain by it; "ray" or "ray://address" runs on a Ray cluster. A model that was
            changed since it was loaded stays in this process.
        part: Do only one of several equal parts, such as "3/8", for batch systems; `audioscope.atlas.merge` puts them together. Parts
            may use one folder, or a folder each. None is the whole sweep.
        progress: Whether to show a progress bar.
        **sampling: `steps`, `guidance`, `seconds`, `negative_prompt`; the model's defaults if omitted.

    Returns:
        The atlas, saved in `out`; of one part of a sweep, only what that part did, and not saved.

    Raises:
        ValueError: Input is out of range, or `out` holds another sweep. Nothing has been generated then.
        UnknownName: A concept or site does not exist (a KeyError that lists the nearest).

    Example:
        >>> atlas = audioscope.localize(model, ["fast"], pairs=2, sites=[1, 2], steps=4, progress=False)
        >>> atlas.impacts()[["concept", "layer", "pairs"]].values.tolist()
        [['fast', 1, 2], ['fast', 2, 2]]
    """
    clips = truth("clips", clips)
    if screened is not None:
        if not (isinstance(sites, str) and sites == "cross"):
            raise ValueError(f"screened chooses the sites, but sites is {said(sites)}: give one of them.")
        if hasattr(screened, "impacts") and hasattr(screened, "choose"):  # a screen, from a module that imports this one
            screened = screened.choose()
        if not isinstance(screened, Chosen):
            raise TypeError(f"screened is {said(screened)}, expected a screen of audioscope.screen, or what its choose gave.")
        sites = [*screened.top, *screened.sample]
    sweep = checked_sweep(model, concepts, pairs, seeds, patch, direction, sites, split, scorer, also, batch_size, when, sampling)
    if screened is not None:
        screened.check(model, sweep.concepts)
    if until_stable is not None:
        until_stable = whole("until_stable", until_stable, 1, pairs - 1, f", less than the {pairs} pairs")
    share, mine = partial(spread, model, checked_workers(workers)), checked_part(part)
    if mine is not None and until_stable is not None:
        raise ValueError("until_stable looks at the whole sweep, so it cannot be combined with part.")
    if mine is not None and out is None:
        raise ValueError("part needs out=, the folder in which its results are found for merging.")
    pairs, seeds = whole("pairs", pairs, 1), sweep.seeds  # as plain numbers, for the files
    folder = results_folder(out, "atlas")
    settings = sweep.settings(clips)
    if screened is not None:
        settings["screened"] = {"top": list(screened.top), "sample": list(screened.sample)}
    groups = {c.name: {"group": c.group, "changes": sorted(c.changes)} for c in sweep.concepts}
    more = {"concepts": list(groups), "groups": groups, "seeds": seeds, "until_stable": until_stable}
    work = partial(_do_unit, sweep, clips)

    def atlas_of(count: int, desc: str) -> Atlas:
        result = {**settings, **more, "pairs": count}
        units = units_of(mine, sweep.units(count), folder, "atlas", settings, result)
        table = run_units(folder, settings, units, work, progress, desc, share)
        there = set(table["concept"])
        return Atlas(table, {**result, "concepts": [name for name in groups if name in there]}, folder)

    if until_stable is None:
        atlas = atlas_of(pairs, "atlas")
    else:
        rounds: list[list[str]] = []
        for count in range(1, pairs + 1):
            atlas = atlas_of(count, f"atlas, pair {count} of at most {pairs}")
            rounds.append(atlas.functional)
            # an empty set may be for lack of pairs
            if rounds[-1] and rounds[-until_stable - 1 :] == [rounds[-1]] * (until_stable + 1):
                break
    if mine is None:
        atlas.save(folder)
    return atlas


def merge(folders: str | Path | Iterable[str | Path], out: str | Path) -> Atlas:
    """Put the parts of a sweep together that `localize(..., part="3/8")` did, without the model.

    Args:
        folders: The folders of the parts, or the one that they all used.
        out: Folder for the whole sweep, which may be one of them. `localize` with the same arguments, without part, resumes it.

    Returns:
        The atlas, saved in `out`.

    Raises:
        FileNotFoundError: A folder holds no part of a sweep.
        ValueError: The parts are of different sweeps, or units are missing; the message names the parts that lack them.

    Example:
        >>> for part in ("1/2", "2/2"):
        ...     there = audioscope.localize(model, ["fast"], 2, sites=[1], steps=2, part=part, out="parts", progress=False)
        >>> audioscope.atlas.merge("parts", "merged").table["pair"].unique().tolist()
        [0, 1]
    """
    table, settings, folder = merge_parts(
        folders, out, "atlas", ("concept", "pair", "seed", "row", "site", "layer", "scored", "score", "clip")
    )
    atlas = Atlas(table, settings, folder)
    atlas.save(folder)
    return atlas


@dataclass(frozen=True)
class Plan:
    """What a sweep will cost and how precise its numbers will be; prints as a few lines.

    `audioscope.atlas.plan` makes one.

    Args:
        concepts: The number of concepts.
        sites: The number of sites.
        units: The number of units: concepts times pairs times seeds.
        generations: How many clips are generated, sites + 2 for each unit.
        clips: How many clips are kept.
        disk_mb: The size of the clips, in MB.
        hours: The time on this machine with these workers, in h.
        workers: How many processes do units at the same time.
        cell_half_width: Half the width of the 95 % interval of one impact.
        mean_half_width: Half the width of the 95 % interval of a site's mean over concepts.
        threshold: The smallest mean impact of a functional layer.
        enough_pairs: The number of pairs from which the mean's interval is at most half the threshold on either side.

    Example:
        >>> plan = audioscope.atlas.plan(model, ["violin"], pairs=34, sites=[0, 1], steps=1)
        >>> plan.units, plan.generations
        (34, 136)
    """

    concepts: int
    sites: int
    units: int
    generations: int
    clips: int
    disk_mb: float
    hours: float
    workers: int
    cell_half_width: float
    mean_half_width: float
    threshold: float
    enough_pairs: int

    def __repr__(self) -> str:
        return (
            f"Plan: {self.units} units of {self.sites} sites + 2 = {self.generations} generations, {self.clips} clips "
            f"({self.disk_mb:,.0f} MB), about {_duration(self.hours)} on this machine "
            f"with {self.workers} worker{'s' if self.workers > 1 else ''}\n"
            f"  intervals of about +-{self.cell_half_width:.2f} for one concept in one layer and "
            f"+-{self.mean_half_width:.3f} for a layer's mean over {self.concepts} concepts "
            f"(functional from {self.threshold:.3f}), if pairs vary as much as on tiny"
        )


def plan(
    model: Model,
    concepts: Concepts = None,
    pairs: int = 8,
    seeds: int = 1,
    patch: Patch | None = None,
    *,
    direction: Direction = "sufficient",
    sites: Which = "cross",
    split: str = "localize",
    scorer: Scorer | None = None,
    also: Iterable[Scorer] | None = None,
    when: When | int | None = None,
    batch_size: int | None = None,
    clips: bool = True,
    workers: Workers = None,
    part: Part = None,
    **sampling: Unpack[SamplingKeywords],
) -> Plan:
    """What `localize` would cost with these arguments, those that decide it: one unit is run at 1 and at 3 steps, and timed.

    For sites that a screen chose, give `sites=[*chosen.top, *chosen.sample]`.

    Warns if the interval of a layer's mean over concepts will be wider than half the threshold on either side. How much
    pairs vary is taken from `tiny`; a large model with prompts that hardly change its score needs more pairs.

    Args:
        model, concepts, pairs, seeds, patch, direction, sites, split, scorer, also, when, batch_size, clips: As for `localize`.
        workers: In how many processes; None is as many as there are cores and memory, or GPUs, for. Of a Ray cluster it is asked how
            many actors it has room for, and the time is that of actors as fast as this machine.
        part: Of how many parts one is planned, such as "3/8"; None is the whole sweep.
        **sampling: `steps`, `guidance`, `seconds`, `negative_prompt`; the model's defaults if omitted.

    Returns:
        The plan, which prints as a few lines.

    Raises:
        ValueError: Input is out of range.

    Example:
        >>> plan = audioscope.atlas.plan(model, ["fast", "drums"], pairs=34, steps=2)
        >>> plan.units, plan.generations
        (68, 952)
    """
    clips = truth("clips", clips)
    asked, mine = checked_workers(workers), checked_part(part)
    sweep = checked_sweep(model, concepts, pairs, seeds, patch, direction, sites, split, scorer, also, batch_size, when, sampling)
    every = sweep.units(pairs)
    units = len(share_of(mine, every))
    shared = processes(asked, model, units)
    unit = every[0]
    timed = replace(sweep, window=None)  # the few steps that are timed have no thirds
    times, samples = {}, 0
    for count in (1, 1, 3):  # the first run is a warm-up
        with few_threads(threads(model)):
            began = time.perf_counter()
            audio, _ = timed.sound(unit, steps=count)
            for scorer in (sweep.scorer, *sweep.also):
                scores_of(scorer, audio, model.rate)
            samples = audio[0].numel()
            times[count] = time.perf_counter() - began
    step = max(0.0, (times[3] - times[1]) / 2)
    rows = len(sweep.sites) + 2
    kept = units * rows if clips else 0
    many, threshold = len(sweep.concepts), THRESHOLD / len(sweep.sites)
    enough = next(n for n in count_up(2) if _half_width(n, many) <= threshold / 2)
    result = Plan(
        concepts=len(sweep.concepts), sites=len(sweep.sites), units=units, generations=units * rows, clips=kept,
        disk_mb=kept * samples * 1.2 / 1e6,  # 16-bit FLAC takes about 60 %
        hours=units * (times[1] - step + step * sweep.run["steps"]) / shared / 3600, workers=shared,
        cell_half_width=_half_width(pairs, 1), mean_half_width=_half_width(pairs, many), threshold=threshold, enough_pairs=enough,
    )  # fmt: skip
    if pairs < enough:
        warnings.warn(
            f"With {pairs} pairs, a layer's mean will be known only to +-{result.mean_half_width:.3f}, and a functional layer "
            f"needs {threshold:.3f}: take about {enough} pairs.", stacklevel=2,
        )  # fmt: skip
    return result


def _half_width(pairs: int, concepts: int) -> float:
    """Of the 95 % interval of a mean over concepts of one layer's impact; infinite for one pair."""
    if pairs < 2:
        return float("inf")
    return float(stats.t.ppf(0.975, concepts * (pairs - 1))) * SPREAD / (pairs * concepts) ** 0.5


def _duration(hours: float) -> str:
    return f"{hours:.1f} h" if hours >= 1 else f"{hours * 60:.0f} min" if hours * 60 >= 1 else f"{hours * 3600:.0f} s"


def _do_unit(sweep: _Sweep, clips: bool, unit: dict[str, Any], folder: Path, lost: bool = False) -> pd.DataFrame:
    """All rows of one pair and seed in one batch: a table with one line per row and scored concept. lost: none could be generated."""
    model = sweep.model
    audio, finite = silence(model, len(sweep.sites) + 2, sweep.run) if lost else sweep.sound(unit)
    failed = ~finite
    scorers = {"score": sweep.scorer, **{score_column(s.name): s for s in sweep.also}}
    scores = {name: scores_of(scorer, audio, model.rate) for name, scorer in scorers.items()}
    for table in scores.values():
        table[failed.numpy()] = np.nan
    lines = []
    labels = [("clean", "", -1), ("corrupted", "", -1), *(("patched", s.path, s.layer) for s in sweep.sites)]
    for i, (row, site, layer) in enumerate(labels):
        file = ""
        if clips and not failed[i]:
            name = row if row != "patched" else site.replace("/", "_")
            file = f"clips/{safe_name(unit['concept'])}/{unit['pair']:03d}-{content_hash(unit)[:8]}/{name}.flac"
            Clip(audio[i].numpy(), model.rate).save(folder / file)
        lines.append({"row": row, "site": site, "layer": layer, "clip": file, "failed": bool(failed[i])})
    rows = pd.DataFrame(lines)
    parts = [
        rows.assign(scored=concept, **{name: table.get(concept, np.nan) for name, table in scores.items()})
        for concept in scores["score"]
    ]
    frame = pd.concat(parts, ignore_index=True)
    metadata = {"model": model.name, "concept": unit["concept"], "pair": unit["pair"], "seed": unit["seed"],
             "clean_prompt": unit["clean"], "corrupted_prompt": unit["corrupted"]}  # fmt: skip
    return frame.assign(**metadata)
