"""Features against CAA with both tuned: the same pairs, the same contrast, and as many choices, made on the selection split.

The number of features and their weighting decide what a vector of features does; the sites and the lengths decide what CAA does.
To compare the methods and not two settings, each axis gets each method's best choice on prompts that are not reported.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import pandas as pd

from audioscope.concepts import Concept, choose_one, concept_prompts
from audioscope.errors import all_of, as_path, of_kind, whole
from audioscope.model import Model
from audioscope.sae.features import concept_activations, score_features
from audioscope.sae.methods import random_features_method
from audioscope.sae.sae import SAE
from audioscope.scoring.scorers import Scorer
from audioscope.sites import Site
from audioscope.steer.caa import caa
from audioscope.steer.cells import CAA_TUNED, RANDOM_FEATURES, SAE_TUNED, SAE_UNTUNED
from audioscope.steer.methods import SteeringMethod, prompt_switch_method, vector_method
from audioscope.steer.results import SteeringSweep
from audioscope.steer.sweeps import BATCH, GRID, calibrate
from audioscope.steer.tables import steer_all
from audioscope.steer.vectors import SteeringVector
from audioscope.store import write_table
from audioscope.tracing import SamplingKeywords
from audioscope.workers import Workers

COUNTS = (1, 2, 5, 20)  # features at each noise level
PAPERS = 20  # the paper's number, weighted equally: what "untuned" means
# One site in its natural length needs far more than one norm of its output to cost as much as rewriting the prompt.
WIDER = (*GRID, 12.0)
REACHED = 0.95  # share of the price that a choice must reach on the selection split


@dataclass(frozen=True)
class Choice:
    """One setting of a method: the resulting method, and what was chosen, as JSON values."""

    method: SteeringMethod
    metadata: Mapping[str, Any]


def score_contrast(model: Model, saes: Iterable[SAE], concept: str | Concept, pairs: int = 50, **settings: Any) -> list[SAE]:
    """Score SAEs on exactly the pairs, noise and contrast from which `audioscope.caa` makes its vector of a concept.

    If the concept has an opposite, it is scored as well, on the same generations in swapped roles.

    Args:
        model: The model that the SAEs were trained on.
        saes: SAEs of different sites.
        concept: The concept.
        pairs: At most this many pairs of the build split.
        **settings: The keywords of `audioscope.sae.concept_activations` that are not given here, such as steps and guidance.

    Returns:
        Copies of the SAEs with these scores, which share the weights.

    Raises:
        ValueError: `pairs` is below 1.

    Example:
        >>> sae = audioscope.datasets.sae("transformer.transformer_blocks.6.cross_attn")
        >>> (scored,) = audioscope.sae.score_contrast(model, [sae], "fast", pairs=2, steps=2, progress=False)
        >>> scored.scores["concept"].unique().tolist()
        ['fast', 'slow']
    """
    of_kind("model", model, Model)
    chosen, concept, pairs = all_of("saes", saes, SAE), choose_one(concept), whole("pairs", pairs, 1)
    if not chosen:
        raise ValueError("saes is empty, expected at least one SAE.")
    named = {f"feature {sae.metadata['site']}": sae for sae in chosen}
    found = concept_activations(
        model, named, [concept], "build", against="counterfactual" if concept.opposite else "neutral", pairs=pairs, **settings
    )
    ends = [concept]
    if concept.opposite:
        found = found.mirrored(concept.name, concept.opposite)
        ends.append(replace(concept, name=concept.opposite, opposite=concept.name))
    scored = []
    for name, sae in named.items():
        mine = copy.copy(sae)
        mine.scores = score_features(sae, model, ends, "build", readings=found, name=name)
        scored.append(mine)
    return scored


def feature_choices(concept: Concept, saes: Sequence[SAE]) -> list[Choice]:
    """The settings to try for features: 1, 2, 5 or 20 of each SAE at each noise level, weighted equally or by activity.

    A single feature is tried without a weight only: for a single concept, a weight would change only its length, and its sign if
    the best feature by ratio is less active with the concept. Raises ValueError if there is no SAE.
    """
    if not saes:
        raise ValueError("saes is empty, expected at least one SAE.")
    found = []
    for count in COUNTS:
        for weighted in (False, True)[: 1 if count == 1 else 2]:
            metadata = {"features": count, "weighted": weighted}
            vector = reduce(add, (sae.vector(concept.name, **metadata, against=concept.opposite or None) for sae in saes))
            name = f"{count} {'weighted' if weighted else 'alike'}"
            found.append(Choice(vector_method(vector, name, SAE_TUNED.method), metadata))
    return found


def caa_choices(vector: SteeringVector, sites: Iterable[Site]) -> list[Choice]:
    """The settings to try for CAA: each site alone and all sites, with every direction of norm 1 or in natural lengths.

    All sites are also tried "balanced": with natural lengths over the noise levels, but no site longer than another. For two
    sites, these are as many choices as features have. vector: made with normalize=False.
    """
    chosen = list(sites)
    numbers = [site.layer for site in chosen]
    names = {s.path: f"{s.layer}" if numbers.count(s.layer) == 1 else f"{s.layer} {s.kind}" for s in chosen}
    layers = {site.path: site.layer for site in chosen}
    ways = [[path] for path in layers] + ([list(layers)] if len(layers) > 1 else [])
    found = []
    for paths in ways:
        natural, where = vector.only(paths), "+".join(names[path] for path in paths)
        lengths = {"unit": natural.unit(), "natural": natural}
        if len(paths) > 1:
            lengths["balanced"] = reduce(add, (part / mean_length(part) for part in (natural.only([path]) for path in paths)))
        for length, each in lengths.items():
            metadata = {"layers": [layers[path] for path in paths], "at": list(paths), "length": length}
            found.append(Choice(vector_method(each, f"{length} {where}"), metadata))
    return found


def mean_length(vector: SteeringVector) -> float:
    """Mean norm of a vector's directions, over sites and noise levels."""
    return float(vector.to_frame()["length"].mean())


def tuned_methods(
    model: Model,
    concept: str | Concept,
    saes: Sequence[SAE],
    folder: str | Path,
    *,
    pairs: int = 50,
    prompts: int = 8,
    without: Iterable[str] = (),
    scorer: Scorer | None = None,
    price: Scorer | None = None,
    batch_size: int = BATCH,
    workers: Workers = None,
    progress: bool = True,
    **sampling: Unpack[SamplingKeywords],
) -> list[SteeringMethod]:
    """Make the methods of a sweep that compares features and CAA fairly: at the same sites, both tuned and as in the paper.

    The number of features and their weighting decide what a vector of features does; the sites and the lengths decide what CAA
    does. Tuned means the choice with the largest area on `prompts` neutral prompts of the selection split, one seed each, up to
    the price of rewriting the prompt. A choice whose largest strength does not come near that price is passed over if there is
    another. Random features and PCI are the controls.

    Args:
        model: The model to steer.
        concept: The concept.
        saes: SAEs of different sites, trained with the denoising steps that are used here.
        folder: Receives the vector, the clips' scores (choices/, resumed) and choices.parquet, with the columns concept, method,
            choice, auc, reached, chosen, and the settings of each choice.
        pairs: At most this many pairs of the build split, from which both methods make their vectors.
        prompts: The number of prompts to tune on.
        without: Neutral prompts to leave out.
        scorer: What measures the concept, as for `audioscope.steer.calibrate`.
        price: What measures distances, as for `audioscope.steer.calibrate`.
        batch_size: Generations per batch.
        workers: In how many processes, as for `audioscope.localize`.
        progress: Show progress bars.
        **sampling: `steps`, `guidance`, `seconds`, `negative_prompt`; the model's defaults if omitted. Give those that the SAEs
            were trained with if they differ from the defaults.

    Returns:
        Six methods, which are features and CAA tuned, both untuned as in the paper, random features, and PCI.

    Raises:
        ValueError: There is no SAE, or the given steps reach other noise levels than those that an SAE was trained on.

    Example:
        >>> sae = audioscope.datasets.sae("transformer.transformer_blocks.6.cross_attn")
        >>> methods = audioscope.sae.tuned_methods(model, "fast", [sae], "tuning")  # doctest: +SKIP
        >>> sorted(audioscope.datasets.steering("fast", "sae_steering").table["cell"].unique())  # the shipped sweep of them
        ['caa tuned', 'caa untuned', 'pci all', 'random features tuned', 'sae tuned', 'sae untuned']
    """
    of_kind("model", model, Model)
    folder, concept = as_path(folder), choose_one(concept)
    shared: dict[str, Any] = {"workers": workers, "progress": progress}
    built = min(pairs, len(concept.split("build")))
    scored = score_contrast(model, saes, concept, built, **shared, **sampling)
    sites = model.sites.select([str(sae.metadata["site"]) for sae in saes])
    vector = caa(model, concept, sites, built, normalize=False, memory=False, file=folder / "vector", **shared, **sampling)
    tried = {SAE_TUNED.method: feature_choices(concept, scored), CAA_TUNED.method: caa_choices(vector, sites)}
    methods = [choice.method for choices in tried.values() for choice in choices]
    rewritten = prompt_switch_method(model.sampling(**sampling).steps)
    calibrate(
        model, concept, [*methods, rewritten], grid=WIDER, prompts=prompts, without=without, scorer=scorer, price=price, batch_size=batch_size,
        out=folder / "choices", **shared, **sampling
    )  # fmt: skip
    areas = SteeringSweep.load(folder / "choices").areas()
    lines, best = [], {}
    for method, choices in tried.items():
        # a choice that hardly moves has an area near 0, whatever it does
        dear = [c for c in choices if areas.loc[c.method.cell, "reached"] >= REACHED]
        top = max(dear or choices, key=lambda choice: np.nan_to_num(areas.loc[choice.method.cell, "auc"], nan=-np.inf))
        best[method] = top
        lines += [
            {"concept": concept.name, "method": method, "choice": c.method.sites, **areas.loc[c.method.cell], "chosen": c is top, **c.metadata}
            for c in choices
        ]  # fmt: skip
    table = pd.DataFrame(lines)
    write_table(table, folder / "choices.parquet")
    features = best[SAE_TUNED.method].metadata
    papers: dict[str, dict[str, Any]] = {
        SAE_TUNED.method: {"features": PAPERS, "weighted": False},
        CAA_TUNED.method: {"at": [site.path for site in sites], "length": "unit"},
    }
    untuned = {method: next(c for c in tried[method] if papers[method].items() <= c.metadata.items()) for method in tried}
    return [
        *(_named(best[method], SAE_TUNED.sites) for method in tried),
        *(_named(untuned[method], SAE_UNTUNED.sites) for method in tried),
        random_features_method(scored, concept, RANDOM_FEATURES.sites, **features, against=concept.opposite or None), rewritten,
    ]  # fmt: skip


def _named(choice: Choice, sites: str) -> SteeringMethod:
    return replace(
        choice.method, sites=sites, metadata={**choice.method.metadata, "choice": choice.method.sites, **choice.metadata}
    )


def steer_all_features(
    model: Model,
    saes: Sequence[SAE],
    out: str | Path,
    work: str | Path = "runs/sae_steering",
    *,
    without: Iterable[str] | None = None,
    **keywords: Any,
) -> pd.DataFrame:
    """Run `audioscope.steer.steer_all` for SAE features and CAA at the same sites, both tuned, and random features.

    The methods are those of `audioscope.sae.tuned_methods`, tuned with its default numbers of pairs and prompts. The files are
    named sae_steering, and sae_steering_choices.parquet receives what was tried and chosen.

    Args:
        model: The model to steer.
        saes: SAEs of different sites, trained with the denoising steps that are used here.
        out: The folder that receives the results.
        work: The folder of the sweeps, with one folder per axis, resumed.
        without: Neutral prompts to leave out; None means those that the shipped SAEs were trained on, so that no clip starts from
            one.
        **keywords: Those of `audioscope.steer.steer_all` except methods and name, such as concepts and prompts, and those of
            `audioscope.steer.steering_sweep` except grid.

    Returns:
        One row per concept, method and sites, the table of `audioscope.steer.steer_all`.

    Example:
        >>> saes = [audioscope.datasets.sae(site) for site in audioscope.datasets.saes()]
        >>> table = audioscope.sae.steer_all_features(model, saes, "results")  # doctest: +SKIP
        >>> table = audioscope.datasets.steering_table("sae_steering")  # what it returned for `tiny`
        >>> sorted((table["method"] + " " + table["sites"]).unique())
        ['caa tuned', 'caa untuned', 'pci all', 'random features tuned', 'sae tuned', 'sae untuned']
    """
    of_kind("model", model, Model)
    seen = set(concept_prompts() if without is None else without)
    # tuning uses the settings of the reported sweeps
    shared = (*SamplingKeywords.__annotations__, "scorer", "price", "batch_size", "workers", "progress")
    alike = {name: keywords[name] for name in shared if name in keywords}

    def compared(concept: Concept, folder: Path) -> Sequence[SteeringMethod]:
        return tuned_methods(model, concept, saes, folder, without=seen, **alike)

    table = steer_all(model, out, work, methods=compared, name="sae_steering", without=seen, grid=WIDER, **keywords)
    choices = pd.concat(
        [pd.read_parquet(as_path(work) / axis / "choices.parquet") for axis in table["concept"].unique()], ignore_index=True
    )
    write_table(choices, as_path(out) / "sae_steering_choices.parquet")
    return table
