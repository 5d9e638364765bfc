"""The SAEs of a model's sites from start to finish: train, evaluate, score and compare them, and write the folder that ships."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from audioscope.atlas.atlas import Atlas
from audioscope.concepts import Concept, choose
from audioscope.errors import as_path, choice, named, of_kind, one_or_more, texts, whole
from audioscope.model import Model
from audioscope.sae.comparison import choose_units, compare_units, random_like, read_splits
from audioscope.sae.evaluation import evaluate_sae
from audioscope.sae.features import NEGATIVES, ConceptActivations, Negatives, score_features
from audioscope.sae.files import load_sae, save_sae
from audioscope.sae.sae import SAE
from audioscope.sae.streams import TokenStream
from audioscope.sae.training import train_sae
from audioscope.sae.vectors import SCORES
from audioscope.workers import Workers, room

MANY = 1_000_000  # tokens of a training that is long enough for workers
COMPARED: dict[Negatives, str] = {"all": "auroc", "counterfactual": "auroc_counterfactual"}  # keys in a report
MEASURED = ("auroc", "low", "high", "selected", "unit", "sign", "sigma", "difference", "difference_low", "difference_high", "p")


def strongest_sites(atlas: Atlas, count: int = 2) -> list[str]:
    """Find the sites with the highest impact averaged over concepts, which are worth an SAE.

    Args:
        atlas: An atlas, such as `audioscope.localize` returns.
        count: How many sites.

    Returns:
        Their module paths, strongest first.

    Example:
        >>> audioscope.sae.strongest_sites(audioscope.datasets.atlas())
        ['transformer.transformer_blocks.0.cross_attn', 'transformer.transformer_blocks.6.cross_attn']
    """
    of_kind("atlas", atlas, Atlas)
    count = whole("count", count, 1, len(atlas.sites), ", the atlas's sites")
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
    workers: Workers = None,
    progress: bool = True,
    **training: Any,
) -> dict[str, SAE]:
    """Train an SAE for each site, evaluate it and write it to out/<site>; resumes where it was interrupted.

    Args:
        model: The model.
        sites: The module paths of the sites.
        out: The folder that receives a folder for each SAE.
        work: The folder for the states of the trainings.
        prompts: What to train on, as for `audioscope.sae.TokenStream`, where empty means the shipped concepts' build split.
        branches: The branches of guidance to read, as for `audioscope.sae.TokenStream`.
        positions: Time tokens to keep of each generation and step, as for `audioscope.sae.TokenStream`; None means all.
        settings: More keywords of `audioscope.sae.TokenStream`, such as steps, guidance, seconds and batch_size.
        workers: In how many processes activations are read, as for `audioscope.localize`; None is as many as there is room for, or
            this one for a training of less than a million tokens.
        progress: Show progress bars.
        **training: Keywords of `audioscope.sae.train_sae`, whose defaults are those of the shipped SAEs (one pass over 2,989
            prompts, with two passes through each buffer).

    Returns:
        The SAEs by the module path of their site.

    Example:
        >>> site = "transformer.transformer_blocks.6.cross_attn"
        >>> saes = audioscope.sae.train_saes(model, [site], "saes")  # doctest: +SKIP
        >>> training = audioscope.datasets.sae(site).metadata["training"]  # one that ships
        >>> training["expansion_factor"], training["k"], training["training_tokens"]
        (4, 8, 3800000)
    """
    of_kind("model", model, Model)
    if workers is None and training.get("training_tokens", MANY) >= MANY and (many := room(model)) > 1:
        workers = many
    found = {}
    for site in sites:
        stream = TokenStream(model, site, prompts, branches, positions=positions, workers=workers, **(settings or {}))
        state = as_path(work) / f"{stream.site}.safetensors"
        sae = train_sae(stream, **training, out=state, progress=progress)
        sae.report = evaluate_sae(sae, stream, progress=progress).report()
        save_sae(sae, as_path(out) / stream.site)
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
    readings: dict[str, ConceptActivations] | None = None,
    progress: bool = True,
    **keywords: Any,
) -> pd.DataFrame:
    """Score all features of the SAEs in out/<site>, compare them with neurons, probes and random SAEs, and save both there.

    In the folder of each SAE, three files are written.

    - scores.parquet receives the scores of the selection split (`audioscope.sae.score_features`).
    - report.json receives, per concept and method on the test split, "auroc" against all other prompts and "auroc_counterfactual"
      against the counterfactual alone, and "scores": for each concept and score, the best feature and level of the selection
      split, and its value on the test split.
    - units.parquet receives how the chosen units order the test prompts, from which
      `audioscope.sae.comparison.compare_units` computes both AUROCs again.

    Args:
        model: The model that the SAEs were trained on.
        out: The folder that `audioscope.sae.train_saes` wrote.
        sites: The module paths of the sites.
        concepts: Names of shipped concepts or `Concept` values; None means all 21.
        prompts: What the SAEs were trained on, where empty means the default of `audioscope.sae.TokenStream`; pairs that contain
            one of them are left out of the selection and test splits.
        pairs: At most this many pairs of each concept and split; None means all.
        readings: The result of `audioscope.sae.comparison.read_splits` for these SAEs; None reads all sites in the same
            generations.
        progress: Show progress bars.
        **keywords: `workers`, `batch_size`, `steps`, `guidance`, `seconds`, `negative_prompt`.

    Returns:
        The comparison against all other prompts, with the columns of `audioscope.sae.compare_features`.

    Example:
        >>> site = "transformer.transformer_blocks.6.cross_attn"
        >>> folder = audioscope.datasets.sae(site).save_pretrained(f"saes/{site}")
        >>> table = audioscope.sae.report_saes(model, "saes", [site], ["fast"], pairs=2, steps=1, progress=False)
        >>> table[["concept", "method"]]
          concept      method
        0    fast     feature
        1    fast      neuron
        2    fast       probe
        3    fast  random SAE
    """
    saes = {site: load_sae(as_path(out) / site) for site in texts("sites", one_or_more(sites))}
    chosen, prompts = choose(concepts), texts("prompts", prompts)
    if readings is not None:
        named("readings", readings, ConceptActivations)
    else:
        of_kind("model", model, Model)
        alone = {name: value for name, value in keywords.items() if name != "workers"}  # for a single batch
        randoms = {site: random_like(sae, TokenStream(model, site, **alone)) for site, sae in saes.items()}
        readings = read_splits(model, saes, randoms, chosen, prompts, pairs=pairs, progress=progress, **keywords)
    for site, sae in saes.items():
        selected, tested = (
            score_features(sae, model, chosen, split, readings=readings[split], name=f"feature {site}")
            for split in ("select", "test")
        )
        found = {negatives: choose_units(readings, site, chosen, negatives, progress) for negatives in NEGATIVES}
        compared = {COMPARED[negatives]: _by_concept(compare_units(*both)) for negatives, both in found.items()}
        sae.scores, sae.report = selected, {**sae.report, "scores": _held_out(selected, tested), **compared}
        first, second = (units for _, units in found.values())
        sae.units = pd.concat([first, second.drop(columns=["concept", "pair", "has"])], axis=1)
        save_sae(sae, as_path(out) / site)
    return auroc_table(saes)


def _by_concept(table: pd.DataFrame) -> dict[str, dict[str, dict[str, float | int]]]:
    """Concept -> method -> measurements, as JSON values; the feature itself has no differences."""
    return {
        str(concept): {
            row["method"]: {name: _plain(row[name]) for name in MEASURED if not pd.isna(row[name])}
            for row in part.to_dict("records")
        }
        for concept, part in table.groupby("concept", sort=False)
    }


def _held_out(selected: pd.DataFrame, tested: pd.DataFrame) -> dict[str, dict[str, dict[str, float | int]]]:
    """Concept -> score -> the best feature and level by this score on the selection split, with its value on both splits."""
    keys = ["concept", "feature", "sigma"]
    both = selected.dropna().merge(tested.dropna(), on=keys, how="left", suffixes=("", " tested"))
    both = both.fillna({"auroc tested": 0.5}).fillna(0.0)  # a feature that is never active carries no information
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
    """Read the comparisons from the reports of SAEs, as a tidy table like that of `audioscope.sae.compare_features`.

    Args:
        saes: The SAEs by site, with the reports that `audioscope.sae.report_saes` wrote.
        negatives: "all" for the comparison against all other prompts, "counterfactual" for that against the counterfactual alone.

    Returns:
        One row per site, concept and method, with the columns of `audioscope.sae.compare_features`; empty without reports.

    Example:
        >>> site = "transformer.transformer_blocks.6.cross_attn"
        >>> table = audioscope.sae.auroc_table({site: audioscope.datasets.sae(site)})
        >>> table.query("concept == 'fast'")["method"].tolist()
        ['feature', 'neuron', 'probe', 'random SAE']
    """
    choice("negatives", negatives, tuple(COMPARED))
    named("saes", saes, SAE)
    return pd.DataFrame([
        {"site": site, "concept": concept, "method": method, "negatives": negatives, **values}
        for site, sae in saes.items() for concept, methods in sae.report.get(COMPARED[negatives], {}).items()
        for method, values in methods.items()
    ])  # fmt: skip
