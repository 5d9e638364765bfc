"""All 18 axes of steering: the sweeps together, the table that ships, and what it says about localisation."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from audioscope.arms import Arm, feature_arms
from audioscope.concepts import Concept, choose, shipped_concepts
from audioscope.errors import UnknownName
from audioscope.gains import Steering
from audioscope.model import Model
from audioscope.paths import data_folder, write_whole
from audioscope.sae import SAE
from audioscope.steering import caa
from audioscope.strengths import steering_sweep

PAIRS = (  # what is asked of every axis: is the first better than the second at equal preservation?
    ("caa own", "caa all"), ("caa shared", "caa all"), ("caa own", "caa random layers"), ("caa own", "random direction own"),
    ("caa all", "random direction own"), ("caa shared", "random direction own"), ("caa own", "caa all but shared"), ("caa own", "pci all"),
    ("caa all", "pci all"),
)  # fmt: skip
FEATURE_PAIRS = (  # and of features
    ("sae 2 strongest", "caa 2 strongest"), ("sae 2 strongest", "random features 2 strongest"),
    ("caa 2 strongest", "random features 2 strongest"), ("sae 2 strongest", "pci all"),
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
    steering_pairs.parquet (differences between arms on the same prompts), steering_clips.parquet and steering_settings.json,
    written anew after every axis; `name` stands for "steering" in theirs. concepts: None is all axes. arms: what is compared, from
    the concept and the axis's folder; None is the standard ones. keywords: those of `steering_sweep`.
    """
    done: list[Steering] = []
    for axis in axes() if concepts is None else list(concepts):
        folder = Path(work) / axis
        compared = None if arms is None else arms(choose([axis])[0], folder)
        done.append(steering_sweep(model, axis, compared, prompts=prompts, out=folder, **keywords))
        write_results(done, out, name)
    return pd.read_parquet(Path(out) / f"{name}.parquet")


def steer_all_features(
    model: Model,
    saes: Sequence[SAE],
    out: str | Path,
    work: str | Path = "runs/sae_steering",
    features: int = 20,
    **keywords: Any,
) -> pd.DataFrame:
    """`steer_all` for vectors of SAE features beside CAA at the same sites and random features; files are named sae_steering.

    An axis with two ends is steered by the features of the first minus those of the second.
    """

    def compared(concept: Concept, folder: Path) -> Sequence[Arm]:
        paths = [str(sae.facts["site"]) for sae in saes]
        vector = caa(model, concept, paths, min(50, len(concept.split("build"))), file=folder / "vector")
        return feature_arms(model, concept, saes, vector, features, against=concept.opposite or None)

    return steer_all(model, out, work, arms=compared, name="sae_steering", **keywords)


def write_results(sweeps: list[Steering], out: str | Path, name: str = "steering") -> None:
    """The four files of finished sweeps; clips with scores of 3 decimals, without their sound."""
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    summary = pd.concat([sweep.summary() for sweep in sweeps], ignore_index=True)
    pairs = pd.DataFrame(
        [(sweep.concept, one, other, *sweep.compare(one, other)) for sweep in sweeps for one, other in PAIRS + FEATURE_PAIRS
         if one in sweep.cells and other in sweep.cells],
        columns=["concept", "one", "other", "more", "low", "high"],
    )  # fmt: skip
    clips = pd.concat([sweep.table for sweep in sweeps], ignore_index=True).assign(clip="")
    clips = clips.round({name: 3 for name in clips.select_dtypes("float32").columns} | {"lpaps": 5, "clipped": 5, "dc": 5})
    texts = ["model", "concept", "opposite", "method", "sites", "cell", "text", "clip"]
    clips = clips.astype(dict.fromkeys(texts, "category") | {"prompt": "int16"})
    settings = {sweep.concept: sweep.settings for sweep in sweeps}
    write_whole(out / f"{name}.parquet", summary.to_parquet)
    write_whole(out / f"{name}_pairs.parquet", pairs.to_parquet)
    write_whole(out / f"{name}_clips.parquet", lambda path: clips.to_parquet(path, compression="zstd"))
    write_whole(out / f"{name}_settings.json", lambda path: path.write_text(json.dumps(settings, separators=(",", ":")) + "\n"))


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
    """One comparison over all axes: on how many the first is surely better, surely worse, or tied, and the median difference."""
    rows = pairs[(pairs["one"] == one) & (pairs["other"] == other)]
    better, worse = rows.loc[rows["low"] > 0, "concept"].tolist(), rows.loc[rows["high"] < 0, "concept"].tolist()
    return {"one": one, "other": other, "better": len(better), "worse": len(worse), "tied": len(rows) - len(better) - len(worse),
            "median_difference": float(np.median(rows["more"])), "better_on": better, "worse_on": worse}  # fmt: skip
