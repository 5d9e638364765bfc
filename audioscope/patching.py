"""Activation patching: give one layer another prompt, for every concept, pair, seed and site, and score what comes out."""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import count as count_up
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd
import torch
from scipy import stats

from audioscope.atlas import THRESHOLD, Atlas, ends, score_column
from audioscope.audio import Clip
from audioscope.concepts import Concept, choose
from audioscope.edits import PatchOutput, PatchText, Which
from audioscope.model import Model
from audioscope.scorers import Scorer, default_scorer, second_opinions
from audioscope.sites import Site
from audioscope.sweep import key, run_units, safe_name, seed_of
from audioscope.tracing import Row

Patch = Literal["text", "output"]
Direction = Literal["sufficient", "necessary"]
When = Literal["early", "middle", "late", "first third", "middle third", "last third"]
Concepts: TypeAlias = Iterable[str | Concept] | str | Path | pd.DataFrame | None
WINDOWS: tuple[When, ...] = ("early", "middle", "late")  # equal shares of the log signal-to-noise ratio
THIRDS: tuple[When, ...] = ("first third", "middle third", "last third")  # of the steps, whatever their noise
SPREAD = 0.15  # standard deviation of one pair's impact on tiny, root mean square over its 252 cells: what a plan reckons with


@dataclass(frozen=True)
class _Sweep:
    """Everything that decides a sweep's numbers, checked."""

    model: Model
    concepts: list[Concept]
    seeds: int
    patch: Patch
    direction: Direction
    sites: tuple[Site, ...]
    split: str
    scorer: Scorer
    also: tuple[Scorer, ...]
    run: dict[str, Any]  # steps, guidance, seconds, negative_prompt
    batch: int | None
    when: When | int | None
    window: tuple[int, int] | None  # the half-open window of steps that `when` means here

    def settings(self, clips: bool) -> dict[str, Any]:
        """What a folder of results must agree with to be resumed."""
        model = self.model
        return {
            "model": model.name, "fingerprint": model.fingerprint, "patch": self.patch, "direction": self.direction,
            "sites": [asdict(s) for s in self.sites], "split": self.split, "scorer": self.scorer.name,
            "scorer_fingerprint": self.scorer.fingerprint, "units": self.scorer.units, "calibrated": getattr(self.scorer, "calibrated", None),
            "also": {s.name: {"fingerprint": s.fingerprint, "units": s.units, "calibrated": getattr(s, "calibrated", None)} for s in self.also},
            **self.run, "clips": clips,
            "when": self.when, "window": self.window, "rate": model.adapter.sampling_rate(model.pipe),
            "swaps_all_text": self.patch == "text" and self.sites == model.sites.cross and self.when is None,
        }  # fmt: skip

    def units(self, pairs: int) -> list[dict[str, Any]]:
        """Each concept, pair and seed, concept by concept, for the first `pairs` pairs."""
        return [
            {"concept": c.name, "pair": p.number, "seed": seed_of(c.name, p.number, n), "clean": p.clean, "corrupted": p.corrupted}
            for c in self.concepts for p in c.split(self.split)[:pairs] for n in range(self.seeds)
        ]  # fmt: skip

    def sound(self, unit: dict[str, Any], **changed: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """The audio [rows, channels, samples] of a unit, and which rows are finite."""
        rows, settings = self.rows(unit), {**self.run, **changed}
        size = self.batch or len(rows)
        runs = [self.model.run(rows[start : start + size], **settings) for start in range(0, len(rows), size)]
        return torch.cat([run.audio for run in runs if run.audio is not None]), torch.cat([run.finite for run in runs])

    def rows(self, unit: dict[str, Any]) -> list[Row]:
        """Clean, corrupted, and one row for each site that is patched: into the corrupted run, or out of the clean one."""
        rows = [Row(unit["clean"], unit["seed"]), Row(unit["corrupted"], unit["seed"])]
        settings = {"patch": self.patch, "direction": self.direction, "window": self.window}
        return rows + [patched_row(settings, unit, site) for site in self.sites]


def patched_row(settings: Mapping[str, Any], unit: Mapping[str, Any], site: Site) -> Row:
    """The row of a sweep in which one site is patched. settings: those of an atlas; unit: clean, corrupted and seed."""
    kind = PatchText if settings["patch"] == "text" else PatchOutput
    into, source = ends(settings["direction"])
    return Row(unit[into], unit["seed"], (kind(site, unit[source], steps=window_of(settings)),))


def window_of(settings: Mapping[str, Any]) -> tuple[int, int] | None:
    """The half-open window of steps in which an atlas's sweep patched; None is all of them."""
    if settings.get("window") is not None:
        return settings["window"][0], settings["window"][1]
    if settings.get("when") is None:
        return None
    return third(WINDOWS.index(settings["when"]), settings["steps"])  # an older audioscope's thirds


def third(place: int, steps: int) -> tuple[int, int]:
    """The half-open window of steps that is the first, middle or last third of a generation; place: 0, 1 or 2."""
    return round(steps * place / 3), round(steps * (place + 1) / 3)


def share_of_noise(place: int, log_snr: np.ndarray) -> tuple[int, int]:
    """The half-open window of steps whose log signal-to-noise ratio lies in one third of its range; place: 0, 1 or 2.

    log_snr: [steps], rising, of the noise levels at which the denoiser is asked; a first step of pure noise (-infinity) belongs to
    the first third. Raises ValueError where no step lies in it.
    """
    known = log_snr[np.isfinite(log_snr)]
    borders = known.min() + np.array([1, 2]) / 3 * np.ptp(known) if len(known) else np.zeros(2)
    mine = np.flatnonzero(np.searchsorted(borders, log_snr, side="right") == place)
    if not len(mine):
        raise ValueError(
            f"None of the {len(log_snr)} steps lies in the {WINDOWS[place]} third of the log signal-to-noise ratio: take more steps."
        )
    return int(mine[0]), int(mine[-1]) + 1


def _window(model: Model, when: When | int | None, run: dict[str, Any], prompt: str) -> tuple[int, int] | None:
    """What `when` means for these steps; one short generation tells the noise levels. Raises ValueError for input out of range."""
    steps = run["steps"]
    if when is None:
        return None
    if isinstance(when, int) and not isinstance(when, bool):
        if not 0 <= when < steps:
            raise ValueError(f"when is {when}, expected a step from 0 to {steps - 1}.")
        return when, when + 1
    if when not in WINDOWS + THIRDS:
        raise ValueError(
            f"when is {when!r}, expected one of {', '.join(WINDOWS + THIRDS)}, a step's number, or None for every step."
        )
    if steps < len(WINDOWS):
        raise ValueError(f"when is {when!r}, a third of the steps, but there are only {steps} steps: take at least 3.")
    if when in THIRDS:
        return third(THIRDS.index(when), steps)
    return share_of_noise(WINDOWS.index(when), model.run([Row(prompt, 0)], decode=False, **run).log_snr.numpy())


def _sweep(
    model: Model, concepts: Concepts, pairs: int, seeds: int, patch: Patch, direction: Direction, sites: Which, split: str,
    scorer: Scorer | None, also: Iterable[Scorer] | None, negative_prompt: str | None, batch: int | None, when: When | int | None,
    given: dict[str, Any],
) -> _Sweep:  # fmt: skip
    """Check all input of a sweep before anything is generated."""
    model.check_unsteered("a sweep")
    chosen = choose(concepts)
    judge_by = default_scorer(model) if scorer is None else scorer
    beside = second_opinions(judge_by) if also is None else tuple(also)
    for each in (judge_by, *beside):
        each.check(model)
    names = [each.name for each in (judge_by, *beside)]
    if len(set(names)) < len(names):
        raise ValueError(f"Two scorers have one name: {names}. Give each a name of its own.")
    where = model.sites.select(sites)
    if patch not in ("text", "output"):
        raise ValueError(f"patch is {patch!r}, expected 'text' or 'output'.")
    if direction not in ("sufficient", "necessary"):
        raise ValueError(f"direction is {direction!r}, expected 'sufficient' or 'necessary'.")
    if patch == "text" and any(s.kind != "cross" for s in where):
        raise ValueError("Self-attention sites have no text to swap: use patch='output' for them.")
    if pairs < 1 or seeds < 1:
        raise ValueError(f"pairs is {pairs} and seeds is {seeds}, expected at least 1 of each.")
    for concept in chosen:
        if len(concept.split(split)) < pairs:
            raise ValueError(
                f"{concept.name!r} has {len(concept.split(split))} pairs in split {split!r}, {pairs} were asked for."
            )
        if concept.name not in judge_by.concepts:
            raise ValueError(f"The {judge_by.name} cannot score {concept.name!r}: it knows {', '.join(judge_by.concepts)}.")
    if batch is not None and batch < 1:
        raise ValueError(f"batch is {batch}, expected at least 1 row, or None for a unit's rows all at once.")
    run = {**model.settings(**given), "negative_prompt": negative_prompt}
    sweep = _Sweep(model, chosen, seeds, patch, direction, where, split, judge_by, beside, run, batch, when, None)
    texts = list(dict.fromkeys(u[side] for u in sweep.units(pairs) for side in ("clean", "corrupted")))
    for text in texts:
        model.check_prompt(text)
    return replace(sweep, window=_window(model, when, run, texts[0]))


def localize(
    model: Model,
    concepts: Concepts = None,
    pairs: int = 8,
    seeds: int = 1,
    patch: Patch = "text",
    *,
    direction: Direction = "sufficient",
    sites: Which = "cross",
    split: str = "localise",
    scorer: Scorer | None = None,
    also: Iterable[Scorer] | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    seconds: float | None = None,
    when: When | int | None = None,
    until_stable: int | None = None,
    negative_prompt: str | None = None,
    batch: int | None = None,
    out: str | Path | None = None,
    clips: bool = True,
    progress: bool = True,
) -> Atlas:
    """Find which sites carry which concepts by activation patching, one site at a time (TADA, section 3).

    concepts: names of shipped ones, Concept values, a CSV or DataFrame of pairs; None is all 21.
    pairs, seeds: units are each pair and seed, with one batch of L + 2 generations: clean, corrupted, each single site.
    patch: "text" gives one site the other prompt's text; "output" copies its output from the other row of the batch.
    direction: "sufficient" patches clean into the corrupted run (is this site enough?), as the paper does; "necessary" patches
    corrupted into the clean run (does the concept break without it?).
    sites: cross-attention by default; "self" needs patch="output".
    when: patch only in the "early", "middle" or "late" part of the denoising, each an equal share of the log signal-to-noise ratio; in the
    "first third", "middle third" or "last third" of the steps, whatever their noise; or in one step, by its number. None is all of them.
    until_stable: stop adding pairs when the functional set, no longer empty, has not changed for so many; `pairs` is then the
    most to run. A stop that looks at the result makes the final intervals a little too narrow; the atlas's settings say so.
    scorer: None is the model's own. also: further scorers that hear the same clips, for `Atlas.heard_by`; None is the judge beside
    the listener of `tiny`, and nothing beside another scorer.
    negative_prompt: what stands in the unconditional branch, instead of nothing. batch: rows at a time, where a unit's L + 2 are
    too many for the memory; the clips they are patched from are made again for each part.
    out: folder for the results, resumed when it is there; a temporary one if None. clips: also keep the sound.
    Raises ValueError, or UnknownName (a KeyError), for input out of range, before anything is generated.
    """
    given = {"steps": steps, "guidance": guidance, "seconds": seconds}
    sweep = _sweep(
        model, concepts, pairs, seeds, patch, direction, sites, split, scorer, also, negative_prompt, batch, when, given
    )
    if until_stable is not None and not 1 <= until_stable < pairs:
        raise ValueError(f"until_stable is {until_stable}, expected 1 to {pairs - 1}: less than the {pairs} pairs.")
    folder = Path(out) if out is not None else Path(tempfile.mkdtemp(prefix="audioscope-atlas-"))
    settings = sweep.settings(clips)
    groups = {c.name: {"group": c.group, "changes": sorted(c.changes)} for c in sweep.concepts}
    facts = {
        **settings,
        "concepts": [c.name for c in sweep.concepts],
        "groups": groups,
        "seeds": seeds,
        "until_stable": until_stable,
    }

    def work(unit: dict[str, Any]) -> pd.DataFrame:
        return _do_unit(sweep, unit, folder if clips else None)

    def atlas_of(count: int, desc: str) -> Atlas:
        table = run_units(folder, settings, sweep.units(count), work, progress, desc)
        return Atlas(table, {**facts, "pairs": count}, folder)

    if until_stable is None:
        atlas = atlas_of(pairs, "atlas")
    else:
        rounds: list[list[str]] = []
        for count in range(1, pairs + 1):
            atlas = atlas_of(count, f"atlas, pair {count} of at most {pairs}")
            rounds.append(atlas.functional)
            if rounds[-1] and rounds[-until_stable - 1 :] == [rounds[-1]] * (
                until_stable + 1
            ):  # empty may mean: nobody knows yet
                break
    atlas.save(folder)
    return atlas


@dataclass(frozen=True)
class Plan:
    """What a sweep will cost and how sure its numbers will be; prints as a few lines."""

    concepts: int
    sites: int
    units: int
    generations: int
    clips: int
    disk_mb: float
    hours: float
    cell_half_width: float  # of the 95 % interval of one impact
    mean_half_width: float  # of a site's mean over concepts
    threshold: float
    enough_pairs: int  # for the mean's interval to be narrower than half the threshold

    def __repr__(self) -> str:
        return (
            f"Plan: {self.units} units of {self.sites} sites + 2 = {self.generations} generations, {self.clips} clips "
            f"({self.disk_mb:,.0f} MB), about {_duration(self.hours)} on this machine\n"
            f"  intervals of about +-{self.cell_half_width:.2f} for one concept in one layer and +-{self.mean_half_width:.3f} for a "
            f"layer's mean over {self.concepts} concepts (functional from {self.threshold:.3f}), if pairs differ as much as on tiny"
        )


def plan(
    model: Model,
    concepts: Concepts = None,
    pairs: int = 8,
    seeds: int = 1,
    patch: Patch = "text",
    *,
    direction: Direction = "sufficient",
    sites: Which = "cross",
    split: str = "localise",
    scorer: Scorer | None = None,
    also: Iterable[Scorer] | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    seconds: float | None = None,
    when: When | int | None = None,
    negative_prompt: str | None = None,
    batch: int | None = None,
    clips: bool = True,
) -> Plan:
    """What `localize` with the same arguments would cost: one unit is run at 1 and at 3 steps, and timed.

    Warns where the interval of a layer's mean over concepts will be wider than half the threshold to either side. How much
    pairs differ is taken from `tiny`; a large model with prompts that hardly change its score needs more of them.
    """
    given = {"steps": steps, "guidance": guidance, "seconds": seconds}
    sweep = _sweep(
        model, concepts, pairs, seeds, patch, direction, sites, split, scorer, also, negative_prompt, batch, when, given
    )
    unit = sweep.units(1)[0]
    timed = replace(sweep, window=None)  # of the few steps that are timed there are no thirds
    times, samples = {}, 0
    for count in (1, 1, 3):  # the first run of all is a warm-up
        began = time.perf_counter()
        audio, _ = timed.sound(unit, steps=count)
        for scorer in (sweep.scorer, *sweep.also):
            scorer(torch.nan_to_num(audio), model.adapter.sampling_rate(model.pipe))
        samples = audio[0].numel()
        times[count] = time.perf_counter() - began
    step = max(0.0, (times[3] - times[1]) / 2)
    units = len(sweep.units(pairs))
    rows = len(sweep.sites) + 2
    kept = units * rows if clips else 0
    many, threshold = len(sweep.concepts), THRESHOLD / len(sweep.sites)
    enough = next(n for n in count_up(2) if _half_width(n, many) <= threshold / 2)
    result = Plan(
        concepts=len(sweep.concepts), sites=len(sweep.sites), units=units, generations=units * rows, clips=kept,
        disk_mb=kept * samples * 1.2 / 1e6,  # FLAC of 16 bits takes some 60 %
        hours=units * (times[1] - step + step * sweep.run["steps"]) / 3600,
        cell_half_width=_half_width(pairs, 1), mean_half_width=_half_width(pairs, many), threshold=threshold, enough_pairs=enough,
    )  # fmt: skip
    if pairs < enough:
        warnings.warn(
            f"With {pairs} pairs a layer's mean will be known to +-{result.mean_half_width:.3f} only, and a functional layer begins at "
            f"{threshold:.3f}: take about {enough} pairs.", stacklevel=2,
        )  # fmt: skip
    return result


def _half_width(pairs: int, concepts: int) -> float:
    """Of the 95 % interval of a mean over concepts of one layer's impact; without end for one pair."""
    if pairs < 2:
        return float("inf")
    return float(stats.t.ppf(0.975, concepts * (pairs - 1))) * SPREAD / (pairs * concepts) ** 0.5


def _duration(hours: float) -> str:
    return f"{hours:.1f} h" if hours >= 1 else f"{hours * 60:.0f} min" if hours * 60 >= 1 else f"{hours * 3600:.0f} s"


def _do_unit(sweep: _Sweep, unit: dict[str, Any], folder: Path | None) -> pd.DataFrame:
    """All rows of one pair and seed in one batch: a table with one line per row and scored concept."""
    model = sweep.model
    audio, finite = sweep.sound(unit)
    failed = ~finite
    rate = model.adapter.sampling_rate(model.pipe)
    heard = {"score": sweep.scorer, **{score_column(s.name): s for s in sweep.also}}
    scores = {name: scorer(torch.nan_to_num(audio), rate).astype("float32") for name, scorer in heard.items()}
    for table in scores.values():
        table[failed.numpy()] = np.nan
    lines = []
    for i, (row, site, layer) in enumerate(_labels(sweep.sites)):
        file = ""
        if folder is not None and not failed[i]:
            name = row if row != "patched" else site.replace("/", "_")
            file = f"clips/{safe_name(unit['concept'])}/{unit['pair']:03d}-{key(unit)[:8]}/{name}.flac"
            Clip(audio[i].numpy(), rate).save(folder / file)
        lines.append({"row": row, "site": site, "layer": layer, "clip": file, "failed": bool(failed[i])})
    rows = pd.DataFrame(lines)
    parts = [
        rows.assign(scored=concept, **{name: table.get(concept, np.nan) for name, table in scores.items()})
        for concept in scores["score"]
    ]
    frame = pd.concat(parts, ignore_index=True)
    facts = {"model": model.name, "concept": unit["concept"], "pair": unit["pair"], "seed": unit["seed"],
             "clean_prompt": unit["clean"], "corrupted_prompt": unit["corrupted"]}  # fmt: skip
    return frame.assign(**facts)


def _labels(sites: Sequence[Site]) -> list[tuple[str, str, int]]:
    return [("clean", "", -1), ("corrupted", "", -1), *(("patched", s.path, s.layer) for s in sites)]
