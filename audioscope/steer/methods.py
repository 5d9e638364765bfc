"""Methods: the ways to steer that a sweep compares, and their controls, each a few lines on top of the same edits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any, get_args
from zlib import crc32

import numpy as np

from audioscope.atlas.atlas import Atlas
from audioscope.concepts import Concept, Pair, choose_one
from audioscope.edits import BlendText, Edit, PatchText, SlidePrediction
from audioscope.errors import choice, index_of, listed, of_kind, one_or_more, plain_name, seed_number, whole
from audioscope.model import Model
from audioscope.sites import Site
from audioscope.steer.caa import Against, steering_sites
from audioscope.steer.cells import (
    ALL,
    ALL_MUSIC,
    FIXED_DIRECTION,
    FREE_SLIDERS,
    NATURAL,
    OWN,
    OWN_MUSIC,
    OWN_NATURAL,
    RANDOM_DIRECTION,
    RANDOM_SETS,
    REWRITTEN,
    SHARED,
    SHUFFLED_LABELS,
    TEXT_BLEND,
    Cell,
)
from audioscope.steer.vectors import AddVector, SteeringVector, has_memory
from audioscope.store import seed_of


@dataclass(frozen=True)
class SteeringMethod:
    """One way to steer, to be compared with others in a sweep.

    Args:
        name: The name of the method, such as "caa".
        sites: Where it acts, in words, such as "own".
        edits: Makes the edits that act on a run of the pair's neutral prompt, from the pair of prompts, the strength and a seed;
            the seed is for controls that are redrawn for each prompt and seed.
        metadata: Everything else that defines the method, JSON values.
        largest: The largest meaningful strength; None means no limit.

    Raises:
        ValueError: `name` or `sites` contains a control character or a line separator.

    Example:
        >>> silence = audioscope.steer.SteeringMethod("ablate", "5", lambda pair, strength, seed: [audioscope.Ablate(5)])
        >>> silence.cell
        'ablate 5'
    """

    name: str
    sites: str
    edits: Callable[[Pair, float, int], Sequence[Edit]]
    metadata: dict[str, Any] = field(default_factory=dict)
    largest: float | None = None

    def __post_init__(self) -> None:
        plain_name("The label of a steering method", self.cell)

    @property
    def cell(self) -> str:
        """Its label in tables, made of name and sites."""
        return f"{self.name} {self.sites}"

    def on(self, pair: Pair, strength: float, seed: int) -> tuple[Edit, ...]:
        """Make the edits of a run; each method that is a control makes its own random draws.

        Args:
            pair: The prompts; the run generates the neutral one.
            strength: How strongly to steer; negative values steer away from the concept.
            seed: The seed of the run.

        Returns:
            The edits, none at strength 0.
        """
        return tuple(self.edits(pair, strength, seed_of(self.cell, seed, 0))) if strength else ()


def _metadata(vector: SteeringVector, **more: Any) -> dict[str, Any]:
    numbers = b"".join(vector.directions[path].float().numpy().tobytes() for path in vector.directions)
    about = {name: value for name, value in vector.metadata.items() if name != "halves"}  # a measurement, not a setting
    return {"vector": about, "at": list(vector.paths), "numbers": crc32(numbers), **more}


def vector_method(vector: SteeringVector, sites: str, method: str = OWN.method, **keywords: Any) -> SteeringMethod:
    """Steer by adding a vector.

    Args:
        vector: What is added, at all its sites.
        sites: Where it acts, in words, such as "own".
        method: The name of the method.
        **keywords: Those of `AddVector` (mode, branch, steps, seconds).

    Returns:
        The method, named by `method` and `sites`.

    Example:
        >>> vector = audioscope.datasets.vector("fast")
        >>> audioscope.steer.vector_method(vector.only(vector.paths[:3]), "first three").cell
        'caa first three'
    """
    of_kind("vector", vector, SteeringVector)
    return SteeringMethod(
        method, sites, lambda pair, strength, seed: [AddVector(vector, strength, **keywords)], _metadata(vector, **keywords)
    )


def random_layers_methods(
    everywhere: SteeringVector, instead_of: Iterable[str | Site], draws: int = 3, seed: int = 0, **keywords: Any
) -> list[SteeringMethod]:
    """Make controls that add the vector at as many random layers, which tell whether the choice of layers matters.

    Each set of layers is a method of its own, so that it gets its own strengths. The sets share no layer with `instead_of` if
    there are enough others, and none with one another until all have been drawn.

    Args:
        everywhere: The vector at all layers that may be drawn.
        instead_of: The layers whose choice is in question; each set has as many.
        draws: The number of sets.
        seed: The seed of the draws.
        **keywords: Those of `AddVector` (mode, branch, steps, seconds).

    Returns:
        One method per set, named "caa random layers 1", 2, and so on; its metadata lists the layers under "at".

    Raises:
        ValueError: The vector lacks one of the layers in `instead_of`, or has no others.

    Example:
        >>> vector = audioscope.datasets.vector("fast")
        >>> own = vector.paths[:2]
        >>> controls = audioscope.steer.random_layers_methods(vector, instead_of=own, draws=2)
        >>> [len(control.metadata["at"]) for control in controls], set(own) & set(controls[0].metadata["at"])
        ([2, 2], set())
    """
    of_kind("everywhere", everywhere, SteeringVector)
    draws, seed = whole("draws", draws, 1, 1000), seed_number(seed)
    own = {str(site) for site in listed("instead_of", instead_of, "paths of layers")}
    others = [path for path in everywhere.paths if path not in own]
    if not others or len(own & set(everywhere.paths)) < len(own):
        raise ValueError(
            f"instead_of has {len(own)} layers, and the vector has {len(own & set(everywhere.paths))} of them and {len(others)} "
            "others: expected all of them, and at least one other layer to draw from."
        )
    methods = []
    for number, chosen in enumerate(random_sets(others, own, draws, seed), 1):
        metadata = _metadata(everywhere.only(chosen), instead_of=sorted(own), draw=number, **keywords)
        methods.append(replace(vector_method(everywhere.only(chosen), f"{RANDOM_SETS} {number}", **keywords), metadata=metadata))
    return methods


def random_sets(others: Sequence[str], own: Iterable[str], draws: int, seed: int) -> list[list[str]]:
    """Sets of as many layers as its own, drawn among the others, each once before any comes again; of its own only if too few are left."""
    rng, own, left, sets = np.random.default_rng(seed), sorted(own), list[str](), []
    for _ in range(draws):
        left += rng.permutation(others).tolist() if len(left) < min(len(own), len(others)) else []
        chosen, left = list(dict.fromkeys(left))[: len(own)], left[len(own) :]
        sets.append(chosen + rng.permutation(own).tolist()[: len(own) - len(chosen)])
    return sets


def random_direction_method(vector: SteeringVector, sites: str, **keywords: Any) -> SteeringMethod:
    """Make a control that adds a random vector with the same norms at the same sites, redrawn for each prompt and seed.

    Args:
        vector: The vector whose norms and sites the random ones take.
        sites: Where it acts, in words, such as "own".
        **keywords: Those of `AddVector` (mode, branch, steps, seconds).

    Returns:
        The method "random direction" at these sites.

    Example:
        >>> vector = audioscope.datasets.vector("fast")
        >>> control = audioscope.steer.random_direction_method(vector, "all")
        >>> pair = audioscope.datasets.concepts()["fast"].split("test")[0]
        >>> (drawn,) = control.on(pair, 1.0, seed=0)
        >>> bool(vector.cosines(drawn.vector)["cosine"].abs().max() < 0.5)
        True
    """
    of_kind("vector", vector, SteeringVector)
    return SteeringMethod(
        RANDOM_DIRECTION.method,
        sites,
        lambda pair, strength, seed: [AddVector(vector.random(seed), strength, **keywords)],
        _metadata(vector, **keywords),
    )


def prompt_switch_method(steps: int, sites: Any = "cross", where: str = REWRITTEN.sites) -> SteeringMethod:
    """Switch to the concept's prompt for the last `strength` of the steps: prompt-conditioned intervention (PCI).

    The run starts with the neutral prompt; a negative strength switches to the opposite's prompt. At strength 1 the prompt is
    rewritten for all steps. Steering in both directions requires a concept with an opposite (arXiv 2512.08486).

    Args:
        steps: Denoising steps of the runs to come.
        sites: Which cross-attention layers read the other prompt, as for `audioscope.PatchText`.
        where: The same in words, such as "own", for the label.

    Returns:
        The method "pci" at these sites, with strengths from -1 to 1.

    Example:
        >>> pair = audioscope.datasets.concepts()["fast"].split("test")[0]
        >>> (edit,) = audioscope.steer.prompt_switch_method(steps=10).on(pair, 0.3, seed=0)
        >>> edit.steps, edit.prompt == pair.clean
        ((7, 10), True)
    """

    steps = whole("steps", steps, 1)

    def edits(pair: Pair, strength: float, seed: int) -> list[Edit]:
        last = round(abs(strength) * steps)
        return [PatchText(sites, _toward(pair, strength), steps=(steps - last, steps))] if last else []

    return SteeringMethod(REWRITTEN.method, where, edits, {"steps": steps, **_at(sites)}, largest=1.0)


def blend_text_method(sites: Any = "cross", where: str = "all") -> SteeringMethod:
    """Move the neutral prompt's text states toward those of the concept, or of its opposite: text-embedding interpolation.

    Args:
        sites: Which cross-attention layers read the blend, as for `audioscope.BlendText`.
        where: The same in words, such as "own", for the label.

    Returns:
        The method "text blend" at these sites; at strength 1 the text is that of the other prompt.

    Example:
        >>> pair = audioscope.datasets.concepts()["fast"].split("test")[0]
        >>> (edit,) = audioscope.steer.blend_text_method().on(pair, -0.5, seed=0)
        >>> edit.amount, edit.prompt == pair.corrupted
        (0.5, True)
    """

    def edits(pair: Pair, strength: float, seed: int) -> list[Edit]:
        return [BlendText(sites, _toward(pair, strength), abs(strength))]

    return SteeringMethod(TEXT_BLEND, where, edits, _at(sites))


def free_sliders_method(
    sites: Any = "cross", where: str = "all", *, against: Against = "opposite", steps: tuple[int, int] | None = None
) -> SteeringMethod:
    """Add to each prediction the difference that the concept's prompt makes beside another: FreeSliders.

    Nothing is trained or stored: each step takes two more predictions, with two prompts of the pair, from where the steered run has got
    to. Strength is that of `audioscope.SlidePrediction`, so guidance multiplies it (arXiv 2511.00103).

    Args:
        sites: Which cross-attention layers read the two prompts; the others read the neutral one.
        where: The same in words, such as "own", for the label.
        against: "opposite" (the pair's second prompt) or "neutral" (the prompt that is steered), for concepts without an opposite.
        steps: Half-open window of denoising steps; None means every step. The paper leaves out the first ones.

    Returns:
        The method "free sliders" at these sites.

    Example:
        >>> pair = audioscope.datasets.concepts()["fast"].split("test")[0]
        >>> (edit,) = audioscope.steer.free_sliders_method().on(pair, 0.5, seed=0)
        >>> edit.prompt == pair.clean, edit.away == pair.corrupted, edit.amount
        (True, True, 0.5)
    """

    def edits(pair: Pair, strength: float, seed: int) -> list[Edit]:
        away = pair.corrupted if against == "opposite" else pair.neutral
        return [SlidePrediction(sites, pair.clean, away, strength, steps=steps)]

    choice("against", against, get_args(Against))
    return SteeringMethod(FREE_SLIDERS, where, edits, {"steps": steps, "against": against, **_at(sites)})


def _toward(pair: Pair, strength: float) -> str:
    """The prompt toward which a strength moves a neutral one."""
    return pair.clean if strength > 0 else pair.corrupted


def _at(sites: Any) -> dict[str, Any]:
    """What a method's metadata say of layers; nothing for all of them."""
    return (
        {}
        if isinstance(sites, str) and sites == "cross"
        else {"at": [str(site) if index_of(site) is None else index_of(site) for site in one_or_more(sites)]}
    )


def method_again(cell: str, metadata: Mapping[str, Any], vector: SteeringVector) -> SteeringMethod | None:
    """Rebuild a method of a finished sweep from the sweep's settings; None if it cannot be made from this vector.

    cell, metadata: a name in the settings' "methods" and its entry. vector: the vector of the sweep, at all its sites.
    """
    method, _, sites = cell.partition(" ")
    if method == REWRITTEN.method:
        return prompt_switch_method(metadata["steps"], metadata.get("at", "cross"), sites)
    if "numbers" not in metadata or not metadata.get("at") or not set(metadata["at"]) <= set(vector.paths):
        return None
    drawn = metadata["vector"].get("random")
    for each, memory in product((vector, vector.unit()), (True, False)):
        made = each.only(metadata["at"], memory=memory)
        made = made if drawn is None else made.random(drawn)
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
    """Make the methods of a fair comparison, with their positive and negative controls.

    They are the vector at the shared functional layers, and at the concept's own layers and at all layers, each also in natural
    lengths and, if the vector has a memory, without it; at three random sets of as many layers as its own; the prompt rewritten
    late (PCI), which must pass any criterion of steering; and those that must fail it: a random direction redrawn for each prompt
    and seed, a fixed random direction, and shuffled labels.

    Args:
        model: The model to steer.
        concept: What to steer toward.
        vector: Its vector at all cross-attention sites, made with normalize=False.
        shuffled: The same of shuffled labels; None leaves this control out.
        atlas: Tells which layers are functional and the concept's own; None means the shipped one.
        steps: Denoising steps of the runs to come; None means the model's default.

    Returns:
        The methods, for `steering_sweep`.

    Raises:
        ValueError: The atlas belongs to another model, has no functional layers or does not contain the concept, or the vector
            lacks sites.

    Example:
        >>> fast = audioscope.datasets.concepts()["fast"]
        >>> methods = audioscope.steer.standard_methods(model, fast, audioscope.datasets.vector("fast"))
        >>> [method.cell for method in methods][:4]
        ['caa shared', 'caa own', 'caa all', 'caa own, natural lengths']
    """
    of_kind("vector", vector, SteeringVector)
    if shuffled is not None:
        of_kind("shuffled", shuffled, SteeringVector)
    concept = choose_one(concept)
    shared, own = (steering_sites(model, concept, which, atlas) for which in ("functional", "own"))
    unit, seed = vector.unit(), crc32(concept.name.encode())
    controls = [
        random_direction_method(unit.only(own), RANDOM_DIRECTION.sites), _of(FIXED_DIRECTION, unit.only(own).random(seed)),
        *([_of(SHUFFLED_LABELS, shuffled.unit().only(own))] if shuffled is not None else []),
    ]  # fmt: skip
    music = unit.only(unit.paths, memory=False)
    without = [_of(OWN_MUSIC, music.only(own)), _of(ALL_MUSIC, music)] if has_memory(unit.directions) else []
    return [
        _of(SHARED, unit.only(shared)), _of(OWN, unit.only(own)), _of(ALL, unit),
        _of(OWN_NATURAL, vector.only(own)), _of(NATURAL, vector), *without, *random_layers_methods(unit, own, seed=seed), *controls,
        prompt_switch_method(model.sampling(steps=steps).steps),
    ]  # fmt: skip
