"""All 18 axes of steering: all sweeps, the tables that ship, and what they say about localization."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import binomtest, wilcoxon

from audioscope.concepts import Concept, choose, shipped_concepts
from audioscope.model import Model
from audioscope.stats import holm, mean_with_interval, sign_test
from audioscope.steer.cells import FEATURE_PAIRS, PAIRS
from audioscope.steer.methods import SteeringMethod
from audioscope.steer.results import FLOOR, SURE, SteeringSweep
from audioscope.steer.sweeps import steering_sweep
from audioscope.steer.vectors import SteeringVector
from audioscope.store import write_whole


def axes() -> list[str]:
    """One name for each axis of the shipped concepts: a pair of opposites is named by its first end (female, fast, happy)."""
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
    """Run a sweep on every axis and write the results; resumes where it was interrupted, and returns the table.

    work: folder of the sweeps, with one folder per axis.
    out: receives steering.parquet (one row per concept, method and sites), steering_pairs.parquet (differences between methods on
    the same prompts), steering_views.parquet (the same on another scale, price or network), steering_shuffled.parquet (how
    similar the vector and that of shuffled labels are; for the standard methods only), steering_clips.parquet and
    steering_settings.json, all rewritten after every axis; `name` replaces "steering" in these file names.
    concepts: None means all axes. methods: returns what is compared, from the concept and the axis's folder; None means the
    standard methods. keywords: those of `steering_sweep`.
    """
    done: list[_Found] = []
    alike: list[pd.DataFrame] = []
    for axis in axes() if concepts is None else list(concepts):
        folder = Path(work).expanduser() / axis
        chosen = None if methods is None else methods(choose([axis])[0], folder)
        done.append(_Found.of(steering_sweep(model, axis, chosen, prompts=prompts, out=folder, **keywords)))
        _write(done, out, name)
        if methods is None:
            true, shuffled = (SteeringVector.load(folder / which) for which in ("vector", "shuffled"))
            alike.append(true.cosines(shuffled).assign(concept=axis))
            write_whole(Path(out).expanduser() / f"{name}_shuffled.parquet", pd.concat(alike, ignore_index=True).to_parquet)
    return pd.read_parquet(Path(out).expanduser() / f"{name}.parquet")


def write_results(sweeps: Iterable[SteeringSweep], out: str | Path, name: str = "steering") -> None:
    """Write the five files of finished sweeps; the clips' scores have 3 decimals, and their audio is left out."""
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
    out = Path(out).expanduser()
    out.mkdir(parents=True, exist_ok=True)
    summary, pairs, seen, clips = (pd.concat(each, ignore_index=True) for each in list(zip(*found, strict=True))[1:])
    digits = {column: 5 if column.startswith("distance") else 3 for column in clips.select_dtypes("float32").columns}
    clips = clips.assign(clip="").round(digits | {"clipped": 5, "dc": 5})
    texts = ["model", "concept", "opposite", "method", "sites", "cell", "text", "clip"]
    clips = clips.astype(dict.fromkeys(texts, "category") | {"prompt": "int16"})
    settings = {each.settings["concept"]: each.settings for each in found}
    write_whole(out / f"{name}.parquet", summary.to_parquet)
    write_whole(out / f"{name}_pairs.parquet", pairs.to_parquet)
    write_whole(out / f"{name}_views.parquet", seen.to_parquet)
    write_whole(out / f"{name}_clips.parquet", lambda path: clips.to_parquet(path, compression="zstd"))
    write_whole(out / f"{name}_settings.json", lambda path: path.write_text(json.dumps(settings, separators=(",", ":")) + "\n"))


def sweep_views(sweep: SteeringSweep) -> dict[str, SteeringSweep]:
    """The views of a sweep that show how far its results depend on the scale and the two networks, where available.

    They are "clipped" (scores cut at the calibrated range), "repriced" (the price by the gain's own network) and "exchanged" (the
    two networks trade places).
    """
    found = {"clipped": sweep.on("clipped")} if sweep.settings.get("calibrated") else {}
    if sweep.two_networks:
        found["repriced"] = sweep.repriced()
    if sweep.exchangeable:
        found["exchanged"] = sweep.swapped()
    return found


def compared(sweep: SteeringSweep, asked: Iterable[tuple[str, str]] = PAIRS + FEATURE_PAIRS) -> pd.DataFrame:
    """The requested differences between a sweep's areas, where it has both cells: concept, one, other, more, low, high, p, same.

    same: both act at the same layers with the same vector, so their difference carries no information.
    """
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
    """Which axes each cell steers, of all tried: `SteeringSweep.summary` of many axes, with corrected `p` and `steerable`.

    p: the larger of p_beyond and p_rising, since both must hold, after Holm's correction over the axes of a cell. steerable: p at
    most .05, and an AUC of at least a tenth of that of rewriting the prompt.
    """
    cell = table["method"].astype(str) + " " + table["sites"].astype(str)
    if table.assign(cell=cell).duplicated(["concept", "cell"]).any():
        raise ValueError("The table has an axis twice: expected one row for each concept, method and sites.")
    p = table[["p_beyond", "p_rising"]].max(axis=1, skipna=False)
    corrected = p.groupby(cell).transform(lambda values: holm(values.to_numpy()))
    passed = (corrected <= SURE) & (table["share"] >= FLOOR)
    return table.assign(cell=cell, p=corrected, steerable=passed.astype(object).where(p.notna(), None))


def counts(table: pd.DataFrame) -> pd.DataFrame:
    """How many axes each cell steers, with an exact 95 % interval (Clopper-Pearson): cell, steers, axes, low, high, which."""
    lines = []
    for cell, rows in steerable(table).groupby("cell", sort=False):
        known = rows[rows["steerable"].notna()]
        if len(known):
            which = known.loc[known["steerable"].astype(bool), "concept"].tolist()
            bounds = binomtest(len(which), len(known)).proportion_ci()
            lines.append((cell, len(which), len(known), bounds.low * len(known), bounds.high * len(known), which))
    return pd.DataFrame(lines, columns=["cell", "steers", "axes", "low", "high", "which"])


def over_axes(pairs: pd.DataFrame, one: str, other: str) -> dict[str, Any]:
    """One comparison over all axes, except where both are the same: how many differ significantly, and the overall difference.

    better, worse, tied: the number of axes that are significantly better, significantly worse, or neither, at .05 after Holm's
    correction over the axes; better_on, worse_on name them. mean_difference, low, high: the mean over axes and its interval, with
    axes as units. If one axis differs far more than the others, that interval cannot be trusted: median and rank_p (Wilcoxon's
    signed-rank test) hardly depend on such an axis; `without` names the axis whose absence moves the mean most, and mean_without,
    low_without, high_without describe the rest. ups, downs, sign_p: the sign test. Raises ValueError for a comparison that the
    table does not have, or has twice for an axis.
    """
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
