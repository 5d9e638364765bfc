"""Steering vectors from an SAE's features: those that score best for a concept at each noise level."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Literal, get_args
from zlib import crc32

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from audioscope.errors import choice, of_kind, said, truth, whole, with_columns
from audioscope.sae.sae import SAE
from audioscope.steer.vectors import SteeringVector

Score = Literal["ratio", "difference", "d", "auroc"]  # columns of `audioscope.sae.score_features`
SCORES = get_args(Score)


def top_features(scores: pd.DataFrame, concept: str, count: int = 20, by: Score = "ratio") -> pd.DataFrame:
    """Pick the best features of a concept at each noise level, to look at or to steer with.

    Args:
        scores: A table of `audioscope.sae.score_features`, such as `sae.scores`.
        concept: A concept that it contains.
        count: The number of features at each noise level.
        by: The score to order by, "ratio", "difference", "d" or "auroc".

    Returns:
        The rows of the table for these features, from the first noise level to the last, and best first at each.

    Raises:
        ValueError: The table does not contain the concept, or `by` has another value.

    Example:
        >>> sae = audioscope.datasets.sae("transformer.transformer_blocks.6.cross_attn")
        >>> best = audioscope.sae.top_features(sae.scores, "fast", count=2)
        >>> best.groupby("sigma").size().tolist()  # 2 at each of the 10 noise levels
        [2, 2, 2, 2, 2, 2, 2, 2, 2, 2]
    """
    with_columns("scores", scores, ("concept", "sigma", "feature"), "score_features")
    mine = scores[scores["sigma"].notna() & (scores["concept"] == concept if isinstance(concept, str) else False)]
    if mine.empty:
        raise ValueError(
            f"The scores do not contain {said(concept)}: their concepts are {', '.join(scores['concept'].unique())}."
        )
    choice("by", by, tuple(SCORES))
    count = whole("count", count, 1)
    ordered = mine.sort_values([by, "feature"], ascending=[False, True], kind="stable")
    return (
        ordered.groupby("sigma", sort=False).head(count).sort_values("sigma", ascending=False, kind="stable", ignore_index=True)
    )


def sae_vector(
    sae: SAE,
    concept: str,
    features: int = 20,
    *,
    by: Score = "ratio",
    against: str | None = None,
    weighted: bool = False,
    random: int | None = None,
) -> SteeringVector:
    """Make a steering vector from an SAE: the sum of the directions of a concept's best features, at each noise level.

    This is section 4 of TADA. Directions have norm 1, as in `audioscope.caa`. Warns if the SAE fails its evaluation.

    Args:
        sae: An SAE with scores, noise levels and a site.
        concept: A concept that the scores contain.
        features: How many features at each level.
        by: The score that selects them, on the selection split: "ratio", "difference", "d" or "auroc".
        against: Another concept, such as the opposite, whose features are subtracted; None means none.
        weighted: Weight each feature by how much more active it is with the concept, instead of all equally.
        random: A control, drawn with this seed: the direction of each feature is replaced by that of another active feature, the
            same one wherever the feature occurs, so that what cancels or changes from level to level still does. None means the
            features themselves.

    Returns:
        The vector, at the SAE's site and noise levels.

    Raises:
        ValueError: The SAE lacks scores, noise levels or a site, the scores lack the concept or a noise level, `features` is out
            of range, or too few other features are left for the control.

    Example:
        >>> sae = audioscope.datasets.sae("transformer.transformer_blocks.6.cross_attn")
        >>> vector = audioscope.sae.sae_vector(sae, "fast", against="slow")
        >>> clip = model.generate("a jazz song", seed=0, steps=4, edits=[audioscope.AddVector(vector, 1.0)])
        >>> vector
        SteeringVector(fast against slow, tiny: 1 sites, 10 noise levels from 1 to 0.235, reliability not measured)
    """
    of_kind("sae", sae, SAE)
    weighted = truth("weighted", weighted)
    if sae.scores is None or sae.levels is None or "site" not in sae.metadata:
        raise ValueError(
            "This SAE lacks scores, noise levels or a site: train it on a TokenStream and set "
            "sae.scores = audioscope.sae.score_features(sae, model)."
        )
    features = whole("features", features, 1, sae.d_sae)
    names = [concept] if against is None else [concept, against]
    best = {name: top_features(sae.scores, name, features, by) for name in names}
    mine = sorted({int(f) for table in best.values() for f in table["feature"]})
    place = {f: f for f in mine}
    if random is not None:
        random = whole("random", random)
        others = sorted({int(f) for f in sae.scores["feature"]} - set(mine))
        if len(others) < len(mine):
            raise ValueError(
                f"The control needs {len(mine)} other active features to draw from, but there are only {len(others)}: use fewer "
                "features."
            )
        place = dict(zip(mine, np.random.default_rng(random).permutation(others).tolist(), strict=False))
    rows = _rows(sae, best[concept], place, weighted)
    if against is not None:
        rows = rows - _rows(sae, best[against], place, weighted)
    failed = sae.failed(sae.levels.sigmas.tolist())
    if failed:
        warnings.warn(f"{sae!r} fails the evaluation at noise levels {', '.join(f'{s:.3g}' for s in failed)}.", stacklevel=3)
    path = str(sae.metadata["site"])
    metadata = {
        "concept": concept, "against": against, "sae": crc32(sae.decoder.detach().cpu().numpy().tobytes()), "features": features, "by": by, "weighted": weighted,
        "random_features": random, "levels_passed": {f"{s:.6g}": s not in failed for s in sae.levels.sigmas.tolist()}, "branch": sae.metadata.get("branches"),
    }  # fmt: skip
    unit = torch.nn.functional.normalize(rows, dim=1)
    return SteeringVector(
        {path: unit}, {path: sae.levels.norms}, sae.levels.sigmas, sae.metadata["model"], sae.metadata["fingerprint"], metadata
    )


def _rows(sae: SAE, best: pd.DataFrame, place: Mapping[int, int], weighted: bool) -> Tensor:
    """The sum of decoder rows at each level, [levels, d_in]. place: feature -> the feature whose row is used for it."""
    assert sae.levels is not None
    found = []
    for sigma in sae.levels.sigmas.tolist():
        level = best[np.isclose(best["sigma"], sigma, rtol=1e-4)]
        if level.empty:
            raise ValueError(
                f"The SAE covers noise level {sigma:.4g}, but the scores do not: compute them with the steps that it was trained "
                "with."
            )
        rows = sae.decoder[torch.tensor([place[int(f)] for f in level["feature"]])]
        weights = torch.tensor(level["difference"].to_numpy(), dtype=torch.float32)
        found.append((rows * weights[:, None]).sum(0) if weighted else rows.sum(0))
    return torch.stack(found).detach()
