"""When localizing pays: what steering at the right layers brings over steering everywhere, beside how concentrated the concept is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from audioscope.atlas.atlas import Atlas
from audioscope.atlas.localization import localize
from audioscope.atlas.published import published
from audioscope.concepts import choose_one
from audioscope.errors import all_of, as_path, of_kind, one_or_more, whole, with_columns
from audioscope.model import Model
from audioscope.stats import rank_correlation
from audioscope.steer.caa import caa
from audioscope.steer.cells import ALL, NATURAL, OWN, OWN_NATURAL, REWRITTEN, Cell
from audioscope.steer.methods import prompt_switch_method, vector_method
from audioscope.steer.results import SteeringSweep
from audioscope.steer.sweeps import check_sweep, for_several, steering_sweep
from audioscope.store import data_folder
from audioscope.tiny.planting import planted

COLUMNS = ("model", "axis", "lengths", "layers", "concentration", "benefit", "low", "high")
LENGTHS = {"unit": (OWN, ALL), "natural": (OWN_NATURAL, NATURAL)}  # of the directions at the sites
ENDS = {  # of the paper's axes, the concepts whose impacts it publishes; of "rock_genre", jazz against rock, one end alone
    "mood": ("happy", "sad"), "tempo": ("fast", "slow"), "vocal_gender": ("female", "male"), "violin": ("violin",), "rock_genre": ("jazz",),
}  # fmt: skip


def localization_benefits(sweeps: SteeringSweep | Sequence[SteeringSweep], atlas: Atlas) -> pd.DataFrame:
    """Tell, for each axis, what steering at its own layers brings over all layers, and how concentrated its concept is.

    Args:
        sweeps: Finished sweeps with the cells "caa own", "caa all" and "pci all"; those that have both in natural lengths, too, are
            compared in these as well.
        atlas: An atlas of the same model, which has the axes' concepts.

    Returns:
        One row per axis and kind of lengths, with these columns.

        - model, axis, layers: the model's name, the axis, and how many layers the first of the two acts at.
        - lengths: "unit" if the vector has norm 1 at every site, as in the paper; "natural" if it is as long at each site as the
          difference that it was made from, and so adds nothing where the concept makes no difference.
        - concentration: `Atlas.concentration`, mean over the two ends of the axis; NaN if the impacts of one are undefined.
        - benefit, low, high: the AUC at its own layers minus that at all, as a share of the AUC of rewriting the prompt, with its 95 %
          interval (prompts as units); NaN if rewriting does not move the score.

    Raises:
        ValueError: A sweep lacks one of the first cells, or belongs to another model than the atlas, or the atlas lacks a concept.

    Example:
        >>> atlas, sweeps = audioscope.datasets.atlas(), [audioscope.datasets.steering(axis) for axis in ("fast", "metal")]
        >>> found = audioscope.steer.localization_benefits(sweeps, atlas)
        >>> found["axis"].unique().tolist(), bool(found["concentration"].between(0, 1).all())
        (['fast', 'metal'], True)
    """
    shares, lines = of_kind("atlas", atlas, Atlas).concentration(), []
    for sweep in all_of("sweeps", sweeps, SteeringSweep):
        if sweep.settings["fingerprint"] != atlas.settings.get("fingerprint"):
            raise ValueError(f"The sweep of {sweep.concept!r} and the atlas belong to models with other weights.")
        if missing := [end for end in sweep.ends if end not in atlas.concepts]:
            raise ValueError(f"The atlas has no {missing[0]!r}, an end of the axis {sweep.concept!r}: give one that has.")
        concentration = float(shares.reindex(sweep.ends).mean(skipna=False))
        layers = len(sweep.settings["methods"][str(OWN)]["at"]) if str(OWN) in sweep.settings.get("methods", {}) else 0
        for lengths, (own, everywhere) in LENGTHS.items():
            if lengths == "unit" or {str(own), str(everywhere)} <= set(sweep.cells):
                found = _benefit(sweep, own, everywhere)
                lines.append((sweep.settings["model"], sweep.concept, lengths, layers, concentration, *found))
    return pd.DataFrame(lines, columns=list(COLUMNS))


def _benefit(sweep: SteeringSweep, own: Cell, everywhere: Cell) -> tuple[float, float, float]:
    sweep.family(str(REWRITTEN))  # raises where there is none
    found, rewritten = sweep.compare(str(own), str(everywhere)), float(sweep.areas()["auc"][str(REWRITTEN)])
    if rewritten <= 0:
        return np.nan, np.nan, np.nan
    return found.more / rewritten, found.low / rewritten, found.high / rewritten


def published_benefits() -> pd.DataFrame:
    """Give the same for ACE-Step, as TADA publishes it: five of nine axes have impacts, too; there are no intervals.

    The concentration of rock_genre is that of jazz, one of its two ends; the other has no published impacts.

    Returns:
        Rows as of `localization_benefits`, with layers 2 and unit lengths.

    Example:
        >>> found = audioscope.steer.published_benefits().set_index("axis")
        >>> found.index.tolist(), float(found["benefit"]["violin"].round(2))
        (['mood', 'tempo', 'vocal_gender', 'violin', 'rock_genre'], 0.72)
    """
    areas = pd.read_csv(data_folder() / "published" / "tada_steering.csv").set_index("axis")
    shares, lines = published("ace-step").concentration(), []
    for axis, ends in ENDS.items():
        benefit = (areas["caa_loc"][axis] - areas["caa_all"][axis]) / areas["pci_all"][axis]
        lines.append(("ace-step", axis, "unit", 2, float(shares[list(ends)].mean()), benefit, np.nan, np.nan))
    return pd.DataFrame(lines, columns=list(COLUMNS))


def benefit_by_concentration(table: pd.DataFrame) -> pd.DataFrame:
    """Tell whether localizing brings more where a concept is more concentrated: the rank correlation over the axes of each model.

    Args:
        table: Rows of `localization_benefits`, `published_benefits` or `steer_planted`.

    Returns:
        One row per model and kind of lengths, with the columns model, lengths, axes (how many have both numbers), better (on how many the
        benefit is above 0), spearman, low and high (its 95 % interval; NaN for fewer than 4 axes).

    Example:
        >>> found = audioscope.steer.benefit_by_concentration(audioscope.steer.published_benefits())
        >>> found[["model", "axes", "better"]].values.tolist()
        [['ace-step', 5, 5]]
    """
    with_columns("table", table, ("model", "lengths", "concentration", "benefit"), "localization_benefits")
    lines = []
    for (model, lengths), rows in table.dropna(subset=["concentration", "benefit"]).groupby(["model", "lengths"], sort=False):
        better = int((rows["benefit"] > 0).sum())
        lines.append((model, lengths, len(rows), better, *rank_correlation(rows["concentration"], rows["benefit"])))
    return pd.DataFrame(lines, columns=["model", "lengths", "axes", "better", "spearman", "low", "high"])


def steer_planted(
    model: Model, concept: str, layers: Sequence[int], out: str | Path, pairs: int = 8, prompts: int = 12, **keywords: Any
) -> pd.DataFrame:
    """Plant a concept in some layers of `tiny`, steer it there and everywhere, and tell what the right layers bring.

    The concept's words reach these layers only (`audioscope.tiny.planted`), so they are its own layers for certain: vector, atlas and
    sweep are made while it is planted.

    Args:
        model: The model `tiny`, or a fine-tuned copy.
        concept: The name of a shipped concept.
        layers: The numbers of the layers.
        out: Folder for the results, resumed if it exists; use another for each plan.
        pairs: The number of pairs for the atlas, which tells the concentration.
        prompts: The number of test prompts.
        **keywords: Those of `steering_sweep`, such as `seeds` or `steps`.

    Returns:
        Two rows as of `localization_benefits`, one for each kind of lengths, whose model is named "planted in n".

    Raises:
        ValueError: The model is another one, or a layer does not exist.

    Example:
        >>> quick = {"pairs": 4, "prompts": 1, "seeds": 1, "steps": 1, "grid": [2.0], "progress": False}
        >>> rows = audioscope.steer.steer_planted(model, "metal", [0], "planted", **quick)
        >>> rows[["model", "lengths", "layers"]].values.tolist()
        [['planted in 1', 'unit', 1], ['planted in 1', 'natural', 1]]
    """
    of_kind("model", model, Model)
    chosen, folder, keywords = choose_one(concept), as_path(out), for_several("steer_planted", keywords)
    layers = sorted({whole("a layer", layer, 0, len(model.sites.cross) - 1) for layer in one_or_more(layers)})
    if not layers:
        raise ValueError("layers is empty, expected the number of at least one layer.")
    prompts = whole("prompts", prompts, 1, len(chosen.neutral_pairs("test")), f", the test prompts of {chosen.name!r}")
    check_sweep(model, [chosen], prompts, **keywords)
    how = {name: keywords[name] for name in ("steps", "guidance", "seconds", "negative_prompt", "progress") if name in keywords}
    with planted(model, {chosen: layers}):
        atlas = localize(model, [chosen], pairs=pairs, clips=False, out=folder / "atlas", **how)
        built = min(50, len(chosen.split("build")))
        natural = caa(model, chosen, "cross", built, normalize=False, file=folder / "vector", **how)
        there, unit = [site.path for site in model.sites.select(layers)], natural.unit()
        methods = [
            vector_method(unit.only(there), OWN.sites), vector_method(unit, ALL.sites),
            vector_method(natural.only(there), OWN_NATURAL.sites), vector_method(natural, NATURAL.sites), prompt_switch_method(model.sampling(steps=how.get("steps")).steps),
        ]  # fmt: skip
        sweep = steering_sweep(model, chosen, methods, prompts=prompts, out=folder / "sweep", **keywords)
    name = f"planted in {len(layers)}"
    return localization_benefits([sweep], atlas).assign(model=name)
