"""Methods that steer with SAE features, for a sweep: vectors of features, and their control."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache, reduce
from operator import add
from typing import Any
from zlib import crc32

import pandas as pd

from audioscope.concepts import Concept, Pair
from audioscope.edits import Edit
from audioscope.model import Model
from audioscope.sae.sae import SAE
from audioscope.steer.cells import RANDOM_FEATURES, SAE_UNTUNED
from audioscope.steer.methods import SteeringMethod, prompt_switch_method, vector_method
from audioscope.steer.vectors import AddVector, SteeringVector


def random_features_method(
    saes: Iterable[SAE], concept: Concept, sites: str, features: int = 20, **keywords: Any
) -> SteeringMethod:
    """A control: vectors of as many random active features of each SAE, redrawn for each prompt and seed.

    keywords: those of `sae_vector`.
    """
    chosen = list(saes)

    @lru_cache(maxsize=2)  # all strengths of a prompt and seed share one
    def drawn(seed: int) -> SteeringVector:
        return reduce(add, (sae.vector(concept.name, features, random=seed % 2**31, **keywords) for sae in chosen))

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
    concept: Concept,
    saes: Iterable[SAE],
    everywhere: SteeringVector,
    features: int = 20,
    steps: int | None = None,
    **keywords: Any,
) -> list[SteeringMethod]:
    """Vectors of features in one setting, next to CAA at the same sites, random features, and PCI; see also `tuned_methods`.

    everywhere: a vector from `caa` that includes the sites of the SAEs. keywords: those of `sae_vector`.
    """
    chosen = list(saes)
    where = SAE_UNTUNED.sites
    vector = reduce(add, (sae.vector(concept.name, features, **keywords) for sae in chosen))
    return [
        vector_method(vector, where, SAE_UNTUNED.method), vector_method(everywhere.only(vector.paths), where),
        random_features_method(chosen, concept, where, features, **keywords), prompt_switch_method(model.sampling(steps=steps).steps),
    ]  # fmt: skip
