"""When the text acts: give every layer another prompt's text in one denoising step only, and score the result."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import pandas as pd
from scipy.special import expit

from audioscope.atlas.atlas import SCALES, Scale, score_column
from audioscope.atlas.localization import Concepts, checked_sweep
from audioscope.edits import PatchText
from audioscope.errors import among, choice, said, with_columns
from audioscope.model import Model
from audioscope.scoring.scorers import Scorer, scores_of
from audioscope.stats import mean_of_ratios, mean_of_ratios_random_concepts, ratio_of_means
from audioscope.store import results_folder, run_units
from audioscope.tracing import Row, SamplingKeywords
from audioscope.workers import Workers, checked_workers, silence, spread


def patch_steps(
    model: Model,
    concepts: Concepts = None,
    pairs: int = 12,
    *,
    split: str = "localize",
    scorer: Scorer | None = None,
    batch_size: int | None = None,
    out: str | Path | None = None,
    workers: Workers = None,
    progress: bool = True,
    **sampling: Unpack[SamplingKeywords],
) -> pd.DataFrame:
    """Find when the text acts: swap the clean text into the corrupted run at every cross-attention site, one step at a time.

    A unit is one pair: a clean generation, a corrupted one, and one for each step. `step_impacts` turns the table into impacts.

    Args:
        model: The model to patch, outside a `with model.steer(...)` block.
        concepts: Names of shipped concepts, `Concept` values, a CSV or DataFrame of pairs; None is all 21.
        pairs: How many pairs of each concept.
        split: Which pairs of each concept, by the name of their split.
        scorer: Scores the clips; None is the model's default. The listener of `tiny` is joined by the judge, its second network.
        batch_size: Rows at a time; None is all rows of a unit at once.
        out: A folder for the results, resumed if it exists; None is a temporary one.
        workers: In how many processes, as for `audioscope.localize`.
        progress: Show a progress bar.
        **sampling: `steps`, `guidance`, `seconds`, `negative_prompt`; the model's defaults if omitted.

    Returns:
        A table with one line per unit, row and step.

        - concept, pair, seed, row ("clean", "corrupted", "patched")
        - step: -1 where nothing is patched
        - sigma, log_snr: of the step
        - score: of the concept by the scorer, in its units, not clipped
        - "score of ...": by the second network, if there is one
        - "calibrated ..." for each column of scores: the end of the scorer's calibrated range; NaN if it has none, or does not
          score in log-odds

    Raises:
        ValueError: Input is out of range; this is found before anything is generated.
        UnknownName: A concept is unknown; this, too, is found before anything is generated.

    Example:
        >>> table = audioscope.atlas.patch_steps(model, ["violin"], pairs=1, steps=2, progress=False)
        >>> table[["row", "step"]].values.tolist()
        [['clean', -1], ['corrupted', -1], ['patched', 0], ['patched', 1]]
    """
    sweep = checked_sweep(
        model, concepts, pairs, 1, "text", "sufficient", "cross", split, scorer, None, batch_size, None, sampling
    )
    share = partial(spread, model, checked_workers(workers))
    main, also, run = sweep.scorer, sweep.also, sweep.run
    scorers = {"score": main, **{score_column(each.name): each for each in also}}
    ends = {
        f"calibrated {name}": getattr(each, "calibrated", np.nan) if each.units == "log-odds" else np.nan
        for name, each in scorers.items()
    }
    settings = {
        **model.state, "split": split, "scorer": main.name,
        "scorer_fingerprint": main.fingerprint, "also": {each.name: each.fingerprint for each in also}, **run, "by": "step",
    }  # fmt: skip

    def work(unit: dict[str, Any], folder: Path, lost: bool = False) -> pd.DataFrame:
        clean, corrupted, seed = unit["clean"], unit["corrupted"], unit["seed"]
        patched = [Row(corrupted, seed, (PatchText("cross", clean, steps=(n, n + 1)),)) for n in range(run.steps)]
        rows = [Row(clean, seed), Row(corrupted, seed), *patched]
        if lost:
            (audio, finite), levels = silence(model, len(rows), run), [[np.nan] * run.steps] * 2
        else:
            output = model.run_in_batches(rows, batch_size, **run)
            assert output.audio is not None
            audio, finite, levels = output.audio, output.finite, [output.sigmas.tolist(), output.log_snr.tolist()]
        table = pd.DataFrame({"row": ["clean", "corrupted"] + ["patched"] * run.steps, "step": [-1, -1, *range(run.steps)]})
        table["sigma"], table["log_snr"] = ([np.nan, np.nan, *values] for values in levels)
        for name, each in scorers.items():
            scores = scores_of(each, audio, model.rate)
            table[name] = scores[unit["concept"]].where(finite.numpy())
        return table.assign(concept=unit["concept"], pair=unit["pair"], seed=seed, **ends)

    folder = results_folder(out, "steps")
    return run_units(folder, settings, sweep.units(pairs), work, progress, "steps", share)


def step_impacts(table: pd.DataFrame, scale: Scale = "raw", score: str = "score") -> pd.DataFrame:
    """Compute the impact of each denoising step on each concept, and the mean over concepts, from a table of `patch_steps`.

    An impact is (patched - corrupted) / (clean - corrupted), a ratio of means over pairs.

    Args:
        table: As `patch_steps` returns it, or `audioscope.datasets.steps`.
        scale: "raw", "clipped" or "probability", as in `Atlas.impacts`; the latter two need a scorer with a calibrated range.
        score: A column of scores; "score of ..." for another network's.

    Returns:
        A table with one row per concept and step, and one per step whose concept is "mean".

        - concept, step, sigma, log_snr
        - impact, low, high: the impact with its 95 % interval
        - defined: False where the prompts did not move the score
        - all_low, all_high: for the mean, its interval with concepts as units, too; otherwise NaN

    Raises:
        ValueError: The scale or column is unknown, or the table is empty, has duplicate rows or a concept named "mean".

    Example:
        >>> impacts = audioscope.atlas.step_impacts(audioscope.datasets.steps())
        >>> mean = impacts[impacts["concept"] == "mean"]
        >>> mean["impact"].round(1).tolist()  # the first steps, which are almost pure noise, decide little
        [0.0, 0.0, 0.1, 0.1, 0.2, 0.3, 0.3, 0.2, 0.1, 0.1]
    """
    with_columns("table", table, ("concept", "pair", "seed", "row", "step", "score", "calibrated score"), "patch_steps")
    known = [str(name) for name in table if f"calibrated {name}" in table]
    choice("score", score, known)
    table = table.assign(concept=table["concept"].astype(str))
    cells = table[["concept", "pair", "seed", "row", "step"]]
    if table.empty or cells.duplicated().any() or (table["concept"] == "mean").any():
        raise ValueError(
            "The table is empty, or has duplicate rows or a concept named 'mean': expected what patch_steps returns."
        )
    end = table[f"calibrated {score}"]
    if not among(scale, SCALES) or (scale != "raw" and end.isna().any()):
        raise ValueError(
            f"scale is {said(scale)}, expected 'raw', or 'clipped' or 'probability' if the scorer has a calibrated range of log-odds."
        )
    values = table[score].astype(float)
    if scale == "clipped":
        values = values.clip(-end, end)
    elif scale == "probability":
        values = expit(values)
    cell = table["row"].astype(object).where(table["row"] != "patched", table["step"])
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
