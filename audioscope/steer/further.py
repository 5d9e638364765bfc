"""The methods that TADA's benchmark compares, beside those of the standard sweep: each at a concept's own layers and at all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Unpack

from audioscope.atlas.atlas import Atlas
from audioscope.concepts import Concept
from audioscope.errors import as_path
from audioscope.model import Model
from audioscope.steer.caa import Against, caa, steering_sites
from audioscope.steer.cells import ALL, AUSTEER, OWN, PROBE, RANDOM_DIRECTION
from audioscope.steer.directions import probe_vector, sign_vector
from audioscope.steer.methods import (
    SteeringMethod,
    blend_text_method,
    free_sliders_method,
    prompt_switch_method,
    random_direction_method,
    vector_method,
)
from audioscope.steer.tokens import token_method
from audioscope.tracing import SamplingKeywords
from audioscope.workers import Workers


def further_methods(
    model: Model, concept: Concept, folder: str | Path, *, pairs: int | None = None, atlas: Atlas | None = None, workers: Workers = None,
    progress: bool = True, **sampling: Unpack[SamplingKeywords],
) -> list[SteeringMethod]:  # fmt: skip
    """Make the methods of TADA's benchmark that need no training, localized and everywhere, for one sweep (appendix; not Concept Sliders).

    They are CAA, probe directions, AUSteer (each localized version is made at its own layers, whose 256 best dimensions it takes), token
    embeddings (TokEmb), FreeSliders, text blending (TextEmb) and PCI, with a random direction as the control.

    Args:
        model: The model to steer.
        concept: What to steer toward.
        folder: Where the vectors are stored; they are read again if they were made with the same settings.
        pairs: How many pairs of split "build"; None is 50, or all if there are fewer.
        atlas: Tells which layers are the concept's own; None is the one that ships.
        workers: In how many processes, as for `audioscope.localize`.
        progress: Whether to show a progress bar.
        **sampling: `steps`, `guidance`, `seconds`, `negative_prompt`; the model's defaults if omitted.

    Returns:
        The methods, for `steering_sweep`.

    Raises:
        ValueError: The atlas belongs to another model or does not contain the concept.

    Example:
        >>> fast = audioscope.datasets.concepts()["fast"]
        >>> methods = audioscope.steer.further_methods(model, fast, "vectors", pairs=2, steps=2, progress=False)
        >>> [method.cell for method in methods if method.sites == "own"]
        ['caa own', 'probe own', 'austeer own', 'token embeddings own', 'free sliders own', 'text blend own', 'pci own', 'random direction own']
    """
    own = steering_sites(model, concept, "own", atlas)
    count = min(50, len(concept.split("build"))) if pairs is None else pairs
    mean = caa(
        model,
        concept,
        "cross",
        count,
        normalize=False,
        file=as_path(folder) / "vector",
        workers=workers,
        progress=progress,
        **sampling,
    ).unit()
    methods = [vector_method(mean.only(own), OWN.sites), vector_method(mean, ALL.sites)]
    probe = probe_vector(
        model, concept, "cross", count, file=as_path(folder) / "probe", workers=workers, progress=progress, **sampling
    )
    methods += [vector_method(probe.only(own), OWN.sites, PROBE), vector_method(probe, ALL.sites, PROBE)]
    for where, sites in ((OWN.sites, own), (ALL.sites, "cross")):
        signs = sign_vector(
            model,
            concept,
            sites,
            count,
            file=as_path(folder) / f"austeer-{where}",
            workers=workers,
            progress=progress,
            **sampling,
        )
        methods.append(vector_method(signs, where, AUSTEER))
    against: Against = "opposite" if concept.opposite else "neutral"
    steps = model.sampling(steps=sampling.get("steps")).steps
    for where, sites in ((OWN.sites, own), (ALL.sites, "cross")):
        methods += [
            token_method(model, concept, sites, where, count, against=against, **sampling),
            free_sliders_method(sites, where, against=against),
            blend_text_method(sites, where),
            prompt_switch_method(steps, sites, where),
        ]
    return [*methods, random_direction_method(mean.only(own), RANDOM_DIRECTION.sites)]
