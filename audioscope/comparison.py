"""A fair look: does the best SAE feature tell a concept better than a neuron, a linear probe or a random SAE?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.optimize import brentq
from scipy.stats import norm
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm.auto import tqdm

from audioscope.concepts import Concept, choose
from audioscope.features import ConceptReadings, auroc, read_concepts
from audioscope.model import Model
from audioscope.sae import SAE
from audioscope.sae_training import geometric_median
from audioscope.streams import TokenStream, concept_prompts

EDGE = 1e-9  # at 0 and 1 the variance vanishes, which is no root
METHODS = ("feature", "neuron", "probe", "random SAE")


def auroc_interval(value: float, n: int, m: int, level: float = 0.95) -> tuple[float, float]:
    """The interval of an AUROC from n values with and m without: those true values from which it is not too far to be seen.

    Newcombe's method 5 (2006), which has a width at 0 and 1, too, where a bootstrap has none.
    """
    z, half = norm.ppf(0.5 + level / 2), (n + m) / 2 - 1

    def too_far(theta: float) -> float:
        variance = theta * (1 - theta) * (1 + half * ((1 - theta) / (2 - theta) + theta / (1 + theta))) / (n * m)
        return abs(value - theta) - z * np.sqrt(variance)

    low = 0.0 if value <= 0 else float(brentq(too_far, 0.0, value - EDGE))
    high = 1.0 if value >= 1 else float(brentq(too_far, value + EDGE, 1.0))
    return low, high


@torch.no_grad()
def random_like(sae: SAE, stream: TokenStream, seed: int = 0) -> SAE:
    """A control: an SAE of the same shape and sparsity that was never trained, with the threshold that leaves k features a token."""
    other = SAE(sae.d_in, sae.d_sae, sae.k, sae.kind, seed=10_007 + seed)
    x = next(iter(stream))
    other.b_dec.copy_(geometric_median(x))
    values = other.pre(x[:: max(1, len(x) // 4096)])
    other.threshold.fill_(float(values.flatten().topk(other.k * len(values)).values[-1]))
    other.levels, other.facts = sae.levels, dict(sae.facts)
    return other.requires_grad_(False)


def read_splits(
    model: Model,
    saes: dict[str, SAE],
    randoms: dict[str, SAE],
    concepts: Iterable[str | Concept] | None = None,
    prompts: Sequence[str] = (),
    **keywords: Any,
) -> dict[str, ConceptReadings]:
    """What `compare_features` needs, all sites in the same generations: split -> readings, on the build split of neurons alone.

    prompts: what the SAEs were trained on, none is the default of `TokenStream`; pairs with one of them are left out of the selection
    and the test split. keywords: those of `read_concepts`.
    """
    named = {f"feature {path}": sae for path, sae in saes.items()} | {f"random SAE {path}": sae for path, sae in randoms.items()}
    chosen, seen = choose(concepts), tuple(prompts) or concept_prompts()
    readings = {"build": read_concepts(model, {}, chosen, "build", sites=saes, **keywords)}
    return readings | {
        split: read_concepts(model, named, chosen, split, without=seen, **keywords) for split in ("select", "test")
    }


def compare_features(
    model: Model,
    saes: dict[str, SAE],
    randoms: dict[str, SAE],
    concepts: Iterable[str | Concept] | None = None,
    *,
    readings: dict[str, ConceptReadings] | None = None,
    progress: bool = True,
    **keywords: Any,
) -> pd.DataFrame:
    """For each site and concept the best single feature, the best single neuron, a linear probe and the best feature of a random SAE.

    saes, randoms: site path -> SAE. A unit, its noise level and its sign are chosen by AUROC on the selection split; the probe
    (logistic regression) is fitted on the build split, its level and its penalty chosen on the selection split; all is reported on the
    test split, whose prompts none of them saw. Returns site, concept, method, unit (its number, -1 for the probe), sigma, sign,
    selected (the AUROC on the selection split), auroc, low and high (95 %, `auroc_interval`).
    readings: what `read_splits` gave for these SAEs; else it is called, with the keywords.
    """
    chosen = choose(concepts)
    if readings is None:
        readings = read_splits(model, saes, randoms, chosen, progress=progress, **keywords)
    sigmas = readings["test"].sigmas.tolist()
    lines = []
    for path in saes:
        for concept in tqdm(chosen, desc=f"comparing at {path}", unit="concept", disable=not progress):
            for method in METHODS:
                name = path if method in ("neuron", "probe") else f"{method} {path}"
                parts = {split: found.of(concept.name, name) for split, found in readings.items() if name in found.values}
                best = _probe(parts) if method == "probe" else _best_unit(parts)
                n, m = (len(part) for part in parts["test"])
                low, high = auroc_interval(best["auroc"], n, m)
                lines.append({"site": path, "concept": concept.name, "method": method, **best, "low": low, "high": high})
    table = pd.DataFrame(lines)
    return table.assign(sigma=[sigmas[level] for level in table.pop("level")])


def _best_unit(parts: dict[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
    """The unit, level and sign with the highest AUROC on the selection split, and its AUROC on the test split."""
    selected = auroc(*parts["select"])  # [levels, units]
    level, unit = np.unravel_index(np.abs(selected - 0.5).argmax(), selected.shape)
    sign = 1 if selected[level, unit] >= 0.5 else -1
    tested = float(auroc(*(part[:, level, unit] for part in parts["test"])))
    return {
        "unit": int(unit), "level": int(level), "sign": sign, "selected": float(abs(selected[level, unit] - 0.5) + 0.5),
        "auroc": tested if sign > 0 else 1 - tested,
    }  # fmt: skip


def _probe(parts: dict[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
    """Logistic regression on all neurons of a level."""
    best: tuple[float, int, Any] | None = None
    with_, without = parts["build"]
    y = np.repeat([1, 0], [len(with_), len(without)])
    for level in range(with_.shape[1]):
        x = np.concatenate([with_[:, level], without[:, level]])
        for strength in (0.01, 0.1, 1.0):
            probe = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=500)).fit(x, y)
            found = float(auroc(*(probe.decision_function(part[:, level]) for part in parts["select"])))
            if best is None or found > best[0]:
                best = found, level, probe
    assert best is not None
    found, level, probe = best
    tested = float(auroc(*(probe.decision_function(part[:, level]) for part in parts["test"])))
    return {"unit": -1, "level": level, "sign": 1, "selected": found, "auroc": tested}


def wins(table: pd.DataFrame, one: str = "feature") -> pd.DataFrame:
    """Against each other method and at each site: on how many concepts `one` is surely better, surely worse, or tied.

    Sure is where the two intervals do not touch.
    """
    lines = []
    for path, rows in table.groupby("site", sort=False):
        by = {method: part.set_index("concept") for method, part in rows.groupby("method")}
        mine = by[one]
        for other in (method for method in METHODS if method != one and method in by):
            better, worse = mine["low"] > by[other]["high"], mine["high"] < by[other]["low"]
            lines.append({
                "site": path, "one": one, "other": other, "better": int(better.sum()), "worse": int(worse.sum()),
                "tied": int((~better & ~worse).sum()), "median_one": float(mine["auroc"].median()),
                "median_other": float(by[other]["auroc"].median()),
            })  # fmt: skip
    return pd.DataFrame(lines)
