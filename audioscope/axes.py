"""All 18 axes of steering: the sweeps together, the table that ships, and what it says about localisation."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from scipy.stats import binomtest

from audioscope.arms import Arm
from audioscope.concepts import Concept, choose, shipped_concepts
from audioscope.errors import UnknownName
from audioscope.gains import FLOOR, SURE, Steering
from audioscope.model import Model
from audioscope.paths import data_folder, write_whole
from audioscope.sae import SAE
from audioscope.stats import holm, mean_with_interval, sign_test
from audioscope.streams import concept_prompts
from audioscope.strengths import steering_sweep
from audioscope.tuning import tuned_arms
from audioscope.vectors import SteeringVector

PAIRS = (  # what is asked of every axis: is the first better than the second at equal preservation?
    ("caa own", "caa all"), ("caa shared", "caa all"), ("caa own", "caa random layers"), ("caa all", "caa random layers"),
    ("caa all, natural lengths", "caa all"), ("caa own", "caa all, natural lengths"), ("caa own", "random direction own"),
    ("caa all", "random direction own"), ("caa random layers", "random direction own"), ("caa own", "fixed direction own"),
    ("caa own", "shuffled labels own"), ("caa own", "pci all"), ("caa all", "pci all"), ("caa all, natural lengths", "pci all"),
)  # fmt: skip
FEATURE_PAIRS = (  # and of features, each method tuned on the selection split, or as the paper has it
    ("sae tuned", "caa tuned"), ("sae untuned", "caa untuned"), ("sae tuned", "random features tuned"),
    ("caa tuned", "random features tuned"), ("sae tuned", "sae untuned"), ("caa tuned", "caa untuned"), ("sae tuned", "pci all"),
    ("caa tuned", "pci all"),
)  # fmt: skip


def axes() -> list[str]:
    """One name for each axis of the shipped concepts: an opposed pair goes by its first end (female, fast, happy)."""
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
    arms: Callable[[Concept, Path], Sequence[Arm]] | None = None,
    name: str = "steering",
    **keywords: Any,
) -> pd.DataFrame:
    """Run a sweep on every axis and write its results; goes on where it was stopped, and returns the table.

    work: the sweeps lie here, one folder an axis. out: gets steering.parquet (one row per concept, method and sites),
    steering_pairs.parquet (differences between arms on the same prompts), steering_views.parquet (the same on another scale, price and
    network), steering_shuffled.parquet (how alike the vector and that of shuffled labels are), steering_clips.parquet and steering_settings.json, written anew after every axis; `name` stands for "steering" in theirs. concepts: None is all axes. arms: what is compared, from
    the concept and the axis's folder; None is the standard ones. keywords: those of `steering_sweep`.
    """
    done: list[_Found] = []
    alike: list[pd.DataFrame] = []
    for axis in axes() if concepts is None else list(concepts):
        folder = Path(work) / axis
        chosen = None if arms is None else arms(choose([axis])[0], folder)
        done.append(_Found.of(steering_sweep(model, axis, chosen, prompts=prompts, out=folder, **keywords)))
        _write(done, out, name)
        if arms is None:
            true, shuffled = (SteeringVector.load(folder / which) for which in ("vector", "shuffled"))
            alike.append(true.cosines(shuffled).assign(concept=axis))
            write_whole(Path(out) / f"{name}_shuffled.parquet", pd.concat(alike, ignore_index=True).to_parquet)
    return pd.read_parquet(Path(out) / f"{name}.parquet")


def steer_all_features(
    model: Model,
    saes: Sequence[SAE],
    out: str | Path,
    work: str | Path = "runs/sae_steering",
    *,
    without: Iterable[str] | None = None,
    **keywords: Any,
) -> pd.DataFrame:
    """`steer_all` for vectors of SAE features beside CAA at the same sites, both tuned, and random features; files are named sae_steering.

    See `audioscope.tuning.tuned_arms`; sae_steering_choices.parquet gets what was tried and chosen. without: neutral prompts that are left
    out; None is those that the shipped SAEs were trained on, so that no clip starts from one.
    """
    seen = set(concept_prompts() if without is None else without)
    shared = ("steps", "guidance", "seconds", "scorer", "price", "batch", "progress")  # what is tuned is tuned as it is reported
    alike = {name: keywords[name] for name in shared if name in keywords}

    def compared(concept: Concept, folder: Path) -> Sequence[Arm]:
        return tuned_arms(model, concept, saes, folder, without=seen, **alike)

    table = steer_all(model, out, work, arms=compared, name="sae_steering", without=seen, **keywords)
    choices = pd.concat(
        [pd.read_parquet(Path(work) / axis / "choices.parquet") for axis in table["concept"].unique()], ignore_index=True
    )
    write_whole(Path(out) / "sae_steering_choices.parquet", choices.to_parquet)
    return table


def write_results(sweeps: Iterable[Steering], out: str | Path, name: str = "steering") -> None:
    """The five files of finished sweeps; clips with scores of 3 decimals, without their sound."""
    _write([_Found.of(sweep) for sweep in sweeps], out, name)


class _Found(NamedTuple):
    """What one sweep adds to the files."""

    settings: dict[str, Any]
    summary: pd.DataFrame
    pairs: pd.DataFrame
    seen: pd.DataFrame
    clips: pd.DataFrame

    @classmethod
    def of(cls, sweep: Steering) -> _Found:
        pairs = compared(sweep)
        seen = [compared(other).assign(view=view) for view, other in views(sweep).items()]
        return cls(sweep.settings, sweep.summary(), pairs, pd.concat([*seen, pairs.iloc[:0].assign(view="")]), sweep.table)


def _write(found: Sequence[_Found], out: str | Path, name: str) -> None:
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    summary, pairs, seen, clips = (pd.concat(each, ignore_index=True) for each in list(zip(*found, strict=True))[1:])
    digits = {column: 5 if column.startswith("lpaps") else 3 for column in clips.select_dtypes("float32").columns}
    clips = clips.assign(clip="").round(digits | {"clipped": 5, "dc": 5})
    texts = ["model", "concept", "opposite", "method", "sites", "cell", "text", "clip"]
    clips = clips.astype(dict.fromkeys(texts, "category") | {"prompt": "int16"})
    settings = {each.settings["concept"]: each.settings for each in found}
    write_whole(out / f"{name}.parquet", summary.to_parquet)
    write_whole(out / f"{name}_pairs.parquet", pairs.to_parquet)
    write_whole(out / f"{name}_views.parquet", seen.to_parquet)
    write_whole(out / f"{name}_clips.parquet", lambda path: clips.to_parquet(path, compression="zstd"))
    write_whole(out / f"{name}_settings.json", lambda path: path.write_text(json.dumps(settings, separators=(",", ":")) + "\n"))


def views(sweep: Steering) -> dict[str, Steering]:
    """A sweep as it looks otherwise: scores "clipped", "repriced" by the gain's own network, and the two networks "exchanged"; those that it has."""
    found = {"clipped": sweep.on("clipped")} if sweep.settings.get("calibrated") else {}
    if sweep.two_networks:
        found |= {"repriced": sweep.repriced(), "exchanged": sweep.swapped()}
    return found


def compared(sweep: Steering, asked: Iterable[tuple[str, str]] = PAIRS + FEATURE_PAIRS) -> pd.DataFrame:
    """The differences of a sweep's areas that are asked for, where it has both cells: one, other, more, low, high, p, same.

    same: both act at the same layers with the same vector, so that their difference says nothing.
    """
    acts = sweep.settings.get("arms", {})

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
    """Which axes each way steers, of all that were tried: rows of `Steering.summary` of many axes, with `p` and `steerable` corrected.

    p: the larger of p_beyond and p_rising, since both must hold, corrected by Holm over the axes of a cell. steerable: p at most
    .05, and an AUC of at least a tenth of that of rewriting the prompt.
    """
    cell = table["method"] + " " + table["sites"]
    p = table[["p_beyond", "p_rising"]].max(axis=1, skipna=False)
    corrected = p.groupby(cell).transform(lambda values: holm(values.to_numpy()))
    passed = (corrected <= SURE) & (table["share"] >= FLOOR)
    return table.assign(cell=cell, p=corrected, steerable=passed.astype(object).where(p.notna(), None))


def counts(table: pd.DataFrame) -> pd.DataFrame:
    """How many of the axes each way steers, with an exact 95 % interval (Clopper and Pearson): cell, steers, axes, low, high, which."""
    lines = []
    for cell, rows in steerable(table).groupby("cell", sort=False):
        known = rows[rows["steerable"].notna()]
        if len(known):
            which = known.loc[known["steerable"].astype(bool), "concept"].tolist()
            bounds = binomtest(len(which), len(known)).proportion_ci()
            lines.append((cell, len(which), len(known), bounds.low * len(known), bounds.high * len(known), which))
    return pd.DataFrame(lines, columns=["cell", "steers", "axes", "low", "high", "which"])


def shipped_steering(concept: str | None = None, name: str = "steering") -> Any:
    """The shipped results of `tiny`: the table of all axes, or one axis as a `Steering`, without sound.

    name: "steering", or "sae_steering" for the comparison of SAE features with CAA.

    Raises UnknownName for an axis that is not there.
    """
    folder = data_folder() / "results"
    if concept is None:
        return pd.read_parquet(folder / f"{name}.parquet")
    settings = json.loads((folder / f"{name}_settings.json").read_text())
    if concept not in settings:
        raise UnknownName(f"No steering of {concept!r} ships. There are: {', '.join(settings)}.")
    clips = pd.read_parquet(folder / f"{name}_clips.parquet", filters=[("concept", "==", concept)])
    texts = clips.select_dtypes("category").columns
    return Steering(clips.astype(dict.fromkeys(texts, str)).reset_index(drop=True), settings[concept], folder)


def over_axes(pairs: pd.DataFrame, one: str, other: str) -> dict[str, Any]:
    """One comparison over all axes, without those where both are the same: how many are surely better or worse, and the whole.

    better, worse, tied: after Holm's correction over the axes, at .05; better_on, worse_on name them. mean_difference, low, high: the mean
    over axes and its interval, with axes as units. ups, downs, sign_p: the sign test.
    """
    rows = pairs[(pairs["one"] == one) & (pairs["other"] == other) & ~pairs["same"].astype(bool)]
    sure = holm(rows["p"].to_numpy()) <= SURE
    better, worse = (rows.loc[sure & (rows["more"] * side > 0), "concept"].tolist() for side in (1, -1))
    mean, low, high = mean_with_interval(rows["more"])
    ups, downs, sign_p = sign_test(rows["more"])
    return {"one": one, "other": other, "axes": len(rows), "better": len(better), "worse": len(worse), "tied": len(rows) - len(better) - len(worse),
            "mean_difference": mean, "low": low, "high": high, "ups": ups, "downs": downs, "sign_p": sign_p, "better_on": better,
            "worse_on": worse}  # fmt: skip
