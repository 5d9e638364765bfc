"""A fair comparison: does the best SAE feature detect a concept better than a neuron, a linear probe or a random SAE?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import rankdata
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm.auto import tqdm

from audioscope.concepts import Concept, choose, concept_prompts
from audioscope.errors import choice, named, of_kind, quiet, real, with_columns
from audioscope.model import Model
from audioscope.sae.features import NEGATIVES, ConceptActivations, Negatives, concept_activations, with_and_without
from audioscope.sae.sae import SAE
from audioscope.sae.streams import TokenStream
from audioscope.sae.training import geometric_median
from audioscope.stats import auroc, auroc_interval, cohens_d, holm, mean_with_interval, paired_difference, sign_test

METHODS = ("feature", "neuron", "probe", "random SAE")


@torch.no_grad()
def random_like(sae: SAE, stream: TokenStream) -> SAE:
    """A control: an untrained SAE of the same shape and sparsity, with the threshold that leaves k active features per token."""
    other = SAE(sae.d_in, sae.d_sae, sae.k, sae.kind, seed=10_007)
    x = next(iter(stream))
    other.b_dec.copy_(geometric_median(x))
    values = other.pre_topk(x[:: max(1, len(x) // 4096)])
    other.threshold.fill_(float(values.flatten().topk(other.k * len(values)).values[-1]))
    other.levels, other.metadata = sae.levels, dict(sae.metadata)
    return other.requires_grad_(False)


def read_splits(
    model: Model,
    saes: dict[str, SAE],
    randoms: dict[str, SAE],
    concepts: Iterable[str | Concept] | None = None,
    prompts: Sequence[str] = (),
    **keywords: Any,
) -> dict[str, ConceptActivations]:
    """What `compare_features` needs, with all sites read in the same generations: split -> activations (build: of neurons only).

    prompts: what the SAEs were trained on, where empty means the default of `TokenStream`; pairs that contain one of them are
    left out of the selection and test splits. keywords: those of `concept_activations`.
    """
    named = {f"feature {path}": sae for path, sae in saes.items()} | {f"random SAE {path}": sae for path, sae in randoms.items()}
    chosen, seen = choose(concepts), tuple(prompts) or concept_prompts()
    readings = {"build": concept_activations(model, {}, chosen, "build", sites=saes, **keywords)}
    return readings | {
        split: concept_activations(model, named, chosen, split, without=seen, **keywords) for split in ("select", "test")
    }


def compare_features(
    model: Model,
    saes: dict[str, SAE],
    randoms: dict[str, SAE],
    concepts: Iterable[str | Concept] | None = None,
    *,
    negatives: Negatives = "all",
    readings: dict[str, ConceptActivations] | None = None,
    progress: bool = True,
    **keywords: Any,
) -> pd.DataFrame:
    """Ask whether a concept's best SAE feature detects it better than a neuron, a linear probe or a random SAE's feature would.

    For each site and concept, a unit, its noise level and its sign are selected by AUROC on the selection split, and ties are
    broken by Cohen's d. The probe (logistic regression on all neurons of a level) is fitted on the build split, and its level and
    penalty are selected in the same way. Everything is reported on the test split, whose prompts none of them saw.

    Args:
        model: The model that the SAEs were trained on.
        saes: The SAEs by the module path of their site.
        randoms: The controls by site, untrained SAEs such as `audioscope.sae.comparison.random_like` makes.
        concepts: Names of shipped concepts or `Concept` values; None means all 21.
        negatives: What a concept is distinguished from, in every split. "all" means all prompts that do not name it,
            "counterfactual" the same prompts with the counterfactual in its place, which is much easier.
        readings: The result of `audioscope.sae.comparison.read_splits` for these SAEs; None computes it now, with `keywords`.
        progress: Show progress bars.
        **keywords: `prompts`, what the SAEs were trained on (pairs that contain one of them are left out of the selection and
            test splits; the default is that of `audioscope.sae.TokenStream`), and the keywords of
            `audioscope.sae.concept_activations`.

    Returns:
        One row per site, concept and method ("feature", "neuron", "probe", "random SAE").

        - site, concept, method, negatives; unit (-1 for the probe), its sign and noise level sigma,
        - selected: the AUROC on the selection split,
        - auroc, low, high: on the test split, with a 95 % interval (Newcombe's method, as if there were only as many prompts
          without the concept as with it),
        - difference, difference_low, difference_high, p: the feature's AUROC minus this one, paired, since both order the same
          prompts; NaN for the feature itself.

    Example:
        >>> site = "transformer.transformer_blocks.6.cross_attn"
        >>> sae = audioscope.datasets.sae(site)
        >>> control = audioscope.SAE(sae.d_in, sae.d_sae, sae.k, "topk")  # untrained
        >>> control.levels, control.metadata = sae.levels, sae.metadata
        >>> table = audioscope.sae.compare_features(
        ...     model, {site: sae}, {site: control}, ["fast"], pairs=2, steps=1, progress=False
        ... )
        >>> table["method"].tolist()
        ['feature', 'neuron', 'probe', 'random SAE']
    """
    choice("negatives", negatives, NEGATIVES)
    chosen, saes, randoms = choose(concepts), dict(named("saes", saes, SAE)), dict(named("randoms", randoms, SAE))
    if readings is not None:
        named("readings", readings, ConceptActivations)
    else:
        of_kind("model", model, Model)
        readings = read_splits(model, saes, randoms, chosen, progress=progress, **keywords)
    tables = []
    for path in saes:
        table = compare_units(*choose_units(readings, path, chosen, negatives, progress=progress))
        table.insert(0, "site", path)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def choose_units(
    readings: dict[str, ConceptActivations],
    path: str,
    concepts: Iterable[str | Concept] | None = None,
    negatives: Negatives = "all",
    progress: bool = True,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The unit of each concept and method at one site, and how it orders the held-out prompts: all that a comparison needs.

    Returns the choices (concept, method, unit, which is -1 for the probe, sigma, sign, and selected, the AUROC on the selection
    split) and the units: concept, pair and has of each held-out prompt and, for each choice, a column named by `column` with
    twice the midrank of the prompt among those that the comparison uses, and 0 for the others. Ranks are exact integers, whereas
    values in half precision would tie.
    """
    rows = readings["test"].rows
    sigmas = readings["test"].sigmas.tolist()
    chosen, ranks = [], {}
    for concept in tqdm(choose(concepts), desc=f"comparing at {path}", unit="concept", disable=quiet(progress)):
        sides = {split: with_and_without(found.rows, concept.name, negatives) for split, found in readings.items()}
        places = np.concatenate([np.flatnonzero(side) for side in sides["test"]])
        for method in METHODS:
            name = path if method in ("neuron", "probe") else f"{method} {path}"
            parts = {
                split: (found.values[name][sides[split][0]], found.values[name][sides[split][1]])
                for split, found in readings.items() if name in found.values
            }  # fmt: skip
            best, tested = _probe(parts) if method == "probe" else _best_unit(parts)
            place = np.zeros(len(rows), np.min_scalar_type(2 * len(rows)))
            place[places] = 2 * rankdata(np.concatenate(tested))
            chosen.append({"concept": concept.name, "method": method, **best})
            ranks[column(concept.name, method, negatives)] = place
    table = pd.DataFrame(chosen).assign(negatives=negatives)
    table["sigma"] = [sigmas[level] for level in table.pop("level")]
    return table, pd.concat([rows[["concept", "pair", "has"]], pd.DataFrame(ranks)], axis=1)


def column(concept: str, method: str, negatives: Negatives) -> str:
    """The name of a unit's column in the result of `choose_units`."""
    return f"{concept} {method}" + ("" if negatives == "all" else f" {negatives}")


def _best_unit(parts: dict[str, tuple[np.ndarray, np.ndarray]]) -> tuple[dict[str, Any], list[np.ndarray]]:
    """The unit, level and sign with the highest AUROC on the selection split, and its test values, high with the concept.

    Many units reach an AUROC of 1 on few prompts, so ties go to the largest effect, not to the lowest index.
    """
    selected, effect = auroc(*parts["select"]), np.abs(cohens_d(*parts["select"]))  # [levels, units]
    distance = np.abs(selected - 0.5).round(9)  # 0.3 and 0.7 are equally far from chance, except for the last bit
    level, unit = np.unravel_index(np.where(distance == distance.max(), effect, -1).argmax(), distance.shape)
    sign = 1 if selected[level, unit] >= 0.5 else -1
    metadata = {
        "unit": int(unit), "level": int(level), "sign": sign, "selected": float(abs(selected[level, unit] - 0.5) + 0.5)
    }  # fmt: skip
    return metadata, [sign * part[:, level, unit] for part in parts["test"]]


def _probe(parts: dict[str, tuple[np.ndarray, np.ndarray]]) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Logistic regression on all neurons of a level: like `_best_unit`, but selects the level and the penalty."""
    best: tuple[tuple[float, float], int, Any] | None = None
    with_, without = parts["build"]
    y = np.repeat([1, 0], [len(with_), len(without)])
    for level in range(with_.shape[1]):
        x = np.concatenate([with_[:, level], without[:, level]])
        for strength in (0.01, 0.1, 1.0):
            probe = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=500)).fit(x, y)
            outputs = [probe.decision_function(part[:, level]) for part in parts["select"]]
            quality = round(float(auroc(*outputs)), 9), float(cohens_d(*outputs))
            if best is None or quality > best[0]:
                best = quality, level, probe
    assert best is not None
    (selected, _), level, probe = best
    metadata = {"unit": -1, "level": level, "sign": 1, "selected": selected}
    return metadata, [probe.decision_function(part[:, level]) for part in parts["test"]]


def compare_units(chosen: pd.DataFrame, units: pd.DataFrame) -> pd.DataFrame:
    """How well the chosen units detect their concepts on held-out prompts, and by how much the feature beats each other method.

    chosen, units: the result of `choose_units`, or what a report contains. Returns the choices with auroc, low and high (95 %,
    Newcombe's method, as if there were only as many prompts without the concept as with it), and, except for the feature itself,
    difference (the feature's AUROC minus this one), difference_low, difference_high and p: paired, since both methods order the
    same prompts (`paired_difference`).
    """
    lines = []
    for row in chosen.to_dict("records"):
        concept, negatives = row["concept"], row["negatives"]
        best, mine = (units[column(concept, method, negatives)].to_numpy(float) for method in (METHODS[0], row["method"]))
        used = mine > 0
        has = ((units["concept"] == concept) & units["has"]).to_numpy(bool)[used]
        pairs = units[used].groupby(["concept", "pair"], sort=False).ngroup().to_numpy()
        best, mine = best[used], mine[used]
        area = float(auroc(mine[has], mine[~has]))
        count = len(np.unique(pairs[has]))
        row["auroc"], (row["low"], row["high"]) = area, auroc_interval(area, count, count)
        if row["method"] != METHODS[0]:
            found = paired_difference(best, mine, has, pairs)
            row |= dict(zip(("difference", "difference_low", "difference_high", "p"), found, strict=True))
        lines.append(row)
    return pd.DataFrame(lines)


def wins(table: pd.DataFrame, level: float = 0.05) -> pd.DataFrame:
    """Count the concepts on which the best feature is significantly better, worse or tied, by other method and site.

    Significant means a paired difference whose p stays below `level` after Holm's correction over the concepts.

    Args:
        table: The result of `audioscope.sae.compare_features` or `audioscope.sae.auroc_table`.
        level: The level of significance.

    Returns:
        One row per site and other method.

        - site, one ("feature"), other,
        - better, worse, tied: numbers of concepts,
        - mean, low, high: the difference in AUROC over concepts, with a 95 % interval (concepts are the units, though they share
          prompts),
        - ups, downs, p_signs: the sign test, with the numbers of concepts with a positive and a negative difference.

    Raises:
        ValueError: The table has no paired differences, which older reports lack.

    Example:
        >>> site = "transformer.transformer_blocks.6.cross_attn"
        >>> table = audioscope.sae.auroc_table({site: audioscope.datasets.sae(site)})
        >>> audioscope.sae.wins(table)[["other", "better", "worse", "tied"]]
                other  better  worse  tied
        0      neuron      13      0     8
        1       probe       0      9    12
        2  random SAE      15      0     6
    """
    with_columns("table", table, ("site", "method", "difference", "p"), "compare_features")
    level = real("level", level)
    lines = []
    for (path, other), rows in table[table["method"] != METHODS[0]].groupby(["site", "method"], sort=False):
        significant, difference = holm(rows["p"]) < level, rows["difference"].to_numpy()
        mean, low, high = mean_with_interval(difference)
        ups, downs, p = sign_test(difference)
        lines.append({
            "site": path, "one": METHODS[0], "other": other, "better": int((significant & (difference > 0)).sum()),
            "worse": int((significant & (difference < 0)).sum()), "tied": int((~significant | (difference == 0)).sum()),
            "mean": mean, "low": low, "high": high, "ups": ups, "downs": downs, "p_signs": p,
        })  # fmt: skip
    return pd.DataFrame(lines)
