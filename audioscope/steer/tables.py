"""All 18 axes of steering: all sweeps, the tables that ship, and what they say about localization."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import binomtest, wilcoxon

from audioscope.concepts import Concept, choose, shipped_concepts
from audioscope.errors import as_path, listed, of_kind, said, said_text, with_columns
from audioscope.model import Model
from audioscope.stats import holm, mean_with_interval, sign_test
from audioscope.steer.cells import FEATURE_PAIRS, LOCALIZED, PAIRS
from audioscope.steer.methods import SteeringMethod
from audioscope.steer.results import FLOOR, SURE, SteeringSweep
from audioscope.steer.sweeps import for_several, steering_sweep
from audioscope.steer.vectors import SteeringVector
from audioscope.store import made_folder, save_small, write_table, write_whole


def axes() -> list[str]:
    """Name each axis of the shipped concepts once: a pair of opposites goes by its first end (female, fast, happy).

    Returns:
        The names, in the order of the shipped concepts.

    Example:
        >>> audioscope.steer.axes()[:4]
        ['female', 'fast', 'happy', 'reggae']
    """
    found: list[str] = []
    for name, concept in shipped_concepts().items():
        if concept.opposite not in found:
            found.append(name)
    return found


def steer_all(
    model: Model,
    out: str | Path,
    work: str | Path = "runs/steering",
    concepts: Iterable[str] | None = None,
    prompts: int = 12,
    *,
    methods: Callable[[Concept, Path], Sequence[SteeringMethod]] | None = None,
    name: str = "steering",
    **keywords: Any,
) -> pd.DataFrame:
    """Run a sweep on every axis and write the results, to compare methods over all axes; resumes where it was interrupted.

    All files in `out` are rewritten after every axis; `name` replaces "steering" in their names:

    - steering.parquet: one row per concept, method and sites.
    - steering_pairs.parquet: differences between methods on the same prompts (`compared`).
    - steering_views.parquet: the same on another scale, price or network (`sweep_views`).
    - steering_shuffled.parquet: how similar the vector and that of shuffled labels are; for the standard methods only.
    - steering_clips.parquet: one row per clip.
    - steering_settings.json: the settings of each sweep.

    Args:
        model: The model to steer.
        out: Folder for the results.
        work: Folder of the sweeps, with one folder per axis.
        concepts: Names of concepts; None means all `axes`.
        prompts: The number of neutral prompts for each axis.
        methods: Returns what is compared, from the concept and the axis's folder; None means the standard methods.
        name: The first part of the names of the files.
        **keywords: Those of `steering_sweep`; of the scorers in `also`, each axis is heard by those that know it.

    Returns:
        The table steering.parquet, with the columns of `SteeringSweep.summary`.

    Raises:
        ValueError: Input out of range, as for `steering_sweep`.

    Example:
        >>> def methods(concept, folder):
        ...     return [audioscope.steer.prompt_switch_method(steps=2), audioscope.steer.blend_text_method()]
        >>> few = {"prompts": 1, "seeds": 1, "strengths": [-1, 1], "steps": 2, "progress": False}
        >>> table = audioscope.steer.steer_all(model, "results", "sweeps", ["fast"], methods=methods, **few)
        >>> table[["concept", "method", "sites"]].values.tolist()
        [['fast', 'pci', 'all'], ['fast', 'text blend', 'all']]
    """
    of_kind("model", model, Model)
    keywords = for_several("steer_all", keywords)
    done: list[_Found] = []
    alike: list[pd.DataFrame] = []
    for axis in axes() if concepts is None else list(concepts):
        folder, concept = as_path(work) / axis, choose([axis])[0]
        chosen = None if methods is None else methods(concept, folder)
        ends = {concept.name, concept.opposite} - {""}
        knows = {"also": [each for each in keywords["also"] if ends <= set(each.concepts)]} if keywords.get("also") else {}
        done.append(_Found.of(steering_sweep(model, axis, chosen, prompts=prompts, out=folder, **{**keywords, **knows})))
        _write(done, out, name)
        if methods is None:
            true, shuffled = (SteeringVector.load(folder / which) for which in ("vector", "shuffled"))
            alike.append(true.cosines(shuffled).assign(concept=axis))
            write_table(pd.concat(alike, ignore_index=True), as_path(out) / f"{name}_shuffled.parquet")
    return pd.read_parquet(as_path(out) / f"{name}.parquet")


def write_results(sweeps: Iterable[SteeringSweep], out: str | Path, name: str = "steering") -> None:
    """Write the five files of finished sweeps; the clips' scores are right to 1 part in 2,048, and their audio is left out."""
    _write([_Found.of(sweep) for sweep in sweeps], out, name)


class _Found(NamedTuple):
    """What one sweep contributes to the files."""

    settings: dict[str, Any]
    summary: pd.DataFrame
    pairs: pd.DataFrame
    seen: pd.DataFrame
    clips: pd.DataFrame

    @classmethod
    def of(cls, sweep: SteeringSweep) -> _Found:
        pairs = compared(sweep)
        seen = [compared(other).assign(view=view) for view, other in sweep_views(sweep).items()]
        return cls(sweep.settings, sweep.summary(), pairs, pd.concat([*seen, pairs.iloc[:0].assign(view="")]), sweep.table)


def _write(found: Sequence[_Found], out: str | Path, name: str) -> None:
    out = as_path(out)
    made_folder(out)
    summary, pairs, seen, clips = (pd.concat(each, ignore_index=True) for each in list(zip(*found, strict=True))[1:])
    texts = ["model", "concept", "opposite", "method", "sites", "cell", "text", "clip"]
    clips = clips.assign(clip="").astype(dict.fromkeys(texts, "category") | {"prompt": "int16"})
    settings = {each.settings["concept"]: each.settings for each in found}
    write_table(summary, out / f"{name}.parquet")
    write_table(pairs, out / f"{name}_pairs.parquet")
    write_table(seen, out / f"{name}_views.parquet")
    write_whole(out / f"{name}_clips.parquet", partial(save_small, clips))
    write_whole(out / f"{name}_settings.json", lambda path: path.write_text(json.dumps(settings, separators=(",", ":")) + "\n"))


def sweep_views(sweep: SteeringSweep) -> dict[str, SteeringSweep]:
    """Show how far a sweep's results depend on the scale and the two networks, in views that its data allow.

    Args:
        sweep: A finished sweep.

    Returns:
        Sweeps by name, where available, namely "clipped" (scores cut at the calibrated range), "repriced" (the price by the
        gain's own network), "exchanged" (the two networks trade places), and further scorers by their names (`heard_by`).

    Example:
        >>> list(audioscope.steer.sweep_views(audioscope.datasets.steering("fast")))
        ['clipped', 'repriced', 'exchanged', 'musicnn']
    """
    of_kind("sweep", sweep, SteeringSweep)
    found = {"clipped": sweep.on("clipped")} if sweep.settings.get("calibrated") else {}
    if sweep.two_networks:
        found["repriced"] = sweep.repriced()
    if sweep.exchangeable:
        found["exchanged"] = sweep.swapped()
    return found | {name: sweep.heard_by(name) for name in sweep.scorers[1:]}


def compared(sweep: SteeringSweep, asked: Iterable[tuple[str, str]] = PAIRS + FEATURE_PAIRS + LOCALIZED) -> pd.DataFrame:
    """Tell which of two cells has the larger area, for each of the requested pairs of which the sweep has both.

    Args:
        sweep: A finished sweep.
        asked: Pairs of names, each a cell or a family of numbered cells (`SteeringSweep.family`).

    Returns:
        One row per pair with the columns concept, one, other, more (AUC of `one` minus that of `other`), low and high (its 95 %
        interval), p (two-sided) and same (both act at the same layers with the same vector, so their difference carries no
        information).

    Example:
        >>> sweep = audioscope.datasets.steering("fast")
        >>> table = audioscope.steer.compared(sweep, [("caa own", "random direction own"), ("caa own", "caa random layers")])
        >>> (table["more"] > 0).tolist()
        [True, True]
    """
    of_kind("sweep", sweep, SteeringSweep)
    asked = listed("asked", asked, "pairs of cells")
    if wrong := [
        each
        for each in asked
        if not isinstance(each, tuple | list) or len(each) != 2 or not all(isinstance(cell, str) for cell in each)
    ]:
        raise ValueError(f"asked contains {said(wrong[0])}, expected pairs of cells.")
    acts = sweep.settings.get("methods", {})

    def place(cell: str) -> tuple[Any, ...]:
        return (cell.split(" ")[0], *(acts.get(cell, {}).get(name) for name in ("numbers", "at")))

    lines = []
    for one, other in asked:
        try:
            mine, theirs = sweep.family(one), sweep.family(other)
        except ValueError:
            continue
        same = (
            len(mine) == len(theirs) == 1
            and one != other
            and place(mine[0])[1] is not None
            and place(mine[0]) == place(theirs[0])
        )
        lines.append((sweep.concept, one, other, *sweep.compare(one, other), same))
    return pd.DataFrame(lines, columns=["concept", "one", "other", "more", "low", "high", "p", "same"])


def steerable(table: pd.DataFrame) -> pd.DataFrame:
    """Judge which axes each cell steers, corrected for the number of axes that were tried.

    Args:
        table: Rows of `SteeringSweep.summary` for many axes, such as `audioscope.datasets.steering_table()`.

    Returns:
        The table with these columns added or replaced.

        - cell: method and sites.
        - p: the larger of p_beyond and p_rising, since both must hold, after Holm's correction over the axes of a cell.
        - steerable: p is at most .05, and the AUC is at least a tenth of that of rewriting the prompt; None if p is unknown.

    Raises:
        ValueError: An axis occurs twice for the same cell.

    Example:
        >>> table = audioscope.steer.steerable(audioscope.datasets.steering_table())
        >>> table[(table["concept"] == "fast") & table["cell"].isin(["caa own", "fixed direction own"])]["steerable"].tolist()
        [True, False]
    """
    with_columns("table", table, ("concept", "method", "sites", "p_beyond", "p_rising", "share"), "SteeringSweep.summary")
    cell = table["method"].astype(str) + " " + table["sites"].astype(str)
    if table.assign(cell=cell).duplicated(["concept", "cell"]).any():
        raise ValueError("The table has an axis twice: expected one row for each concept, method and sites.")
    p = table[["p_beyond", "p_rising"]].max(axis=1, skipna=False)
    corrected = p.groupby(cell).transform(lambda values: holm(values.to_numpy()))
    passed = (corrected <= SURE) & (table["share"] >= FLOOR)
    return table.assign(cell=cell, p=corrected, steerable=passed.astype(object).where(p.notna(), None))


def counts(table: pd.DataFrame) -> pd.DataFrame:
    """Count the axes that each cell steers (`steerable`), with an exact 95 % interval (Clopper-Pearson).

    Args:
        table: Rows of `SteeringSweep.summary` for many axes, such as `audioscope.datasets.steering_table()`.

    Returns:
        One row per cell with the columns cell, steers and axes (numbers of axes), low and high (the interval of steers) and
        which (names of the axes that it steers). Axes whose p-value is unknown are not counted.

    Raises:
        ValueError: An axis occurs twice for the same cell.

    Example:
        >>> found = audioscope.steer.counts(audioscope.datasets.steering_table()).set_index("cell")
        >>> found.loc["fixed direction own", ["steers", "axes"]].tolist()
        [0, 18]
    """
    lines = []
    for cell, rows in steerable(table).groupby("cell", sort=False):
        known = rows[rows["steerable"].notna()]
        if len(known):
            which = known.loc[known["steerable"].astype(bool), "concept"].tolist()
            bounds = binomtest(len(which), len(known)).proportion_ci()
            lines.append((cell, len(which), len(known), bounds.low * len(known), bounds.high * len(known), which))
    return pd.DataFrame(lines, columns=["cell", "steers", "axes", "low", "high", "which"])


def over_axes(pairs: pd.DataFrame, one: str, other: str) -> dict[str, Any]:
    """Summarize one comparison over all axes: on how many the two differ significantly, and how much they differ overall.

    Axes on which both are the same are left out.

    Args:
        pairs: Rows of `compared` for many axes.
        one: The first name of a comparison in the table.
        other: Its second name.

    Returns:
        A dictionary with these entries.

        - one, other, axes: the two names, and the number of axes compared.
        - better, worse, tied: the number of axes that are significantly better, significantly worse, or neither, at .05 after
          Holm's correction over the axes; better_on and worse_on name them.
        - mean_difference, low, high: the mean over axes and its 95 % interval, with axes as units.
        - median, rank_p: the median and the p-value of Wilcoxon's signed-rank test. If one axis differs far more than the
          others, the interval of the mean cannot be trusted; these two hardly depend on such an axis.
        - without: the axis whose absence moves the mean most; mean_without, low_without and high_without describe the rest.
        - ups, downs, sign_p: the sign test.

    Raises:
        ValueError: The table does not have the comparison, or has it twice for an axis.

    Example:
        >>> import pandas as pd
        >>> pairs = pd.read_parquet(audioscope.datasets.data_folder() / "results" / "steering_pairs.parquet")
        >>> found = audioscope.steer.over_axes(pairs, "caa own", "random direction own")
        >>> found["axes"], found["worse"], "fast" in found["better_on"]
        (18, 0, True)
    """
    with_columns("pairs", pairs, ("concept", "one", "other", "same", "more", "p"), "compared")
    said_text("one", one), said_text("other", other)
    asked = pairs[(pairs["one"] == one) & (pairs["other"] == other)]
    if asked.empty or asked["concept"].duplicated().any():
        known = ", ".join(f"{a} / {b}" for a, b in dict.fromkeys(zip(pairs["one"], pairs["other"], strict=True)))
        raise ValueError(f"Expected {one!r} / {other!r} once for each axis. The table compares: {known}.")
    rows = asked[~asked["same"].astype(bool)]
    significant = holm(rows["p"].to_numpy()) <= SURE
    better, worse = (rows.loc[significant & (rows["more"] * side > 0), "concept"].tolist() for side in (1, -1))
    mean, low, high = mean_with_interval(rows["more"])
    ups, downs, sign_p = sign_test(rows["more"])
    values = rows["more"].to_numpy(float)
    far = int(np.abs(values - mean).argmax()) if len(values) else 0
    rest = mean_with_interval(np.delete(values, far)) if len(values) else (np.nan, np.nan, np.nan)
    rank_p = float(wilcoxon(values).pvalue) if len(values) and values.any() else 1.0
    return {"one": one, "other": other, "axes": len(rows), "better": len(better), "worse": len(worse), "tied": len(rows) - len(better) - len(worse),
            "mean_difference": mean, "low": low, "high": high, "ups": ups, "downs": downs, "sign_p": sign_p, "better_on": better,
            "worse_on": worse, "median": float(np.median(values)) if len(values) else np.nan, "rank_p": rank_p,
            "without": rows["concept"].iloc[far] if len(values) else "",
            **dict(zip(("mean_without", "low_without", "high_without"), rest, strict=True))}  # fmt: skip
