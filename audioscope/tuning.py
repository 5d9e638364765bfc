"""Features against CAA with both tuned: the same pairs, the same contrast, equally many choices, made on the selection split.

How many features, and whether they are weighted, decides what a vector of features does; which sites and which lengths, what CAA does.
To compare the methods and not two settings, each axis gets the best of its choices on prompts that are not reported.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from audioscope.arms import Arm, prompt_switch_arm, random_features_arm, vector_arm
from audioscope.concepts import Concept
from audioscope.features import read_concepts, score_features
from audioscope.gains import Steering
from audioscope.model import Model
from audioscope.paths import write_whole
from audioscope.sae import SAE
from audioscope.scorers import Scorer
from audioscope.sites import Site
from audioscope.steering import caa
from audioscope.strengths import BATCH, GRID, calibrate
from audioscope.vectors import SteeringVector

COUNTS = (1, 2, 5, 20)  # features at each noise level
PAPERS = 20  # the paper's number, all alike: what "untuned" means
# One site in its natural length needs far more than one length of its output to cost what rewriting the prompt does.
WIDER = (*GRID, 12.0)


@dataclass(frozen=True)
class Choice:
    """One setting of a method: the arm that it makes, and what was chosen, JSON values."""

    arm: Arm
    facts: Mapping[str, Any]


def score_contrast(model: Model, saes: Iterable[SAE], concept: Concept, pairs: int = 50, **settings: Any) -> list[SAE]:
    """The SAEs with scores of the very pairs, noise and contrast from which `caa` makes its vector of a concept.

    With an opposite, its features are scored on the same generations, read the other way round. settings: steps, guidance, seconds, and
    the other keywords of `read_concepts`. Returns copies that share the weights.
    """
    chosen = list(saes)
    named = {f"feature {sae.facts['site']}": sae for sae in chosen}
    found = read_concepts(
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
    """1, 2, 5 or 20 features of each SAE at each noise level, all alike or weighted; one feature is the same either way."""
    found = []
    for count in COUNTS:
        for weighted in (False, True)[: 1 if count == 1 else 2]:
            facts = {"features": count, "weighted": weighted}
            vector = reduce(add, (sae.vector(concept.name, **facts, against=concept.opposite or None) for sae in saes))
            name = f"{count} {'weighted' if weighted else 'alike'}"
            found.append(Choice(vector_arm(vector, name, "sae"), facts))
    return found


def caa_choices(vector: SteeringVector, sites: Iterable[Site]) -> list[Choice]:
    """Each site alone, and all: with every direction of norm 1, or in natural lengths; and all with natural lengths over the noise
    levels, but no site longer than another. For two sites, as many choices as features have.

    vector: made with unit=False.
    """
    layers = {site.path: site.layer for site in sites}
    ways = [[path] for path in layers] + ([list(layers)] if len(layers) > 1 else [])
    found = []
    for paths in ways:
        natural, where = vector.only(paths), "+".join(str(layers[path]) for path in paths)
        lengths = {"unit": natural.unit(), "natural": natural}
        if len(paths) > 1:
            lengths["balanced"] = reduce(add, (part / mean_length(part) for part in (natural.only([path]) for path in paths)))
        for length, each in lengths.items():
            facts = {"layers": [layers[path] for path in paths], "length": length}
            found.append(Choice(vector_arm(each, f"{length} {where}"), facts))
    return found


def mean_length(vector: SteeringVector) -> float:
    """Mean norm of a vector's directions, over sites and noise levels."""
    return float(vector.frame()["length"].mean())


def tuned_arms(
    model: Model,
    concept: Concept,
    saes: Sequence[SAE],
    folder: str | Path,
    *,
    pairs: int = 50,
    prompts: int = 8,
    without: Iterable[str] = (),
    steps: int | None = None,
    guidance: float | None = None,
    seconds: float | None = None,
    scorer: Scorer | None = None,
    price: Scorer | None = None,
    batch: int = BATCH,
    progress: bool = True,
) -> list[Arm]:
    """Vectors of features and CAA at the sites of the SAEs, each in the best of its choices on the selection split and as the paper has
    it, random features, and the prompt rewritten late.

    A choice is the best by its area on `prompts` neutral prompts of the selection split, one seed each, up to the price of rewriting
    the prompt. folder: gets the vector, the clips' scores (choices/, resumed) and choices.parquet: concept, method, choice, auc, chosen,
    and what each choice is. without, scorer, price: as for `calibrate`.
    """
    folder = Path(folder)
    run: dict[str, Any] = {"steps": steps, "guidance": guidance, "seconds": seconds}
    built = min(pairs, len(concept.split("build")))
    scored = score_contrast(model, saes, concept, built, progress=progress, **run)
    sites = model.sites.select([str(sae.facts["site"]) for sae in saes])
    vector = caa(model, concept, sites, built, unit=False, file=folder / "vector", progress=progress, **run)
    tried = {"sae": feature_choices(concept, scored), "caa": caa_choices(vector, sites)}
    arms = [choice.arm for choices in tried.values() for choice in choices]
    rewritten = prompt_switch_arm(model.settings(**run)["steps"])
    calibrate(
        model, concept, [*arms, rewritten], grid=WIDER, prompts=prompts, without=without, scorer=scorer, price=price, batch=batch,
        out=folder / "choices", progress=progress, **run
    )  # fmt: skip
    areas = Steering.load(folder / "choices").areas()
    lines, best = [], {}
    for method, choices in tried.items():
        top = max(choices, key=lambda choice: np.nan_to_num(areas[choice.arm.cell], nan=-np.inf))
        best[method] = top
        lines += [
            {"concept": concept.name, "method": method, "choice": c.arm.sites, "auc": areas[c.arm.cell], "chosen": c is top, **c.facts}
            for c in choices
        ]  # fmt: skip
    table = pd.DataFrame(lines)
    write_whole(folder / "choices.parquet", table.to_parquet)
    features = best["sae"].facts
    untuned = {"sae": f"{PAPERS} alike", "caa": f"unit {'+'.join(str(site.layer) for site in sites)}"}
    return [
        *(_named(best[method], "tuned") for method in tried),
        *(_named(next(c for c in tried[method] if c.arm.sites == untuned[method]), "untuned") for method in tried),
        random_features_arm(scored, concept, "tuned", **features, against=concept.opposite or None), rewritten,
    ]  # fmt: skip


def _named(choice: Choice, sites: str) -> Arm:
    return replace(choice.arm, sites=sites, facts={**choice.arm.facts, "choice": choice.arm.sites, **choice.facts})
