"""Arms: the ways to steer that a sweep compares, and their controls, each a few lines on the same edits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, reduce
from operator import add
from typing import Any
from zlib import crc32

import numpy as np
import pandas as pd

from audioscope.atlas import Atlas
from audioscope.concepts import Concept, Pair
from audioscope.edits import AddVector, BlendText, Edit, PatchText
from audioscope.model import Model
from audioscope.sae import SAE
from audioscope.sites import Site
from audioscope.steering import steering_sites
from audioscope.sweep import seed_of
from audioscope.vectors import SteeringVector


@dataclass(frozen=True)
class Arm:
    """One way to steer, compared with others in a sweep.

    edits: (pair of prompts, strength, seed) -> the edits that act on a run of the pair's neutral prompt; the seed is for
    controls that are drawn anew for each prompt and seed. sites: where it acts, in words. facts: what else decides it, JSON values.
    largest: strengths beyond it have no meaning, if not None.
    """

    method: str
    sites: str
    edits: Callable[[Pair, float, int], Sequence[Edit]]
    facts: dict[str, Any] = field(default_factory=dict)
    largest: float | None = None

    @property
    def cell(self) -> str:
        """Its name in a table: method and sites."""
        return f"{self.method} {self.sites}"

    def on(self, pair: Pair, strength: float, seed: int) -> tuple[Edit, ...]:
        """The edits of a run with this seed: none at strength 0; what a control draws differs from arm to arm."""
        return tuple(self.edits(pair, strength, seed_of(self.cell, seed, 0))) if strength else ()


def _facts(vector: SteeringVector, **more: Any) -> dict[str, Any]:
    numbers = b"".join(vector.directions[path].numpy().tobytes() for path in vector.paths)
    return {"vector": dict(vector.facts), "at": list(vector.paths), "numbers": crc32(numbers), **more}


def vector_arm(vector: SteeringVector, sites: str, method: str = "caa", **keywords: Any) -> Arm:
    """Add a vector; keywords are those of `AddVector`."""
    return Arm(method, sites, lambda pair, strength, seed: [AddVector(vector, strength, **keywords)], _facts(vector, **keywords))


def random_layers_arms(
    everywhere: SteeringVector, instead_of: Iterable[str | Site], draws: int = 3, seed: int = 0, **keywords: Any
) -> list[Arm]:
    """Controls: the vector at as many layers as `instead_of` has, drawn once for each arm, so that each set gets its own strengths.

    The sets share no layer with `instead_of` where there are enough others, and none with one another until all were drawn.
    """
    own = {str(site) for site in instead_of}
    others = [path for path in everywhere.paths if path not in own]
    if not others or len(own & set(everywhere.paths)) < len(own):
        raise ValueError(f"There are no {len(own)} other layers among {len(everywhere.paths)} to draw from.")
    rng, left, arms = np.random.default_rng(seed), list[str](), list[Arm]()
    for number in range(1, draws + 1):
        left += rng.permutation(others).tolist() if len(left) < min(len(own), len(others)) else []
        chosen, left = list(dict.fromkeys(left))[: len(own)], left[len(own) :]
        chosen += rng.permutation(sorted(own)).tolist()[: len(own) - len(chosen)]
        facts = _facts(everywhere.only(chosen), instead_of=sorted(own), draw=number, **keywords)
        arms.append(replace(vector_arm(everywhere.only(chosen), f"random layers {number}", **keywords), facts=facts))
    return arms


def random_direction_arm(vector: SteeringVector, sites: str, **keywords: Any) -> Arm:
    """A control: a random vector with the same norms at the same sites, drawn anew for each prompt and seed."""
    return Arm(
        "random direction",
        sites,
        lambda pair, strength, seed: [AddVector(vector.random(seed), strength, **keywords)],
        _facts(vector, **keywords),
    )


def random_features_arm(saes: Iterable[SAE], concept: Concept, sites: str, features: int = 20, **keywords: Any) -> Arm:
    """A control: vectors of as many random active features of each SAE, drawn anew for each prompt and seed.

    keywords: those of `sae_vector`.
    """
    chosen = list(saes)

    @lru_cache(maxsize=2)  # all strengths of a prompt and seed use one
    def drawn(seed: int) -> SteeringVector:
        return reduce(add, (sae.vector(concept.name, features, random=seed % 2**31, **keywords) for sae in chosen))

    def edits(pair: Pair, strength: float, seed: int) -> list[Edit]:
        return [AddVector(drawn(seed), strength)]

    facts = [
        {"site": sae.facts["site"], "features": features, **keywords, "decoder": crc32(sae.decoder.numpy().tobytes()),
         "scores": crc32(pd.util.hash_pandas_object(sae.scores, index=False).to_numpy().tobytes())}
        for sae in chosen
    ]  # fmt: skip
    return Arm("random features", sites, edits, {"saes": facts})


def feature_arms(
    model: Model,
    concept: Concept,
    saes: Iterable[SAE],
    everywhere: SteeringVector,
    features: int = 20,
    steps: int | None = None,
    **keywords: Any,
) -> list[Arm]:
    """Vectors of features in one setting, all at the sites of the SAEs, beside CAA, random features, and PCI; see also `tuned_arms`.

    everywhere: a vector of `caa` that has these sites. keywords: those of `sae_vector`.
    """
    chosen = list(saes)
    where = "untuned"
    vector = reduce(add, (sae.vector(concept.name, features, **keywords) for sae in chosen))
    return [
        vector_arm(vector, where, "sae"), vector_arm(everywhere.only(vector.paths), where),
        random_features_arm(chosen, concept, where, features, **keywords), prompt_switch_arm(model.settings(steps, None, None)["steps"]),
    ]  # fmt: skip


def prompt_switch_arm(steps: int) -> Arm:
    """PCI: the neutral prompt first, that of the concept (for a negative strength, its opposite) in the last |strength| of the steps.

    At strength 1 the prompt is rewritten altogether. Both directions need a concept with an opposite.
    """

    def edits(pair: Pair, strength: float, seed: int) -> list[Edit]:
        last = round(abs(strength) * steps)
        return [PatchText("cross", pair.clean if strength > 0 else pair.corrupted, steps=(steps - last, steps))] if last else []

    return Arm("pci", "all", edits, {"steps": steps}, largest=1.0)


def blend_text_arm() -> Arm:
    """Text-embedding interpolation: the neutral prompt's text states moved towards those of the concept (or its opposite)."""
    return Arm(
        "text blend",
        "all",
        lambda pair, strength, seed: [BlendText("cross", pair.clean if strength > 0 else pair.corrupted, abs(strength))],
    )


def drawn_anew(facts: Mapping[str, Any]) -> bool:
    """Whether an arm's layers were drawn for each clip, as an older audioscope did, so that it has no layers of its own."""
    return "instead_of" in facts and "draw" not in facts


def arm_again(cell: str, facts: Mapping[str, Any], vector: SteeringVector) -> Arm | None:
    """The arm of a finished sweep, from what its settings say of it; None where it cannot be made of this vector.

    cell, facts: a name in the settings' "arms" and what stands under it. vector: the sweep's, at all its sites.
    """
    method, _, sites = cell.partition(" ")
    if method == "pci":
        return prompt_switch_arm(facts["steps"])
    if drawn_anew(facts) or "numbers" not in facts or not facts.get("at") or not set(facts["at"]) <= set(vector.paths):
        return None
    drawn = facts["vector"].get("random")
    for each in (vector, vector.unit()):
        made = each.only(facts["at"]) if drawn is None else each.only(facts["at"]).random(drawn)
        if _facts(made)["numbers"] == facts["numbers"]:
            return random_direction_arm(made, sites) if cell.startswith("random direction") else vector_arm(made, sites, method)
    return None


def standard_arms(
    model: Model,
    concept: Concept,
    vector: SteeringVector,
    shuffled: SteeringVector | None = None,
    atlas: Atlas | None = None,
    steps: int | None = None,
) -> list[Arm]:
    """What a fair look compares: the vector at the shared functional layers, at the concept's own, at all, at all in its natural
    lengths, and at three random sets of as many layers as its own; the prompt rewritten late (PCI), which must pass any criterion of
    steering; and what must fail it: a random direction drawn anew for each clip, a fixed one, and shuffled labels.

    vector, shuffled: of all cross-attention sites, made with unit=False; no shuffled one, no such arm. steps: denoising steps of the
    runs to come; the model's if None.
    """
    shared, own = (steering_sites(model, concept, which, atlas) for which in ("functional", "own"))
    unit, seed = vector.unit(), crc32(concept.name.encode())
    controls = [
        random_direction_arm(unit.only(own), "own"), vector_arm(unit.only(own).random(seed), "own", "fixed direction"),
        *([vector_arm(shuffled.unit().only(own), "own", "shuffled labels")] if shuffled is not None else []),
    ]  # fmt: skip
    return [
        vector_arm(unit.only(shared), "shared"), vector_arm(unit.only(own), "own"), vector_arm(unit, "all"),
        vector_arm(vector, "all, natural lengths"), *random_layers_arms(unit, own, seed=seed), *controls,
        prompt_switch_arm(model.settings(steps, None, None)["steps"]),
    ]  # fmt: skip
