"""When the text acts: every layer is given another prompt's text in one step of the denoising only, and what comes out is scored."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.special import expit

from audioscope.atlas import SCALES, Scale, score_column
from audioscope.concepts import choose
from audioscope.edits import PatchText
from audioscope.model import Model
from audioscope.patching import Concepts
from audioscope.paths import data_folder
from audioscope.ratios import mean_of_ratios, mean_of_ratios_random_concepts, ratio_of_means
from audioscope.scorers import Scorer, default_scorer, second_opinions
from audioscope.sweep import run_units, seed_of
from audioscope.tracing import Row


def patch_steps(
    model: Model,
    concepts: Concepts = None,
    pairs: int = 12,
    *,
    split: str = "localise",
    scorer: Scorer | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    seconds: float | None = None,
    batch: int | None = None,
    out: str | Path | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Patch the clean text into the corrupted run at all cross-attention sites, in one step at a time; `step_impacts` reads the table.

    A unit is one pair: clean, corrupted, and a row for each step. One line per unit, row and step: concept, pair, seed, row ("clean",
    "corrupted", "patched"), step (-1 where nothing is patched), sigma and log_snr of the step, score of the concept by the scorer, in its
    units and not clipped, "score of ..." by the second network where the model has one, and for each of them "calibrated ...", the end of
    its range (NaN where it names none, or does not score in log-odds). batch: rows at a time; None is a unit's all at once. out: folder, resumed when it is there; a temporary one if None. Raises ValueError, or UnknownName, before anything is generated.
    """
    model.check_unsteered("a sweep")
    chosen, hears = choose(concepts), default_scorer(model) if scorer is None else scorer
    also = second_opinions(hears)
    for each in (hears, *also):
        each.check(model)
    run = model.settings(steps, guidance, seconds)
    for concept in chosen:
        if not 1 <= pairs <= len(concept.split(split)):
            raise ValueError(f"pairs is {pairs}, expected 1 to {len(concept.split(split))}: {concept.name!r} in split {split!r}.")
        if concept.name not in hears.concepts:
            raise ValueError(f"The {hears.name} cannot score {concept.name!r}: it knows {', '.join(hears.concepts)}.")
        for pair in concept.split(split)[:pairs]:
            model.check_prompt(pair.clean)
            model.check_prompt(pair.corrupted)
    units = [
        {"concept": c.name, "pair": p.number, "seed": seed_of(c.name, p.number, 0), "clean": p.clean, "corrupted": p.corrupted}
        for c in chosen for p in c.split(split)[:pairs]
    ]  # fmt: skip
    heard = {"score": hears, **{score_column(each.name): each for each in also}}
    ends = {
        f"calibrated {name}": getattr(each, "calibrated", np.nan) if each.units == "log-odds" else np.nan
        for name, each in heard.items()
    }
    if batch is not None and batch < 1:
        raise ValueError(f"batch is {batch}, expected at least 1 row, or None for all of a unit at once.")
    settings = {
        "model": model.name, "fingerprint": model.fingerprint, "split": split, "scorer": hears.name, "scorer_fingerprint": hears.fingerprint,
        "also": {each.name: each.fingerprint for each in also}, **run, "by": "step",
    }  # fmt: skip

    def work(unit: dict[str, Any]) -> pd.DataFrame:
        clean, corrupted, seed = unit["clean"], unit["corrupted"], unit["seed"]
        patched = [Row(corrupted, seed, (PatchText("cross", clean, steps=(n, n + 1)),)) for n in range(run["steps"])]
        rows = [Row(clean, seed), Row(corrupted, seed), *patched]
        size = batch or len(rows)
        runs = [model.run(rows[start : start + size], **run) for start in range(0, len(rows), size)]
        audio, finite = (
            torch.cat([each.audio for each in runs if each.audio is not None]),
            torch.cat([each.finite for each in runs]),
        )
        table = pd.DataFrame({"row": ["clean", "corrupted"] + ["patched"] * run["steps"], "step": [-1, -1, *range(run["steps"])]})
        table["sigma"] = [np.nan, np.nan, *runs[0].sigmas.tolist()]
        table["log_snr"] = [np.nan, np.nan, *runs[0].log_snr.tolist()]
        for name, each in heard.items():
            scores = each(torch.nan_to_num(audio), model.adapter.sampling_rate(model.pipe))
            table[name] = scores[unit["concept"]].where(finite.numpy()).astype("float32")
        return table.assign(concept=unit["concept"], pair=unit["pair"], seed=seed, **ends)

    folder = Path(out) if out is not None else Path(tempfile.mkdtemp(prefix="audioscope-steps-"))
    return run_units(folder, settings, units, work, progress, "steps")


def step_impacts(table: pd.DataFrame, scale: Scale = "raw", score: str = "score") -> pd.DataFrame:
    """Impact of each step on each concept, and the mean over concepts, from a table of `patch_steps`.

    One row per concept and step, and one per step with concept "mean": impact = (patched - corrupted) / (clean - corrupted), a ratio of
    means over pairs, with its 95 % interval (low, high); defined is False where the prompts did not move the score. For the mean, all_low
    and all_high are its interval with concepts as units, too. scale: "raw", "clipped" or "probability", as in `Atlas.impacts`. score: a
    column of scores, "score of ..." for another network's. Raises ValueError for a scale or column that there is not.
    """
    if score not in table:
        raise ValueError(f"score is {score!r}, expected one of {', '.join(c for c in table if str(c).startswith('score'))}.")
    end = table[f"calibrated {score}"]
    if scale not in SCALES or (scale != "raw" and end.isna().any()):
        raise ValueError(
            f"scale is {scale!r}, expected 'raw', or 'clipped' or 'probability' where the scorer has a calibrated range of log-odds."
        )
    values = table[score].astype(float)
    if scale == "clipped":
        values = values.clip(-end, end)
    elif scale == "probability":
        values = pd.Series(expit(values), values.index)
    cell = table["row"].where(table["row"] != "patched", table["step"])
    wide = table.assign(value=values, cell=cell).pivot(index=["concept", "pair", "seed"], columns="cell", values="value")
    levels = table[table["row"] == "patched"].drop_duplicates("step").sort_values("step")
    lines = []
    for step, sigma, log_snr in levels[["step", "sigma", "log_snr"]].itertuples(index=False):
        tops, bottoms = [], []
        for concept, rows in wide.groupby(level="concept", sort=False):
            top, bottom = (rows[one] - rows["corrupted"] for one in (step, "clean"))
            ratio = ratio_of_means(top.to_numpy(), bottom.to_numpy(), bounded=scale != "raw")
            lines.append((concept, step, sigma, log_snr, ratio.value, ratio.low, ratio.high, ratio.defined, np.nan, np.nan))
            if ratio.defined:
                tops.append(top.to_numpy())
                bottoms.append(bottom.to_numpy())
        _, all_low, all_high = mean_of_ratios_random_concepts(tops, bottoms)
        mean = mean_of_ratios(tops, bottoms, bounded=scale != "raw")
        lines.append(("mean", step, sigma, log_snr, *mean, bool(tops), all_low, all_high))
    columns = ["concept", "step", "sigma", "log_snr", "impact", "low", "high", "defined", "all_low", "all_high"]
    return pd.DataFrame(lines, columns=columns)


def shipped_steps() -> pd.DataFrame:
    """The table of `patch_steps` that ships, of `tiny`."""
    return pd.read_parquet(data_folder() / "results" / "steps.parquet")
