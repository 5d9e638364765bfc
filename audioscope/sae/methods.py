"""Methods that steer with SAE features, for a sweep: vectors of features, and their control."""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce
from operator import add
from typing import Any
from zlib import crc32

import pandas as pd

from audioscope.concepts import Concept, Pair, choose_one
from audioscope.edits import Edit
from audioscope.errors import all_of, of_kind
from audioscope.model import Model
from audioscope.sae.sae import SAE
from audioscope.steer.cells import RANDOM_FEATURES, SAE_UNTUNED
from audioscope.steer.methods import SteeringMethod, prompt_switch_method, vector_method
from audioscope.steer.vectors import AddVector, SteeringVector


def random_features_method(
    saes: Iterable[SAE], concept: str | Concept, sites: str, features: int = 20, **keywords: Any
) -> SteeringMethod:
    """Make a control for vectors of features: as many random active features of each SAE, redrawn for each prompt and seed.

    Args:
        saes: SAEs with scores, whose vectors are added.
        concept: The concept.
        sites: Where the method acts, in words, for the tables.
        features: The number of features at each noise level.
        **keywords: Those of `audioscope.sae.sae_vector` except random.

    Returns:
        The method "random features", for a sweep.

    Example:
        >>> sae = audioscope.datasets.sae("transformer.transformer_blocks.6.cross_attn")
        >>> audioscope.sae.random_features_method([sae], "fast", "layer 6").cell
        'random features layer 6'
    """
    chosen, concept = all_of("saes", saes, SAE), choose_one(concept)

    last: dict[int, SteeringVector] = {}  # all strengths of a prompt and seed share one; workers cannot be given an lru_cache

    def drawn(seed: int) -> SteeringVector:
        vector = last.get(seed)
        if vector is None:
            vector = reduce(add, (sae.vector(concept.name, features, random=seed % 2**31, **keywords) for sae in chosen))
            last.clear()
            last[seed] = vector
        return vector

    def edits(pair: Pair, strength: float, seed: int) -> list[Edit]:
        return [AddVector(drawn(seed), strength)]

    metadata = [
        {"site": sae.metadata["site"], "features": features, **keywords, "decoder": crc32(sae.decoder.numpy().tobytes()),
         "scores": crc32(pd.util.hash_pandas_object(sae.scores, index=False).to_numpy().tobytes())}
        for sae in chosen
    ]  # fmt: skip
    return SteeringMethod(RANDOM_FEATURES.method, sites, edits, {"saes": metadata})


def feature_methods(
    model: Model,
    concept: str | Concept,
    saes: Iterable[SAE],
    everywhere: SteeringVector,
    features: int = 20,
    steps: int | None = None,
    **keywords: Any,
) -> list[SteeringMethod]:
    """Make the methods of a sweep that compares vectors of features, in one setting, with CAA at the same sites and tokens.

    Random features (`audioscope.sae.random_features_method`) and PCI, which rewrites the prompt for the last steps, are the
    controls. `audioscope.sae.tuned_methods` tunes features and CAA instead.

    Args:
        model: The model to steer.
        concept: The concept.
        saes: SAEs with scores, whose vectors are added.
        everywhere: A vector from `audioscope.caa` that includes the sites of the SAEs.
        features: The number of features at each noise level.
        steps: Denoising steps of the sweep; None means the model's default.
        **keywords: Those of `audioscope.sae.sae_vector` except random.

    Returns:
        Four methods, of features, CAA, random features and PCI.

    Example:
        >>> sae = audioscope.datasets.sae("transformer.transformer_blocks.6.cross_attn")
        >>> methods = audioscope.sae.feature_methods(model, "fast", [sae], audioscope.datasets.vector("fast"))
        >>> [method.cell for method in methods]
        ['sae untuned', 'caa untuned', 'random features untuned', 'pci all']
    """
    of_kind("model", model, Model)
    of_kind("everywhere", everywhere, SteeringVector)
    chosen, concept = all_of("saes", saes, SAE), choose_one(concept)
    where = SAE_UNTUNED.sites
    vector = reduce(add, (sae.vector(concept.name, features, **keywords) for sae in chosen))
    return [
        vector_method(vector, where, SAE_UNTUNED.method), vector_method(everywhere.only(vector.paths, memory=False), where),
        random_features_method(chosen, concept, where, features, **keywords), prompt_switch_method(model.sampling(steps=steps).steps),
    ]  # fmt: skip
