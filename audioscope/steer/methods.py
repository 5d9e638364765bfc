"""Methods: the ways to steer that a sweep compares, and their controls, each a few lines on top of the same edits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from zlib import crc32

import numpy as np

from audioscope.atlas.atlas import Atlas
from audioscope.concepts import Concept, Pair
from audioscope.edits import BlendText, Edit, PatchText
from audioscope.model import Model
from audioscope.sites import Site
from audioscope.steer.caa import steering_sites
from audioscope.steer.cells import (
    ALL,
    FIXED_DIRECTION,
    NATURAL,
    OWN,
    RANDOM_DIRECTION,
    RANDOM_SETS,
    REWRITTEN,
    SHARED,
    SHUFFLED_LABELS,
    TEXT_BLEND,
    Cell,
)
from audioscope.steer.vectors import AddVector, SteeringVector
from audioscope.store import seed_of


@dataclass(frozen=True)
class SteeringMethod:
    """One way to steer, to be compared with others in a sweep.

    edits: (pair of prompts, strength, seed) -> the edits that act on a run of the pair's neutral prompt; the seed is for
    controls that are redrawn for each prompt and seed. sites: where it acts, in words. metadata: everything else that defines
    the method, JSON values. largest: the largest meaningful strength; None means no limit.
    """

    name: str
    sites: str
    edits: Callable[[Pair, float, int], Sequence[Edit]]
    metadata: dict[str, Any] = field(default_factory=dict)
    largest: float | None = None

    @property
    def cell(self) -> str:
        """Its label in tables: name and sites."""
        return f"{self.name} {self.sites}"

    def on(self, pair: Pair, strength: float, seed: int) -> tuple[Edit, ...]:
        """The edits of a run with this seed, none at strength 0; each method that is a control makes its own random draws."""
        return tuple(self.edits(pair, strength, seed_of(self.cell, seed, 0))) if strength else ()


def _metadata(vector: SteeringVector, **more: Any) -> dict[str, Any]:
    numbers = b"".join(vector.directions[path].float().numpy().tobytes() for path in vector.paths)
    return {"vector": dict(vector.metadata), "at": list(vector.paths), "numbers": crc32(numbers), **more}


def vector_method(vector: SteeringVector, sites: str, method: str = OWN.method, **keywords: Any) -> SteeringMethod:
    """Add a vector; keywords are those of `AddVector`."""
    return SteeringMethod(
        method, sites, lambda pair, strength, seed: [AddVector(vector, strength, **keywords)], _metadata(vector, **keywords)
    )


def random_layers_methods(
    everywhere: SteeringVector, instead_of: Iterable[str | Site], draws: int = 3, seed: int = 0, **keywords: Any
) -> list[SteeringMethod]:
    """Controls: the vector at random layers, as many as in `instead_of`, one set per method, so each set gets its own strengths.

    The sets share no layer with `instead_of` if there are enough others, and none with one another until all have been drawn.
    """
    own = {str(site) for site in instead_of}
    others = [path for path in everywhere.paths if path not in own]
    if not others or len(own & set(everywhere.paths)) < len(own):
        raise ValueError(
            f"instead_of has {len(own)} layers, and the vector has {len(own & set(everywhere.paths))} of them and {len(others)} "
            "others: expected all of them, and at least one other layer to draw from."
        )
    rng, left, methods = np.random.default_rng(seed), list[str](), list[SteeringMethod]()
    for number in range(1, draws + 1):
        left += rng.permutation(others).tolist() if len(left) < min(len(own), len(others)) else []
        chosen, left = list(dict.fromkeys(left))[: len(own)], left[len(own) :]
        chosen += rng.permutation(sorted(own)).tolist()[: len(own) - len(chosen)]
        metadata = _metadata(everywhere.only(chosen), instead_of=sorted(own), draw=number, **keywords)
        methods.append(replace(vector_method(everywhere.only(chosen), f"{RANDOM_SETS} {number}", **keywords), metadata=metadata))
    return methods


def random_direction_method(vector: SteeringVector, sites: str, **keywords: Any) -> SteeringMethod:
    """A control: a random vector with the same norms at the same sites, redrawn for each prompt and seed."""
    return SteeringMethod(
        RANDOM_DIRECTION.method,
        sites,
        lambda pair, strength, seed: [AddVector(vector.random(seed), strength, **keywords)],
        _metadata(vector, **keywords),
    )


def prompt_switch_method(steps: int) -> SteeringMethod:
    """Prompt-conditioned intervention (PCI): switch to the concept's prompt for the last |strength| of the steps.

    The run starts with the neutral prompt; a negative strength switches to the opposite's prompt. At strength 1 the prompt is
    rewritten for all steps. Steering in both directions requires a concept with an opposite (arXiv 2512.08486).
    """

    def edits(pair: Pair, strength: float, seed: int) -> list[Edit]:
        last = round(abs(strength) * steps)
        return [PatchText("cross", pair.clean if strength > 0 else pair.corrupted, steps=(steps - last, steps))] if last else []

    return SteeringMethod(REWRITTEN.method, REWRITTEN.sites, edits, {"steps": steps}, largest=1.0)


def blend_text_method() -> SteeringMethod:
    """Text-embedding interpolation: move the neutral prompt's text states toward those of the concept (or its opposite)."""
    return SteeringMethod(
        TEXT_BLEND,
        "all",
        lambda pair, strength, seed: [BlendText("cross", pair.clean if strength > 0 else pair.corrupted, abs(strength))],
    )


def method_again(cell: str, metadata: Mapping[str, Any], vector: SteeringVector) -> SteeringMethod | None:
    """Rebuild a method of a finished sweep from the sweep's settings; None if it cannot be made from this vector.

    cell, metadata: a name in the settings' "methods" and its entry. vector: the vector of the sweep, at all its sites.
    """
    method, _, sites = cell.partition(" ")
    if method == REWRITTEN.method:
        return prompt_switch_method(metadata["steps"])
    if "numbers" not in metadata or not metadata.get("at") or not set(metadata["at"]) <= set(vector.paths):
        return None
    drawn = metadata["vector"].get("random")
    for each in (vector, vector.unit()):
        made = each.only(metadata["at"]) if drawn is None else each.only(metadata["at"]).random(drawn)
        if _metadata(made)["numbers"] == metadata["numbers"]:
            if cell.startswith(RANDOM_DIRECTION.method):
                return random_direction_method(made, sites)
            return vector_method(made, sites, method)
    return None


def _of(cell: Cell, vector: SteeringVector) -> SteeringMethod:
    return vector_method(vector, cell.sites, cell.method)


def standard_methods(
    model: Model,
    concept: Concept,
    vector: SteeringVector,
    shuffled: SteeringVector | None = None,
    atlas: Atlas | None = None,
    steps: int | None = None,
) -> list[SteeringMethod]:
    """The methods of a fair comparison, with their positive and negative controls.

    They are the vector at the shared functional layers, at the concept's own layers, at all layers, at all layers in natural
    lengths, and at three random sets of as many layers as its own; the prompt rewritten late (PCI), which must pass any criterion
    of steering; and those that must fail it: a random direction redrawn for each prompt and seed, a fixed random direction, and
    shuffled labels.

    vector, shuffled: at all cross-attention sites, made with normalize=False; without `shuffled`, that control is left out.
    steps: denoising steps of the runs to come; None means the model's default.
    """
    shared, own = (steering_sites(model, concept, which, atlas) for which in ("functional", "own"))
    unit, seed = vector.unit(), crc32(concept.name.encode())
    controls = [
        random_direction_method(unit.only(own), RANDOM_DIRECTION.sites), _of(FIXED_DIRECTION, unit.only(own).random(seed)),
        *([_of(SHUFFLED_LABELS, shuffled.unit().only(own))] if shuffled is not None else []),
    ]  # fmt: skip
    return [
        _of(SHARED, unit.only(shared)), _of(OWN, unit.only(own)), _of(ALL, unit),
        _of(NATURAL, vector), *random_layers_methods(unit, own, seed=seed), *controls,
        prompt_switch_method(model.sampling(steps=steps).steps),
    ]  # fmt: skip
