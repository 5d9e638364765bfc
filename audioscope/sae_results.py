"""The SAEs of a model's sites from start to end: train, gate, score, compare, and the folder that ships."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from audioscope.atlas import Atlas
from audioscope.comparison import choose_units, compare_units, random_like, read_splits
from audioscope.concepts import Concept, choose
from audioscope.feature_vectors import SCORES
from audioscope.features import NEGATIVES, ConceptReadings, Negatives, score_features
from audioscope.gate import gate_sae
from audioscope.model import Model
from audioscope.sae import SAE
from audioscope.sae_files import load_sae, save_sae
from audioscope.sae_training import train_sae
from audioscope.streams import TokenStream

# What the shipped SAEs were trained with: one pass over 2,989 prompts, each buffer gone through twice.
TRAINING = {"expansion": 4, "k": 8, "tokens": 3_800_000, "reuse": 2}
COMPARED: dict[Negatives, str] = {"all": "auroc", "counterfactual": "auroc_counterfactual"}  # where in a report
MEASURED = ("auroc", "low", "high", "selected", "unit", "sign", "sigma", "difference", "difference_low", "difference_high", "p")


def strongest_sites(atlas: Atlas, count: int = 2) -> list[str]:
    """The module paths with the highest impact averaged over concepts, strongest first."""
    return atlas.layer_means().nlargest(count, "impact")["site"].tolist()


def train_saes(
    model: Model,
    sites: Sequence[str],
    out: str | Path,
    work: str | Path = "runs/sae",
    *,
    prompts: Sequence[str] = (),
    branches: tuple[str, ...] = ("cond",),
    positions: int | None = None,
    settings: dict[str, Any] | None = None,
    progress: bool = True,
    **training: Any,
) -> dict[str, SAE]:
    """Train an SAE of each site, put it through the gate and write it to out/<site>; goes on where it was stopped.

    work: states of trainings. prompts, branches, positions: those of `TokenStream`. settings: steps, guidance, seconds, batch.
    training: keywords of `train_sae`; those of the shipped SAEs where not given. Returns site path -> SAE.
    """
    found = {}
    for site in sites:
        stream = TokenStream(model, site, prompts, branches, positions=positions, **(settings or {}))
        state = Path(work) / f"{stream.site}.safetensors"
        sae = train_sae(stream, **{**TRAINING, **training}, out=state, progress=progress)
        gate_sae(sae, stream, progress=progress)
        save_sae(sae, Path(out) / stream.site)
        found[stream.site] = sae
    return found


def report_saes(
    model: Model,
    out: str | Path,
    sites: Sequence[str],
    concepts: Iterable[str | Concept] | None = None,
    *,
    prompts: Sequence[str] = (),
    pairs: int | None = None,
    readings: dict[str, ConceptReadings] | None = None,
    progress: bool = True,
    **keywords: Any,
) -> pd.DataFrame:
    """Score all features of the SAEs in out/<site>, compare them with neurons, probes and random SAEs, and add both to the folders.

    scores.parquet gets the scores of the selection split; report.json an "auroc" per concept and method from the test split, told from
    all other prompts, "auroc_counterfactual", told from the counterfactual alone, and "scores": for each concept and score the best
    feature and level of the selection split, and its value on the test split; units.parquet how the chosen units order the test
    prompts, from which `audioscope.comparison.compare_units` gives both again.
    prompts: what the SAEs were trained on, none is the default of `TokenStream`; pairs with one of them are left out of the selection and
    the test split. readings: what `read_splits` gave for these SAEs; else all sites are read in the same generations.
    Returns site and the table of `compare_units`, for all other prompts.
    """
    saes = {site: load_sae(Path(out) / site) for site in sites}
    chosen = choose(None if concepts is None else list(concepts))
    if readings is None:
        randoms = {site: random_like(sae, TokenStream(model, site, **keywords)) for site, sae in saes.items()}
        readings = read_splits(model, saes, randoms, chosen, prompts, pairs=pairs, progress=progress, **keywords)
    for site, sae in saes.items():
        selected, tested = (
            score_features(sae, model, chosen, split, readings=readings[split], name=f"feature {site}")
            for split in ("select", "test")
        )
        found = {negatives: choose_units(readings, site, chosen, negatives, progress) for negatives in NEGATIVES}
        compared = {COMPARED[negatives]: _by_concept(compare_units(*both)) for negatives, both in found.items()}
        sae.report = {**sae.report, "scores": _held_out(selected, tested), **compared}
        first, second = (units for _, units in found.values())
        sae.units = pd.concat([first, second.drop(columns=["concept", "pair", "has"])], axis=1)
        save_sae(sae, Path(out) / site)
    return auroc_table(saes)


def _by_concept(table: pd.DataFrame) -> dict[str, dict[str, dict[str, float | int]]]:
    """Concept -> method -> what was measured, as JSON values; the feature has no difference from itself."""
    return {
        str(concept): {
            row["method"]: {name: _plain(row[name]) for name in MEASURED if not pd.isna(row[name])}
            for row in part.to_dict("records")
        }
        for concept, part in table.groupby("concept", sort=False)
    }


def _held_out(selected: pd.DataFrame, tested: pd.DataFrame) -> dict[str, dict[str, dict[str, float | int]]]:
    """Concept -> score -> the feature and level that are best by it on the selection split, with both values."""
    keys = ["concept", "feature", "sigma"]
    both = selected.dropna().merge(tested.dropna(), on=keys, how="left", suffixes=("", " tested"))
    both = both.fillna({"auroc tested": 0.5}).fillna(0.0)  # a feature that is never active tells nothing
    found: dict[str, dict[str, dict[str, float | int]]] = {}
    for concept, rows in both.groupby("concept", sort=False):
        best = {score: rows.loc[rows[score].idxmax()] for score in SCORES}
        found[str(concept)] = {
            score: {"feature": int(row["feature"]), "sigma": _plain(row["sigma"]), "selected": _plain(row[score]), "tested": _plain(row[f"{score} tested"])}
            for score, row in best.items()
        }  # fmt: skip
    return found


def _plain(value: Any) -> float | int:
    return int(value) if float(value).is_integer() and not isinstance(value, float) else round(float(value), 5)


def auroc_table(saes: dict[str, SAE], negatives: Negatives = "all") -> pd.DataFrame:
    """The comparisons that reports carry as the tidy table that `compare_features` gave: site, concept, method, auroc, low, high, ..."""
    return pd.DataFrame([
        {"site": site, "concept": concept, "method": method, "negatives": negatives, **values}
        for site, sae in saes.items() for concept, methods in sae.report.get(COMPARED[negatives], {}).items()
        for method, values in methods.items()
    ])  # fmt: skip
